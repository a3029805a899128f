"""Rules that take the gradient at the worst point near the weights; the package's norms are in f32."""
import numpy as np
import pytorch_optimizer as po
import torch

from .common import Case, torch_walk, tree_walk

MOMENTUM = dict(lr=0.05, momentum=0.9)


class Constant:
    """A schedule of rho that does not move."""

    def __init__(self, rho):
        self.rho = rho

    def step(self):
        return self.rho


def sam(make):
    return torch_walk(make, closure=True)


class Ready:
    """An optimizer that wants the gradient at the weights before its step, and a closure for the second one."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    def step(self, closure):
        closure()
        self.optimizer.step(closure)


class Pair:
    """GSAM, whose closure returns outputs too."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    def step(self, closure):
        self.optimizer.step(lambda: (None, closure()))


def gsam(**more):
    return sam(lambda p: Pair(po.GSAM(p, torch.optim.SGD(p, **MOMENTUM), torch.nn.Module(), Constant(0.3), alpha=0.4, foreach=False, **more)))


def bsam(w, g, s, t, problem, lr=0.1, n=100.0, b1=0.9, b2=0.99, wd=0.01, rho=0.05, damping=0.1):
    """Moellenhoff and Khan 2023, algorithm 1, on fixed draws."""
    m, v = s.setdefault("m", {k: np.zeros_like(x) for k, x in w.items()}), s.setdefault("s", {k: np.ones_like(x) for k, x in w.items()})
    z = {k: w[k] + np.sin((1.0 + np.arange(w[k].size)) ** 2).reshape(w[k].shape) / np.sqrt(n * v[k]) for k in w}
    h = problem.gradient(t - 1, z)
    k2 = problem.gradient(t - 1, {k: w[k] + rho * h[k] / v[k] for k in w})
    new = {}
    for k in w:
        m[k] = b1 * m[k] + (1 - b1) * (k2[k] + wd * w[k])
        new[k] = w[k] - lr * m[k] / v[k]
        v[k] = b2 * v[k] + (1 - b2) * (np.sqrt(v[k]) * np.abs(h[k]) + wd + damping)
    return new


INNER = "sgd(lr = 0.05, momentum = 0.9)"
CASES = [
    Case("sam", f"sam({INNER}, rho = 0.3)", sam(lambda p: Ready(po.SAM(p, torch.optim.SGD, rho=0.3, foreach=False, **MOMENTUM))), "pytorch_optimizer SAM(SGD(0.05, 0.9), rho=0.3)", problem="bowl",
         tolerance=1e-6),
    Case("asam", f"asam({INNER}, rho = 0.3)", sam(lambda p: Ready(po.SAM(p, torch.optim.SGD, rho=0.3, adaptive=True, foreach=False, **MOMENTUM))),
         "pytorch_optimizer SAM(SGD(0.05, 0.9), rho=0.3, adaptive=True)", problem="bowl", tolerance=1e-6),
    Case("gsam", f"gsam({INNER}, rho = 0.3)", gsam(), "pytorch_optimizer GSAM(SGD(0.05, 0.9), rho 0.3, alpha=0.4)", problem="bowl", tolerance=1e-6),
    Case("gsam_adaptive", f"gsam({INNER}, rho = 0.3, adaptive = true)", gsam(adaptive=True), "pytorch_optimizer GSAM(SGD(0.05, 0.9), rho 0.3, alpha=0.4, adaptive=True)", problem="bowl",
         tolerance=1e-6),
    Case("wsam", "wsam(sgd(lr = 0.05, momentum = 0.9), lr = 0.05, rho = 0.3, gamma = 0.8)",
         sam(lambda p: po.WSAM(torch.nn.Module(), p, torch.optim.SGD, rho=0.3, gamma=0.8, foreach=False, **MOMENTUM)), "pytorch_optimizer WSAM(SGD(0.05, 0.9), rho=0.3, gamma=0.8)",
         problem="bowl", tolerance=1e-6),
    Case("wsam_coupled", "wsam(sgd(lr = 0.05, momentum = 0.9), rho = 0.3, gamma = 0.6, decoupled = false)",
         sam(lambda p: po.WSAM(torch.nn.Module(), p, torch.optim.SGD, rho=0.3, gamma=0.6, decouple=False, foreach=False, **MOMENTUM)),
         "pytorch_optimizer WSAM(SGD(0.05, 0.9), rho=0.3, gamma=0.6, decouple=False)", problem="bowl", tolerance=1e-6),
    Case("looksam", f"looksam({INNER}, rho = 0.3, k = 4)", sam(lambda p: Ready(po.LookSAM(p, torch.optim.SGD, rho=0.3, k=4, foreach=False, **MOMENTUM))),
         "pytorch_optimizer LookSAM(SGD(0.05, 0.9), rho=0.3, k=4)", problem="bowl", tolerance=1e-6),
    Case("friendly_sam", f"friendly_sam({INNER}, rho = 0.3)", sam(lambda p: Ready(po.FriendlySAM(p, torch.optim.SGD, rho=0.3, foreach=False, **MOMENTUM))),
         "pytorch_optimizer FriendlySAM(SGD(0.05, 0.9), rho=0.3)", problem="bowl", tolerance=1e-6),
    Case("bsam", "bsam(lr = 0.1, examples = 100.0, beta2 = 0.99, weight_decay = 0.01, draw = (dims -> reshape(sin(((1 + iota(prod(dims)))^2) as f32), dims)))", tree_walk(bsam),
         "the paper's algorithm 1 in NumPy, on fixed draws", problem="bowl"),
]
