"""SGD, signs, and what stands closest to them."""
import optax
import torch
from pytorch_optimizer import SGDW, SignSGD

from .common import Case, optax_walk, torch_walk

T = torch.optim

CASES = [
    Case("sgd", "sgd(lr = 0.1)", optax_walk(lambda: optax.sgd(0.1)), "Optax sgd(0.1)"),
    Case("sgd_momentum", "sgd(lr = 0.1, momentum = 0.9)", torch_walk(lambda p: T.SGD(p, 0.1, 0.9)), "torch SGD(0.1, momentum=0.9)"),
    Case("sgd_nesterov", "sgd(lr = 0.1, momentum = 0.9, nesterov = true)", optax_walk(lambda: optax.sgd(0.1, 0.9, True)), "Optax sgd(0.1, 0.9, nesterov=True)"),
    Case("sgd_loss", "sgd(lr = 0.1, momentum = 0.9)", torch_walk(lambda p: T.SGD(p, 0.1, 0.9)), "torch SGD(0.1, momentum=0.9)", leaves="abcdefhi", problem="bowl"),
    Case("sgd_dampening", 'sgd(lr = 0.1, momentum = 0.9, dampening = 0.3, variant = "torch")', torch_walk(lambda p: T.SGD(p, 0.1, 0.9, dampening=0.3)), "torch SGD(momentum=0.9, dampening=0.3)"),
    Case("sgd_decay", "sgd(lr = 0.1, momentum = 0.9, weight_decay = 0.05)", torch_walk(lambda p: T.SGD(p, 0.1, 0.9, weight_decay=0.05)), "torch SGD(momentum=0.9, weight_decay=0.05)"),
    Case("sgd_maximize", "sgd(lr = 0.1, momentum = 0.9, weight_decay = 0.05, maximize = true)", torch_walk(lambda p: T.SGD(p, 0.1, 0.9, weight_decay=0.05, maximize=True)),
         "torch SGD(momentum=0.9, weight_decay=0.05, maximize=True)"),
    Case("sgd_all", 'sgd(lr = 0.1, momentum = 0.9, nesterov = true, weight_decay = 0.05, maximize = true)',
         torch_walk(lambda p: T.SGD(p, 0.1, 0.9, weight_decay=0.05, nesterov=True, maximize=True)), "torch SGD(momentum=0.9, nesterov=True, weight_decay=0.05, maximize=True)"),
    Case("maximize", "maximize() |> sgd(lr = 0.1)", torch_walk(lambda p: T.SGD(p, 0.1, maximize=True)), "torch SGD(maximize=True)"),
    Case("sgdw", "sgdw(lr = 0.1, momentum = 0.9, weight_decay = 0.01)", torch_walk(lambda p: SGDW(p, 0.1, 0.9, weight_decay=0.01)), "pytorch_optimizer SGDW(momentum=0.9, weight_decay=0.01)"),
    Case("sgdw_dampening", 'sgdw(lr = 0.1, momentum = 0.9, dampening = 0.2, weight_decay = 0.01, variant = "torch")',
         torch_walk(lambda p: SGDW(p, 0.1, 0.9, dampening=0.2, weight_decay=0.01)), "pytorch_optimizer SGDW(momentum=0.9, dampening=0.2, weight_decay=0.01)"),
    Case("noisy_sgd", "noisy_sgd(lr = 0.1, eta = 0.0)", optax_walk(lambda: optax.noisy_sgd(0.1, eta=0.0, key=0)), "Optax noisy_sgd(0.1, eta=0); the noise has a test of its own"),
    Case("sign_sgd", "sign_sgd(lr = 0.01)", optax_walk(lambda: optax.sign_sgd(0.01)), "Optax sign_sgd(0.01)", signs=0.01),
    Case("signum", "signum(lr = 0.01)", optax_walk(lambda: optax.signum(0.01)), "Optax signum(0.01)", signs=0.01),
    Case("signum_decay", "signum(lr = 0.01, beta = 0.8, weight_decay = 0.1)", torch_walk(lambda p: SignSGD(p, 0.01, 0.8, weight_decay=0.1)), "pytorch_optimizer SignSGD(momentum=0.8, weight_decay=0.1)",
         signs=0.01),
    Case("rprop", "rprop(lr = 0.01)", torch_walk(lambda p: T.Rprop(p, 0.01)), "torch Rprop(0.01)", signs=0.01),
    Case("rprop_optax", 'rprop(lr = 0.02, eta_minus = 0.4, eta_plus = 1.5, min_step = 0.005, max_step = 0.1, variant = "optax")', optax_walk(lambda: optax.rprop(0.02, 0.4, 1.5, 0.005, 0.1)), "Optax rprop(0.02, 0.4, 1.5, 0.005, 0.1)",
         signs=0.02),
    Case("rprop_loss", "rprop(lr = 0.02)", torch_walk(lambda p: T.Rprop(p, 0.02)), "torch Rprop(0.02)", signs=0.02, problem="bowl"),
    Case("asgd", "asgd(lr = 0.05, t0 = 10.0)", torch_walk(lambda p: T.ASGD(p, 0.05, t0=10)), "torch ASGD(0.05, t0=10)"),
    Case("asgd_average", "asgd(lr = 0.05, lambda = 0.1, alpha = 0.6, t0 = 10.0)", torch_walk(lambda p: T.ASGD(p, 0.05, lambd=0.1, alpha=0.6, t0=10), read=lambda o, ps: [o.state[p]["ax"] for p in ps]),
         "torch ASGD(0.05, lambd=0.1, alpha=0.6, t0=10), its averages", evaluated=True),
    Case("optimistic_gradient_descent", "optimistic_gradient_descent(lr = 0.05)", optax_walk(lambda: optax.optimistic_gradient_descent(0.05)), "Optax optimistic_gradient_descent(0.05)"),
    Case("optimistic_gradient_descent_partly", "optimistic_gradient_descent(lr = 0.05, alpha = 0.8, beta = 0.3)", optax_walk(lambda: optax.optimistic_gradient_descent(0.05, 0.8, 0.3)),
         "Optax optimistic_gradient_descent(0.05, 0.8, 0.3)", problem="bowl"),
    Case("optimistic", "optimistic(adam(lr = 1.0), lr = 0.01)", optax_walk(lambda: optax.optimistic_adam_v2(0.01, nesterov=False)), "Optax optimistic_adam_v2(0.01, nesterov=False)"),
    Case("optimistic_adam", "optimistic_adam(lr = 0.01)", optax_walk(lambda: optax.optimistic_adam_v2(0.01)), "Optax optimistic_adam_v2(0.01)"),
    Case("polyak_sgd", "polyak_sgd(max_lr = 0.5)", optax_walk(lambda: optax.polyak_sgd(0.5), extra=True), "Optax polyak_sgd(0.5)", problem="bowl"),
    Case("polyak_sgd_plus", 'polyak_sgd(max_lr = 1.0, f_min = 3.0, eps = 0.1, variant = "sps+")', optax_walk(lambda: optax.polyak_sgd(1.0, 1.0, 3.0, 0.1, "sps+"), extra=True),
         "Optax polyak_sgd(1, f_min=3, eps=0.1, variant='sps+')", problem="bowl"),
]
