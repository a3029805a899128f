"""Rules of the language as optimizers of torch, for parameters on the CPU: :class:`Optimizer`, and classes of single rules by :func:`optimizer_class`."""

from __future__ import annotations

import inspect
import os
from collections import OrderedDict
from contextlib import contextmanager
from operator import is_
from typing import Any, Callable, Iterable, Iterator

import torch

from . import _arrays, _lib, _torch_names
from ._closure import Closure, needed
from ._errors import SpecError
from ._optimizer import Optimizer as _Compiled
from ._optimizer import States
from ._torch_closure import Asked, as_number

__all__ = ["Optimizer", "optimizer_class"]

#: Sets of parameters that are compiled for before each parameter is stepped by itself, and steps that are kept compiled.
_SETS, _KEPT = 8, 256


class _Plan:
    """A compiled step, for parameters that are at the same step, with the states it works on."""

    __slots__ = ("where", "compiled", "states", "kept", "steps", "hyper", "version")

    def __init__(self, where: list[int] | None, compiled: _Compiled, states: States, kept: list[torch.Tensor], steps: torch.Tensor, known: dict[str, tuple[str, float]]):
        self.where, self.compiled, self.states, self.kept, self.steps = where, compiled, states, kept, steps
        # The names of hyperparameters here, those that groups know them by (other leaves may make these longer), and whose values count, where groups have their own.
        self.hyper = [(n, *_torch_names.of_group(n, full, compiled.hyperparameters[n], known)) for n, full in compiled._full.items()]
        self.version = steps._version


class _Known:
    """What was found the last time a job was run: parameters with gradients, their dictionaries of states, what these held, and the plans made of it."""

    __slots__ = ("params", "held", "plans", "constants", "shared", "all")

    def __init__(self, params: list[Any], held: list[dict[str, Any]], plans: list[_Plan], constants: Any, shared: dict[str, Any] | None, state: Any):
        self.params, self.held, self.plans, self.constants, self.shared = params, held, plans, constants, shared
        self.all = list(state.values())

    def still(self, params: list[Any], state: Any, constants: Any, shared: dict[str, Any] | None) -> bool:
        """Whether all of that lies where it lay. A state that someone replaced or wrote to is looked at anew."""
        if len(params) != len(self.params) or not all(map(is_, params, self.params)) or constants != self.constants or shared is not self.shared:
            return False
        for plan in self.plans:
            held = self.held if plan.where is None else [self.held[k] for k in plan.where]
            now = [x for own in held for x in own.values()]
            if plan.version != plan.steps._version or len(now) != len(plan.kept) or not all(map(is_, now, plan.kept)):
                return False
        # Looking a tensor up takes longer than to see that nothing was put in the place of anything.
        dictionaries = list(state.values())
        return len(dictionaries) == len(self.all) and all(map(is_, dictionaries, self.all))


class Optimizer(torch.optim.Optimizer):
    """A ``torch.optim.Optimizer`` that does what a rule of the language says: ``Optimizer(model.parameters(), "muon", lr=0.02)``.

    ``rule`` is the name of a rule of the library (of the spec ``file``), or an expression (``"clip_by_global_norm(1.0) |> adamw(lr = 1e-3)"``). Keywords are the rule's arguments:
    floats are keys of the parameter groups, taken anew at every step; what a rule knows at compile time (``nesterov=True``, ``ns_steps=5``) too, and the step is compiled again where it
    changes. Of an expression only hyperparameters can be given so, by their names: ``lr``, or ``adamw.lr`` where several rules have one; then the group's ``lr`` is 1, a factor of
    all of them, which schedulers change. ``beta1``, ``beta2``, … are together ``betas``.

    The step is compiled for all parameters with a gradient, each group by itself, and all groups together where a rule takes something over all leaves (a norm, a state that all
    share). Parameters without a gradient are left out, as in torch; the step is compiled once for each set of parameters that occurs.

    ``outputs_first``: the first axis of weights is that of outputs, as in torch's layers, for rules that tell rows from columns. States of a weight's shape have its axes.
    ``total_steps``: for rules that mention it. ``seed``: of what a rule draws. Rules that look at the loss take it from the closure's result or from ``step(loss=…)``; rules that
    look at it at other weights (SAM, line searches) need a closure, see :meth:`step`.
    """

    _step_supports_amp_scaling = True

    def __init__(
        self,
        params: Iterable[Any],
        rule: str,
        *,
        file: str | os.PathLike[str] | None = None,
        outputs_first: bool = True,
        total_steps: int | None = None,
        seed: int = 0,
        maximize: bool = False,
        **hyper: Any,
    ):
        self._rule = _torch_names.Rule(rule, None if file is None else os.fspath(file))
        self._options = {"outputs_first": bool(outputs_first), "total_steps": total_steps, "examples": 1}
        self._constants: list[str] = []
        self._forget()
        self._ready = False
        super().__init__(params, {"maximize": bool(maximize)})
        self._set_defaults(hyper, seed)
        self._ready = True

    # What the rule has, and what groups carry.

    def _set_defaults(self, given: dict[str, Any], seed: int) -> None:
        rule = self._rule
        given = dict(given)
        betas = given.pop("betas", None)
        for k, beta in enumerate(betas or ()):
            given[f"beta{k + 1}"] = beta
        written = {n: x for n, x in given.items() if rule.takes(n)}
        #: What stands in the expression; values of hyperparameters there are checked, and replaced at every step.
        self._written = written
        first = self._look({})
        names = list(first.hyperparameters)
        unknown = [n for n in given if n not in names and n not in written]
        if unknown:
            raise TypeError(f"{rule.text} has no hyperparameter `{unknown[0]}`; there are {', '.join([*names, *(n for n in rule.parameters if n not in names)]) or 'none'}")
        values = {n: given.get(n, first.hyperparameters[n]) for n in names}
        self._keys = _torch_names.keys(names)
        #: Hyperparameters by their whole names: what groups call them, and the value in the rule.
        self._full = {full: (n, first.hyperparameters[n]) for n, full in first._full.items()}
        defaults: dict[str, Any] = {}
        if "lr" not in names and any(n.endswith(".lr") for n in names):
            defaults["lr"] = 1.0
        for name, (key, place) in self._keys.items():
            if place is None:
                defaults[key] = values[name]
            else:
                defaults[key] = (*defaults.get(key, ()), values[name])
        self._constants = [n for n in written if n not in names]
        defaults |= {n: written[n] for n in self._constants}
        if first.draws:
            defaults["seed"] = int(seed)
        self.defaults |= defaults
        for group in self.param_groups:
            self._complete(group)

    def _look(self, constants: dict[str, Any]) -> _Compiled:
        """Takes from a step for all parameters what is so of the rule as a whole."""
        #: Where the rule does not care for the order of axes, that of torch needs no other in memory.
        self._first = False
        compiled = self._compile(self._all(), constants, axes=self._options["outputs_first"])
        if self._options["outputs_first"] and not compiled._blind_to_axes:
            self._first = True
            compiled = self._compile(self._all(), constants)
        self._needs_loss = compiled.needs_loss
        #: What steps ask of the loss at other weights, which is a function of all parameters.
        self._asks = compiled.asks
        self._coupled = compiled.couples_leaves or bool(compiled.asks)
        #: Whether all of a job have one count of steps: leaves that depend on each other, or states that all share.
        self._together = self._coupled or len(compiled.states.shared) > 1
        return compiled

    def _complete(self, group: dict[str, Any]) -> None:
        """Gives a group what it lacks; single betas go where they belong."""
        for name, (key, place) in self._keys.items():
            if place is not None and name in group:
                values = list(group.get(key, self.defaults[key]))
                values[place] = group.pop(name)
                group[key] = tuple(values)
        for name in group:
            if name != "maximize" and name in self._rule.parameters and name not in self._keys and name not in self._constants:
                self._constants.append(name)
        for name, value in self.defaults.items():
            group.setdefault(name, value)

    def _all(self) -> list[tuple[Any, str]]:
        """All parameters with their names."""
        found = []
        for group in self.param_groups:
            names = group.get("param_names")
            for k, p in enumerate(group["params"]):
                found.append((p, names[k] if names else f"w{len(found)}"))
        return found

    def _compile(self, leaves: list[tuple[Any, str]], constants: dict[str, Any], axes: bool = False) -> _Compiled:
        """The step for these parameters, from the store if it was compiled before."""
        dtypes = [p.grad.dtype if p.grad is not None else p.dtype for p, _ in leaves]
        text = self._rule.written(self._written | constants)
        names = sorted({_torch_names.base(full) for full, (n, _) in self._full.items() if n in self._apart}) if self._apart else []
        group_of = {id(p): k for k, group in enumerate(self.param_groups) for p in group["params"]} if names else {}
        groups = [group_of[id(p)] for p, _ in leaves] if names else None
        key = (text, self._first, self._options["examples"], tuple(names), tuple(groups or ()), tuple((name, p.shape, p.dtype, d) for (p, name), d in zip(leaves, dtypes)))
        known = self._store.get(key)
        if known is None:
            params = [p for p, _ in leaves]
            part = len(params) < sum(len(group["params"]) for group in self.param_groups)
            for p, name in leaves:
                _check(p, name)
            options = self._options | {"file": self._rule.file, "outputs_first": self._first}
            try:
                known = _Compiled(text, params, names=[n for _, n in leaves], grad_dtype=dtypes, _part=part, _axes=axes, _groups=groups, _apart=names, **options)
            except SpecError as error:
                if names and any(d.get("code") == "E0542" for d in error.diagnostics):
                    differ = ", ".join(f"`{n}`" for n in sorted(self._apart))
                    self._apart.clear()
                    raise ValueError(f"parameter groups differ in {differ}, but {self._rule.text} has one value for all parameters that depends on it:\n{error}") from None
                raise
            self._store[key] = known
            if len(self._store) > _KEPT:
                self._store.popitem(last=False)
        else:
            self._store.move_to_end(key)
        return known

    def _forget(self) -> None:
        self._asking = False
        #: Hyperparameters that groups of one step have differed in.
        self._apart: set[str] = set()
        self._store: OrderedDict[Any, _Compiled] = OrderedDict()
        self._known: dict[Any, _Known] = {}
        self._sets: dict[Any, set[Any]] = {}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's. Parameters that join later begin with fresh states; where all parameters have one count of steps they take that."""
        super().add_param_group(param_group)
        for p in self.param_groups[-1]["params"]:
            try:
                _check(p, "a parameter")
            except (TypeError, ValueError):
                self.param_groups.pop()
                raise
        if self._ready:
            self._known.clear()
            compiled = self._look(self._constants_of(self.param_groups[0]))
            for n, full in compiled._full.items():
                # Hyperparameters of parts of the rule that had no parameters before.
                if full not in self._full:
                    name = n if n not in self._keys else full
                    self._full[full] = (name, compiled.hyperparameters[n])
                    self._keys[name] = (name, None)
                    self.defaults[name] = compiled.hyperparameters[n]
            for group in self.param_groups:
                self._complete(group)

    # Saving and loading.

    def __getstate__(self) -> dict[str, Any]:
        own = ("_rule", "_options", "_written", "_constants", "_keys", "_full", "_first", "_needs_loss", "_asks", "_coupled", "_together")
        return super().__getstate__() | {name: getattr(self, name) for name in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._forget()
        self._ready = True
        for group in self.param_groups:
            self._complete(group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's, but states are copied, and keep the element types that the rule declares. Also takes what torch's own optimizers save, where the names are the same."""
        given: list[dict[str, Any]] = []
        last = self.register_load_state_dict_pre_hook(lambda _, found: given.append(found))
        try:
            super().load_state_dict(state_dict)
        finally:
            last.remove()
        saved = given[-1]
        numbers = [k for group in saved["param_groups"] for k in group["params"]]
        for k, (p, _) in zip(numbers, self._all()):
            if k in saved["state"]:
                self.state[p] = {n: x.detach().to("cpu", copy=True) if torch.is_tensor(x) else x for n, x in saved["state"][k].items()}
        self._known.clear()

    # Steps.

    @torch.no_grad()
    def step(
        self,
        closure: Callable[..., Any] | None = None,
        *,
        loss: Any = None,
        hvp: Callable[[list[Any]], Any] | None = None,
        grad_each: Callable[[], Any] | None = None,
    ) -> Any:
        """One step. ``closure`` computes the loss and its gradients anew, and its loss is returned; ``loss`` is for rules that look at it.

        Rules that look at the loss at other weights call the closure again, with these weights in the parameters: it clears the gradients, computes the loss on the same batch and calls
        ``backward()``. One with a parameter ``backward`` is called with ``backward=False`` where the loss is enough. Rules that take products with the Hessian (Sophia, AdaHessian) need
        gradients with a graph: a closure with a parameter ``create_graph`` is called with ``create_graph=True`` where it is wanted, others always call
        ``loss.backward(create_graph=True)``. Or ``hvp(directions)`` gives the products at the weights that the parameters have then. ``grad_each()`` gives the
        gradients of each example's loss there, with the examples as leading axis. Directions, products and gradients are lists, of the parameters that have gradients.

        All calls in a step draw the same random numbers of torch (dropout, a batch that the closure chooses). After an error of the closure parameters and states are as before the step.
        """
        if self._asking:
            raise RuntimeError("the closure of a step steps the same optimizer")
        if closure is None:
            self._update(loss, None)
            return None
        asked = Asked(self, closure, hvp, grad_each) if self._asks else None
        with torch.enable_grad():
            loss = closure()
        self._update(loss, asked)
        return loss

    @torch.compiler.disable
    def _update(self, loss: Any, asked: Asked | None) -> None:
        scale, found = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        if found is not None and float(found):
            return
        if self._asks:
            self._update_asking(loss, scale, asked)
            return
        if self._needs_loss:
            if loss is None:
                raise ValueError(f"{self._rule.text} looks at the loss: give `step` a closure that returns it, or `step(loss=loss)`")
            loss = as_number(loss)
        # Reciprocals as GradScaler takes them.
        inverse = None if scale is None else float(scale.double().reciprocal().float())
        if self._coupled:
            given = [self._gradients(group, inverse) for group in self.param_groups]
            used = [k for k, (_, grads) in enumerate(given) if grads]
            if used:
                self._tell_apart(used)
                self._run(-1, self.param_groups[used[0]], [p for params, _ in given for p in params], [g for _, grads in given for g in grads], loss)
            return
        for number, group in enumerate(self.param_groups):
            params, grads = self._gradients(group, inverse)
            if grads:
                self._run(number, group, params, grads, loss)

    def _update_asking(self, loss: Any, scale: Any, asked: Asked | None) -> None:
        """A step that asks for the loss at other weights: these are put into the parameters, while the step has copies of its own."""
        if asked is None:
            raise ValueError(
                f"{self._rule.text} asks for {needed(self._asks)} at other weights: give `step` a closure that clears the gradients, computes the loss and calls `backward()`"
            )
        if scale is not None:
            raise RuntimeError(f"{self._rule.text} evaluates the loss several times in a step; GradScaler scales and checks one evaluation")
        if loss is None:
            raise ValueError(f"{self._rule.text} looks at the loss at other weights: the closure has to return it")
        given = [self._gradients(group, None) for group in self.param_groups]
        used = [k for k, (_, grads) in enumerate(given) if grads]
        if not used:
            return
        self._tell_apart(used)
        if len({bool(self.param_groups[k]["maximize"]) for k in used}) > 1:
            raise ValueError(f"parameter groups differ in `maximize`, but {self._rule.text} makes one step for all parameters")
        group = self.param_groups[used[0]]
        params, grads = [p for own, _ in given for p in own], [g for _, own in given for g in own]
        asked.begin(params, loss, -1.0 if group["maximize"] else 1.0)
        if asked.examples not in (None, self._options["examples"]):
            self._options["examples"] = asked.examples
            self._known.clear()
        held = [p.detach().clone() for p in params]
        self._asking = True
        try:
            # The closure may write to the gradients that are there.
            self._run(-1, group, params, [g.detach().clone() for g in grads], asked.sign * as_number(loss), asked.closure(), held)
        finally:
            self._asking = False
            # The new weights, or those from before: a step that failed has changed nothing.
            for p, w in zip(params, held):
                p.copy_(w)
                if p.grad is not None and p.grad.requires_grad:
                    # A graph refers to the parameter, which refers to the gradient.
                    p.grad = p.grad.detach()

    @staticmethod
    def _gradients(group: dict[str, Any], inverse: float | None) -> tuple[list[Any], list[Any]]:
        """Parameters that have a gradient, and the gradients to step with."""
        params = group["params"]
        grads = [p.grad for p in params]
        if any([g is None for g in grads]):
            params = [p for p, g in zip(params, grads) if g is not None]
            grads = [g for g in grads if g is not None]
        if any([g.is_sparse for g in grads]):
            raise RuntimeError("sparse gradients are not supported; make them dense, `grad.to_dense()`")
        if grads and inverse is not None:
            torch._foreach_mul_(grads, inverse)
        if grads and group["maximize"]:
            grads = torch._foreach_neg(grads)
        return params, grads

    def _constants_of(self, group: dict[str, Any]) -> dict[str, Any]:
        return {n: group[n] for n in self._constants if n in group}

    def _numbers(self, group: dict[str, Any]) -> dict[str, float]:
        """A group's hyperparameters by the rule's names."""
        numbers = {n: float(group[key] if place is None else group[key][place]) for n, (key, place) in self._keys.items()}
        if "lr" not in numbers and "lr" in group:
            factor = float(group["lr"])
            if factor != 1.0:
                numbers |= {n: factor * x for n, x in numbers.items() if n.endswith(".lr")}
        return numbers

    def _tell_apart(self, used: list[int]) -> None:
        """Groups that make one step may differ in their hyperparameters: these become inputs for each group. In what a rule knows at compile time they are equal."""
        first = self.param_groups[used[0]]
        want, constants = self._numbers(first), self._constants_of(first)
        differ = set()
        for k in used[1:]:
            group = self.param_groups[k]
            differ |= {name for name, x in self._numbers(group).items() if x != want[name]}
            other = self._constants_of(group)
            for name in constants | other:
                if constants.get(name) != other.get(name):
                    raise ValueError(
                        f"parameter groups {used[0]} and {k} differ in `{name}` ({constants.get(name)}, {other.get(name)}), which is known at compile time, but {self._rule.text} makes one "
                        "step for all parameters: it takes something over all of them. Say in the rule what differs: "
                        "`clip_by_global_norm(1.0) |> { \"*.bias\": sgd(lr = 0.1), _: adamw(lr = 1e-3) }`"
                    )
        if not differ <= self._apart:
            self._apart |= differ
            self._known.clear()

    def _run(
        self, number: int, group: dict[str, Any], params: list[Any], grads: list[Any], loss: Any, closure: Closure | None = None, weights: list[Any] | None = None
    ) -> None:
        """``weights`` are what is stepped, where that is not what the parameters hold."""
        constants = self._constants_of(group)
        home = self.param_groups[max(number, 0)]
        known = self._known.get(number)
        if known is None or not known.still(params, self.state, constants, home.get("shared")):
            known = self._known[number] = self._plan(number, home, params, grads, constants)
        numbers = self._numbers(group)
        of_group = [self._numbers(g) for g in self.param_groups] if number < 0 and self._apart else []
        seed = int(group.get("seed", 0))
        for plan in known.plans:
            own, slopes = (params, grads) if plan.where is None else ([params[k] for k in plan.where], [grads[k] for k in plan.where])
            own = own if weights is None else weights
            plan.compiled.step(own, slopes, plan.states, loss=loss, seed=seed, closure=closure, **{n: (numbers if g is None else of_group[g])[name] for n, name, g in plan.hyper if name in numbers})
            plan.steps.add_(1.0)
            plan.version = plan.steps._version

    def _plan(self, number: int, home: dict[str, Any], params: list[Any], grads: list[Any] | None, constants: dict[str, Any]) -> _Known:
        """Compiles what is not compiled yet and finds or makes the states."""
        names = {id(p): n for p, n in self._all()}
        leaves = [(p, names[id(p)]) for p in params]
        if self._together:
            shared = home.setdefault("shared", {})
            count = int(shared["step"]) if "step" in shared else max(map(self._count, params))
            parts: dict[int, list[int]] = {count: list(range(len(params)))}
        else:
            shared = None
            parts = {}
            for k, p in enumerate(params):
                parts.setdefault(self._count(p), []).append(k)
        plans = []
        for count, where in parts.items():
            whole = len(where) == len(params)
            for some in self._portions(number, where, leaves):
                alone = whole and len(some) == len(where)
                compiled = self._compile([leaves[k] for k in some], constants)
                states, steps = self._states(compiled, [leaves[k] for k in some], None if grads is None else [grads[k] for k in some], count, shared, int(home.get("seed", 0)))
                plans.append((None if alone else some, compiled, states, steps))
        held = [self.state[p] for p in params]
        made = []
        for where, compiled, states, steps in plans:
            own = held if where is None else [held[k] for k in where]
            made.append(_Plan(where, compiled, states, [x for d in own for x in d.values()], steps, self._full))
        return _Known(params, held, made, constants, shared, self.state)

    def _count(self, p: Any) -> int:
        """The steps that a parameter has made. Where they were not counted (torch's SGD), but there are states, there was one."""
        own = self.state[p]
        return int(own["step"]) if "step" in own else int(any(x is not None for x in own.values()))

    def _portions(self, number: int, where: list[int], leaves: list[tuple[Any, str]]) -> list[list[int]]:
        """What is compiled together: all of it, unless other parameters have gradients at every step; then each is compiled by itself, once."""
        if self._together:
            return [where]
        seen = self._sets.setdefault(number, set())
        seen.add(tuple(id(leaves[k][0]) for k in where))
        return [where] if len(seen) <= _SETS else [[k] for k in where]

    def _states(
        self, compiled: _Compiled, leaves: list[tuple[Any, str]], grads: list[Any] | None, count: int, shared: dict[str, Any] | None, seed: int
    ) -> tuple[States, torch.Tensor]:
        """States of a step: those that are there, in the types that the rule declares, and fresh ones."""
        fresh: States | None = None

        def begin() -> States:
            nonlocal fresh
            if fresh is None:
                fresh = compiled.init([p for p, _ in leaves], grads, seed=seed)
            return fresh

        states = States([{} for _ in leaves], {})
        steps = torch.full((len(leaves),), float(count))
        for k, (p, name) in enumerate(leaves):
            own = self.state[p]
            begun = [n for n, x in own.items() if n != "step" and x is not None]
            for n, (shape, dtype) in compiled.states.leaves[k].items():
                key = self._rule.state(compiled._short[k][n])
                if own.get(key) is None:
                    if begun and count:
                        raise ValueError(f"the states of `{name}` lack `{key}`; there are {', '.join(begun)}")
                    own[key] = self._turned(begin().leaves[k][n], p, shape, back=True)
                else:
                    found = self._turned(own[key], p, shape)
                    kept = _settled(found, shape, dtype, f"state `{key}` of `{name}`")
                    if kept is not found:
                        own[key] = self._turned(kept, p, shape, back=True)
                states.leaves[k][n] = self._turned(own[key], p, shape)
            own["step"] = steps[k]
        for n, (shape, dtype) in compiled.states.shared.items():
            if n == "step":
                number = torch.tensor(count, dtype=torch.int32)
                states.shared[n] = number if shared is None else _settled(shared.get(n, number), shape, dtype, "the count of steps")
            else:
                assert shared is not None
                states.shared[n] = _settled(shared[n], shape, dtype, f"state `{n}`") if n in shared else begin().shared[n]
            if shared is not None:
                shared[n] = states.shared[n]
        return states, steps

    def _turned(self, x: Any, p: torch.Tensor, declared: tuple[int, ...], back: bool = False) -> Any:
        """A state of the weight's shape with the axes as the rule sees them, outputs last, or `back` as torch has them in the parameter: the same memory."""
        n = p.ndim
        if not self._first or n < 2 or not torch.is_tensor(x) or x.ndim != n or tuple(declared) != (*p.shape[1:], p.shape[0]):
            return x
        return x.permute(n - 1, *range(n - 1)) if back else x.permute(*range(1, n), 0)

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """While it lasts the parameters are the weights that the rule wants evaluation to use (averages, say); then they are as before."""
        jobs = [(-1, self.param_groups)] if self._coupled else [(k, [group]) for k, group in enumerate(self.param_groups)]
        before = []
        with torch.no_grad():
            for number, groups in jobs:
                params = [p for group in groups for p in group["params"] if self.state.get(p)]
                if not params:
                    continue
                known = self._plan(number, groups[0], params, None, self._constants_of(groups[0]))
                for plan in known.plans:
                    own = params if plan.where is None else [params[k] for k in plan.where]
                    if plan.compiled.has_weights:
                        for p, w in zip(own, plan.compiled.weights(own, plan.states)):
                            before.append((p, p.detach().clone()))
                            p.copy_(w)
        self._known.clear()
        try:
            yield
        finally:
            with torch.no_grad():
                for p, w in before:
                    p.copy_(w)


def _settled(x: Any, shape: tuple[int, ...], dtype: str, what: str) -> torch.Tensor:
    """A state of the declared type, the same tensor where it has it."""
    _arrays._torch_names()
    if not torch.is_tensor(x):
        x = torch.tensor(x)
    if tuple(x.shape) != tuple(shape):
        raise ValueError(f"{what} has the shape {list(x.shape)}, not {list(shape)}")
    return x.to(device="cpu", dtype=_arrays._torch_by_name[dtype]).contiguous()


def _check(p: torch.Tensor, name: str) -> None:
    """What compiled code can update."""
    what = f"`{name}`" if name != "a parameter" else name
    if p.device.type != "cpu":
        raise ValueError(f"{what} is on {p.device}; optc.torch updates parameters on the CPU, move it there with `.cpu()`")
    if p.layout is not torch.strided:
        raise ValueError(f"{what} is not dense ({p.layout})")
    if p.dtype not in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        raise TypeError(f"{what} is {p.dtype}; optc.torch updates float32, float64, bfloat16 and float16")
    if not p.is_contiguous():
        raise ValueError(f"{what} is not contiguous (strides {p.stride()} of shape {tuple(p.shape)}); give it contiguous memory first, `p.data = p.data.contiguous()`")


_classes: dict[Any, type[Optimizer]] = {}


def optimizer_class(
    rule: str,
    *,
    file: str | os.PathLike[str] | None = None,
    outputs_first: bool = True,
    total_steps: int | None = None,
    name: str | None = None,
    **hyper: Any,
) -> type[Optimizer]:
    """The class of a rule, to be used as those of ``torch.optim``: ``Muon = optimizer_class("muon", lr=0.01)``, then ``Muon(model.parameters(), weight_decay=0.1)``.

    ``hyper`` are the defaults of the class, ``name`` is its name. Where the rule's documentation says what torch's default is (weight decay 0.01 for AdamW), that is the class's too.
    Its objects can be pickled where the rule is known.
    """
    file = None if file is None else os.path.abspath(os.fspath(file))
    made = {"file": file, "outputs_first": outputs_first, "total_steps": total_steps, "name": name, **hyper}
    key = (rule, repr(sorted(made.items(), key=lambda item: item[0])))
    if key in _classes:
        return _classes[key]
    described = _torch_names.Rule(rule, file)
    options = {"file": file, "outputs_first": outputs_first, "total_steps": total_steps}
    hyper = described.defaults | hyper

    def __init__(self: Optimizer, params: Iterable[Any], *args: Any, **given: Any) -> None:
        if args:
            if len(args) > 1 or "lr" in given:
                raise TypeError("after the parameters only the learning rate may be given without its name")
            given["lr"] = args[0]
        Optimizer.__init__(self, params, rule, **(options | hyper | given))

    def __reduce_ex__(self: Optimizer, protocol: Any) -> Any:
        return _remade, (rule, made), self.__getstate__()

    body = {"__init__": __init__, "__reduce_ex__": __reduce_ex__, "__doc__": described.doc or f"`{rule}`", "__module__": __name__}
    made_class = type(name or _torch_names.class_name(rule), (Optimizer,), body)
    kinds = inspect.Parameter
    shown = [kinds("params", kinds.POSITIONAL_OR_KEYWORD)]
    shown += [kinds(n, kinds.KEYWORD_ONLY, default=hyper.get(n, ...)) for n in described.parameters if n != "maximize"]
    shown += [kinds("seed", kinds.KEYWORD_ONLY, default=0), kinds("maximize", kinds.KEYWORD_ONLY, default=False)]
    made_class.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    _classes[key] = made_class
    return made_class


def _remade(rule: str, made: dict[str, Any]) -> Optimizer:
    of = optimizer_class(rule, **made)
    return of.__new__(of)
