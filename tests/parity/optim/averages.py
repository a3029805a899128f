"""Adam-like rules with further averages, other orders of normalization, or averages of the points."""
import optax
import pytorch_optimizer as po
from optax import contrib

from .common import Case, optax_walk, torch_walk

CASES = [
    Case("ademamix", "ademamix(lr = 0.01, beta3 = 0.99, weight_decay = 0.1)", optax_walk(lambda: contrib.ademamix(0.01, b3=0.99, weight_decay=0.1)),
         "Optax contrib.ademamix(0.01, b3=0.99, weight_decay=0.1)"),
    Case("ademamix_scheduled", "ademamix(lr = 0.01, beta3 = ademamix_beta3(0.999, warmup = 30), alpha = ademamix_alpha(4.0, warmup = 30))",
         torch_walk(lambda p: po.AdEMAMix(p, 0.01, betas=(0.9, 0.999, 0.999), alpha=4.0, t_alpha_beta3=30, weight_decay=0.0)),
         "pytorch_optimizer AdEMAMix(0.01, (0.9, 0.999, 0.999), alpha=4, t_alpha_beta3=30)"),
    Case("simplified_ademamix", "simplified_ademamix(lr = 0.001, alpha = 3.0, eps_root = 1e-6, weight_decay = 0.1)",
         optax_walk(lambda: contrib.simplified_ademamix(0.001, alpha=3.0, eps_root=1e-6, weight_decay=0.1)), "Optax contrib.simplified_ademamix(0.001, alpha=3, eps_root=1e-6, weight_decay=0.1)"),
    Case("adopt", "adopt(lr = 0.01)", optax_walk(lambda: contrib.adopt(0.01)), "Optax contrib.adopt(0.01)"),
    Case("adopt_nesterov", "adopt(lr = 0.01, beta2 = 0.99, nesterov = true, clipping = false, eps = 0.1)",
         optax_walk(lambda: contrib.adopt(0.01, b2=0.99, eps=0.1, nesterov=True, use_clipping=False)), "Optax contrib.adopt(0.01, b2=0.99, eps=0.1, nesterov=True, use_clipping=False)"),
    Case("adopt_decayed", 'adopt(lr = 0.01, weight_decay = 0.1, variant = "pytorch_optimizer")', torch_walk(lambda p: po.ADOPT(p, 0.01, weight_decay=0.1, weight_decouple=True, foreach=False)),
         "pytorch_optimizer ADOPT(0.01, weight_decay=0.1, weight_decouple=True)"),
    Case("acprop", "acprop(lr = 0.01, beta2 = 0.99, eps = 1e-3, weight_decay = 0.1)", optax_walk(lambda: contrib.acprop(0.01, b2=0.99, eps=1e-3, weight_decay=0.1)),
         "Optax contrib.acprop(0.01, b2=0.99, eps=1e-3, weight_decay=0.1)"),
    Case("madgrad", "madgrad(lr = 0.01, weight_decay = 0.1)", optax_walk(lambda: contrib.madgrad(0.01, weight_decay=0.1)),
         "Optax contrib.madgrad(0.01, weight_decay=0.1), whose square root of t is in f32", tolerance=1e-7),
    Case("madgrad_torch", "madgrad(lr = 0.03, momentum = 0.5)", torch_walk(lambda p: po.MADGRAD(p, 0.03, momentum=0.5, foreach=False)), "pytorch_optimizer MADGRAD(0.03, momentum=0.5)"),
    Case("laprop", "laprop(lr = 0.01, beta2 = 0.99, eps = 1e-6, weight_decay = 0.1)",
         torch_walk(lambda p: po.LaProp(p, 0.01, betas=(0.9, 0.99), eps=1e-6, weight_decay=0.1, weight_decouple=True, foreach=False)),
         "pytorch_optimizer LaProp(0.01, (0.9, 0.99), eps=1e-6, weight_decay=0.1)"),
]
