"""Further rules of pytorch_optimizer."""
import pytorch_optimizer as po

from rules import adamp

from .adam import bare
from .common import ALL, Case, optax_walk, torch_walk
from .momentum import channels_first


def subset_norm(lr, wd, size):
    """AdamWSN with subset norms for matrices and more, Adam's moments for the rest."""

    def make(params):
        return po.AdamWSN([{"params": [p for p in params if p.ndim > 1], "sn": True}, {"params": [p for p in params if p.ndim < 2]}], lr, weight_decay=wd, subset_size=size)

    return torch_walk(make)


CASES = [
    Case("adamp_authors", "adamp(lr = 0.01, weight_decay = 0.1, delta = 1.0)", optax_walk(lambda: adamp(0.01, wd=0.1, delta=1.0)), "the authors' formulas in JAX", leaves=ALL),
    Case("adamp", "adamp(lr = 0.01, eps = 1e-20, weight_decay = 0.1, delta = 1.0)", channels_first(torch_walk(lambda p: po.AdamP(p, 0.01, weight_decay=0.1, delta=1.0, eps=1e-20))), "pytorch_optimizer AdamP(0.01, weight_decay=0.1, delta=1, eps=1e-20), channels first (its eps stands elsewhere)", leaves=ALL),
    Case("adamp_nesterov", "adamp(lr = 0.01, beta2 = 0.95, eps = 1e-20, wd_ratio = 0.5, weight_decay = 0.1, nesterov = true)",
         channels_first(torch_walk(lambda p: po.AdamP(p, 0.01, (0.9, 0.95), 0.1, wd_ratio=0.5, nesterov=True, eps=1e-20))), "pytorch_optimizer AdamP(0.01, (0.9, 0.95), 0.1, wd_ratio=0.5, nesterov=True, eps=1e-20), channels first", leaves=ALL),
    Case("vsgd", "vsgd(lr = 0.05)", torch_walk(lambda p: po.VSGD(p, 0.05)), "pytorch_optimizer VSGD(0.05)"),
    Case("vsgd_decay", "vsgd(lr = 0.05, noise = 5.0, strength = 0.01, tau1 = 0.7, tau2 = 0.8, weight_decay = 0.1, eps = 1e-4)", torch_walk(lambda p: po.VSGD(p, 0.05, 5.0, 0.01, 0.7, 0.8, 0.1, eps=1e-4)),
         "pytorch_optimizer VSGD(0.05, 5, 0.01, 0.7, 0.8, 0.1, eps=1e-4)"),
    Case("adasmooth", "adasmooth(lr = 0.02)", torch_walk(lambda p: po.AdaSmooth(p, 0.02)), "pytorch_optimizer AdaSmooth(0.02)"),
    Case("adasmooth_decay", "add_decayed_weights(0.1) |> adasmooth(lr = 0.02, beta1 = 0.3, beta2 = 0.9, eps = 1e-3)", torch_walk(lambda p: po.AdaSmooth(p, 0.02, (0.3, 0.9), 0.1, eps=1e-3)), "pytorch_optimizer AdaSmooth(0.02, (0.3, 0.9), 0.1, eps=1e-3)"),
    Case("dual_adam", "dual_adam(lr = 0.01, rate = 0.04)", torch_walk(lambda p: po.DualAdam(p, 0.01, switch_rate=0.04)), "pytorch_optimizer DualAdam(0.01, switch_rate=0.04)"),
    Case("dual_adam_decay", "dual_adam(lr = 0.01, beta2 = 0.95, rate = 0.3, eps = 1e-3, weight_decay = 0.1)", torch_walk(lambda p: po.DualAdam(p, 0.01, (0.9, 0.95), 0.3, 0.1, True, eps=1e-3)),
         "pytorch_optimizer DualAdam(0.01, (0.9, 0.95), 0.3, 0.1, weight_decouple=True, eps=1e-3)"),
    Case("rose", "rose(lr = 0.02)", channels_first(torch_walk(lambda p: po.ROSE(p, 0.02, 0.0))), "pytorch_optimizer ROSE(0.02, 0), channels first", leaves=ALL),
    Case("rose_plain", "rose(lr = 0.02, weight_decay = 0.1, centered = false, stabilized = false)", channels_first(torch_walk(lambda p: po.ROSE(p, 0.02, 0.1, weight_decouple=True, centralize=False, stabilize=False))),
         "pytorch_optimizer ROSE(0.02, 0.1, weight_decouple=True, centralize=False, stabilize=False), channels first", leaves=ALL),
    Case("aida", "aida(lr = 0.01)", bare(lambda p: po.Aida(p, 0.01, foreach=False)), "pytorch_optimizer Aida(0.01), without the 1e-15 it adds to s"),
    Case("aida_three", "aida(lr = 0.01, beta2 = 0.95, k = 3, xi = 1e-3, eps = 1e-4, weight_decay = 0.1)", bare(lambda p: po.Aida(p, 0.01, (0.9, 0.95), 3, 1e-3, 0.1, True, eps=1e-4, foreach=False)),
         "pytorch_optimizer Aida(0.01, (0.9, 0.95), 3, 1e-3, 0.1, weight_decouple=True, eps=1e-4), likewise"),
    Case("adamw_sn", "adamw_sn(lr = 0.01, weight_decay = 0.1)", subset_norm(0.01, 0.1, -1), "pytorch_optimizer AdamWSN(0.01, weight_decay=0.1), sn for matrices", leaves=ALL),
    Case("adamw_sn_subset", "adamw_sn(lr = 0.01, subset = 5)", subset_norm(0.01, 0.0, 5), "pytorch_optimizer AdamWSN(0.01, subset_size=5), sn for matrices", leaves=ALL),
]
