"""optc: a compiled language for models, losses, optimizers, training runs and experiments.

>>> import optc, numpy as np
>>> m = optc.compile("fn scaled(x: float[N], by: float = 2) -> float[N] = by * x")
>>> m.scaled(np.arange(3.0))
array([0., 2., 4.])

Functions take arrays of NumPy, torch and JAX (on the CPU) where they lie, without copies; see ``docs/python.md``.
"""

from __future__ import annotations

import os
from typing import Any

from . import _lib
from ._closure import Closure
from ._errors import InternalError, OptcError, SpecError
from ._module import Function, Module, Run, Series
from ._optimizer import BoundStep, Optimizer, States

__all__ = [
    "BoundStep", "Closure", "Function", "InternalError", "Module", "OptcError", "Optimizer", "Run", "Series", "SpecError", "States", "compile", "list_optimizers", "load",
    "optimizer", "set_threads", "show", "threads",
]

__version__: str = _lib.request(do="version")


def compile(text: str, name: str = "spec.opt") -> Module:
    """A spec that is a text. Files it mentions lie where ``name`` would (its folder, else the current one).

    Raises :class:`SpecError` if there is a mistake in it.
    """
    return Module(text=text, name=name)


def load(path: str | os.PathLike[str]) -> Module:
    """A spec in a file. Raises :class:`SpecError` if it cannot be read or there is a mistake in it."""
    return Module(path=os.fspath(path))


def optimizer(
    rule: str, shapes: Any, dtype: Any = None, *, names: Any = None, file: str | os.PathLike[str] | None = None, grad_dtype: Any = None,
    outputs_first: bool = False, total_steps: int | None = None, examples: int | None = None
) -> Optimizer:
    """A rule compiled for leaves of given shapes: ``optc.optimizer("adamw(lr = 1e-3)", shapes=[(64, 32), (32,)])``.

    ``rule`` is an expression of the language (``"clip_by_global_norm(1.0) |> adamw(lr = 1e-3)"``) over the standard library, or over the spec ``file``. ``shapes`` are
    shapes, or arrays that stand for theirs and their element type; ``dtype`` is one element type or one per leaf (float32, float64, bfloat16, float16; float32 if nothing is
    said), ``grad_dtype`` that of the gradients, where it is another. ``names`` are what groups of leaves and ``name`` go by. ``total_steps`` is needed by rules
    and schedules that mention it, ``examples``, the number of examples of a batch, by rules that look at the gradient of each.

    Rules that tell rows of a matrix from its columns (Muon, Adafactor, …) take the last axis for that of outputs, as in JAX. Weights of torch's layers have their outputs
    in the first axis: say ``outputs_first=True`` for them. States then have the shape that the rule sees.
    """
    file = None if file is None else os.fspath(file)
    return Optimizer(rule, shapes, dtype, names=names, file=file, grad_dtype=grad_dtype, outputs_first=outputs_first, total_steps=total_steps, examples=examples)


def list_optimizers() -> dict[str, str]:
    """The optimizers of the standard library, and the first line of what is said about each."""
    return _lib.request(do="optimizers")


def show(name: str) -> str:
    """The source of an item of the standard library (``"lion"``, ``"std.loss.cross_entropy"``), or what a folder (``"std.optim"``) holds."""
    return _lib.request(do="show", path=name)


def threads() -> int:
    """The number of threads that compiled code runs on."""
    return _lib.request(do="threads")


def set_threads(n: int) -> None:
    """Has compiled code run on ``n`` threads (0: one for each core). Results do not depend on it. What was compiled is compiled anew when it is used next."""
    if n < 0:
        raise ValueError("the number of threads is at least 0")
    _lib.request(do="threads", set=n)


def __getattr__(name: str) -> Any:
    if name == "torch":
        # Only who asks for it needs torch.
        import importlib

        return importlib.import_module(".torch", __name__)
    raise AttributeError(f"module `optc` has no `{name}`")
