"""Rules that look at whole leaves: norms, rows and columns."""
import jax.numpy as jnp
import numpy as np
import optax
import pytorch_optimizer as po
import torch

from .common import Case, leaf_walk, optax_walk, torch_walk

MATRIX = "abcdefhi"
NO_SCALAR = "abcdfhi"


def big_vision(lr, wd):
    """BigVision's Adafactor with Optax's parts: second moments capped at 0.999, no clipping, momentum of 0.9, steps not relative to the weights."""
    from optax._src import factorized

    capped = factorized.scale_by_factored_rms(True, 0.8, 0, 2, 1e-30, lambda i, e: jnp.minimum(0.999, 1.0 - (i + 1.0) ** (-e)))
    return optax.chain(capped, optax.scale(lr), optax.ema(0.9, debias=False), optax.add_decayed_weights(wd), optax.scale(-1))


def lamb(lr, wd, b1=0.9, b2=0.999, eps=1e-6, correct=True, averaging=True, clip=False, most=np.inf):
    """Algorithm 2 of arXiv 1904.00962 with the switches of NVIDIA's and timm's code."""

    def rule(w, g, s, t):
        s["m"] = b1 * s.get("m", 0.0) + ((1 - b1) if averaging else 1.0) * g
        s["v"] = b2 * s.get("v", 0.0) + (1 - b2) * g * g
        m, v = (s["m"] / (1 - b1**t), s["v"] / (1 - b2**t)) if correct else (s["m"], s["v"])
        u = m / (np.sqrt(v) + eps) + wd * w
        a, b = min(np.linalg.norm(np.ravel(w)), most), np.linalg.norm(np.ravel(u))
        r = 1.0 if a == 0 or b == 0 else a / b
        return w - lr * (min(r, 1.0) if clip else r) * u

    return leaf_walk(rule)


def lars_paper(lr, momentum, trust, wd):
    """Algorithm 1 of arXiv 1708.03888 with a constant learning rate."""

    def rule(w, g, s, t):
        a, b = np.linalg.norm(np.ravel(w)), np.linalg.norm(np.ravel(g))
        local = trust * a / (b + wd * a)
        s["v"] = momentum * s.get("v", 0.0) + lr * local * (g + wd * w)
        return w - s["v"]

    return leaf_walk(rule)


def larc(lr, momentum, trust, wd, clip, eps=1e-8):
    """Apex's LARC around SGD with momentum."""

    def rule(w, g, s, t):
        a, b = np.linalg.norm(np.ravel(w)), np.linalg.norm(np.ravel(g))
        if a != 0 and b != 0:
            rate = trust * a / (b + a * wd + eps)
            g = (min(rate / lr, 1.0) if clip else rate) * (g + wd * w)
        s["b"] = momentum * s.get("b", 0.0) + g
        return w - lr * s["b"]

    return leaf_walk(rule)


F64 = torch.float64

CASES = [
    Case("adafactor", "adafactor(lr = 0.01)", optax_walk(lambda: optax.adafactor(0.01)), "Optax adafactor(0.01), which forms its decay in f32", leaves=MATRIX, tolerance=1e-7),
    Case("adafactor_factored", "adafactor(lr = 0.01, min_factored = 2, weight_decay = 1e-3)", optax_walk(lambda: optax.adafactor(0.01, min_dim_size_to_factor=2, weight_decay_rate=1e-3)),
         "Optax adafactor(0.01, min_dim_size_to_factor=2, weight_decay_rate=1e-3), likewise", leaves=MATRIX, tolerance=1e-7),
    Case("adafactor_momentum", "adafactor(lr = 0.05, decay_rate = 0.5, clipping = 0.7, relative = false, eps = 1e-6, min_factored = 2, momentum = 0.9)",
         optax_walk(lambda: optax.adafactor(0.05, 2, 0.5, 0, False, 0.7, 0.9, jnp.float64, eps=1e-6)), "Optax adafactor(0.05, 2, 0.5, 0, False, 0.7, 0.9, eps=1e-6), likewise", leaves=MATRIX, tolerance=1e-7),
    Case("adafactor_big_vision", "adafactor(lr = 0.01, relative = false, clipping = inf, min_factored = 2, momentum = 0.9, beta2_cap = 0.999, weight_decay = 1e-3)",
         optax_walk(lambda: big_vision(0.01, 1e-3)), "Optax's parts in the order of BigVision", leaves=MATRIX),
    Case("adafactor_cap", 'adafactor(lr = 0.01, min_factored = 2, beta2_cap = 0.9, relative_step = true, variant = "hf")',
         torch_walk(lambda p: po.AdaFactor(p, betas=(None, 0.9))), "pytorch_optimizer AdaFactor(betas=(None, 0.9))", leaves=MATRIX),
    Case("adafactor_hf", 'adafactor(lr = 0.01, weight_decay = 0.1, momentum = 0.9, beta2_cap = 0.99, variant = "hf")',
         torch_walk(lambda p: po.AdaFactor(p, 0.01, (0.9, 0.99), weight_decay=0.1, relative_step=False, momentum_dtype=F64)), "pytorch_optimizer AdaFactor(0.01, (0.9, 0.99), weight_decay=0.1, relative_step=False)", leaves=MATRIX),
    Case("adafactor_torch", 'adafactor(lr = 0.01, weight_decay = 0.1, eps = 1e-7, variant = "torch")', torch_walk(lambda p: torch.optim.Adafactor(p, 0.01, eps=(1e-7, 1e-3), weight_decay=0.1)),
         "torch Adafactor(0.01, eps=(1e-7, 1e-3), weight_decay=0.1)", leaves=MATRIX),
    Case("adafactor_torch_rate", 'adafactor(lr = 0.5, decay_rate = 0.6, clipping = 1.2, min_scale = 0.1, eps = 1e-4, variant = "torch")',
         torch_walk(lambda p: torch.optim.Adafactor(p, 0.5, -0.6, (1e-4, 0.1), 1.2)), "torch Adafactor(0.5, -0.6, (1e-4, 0.1), 1.2)", leaves=MATRIX),
    Case("sm3", "sm3(lr = 0.1)", optax_walk(lambda: optax.sm3(0.1)), "Optax sm3(0.1)", leaves=NO_SCALAR),
    Case("sm3_ema", "sm3(lr = 0.1, momentum = 0.5, beta2 = 0.9, eps = 1e-4)", optax_walk(lambda: optax.chain(optax.scale_by_sm3(0.5, 0.9, 1e-4), optax.scale(-0.1))), "Optax scale_by_sm3(0.5, 0.9, 1e-4)", leaves=NO_SCALAR),
    Case("sm3_scalar", "sm3(lr = 0.1, momentum = 0.0, eps = 1e-30)", torch_walk(lambda p: po.SM3(p, 0.1)), "pytorch_optimizer SM3(0.1)", leaves=MATRIX),
    Case("lamb", "lamb(lr = 0.01, weight_decay = 0.1)", optax_walk(lambda: optax.lamb(0.01, weight_decay=0.1)), "Optax lamb(0.01, weight_decay=0.1)"),
    Case("lamb_trust_clip", "lamb(lr = 0.01, weight_decay = 0.1, trust_clip = true)", lamb(0.01, 0.1, clip=True), "the paper in NumPy, ratio at most 1 (timm's trust_clip)"),
    Case("lamb_first_version", "lamb(lr = 0.01, weight_decay = 0.1, bias_correction = false, max_norm = 2.0)", lamb(0.01, 0.1, correct=False, most=2.0), "the paper's first version in NumPy, phi(x) = min(x, 2)"),
    Case("lamb_unaveraged", "lamb(lr = 0.01, beta1 = 0.8, beta2 = 0.95, averaging = false)", lamb(0.01, 0.0, 0.8, 0.95, averaging=False), "NVIDIA's grad_averaging = 0 in NumPy"),
    Case("lars", "lars(lr = 10.0, weight_decay = 0.01)", optax_walk(lambda: optax.lars(10.0, weight_decay=0.01)), "Optax lars(10, weight_decay=0.01)"),
    Case("lars_nesterov", "lars(lr = 5.0, momentum = 0.8, nesterov = true, trust = 0.01, eps = 0.1)", optax_walk(lambda: optax.lars(5.0, trust_coefficient=0.01, eps=0.1, momentum=0.8, nesterov=True)),
         "Optax lars(5, trust_coefficient=0.01, eps=0.1, momentum=0.8, nesterov=True)"),
    Case("lars_paper", 'lars(lr = 10.0, weight_decay = 0.1, eps = 1e-30, variant = "paper")', lars_paper(10.0, 0.9, 1e-3, 0.1), "the paper in NumPy", problem="bowl"),
    Case("lars_torch", 'lars(lr = 5.0, momentum = 0.8, nesterov = true, weight_decay = 0.1, dampening = 0.2, variant = "torch")',
         torch_walk(lambda p: po.LARS(p, 5.0, 0.1, 0.8, 0.2, nesterov=True)), "pytorch_optimizer LARS(5, 0.1, 0.8, 0.2, nesterov=True)", leaves=MATRIX, problem="bowl"),
    Case("larc", "larc(lr = 0.1, weight_decay = 0.01) |> sgd(lr = 0.1, momentum = 0.9)", larc(0.1, 0.9, 0.02, 0.01, True), "Apex's formulas in NumPy"),
    Case("larc_unclipped", "larc(lr = 5.0, trust = 0.001, clip = false, weight_decay = 0.1) |> sgd(lr = 5.0, momentum = 0.9)", larc(5.0, 0.9, 0.001, 0.1, False), "Apex's formulas in NumPy, clip=False"),
    Case("novograd", "novograd(lr = 0.01, weight_decay = 0.1)", optax_walk(lambda: optax.novograd(0.01, weight_decay=0.1)), "Optax novograd(0.01, weight_decay=0.1)"),
    Case("novograd_eps_root", "novograd(lr = 0.01, beta1 = 0.95, beta2 = 0.98, eps = 1e-3, eps_root = 1e-2)", optax_walk(lambda: optax.novograd(0.01, 0.95, 0.98, 1e-3, 1e-2)), "Optax novograd(0.01, 0.95, 0.98, 1e-3, 1e-2)"),
    Case("novograd_averaging", "novograd(lr = 0.05, beta1 = 0.95, beta2 = 0.98, eps = 1e-8, weight_decay = 0.1, averaging = true)",
         torch_walk(lambda p: po.NovoGrad(p, 0.05, weight_decay=0.1, grad_averaging=True)), "pytorch_optimizer NovoGrad(0.05, weight_decay=0.1, grad_averaging=True)"),
    Case("fromage", "fromage(lr = 0.01)", optax_walk(lambda: optax.fromage(0.01)), "Optax fromage(0.01)"),
    Case("fromage_bound", "fromage(lr = 0.1, min_norm = 0.0, bound = 1.01)", torch_walk(lambda p: po.Fromage(p, 0.1, 1.01)), "pytorch_optimizer Fromage(0.1, p_bound=1.01)"),
]
