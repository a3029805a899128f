"""Adagrad, Adadelta and RMSProp."""
import numpy as np
import optax
import torch

from .common import Case, leaf_walk, optax_walk, torch_walk

T = torch.optim


def rmsprop_tf(lr, momentum, alpha=0.9, eps=1e-10, centered=False):
    """TensorFlow 1's RMSProp, as the documentation of `tf.compat.v1.train.RMSPropOptimizer` writes it."""

    def rule(w, g, s, t):
        s["mean_square"] = alpha * s.get("mean_square", np.ones_like(w)) + (1 - alpha) * g * g
        spread = s["mean_square"]
        if centered:
            s["mean"] = alpha * s.get("mean", 0.0) + (1 - alpha) * g
            spread = spread - s["mean"] ** 2
        s["mom"] = momentum * s.get("mom", 0.0) + lr * g / np.sqrt(spread + eps)
        return w - s["mom"]

    return leaf_walk(rule)


CASES = [
    Case("adagrad", "adagrad(lr = 0.1)", optax_walk(lambda: optax.adagrad(0.1)), "Optax adagrad(0.1)"),
    Case("adagrad_eps", "adagrad(lr = 0.1, initial = 0.0, eps = 1e-3)", optax_walk(lambda: optax.adagrad(0.1, 0.0, 1e-3)), "Optax adagrad(0.1, 0, 1e-3)"),
    Case("adagrad_torch", 'adagrad(lr = 0.1, initial = 0.0, eps = 1e-10, variant = "torch")', torch_walk(lambda p: T.Adagrad(p, 0.1)), "torch Adagrad(0.1)"),
    Case("adagrad_lr_decay", 'add_decayed_weights(0.1) |> adagrad(lr = 0.1, lr_decay = 0.1, initial = 0.2, eps = 1e-3, variant = "torch")',
         torch_walk(lambda p: T.Adagrad(p, 0.1, 0.1, 0.1, 0.2, 1e-3)), "torch Adagrad(0.1, lr_decay=0.1, weight_decay=0.1, initial_accumulator_value=0.2, eps=1e-3)"),
    Case("adadelta", "adadelta(lr = 1.0)", torch_walk(lambda p: T.Adadelta(p)), "torch Adadelta(1.0)"),
    Case("adadelta_optax", "adadelta(lr = 10.0, rho = 0.95, eps = 1e-4)", optax_walk(lambda: optax.adadelta(10.0, 0.95, 1e-4)), "Optax adadelta(10, 0.95, 1e-4)"),
    Case("adadelta_decay", "add_decayed_weights(0.1) |> adadelta(lr = 5.0)", torch_walk(lambda p: T.Adadelta(p, 5.0, weight_decay=0.1)), "torch Adadelta(5, weight_decay=0.1)"),
    Case("rmsprop", "rmsprop(lr = 0.01)", optax_walk(lambda: optax.rmsprop(0.01)), "Optax rmsprop(0.01)"),
    Case("rmsprop_momentum", "rmsprop(lr = 0.01, momentum = 0.9)", optax_walk(lambda: optax.rmsprop(0.01, momentum=0.9)), "Optax rmsprop(0.01, momentum=0.9)"),
    Case("rmsprop_nesterov", "rmsprop(lr = 0.01, momentum = 0.9, nesterov = true, centered = true, eps = 1e-3)", optax_walk(lambda: optax.rmsprop(0.01, eps=1e-3, centered=True, momentum=0.9, nesterov=True)),
         "Optax rmsprop(0.01, eps=1e-3, centered=True, momentum=0.9, nesterov=True)"),
    Case("rmsprop_corrected", "rmsprop(lr = 0.01, eps = 1e-4, initial = 0.5, bias_correction = true, eps_in_sqrt = false)",
         optax_walk(lambda: optax.rmsprop(0.01, eps=1e-4, initial_scale=0.5, eps_in_sqrt=False, bias_correction=True)), "Optax rmsprop(0.01, eps=1e-4, initial_scale=0.5, eps_in_sqrt=False, bias_correction=True)"),
    Case("rmsprop_torch", "rmsprop(lr = 0.01, decay = 0.99, momentum = 0.9, eps_in_sqrt = false, lr_in_momentum = false)", torch_walk(lambda p: T.RMSprop(p, 0.01, momentum=0.9)), "torch RMSprop(0.01, momentum=0.9)"),
    Case("rmsprop_torch_centered", "add_decayed_weights(0.1) |> rmsprop(lr = 0.01, decay = 0.9, eps = 1e-3, eps_in_sqrt = false, centered = true)",
         torch_walk(lambda p: T.RMSprop(p, 0.01, 0.9, 1e-3, weight_decay=0.1, centered=True)), "torch RMSprop(0.01, 0.9, 1e-3, weight_decay=0.1, centered=True)"),
    Case("rmsprop_tf", "rmsprop_tf(lr = 0.01, momentum = 0.9)", rmsprop_tf(0.01, 0.9), "TensorFlow 1's formulas in NumPy (lr 0.01, momentum 0.9)"),
    Case("rmsprop_tf_centered", "rmsprop_tf(lr = 0.01, eps = 1e-3, momentum = 0.8, centered = true)", rmsprop_tf(0.01, 0.8, eps=1e-3, centered=True), "TensorFlow 1's formulas in NumPy (centered)"),
]
