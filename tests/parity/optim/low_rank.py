"""Rules in subspaces of low rank: singular vectors are determined up to their sign, so that what a rule does with them must not depend on it."""
import numpy as np
import optax
import optax.contrib._galore as optax_galore
import pytorch_optimizer as po
import pytorch_optimizer.optimizer.utils.galore as po_galore
import torch
from optax import contrib

from .common import Case, jnp, optax_walk, tree_walk, turned_walk


class Wide:
    """A module whose f32 is f64."""

    def __init__(self, module):
        self.module, self.float32, self.float = module, module.float64, module.float64

    def __getattr__(self, name):
        return getattr(self.module, name)


optax_galore.jnp = Wide(jnp)
po_galore.torch = Wide(torch)


def split(params, **more):
    return [{"params": [p for p in params if p.ndim == 2], **more}, {"params": [p for p in params if p.ndim != 2]}]


def apollo(w, g, s, t, _, lr=0.01, b1=0.9, b2=0.999, eps=1e-6, rank=2, by="channel", scale=1.0, wd=0.1):
    """Zhu et al. 2024, algorithm 1, with the limiter of the authors' code."""
    c, new = lr * np.sqrt(1 - b2**t) / (1 - b1**t), {}
    for k in w:
        st = s.setdefault(k, {})
        left = w[k].ndim == 2 and w[k].shape[0] <= w[k].shape[1]
        d = g[k] if left or w[k].ndim != 2 else g[k].T
        r = d
        if w[k].ndim == 2:
            n = min(rank, *d.shape)
            p = np.sin((1.0 + np.arange(n * d.shape[0])) ** 2).reshape(n, -1) / np.sqrt(n)
            r = p @ d
        st["m"] = b1 * st.get("m", 0) + (1 - b1) * r
        st["v"] = b2 * st.get("v", 0) + (1 - b2) * r**2
        u = st["m"] / (np.sqrt(st["v"]) + eps)
        if w[k].ndim == 2:
            axis = 0 if by == "channel" else None
            e = d * np.sqrt(np.sum(u**2, axis)) / (np.sqrt(np.sum(r**2, axis)) + 1e-8)
            size = np.sqrt(np.sum(e**2))
            limiter = max(size / (st["last"] + 1e-8), 1.01) / 1.01 if t > 1 else 1.0
            st["last"] = size / limiter
            u = np.sqrt(scale) * e / limiter
        new[k] = w[k] - c * (u if left or w[k].ndim != 2 else u.T) - lr * wd * w[k]
    return new


def galore_smaller(w, g, s, t, _, lr=0.05, rank=2, mu=0.9, scale=0.25):
    """Zhao et al. 2024, algorithm 1, around momentum, with the smaller side projected."""
    new = {}
    for k in w:
        st = s.setdefault(k, {})
        if w[k].ndim != 2:
            st["b"] = mu * st.get("b", 0) + g[k]
            new[k] = w[k] - lr * st["b"]
            continue
        left = w[k].shape[0] <= w[k].shape[1]
        d = g[k] if left else g[k].T
        if t == 1:
            st["p"] = np.linalg.svd(d)[0][:, :rank]
        st["b"] = mu * st.get("b", 0) + st["p"].T @ d
        u = scale * st["p"] @ st["b"]
        new[k] = w[k] - lr * (u if left else u.T)
    return new


MINI = "(dims -> reshape(sin(((1 + iota(prod(dims)))^2) as f32), dims))"
CASES = [
    Case("galore", 'decoupled_weight_decay(galore(adam(lr = 0.01), rank = 2, every = 100, scale = 0.5, side = "larger"), rate = 0.001)',
         optax_walk(lambda: contrib.galore(0.01, 2, 100, 0.5, weight_decay=0.1)), "Optax contrib.galore(0.01, rank=2, update_proj_gap=100, scale=0.5, weight_decay=0.1), its SVD in f64",
         leaves="bchi", problem="bowl", tolerance=1e-8),
    Case("galore_refreshed", 'galore(sgd(lr = 0.05), rank = 2, every = 7, scale = 1.0, side = "larger")', optax_walk(lambda: contrib.galore(0.05, 2, 7, base_optimizer=optax.identity())),
         "Optax contrib.galore(0.05, rank=2, update_proj_gap=7, base_optimizer=identity()), its SVD in f64", leaves="achi", problem="bowl", tolerance=1e-8),
    Case("galore_smaller", "galore(sgd(lr = 0.05, momentum = 0.9), rank = 2)", tree_walk(galore_smaller), "the paper's algorithm 1 in NumPy", leaves="abchi", problem="bowl", tolerance=1e-8),
    Case("fira", "fira(lr = 0.01, rank = 2, scale = 0.5, weight_decay = 0.1)",
         turned_walk(lambda p: po.Fira(split(p, rank=2, update_proj_gap=200, scale=0.5, projection_type="std"), 0.01, weight_decay=0.1, foreach=False)),
         "pytorch_optimizer Fira(0.01, rank=2, scale=0.5, weight_decay=0.1), its SVD in f64", leaves="abchi", problem="bowl", tolerance=1e-8),
    Case("apollo", f"apollo(lr = 0.01, rank = 2, weight_decay = 0.1, draw = {MINI})", tree_walk(apollo), "the paper's algorithm 1 in NumPy", leaves="abchi"),
    Case("apollo_mini", f"apollo_mini(lr = 0.01, weight_decay = 0.1, draw = {MINI})", tree_walk(lambda *a: apollo(*a, rank=1, by="tensor", scale=128.0)),
         "the paper's algorithm 1 in NumPy, rank 1", leaves="abchi"),
    Case("conda", "conda(lr = 0.01, every = 10, weight_decay = 0.1)", turned_walk(lambda p: po.Conda(p, 0.01, update_proj_gap=10, weight_decay=0.1, foreach=False)),
         "pytorch_optimizer Conda(0.01, update_proj_gap=10, weight_decay=0.1), its SVD in f64", leaves="abchi", problem="bowl", tolerance=1e-8),
]
