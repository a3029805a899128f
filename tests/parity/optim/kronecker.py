"""Rules with a matrix for each axis: Shampoo, SOAP, PSGD."""
import numpy as np
import pytorch_optimizer as po
import pytorch_optimizer.optimizer.psgd as po_psgd
import pytorch_optimizer.optimizer.soap as po_soap
import torch

from .common import Case, torch_walk, tree_walk


class Wide:
    """torch with f64 in the place of f32, and fixed numbers in the place of random ones."""

    float32 = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)

    @staticmethod
    def randn_like(x, dtype=None):
        return torch.sin((1.0 + torch.arange(x.numel(), dtype=torch.float64)) ** 2).reshape(x.shape)


po_soap.torch = po_psgd.torch = Wide()
DRAW = "(dims -> reshape(sin(((1 + iota(prod(dims)))^2) as f32), dims))"


class With:
    """An optimizer with values that its constructor does not take."""

    def __init__(self, optimizer, **values):
        self.step = optimizer.step
        for group in optimizer.param_groups:
            group.update(values)


def shampoo(**more):
    options = dict(betas=(0.9, 0.99), start_preconditioning_step=1, preconditioning_compute_steps=3, block_size=4, shape_interpretation=False, use_svd=True, decoupled_weight_decay=True, weight_decay=0.1)
    beta2 = more.pop("beta2", 0.99)
    return torch_walk(lambda p: With(po.ScalableShampoo(p, 0.01, **(options | more)), betas=(0.9, beta2)))


def kron(**more):
    options = dict(pre_conditioner_update_probability=0.5, balance_prob=0, precondition_dtype=torch.float64)
    return torch_walk(lambda p: po.Kron(p, 0.01, **(options | more)))


def shampoo_paper(w, g, s, t, _, lr=0.05, eps=1e-3):
    """Gupta, Koren and Singer 2018, algorithm 1."""
    new = {}
    for k in w:
        x = g[k].reshape(-1, w[k].shape[-1])
        l, r = s.setdefault(k, [eps * np.eye(x.shape[0]), eps * np.eye(x.shape[1])])
        l, r = s[k] = [l + x @ x.T, r + x.T @ x]

        def root(a):
            values, vectors = np.linalg.eigh(a)
            return vectors * values**-0.25 @ vectors.T

        new[k] = w[k] - lr * (root(l) @ x @ root(r)).reshape(w[k].shape)
    return new


def dash(**more):
    return torch_walk(lambda p: po.DASH(p, 0.01, inverse_root_method="eigh", **more))


TWO = "abcehi"
CASES = [
    Case("shampoo", "shampoo(lr = 0.01, beta2 = 0.99, interval = 3, block = 4, weight_decay = 0.1)", shampoo(),
         "pytorch_optimizer ScalableShampoo(0.01, block_size=4, preconditioning_compute_steps=3)", leaves=TWO, tolerance=1e-8),
    Case("shampoo_adagrad", 'shampoo(lr = 0.01, beta2 = 1, interval = 3, block = 512, graft = "adagrad", nesterov = false, start = 8, weight_decay = 0.1)',
         shampoo(beta2=1.0, graft_type=2, nesterov=False, block_size=512, start_preconditioning_step=8),
         "pytorch_optimizer ScalableShampoo(0.01, betas=(0.9, 1), graft_type=ADAGRAD, nesterov=False, start_preconditioning_step=8)", leaves=TWO, tolerance=1e-7),
    Case("shampoo_rmsprop", 'shampoo(lr = 0.01, beta2 = 0.99, interval = 3, block = 4, graft = "rmsprop", average = true, weight_decay = 0.1, decoupled = false)',
         shampoo(graft_type=3, moving_average_for_momentum=True, decoupled_weight_decay=False),
         "pytorch_optimizer ScalableShampoo(0.01, graft_type=RMSPROP, moving_average_for_momentum=True, weight_decay=0.1)", leaves=TWO, tolerance=1e-8),
    Case("shampoo_sign", 'shampoo(lr = 0.01, beta2 = 0.99, interval = 3, block = 4, graft = "sign")', shampoo(graft_type=4, weight_decay=0.0),
         "pytorch_optimizer ScalableShampoo(0.01, graft_type=SQRTN)", leaves=TWO, tolerance=1e-8, signs=0.01),
    Case("shampoo_paper", 'shampoo(lr = 0.05, beta1 = 0, beta2 = 1, eps = 1e-3, interval = 1, graft = "none")', tree_walk(shampoo_paper), "the paper's algorithm 1 in NumPy", leaves="adfhi",
         tolerance=1e-8),
    Case("soap", "soap(lr = 0.01, interval = 4, longest = 4, weight_decay = 0.1)", torch_walk(lambda p: po.SOAP(p, 0.01, precondition_frequency=4, max_precondition_dim=4, weight_decay=0.1)),
         "pytorch_optimizer SOAP(0.01, precondition_frequency=4, max_precondition_dim=4, weight_decay=0.1), its QR in f64", leaves="abdfhi", problem="bowl", tolerance=1e-8),
    Case("soap_normalized", "soap(lr = 0.01, shampoo_beta = 0.8, interval = 1, longest = 4, weight_decay = 0, bias_correction = false, normalize = true)",
         torch_walk(lambda p: po.SOAP(p, 0.01, shampoo_beta=0.8, precondition_frequency=1, max_precondition_dim=4, weight_decay=0.0, correct_bias=False, normalize_gradient=True)),
         "pytorch_optimizer SOAP(0.01, shampoo_beta=0.8, precondition_frequency=1, correct_bias=False, normalize_gradient=True), its QR in f64", leaves="adi", problem="bowl", tolerance=1e-8),
    Case("kron", f"kron(lr = 0.01, probability = 0.5, balance = 0, weight_decay = 0.1, draw = {DRAW})", kron(weight_decay=0.1),
         "pytorch_optimizer Kron(0.01, pre_conditioner_update_probability=0.5, weight_decay=0.1) on fixed draws", leaves="abcdehi", tolerance=1e-8),
    Case("kron_diagonal", f"kron(lr = 0.01, momentum = 0.5, probability = 1, largest = 4, initial = 0.5, balance = 0, from_momentum = false, draw = {DRAW})",
         torch_walk(lambda p: With(po.Kron(p, 0.01, momentum=0.5, pre_conditioner_update_probability=1.0, max_size_triangular=4, momentum_into_precondition_update=False, balance_prob=0, precondition_dtype=torch.float64), precondition_init_scale=0.5)),
         "pytorch_optimizer Kron(0.01, momentum=0.5, max_size_triangular=4, momentum_into_precondition_update=False) on fixed draws", leaves="abdfhi", problem="bowl", tolerance=1e-8),
    Case("dash", "dash(lr = 0.01, block = 4, interval = 3, weight_decay = 0.1)", dash(block_size=4, precondition_frequency=3, weight_decay=0.1),
         "pytorch_optimizer DASH(0.01, block_size=4, precondition_frequency=3, inverse_root_method='eigh')", leaves="abchi", problem="bowl", tolerance=1e-6),
    Case("dash_momentum", "dash(lr = 0.01, graft_beta = 0.99, block = 512, interval = 2, start = 5, momentum = 0.5, bias_correction = false)",
         dash(block_size=512, precondition_frequency=2, start_preconditioning_step=5, grafting_beta=0.99, momentum=0.5, correct_bias=False),
         "pytorch_optimizer DASH(0.01, precondition_frequency=2, start_preconditioning_step=5, grafting_beta=0.99, momentum=0.5, correct_bias=False)", leaves="abchi", problem="bowl",
         tolerance=1e-6),
]
