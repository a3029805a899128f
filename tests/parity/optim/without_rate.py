"""Rules that find their own step size, from distances, bets or the loss."""
import numpy as np
import optax
import pytorch_optimizer as po
from optax import contrib

from .common import Case, optax_walk, torch_walk, tree_walk, wide


def ldog(w, g, s, t, _, initial=1e-3, eps=1e-8):
    """Ivgi, Hinder and Carmon 2023, section 4.1: DoG for each leaf."""
    s.setdefault("p0", {k: v.copy() for k, v in w.items()})
    r = s.setdefault("r", {k: initial * (1 + np.sqrt(np.sum(v**2))) for k, v in w.items()})
    q = s.setdefault("q", dict.fromkeys(w, 0.0))
    new = {}
    for k in w:
        r[k] = max(r[k], np.sqrt(np.sum((w[k] - s["p0"][k]) ** 2)))
        q[k] += np.sum(g[k] ** 2)
        new[k] = w[k] - r[k] / np.sqrt(q[k] + eps) * g[k]
    return new


def prodigy_paper(w, g, s, t, _, beta1=0.9, beta2=0.999, eps=1e-8, d0=1e-3):
    """Mishchenko and Defazio 2023, algorithm 4, with the new estimate in the denominator as in the authors' code."""
    x0, d, r = s.setdefault("x0", dict(w)), s.get("d", d0), s.get("r", 0.0)
    m, v, z = (s.setdefault(n, {k: np.zeros_like(x) for k, x in w.items()}) for n in "mvz")
    b3 = np.sqrt(beta2)
    r = b3 * r + (1 - b3) * d**2 * sum(np.sum(g[k] * (x0[k] - w[k])) for k in w)
    for k in w:
        m[k] = beta1 * m[k] + (1 - beta1) * d * g[k]
        v[k] = beta2 * v[k] + (1 - beta2) * d**2 * g[k] ** 2
        z[k] = b3 * z[k] + (1 - b3) * d**2 * g[k]
    new = max(d, r / sum(np.abs(z[k]).sum() for k in w))
    s["d"], s["r"] = new, r
    return {k: w[k] - d * m[k] / (np.sqrt(v[k]) + new * eps) for k in w}


def dadapt_adan(w, g, s, t, _, betas=(0.98, 0.92, 0.99), eps=1e-8, d0=1e-3):
    """D-Adaptation as in the authors' code around the second moment of Xie et al. 2022, algorithm 1."""
    b1, b2, b3 = betas
    m, n, v, z = (s.setdefault(k, {k: np.zeros_like(x) for k, x in w.items()}) for k in ("m", "n", "v", "z"))
    last, d = s.get("last", g), s.get("d", d0)
    q = b3 * s.get("q", 0.0)
    weighted = size = 0.0
    for k in w:
        e = g[k] - last[k]
        m[k] = b1 * m[k] + (1 - b1) * d * g[k]
        n[k] = b2 * n[k] + (1 - b2) * d * e
        v[k] = b3 * v[k] + (1 - b3) * (g[k] + b2 * e) ** 2
        z[k] = b3 * z[k] + (1 - b3) * d * g[k]
        q += (1 - b3) * d**2 * np.sum(g[k] ** 2 / (np.sqrt(v[k]) + eps))
        weighted += np.sum(z[k] ** 2 / (np.sqrt(v[k]) + eps))
        size += np.sum(np.abs(z[k]))
    s["q"], s["d"], s["last"] = q, max(d, (weighted / (1 - b3) - q) / size), g
    return {k: (w[k] - (m[k] + b2 * n[k]) / (np.sqrt(v[k]) + eps)) / (1 + d * 0.1) for k in w}


CASES = [
    Case("cocob", "cocob(alpha = 10.0, weight_decay = 0.01)", optax_walk(lambda: contrib.cocob(alpha=10.0, weight_decay=0.01)), "Optax contrib.cocob(alpha=10, weight_decay=0.01)"),
    Case("dog", "dog(initial = 1e-3, weight_decay = 0.01)", optax_walk(lambda: contrib.dog(init_step=("heuristic", 1e-3), weight_decay=0.01)),
         "Optax contrib.dog(init_step=('heuristic', 1e-3), weight_decay=0.01)"),
    Case("dog_distance", 'dog(lr = 0.5, initial = 0.1, start = "distance")', optax_walk(lambda: contrib.dog(0.5, init_step=("distance", 0.1))),
         "Optax contrib.dog(0.5, init_step=('distance', 0.1))"),
    Case("dog_rate", 'dog(initial = 0.01, start = "learning_rate")', optax_walk(lambda: contrib.dog(init_step=("learning_rate", 0.01))), "Optax contrib.dog(init_step=('learning_rate', 0.01))"),
    Case("ldog", "ldog(initial = 1e-3)", tree_walk(ldog), "the paper's rule in NumPy, leaf by leaf"),
    Case("dowg", "dowg(initial = 0.01, weight_decay = 0.01)", optax_walk(lambda: contrib.dowg(init_estim_sq_dist=0.01, weight_decay=0.01)),
         "Optax contrib.dowg(init_estim_sq_dist=0.01, weight_decay=0.01)"),
    Case("prodigy", "prodigy(d0 = 1e-3, weight_decay = 0.1)", optax_walk(lambda: contrib.prodigy(estim_lr0=1e-3, weight_decay=0.1)), "Optax contrib.prodigy(estim_lr0=1e-3, weight_decay=0.1)",
         problem="bowl"),
    Case("prodigy_safeguard", "prodigy(lr = 0.5, d0 = 1e-3, beta3 = 0.95, coefficient = 0.5, safeguard_warmup = true)",
         optax_walk(lambda: contrib.prodigy(0.5, estim_lr0=1e-3, beta3=0.95, estim_lr_coef=0.5, safeguard_warmup=True)),
         "Optax contrib.prodigy(0.5, beta3=0.95, estim_lr_coef=0.5, safeguard_warmup=True)", problem="bowl"),
    Case("prodigy_growth", "prodigy(d0 = 1e-3, growth = 1.2, bias_correction = false)",
         wide(torch_walk(lambda p: po.Prodigy(p, 1.0, d0=1e-3, growth_rate=1.2, bias_correction=False, weight_decay=0.0, foreach=False))), "pytorch_optimizer Prodigy(d0=1e-3, growth_rate=1.2)",
         problem="bowl"),
    Case("prodigy_paper", "prodigy(d0 = 1e-3, bias_correction = false)", tree_walk(prodigy_paper), "the paper's algorithm 4 in NumPy", problem="bowl"),
    Case("mechanic_sgd", "mechanic(sgd(lr = 1.0), initial = 1e-3)", optax_walk(lambda: contrib.mechanize(optax.sgd(1.0), s_init=1e-3)), "Optax contrib.mechanize(sgd(1.0), s_init=1e-3)",
         problem="bowl"),
    Case("mechanic_adamw", "mechanic(adamw(lr = 0.1, weight_decay = 0.01), weight_decay = 0.0, bets = 4)",
         optax_walk(lambda: contrib.mechanize(optax.adamw(0.1, weight_decay=0.01), weight_decay=0.0, num_betas=4)), "Optax contrib.mechanize(adamw(0.1), weight_decay=0, num_betas=4)",
         problem="bowl"),
    Case("momo", "momo(lr = 0.5, weight_decay = 0.01)", optax_walk(lambda: contrib.momo(0.5, weight_decay=0.01), extra=True), "Optax contrib.momo(0.5, weight_decay=0.01)", problem="bowl"),
    Case("momo_bound", "momo(lr = 0.5, bound = 1.0, adapt_bound = true)", optax_walk(lambda: contrib.momo(0.5, lower_bound=1.0, adapt_lower_bound=True), extra=True),
         "Optax contrib.momo(0.5, lower_bound=1, adapt_lower_bound=True)", problem="bowl"),
    Case("momo_adam", "momo_adam(lr = 0.1, weight_decay = 0.01)", optax_walk(lambda: contrib.momo_adam(0.1, weight_decay=0.01), extra=True), "Optax contrib.momo_adam(0.1, weight_decay=0.01)",
         problem="bowl"),
    Case("momo_adam_bound", "momo_adam(lr = 0.1, bound = 1.0, adapt_bound = true)", optax_walk(lambda: contrib.momo_adam(0.1, lower_bound=1.0, adapt_lower_bound=True), extra=True),
         "Optax contrib.momo_adam(0.1, lower_bound=1, adapt_lower_bound=True)", problem="bowl"),
    Case("dadapt_adam", "dadapt_adam(d0 = 1e-3, weight_decay = 0.1)", optax_walk(lambda: contrib.dadapt_adamw(estim_lr0=1e-3, weight_decay=0.1)),
         "Optax contrib.dadapt_adamw(estim_lr0=1e-3, weight_decay=0.1)", problem="bowl"),
    Case("dadapt_adam_growth", "dadapt_adam(d0 = 1e-3, growth = 1.1, bias_correction = false)", wide(torch_walk(lambda p: po.DAdaptAdam(p, d0=1e-3, growth_rate=1.1, foreach=False))),
         "pytorch_optimizer DAdaptAdam(d0=1e-3, growth_rate=1.1)", problem="bowl"),
    Case("dadapt_sgd", "dadapt_sgd(d0 = 1e-3, weight_decay = 0.1)", wide(torch_walk(lambda p: po.DAdaptSGD(p, d0=1e-3, weight_decay=0.1, weight_decouple=True, foreach=False))),
         "pytorch_optimizer DAdaptSGD(d0=1e-3, weight_decay=0.1, weight_decouple=True), whose first norm is in f32", problem="bowl", tolerance=1e-6),
    Case("dadapt_adagrad", "dadapt_adagrad(d0 = 1e-3, momentum = 0.5, weight_decay = 0.1)",
         wide(torch_walk(lambda p: po.DAdaptAdaGrad(p, d0=1e-3, momentum=0.5, weight_decay=0.1, foreach=False))), "pytorch_optimizer DAdaptAdaGrad(d0=1e-3, momentum=0.5, weight_decay=0.1)",
         problem="bowl"),
    Case("dadapt_adan", "dadapt_adan(d0 = 1e-3, weight_decay = 0.1)", tree_walk(dadapt_adan), "the authors' rule with Adan's second moment in NumPy", problem="bowl"),
    Case("dadapt_adan_code", 'dadapt_adan(d0 = 1e-3, variant = "pytorch_optimizer")', wide(torch_walk(lambda p: po.DAdaptAdan(p, d0=1e-3, foreach=False))),
         "pytorch_optimizer DAdaptAdan(d0=1e-3)", problem="bowl"),
    Case("dadapt_lion", "dadapt_lion(d0 = 1e-3, weight_decay = 0.1)", wide(torch_walk(lambda p: po.DAdaptLion(p, d0=1e-3, weight_decay=0.1, weight_decouple=True, foreach=False))),
         "pytorch_optimizer DAdaptLion(d0=1e-3, weight_decay=0.1, weight_decouple=True)", problem="bowl", signs=1e-3),
]
