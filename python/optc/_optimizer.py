"""Optimizers of the language as compiled steps over lists of arrays."""

from __future__ import annotations

import ctypes
import sys
import threading
import weakref
from operator import is_
from typing import Any, Callable, Iterable, NamedTuple, Sequence

import numpy as np

from . import _arrays, _closure, _lib
from ._closure import Closure

_INIT, _STEP, _CHANGES, _UPDATE, _EVAL = range(5)
Shape = tuple[int, ...]


class States(NamedTuple):
    """What an optimizer keeps from step to step.

    ``leaves`` has one dictionary per leaf, ``shared`` is what all leaves have in common, the number of steps made (``"step"``, int32) among it. A pytree for JAX;
    the values are arrays that can be saved and given back as they are.
    """

    leaves: list[dict[str, Any]]
    shared: dict[str, Any]


class _Known:
    """Arrays that were looked at, and their addresses. torch may move what its tensors hold, so that theirs are asked for again."""

    __slots__ = ("arrays", "addresses", "torch")

    def __init__(self, arrays: tuple[Any, ...], addresses: list[int], torch: bool):
        self.arrays, self.addresses, self.torch = arrays, addresses, torch

    @staticmethod
    def of(arrays: Sequence[Any], seen: Sequence[_arrays.Seen]) -> "_Known":
        torch = all(s.kind == "torch" for s in seen)
        # Of others, and of mixtures, nothing is known the next time.
        same = torch or all(s.kind == "numpy" and s.keep is x for s, x in zip(seen, arrays))
        return _Known(tuple(arrays) if same else (), [s.address for s in seen], torch)

    def are(self, arrays: Sequence[Any]) -> bool:
        return len(self.arrays) == len(arrays) and all(map(is_, self.arrays, arrays))

    def now(self) -> list[int]:
        return [x.data_ptr() for x in self.arrays] if self.torch and self.arrays else self.addresses


class Optimizer:
    """A rule compiled for leaves of given shapes; made by :func:`optc.optimizer`.

    A step goes over all leaves in one call of compiled code; leaves of one shape share kernels. Arrays are those of NumPy or torch (CPU), used where they lie: parameters
    and states must be contiguous; gradients that are not are copied. Several threads may use one optimizer; their steps run one after the other.
    """

    def __init__(
        self,
        rule: str,
        shapes: Sequence[Any],
        dtype: Any = None,
        *,
        names: Sequence[str] | None = None,
        file: str | None = None,
        grad_dtype: Any = None,
        outputs_first: bool = False,
        total_steps: int | None = None,
        examples: int | None = None,
        _module: int | None = None,
        _part: bool = False,
        _axes: bool = False,
        _groups: Sequence[int] | None = None,
        _apart: Sequence[str] = (),
    ):
        taken = [(tuple(s.shape), _arrays.dtype_name(s.dtype)) if hasattr(s, "shape") else (tuple(int(n) for n in s), None) for s in shapes]

        def each(given: Any, default: list[str]) -> list[str]:
            if given is None:
                return default
            if isinstance(given, (list, tuple)):
                if len(given) != len(taken):
                    raise ValueError(f"{len(given)} element types for {len(taken)} leaves")
                return [_arrays.dtype_name(d) for d in given]
            return [_arrays.dtype_name(given)] * len(taken)

        self.rule = rule
        self.shapes: list[Shape] = [s for s, _ in taken]
        self.names = [f"w{k}" for k in range(len(taken))] if names is None else [str(n) for n in names]
        if len(self.names) != len(taken):
            raise ValueError(f"{len(self.names)} names for {len(taken)} leaves")
        self._dtypes = each(dtype, [d or "f32" for _, d in taken])
        self._grad_dtypes = each(grad_dtype, self._dtypes)
        leaves = [
            {"name": n, "shape": s, "dtype": d, "gradient": g, "outputs_first": bool(outputs_first), "group": k}
            for n, s, d, g, k in zip(self.names, self.shapes, self._dtypes, self._grad_dtypes, _groups or [0] * len(taken))
        ]
        made = _lib.request(
            do="optimizer", rule=rule, file=file and str(file), module=_module, leaves=leaves, total_steps=total_steps, examples=examples, part=_part, axes=_axes,
            apart=list(_apart),
        )
        self._handle = _lib.Handle(made["step"])
        self._states = [(s["leaf"], s["name"], s["dtype"], tuple(s["shape"])) for s in made["states"]]
        self._kept = [*self._states, (None, "step", "i32", ())]
        #: For each leaf its states, and what is shared: name to (shape, element type).
        self.states = States([{} for _ in taken], {})
        for leaf, n, d, shape in self._kept:
            (self.states.shared if leaf is None else self.states.leaves[leaf])[n] = (shape, d)
        # Names that do not depend on what other leaves have: those of a leaf's states among them, and whole names of hyperparameters.
        own: list[dict[str, str]] = [{} for _ in taken]
        for s in made["states"]:
            if s["leaf"] is not None:
                own[s["leaf"]][s["name"]] = s["own"]
        self._short = [{n: x if list(names.values()).count(x) == 1 else n for n, x in names.items()} for names in own]
        self._full = {h["name"]: h["full"] for h in made["hyper"]}
        #: Hyperparameters that a step takes by name, and their values as the rule was written.
        self.hyperparameters: dict[str, float] = {h["name"]: float(h["value"]) for h in made["hyper"]}
        #: Whether a step needs the loss; whether it draws at random; whether initial states depend on gradients; whether evaluation has weights of its own.
        self.needs_loss: bool = made["needs_loss"]
        self.draws: bool = made["draws"]
        self.begins_with_gradients: bool = made["begins_with_gradients"]
        self.has_weights: bool = made["has_eval"]
        #: What a step asks of the loss at other weights: some of ``loss_at``, ``grad_at``, ``hvp_at``, ``grad_each_at``. Then it needs a closure.
        self.asks: tuple[str, ...] = tuple(made["asks"])
        #: Examples of a batch, for rules that look at the gradient of each.
        self.examples = examples
        #: Whether what a step makes of one leaf depends on others (a norm over all of them, a state that they share).
        self.couples_leaves: bool = made["couples_leaves"]
        # Whether the rule is known not to care for the order of axes, so that `outputs_first` changes nothing.
        self._blind_to_axes = bool(made["blind_to_axes"])
        self._places = {name: 1 + k for k, name in enumerate(self.hyperparameters)}
        self._scalars = ctypes.c_double * (1 + len(self._places))
        self._template = bytes(self._scalars(float("nan"), *self.hyperparameters.values()))
        self._torch_like: tuple[list[Any], list[Any]] | None = None
        # Steps with closures take turns; the thread whose closure is asked now.
        self._turns = threading.Lock()
        self._asked: int | None = None
        self._params = _Known((), [], False)
        self._held = _Known((), [], False)
        self._grads: tuple[list[weakref.ref[Any]], list[int]] = ([], [])

    def __repr__(self) -> str:
        hyper = ", ".join(f"{n} = {v:g}" for n, v in self.hyperparameters.items())
        return f"<optc.Optimizer {self.rule}: {len(self.shapes)} leaves; {hyper}>"

    # What is seen of the caller's arrays.

    def _see(self, arrays: Sequence[Any], what: str, dtypes: list[str], write: bool) -> list[_arrays.Seen]:
        if len(arrays) != len(self.shapes):
            raise ValueError(f"{len(arrays)} {what}s for {len(self.shapes)} leaves")
        seen = []
        for k, x in enumerate(arrays):
            try:
                found = _arrays.see(x, write)
            except (TypeError, ValueError) as error:
                raise type(error)(f"{what} of `{self.names[k]}`: {error}") from None
            self._fits(found, what, self.names[k], dtypes[k], self.shapes[k])
            seen.append(found)
        return seen

    @staticmethod
    def _fits(found: _arrays.Seen, what: str, name: str, dtype: str, shape: Shape) -> None:
        if found.dtype != dtype or tuple(found.shape) != shape:
            have, want = f"{found.dtype}{list(found.shape)}", f"{dtype}{list(shape)}"
            raise ValueError(f"{what} of `{name}` is {have}, not {want}")

    def _params_at(self, params: Sequence[Any]) -> tuple[list[int], bool]:
        """Addresses of parameters, and whether they are torch's. Those that were seen last are not looked at again, but torch may have moved them."""
        known = self._params
        if not known.are(params):
            known = _Known.of(params, self._see(params, "parameter", self._dtypes, True))
            self._params = known
        return known.now(), known.torch

    def _grads_at(self, grads: Sequence[Any], keep: list[Any]) -> list[int]:
        if grads and type(grads[0]).__module__ == "torch":
            if self._torch_like is None:
                torch = sys.modules["torch"]
                _arrays._torch_names()
                self._torch_like = [_arrays._torch_by_name[d] for d in self._grad_dtypes], [torch.Size(s) for s in self.shapes]
            dtypes, shapes = self._torch_like
            # torch gives gradients new memory at every step: lists are the fastest way to look at all of them.
            try:
                if (
                    [g.dtype for g in grads] == dtypes
                    and [g.shape for g in grads] == shapes
                    and all([g.is_contiguous() for g in grads])
                    and all([g.is_cpu for g in grads])
                    and not any([g.is_neg() for g in grads])
                ):
                    return [g.data_ptr() for g in grads]
            except AttributeError:
                pass
        known, addresses = self._grads
        if len(known) == len(grads) and all(g is r() for g, r in zip(grads, known)):
            return addresses
        seen = self._see(grads, "gradient", self._grad_dtypes, False)
        addresses = [s.address for s in seen]
        if all(s.keep is g and s.kind == "numpy" for s, g in zip(seen, grads)):
            # Gradients are let go when the caller lets them go.
            self._grads = ([weakref.ref(g) for g in grads], addresses)
        keep.append(seen)
        return addresses

    def _ordered(self, states: States) -> list[Any]:
        try:
            ordered = [states.shared[n] if leaf is None else states.leaves[leaf][n] for leaf, n, _, _ in self._states]
            ordered.append(states.shared["step"])
        except (KeyError, IndexError) as error:
            raise ValueError(f"the states lack {error}; `init` makes them") from None
        return ordered

    def _states_at(self, states: States, write: bool, keep: list[Any]) -> list[int]:
        held = self._held
        if write:
            # As `init` made them, they are in order.
            plain = [x for leaf in states.leaves for x in leaf.values()]
            plain += states.shared.values()
            if held.are(plain):
                return held.now()
        ordered = self._ordered(states)
        seen = []
        for x, (leaf, name, dtype, shape) in zip(ordered, self._kept):
            found = _arrays.see(x, write, bits=True)
            self._fits(found, f"state `{name}`", "all leaves" if leaf is None else self.names[leaf], dtype, shape)
            seen.append(found)
        if write:
            if all(map(is_, plain, ordered)) and len(plain) == len(ordered):
                self._held = _Known.of(ordered, seen)
        keep.append(seen)
        return [s.address for s in seen]

    def _numbers(self, loss: Any, hyper: dict[str, Any]) -> Any:
        numbers = self._scalars.from_buffer_copy(self._template)
        if loss is not None:
            numbers[0] = float(loss)
        elif self.needs_loss:
            raise ValueError(f"{self.rule} needs the loss of the step: `loss=`")
        for name, value in hyper.items():
            place = self._places.get(name)
            if place is None:
                known = ", ".join(self._places) or "none"
                raise TypeError(f"{self.rule} has no hyperparameter `{name}` that can be changed; there are {known}")
            numbers[place] = value
        return numbers

    def _run(self, part: int, addresses: list[int], numbers: Any, seed: int, closure: Closure | None = None, of: str = "numpy") -> None:
        held, block = _arrays.block(addresses)
        if not self.asks or part in (_INIT, _EVAL):
            fault = _lib.step(self._handle.number, part, block, len(addresses), numbers, len(numbers), seed, None)
            if fault:
                _lib.failed(fault)
            return
        if self._asked == threading.get_ident():
            raise RuntimeError("the closure of a step steps the same optimizer")
        with self._turns:
            self._asked = threading.get_ident()
            try:
                answers = _closure.Answers(self, _closure.check(self.rule, self.asks, closure), of)
                fault = _lib.step(self._handle.number, part, block, len(addresses), numbers, len(numbers), seed, answers.callback)
            finally:
                self._asked = None
        if answers.error is not None:
            _lib.dropped(fault)
            raise answers.error
        if fault:
            _lib.failed(fault)

    def _evaluated(self, params: Sequence[Any], grads: Sequence[Any] | None, loss: Any, closure: Closure | None) -> tuple[Sequence[Any], Any]:
        """The gradients and the loss of a step, from the closure where they were not given."""
        if grads is not None and (loss is not None or not self.needs_loss or closure is None):
            return grads, loss
        if closure is None:
            raise ValueError("a step needs gradients, or a `closure` that gives them")
        value, slopes = closure.value_and_grad(list(params))
        return slopes if grads is None else grads, value if loss is None else loss

    @staticmethod
    def _changed(params: Sequence[Any]) -> None:
        """Tells autograd that parameters have new values."""
        graph = sys.modules["torch"].autograd.graph
        if hasattr(graph, "increment_version"):
            graph.increment_version(params)

    # What can be done.

    def init(self, params: Sequence[Any], grads: Sequence[Any] | None = None, *, seed: int = 0) -> States:
        """The states before the first step: NumPy arrays, or torch tensors if the parameters are.

        A rule whose states begin with the gradient needs ``grads``.
        """
        if grads is None and self.begins_with_gradients:
            raise ValueError(f"the states of {self.rule} begin with the gradient: `init(params, grads)`")
        seen = self._see(params, "parameter", self._dtypes, False)
        of = "torch" if all(s.kind == "torch" for s in seen) and seen else "numpy"
        keep: list[Any] = [seen]
        addresses = [s.address for s in seen]
        addresses += [0] * len(seen) if grads is None else self._grads_at(grads, keep)
        states = States([{} for _ in self.shapes], {})
        for leaf, name, dtype, shape in self._states:
            array, address = _arrays.empty(shape, dtype, of)
            (states.shared if leaf is None else states.leaves[leaf])[name] = array
            addresses.append(address)
        self._run(_INIT, addresses, self._scalars.from_buffer_copy(self._template), seed)
        count, _ = _arrays.empty((), "i32", of)
        count[...] = 0
        states.shared["step"] = count
        return states

    def step(
        self,
        params: Sequence[Any],
        grads: Sequence[Any] | None,
        states: States,
        *,
        loss: Any = None,
        seed: int = 0,
        closure: "Closure | Callable[..., Any] | None" = None,
        **hyper: float,
    ) -> None:
        """Makes one step: ``params`` and ``states`` are updated in place.

        Hyperparameters are given by name (``lr=1e-3``) for this step alone and need no compiling. ``seed`` is that of the whole run: what a rule draws depends on it
        and on the number of the step.

        Rules that look at the loss at other weights (``asks``) need ``closure``: a function of the parameters that gives the loss and its gradients, or a :class:`Closure`. With it ``grads``
        may be none. ``grads`` are the gradients of the loss as they are, not clipped. Where the closure raises an error, that is the step's, and nothing was changed.
        """
        keep: list[Any] = []
        closure = Closure.of(closure)
        if closure is not None or grads is None:
            grads, loss = self._evaluated(params, grads, loss, closure)
        addresses, torch = self._params_at(params)
        addresses = [*addresses, *self._grads_at(grads, keep), *self._states_at(states, True, keep)]
        self._run(_STEP, addresses, self._numbers(loss, hyper), seed, closure, "torch" if torch else "numpy")
        if torch:
            self._changed(params)

    def bind(self, params: Sequence[Any], grads: Sequence[Any], states: States, *, seed: int = 0) -> "BoundStep":
        """A step whose addresses are looked up now, once: for arrays that stay where they are, gradients too."""
        if self.asks:
            raise ValueError(f"{self.rule} asks for {_closure.needed(self.asks)} at other weights: `step` with a `closure`")
        return BoundStep(self, params, grads, states, seed)

    def delta(
        self,
        params: Sequence[Any],
        grads: Sequence[Any] | None,
        states: States,
        *,
        out: Sequence[Any] | None = None,
        loss: Any = None,
        seed: int = 0,
        closure: "Closure | Callable[..., Any] | None" = None,
        **hyper: float,
    ) -> list[Any]:
        """The changes that :meth:`step` would make to the parameters, which stay as they are; ``states`` are updated in place.

        The changes are written to ``out`` where it is given.
        """
        keep: list[Any] = []
        closure = Closure.of(closure)
        grads, loss = self._evaluated(params, grads, loss, closure)
        seen = self._see(params, "parameter", self._dtypes, False)
        addresses = [*(s.address for s in seen), *self._grads_at(grads, keep), *self._states_at(states, True, keep)]
        if out is None:
            changes, places = self._empty(seen)
        else:
            written = self._see(out, "change", self._dtypes, True)
            changes, places = list(out), [s.address for s in written]
        self._run(_CHANGES, addresses + places, self._numbers(loss, hyper), seed, closure, _kind(seen))
        return changes if out is not None else self._finish(changes, seen)

    def update(
        self,
        params: Sequence[Any],
        grads: Sequence[Any] | None,
        states: States,
        *,
        loss: Any = None,
        seed: int = 0,
        closure: "Closure | Callable[..., Any] | None" = None,
        **hyper: float,
    ) -> tuple[list[Any], States]:
        """The changes of the parameters and the new states; nothing is overwritten. For JAX, whose arrays do not change, and what is given may be JAX's."""
        keep: list[Any] = []
        closure = Closure.of(closure)
        grads, loss = self._evaluated(params, grads, loss, closure)
        seen = self._see(params, "parameter", self._dtypes, False)
        addresses = [*(s.address for s in seen), *self._grads_at(grads, keep), *self._states_at(states, False, keep)]
        changes, places = self._empty(seen)
        old = self._ordered(states)
        new, after = [], []
        for x, (_, _, dtype, shape) in zip(old, self._kept):
            array, address = _arrays.empty(shape, dtype, _arrays.kind(x))
            new.append(array)
            after.append(address)
        self._run(_UPDATE, [*addresses, *places, *after], self._numbers(loss, hyper), seed, closure, _kind(seen))
        finished = [a if a.dtype == np.uint16 else _arrays.finish(a, d, _arrays.kind(x)) for a, x, (_, _, d, _) in zip(new, old, self._kept)]
        states = States([{} for _ in self.shapes], {})
        for (leaf, name, _, _), array in zip(self._states, finished):
            (states.shared if leaf is None else states.leaves[leaf])[name] = array
        states.shared["step"] = finished[-1]
        return self._finish(changes, seen), states

    def weights(self, params: Sequence[Any], states: States) -> list[Any]:
        """The weights that the rule wants evaluation to use (averages, say); the parameters themselves where it names none."""
        if not self.has_weights:
            return list(params)
        keep: list[Any] = []
        seen = self._see(params, "parameter", self._dtypes, False)
        out, places = self._empty(seen)
        addresses = [*(s.address for s in seen), *self._states_at(states, False, keep), *places]
        self._run(_EVAL, addresses, self._scalars.from_buffer_copy(self._template), 0)
        return self._finish(out, seen)

    def _empty(self, seen: Iterable[_arrays.Seen]) -> tuple[list[Any], list[int]]:
        made = [_arrays.empty(shape, dtype, s.kind) for shape, dtype, s in zip(self.shapes, self._dtypes, seen)]
        return [x for x, _ in made], [address for _, address in made]

    def _finish(self, arrays: list[Any], seen: Iterable[_arrays.Seen]) -> list[Any]:
        return [_arrays.finish(x, dtype, s.kind) for x, dtype, s in zip(arrays, self._dtypes, seen)]


def _kind(seen: Sequence[_arrays.Seen]) -> str:
    """Whose arrays these are, if they are all of one kind."""
    kinds = {s.kind for s in seen}
    return kinds.pop() if len(kinds) == 1 else "numpy"


class BoundStep:
    """A step on arrays whose addresses are known: calling it makes the step.

    The arrays must stay where they are (torch: no ``p.data = …``, no gradients set to none); a bound step is for one thread at a time.
    """

    def __init__(self, optimizer: Optimizer, params: Sequence[Any], grads: Sequence[Any], states: States, seed: int):
        seen = [
            *optimizer._see(params, "parameter", optimizer._dtypes, True),
            *optimizer._see(grads, "gradient", optimizer._grad_dtypes, False),
        ]
        moved = [s for s, x in zip(seen, [*params, *grads]) if s.keep is not x]
        if moved:
            raise ValueError("what is bound must be contiguous arrays of NumPy or torch")
        self._keep: list[Any] = [seen]
        addresses = [s.address for s in seen] + optimizer._states_at(states, True, self._keep)
        self._torch = list(params) if all(s.kind == "torch" for s in seen[: len(params)]) else None
        self._keep.append((params, grads, states))
        self._optimizer = optimizer
        held, block = _arrays.block(addresses)
        self._keep.append(held)
        self._fixed = (optimizer._handle.number, _STEP, block, len(addresses))
        self._seed = seed
        #: The loss, for rules that need it.
        self.loss = float("nan")
        self._numbers = optimizer._scalars.from_buffer_copy(optimizer._template)

    def set(self, **hyper: float) -> None:
        """Changes hyperparameters for the steps to come."""
        numbers = self._optimizer._numbers(self.loss, hyper)
        for name in hyper:
            place = self._optimizer._places[name]
            self._numbers[place] = numbers[place]

    def __call__(self) -> None:
        numbers = self._numbers
        numbers[0] = self.loss
        fault = _lib.step(*self._fixed, numbers, len(numbers), self._seed, None)
        if fault:
            _lib.failed(fault)
        if self._torch is not None:
            Optimizer._changed(self._torch)
