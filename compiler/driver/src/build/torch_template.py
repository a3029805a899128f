"""@DOC@

`@CLASS@` is a `torch.optim.Optimizer`: parameter groups, schedulers, `state_dict`, closures, `GradScaler` and hooks work as with those of torch.
CPU tensors of @DTYPES@ are updated in one pass by @LIBRARY@, which lies beside this file@CUDA@; others (strided, other
types) by the same rule written out below in torch's own operations. Generated: change the spec, not this file.
"""

import ctypes
@GPU_IMPORTS@import math  # noqa: F401 (the rule may use it)
import operator  # noqa: F401 (the rule may use it)
@GPU_IMPORTS_TOO@import pathlib
@GPU_IMPORTS_LAST@from array import array
from concurrent.futures import ThreadPoolExecutor
from operator import is_

import torch
from torch.optim import Optimizer

__all__ = ["@CLASS@", "@FUNCTION@"]

_LIBRARY = ctypes.CDLL(str(pathlib.Path(__file__).with_name("@LIBRARY@")))
_ABI = @ABI@


class _Hyper(ctypes.Structure):
    _fields_ = [("size", ctypes.c_uint32), ("version", ctypes.c_uint32)] + [
        (name, ctypes.c_double) for name in @HYPER@
    ]


# States of a leaf: name, and whether it is one number for the whole leaf.
_STATES = @STATES@
# Element types of the states, by that of the weights.
_KEPT = @KEPT@
_COUNTS_STEPS = @COUNTS@
_DIVISIBLE = @DIVISIBLE@
# How often all leaves are gone through in a step; doubles for what is combined over them on the way.
_ROUNDS, _FOLDS = @ROUNDS@, @FOLDS@


def _function(name, arguments):
    function = getattr(_LIBRARY, name)
    function.argtypes, function.restype = arguments, ctypes.c_int32
    return function


_STEP = {
    dtype: _function(f"@NAME@_{suffix}_step_many", [ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int32, ctypes.c_void_p])
    for dtype, suffix in @SUFFIXES@
}
_ROUND = {
    dtype: _function(f"@NAME@_{suffix}_step_round", [ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int32, ctypes.c_void_p, ctypes.c_int32, ctypes.c_void_p])
    for dtype, suffix in @SUFFIXES@
    if _ROUNDS > 1
}
_INIT = {
    dtype: _function(f"@NAME@_{suffix}_init", [ctypes.c_size_t] + [ctypes.c_void_p] * (1 + len(_STATES)))
    for dtype, suffix in @SUFFIXES@
}
_LIBRARY.@NAME@_error.restype = ctypes.c_char_p

# Elements below which another thread costs more than it saves.
_SMALL = 1 << 17
_pool = None


def _threads():
    """Workers beside the calling thread; made when they are first needed."""
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(max_workers=max(1, torch.get_num_threads() - 1), thread_name_prefix="@NAME@")
    return _pool


def _check(code):
    if code:
        raise ValueError(_LIBRARY.@NAME@_error(code).decode())


@PARTS@def _rule(t, dtype, @RULE_ARGS@, folds=()):
    """The rule in torch's operations: the weight and the states after step `t`."""
@RULE@

# What leaves contribute to numbers that all share, by rounds, and how each is combined.
_PARTS, _COMBINE = @PARTS_LIST@, @COMBINE@


def _written_out(leaves):
    """A step of leaves (step, weight, gradient, states, hyperparameters) in torch's operations."""
    folds = [None] * len(_COMBINE)
    spread = len({p.device for _, p, *_ in leaves}) > 1
    for parts, places in _PARTS:
        for t, p, g, kept, values in leaves:
            dtype = torch.promote_types(p.dtype, torch.float32)
            for k, part in zip(places, parts(t, dtype, p, g, *kept, *values, folds=folds)):
                part = part.cpu() if spread and torch.is_tensor(part) else part
                folds[k] = part if folds[k] is None else _COMBINE[k](folds[k], part)
    for t, p, g, kept, values in leaves:
        results = _rule(t, torch.promote_types(p.dtype, torch.float32), p, g, *kept, *values, folds=folds)
        for old, new in zip([p, *kept], results):
            old.copy_(new)


def _initial(w):
    """Fresh states of a leaf."""
    kept = _KEPT.get(w.dtype) or [w.dtype if k.is_floating_point else k for k in _KEPT[torch.float32]]
    states = [torch.empty((), dtype=k, device="cpu") if single else torch.empty_like(w, dtype=k, memory_format=torch.preserve_format) for k, (_, single) in zip(kept, _STATES)]
    if w.numel() == 0:
        return [s.zero_() for s in states]
    if _dense(w) and w.dtype in _INIT:
        _check(_INIT[w.dtype](w.numel(), w.data_ptr(), *(s.data_ptr() for s in states)))
    else:
        source = w.detach().to("cpu", torch.float32).contiguous()
        fresh = [torch.empty((), dtype=k) if single else torch.empty_like(source, dtype=k) for k, (_, single) in zip(_KEPT[torch.float32], _STATES)]
        _check(_INIT[torch.float32](source.numel(), source.data_ptr(), *(s.data_ptr() for s in fresh)))
        states = [s if single else s.copy_(f) for s, f, (_, single) in zip(states, fresh, _STATES)]
        states = [f if single else s for s, f, (_, single) in zip(states, fresh, _STATES)]
    return states


def _plain(x):
    """Whether a tensor has elements of its own; those of classes that stand for other tensors (distributed ones) have not."""
    return type(x).__torch_dispatch__ is torch.Tensor.__torch_dispatch__


def _lying(x):
    """How the elements of a tensor lie one after the other; nothing where they do not."""
    if x.layout is not torch.strided:
        return None
    if x.is_contiguous():
        return torch.contiguous_format
    return torch.channels_last if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last) else None


def _layout(x):
    """The same for CPU tensors; nothing for others."""
    return _lying(x) if x.device.type == "cpu" else None


def _dense(x):
    """Whether the elements of a CPU tensor lie one after the other, in whatever order of its axes."""
    return _layout(x) is not None


def _fitting(gradients, layout):
    """These gradients, lying as weights of this layout do."""
    if layout is torch.contiguous_format:
        fit = all([g.is_contiguous() for g in gradients])
    else:
        fit = all([g.is_contiguous(memory_format=layout) for g in gradients])
    if not fit or any([g.is_neg() for g in gradients]):
        gradients = [g.resolve_neg().contiguous(memory_format=layout) for g in gradients]
    return gradients


class _Share:
    """What one thread does in a step: rows of (elements, weight, gradient, states …), parts of leaves."""

    def __init__(self):
        self.table, self.gradients = array("Q"), []

    def add(self, leaf, begin, end, addresses, widths, gradient_width):
        self.table.append(end - begin)
        places = [a + begin * w for a, w in zip(addresses, widths)]
        self.table.extend([places[0], 0, *places[1:]])
        self.gradients.append((leaf, begin * gradient_width))

    def aim(self, pointers):
        self.table[2 :: 3 + len(_STATES)] = array("Q", [pointers[k] + offset for k, offset in self.gradients])


class _Plan:
    """Leaves of one type and layout that are at the same step, with the addresses of all that stays where it is."""

    #: It is the CPU's, and in no recorded graph.
    device, captured = None, False

    def __init__(self, dtype, layout, leaves, states, t, threads):
        self.dtype, self.layout, self.t, self.leaves = dtype, layout, t, leaves
        total = sum(p.numel() for p in leaves)
        count = max(1, min(threads, total // _SMALL))
        goal = -(-total // count)
        goal = -(-goal // 64) * 64
        self.shares = [_Share()]
        room = goal
        width = dtype.itemsize
        for k, (p, kept) in enumerate(zip(leaves, states)):
            addresses = [p.data_ptr(), *(s.data_ptr() for s in kept)]
            widths = [width, *(0 if single else s.element_size() for s, (_, single) in zip(kept, _STATES))]
            begin, n = 0, p.numel()
            while begin < n:
                part = n - begin
                if _DIVISIBLE and part > room:
                    part = room
                self.shares[-1].add(k, begin, begin + part, addresses, widths, width)
                begin, room = begin + part, room - part
                if room <= 0:
                    self.shares.append(_Share())
                    room = goal
        self.shares = [s for s in self.shares if s.gradients]

    def aimed(self, gradients):
        """These gradients, lying as the weights do; their addresses are in the lists."""
        gradients = _fitting(gradients, self.layout)
        pointers = [g.data_ptr() for g in gradients]
        for share in self.shares:
            share.aim(pointers)
        return gradients

    def moved_on(self):
        """Steps were counted leaf by leaf."""
        self.t += 1

    def still(self):
        return True

    def prepared(self, values):
        """Hyperparameters as the library takes them."""
        return _Hyper(ctypes.sizeof(_Hyper), _ABI, *(float(x) for x in values))

    def folds(self):
        return (ctypes.c_double * _FOLDS)()

    def round(self, number, hyper, folds, found):
        """One of several rounds; what leaves have in common is in `folds`. Weights and states are written in the last."""
        for share in self.shares:
            _check(_ROUND[self.dtype](len(share.gradients), share.table.buffer_info()[0], self.t + 1, ctypes.addressof(hyper), number, ctypes.addressof(folds)))
        if number + 1 == _ROUNDS:
            torch.autograd.graph.increment_version(self.leaves)
            self.t += 1

    def run(self, gradients, values, found):
        """The next step; where something is wrong, nothing has been done."""
        hyper = self.prepared(values)
        gradients = self.aimed(gradients)
        step, at, t = _STEP[self.dtype], ctypes.addressof(hyper), self.t + 1

        def work(share):
            return step(len(share.gradients), share.table.buffer_info()[0], t, at)

        others = [_threads().submit(work, share) for share in self.shares[1:]]
        codes = [work(share) for share in self.shares[:1]]
        codes += [other.result() for other in others]
        for code in codes:
            _check(code)
        # Autograd is to know that the weights have new values.
        torch.autograd.graph.increment_version(self.leaves)
        self.t = t


@GPU_PLANS@

class _Known:
    """What was found in a group's last step: parameters with gradients, where they and their states lie, and the plans made of that."""

    def __init__(self, state, params, gradients):
        self.params, self.threads = params, torch.get_num_threads()
        self.kinds = [g.dtype for g in gradients]
        self.pointers = [p.data_ptr() for p in params]
        #: Plans with the places of their leaves; places of leaves that the library does not take.
        self.plans, self.others = [], []
        self.dictionaries = [state[p] for p in params]
        self.held = [x for kept in self.dictionaries for x in kept.values()]
        self.all = list(state.values())
        #: All counts of steps, side by side; each leaf has a view of its own.
        self.steps = None

    def counted(self):
        if self.steps is not None:
            self.steps.add_(1.0)
            self.version = self.steps._version

    def moved_on(self):
        """Steps were counted leaf by leaf, not by the plans."""
        for plan, _ in self.plans:
            plan.moved_on()
        if self.steps is not None:
            self.version = self.steps._version

    def still(self, state, params, gradients):
        """Whether all of that is as it was. States that someone has put others in the place of, and counts that someone wrote to, are looked at anew."""
        if len(params) != len(self.params) or not all(map(is_, params, self.params)) or torch.get_num_threads() != self.threads:
            return False
        if [g.dtype for g in gradients] != self.kinds or [p.data_ptr() for p in params] != self.pointers:
            return False
        if not all([plan.still() for plan, _ in self.plans]):
            return False
        everything = list(state.values())
        if len(everything) != len(self.all) or not all(map(is_, everything, self.all)):
            return False
        held = [x for kept in self.dictionaries for x in kept.values()]
        return len(held) == len(self.held) and all(map(is_, held, self.held)) and (self.steps is None or self.steps._version == self.version)


class @CLASS@(Optimizer):
    r"""@CLASS_DOC@

@ALL_LEAVES@    Args:
        params: parameters, named parameters or groups of them.
@ARGS@        maximize (bool): ascend instead of descend.
        foreach, fused: accepted and ignored, the update is one pass over each tensor anyway.
        capturable (bool): @CAPTURABLE@
        differentiable (bool): not supported.
        native (bool): False has all tensors updated in torch's operations.
    """

    _step_supports_amp_scaling = True

    def __init__(self, params@INIT_ARGS@, *, maximize=False, foreach=None, capturable=False, differentiable=False, fused=None, native=True):
@CHECKS@        if differentiable:
            raise RuntimeError("@CLASS@ does not support `differentiable`")
        defaults = dict(@DEFAULTS@, maximize=maximize, foreach=foreach, capturable=capturable, differentiable=differentiable, fused=fused@EXTRA@)
        super().__init__(params, defaults)
        #: By groups, what was found in the last step; what recorded graphs use of earlier ones.
        self._plans, self._captured, self._native = {}, [], native
        #: Keys that the optimizer of this name in torch has, and the only values of them that this one knows.
        self._fixed = dict(differentiable=False@EXTRA@)

    def __setstate__(self, state):
        super().__setstate__(state)
        self._forget()
        self.__dict__.setdefault("_native", True)
        for group in self.param_groups:
            for name, value in self.defaults.items():
                group.setdefault(name, value)
            for p in group["params"]:
                kept = self.state.get(p)
                if kept and "step" in kept and not torch.is_tensor(kept["step"]):
                    kept["step"] = torch.tensor(float(kept["step"]), dtype=torch.float32)

    def __getstate__(self):
        return super().__getstate__() | {"_fixed": self._fixed, "_native": self._native, "_plans": {}, "_captured": []}

    def _forget(self, *groups):
        """Has these groups, or all, looked at anew."""
        self.__dict__.setdefault("_captured", [])
        gone = [self._plans.pop(k) for k in groups or list(self.__dict__.setdefault("_plans", {})) if k in self._plans]
        # What a recorded graph uses stays.
        self._captured += [known for known in gone if any([plan.captured for plan, _ in known.plans])]

    def load_state_dict(self, state_dict):
        """As torch's, but states are copied, and keep the element type that they are declared with."""
        given = []
        last = self.register_load_state_dict_pre_hook(lambda _, found: given.append(found))
        try:
            super().load_state_dict(state_dict)
        finally:
            last.remove()
        self._forget()
        saved = given[-1]
        numbers = [k for group in saved["param_groups"] for k in group["params"]]
        own = [p for group in self.param_groups for p in group["params"]]
        for k, p in zip(numbers, own):
            if k not in saved["state"]:
                continue
            kinds = dict(zip((name for name, _ in _STATES), _KEPT.get(p.dtype) or []))
            for name, x in saved["state"][k].items():
                if torch.is_tensor(x):
                    here = self.state[p][name]
                    self.state[p][name] = x.detach().to(dtype=kinds.get(name, here.dtype), device=here.device, copy=True)

    def _values(self, group):
        """The group's hyperparameters in the order of the rule."""
        for name, value in self._fixed.items():
            if group[name] != value:
                raise ValueError(f"@CLASS@ was built with {name}={value}, but a parameter group says {name}={group[name]}")
@UNPACK@        return values

    def _kept(self, p):
        """The states of a parameter, made when it first has a gradient."""
        kept = self.state[p]
        begun = [name for name, x in kept.items() if name != "step" and x is not None]
        missing = [name for name, _ in _STATES if kept.get(name) is None]
        if missing and begun:
            raise ValueError(f"the states of a parameter lack `{missing[0]}`; there are {', '.join(begun)}")
        if missing:
            kept.update(zip((name for name, _ in _STATES), _initial(p)))
        # Where steps were not counted, but there are states, there was one.
        if _COUNTS_STEPS and kept.get("step") is None:
            kept["step"] = torch.tensor(float(bool(begun)), dtype=torch.float32)
        return [kept[name] for name, _ in _STATES]

    @torch.no_grad()
    def step(self, closure=None):
        """One step; with a closure, which computes the loss and its gradients anew, that first. Returns its loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._update()
        return loss

    @torch.compiler.disable
    def _update(self):
        scale, found = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        if found is not None and found.is_cpu and float(found):
            return
        groups = []
        for number, group in enumerate(self.param_groups):
            params = group["params"]
            gradients = [p.grad for p in params]
            if any([g is None for g in gradients]):
                params = [p for p, g in zip(params, gradients) if g is not None]
                gradients = [g for g in gradients if g is not None]
            if not gradients:
                continue
            if any([g.is_sparse for g in gradients]):
                raise RuntimeError("@CLASS@ does not support sparse gradients")
            values = self._values(group)
            known = self._plans.get(number)
            if known is None or not known.still(self.state, params, gradients):
                self._forget(number)
                known = self._plans[number] = self._planned(params, gradients)
            groups.append((known, params, gradients, values, group["maximize"]))
        # Whether all is done by kernels of GPUs, which look for themselves whether the step is made.
        kernels = not any([known.others or any([plan.device is None for plan, _ in known.plans]) for known, *_ in groups])
        if _ROUNDS > 1 and not self._alike(groups):
            kernels = False
        if found is not None and not found.is_cpu and not kernels and float(found):
            return
        found = found if kernels else None
        together = []
        for known, params, gradients, values, maximize in groups:
            if scale is not None:
                # The reciprocal that GradScaler takes.
                inverse = scale.double().reciprocal().float()
                for plan, where in known.plans if kernels else ():
                    torch._amp_foreach_non_finite_check_and_unscale_(
                        gradients if where is None else [gradients[k] for k in where],
                        torch.zeros(1, device=plan.device),
                        inverse.to(plan.device).reshape(1),
                    )
                if not kernels:
                    torch._foreach_mul_(gradients, float(inverse))
            if maximize:
                gradients = torch._foreach_neg(gradients)
            if _ROUNDS > 1:
                together.append((known, params, gradients, values))
                continue
            for plan, where in known.plans:
                plan.run(gradients if where is None else [gradients[k] for k in where], values, found)
            known.counted()
            _written_out([self._slow(params[k], gradients[k], values) for k in known.others])
        if together:
            self._together(together, found)

    def _alike(self, groups):
        """Whether all leaves are of one type and in one place, and none is to be updated in torch's operations."""
        kinds = {(plan.dtype, plan.device) for known, *_ in groups for plan, _ in known.plans}
        return len(kinds) == 1 and not any([known.others for known, *_ in groups])

    def _together(self, groups, found):
        """A step in which leaves of all groups have numbers in common: by the library or the kernels, if these take all of them."""
        if not self._alike(groups):
            leaves = []
            for known, params, gradients, values in groups:
                leaves += [self._slow(p, g, values) for p, g in zip(params, gradients)]
                known.moved_on()
            _written_out(leaves)
            return
        plans, alive = [], []
        for known, _, gradients, values in groups:
            for plan, where in known.plans:
                plans.append((plan, plan.prepared(values)))
                alive.append(plan.aimed(gradients if where is None else [gradients[k] for k in where]))
        folds = plans[0][0].folds()
        for number in range(_ROUNDS):
            for plan, hyper in plans:
                plan.round(number, hyper, folds, found)
        for known, *_ in groups:
            known.counted()

    def _slow(self, p, g, values):
        """A parameter that makes a step in torch's operations."""
        kept = self._kept(p)
        t = 1
        if _COUNTS_STEPS:
            self.state[p]["step"] += 1
            t = int(self.state[p]["step"])
        return t, p, g, kept, values

    def _planned(self, params, gradients):
        """Plans for these parameters: more than one if their steps, types or layouts differ."""
        alike, others, layouts = {}, [], {}
        for k, (p, g) in enumerate(zip(params, gradients)):
            if p.is_complex():
                raise RuntimeError("@CLASS@ does not support complex parameters")
            fits = self._native and p.dtype in _STEP and g.dtype is p.dtype and g.device == p.device and g.layout is torch.strided
            fits = fits and _plain(p) and _plain(g)
            layout = _lying(p) if fits and (p.is_cpu or p.is_cuda and _gpu(p.device) is not None) else None
            self._kept(p)
            if layout is None:
                others.append(k)
            else:
                layouts[k] = layout
        for k, t in self._counts(params, list(layouts)):
            p = params[k]
            alike.setdefault((p.dtype, layouts[k], t, None if p.is_cpu else p.device), []).append(k)
        taken = [k for (*_, device), where in alike.items() for k in where if device is None]
        steps = None
        if _COUNTS_STEPS and taken:
            steps = torch.tensor([float(self.state[params[k]]["step"]) for k in taken])
            for place, k in enumerate(taken):
                self.state[params[k]]["step"] = steps[place]
        plans = []
        for (dtype, layout, t, device), where in alike.items():
            leaves = [params[k] for k in where]
            states = [self._settled(p) for p in leaves]
            if device is None:
                plan = _Plan(dtype, layout, leaves, states, t, torch.get_num_threads() if _ROUNDS == 1 else 1)
            else:
                plan = _DevicePlan(_gpu(device), dtype, layout, leaves, states, t)
                for place, p in enumerate(leaves if _COUNTS_STEPS else ()):
                    self.state[p]["step"] = plan.steps[place]
            plans.append((plan, None if len(where) == len(params) else where))
        known = _Known(self.state, params, gradients)
        known.plans, known.others, known.steps = plans, others, steps
        known.version = None if steps is None else steps._version
        return known

    def _counts(self, params, which):
        """Of these parameters how many steps each has made; what is on a GPU is asked for once."""
        if not _COUNTS_STEPS:
            return [(k, 0) for k in which]
        counts = {k: self.state[params[k]]["step"] for k in which}
        made = {k: int(x) for k, x in counts.items() if x.is_cpu}
        for device in {x.device for x in counts.values() if not x.is_cpu}:
            there = [k for k, x in counts.items() if x.device == device]
            made.update(zip(there, map(int, torch.stack([counts[k].to(torch.float32) for k in there]).tolist())))
        return [(k, made[k]) for k in which]

    def _settled(self, p):
        """States that lie as the weight does and have the types that are declared."""
        states = self._kept(p)
        for k, ((name, single), kind) in enumerate(zip(_STATES, _KEPT[p.dtype])):
            s = states[k]
            if s.shape != (() if single else p.shape):
                raise ValueError(f"state `{name}` has the shape {list(s.shape)}, not {[] if single else list(p.shape)}")
            if s.dtype != kind or (not single and _lying(s) is not _lying(p)) or s.device != p.device:
                fresh = torch.empty((), dtype=kind, device=p.device) if single else torch.empty_like(p, dtype=kind, memory_format=torch.preserve_format)
                states[k] = self.state[p][name] = fresh.copy_(s)
        return states


def @FUNCTION@(params, grads@FUNCTION_STATES@, state_steps, *@FUNCTION_HYPER@, maximize=False):
    """One step on lists of tensors, in place: states and `state_steps` (0-d tensors, counted up) belong to the parameters of the same place."""
    values = tuple([@FUNCTION_VALUES@])
    hyper = _Hyper(ctypes.sizeof(_Hyper), _ABI, *(float(x) for x in values))
    lists = [@FUNCTION_LISTS@]
    rows, leaves, alive = [], [], []
    with torch.no_grad():
        for k, (p, g) in enumerate(zip(params, grads)):
            kept = [states[k] for states in lists]
            if maximize:
                g = -g
            state_steps[k] += 1
            t = int(state_steps[k])
            alike = [p, g, *(x for x, (_, single) in zip(kept, _STATES) if not single)]
            leaves.append((t, p, g, kept, values))
            alive.append(g)
            if p.dtype in _STEP and g.dtype is p.dtype and _dense(p) and all(_layout(x) is _layout(p) for x in alike):
                rows.append((p.dtype, t, array("Q", [p.numel(), p.data_ptr(), g.data_ptr(), *(s.data_ptr() for s in kept)])))
            else:
                rows.append(None)
        if _ROUNDS > 1:
            # All leaves in one call, or none.
            if None in rows or len({(dtype, t) for dtype, t, _ in rows}) > 1:
                _written_out(leaves)
            elif rows:
                (dtype, t, _), table = rows[0], array("Q", [x for *_, row in rows for x in row])
                _check(_STEP[dtype](len(rows), table.buffer_info()[0], t, ctypes.addressof(hyper)))
        else:
            for row in rows:
                if row is not None and row[2][0]:
                    _check(_STEP[row[0]](1, row[2].buffer_info()[0], row[1], ctypes.addressof(hyper)))
            _written_out([leaf for leaf, row in zip(leaves, rows) if row is None])
        torch.autograd.graph.increment_version(list(params))
