"""Specs: their functions, trains and experiments."""

from __future__ import annotations

import ctypes
import inspect
import math
from dataclasses import dataclass, field
from typing import Any, Callable, Iterator, Mapping

import numpy as np

from . import _arrays, _lib
from ._optimizer import Optimizer

_C_TYPES = {"f64": ctypes.c_double, "f32": ctypes.c_float, "i64": ctypes.c_int64, "i32": ctypes.c_int32, "u32": ctypes.c_uint32, "u8": ctypes.c_uint8, "bool": ctypes.c_bool}
_NUMBERS = (bool, int, float, np.generic)


@dataclass
class Series:
    """Values that a run recorded, and the steps (from 1) after which it did."""

    steps: np.ndarray
    values: np.ndarray

    @property
    def last(self) -> float:
        """The newest value."""
        return float(self.values[-1]) if len(self.values) else math.nan


@dataclass
class Run:
    """What a train came to."""

    #: Its name.
    name: str
    #: Steps made, with those before a resume.
    steps: int
    #: Wall time of the training loop.
    seconds: float
    #: What was recorded, by name: losses, metrics, auxiliary values.
    series: dict[str, Series]
    #: The weights that evaluation uses, as nested dictionaries: ``params["net"]["linear"]["w"]``.
    params: dict[str, Any]
    #: Everything that lives on from step to step, by its full name: parameters, buffers, states of the optimizer, the count of steps.
    slots: dict[str, np.ndarray] = field(repr=False)

    @property
    def loss(self) -> float:
        """The loss that was recorded last."""
        return self.metrics.get("loss", math.nan)

    @property
    def metrics(self) -> dict[str, float]:
        """The last value of everything that was recorded, the loss too."""
        return {name: s.last for name, s in self.series.items()}

    @property
    def log(self) -> list[dict[str, float]]:
        """One dictionary per step at which something was recorded."""
        rows: dict[int, dict[str, float]] = {}
        for name, s in self.series.items():
            for step, value in zip(s.steps.tolist(), s.values.tolist()):
                rows.setdefault(step, {"step": step})[name] = value
        return [rows[step] for step in sorted(rows)]

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain dictionaries."""
        return {
            "name": self.name, "steps": self.steps, "seconds": self.seconds, "loss": self.loss, "metrics": self.metrics, "log": self.log,
            "params": self.params, "slots": self.slots,
        }


def _series(described: dict[str, Any]) -> dict[str, Series]:
    return {n: Series(np.array(s["steps"], np.int64), np.array([float(v) for v in s["values"]], np.float64)) for n, s in described.items()}


def _nest(leaves: list[tuple[str, Any]]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, array in leaves:
        *parts, last = path.split(".")
        at = tree
        for part in parts:
            at = at.setdefault(part, {})
        at[last] = array
    return tree


def _written(name: str, value: Any) -> str:
    """A setting as the command line takes it: ``steps=200``."""

    def text(value: Any) -> str:
        if value is None:
            return "none"
        if isinstance(value, (bool, np.bool_)):
            return "true" if value else "false"
        if isinstance(value, (list, tuple)):
            return f"[{', '.join(text(v) for v in value)}]"
        if isinstance(value, np.generic):
            value = value.item()
        return value if isinstance(value, str) else repr(value)

    return f"{name}={text(value)}"


class Function:
    """A function of a spec. Calling it compiles it for the element types and shapes of the arguments, once, and runs it."""

    def __init__(self, module: _lib.Handle, item: dict[str, Any]):
        self._module = module
        self._names = [p["name"] for p in item["params"]]
        self._kinds = [p["number"] for p in item["params"]]
        self._by_name = dict(zip(self._names, self._kinds))
        self._compiled: dict[Any, _Compiled] = {}
        self.__name__ = self.__qualname__ = item["name"]
        self.__doc__ = "\n\n".join(t for t in (item["signature"], item["doc"]) if t)
        kind: Any = inspect.Parameter.POSITIONAL_OR_KEYWORD
        seen_default = False
        parameters = []
        for p in item["params"]:
            # After a parameter with a default the others are given by name.
            by_name = seen_default and not p["optional"]
            seen_default |= p["optional"]
            if by_name:
                kind = inspect.Parameter.KEYWORD_ONLY
            parameters.append(inspect.Parameter(p["name"], kind, default=... if p["optional"] else inspect.Parameter.empty))
        self.__signature__ = inspect.Signature(parameters)

    def __repr__(self) -> str:
        return f"<optc.Function {self.__name__}>"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        key: list[Any] = []
        addresses: list[int] = []
        keep: list[Any] = []
        of = "numpy"
        kinds = self._kinds
        address_of = _arrays.address_of
        for k, x in enumerate(args):
            if type(x) is np.ndarray and x.flags.carray:
                dtype = _arrays._NUMPY.get(x.dtype)
                if dtype is not None:
                    key.append((dtype, x.shape))
                    addresses.append(address_of(x))
                    continue
            of = _describe(x, kinds[k] if k < len(kinds) else "any", key, addresses, keep, of)
        if kwargs:
            for name in self._names:
                if name in kwargs:
                    key.append(name)
                    of = _describe(kwargs[name], self._by_name[name], key, addresses, keep, of)
            for name in kwargs:
                if name not in self._by_name:
                    key.append(name)
                    of = _describe(kwargs[name], "any", key, addresses, keep, of)
        whole = tuple(key)
        compiled = self._compiled.get(whole)
        if compiled is None:
            compiled = self._compiled[whole] = _Compiled(self._module, self.__name__, whole)
        return compiled(addresses, of)


def _describe(x: Any, number: str, key: list[Any], addresses: list[int], keep: list[Any], of: str) -> str:
    """Appends what the compiler must know of an argument to ``key``, and addresses of what the code is given. The result is whose arrays are wanted."""
    if isinstance(x, _NUMBERS):
        if isinstance(x, np.generic):
            x = x.item()
        whole = isinstance(x, (bool, int))
        if number == "number" or (number == "any" and not whole):
            value: Any = ctypes.c_double(x)
            key.append(("number",))
        elif number in _C_TYPES and (not whole or not isinstance(x, bool) or number == "bool") and (whole or number in ("f32", "f64")):
            _check_range(x, number)
            value = _C_TYPES[number](x)
            key.append((number, ()))
        else:
            if isinstance(x, float) and not math.isfinite(x):
                raise ValueError(f"{x} cannot be known at compile time")
            key.append(("bool" if isinstance(x, bool) else "int" if whole else "float", x, None))
            return of
        keep.append(value)
        addresses.append(ctypes.addressof(value))
        return of
    kind = _arrays.kind(x)
    if kind:
        seen = _arrays.see(x, False, kind)
        key.append((seen.dtype, seen.shape))
        addresses.append(seen.address)
        keep.append(seen)
        return kind if kind in ("torch", "jax") else of
    if x is None:
        key.append(("none", None, None))
        return of
    if isinstance(x, str):
        key.append(("str", x, None))
        return of
    if isinstance(x, Mapping):
        inner: list[Any] = []
        for name, value in x.items():
            inner.append(str(name))
            of = _describe(value, "any", inner, addresses, keep, of)
        key.append(("record", tuple(inner), None))
        return of
    if isinstance(x, (tuple, list)):
        inner = []
        for value in x:
            of = _describe(value, "constant" if isinstance(x, list) and isinstance(value, _NUMBERS) else "any", inner, addresses, keep, of)
        key.append(("tuple" if isinstance(x, tuple) else "list", tuple(inner), None))
        return of
    raise TypeError(f"{type(x).__name__} is no array, number, text, or tree of these")


def _check_range(x: Any, dtype: str) -> None:
    if dtype[0] in "iu":
        bits = int(dtype[1:])
        low, high = (0, 2**bits) if dtype[0] == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1))
        if not low <= x < high:
            raise OverflowError(f"{x} does not fit in {dtype}")


def _json(described: tuple[Any, ...]) -> Any:
    if len(described) == 2:
        return {"array": list(described)}
    if len(described) == 1 or described[0] == "none":
        return described[0]
    what, value, _ = described
    if what == "record":
        return {what: [[n, _json(d)] for n, d in zip(value[::2], value[1::2])]}
    if what in ("tuple", "list"):
        return {what: [_json(d) for d in value]}
    return {what: value}


class _Compiled:
    """A function compiled for one kind of arguments."""

    def __init__(self, module: _lib.Handle, name: str, key: tuple[Any, ...]):
        args = []
        by_name = None
        for part in key:
            if isinstance(part, str):
                by_name = part
            else:
                args.append((by_name, _json(part)))
                by_name = None
        made = _lib.request(do="function", module=module.number, name=name, args=args)
        self._handle = _lib.Handle(made["call"])
        self._number = self._handle.number
        self._outputs = [(dtype, tuple(shape)) for dtype, shape in made["outputs"]]
        self._build = _builder(made["result"])
        # As NumPy's, where it has all the element types.
        plain = [(shape, None if dtype == "bf16" else _arrays.numpy_dtype(dtype)) for dtype, shape in self._outputs]
        self._numpy = plain if all(d is not None for _, d in plain) else None

    def __call__(self, addresses: list[int], of: str) -> Any:
        if of == "numpy" and self._numpy is not None:
            made = [np.empty(shape, dtype) for shape, dtype in self._numpy]
            addresses.extend(map(_arrays.address_of, made))
            self._run(addresses)
            return self._build([x if x.ndim else x.item() for x in made])
        made = []
        for dtype, shape in self._outputs:
            array, address = _arrays.empty(shape, dtype, of if shape else "numpy")
            made.append(array)
            addresses.append(address)
        self._run(addresses)
        return self._build([_arrays.finish(x, d, of) if shape else _arrays.scalar(x, d) for x, (d, shape) in zip(made, self._outputs)])

    def _run(self, addresses: list[int]) -> None:
        held, block = _arrays.block(addresses)
        fault = _lib.call(self._number, block, len(addresses))
        if fault:
            _lib.failed(fault)


def _builder(result: dict[str, Any]) -> Callable[[list[Any]], Any]:
    """What puts outputs in the places that they have in a result."""
    (what, of), = result.items()
    if what == "array":
        return lambda outputs: outputs[of]
    if what == "record":
        names, parts = [n for n, _ in of], [_builder(r) for _, r in of]
        return lambda outputs: {n: part(outputs) for n, part in zip(names, parts)}
    if what in ("tuple", "list"):
        parts, kind = [_builder(r) for r in of], tuple if what == "tuple" else list
        return lambda outputs: kind(part(outputs) for part in parts)
    constant = float(of) if what == "float" else of
    return lambda outputs: constant


class Module:
    """A compiled spec; made by :func:`optc.compile` and :func:`optc.load`.

    Its functions (``fn`` and ``loss``) are attributes, ``m.f(x)``, or items, ``m["f"](x)``. Several threads may use one module.
    """

    def __init__(self, **source: Any):
        made = _lib.request(do="open", **source)
        self._handle = _lib.Handle(made["module"])
        self._items: dict[str, dict[str, Any]] = {i["name"]: i for i in made["items"]}
        self._functions: dict[str, Function] = {}
        #: Warnings of the compiler, as in :class:`optc.SpecError`.
        self.warnings: list[dict[str, Any]] = made["warnings"]

    def __repr__(self) -> str:
        return f"<optc.Module: {', '.join(i['signature'] or n for n, i in self._items.items())}>"

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self.functions})

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def _of_kind(self, *kinds: str) -> list[str]:
        return [name for name, item in self._items.items() if item["kind"] in kinds]

    @property
    def functions(self) -> list[str]:
        """Names of what can be called."""
        return self._of_kind("fn", "loss")

    @property
    def trains(self) -> list[str]:
        """Names of trains."""
        return self._of_kind("train")

    @property
    def experiments(self) -> list[str]:
        """Names of experiments."""
        return self._of_kind("experiment")

    def __getitem__(self, name: str) -> Function:
        found = self._functions.get(name)
        if found is None:
            item = self._items.get(name)
            if item is None:
                raise KeyError(f"the spec has no `{name}`; it has {', '.join(self._items) or 'nothing'}")
            if item["kind"] not in ("fn", "loss"):
                help = {
                    "train": f'`m.train("{name}")`', "experiment": f'`m.run("{name}")`', "optimizer": f'`m.optimizer("{name}", shapes)`',
                    "model": f"a function can call it: `fn forward(p: tree, x: f32[B, N]) = {name}().with(p)(x)`",
                }.get(item["kind"])
                raise KeyError(f"`{name}` is a {item['kind']}, no function" + (f"; {help}" if help else ""))
            found = self._functions[name] = Function(self._handle, item)
        return found

    def __getattr__(self, name: str) -> Function:
        if name.startswith("__") or "_items" not in self.__dict__:
            raise AttributeError(name)
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(error.args[0]) from None

    def _run(self, item: str, set: Mapping[str, Any] | None, seed: int | None, resume: bool, verbose: bool) -> Any:
        written = [_written(n, v) for n, v in (set or {}).items()]
        return _lib.long_request(do="run", module=self._handle.number, item=item, set=written, seed=seed, resume=resume, verbose=verbose)

    def _one(self, name: str | None, kind: str) -> str:
        all = self._of_kind(kind)
        if name is None:
            if len(all) != 1:
                raise ValueError(f"name the {kind}; the spec has {', '.join(all) or 'none'}")
            return all[0]
        if name not in all:
            raise ValueError(f"the spec has no {kind} `{name}`; it has {', '.join(all) or 'none'}")
        return name

    def train(
        self, name: str | None = None, *, set: Mapping[str, Any] | None = None, seed: int | None = None, resume: bool = False, verbose: bool = False
    ) -> Run:
        """Runs a train (the only one, if no name is given). ``set`` changes settings and constants: ``{"steps": 10, "net.hidden": 32}``.

        Ctrl-C ends it after the step at hand with ``KeyboardInterrupt``. With ``verbose`` progress is shown.
        """
        name = self._one(name, "train")
        made = self._run(name, set, seed, resume, verbose)
        params = _nest([(path, _arrays.handed_out(a)) for path, a in made["weights"]])
        slots = {path: _arrays.handed_out(a) for path, a in made["slots"]}
        return Run(name, made["steps"], made["seconds"], _series(made["series"]), params, slots)

    def run(
        self, name: str | None = None, *, set: Mapping[str, Any] | None = None, seed: int | None = None, resume: bool = False, verbose: bool = False
    ) -> dict[str, Any]:
        """Runs an experiment (the only one, if no name is given); its results.

        ``passed`` (whether all checks hold), ``checks``, ``tables`` (lists of dictionaries), ``printed`` (lines), ``plots`` (curves as data), ``saved`` (paths) and
        ``runs`` (the trains in it, with what they recorded). Files that the experiment plots or saves are written as from the command line. ``set`` may also give the
        arguments of the experiment.
        """
        made = self._run(self._one(name, "experiment"), set, seed, resume, verbose)
        made["tables"] = [[{n: _cell(c) for n, c in row.items()} for row in table] for table in made["tables"]]
        for run in made["runs"]:
            run["series"] = _series(run["series"])
        return made

    def optimizer(self, rule: str, shapes: Any, dtype: Any = None, **options: Any) -> Optimizer:
        """As :func:`optc.optimizer`, for a rule that this spec has or mentions."""
        return Optimizer(rule, shapes, dtype, _module=self._handle.number, **options)


def _cell(cell: Any) -> Any:
    return cell["text"] if isinstance(cell, dict) else float(cell)
