"""What a case of the trajectory tests is, the problems it runs on, and walks for references written with Optax, torch or NumPy.

A family is a module of this package with `CASES = [Case(...), ...]` and a docstring whose first line says what it holds.
"""
import os
from typing import Any, Callable, NamedTuple

os.environ["JAX_PLATFORMS"] = "cpu"
import jax
import numpy as np

jax.config.update("jax_enable_x64", True)
import jax.numpy as jnp
import optax
import torch

torch.set_num_threads(1)
# Scalars that torch keeps as tensors, such as the learning rate of ASGD, are in f64 too.
torch.set_default_dtype(torch.float64)
STEPS = 50
KEPT = [1, 2, 3, 5, 10, 20, 30, 40, 50]
# A matrix, a vector, one element, a block, a scalar; then a convolution (HWIO), a taller and a wider matrix for the rules that know matrices.
SHAPES = {"a": (3, 5), "b": (7,), "c": (1,), "d": (2, 3, 4), "e": (), "f": (3, 3, 2, 4), "h": (12, 5), "i": (4, 9)}
SMALL = "abcde"
ALL = "abcdefhi"


class Problem:
    """Start, gradients and a loss of 50 steps in f64, made of numbers that f32 holds.

    `given`: the gradient of step k does not depend on the weights; it spans four decades, and single entries, whole rows and whole leaves of it are 0.
    `bowl`: f_k(p) = 1/2 sum of curvature (p - target_k)^2, with curvatures over two decades, for rules that look at the loss, take gradients elsewhere or use the Hessian, which is diagonal.
    """

    def __init__(self, leaves, kind):
        numbers = dict(np.load(os.path.join(os.path.dirname(__file__), "../data/optim_problem.npz")))
        self.leaves, self.kind = leaves, kind
        cut, at = {}, 0
        for k, s in SHAPES.items():
            cut[k] = slice(at, at + int(np.prod(s)))
            at = cut[k].stop

        def leaf(name, k):
            x = numbers[name][..., cut[k]].astype(np.float64)
            return x.reshape((*x.shape[:-1], *SHAPES[k]))

        self.start = {k: leaf("start", k) for k in leaves}
        self.gradients = {k: leaf("gradients", k) for k in leaves}
        self.curvature = {k: leaf("curvature", k) for k in leaves}
        self.target = {k: leaf("target", k) for k in leaves}

    def gradient(self, step, params):
        """The gradient of this step (counted from 0) at `params`: arrays of NumPy, JAX or torch."""
        if self.kind == "given":
            return {k: params[k] * 0 + self._like(self.gradients[k][step], params[k]) for k in self.leaves}
        return {k: self._like(self.curvature[k], params[k]) * (params[k] - self._like(self.target[k][step], params[k])) for k in self.leaves}

    def loss(self, step, params):
        """The loss of this step at `params`; only `bowl` has one."""
        assert self.kind == "bowl"
        return sum((0.5 * self._like(self.curvature[k], params[k]) * (params[k] - self._like(self.target[k][step], params[k])) ** 2).sum() for k in self.leaves)

    @staticmethod
    def _like(x, model):
        return torch.from_numpy(np.array(x)) if isinstance(model, torch.Tensor) else np.asarray(x)


class Case(NamedTuple):
    name: str
    rule: str  # the expression of ours, such as `adamw(lr = 0.02, amsgrad = true)`
    reference: Callable[[Problem], Any]  # gives the weights after each of the 50 steps, as dicts of arrays
    against: str  # the reference in words, with its flags: `torch AdamW(amsgrad=True)`
    leaves: str = SMALL
    problem: str = "given"
    tolerance: float = 1e-9  # relative to the largest weight of a step
    signs: float = 0.0  # for rules with signs, the learning rate: weights that a flipped sign has moved, by more than half of it, are counted
    evaluated: bool = False  # compare the weights that are evaluated, not those that are trained


def optax_walk(make, extra=False):
    """The walk of an Optax transformation; `extra` passes value, grad and value_fn. `make` is called without arguments."""

    def walk(problem):
        tx = optax.with_extra_args_support(make())
        params = {k: jnp.asarray(v) for k, v in problem.start.items()}
        state = tx.init(params)
        rows = []
        update = tx.update if extra else jax.jit(tx.update)
        for k in range(STEPS):
            g = {n: jnp.asarray(v) for n, v in problem.gradient(k, params).items()}
            more = dict(value=problem.loss(k, params), grad=g, value_fn=lambda p, k=k: problem.loss(k, p)) if extra else {}
            updates, state = update(g, state, params, **more)
            params = optax.apply_updates(params, updates)
            rows.append({n: np.asarray(v) for n, v in params.items()})
        return rows

    return walk


def torch_walk(make, closure=False, read=None):
    """The walk of a torch optimizer, of torch itself or of pytorch_optimizer: `make(list of parameters)`.

    With `closure`, `step` gets a function that sets the gradients at the present weights and returns the loss. `read(optimizer, parameters)` gives other weights than those that are trained.
    """

    def walk(problem):
        names = list(problem.leaves)
        params = [torch.nn.Parameter(torch.from_numpy(np.array(problem.start[k]))) for k in names]
        optimizer = make(params)
        rows = []
        for k in range(STEPS):

            def at(k=k):
                values = {n: p.detach() for n, p in zip(names, params)}
                for p, g in zip(params, problem.gradient(k, values).values()):
                    p.grad = g.clone()
                return problem.loss(k, values)

            if closure:
                optimizer.step(at)
            else:
                for p, g in zip(params, problem.gradient(k, {n: p.detach() for n, p in zip(names, params)}).values()):
                    p.grad = g.clone()
                optimizer.step()
            now = read(optimizer, params) if read else params
            rows.append({n: p.detach().numpy().copy() for n, p in zip(names, now)})
        return rows

    return walk


def leaf_walk(rule):
    """The walk of a rule in NumPy for one leaf: `rule(w, g, s, t)` gives the new weights; `s` is a dict that is empty at step t = 1 and kept."""

    def walk(problem):
        w = {k: v.copy() for k, v in problem.start.items()}
        states, rows = {k: {} for k in w}, []
        for k in range(STEPS):
            g = problem.gradient(k, w)
            w = {n: np.asarray(rule(w[n], np.asarray(g[n]), states[n], k + 1)) for n in w}
            rows.append(dict(w))
        return rows

    return walk


def tree_walk(rule):
    """The walk of a rule in NumPy for all leaves: `rule(w, g, s, t, problem)` with dicts of arrays gives the new weights, or a pair with those that are evaluated."""

    def walk(problem):
        w, s, rows = {k: v.copy() for k, v in problem.start.items()}, {}, []
        for k in range(STEPS):
            new = rule(w, problem.gradient(k, w), s, k + 1, problem)
            w, seen = new if isinstance(new, tuple) else (new, new)
            rows.append({n: np.array(v) for n, v in seen.items()})
        return rows

    return walk


def wide(walk):
    """A walk under f64 as torch's default, for optimizers that keep numbers of their own in the default type."""

    def inner(problem):
        torch.set_default_dtype(torch.float64)
        try:
            return walk(problem)
        finally:
            torch.set_default_dtype(torch.float32)

    return inner


def turned_walk(make, closure=False, read=None):
    """`torch_walk` for rules that tell output and input channels apart: they are the first two axes in torch, the last and the last but one here."""

    def to_torch(x, lead=0):
        return np.ascontiguousarray(np.moveaxis(x, [-1, -2], [lead, lead + 1])) if x.ndim > lead + 1 else x

    class Turned(Problem):
        def __init__(self, problem):
            self.leaves, self.kind = problem.leaves, problem.kind
            self.start = {k: to_torch(v) for k, v in problem.start.items()}
            self.curvature = {k: to_torch(v) for k, v in problem.curvature.items()}
            self.gradients = {k: to_torch(v, 1) for k, v in problem.gradients.items()}
            self.target = {k: to_torch(v, 1) for k, v in problem.target.items()}

    def walk(problem):
        rows = torch_walk(make, closure, read)(Turned(problem))
        return [{k: np.moveaxis(v, [0, 1], [-1, -2]) if v.ndim > 1 else v for k, v in row.items()} for row in rows]

    return walk
