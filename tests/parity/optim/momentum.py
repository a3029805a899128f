"""Momenta, signs and other rules without the second moment of Adam."""
import numpy as np
import pytorch_optimizer as po
import torch

from .adam import bare
from .common import ALL, Case, Problem, leaf_walk, torch_walk


def layout(x):
    """Our axes in torch's order: the output channel first, then the input channel, then the rest."""
    n = np.ndim(x)
    return np.ascontiguousarray(np.transpose(x, (n - 1, n - 2, *range(n - 2)))) if n > 1 else x


def back(x):
    n = np.ndim(x)
    return np.transpose(x, (*range(2, n), 1, 0)) if n > 1 else x


def channels_first(walk):
    """A walk on leaves in torch's layout, with its weights in ours."""

    def run(problem):
        turned = Problem.__new__(Problem)
        turned.leaves, turned.kind = problem.leaves, problem.kind
        turned.start = {k: layout(v) for k, v in problem.start.items()}
        turned.curvature = {k: layout(v) for k, v in problem.curvature.items()}
        turned.gradients = {k: np.stack([layout(x) for x in v]) for k, v in problem.gradients.items()}
        turned.target = {k: np.stack([layout(x) for x in v]) for k, v in problem.target.items()}
        return [{k: back(v) for k, v in row.items()} for row in walk(turned)]

    return run


def qhadam(lr, b1, b2, nu1, nu2, eps=1e-8):
    """The authors' running weights, in f64."""

    def rule(w, g, s, t):
        s["a"], s["b"] = b1 * s.get("a", 0.0) + 1, b2 * s.get("b", 0.0) + 1
        s["m"] = s.get("m", 0.0) + (g - s.get("m", 0.0)) / s["a"]
        s["v"] = s.get("v", 0.0) + (g * g - s.get("v", 0.0)) / s["b"]
        return w - lr * (nu1 * s["m"] + (1 - nu1) * g) / (np.sqrt(nu2 * s["v"] + (1 - nu2) * g * g) + eps)

    return leaf_walk(rule)


def ftrl(lr, power, beta, l1, l2):
    """Algorithm 1 of McMahan et al. 2013 per coordinate, with the power of the learning rate of TensorFlow's form."""

    def rule(w, g, s, t):
        n, z = s.get("n", np.zeros_like(w)), s.get("z", np.zeros_like(w))
        sigma = ((n + g * g) ** -power - n**-power) / lr
        s["z"], s["n"] = z + g - sigma * w, n + g * g
        z, n = s["z"], s["n"]
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(np.abs(z) <= l1, 0.0, -(z - np.sign(z) * l1) / ((beta + np.sqrt(n)) / lr + l2))

    return leaf_walk(rule)


CASES = [
    Case("aggmo", "aggmo(lr = 0.05)", torch_walk(lambda p: po.AggMo(p, 0.05)), "pytorch_optimizer AggMo(0.05)"),
    Case("aggmo_two", "add_decayed_weights(0.1) |> aggmo(lr = 0.02, betas = [0.5, 0.95])", torch_walk(lambda p: po.AggMo(p, 0.02, (0.5, 0.95), weight_decay=0.1)), "pytorch_optimizer AggMo(0.02, (0.5, 0.95), weight_decay=0.1)"),
    Case("qhm", "qhm(lr = 0.1, nu = 0.7, momentum = 0.99)", torch_walk(lambda p: po.QHM(p, 0.1, 0.99, 0.7)), "pytorch_optimizer QHM(0.1, 0.99, 0.7)"),
    Case("qhadam", "qhadam(lr = 0.01, nu1 = 0.7)", qhadam(0.01, 0.995, 0.999, 0.7, 1.0), "the paper in NumPy"),
    Case("qhadam_both", "qhadam(lr = 0.01, beta1 = 0.9, beta2 = 0.99, nu1 = 0.6, nu2 = 0.8)", qhadam(0.01, 0.9, 0.99, 0.6, 0.8), "the paper in NumPy"),
    Case("qhadam_f32", "qhadam(lr = 0.01, beta1 = 0.9, beta2 = 0.99, nu1 = 0.6, nu2 = 0.8)", torch_walk(lambda p: po.QHAdam(p, 0.01, (0.9, 0.99), (0.6, 0.8))),
         "pytorch_optimizer QHAdam(0.01, (0.9, 0.99), (0.6, 0.8)), whose weights of the means are in f32", tolerance=1e-7),
    Case("pid", "pid(lr = 0.01)", torch_walk(lambda p: po.PID(p, 0.01, 0.9)), "pytorch_optimizer PID(0.01, 0.9)"),
    Case("pid_dampening", "add_decayed_weights(0.1) |> pid(lr = 0.01, momentum = 0.8, dampening = 0.3, integral = 2.0, derivative = 3.0)",
         torch_walk(lambda p: po.PID(p, 0.01, 0.8, 0.3, 3.0, 2.0, weight_decay=0.1)), "pytorch_optimizer PID(0.01, 0.8, 0.3, 3, 2, weight_decay=0.1)"),
    Case("pnm", "pnm(lr = 0.05)", torch_walk(lambda p: po.PNM(p, 0.05)), "pytorch_optimizer PNM(0.05)"),
    Case("pnm_decay", "pnm(lr = 0.05, beta1 = 0.8, beta0 = 0.6, weight_decay = 0.1)", torch_walk(lambda p: po.PNM(p, 0.05, (0.8, 0.6), weight_decay=0.1)), "pytorch_optimizer PNM(0.05, (0.8, 0.6), weight_decay=0.1)"),
    Case("adapnm", "adapnm(lr = 0.01)", bare(lambda p: po.AdaPNM(p, 0.01, foreach=False)), "pytorch_optimizer AdaPNM(0.01), without the 1e-15 it adds to v"),
    Case("adapnm_decay", "adapnm(lr = 0.01, beta2 = 0.95, beta0 = 0.5, weight_decay = 0.1, amsgrad = false)",
         bare(lambda p: po.AdaPNM(p, 0.01, (0.9, 0.95, 0.5), weight_decay=0.1, ams_bound=False, foreach=False)), "pytorch_optimizer AdaPNM(0.01, (0.9, 0.95, 0.5), weight_decay=0.1, ams_bound=False), likewise"),
    Case("accsgd", "accsgd(lr = 0.001)", torch_walk(lambda p: po.AccSGD(p, 0.001)), "pytorch_optimizer AccSGD(0.001)"),
    Case("accsgd_kappa", "accsgd(lr = 0.01, kappa = 50.0, xi = 5.0, c = 0.6)", torch_walk(lambda p: po.AccSGD(p, 0.01, 50.0, 5.0, 0.6)), "pytorch_optimizer AccSGD(0.01, 50, 5, 0.6)", problem="bowl"),
    Case("sgd_sai", "sgd_sai(lr = 0.001)", torch_walk(lambda p: po.SGDSaI(p, 0.001, weight_decay=0.0)), "pytorch_optimizer SGDSaI(0.001, weight_decay=0)", leaves=ALL),
    Case("sgd_sai_decay", "sgd_sai(lr = 0.01, momentum = 0.8, weight_decay = 0.1, eps = 0.1)", torch_walk(lambda p: po.SGDSaI(p, 0.01, 0.8, 0.1, eps=0.1)), "pytorch_optimizer SGDSaI(0.01, 0.8, 0.1, eps=0.1)", leaves=ALL),
    Case("srmm", "srmm(lr = 0.05)", torch_walk(lambda p: po.SRMM(p, 0.05)), "pytorch_optimizer SRMM(0.05)"),
    Case("srmm_memory", "srmm(lr = 0.05, beta = 0.8, memory = 7)", torch_walk(lambda p: po.SRMM(p, 0.05, 0.8, 7)), "pytorch_optimizer SRMM(0.05, 0.8, 7)"),
    Case("tam", "tam(lr = 0.02)", torch_walk(lambda p: po.TAM(p, 0.02)), "pytorch_optimizer TAM(0.02)", leaves=ALL),
    Case("tam_decay", "tam(lr = 0.02, momentum = 0.8, decay = 0.7, weight_decay = 0.1, eps = 0.01)", torch_walk(lambda p: po.TAM(p, 0.02, 0.8, 0.7, 0.1, eps=0.01)), "pytorch_optimizer TAM(0.02, 0.8, 0.7, 0.1, eps=0.01)"),
    Case("adatam", "adatam(lr = 0.002)", torch_walk(lambda p: po.AdaTAM(p, 0.002)), "pytorch_optimizer AdaTAM(0.002)", leaves=ALL),
    Case("adatam_decay", "adatam(lr = 0.002, beta2 = 0.95, decay = 0.7, weight_decay = 0.1)", torch_walk(lambda p: po.AdaTAM(p, 0.002, (0.9, 0.95), 0.7, 0.1)), "pytorch_optimizer AdaTAM(0.002, (0.9, 0.95), 0.7, 0.1)"),
    Case("gravity", "gravity(lr = 0.1, alpha = 0.0)", torch_walk(lambda p: po.Gravity(p, 0.1, 0.0)), "pytorch_optimizer Gravity(0.1, alpha=0)"),
    Case("a2grad", "a2grad(beta = 1.0, lips = 10.0)", torch_walk(lambda p: po.A2Grad(p, beta=1.0, lips=10.0)), "pytorch_optimizer A2Grad(beta=1, lips=10)"),
    Case("a2grad_inc", 'a2grad(beta = 1.0, lips = 5.0, variant = "inc")', torch_walk(lambda p: po.A2Grad(p, beta=1.0, lips=5.0, variant="inc")), "pytorch_optimizer A2Grad(beta=1, lips=5, variant='inc')"),
    Case("a2grad_exp", 'a2grad(beta = 2.0, lips = 5.0, rho = 0.8, variant = "exp")', torch_walk(lambda p: po.A2Grad(p, beta=2.0, lips=5.0, rho=0.8, variant="exp")), "pytorch_optimizer A2Grad(beta=2, lips=5, rho=0.8, variant='exp')"),
    Case("ftrl", "ftrl(lr = 0.1, beta = 1.0, l1 = 0.5, l2 = 0.1)", torch_walk(lambda p: po.FTRL(p, 0.1, -0.5, 1.0, 0.5, 0.1)), "pytorch_optimizer FTRL(0.1, -0.5, 1, 0.5, 0.1)"),
    Case("ftrl_power", "ftrl(lr = 0.1, power = -0.6, beta = 1.0, l1 = 0.2)", ftrl(0.1, -0.6, 1.0, 0.2, 0.0), "the paper in NumPy"),
    Case("kate", "kate(lr = 0.05)", torch_walk(lambda p: po.Kate(p, 0.05)), "pytorch_optimizer Kate(0.05)"),
    Case("kate_decay", "kate(lr = 0.05, delta = 0.1, weight_decay = 0.1, eps = 1e-4)", torch_walk(lambda p: po.Kate(p, 0.05, 0.1, 0.1, eps=1e-4)), "pytorch_optimizer Kate(0.05, 0.1, 0.1, eps=1e-4)"),
    Case("msvag", "msvag(lr = 0.05)", torch_walk(lambda p: po.MSVAG(p, 0.05)), "pytorch_optimizer MSVAG(0.05)"),
    Case("nero", "nero(lr = 0.01)", channels_first(torch_walk(lambda p: po.Nero(p, 0.01))), "pytorch_optimizer Nero(0.01), channels first", leaves="abcdfhi"),
    Case("nero_free", "nero(lr = 0.05, beta = 0.9, eps = 1e-3, constraints = false)", channels_first(torch_walk(lambda p: po.Nero(p, 0.05, 0.9, False, eps=1e-3))), "pytorch_optimizer Nero(0.05, 0.9, False, eps=1e-3), channels first",
         leaves="abcdfhi"),
    Case("focus", "focus(lr = 0.01, weight_decay = 0.1)", torch_walk(lambda p: po.FOCUS(p, 0.01, weight_decay=0.1)), "pytorch_optimizer FOCUS(0.01, weight_decay=0.1)", signs=0.01),
    Case("tiger", "tiger(lr = 0.01, weight_decay = 0.1)", torch_walk(lambda p: po.Tiger(p, 0.01, weight_decay=0.1)), "pytorch_optimizer Tiger(0.01, weight_decay=0.1)", signs=0.01),
]
