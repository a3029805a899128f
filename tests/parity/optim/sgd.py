"""SGD and what stands closest to it."""
import optax
import torch

from .common import Case, optax_walk, torch_walk

CASES = [
    Case("sgd", "sgd(lr = 0.1)", optax_walk(lambda: optax.sgd(0.1)), "Optax sgd(0.1)"),
    Case("sgd_momentum", "sgd(lr = 0.1, momentum = 0.9)", torch_walk(lambda p: torch.optim.SGD(p, 0.1, 0.9)), "torch SGD(0.1, momentum=0.9)"),
    Case("sgd_nesterov", "sgd(lr = 0.1, momentum = 0.9, nesterov = true)", optax_walk(lambda: optax.sgd(0.1, 0.9, True)), "Optax sgd(0.1, 0.9, nesterov=True)"),
    Case("sgd_bowl", "sgd(lr = 0.1, momentum = 0.9)", torch_walk(lambda p: torch.optim.SGD(p, 0.1, 0.9)), "torch SGD(0.1, momentum=0.9)", leaves="abcdefhi", problem="bowl"),
]
