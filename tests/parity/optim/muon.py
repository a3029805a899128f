"""Muon and its relatives, on matrices, blocks and a convolution; the references orthogonalize in f64, where torch would round to bf16, except for `precision = "bf16"`."""
import numpy as np
import pytorch_optimizer as po
import pytorch_optimizer.optimizer.sso as po_sphere
import torch
import torch.optim._muon as torch_muon
from optax import contrib
from pytorch_optimizer.optimizer.utils.matrix import zero_power_via_newton_schulz_5

from .common import ALL, Case, optax_walk, torch_walk, tree_walk, turned_walk

# The iteration of pytorch_optimizer in f64.
zero_power_via_newton_schulz_5.__defaults__ = tuple(torch.float64 if d is torch.bfloat16 else d for d in zero_power_via_newton_schulz_5.__defaults__)


class InF64:
    """torch with f64 in the place of bf16, for the module of its Muon."""

    bfloat16 = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


class Both:
    """Muon of torch for matrices, AdamW for the rest."""

    def __init__(self, params, narrow=False, **more):
        torch_muon.torch = torch if narrow else InF64()
        self.parts = [torch.optim.Muon([p for p in params if p.ndim == 2], **more), torch.optim.AdamW([p for p in params if p.ndim < 2], 0.01, weight_decay=0)]

    def step(self):
        for part in self.parts:
            part.step()


def split(params, **more):
    return [{"params": [p for p in params if p.ndim > 1], "use_muon": True, **more}, {"params": [p for p in params if p.ndim < 2], "use_muon": False}]


def polar_like(x, steps=5):
    """The iteration in NumPy."""
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / max(np.sqrt(np.sum(x**2)), 1e-7)
    for _ in range(steps):
        a = x @ x.T
        x = 3.4445 * x + (-4.775 * a + 2.0315 * a @ a) @ x
    return x.T if tall else x


def adago_paper(w, g, s, t, _, lr=0.05, mu=0.95, gamma=2.0, eps=5e-4):
    """Zhang, Liu and Schaeffer 2025, algorithm 2."""
    b, q, new = s.setdefault("b", {}), s.setdefault("q", {}), {}
    for k in w:
        b[k] = mu * b.get(k, 0) + (1 - mu) * g[k]
        size = np.sqrt(np.sum(g[k] ** 2))
        q[k] = q.get(k, 1e-6) + min(size, gamma) ** 2
        rows, columns = w[k].size // w[k].shape[-1], w[k].shape[-1]
        u = polar_like(b[k].reshape(rows, columns)).reshape(w[k].shape)
        new[k] = w[k] - max(lr * max(1, columns / rows) ** 0.5 * min(size, gamma) / np.sqrt(q[k]), eps) * u
    return new


def dion(w, g, s, t, _, lr=0.01, mu=0.95, wd=0.1, rank=3):
    """Ahn et al. 2025, algorithm 1, with weights of out x in as there."""
    b, q, new = s.setdefault("b", {}), s.setdefault("q", {}), {}
    for k in w:
        x = w[k].reshape(-1, w[k].shape[-1]).T
        m, n = x.shape
        r = min(rank, m, n)
        if k not in q:
            b[k] = np.zeros((m, n))
            q[k] = np.sin((1.0 + np.arange(n * r)) ** 2).reshape(n, r)
        bk = b[k] + g[k].reshape(-1, w[k].shape[-1]).T
        p = np.linalg.qr(bk @ q[k])[0]
        c = bk.T @ p
        b[k] = bk - (1 - mu) * p @ c.T
        q[k] = c / (np.sqrt(np.sum(c**2, 0)) + 1e-8)
        new[k] = (x - lr * (np.sqrt(m / n) * p @ q[k].T + wd * x)).T.reshape(w[k].shape)
    return new


def clipped(w, g, s, t, _):
    return {k: (w[k] - 0.1 * g[k]) * (50 / max(50 + 10 * t, 50)) ** 0.3 for k in w}


class Wide(InF64):
    """torch with f64 in the place of f32 and bf16."""

    float32 = torch.float64


po_sphere.torch = Wide()

MATRICES = "adfhi"
# Everything is rounded to 8 bits in another order: torch is 1.7e-3 from its own form in f64, ours 2.5e-3 from torch; one pass more or less moves weights by 5e-2.
IN_BF16 = 5e-3
CASES = [
    Case("muon", "muon(lr = 0.02, weight_decay = 0.1, adam_lr = 0.01)", turned_walk(lambda p: Both(p, lr=0.02, weight_decay=0.1)), "torch Muon(0.02, weight_decay=0.1) and AdamW(0.01)",
         leaves="abcehi"),
    Case("muon_plain", 'muon(lr = 0.02, momentum = 0.8, nesterov = false, scale = "match_rms_adamw", adam_lr = 0.01)',
         turned_walk(lambda p: Both(p, lr=0.02, momentum=0.8, nesterov=False, weight_decay=0, adjust_lr_fn="match_rms_adamw")),
         "torch Muon(0.02, momentum=0.8, nesterov=False, adjust_lr_fn='match_rms_adamw')", leaves="abcehi"),
    Case("muon_spectral", 'muon(lr = 0.02, scale = "spectral", ns_steps = 7, adam_lr = 0.01)',
         turned_walk(lambda p: Both(p, lr=0.02, weight_decay=0, adjust_lr_fn="spectral_unclamped", ns_steps=7)), "torch Muon(0.02, ns_steps=7, adjust_lr_fn='spectral_unclamped')",
         leaves="abcehi"),
    Case("muon_bf16", 'muon(lr = 0.02, weight_decay = 0.1, adam_lr = 0.01, precision = "bf16")', turned_walk(lambda p: Both(p, narrow=True, lr=0.02, weight_decay=0.1)),
         "torch Muon(0.02, weight_decay=0.1) in bf16 and AdamW(0.01)", leaves="abcehi", tolerance=IN_BF16),
    Case("muon_blocks", "muon(lr = 0.02, weight_decay = 0.1, adam_lr = 3e-4, adam_eps = 1e-10, adam_beta2 = 0.95)",
         turned_walk(lambda p: po.Muon(split(p), 0.02, weight_decay=0.1, adamw_betas=(0.9, 0.95), foreach=False)), "pytorch_optimizer Muon(0.02, weight_decay=0.1)", leaves=ALL),
    Case("muon_optax", 'muon(lr = 0.02, weight_decay = 0.1, eps = 1e-8, variant = "optax")', optax_walk(lambda: contrib.muon(0.02, weight_decay=0.1)),
         "Optax contrib.muon(0.02, weight_decay=0.1)", leaves=ALL),
    Case("muon_optax_rms", 'muon(lr = 0.02, nesterov = false, eps = 1e-8, scale = "match_rms_adamw", adam_lr = 0.01, variant = "optax")',
         optax_walk(lambda: contrib.muon(0.02, nesterov=False, consistent_rms=0.2, adam_learning_rate=0.01)), "Optax contrib.muon(0.02, nesterov=False, consistent_rms=0.2)", leaves=ALL),
    Case("adamuon", "adamuon(lr = 0.02, weight_decay = 0.1)", turned_walk(lambda p: po.AdaMuon(split(p), 0.02, weight_decay=0.1)), "pytorch_optimizer AdaMuon(0.02, weight_decay=0.1)",
         leaves=ALL),
    Case("normuon", "normuon(lr = 0.02, weight_decay = 0.1)", turned_walk(lambda p: po.NorMuon(split(p), 0.02, weight_decay=0.1, foreach=False)),
         "pytorch_optimizer NorMuon(0.02, weight_decay=0.1)", leaves=ALL),
    Case("normuon_rms", "normuon(lr = 0.02, nesterov = false, keep_norm = false)", turned_walk(lambda p: po.NorMuon(split(p), 0.02, nesterov=False, update_scale="match_rms", foreach=False)),
         "pytorch_optimizer NorMuon(0.02, nesterov=False, update_scale='match_rms')", leaves=ALL),
    Case("adago", 'adago(lr = 0.05, gamma = 2.0, weight_decay = 0.1, variant = "pytorch_optimizer")', turned_walk(lambda p: po.AdaGO(split(p), 0.05, gamma=2.0, weight_decay=0.1, foreach=False)),
         "pytorch_optimizer AdaGO(0.05, gamma=2, weight_decay=0.1)", leaves=ALL),
    Case("adago_nesterov", 'adago(lr = 0.05, gamma = 2.0, nesterov = true, variant = "pytorch_optimizer")',
         turned_walk(lambda p: po.AdaGO(split(p), 0.05, gamma=2.0, nesterov=True, foreach=False)), "pytorch_optimizer AdaGO(0.05, gamma=2, nesterov=True)", leaves=ALL),
    Case("adago_paper", "adago(lr = 0.05, gamma = 2.0)", tree_walk(adago_paper), "the paper's algorithm 2 in NumPy", leaves=MATRICES),
    Case("scion", "scion(lr = 0.01, scale = 3.0, weight_decay = 0.1)", turned_walk(lambda p: po.SCION(p, 0.01, scale=3.0, weight_decay=0.1)),
         "pytorch_optimizer SCION(0.01, scale=3, weight_decay=0.1)", leaves="abcdefhi"),
    Case("scion_constrained", 'scion(lr = 0.01, momentum = 0.3, scale = 3.0, constraint = true, norm = "sign")',
         turned_walk(lambda p: po.SCION(p, 0.01, momentum=0.3, scale=3.0, constraint=True, norm_type=4)), "pytorch_optimizer SCION(0.01, momentum=0.3, scale=3, constraint=True, norm_type=SIGN)",
         leaves="ahi", signs=0.01),
    Case("scion_input", 'scion(lr = 0.01, norm = "input")', turned_walk(lambda p: po.SCION(p, 0.01, norm_type=6, norm_kwargs=dict(normalized=True))),
         "pytorch_optimizer SCION(0.01, norm_type=COL, normalized)", leaves="ahi"),
    Case("scion_output", 'scion(lr = 0.01, norm = "output")', turned_walk(lambda p: po.SCION(p, 0.01, norm_type=7, norm_kwargs=dict(normalized=True))),
         "pytorch_optimizer SCION(0.01, norm_type=ROW, normalized)", leaves="ahi"),
    Case("dion", "dion(lr = 0.01, rank = 3, weight_decay = 0.1, start = (dims -> reshape(sin(((1 + iota(prod(dims)))^2) as f32), dims)))", tree_walk(dion), "the paper's algorithm 1 in NumPy",
         leaves=MATRICES, problem="bowl"),
    Case("qk_clip", "sgd(lr = 0.1) |> qk_clip(value = 60.0 + 10 * step, threshold = 50.0, exponent = 0.3)", tree_walk(clipped), "the paper's factor in NumPy"),
    Case("spectral_sphere", "spectral_sphere(lr = 0.01, weight_decay = 0.1)", turned_walk(lambda p: po.SpectralSphere(p, 0.01, weight_decay=0.1, foreach=False)),
         "pytorch_optimizer SpectralSphere(0.01, weight_decay=0.1)", leaves="ahi", tolerance=1e-7),
]
