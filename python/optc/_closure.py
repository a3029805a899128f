"""The loss of a step as a function of the parameters, for rules that look at it at other weights."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Sequence

from . import _arrays

if TYPE_CHECKING:
    from ._optimizer import Optimizer

#: What compiled steps call back: the caller's own, the number of the question, addresses of what is handed over and of what is to be filled.
CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_uint32, ctypes.POINTER(ctypes.c_uint64))

VALUE, GRADIENT, PRODUCT, EACH = range(4)
_WORDS = {"loss_at": "the loss", "grad_at": "gradients", "hvp_at": "products with the Hessian", "grad_each_at": "the gradient of each example"}


@dataclass(frozen=True)
class Closure:
    """The loss of the step at hand as functions of the parameters, a list of arrays of the kind that the step was given.

    All answer for the same batch and the same draws: what they see of the data does not change during a step. ``value_and_grad(params)`` gives the loss and the list of its gradients, as
    ``jax.value_and_grad(f)`` does. The others are asked by few rules: ``value(params)`` gives the loss alone (without it ``value_and_grad`` is asked), ``hvp(params, directions)`` the list of
    products of the Hessian with directions, ``grad_each(params)`` the list of the gradients of each example's loss, with the examples as leading axis.
    """

    value_and_grad: Callable[[list[Any]], tuple[Any, Sequence[Any]]]
    value: Callable[[list[Any]], Any] | None = None
    hvp: Callable[[list[Any], list[Any]], Sequence[Any]] | None = None
    grad_each: Callable[[list[Any]], Sequence[Any]] | None = None
    #: Whether what it is given is the step's own memory, which is good during the call alone.
    borrows: bool = False

    @staticmethod
    def of(given: "Closure | Callable[..., Any] | None") -> "Closure | None":
        return given if given is None or isinstance(given, Closure) else Closure(given)


def needed(asks: Sequence[str]) -> str:
    """What a rule asks for, in words."""
    words = [_WORDS[name] for name in asks]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def check(rule: str, asks: Sequence[str], closure: Closure | None) -> Closure:
    """The closure, if it has all that a rule asks for."""
    if closure is None:
        raise ValueError(
            f"{rule} asks for {needed(asks)} at other weights than those of the step: `closure=`, a function of the parameters that gives the loss and its gradients (or an `optc.Closure`)"
        )
    for name, has in (("hvp_at", closure.hvp), ("grad_each_at", closure.grad_each)):
        if name in asks and has is None:
            raise ValueError(f"{rule} asks for {_WORDS[name]}: `closure=optc.Closure(value_and_grad, {name.removesuffix('_at')}=…)`")
    return closure


class Answers:
    """Answers what one step asks. Errors of the closure are kept, to be raised when the step has ended."""

    def __init__(self, optimizer: "Optimizer", closure: Closure, of: str):
        self._optimizer, self._closure, self._of = optimizer, closure, of
        self.error: BaseException | None = None
        self.callback = CALLBACK(self._called)

    def _called(self, _: int, question: int, buffers: Any) -> int:
        try:
            self._answer(question, buffers)
        except BaseException as error:  # noqa: BLE001 (raised again by the step)
            self.error = error
            return 1
        return 0

    def _answer(self, question: int, buffers: Any) -> None:
        o, closure = self._optimizer, self._closure
        n = len(o.shapes)
        params = [self._taken(buffers[k], s, d) for k, (s, d) in enumerate(zip(o.shapes, o._dtypes))]
        if question == VALUE:
            self._put_loss(buffers[n], closure.value(params) if closure.value else closure.value_and_grad(params)[0])
        elif question == GRADIENT:
            loss, grads = closure.value_and_grad(params)
            self._put_loss(buffers[n], loss)
            self._put(buffers, n + 1, grads, "gradient", o.shapes)
        elif question == PRODUCT:
            assert closure.hvp is not None
            directions = [self._taken(buffers[n + k], s, d) for k, (s, d) in enumerate(zip(o.shapes, o._grad_dtypes))]
            self._put(buffers, 2 * n, closure.hvp(params, directions), "product with the Hessian", o.shapes)
        else:
            assert closure.grad_each is not None
            self._put(buffers, n, closure.grad_each(params), "gradient of each example", [(o.examples, *s) for s in o.shapes])

    def _taken(self, address: int, shape: tuple[int, ...], dtype: str) -> Any:
        """An array of the step, copied unless it is only borrowed: the step goes on to use its memory."""
        if self._closure.borrows and self._of == "torch":
            return _arrays.borrowed_torch(address, shape, dtype)
        x, to = _arrays.empty(shape, dtype, self._of)
        ctypes.memmove(to, address, x.nbytes)
        return _arrays.finish(x, dtype, self._of)

    @staticmethod
    def _put_loss(address: int, loss: Any) -> None:
        ctypes.c_double.from_address(address).value = float(loss)

    def _put(self, buffers: Any, first: int, arrays: Sequence[Any], what: str, shapes: Sequence[Any]) -> None:
        o = self._optimizer
        if not isinstance(arrays, (list, tuple)) or len(arrays) != len(shapes):
            have = f"{len(arrays)} of them" if isinstance(arrays, (list, tuple)) else type(arrays).__name__
            raise ValueError(f"the closure gives a list with the {what} of each of the {len(shapes)} parameters, not {have}")
        for k, (x, shape, dtype) in enumerate(zip(arrays, shapes, o._grad_dtypes)):
            seen = _arrays.see(x)
            o._fits(seen, f"the {what}", o.names[k], dtype, shape)
            ctypes.memmove(buffers[first + k], seen.address, seen.keep.nbytes)
