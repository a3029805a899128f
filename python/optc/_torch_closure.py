"""What a step of an optimizer of torch asks of its closure, with the weights in question in the parameters."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Callable, Iterable

import torch

from ._closure import Closure, needed

if TYPE_CHECKING:
    from .torch import Optimizer


def as_number(loss: Any) -> float:
    """A loss as a number."""
    return float(loss.detach() if torch.is_tensor(loss) else loss)


class Asked:
    """What one step asks of its closure. An evaluation is kept while the weights stay the same."""

    def __init__(self, optimizer: "Optimizer", closure: Callable[..., Any], hvp: Callable[..., Any] | None, grad_each: Callable[[], Any] | None):
        self._of, self._closure, self._hvp, self._grad_each = optimizer, closure, hvp, grad_each
        try:
            takes = inspect.signature(closure).parameters
        except ValueError:
            takes = {}
        self._may_skip, self._may_graph = "backward" in takes, "create_graph" in takes
        # What the closure draws in its first call, and in all others.
        self._draws = torch.get_rng_state()
        self._loss: float | None = None
        self._grads: list[Any] | None = None
        self._each: list[Any] | None = None
        self.examples: int | None = None

    def begin(self, params: list[Any], loss: Any, sign: float) -> None:
        """The closure has been called once, at the weights that the parameters have."""
        self._params, self.sign = params, sign
        self._take(loss)
        if "grad_each_at" in self._of._asks:
            if self._grad_each is None:
                raise ValueError(f"{self._of._rule.text} asks for {needed(['grad_each_at'])}: `step(closure, grad_each=…)`")
            self._each = self._example_gradients()
            self.examples = int(self._each[0].shape[0])

    def closure(self) -> Closure:
        """For the compiled step, whose weights are copied here once: into the parameters."""
        return Closure(self._value_and_grad, self._value, self._product, self._gradients_of_each, borrows=True)

    def _take(self, loss: Any) -> None:
        if loss is None:
            raise ValueError(f"{self._of._rule.text} looks at the loss at other weights: the closure has to return it")
        self._loss = as_number(loss)
        self._grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._params]

    def _go(self, weights: list[Any]) -> None:
        """Puts weights into the parameters."""
        if not all(map(torch.equal, self._params, weights)):
            for p, w in zip(self._params, weights):
                p.copy_(w)
            self._loss = self._grads = self._each = None

    def _again(self, f: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Calls a function of the user, with the draws of the step."""
        torch.set_rng_state(self._draws)
        with torch.enable_grad():
            return f(*args, **options)

    def _evaluate(self) -> None:
        if self._grads is None:
            self._take(self._again(self._closure))

    def _value(self, weights: list[Any]) -> float:
        self._go(weights)
        if self._loss is None and self._may_skip:
            self._loss = as_number(self._again(self._closure, backward=False))
        elif self._loss is None:
            self._evaluate()
        assert self._loss is not None
        return self.sign * self._loss

    def _signed(self, arrays: Iterable[Any]) -> list[Any]:
        arrays = [x.detach() for x in arrays]
        return arrays if self.sign > 0 else [-x for x in arrays]

    def _value_and_grad(self, weights: list[Any]) -> tuple[float, list[Any]]:
        self._go(weights)
        self._evaluate()
        assert self._loss is not None and self._grads is not None
        return self.sign * self._loss, self._signed(self._grads)

    def _graph(self) -> list[Any]:
        """The gradients with the graph that they were computed by."""
        if not self._may_graph:
            self._evaluate()
        if self._may_graph and not (self._grads and any(g.requires_grad for g in self._grads)):
            self._take(self._again(self._closure, create_graph=True))
        assert self._grads is not None
        if not any(g.requires_grad for g in self._grads):
            raise ValueError(
                f"{self._of._rule.text} asks for {needed(['hvp_at'])}, but the gradients have no graph: let the closure call `loss.backward(create_graph=True)`, or give `step` an `hvp`"
            )
        return self._grads

    def _product(self, weights: list[Any], directions: list[Any]) -> list[Any]:
        self._go(weights)
        if self._hvp is not None:
            return self._signed(self._again(self._hvp, directions))
        pairs = [(g, v) for g, v in zip(self._graph(), directions) if g.requires_grad]
        found = torch.autograd.grad([g for g, _ in pairs], self._params, [v for _, v in pairs], retain_graph=True, allow_unused=True)
        return self._signed(torch.zeros_like(p) if x is None else x for p, x in zip(self._params, found))

    def _example_gradients(self) -> list[Any]:
        assert self._grad_each is not None
        each = list(self._again(self._grad_each))
        if len(each) != len(self._params):
            raise ValueError(f"`grad_each` gives a list with the gradients of each of the {len(self._params)} parameters that have one, not {len(each)} of them")
        return each

    def _gradients_of_each(self, weights: list[Any]) -> list[Any]:
        self._go(weights)
        if self._each is None:
            self._each = self._example_gradients()
        return self._signed(self._each)
