"""Recent rules with the second moment of Adam."""
import numpy as np
import pytorch_optimizer as po
import torch
from pytorch_optimizer.optimizer.gradient_centralization import centralize_gradient

from .adam import bare
from .common import ALL, Case, torch_walk, tree_walk
from .momentum import channels_first


def avagrad(lr, b1=0.9, b2=0.999, eps=0.1):
    """Algorithm 2 of arXiv 1912.01823: the learning rates of a step are normalized to a root mean square of 1; corrections and the first step as in the authors' code."""

    def rule(w, g, s, t, problem):
        if not s:
            s.update(m={k: 0.0 * x for k, x in w.items()}, v={k: 0.0 * x for k, x in w.items()})
        out = {}
        n = {k: 1 / (np.sqrt(s["v"][k] / (1 - b2 ** (t - 1)) if t > 1 else s["v"][k]) + eps) for k in w}
        size = np.sqrt(np.mean(np.concatenate([np.ravel(x) ** 2 for x in n.values()])))
        for k in w:
            s["m"][k] = b1 * s["m"][k] + (1 - b1) * g[k]
            out[k] = w[k] - (lr / (1 - b1**t) * n[k] / size * s["m"][k] if t > 1 else 0.0)
            s["v"][k] = b2 * s["v"][k] + (1 - b2) * g[k] ** 2
        return out

    return tree_walk(rule)


class Centralized(torch.optim.SGD):
    """SGD on gradients that lose the mean of each output channel, the first axis."""

    def __init__(self, params, lr, conv_only=False):
        super().__init__(params, lr)
        self.conv_only = conv_only

    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                centralize_gradient(p.grad, gc_conv_only=self.conv_only)
        super().step()


F64 = torch.float64
# The schedule of CosineDecay(1, 30, 0.6) as StableSPAM calls it, from its step 1 on.
COSINE = "0.6 + 0.4 * (1 + cos((step + 2) * pi / 31)) / (1 + cos(pi / 31))"

CASES = [
    Case("adamod", "adamod(lr = 0.1)", torch_walk(lambda p: po.AdaMod(p, 0.1)), "pytorch_optimizer AdaMod(0.1)"),
    Case("adamod_decay", "adamod(lr = 0.02, beta2 = 0.95, beta3 = 0.9, eps = 1e-4, weight_decay = 0.1)", torch_walk(lambda p: po.AdaMod(p, 0.02, (0.9, 0.95, 0.9), weight_decay=0.1, eps=1e-4)),
         "pytorch_optimizer AdaMod(0.02, (0.9, 0.95, 0.9), weight_decay=0.1, eps=1e-4)"),
    Case("adanorm", "adanorm(lr = 0.01)", bare(lambda p: po.AdaNorm(p, 0.01, foreach=False)), "pytorch_optimizer AdaNorm(0.01), without the 1e-15 it adds to v"),
    Case("adanorm_amsgrad", "adanorm(lr = 0.01, beta2 = 0.9, r = 0.8, weight_decay = 0.1, amsgrad = true)",
         bare(lambda p: po.AdaNorm(p, 0.01, (0.9, 0.9), 0.8, weight_decay=0.1, ams_bound=True, foreach=False)), "pytorch_optimizer AdaNorm(0.01, (0.9, 0.9), 0.8, weight_decay=0.1, ams_bound=True), likewise"),
    Case("adamg", "adamg()", torch_walk(lambda p: po.AdamG(p)), "pytorch_optimizer AdamG()"),
    Case("adamg_decay", "adamg(lr = 0.3, beta2 = 0.95, p = 0.5, q = 0.4, weight_decay = 0.1)", torch_walk(lambda p: po.AdamG(p, 0.3, (0.95, 0.95, 0.95), 0.5, 0.4, 0.1, True)),
         "pytorch_optimizer AdamG(0.3, (0.95, 0.95, 0.95), 0.5, 0.4, 0.1, weight_decouple=True)"),
    Case("diffgrad", "diffgrad(lr = 0.01)", bare(lambda p: po.DiffGrad(p, 0.01, foreach=False)), "pytorch_optimizer DiffGrad(0.01), without the 1e-15 it adds to v"),
    Case("diffgrad_amsgrad", "diffgrad(lr = 0.01, beta2 = 0.9, weight_decay = 0.1, amsgrad = true)", bare(lambda p: po.DiffGrad(p, 0.01, (0.9, 0.9), 0.1, ams_bound=True, foreach=False)),
         "pytorch_optimizer DiffGrad(0.01, (0.9, 0.9), 0.1, ams_bound=True), likewise"),
    Case("diffgrad_rectify", "diffgrad(lr = 0.01, beta2 = 0.99, rectify = true)", bare(lambda p: po.DiffGrad(p, 0.01, (0.9, 0.99), rectify=True, foreach=False)),
         "pytorch_optimizer DiffGrad(0.01, (0.9, 0.99), rectify=True), likewise"),
    Case("grams", "grams(lr = 0.01)", torch_walk(lambda p: po.Grams(p, 0.01)), "pytorch_optimizer Grams(0.01)", signs=0.01),
    Case("grams_decay", "grams(lr = 0.01, beta2 = 0.95, eps = 1e-3, weight_decay = 0.1)", torch_walk(lambda p: po.Grams(p, 0.01, (0.9, 0.95), 0.1, eps=1e-3)), "pytorch_optimizer Grams(0.01, (0.9, 0.95), 0.1, eps=1e-3)", signs=0.01),
    Case("ano", "ano(lr = 0.01)", torch_walk(lambda p: po.Ano(p, 0.01)), "pytorch_optimizer Ano(0.01)", signs=0.01, problem="bowl"),
    Case("ano_logarithmic", "ano(lr = 0.01, beta2 = 0.8, weight_decay = 0.1, logarithmic = true)", torch_walk(lambda p: po.Ano(p, 0.01, (0.92, 0.8), 0.1, logarithmic_schedule=True)),
         "pytorch_optimizer Ano(0.01, (0.92, 0.8), 0.1, logarithmic_schedule=True)", signs=0.01, problem="bowl"),
    Case("stable_adamw", "stable_adamw(lr = 0.01, weight_decay = 0.1)", torch_walk(lambda p: po.StableAdamW(p, 0.01, weight_decay=0.1)), "pytorch_optimizer StableAdamW(0.01, weight_decay=0.1)"),
    Case("stable_adamw_eps", "stable_adamw(lr = 0.01, beta2 = 0.9, eps = 1e-2, weight_decay = 0.0)", torch_walk(lambda p: po.StableAdamW(p, 0.01, (0.9, 0.9), weight_decay=0.0, eps=1e-2)),
         "pytorch_optimizer StableAdamW(0.01, (0.9, 0.9), weight_decay=0, eps=1e-2)"),
    Case("exadam", "exadam(lr = 0.01)", torch_walk(lambda p: po.EXAdam(p, 0.01)), "pytorch_optimizer EXAdam(0.01)"),
    Case("exadam_decay", "exadam(lr = 0.01, beta2 = 0.9, eps = 1e-3, weight_decay = 0.1)", torch_walk(lambda p: po.EXAdam(p, 0.01, (0.9, 0.9), 0.1, eps=1e-3)), "pytorch_optimizer EXAdam(0.01, (0.9, 0.9), 0.1, eps=1e-3)"),
    Case("adai", "adai(lr = 0.1)", torch_walk(lambda p: po.Adai(p, 0.1)), "pytorch_optimizer Adai(0.1)"),
    Case("adai_dampening", "adai(lr = 0.1, beta0 = 0.2, beta2 = 0.9, dampening = 0.4, weight_decay = 0.1)",
         torch_walk(lambda p: po.Adai(p, 0.1, (0.2, 0.9), 0.1, True, dampening=0.4)), "pytorch_optimizer Adai(0.1, (0.2, 0.9), 0.1, weight_decouple=True, dampening=0.4)"),
    Case("adai_stable", "adai(lr = 0.1, weight_decay = 0.1)", torch_walk(lambda p: po.Adai(p, 0.1, weight_decay=0.1, weight_decouple=True, stable_weight_decay=True)),
         "pytorch_optimizer Adai(0.1, weight_decay=0.1, weight_decouple=True, stable_weight_decay=True)"),
    Case("avagrad", "avagrad(lr = 0.1)", avagrad(0.1), "the paper in NumPy"),
    Case("avagrad_authors", 'avagrad(lr = 0.1, beta2 = 0.95, eps = 0.02, weight_decay = 0.1, variant = "authors")', torch_walk(lambda p: po.AvaGrad(p, 0.1, (0.9, 0.95), 0.1, eps=0.02)),
         "pytorch_optimizer AvaGrad(0.1, (0.9, 0.95), 0.1, eps=0.02)"),
    Case("padam", "padam(lr = 0.05)", torch_walk(lambda p: po.PAdam(p, 0.05)), "pytorch_optimizer PAdam(0.05)"),
    Case("padam_eighth", "padam(lr = 0.05, beta2 = 0.95, partial = 0.125, eps = 1e-3, weight_decay = 0.1)", torch_walk(lambda p: po.PAdam(p, 0.05, (0.9, 0.95), 0.125, 0.1, True, eps=1e-3)),
         "pytorch_optimizer PAdam(0.05, (0.9, 0.95), 0.125, 0.1, weight_decouple=True, eps=1e-3)"),
    Case("adashift", "adashift(lr = 0.01, keep = 5)", torch_walk(lambda p: po.AdaShift(p, 0.01, keep_num=5)), "pytorch_optimizer AdaShift(0.01, keep_num=5)"),
    Case("adashift_elements", "adashift(lr = 0.01, beta1 = 0.8, beta2 = 0.95, eps = 1e-3, spatial = false)", torch_walk(lambda p: po.AdaShift(p, 0.01, (0.8, 0.95), 10, lambda x: x, eps=1e-3)),
         "pytorch_optimizer AdaShift(0.01, (0.8, 0.95), reduce_func=identity, eps=1e-3)"),
    Case("fadam", "fadam(lr = 0.01)", torch_walk(lambda p: po.FAdam(p, 0.01, momentum_dtype=F64, fim_dtype=F64)), "pytorch_optimizer FAdam(0.01)"),
    Case("fadam_eps", "fadam(lr = 0.01, beta2 = 0.95, eps = 0.01, eps2 = 0.005, clip = 0.8, p = 0.4, weight_decay = 0.01)",
         torch_walk(lambda p: po.FAdam(p, 0.01, (0.9, 0.95), 0.01, 0.8, 0.4, 0.01, F64, F64, eps_2=0.005)), "pytorch_optimizer FAdam(0.01, (0.9, 0.95), 0.01, 0.8, 0.4, 0.01, eps_2=0.005)"),
    Case("amos", "amos(lr = 0.05)", channels_first(torch_walk(lambda p: po.Amos(p, 0.05))), "pytorch_optimizer Amos(0.05), channels first", leaves=ALL),
    Case("amos_momentum", "amos(lr = 0.05, beta = 0.98, momentum = 0.9, extra_l2 = 0.01, c = 0.5, d = 0.3)", channels_first(torch_walk(lambda p: po.Amos(p, 0.05, 0.98, 0.9, 0.01, 0.5, 0.3))),
         "pytorch_optimizer Amos(0.05, 0.98, 0.9, 0.01, 0.5, 0.3), channels first", leaves=ALL),
    Case("spam", "spam(lr = 0.01, threshold = 20.0, warmup = 6, wait = 4, reset = 15)", torch_walk(lambda p: po.SPAM(p, 0.01, threshold=20, warmup_epoch=6, grad_accu_steps=4, update_proj_gap=15)),
         "pytorch_optimizer SPAM(0.01, threshold=20, warmup_epoch=6, grad_accu_steps=4, update_proj_gap=15)", leaves=ALL),
    Case("spam_decay", "spam(lr = 0.01, beta2 = 0.95, weight_decay = 0.1)", torch_walk(lambda p: po.SPAM(p, 0.01, (0.9, 0.95), weight_decay=0.1)), "pytorch_optimizer SPAM(0.01, (0.9, 0.95), weight_decay=0.1)"),
    Case("stable_spam", "stable_spam(lr = 0.01, reset = 20)", torch_walk(lambda p: po.StableSPAM(p, 0.01, update_proj_gap=20)), "pytorch_optimizer StableSPAM(0.01, update_proj_gap=20)"),
    Case("stable_spam_scale", f"stable_spam(lr = 0.01, beta2 = 0.95, theta = 0.9, eps = 1e-4, weight_decay = 0.1, reset = 15, scale = if step < 29 {{ {COSINE} }} else {{ 0.6 }})",
         torch_walk(lambda p: po.StableSPAM(p, 0.01, (0.9, 0.95), theta=0.9, t_max=30, eta_min=0.6, weight_decay=0.1, update_proj_gap=15, eps=1e-4)),
         "pytorch_optimizer StableSPAM(0.01, (0.9, 0.95), theta=0.9, t_max=30, eta_min=0.6, weight_decay=0.1, update_proj_gap=15, eps=1e-4)"),
    Case("centralize", "centralize() |> sgd(lr = 0.1)", channels_first(torch_walk(lambda p: Centralized(p, 0.1))), "pytorch_optimizer centralize_gradient before torch SGD(0.1), channels first", leaves=ALL),
    Case("centralize_first", "centralize(channel = 0, conv_only = true) |> sgd(lr = 0.1)", torch_walk(lambda p: Centralized(p, 0.1, conv_only=True)),
         "pytorch_optimizer centralize_gradient(gc_conv_only=True) before torch SGD(0.1)", leaves=ALL),
    Case("ranger", "ranger(lr = 0.01)", channels_first(torch_walk(lambda p: po.Ranger(p, 0.01, degenerated_to_sgd=True))), "pytorch_optimizer Ranger(0.01, degenerated_to_sgd=True), channels first", leaves=ALL),
    Case("ranger_decay", "ranger(lr = 0.01, beta2 = 0.95, weight_decay = 0.1, k = 4, alpha = 0.3)", channels_first(torch_walk(lambda p: po.Ranger(p, 0.01, (0.95, 0.95), 0.3, 4, degenerated_to_sgd=True, weight_decay=0.1))),
         "pytorch_optimizer Ranger(0.01, (0.95, 0.95), 0.3, 4, degenerated_to_sgd=True, weight_decay=0.1), channels first", leaves=ALL),
]
