"""Rules that use the diagonal of the Hessian: on losses whose Hessian is diagonal their random estimate is exact."""
import numpy as np
import pytorch_optimizer as po
import torch
from optax import contrib

import jax
import optax

from .common import ALL, STEPS, Case, leaf_walk


def sophia_optax(problem):
    """Optax's Sophia with `obj_fn`."""
    tx = contrib.sophia(0.05, gamma=0.05, update_interval=4, weight_decay=0.1)
    params = {k: jax.numpy.asarray(v) for k, v in problem.start.items()}
    state, rows = tx.init(params), []
    for k in range(STEPS):
        updates, state = tx.update(problem.gradient(k, params), state, params, obj_fn=lambda p, k=k: problem.loss(k, p))
        params = optax.apply_updates(params, updates)
        rows.append({n: np.asarray(v) for n, v in params.items()})
    return rows


def given_hessian(make, interval):
    """The walk of a torch optimizer that is given the Hessian's diagonal every `interval` steps."""

    def walk(problem):
        names = list(problem.leaves)
        params = [torch.nn.Parameter(torch.from_numpy(np.array(problem.start[k]))) for k in names]
        optimizer, rows = make(params), []
        for k in range(STEPS):
            for p, g in zip(params, problem.gradient(k, {n: p.detach() for n, p in zip(names, params)}).values()):
                p.grad = g.clone()
            optimizer.step(hessian=[torch.from_numpy(np.array(problem.curvature[n])) for n in names] if k % interval == 0 else None)
            rows.append({n: p.detach().numpy().copy() for n, p in zip(names, params)})
        return rows

    return walk


def adahessian_blocks(problem, block=4, lr=0.1, b1=0.9, b2=0.999):
    """Yao et al. 2020, algorithm 1 with spatial averaging over runs of the last axis."""

    def rule(key):
        h = np.abs(problem.curvature[key])
        if h.ndim and h.shape[-1] % block == 0:
            h = np.repeat(h.reshape(*h.shape[:-1], -1, block).mean(-1), block, axis=-1)

        def step(w, g, s, t):
            s["m"] = b1 * s.get("m", 0) + (1 - b1) * g
            s["v"] = b2 * s.get("v", 0) + (1 - b2) * h**2
            return w - lr * s["m"] / (1 - b1**t) / np.sqrt(s["v"] / (1 - b2**t))

        return step

    states, w, rows = {k: {} for k in problem.leaves}, dict(problem.start), []
    for k in range(STEPS):
        g = problem.gradient(k, w)
        w = {n: np.asarray(rule(n)(w[n], g[n], states[n], k + 1)) for n in w}
        rows.append(dict(w))
    return rows


def empirical_fisher(w, g, s, t, lr=0.01, b1=0.965, b2=0.99, gamma=0.05, batch=8):
    h = s.get("h", np.zeros_like(w))
    s["m"] = b1 * s.get("m", 0) + (1 - b1) * g
    if (t - 1) % 4 == 0:
        s["h"] = b2 * h + (1 - b2) * batch * g**2
    return w - lr * np.clip(s["m"] / (1 - b1**t) / np.maximum(gamma * h, 1e-8), -1, 1)


CASES = [
    Case("sophia", "sophia(lr = 0.05, gamma = 0.05, interval = 4, weight_decay = 0.1)", sophia_optax, "Optax contrib.sophia(0.05, gamma=0.05, update_interval=4, weight_decay=0.1)",
         problem="bowl"),
    Case("sophia_torch", 'sophia(lr = 0.05, beta1 = 0.96, gamma = 1.0, eps = 1e-12, limit = 0.5, interval = 3, weight_decay = 0.1, variant = "pytorch_optimizer")',
         given_hessian(lambda p: po.SophiaH(p, 0.05, betas=(0.96, 0.99), p=0.5, update_period=3, eps=1e-12, weight_decay=0.1, foreach=False), 3),
         "pytorch_optimizer SophiaH(0.05, p=0.5, update_period=3, weight_decay=0.1)", problem="bowl"),
    Case("sophia_fisher", 'sophia(lr = 0.01, gamma = 0.05, interval = 4, weight_decay = 0, estimate = "empirical_fisher", batch = 8)', leaf_walk(empirical_fisher),
         "the paper's algorithm 3 with the square of the gradient, in NumPy", problem="bowl"),
    Case("adahessian", "adahessian(lr = 0.1, power = 0.7, interval = 3, weight_decay = 0.1)",
         given_hessian(lambda p: po.AdaHessian(p, 0.1, hessian_power=0.7, update_period=3, weight_decay=0.1, weight_decouple=True, foreach=False), 3),
         "pytorch_optimizer AdaHessian(0.1, hessian_power=0.7, update_period=3, weight_decay=0.1)", problem="bowl"),
    Case("adahessian_blocks", "adahessian(lr = 0.1, block = 4)", adahessian_blocks, "the paper's algorithm 1 in NumPy, averages over 4 elements", leaves=ALL, problem="bowl"),
]
