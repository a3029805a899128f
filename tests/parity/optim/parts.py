"""Stages in front of a rule, and wrappers around one."""
import numpy as np
import optax
import pytorch_optimizer as po
import torch
from pytorch_optimizer.optimizer.agc import agc
from pytorch_optimizer.optimizer.gradient_centralization import centralize_gradient
from pytorch_optimizer.optimizer.grokfast import gradfilter_ema, gradfilter_ma
from pytorch_optimizer.optimizer.utils.matrix import zero_power_via_newton_schulz_5
from scipy.fft import dctn, idctn
from scipy.special import erfi

from .common import ALL, SMALL, Case, leaf_walk, optax_walk, torch_walk, tree_walk, turned_walk, wide

zero_power_via_newton_schulz_5.__defaults__ = tuple(torch.float64 if d is torch.bfloat16 else d for d in zero_power_via_newton_schulz_5.__defaults__)


class Before:
    """A torch optimizer behind something that changes the gradients of its parameters."""

    def __init__(self, params, change, optimizer):
        self.params, self.change, self.optimizer = params, change, optimizer

    def step(self):
        self.change(self.params)
        self.optimizer.step()


def each(change):
    def run(params):
        for p in params:
            p.grad = change(p.data, p.grad)

    return run


def centralized(p, g):
    g = g.clone()
    centralize_gradient(g)
    return g


class Named:
    """What the filters of Grokfast want of a model."""

    def __init__(self, params):
        self.params = params

    def named_parameters(self):
        return [(str(i), p) for i, p in enumerate(self.params)]


class Filter:
    def __init__(self, filter, **more):
        self.filter, self.more, self.grads = filter, more, None

    def __call__(self, params):
        self.grads = self.filter(Named(params), grads=self.grads, **self.more)


def cautious_torch(like):
    """Adam's step, masked as in timm or in the authors' code, in NumPy."""

    def rule(w, g, s, t, lr=0.01, b1=0.9, b2=0.999, eps=1e-8):
        s["m"] = b1 * s.get("m", 0) + (1 - b1) * g
        s["v"] = b2 * s.get("v", 0) + (1 - b2) * g**2
        u = s["m"] / (1 - b1**t) / (np.sqrt(s["v"] / (1 - b2**t)) + eps)
        mask = (u * g > 0).astype(float)
        mask = mask / max(mask.mean(), 1e-3) if like == "timm" else mask * (mask.size / (mask.sum() + 1))
        return w - lr * mask * u

    return leaf_walk(rule)


def decayed(kind):
    """Momentum beside a decay of its own, in NumPy."""

    def rule(w, g, s, t, rate=0.01):
        s["b"] = 0.9 * s.get("b", 0) + g
        u = 0.01 * s["b"]
        if kind == "cautious":
            return w - u - rate * np.where(u * w >= 0, w, 0)
        axes = tuple(range(w.ndim - 1)) if w.ndim > 1 else tuple(range(w.ndim))
        size = np.sqrt(np.sum(w**2, axis=axes, keepdims=True))
        return w - u - 2 * rate * (1 - 1 / (size + 1e-8)) * w

    return leaf_walk(rule)


def adamc(problem):
    """AdamC of pytorch_optimizer on normalized layers, with its rate set before each step."""
    count = iter(range(50))

    class Scheduled:
        def __init__(self, params):
            self.optimizer = po.AdamC([{"params": params, "normalized": True}], 0.01, weight_decay=0.1, foreach=False)
            self.optimizer.max_lr = 0.01

        def step(self):
            self.optimizer.param_groups[0]["lr"] = 0.01 * 0.5 * (1 + np.cos(np.pi * next(count) / 50))
            self.optimizer.step()

    return torch_walk(Scheduled)(problem)


def trac(w, g, s, t, _, lr=0.1, initial=1e-3, eps=1e-8):
    """Muppidi, Zhang and Yang 2024, algorithms 1 and 2, around gradient descent."""
    p0 = s.setdefault("p0", dict(w))
    b = 1 - 0.1 ** np.arange(1, 7)
    v, sigma, total = s.get("v", np.zeros(6)), s.get("sigma", np.full(6, 1e-8)), s.get("total", 0.0)
    e = {k: (w[k] - p0[k]) / (total + eps) for k in w}
    h = sum(np.sum(e[k] * g[k]) for k in w)
    v, sigma = b**2 * v + h**2, b * sigma - h
    total = np.sum(initial / erfi(1 / np.sqrt(2)) * erfi(sigma / (np.sqrt(2 * v) + eps)))
    s["v"], s["sigma"], s["total"] = v, sigma, total
    return {k: p0[k] + max(total, 0) * (e[k] - lr * g[k]) for k in w}


def diloco(w, g, s, t, lr=0.1, outer=0.7, mu=0.9):
    """Douillard et al. 2023, algorithm 1 with one worker: gradient descent, and Nesterov's momentum every 7 steps."""
    a = s.setdefault("a", w)
    w = w - lr * g
    if t % 7 == 0:
        d = a - w
        s["b"] = mu * s.get("b", 0) + d
        s["a"] = w = a - outer * (d + mu * s["b"])
    return w


def demo(w, g, s, t, lr=0.01, decay=0.9, keep=3, chunk=3, wd=0.1):
    """Peng, Quesnelle and Kingma 2024, algorithm 1 on one worker, with SciPy's transform."""
    m = decay * s.get("m", np.zeros_like(w)) + lr * g
    x = m.reshape(-1, w.shape[-1]) if w.ndim else m.reshape(1, 1)
    h, l = (max(d for d in range(1, n + 1) if n % d == 0 and d <= chunk) for n in x.shape)
    back = np.zeros_like(x)
    for i in range(0, x.shape[0], h):
        for j in range(0, x.shape[1], l):
            y = dctn(x[i : i + h, j : j + l], norm="ortho")
            least = np.sort(np.abs(y).reshape(-1))[-min(keep, y.size)]
            back[i : i + h, j : j + l] = idctn(np.where(np.abs(y) >= least, y, 0), norm="ortho")
    back = back.reshape(w.shape)
    s["m"] = m - back
    return (1 - lr * wd) * w - lr * np.sign(back)


def top_k(w, g, s, t, share=0.3, lr=0.05):
    """Stich, Cordonnier and Jaggi 2018, algorithm 1."""
    d = s.get("e", 0) + lr * g
    k = max(int(np.ceil(share * w.size)), 1)
    u = np.where(np.abs(d) >= np.sort(np.abs(d).reshape(-1))[-k], d, 0)
    s["e"] = d - u
    return w - u


def ef_sign(w, g, s, t, lr=0.05, wd=0.1):
    """Karimireddy et al. 2019, algorithm 1."""
    d = lr * g + s.get("e", 0)
    u = np.mean(np.abs(d)) * np.sign(d)
    s["e"] = d - u
    return w - u - lr * wd * w


def bcos(w, g, s, t, lr=0.01, beta=0.9, eps=1e-6, wd=0.1):
    """Jiang and Xiao 2025, the estimator of the square of the momentum to come, from the one before."""
    m = s.get("m", g)
    v = (1 - (1 - beta) ** 2) * m**2 + (1 - beta) ** 2 * g**2
    s["m"] = beta * m + (1 - beta) * g
    return (1 - lr * wd) * w - lr * s["m"] / (np.sqrt(v) + eps)


class WithLoss:
    """An optimizer that wants a closure and the gradients before it."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    def step(self, closure):
        closure()
        self.optimizer.step(closure)


def alig(**more):
    return wide(torch_walk(lambda p: WithLoss(po.AliG(p, max_lr=0.05, **more)), closure=True))


def mars(kind, **more):
    return wide(turned_walk(lambda p: po.MARS(p, 0.01, mars_type=kind, weight_decay=0.05, lr_1d_factor=0.5, eps=1e-12, foreach=False, **more)))


CASES = [
    Case("agc", "adaptive_grad_clip(0.05) |> sgd(lr = 0.1)", optax_walk(lambda: optax.chain(optax.adaptive_grad_clip(0.05), optax.sgd(0.1))), "Optax adaptive_grad_clip(0.05), sgd(0.1)",
         leaves="abcefhi"),
    Case("agc_torch", "adaptive_grad_clip(0.05, eps = 0.1) |> sgd(lr = 0.1)", turned_walk(lambda p: Before(p, each(lambda p, g: agc(p, g, 0.1, 0.05)), torch.optim.SGD(p, 0.1))),
         "pytorch_optimizer agc(agc_clip_val=0.05)", leaves="abcefhi"),
    Case("centralize", "centralize() |> sgd(lr = 0.1)", turned_walk(lambda p: Before(p, each(centralized), torch.optim.SGD(p, 0.1))), "pytorch_optimizer centralize_gradient", leaves=ALL),
    Case("centralize_first", "centralize(channel = 0) |> sgd(lr = 0.1)", optax_walk(lambda: optax.chain(optax.centralize(), optax.sgd(0.1))), "Optax centralize(), sgd(0.1)", leaves=ALL),
    Case("grokfast", "grokfast(alpha = 0.9, strength = 3.0) |> sgd(lr = 0.02, momentum = 0.9)",
         torch_walk(lambda p: Before(p, Filter(gradfilter_ema, alpha=0.9, lamb=3.0), torch.optim.SGD(p, 0.02, 0.9))), "pytorch_optimizer gradfilter_ema(alpha=0.9, lamb=3)"),
    Case("grokfast_window", "grokfast_window(window = 7, strength = 3.0) |> sgd(lr = 0.02)",
         torch_walk(lambda p: Before(p, Filter(gradfilter_ma, window_size=7, lamb=3.0), torch.optim.SGD(p, 0.02))), "pytorch_optimizer gradfilter_ma(window_size=7, lamb=3)"),
    Case("grokfast_window_early", "grokfast_window(window = 7, strength = 3.0, warmup = false) |> sgd(lr = 0.02)",
         torch_walk(lambda p: Before(p, Filter(gradfilter_ma, window_size=7, lamb=3.0, warmup=False), torch.optim.SGD(p, 0.02))),
         "pytorch_optimizer gradfilter_ma(window_size=7, lamb=3, warmup=False)"),
    Case("orthograd", "orthograd() |> sgd(lr = 0.1)", torch_walk(lambda p: po.OrthoGrad(torch.optim.SGD(p, 0.1))), "pytorch_optimizer OrthoGrad(SGD(0.1))", leaves="abdhi"),
    Case("cautious_adam", "cautious(adam(lr = 0.01))", cautious_torch("authors"), "the authors' mask in NumPy"),
    Case("cautious_timm", 'cautious(adam(lr = 0.01), variant = "timm")', cautious_torch("timm"), "timm's mask in NumPy"),
    Case("cautious_lion", "cautious(lion(lr = 0.01))", torch_walk(lambda p: po.Lion(p, 0.01, weight_decay=0.0, cautious=True, foreach=False)), "pytorch_optimizer Lion(0.01, cautious=True)",
         signs=0.01),
    Case("decay_cautious", 'decoupled_weight_decay(sgd(lr = 0.01, momentum = 0.9), rate = 0.01, kind = "cautious")', decayed("cautious"), "the paper's rule in NumPy"),
    Case("decay_norm", 'decoupled_weight_decay(sgd(lr = 0.01, momentum = 0.9), rate = 0.01, kind = "norm")', decayed("norm"), "Ranger21's norm loss in NumPy", leaves=ALL),
    Case("decay_plain", "decoupled_weight_decay(adam(lr = cosine(peak = 0.01, total = 50)), rate = 0.1 * cosine(peak = 0.01, total = 50))",
         optax_walk(lambda: optax.adamw(optax.cosine_decay_schedule(0.01, 50), weight_decay=0.1)), "Optax adamw(cosine_decay_schedule(0.01, 50), weight_decay=0.1)"),
    Case("adamc", "adamc(lr = cosine(peak = 0.01, total = 50), peak = 0.01, weight_decay = 0.1)", adamc,
         "pytorch_optimizer AdamC(0.01, weight_decay=0.1), normalized; it adds 1e-15 under the root", tolerance=1e-5),
    Case("mars", "mars(lr = 0.01, eps = 1e-12, weight_decay = 0.05, vector_factor = 0.5)", mars("adamw"),
         "pytorch_optimizer MARS(0.01, weight_decay=0.05), eps 1e-12; it adds 1e-15 under the root", leaves=ALL, problem="bowl", tolerance=2e-5),
    Case("mars_lion", 'mars(lr = 0.01, base = "lion", eps = 1e-12, weight_decay = 0.05, vector_factor = 0.5)', mars("lion"),
         "pytorch_optimizer MARS(0.01, mars_type='lion', weight_decay=0.05), eps 1e-12", leaves=ALL, problem="bowl", tolerance=1e-7, signs=0.01),
    Case("mars_shampoo", 'mars(lr = 0.01, base = "shampoo", eps = 1e-12, weight_decay = 0.05, vector_factor = 0.5)', mars("shampoo"),
         "pytorch_optimizer MARS(0.01, mars_type='shampoo', weight_decay=0.05), eps 1e-12", leaves="abchi", problem="bowl", tolerance=1e-7),
    Case("trac", "trac(sgd(lr = 0.1), initial = 1e-3)", tree_walk(trac), "the paper's algorithms 1 and 2 in NumPy with SciPy's erfi", problem="bowl"),
    Case("trac_torch", "trac(sgd(lr = 0.1), initial = 1e-3)", wide(torch_walk(lambda p: po.TRAC(torch.optim.SGD(p, 0.1), s_prev=1e-3))),
         "pytorch_optimizer TRAC(SGD(0.1), s_prev=1e-3), whose erfi is approximate", leaves="abcd", problem="bowl", tolerance=1e-4),
    Case("magma", "magma(adam(lr = 0.01), keep = 1.0)", torch_walk(lambda p: po.Magma(torch.optim.Adam(p, 0.01), mask_prob=1.0, moment_key=None)),
         "pytorch_optimizer Magma(Adam(0.01), mask_prob=1), whose alignment is in f32", tolerance=1e-6),
    Case("diloco", "diloco(sgd(lr = 0.1), sgd(lr = 0.7, momentum = 0.9, nesterov = true), k = 7)", leaf_walk(diloco), "the paper's algorithm 1 in NumPy", problem="bowl"),
    Case("demo", "demo(lr = 0.01, decay = 0.9, keep = 3, chunk = 3, weight_decay = 0.1)", leaf_walk(demo), "the paper's algorithm 1 in NumPy with SciPy's transform", leaves=ALL, problem="bowl",
         signs=0.01),
    Case("ranger21", "ranger21(lr = 0.01, limit = 0.3, weight_decay = 0.1, norm_pull = 0.1)",
         turned_walk(lambda p: po.Ranger21(p, num_iterations=50, lr=0.01, disable_lr_scheduler=True, agc_clipping_value=0.3, weight_decay=0.1, norm_loss_factor=0.1, foreach=False)),
         "pytorch_optimizer Ranger21(lr=0.01, disable_lr_scheduler=True, agc_clipping_value=0.3, weight_decay=0.1, norm_loss_factor=0.1)", leaves="abcefhi", problem="bowl", tolerance=1e-8),
    Case("top_k_gradient", "top_k_gradient(0.3) |> sgd(lr = 0.05)", leaf_walk(top_k), "the paper's algorithm 1 in NumPy", leaves=ALL, problem="bowl"),
    Case("ef_sign_sgd", "ef_sign_sgd(lr = 0.05, weight_decay = 0.1)", leaf_walk(ef_sign), "the paper's algorithm 1 in NumPy", leaves=ALL, problem="bowl"),
    Case("bcos", "bcos(lr = 0.01)", leaf_walk(bcos), "the paper's conditional estimator in NumPy"),
    Case("bcos_gradient", 'bcos(lr = 0.01, mode = "g", weight_decay = 0.05)', torch_walk(lambda p: po.BCOS(p, 0.01, mode="g", weight_decay=0.05, foreach=False)),
         "pytorch_optimizer BCOS(0.01, mode='g', weight_decay=0.05)"),
    Case("bcos_momentum", 'bcos(lr = 0.01, mode = "m", beta2 = 0.99)', torch_walk(lambda p: po.BCOS(p, 0.01, mode="m", beta2=0.99, foreach=False)),
         "pytorch_optimizer BCOS(0.01, mode='m', beta2=0.99)"),
    Case("alig", "alig(max_lr = 0.05, momentum = 0.8)", alig(momentum=0.8), "pytorch_optimizer AliG(max_lr=0.05, momentum=0.8)", problem="bowl", tolerance=1e-6),
    Case("alig_adjusted", "alig(max_lr = 0.05, momentum = 0.8, adjusted = true)", alig(momentum=0.8, adjusted_momentum=True),
         "pytorch_optimizer AliG(max_lr=0.05, momentum=0.8, adjusted_momentum=True)", problem="bowl", tolerance=1e-6),
]
