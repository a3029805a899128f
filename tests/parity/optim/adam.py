"""Adam, its relatives with two moments, and their flags."""
import functools

import numpy as np
import optax
import pytorch_optimizer as po
import torch
from pytorch_optimizer.base.optimizer import BaseOptimizer

from .common import Case, optax_walk, torch_walk

T = torch.optim


def bare(make):
    """A walk of pytorch_optimizer without the 1e-15 that it adds to second moments within the root."""
    walk = torch_walk(make)

    def run(problem):
        kept = BaseOptimizer.__dict__["apply_ams_bound"]
        BaseOptimizer.apply_ams_bound = staticmethod(functools.partial(kept.__func__, exp_avg_sq_eps=0.0))
        try:
            return walk(problem)
        finally:
            BaseOptimizer.apply_ams_bound = kept

    return run


def sparse_adam(params):
    """torch SparseAdam on gradients whose rows that are 0 are left out."""
    inner = T.SparseAdam(params, 0.01)

    class Rows:
        def step(self):
            for p in params:
                if p.ndim:
                    p.grad = p.grad.to_sparse(1)
            inner.step()

    return Rows()


CASES = [
    Case("adam", "adam(lr = 0.01)", optax_walk(lambda: optax.adam(0.01)), "Optax adam(0.01)"),
    Case("adam_torch", "adam(lr = 0.01, beta1 = 0.8, beta2 = 0.95, eps = 1e-3)", torch_walk(lambda p: T.Adam(p, 0.01, (0.8, 0.95), 1e-3)), "torch Adam(0.01, (0.8, 0.95), 1e-3)"),
    Case("adam_eps_root", "adam(lr = 0.01, beta1 = 0.8, beta2 = 0.95, eps = 1e-3, eps_root = 1e-4)", optax_walk(lambda: optax.adam(0.01, 0.8, 0.95, 1e-3, 1e-4)), "Optax adam(0.01, 0.8, 0.95, 1e-3, 1e-4)"),
    Case("adam_decay", "add_decayed_weights(0.1) |> adam(lr = 0.01)", torch_walk(lambda p: T.Adam(p, 0.01, weight_decay=0.1)), "torch Adam(0.01, weight_decay=0.1)"),
    Case("adam_maximize", "maximize() |> add_decayed_weights(0.1) |> adam(lr = 0.01)", torch_walk(lambda p: T.Adam(p, 0.01, weight_decay=0.1, maximize=True)), "torch Adam(0.01, weight_decay=0.1, maximize=True)"),
    Case("adam_nesterov", "adam(lr = 0.01, nesterov = true)", optax_walk(lambda: optax.nadam(0.01)), "Optax nadam(0.01)"),
    Case("adam_loss", "adam(lr = 0.05)", torch_walk(lambda p: T.Adam(p, 0.05)), "torch Adam(0.05)", problem="bowl"),
    Case("amsgrad", "amsgrad(lr = 0.01, beta2 = 0.9)", optax_walk(lambda: optax.amsgrad(0.01, b2=0.9)), "Optax amsgrad(0.01, b2=0.9)"),
    Case("amsgrad_torch", 'adam(lr = 0.01, beta2 = 0.9, amsgrad = true, variant = "torch")', torch_walk(lambda p: T.Adam(p, 0.01, (0.9, 0.9), amsgrad=True)), "torch Adam(0.01, (0.9, 0.9), amsgrad=True)"),
    Case("amsgrad_nesterov", "adam(lr = 0.01, beta2 = 0.9, amsgrad = true, nesterov = false, eps_root = 1e-3)", optax_walk(lambda: optax.amsgrad(0.01, b2=0.9, eps_root=1e-3)), "Optax amsgrad(0.01, b2=0.9, eps_root=1e-3)"),
    Case("adamw", "adamw(lr = 0.01, weight_decay = 0.1)", torch_walk(lambda p: T.AdamW(p, 0.01, weight_decay=0.1)), "torch AdamW(0.01, weight_decay=0.1)"),
    Case("adamw_optax", "adamw(lr = 0.01, weight_decay = 0.1, eps_root = 1e-6)", optax_walk(lambda: optax.adamw(0.01, weight_decay=0.1, eps_root=1e-6)), "Optax adamw(0.01, eps_root=1e-6, weight_decay=0.1)"),
    Case("adamw_amsgrad", 'adamw(lr = 0.02, beta2 = 0.95, weight_decay = 0.1, amsgrad = true, variant = "torch")', torch_walk(lambda p: T.AdamW(p, 0.02, (0.9, 0.95), weight_decay=0.1, amsgrad=True)),
         "torch AdamW(0.02, (0.9, 0.95), weight_decay=0.1, amsgrad=True)"),
    Case("adamw_nesterov", "adamw(lr = 0.01, weight_decay = 0.1, nesterov = true)", optax_walk(lambda: optax.nadamw(0.01, weight_decay=0.1)), "Optax nadamw(0.01, weight_decay=0.1)"),
    Case("adamw_scheduled", "adamw(lr = cosine(peak = 0.01, total = 50), weight_decay = 0.1)", optax_walk(lambda: optax.adamw(optax.cosine_decay_schedule(0.01, 50), weight_decay=0.1)),
         "Optax adamw(cosine_decay_schedule(0.01, 50), weight_decay=0.1)"),
    Case("nadam", "nadam(lr = 0.01)", torch_walk(lambda p: T.NAdam(p, 0.01)), "torch NAdam(0.01)"),
    Case("nadam_optax", 'nadam(lr = 0.01, beta2 = 0.99, variant = "optax")', optax_walk(lambda: optax.nadam(0.01, b2=0.99)), "Optax nadam(0.01, b2=0.99)"),
    Case("nadam_decay", "add_decayed_weights(0.1) |> nadam(lr = 0.01, momentum_decay = 0.02)", torch_walk(lambda p: T.NAdam(p, 0.01, weight_decay=0.1, momentum_decay=0.02)),
         "torch NAdam(0.01, weight_decay=0.1, momentum_decay=0.02)"),
    Case("nadamw", 'nadamw(lr = 0.01, weight_decay = 0.1, variant = "torch")', torch_walk(lambda p: T.NAdam(p, 0.01, weight_decay=0.1, decoupled_weight_decay=True)),
         "torch NAdam(0.01, weight_decay=0.1, decoupled_weight_decay=True)"),
    Case("nadamw_optax", 'nadamw(lr = 0.01, weight_decay = 0.1, variant = "optax")', optax_walk(lambda: optax.nadamw(0.01, weight_decay=0.1)), "Optax nadamw(0.01, weight_decay=0.1)"),
    Case("adamax", "adamax(lr = 0.01)", torch_walk(lambda p: T.Adamax(p, 0.01)), "torch Adamax(0.01)"),
    Case("adamax_decay", "add_decayed_weights(0.1) |> adamax(lr = 0.01, beta2 = 0.9)", torch_walk(lambda p: T.Adamax(p, 0.01, (0.9, 0.9), weight_decay=0.1)), "torch Adamax(0.01, (0.9, 0.9), weight_decay=0.1)"),
    Case("adamax_optax", "adamax(lr = 0.01, beta2 = 0.99, eps = 1e-4)", optax_walk(lambda: optax.adamax(0.01, b2=0.99, eps=1e-4)), "Optax adamax(0.01, b2=0.99, eps=1e-4)"),
    Case("adamaxw", "adamaxw(lr = 0.01, weight_decay = 0.1)", optax_walk(lambda: optax.adamaxw(0.01, weight_decay=0.1)), "Optax adamaxw(0.01, weight_decay=0.1)"),
    Case("radam", "radam(lr = 0.01, beta2 = 0.9)", optax_walk(lambda: optax.radam(0.01, b2=0.9)), "Optax radam(0.01, b2=0.9)"),
    Case("radam_nesterov", "radam(lr = 0.01, beta2 = 0.95, eps_root = 1e-4, threshold = 6.0, nesterov = true)", optax_walk(lambda: optax.radam(0.01, b2=0.95, eps_root=1e-4, threshold=6.0, nesterov=True)),
         "Optax radam(0.01, b2=0.95, eps_root=1e-4, threshold=6, nesterov=True)"),
    Case("radam_torch", 'radam(lr = 0.01, variant = "torch")', torch_walk(lambda p: T.RAdam(p, 0.01)), "torch RAdam(0.01)"),
    Case("radam_decay", 'radam(lr = 0.01, weight_decay = 0.1, variant = "torch")', torch_walk(lambda p: T.RAdam(p, 0.01, weight_decay=0.1, decoupled_weight_decay=True)),
         "torch RAdam(0.01, weight_decay=0.1, decoupled_weight_decay=True)"),
    Case("radam_rectified", 'radam(lr = 0.01, unrectified = false, variant = "torch")', torch_walk(lambda p: po.RAdam(p, 0.01)), "pytorch_optimizer RAdam(0.01)"),
    Case("adabelief", "adabelief(lr = 0.01)", optax_walk(lambda: optax.adabelief(0.01)), "Optax adabelief(0.01)"),
    Case("adabelief_nesterov", "adabelief(lr = 0.01, beta2 = 0.95, eps = 1e-4, eps_root = 1e-5, nesterov = true)", optax_walk(lambda: optax.adabelief(0.01, b2=0.95, eps=1e-4, eps_root=1e-5, nesterov=True)),
         "Optax adabelief(0.01, b2=0.95, eps=1e-4, eps_root=1e-5, nesterov=True)"),
    Case("adabelief_amsgrad", "adabelief(lr = 0.01, beta2 = 0.95, eps = 1e-6, eps_root = 1e-6, weight_decay = 0.1, amsgrad = true)",
         torch_walk(lambda p: po.AdaBelief(p, 0.01, (0.9, 0.95), weight_decay=0.1, ams_bound=True, eps=1e-6)), "pytorch_optimizer AdaBelief(0.01, (0.9, 0.95), weight_decay=0.1, ams_bound=True, eps=1e-6)"),
    Case("adabelief_rectify", "adabelief(lr = 0.01, beta2 = 0.99, eps = 1e-6, eps_root = 1e-6, rectify = true)", torch_walk(lambda p: po.AdaBelief(p, 0.01, (0.9, 0.99), rectify=True, eps=1e-6)),
         "pytorch_optimizer AdaBelief(0.01, (0.9, 0.99), rectify=True, eps=1e-6)"),
    Case("yogi", "yogi(lr = 0.01)", optax_walk(lambda: optax.yogi(0.01)), "Optax yogi(0.01)"),
    Case("yogi_decay", "yogi(lr = 0.01, beta2 = 0.95, eps = 1e-5, initial = 1e-3, weight_decay = 0.1)", torch_walk(lambda p: po.Yogi(p, 0.01, (0.9, 0.95), 1e-3, weight_decay=0.1, eps=1e-5)),
         "pytorch_optimizer Yogi(0.01, (0.9, 0.95), 1e-3, weight_decay=0.1, eps=1e-5)"),
    Case("adabound", "adabound(lr = 0.01)", bare(lambda p: po.AdaBound(p, 0.01, foreach=False)), "pytorch_optimizer AdaBound(0.01), without the 1e-15 it adds to v"),
    Case("adabound_decay", "adabound(lr = 0.01, final_lr = 0.05, beta2 = 0.9, gamma = 0.02, weight_decay = 0.1)",
         bare(lambda p: po.AdaBound(p, 0.01, 0.05, (0.9, 0.9), 0.02, weight_decay=0.1, foreach=False)), "pytorch_optimizer AdaBound(0.01, 0.05, (0.9, 0.9), 0.02, weight_decay=0.1), likewise"),
    Case("amsbound", "amsbound(lr = 0.01, beta2 = 0.9)", bare(lambda p: po.AdaBound(p, 0.01, betas=(0.9, 0.9), ams_bound=True, foreach=False)), "pytorch_optimizer AdaBound(0.01, betas=(0.9, 0.9), ams_bound=True), likewise"),
    Case("adan", "adan(lr = 0.01, weight_decay = 0.02)", torch_walk(lambda p: po.Adan(p, 0.01, weight_decay=0.02)), "pytorch_optimizer Adan(0.01, weight_decay=0.02)"),
    Case("adan_decoupled", "adan(lr = 0.01, beta1 = 0.95, beta2 = 0.8, beta3 = 0.9, weight_decay = 0.1, decoupled = true)",
         torch_walk(lambda p: po.Adan(p, 0.01, (0.95, 0.8, 0.9), weight_decay=0.1, weight_decouple=True)), "pytorch_optimizer Adan(0.01, (0.95, 0.8, 0.9), weight_decay=0.1, weight_decouple=True)"),
    Case("adan_optax", 'adan(lr = 0.01, eps_root = 1e-8, weight_decay = 0.1, variant = "optax")', optax_walk(lambda: optax.adan(0.01, weight_decay=0.1)), "Optax adan(0.01, weight_decay=0.1)"),
    Case("lion", "lion(lr = 0.01, weight_decay = 0.1)", optax_walk(lambda: optax.lion(0.01, weight_decay=0.1)), "Optax lion(0.01, weight_decay=0.1)", signs=0.01),
    Case("lion_smooth", 'lion(lr = 0.01, beta1 = 0.8, beta2 = 0.95, mode = "smooth", smooth = 3.0)',
         optax_walk(lambda: optax.chain(optax.scale_by_lion(0.8, 0.95, mode="smooth", smooth_beta=3.0), optax.scale(-0.01))), "Optax scale_by_lion(0.8, 0.95, mode='smooth', smooth_beta=3)"),
    Case("lion_refined", 'lion(lr = 0.01, mode = "refined")', optax_walk(lambda: optax.chain(optax.scale_by_lion(mode="refined"), optax.scale(-0.01))), "Optax scale_by_lion(mode='refined')"),
    Case("sparse_adam", "sparse_adam(lr = 0.01)", torch_walk(sparse_adam), "torch SparseAdam(0.01)", leaves="abcdfhi"),
]
