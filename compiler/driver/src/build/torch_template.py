"""@DOC@

`@CLASS@` is a `torch.optim.Optimizer`: parameter groups, schedulers, `state_dict`, closures, `GradScaler` and hooks work as with those of torch.
CPU tensors of @DTYPES@ are updated in one pass by @LIBRARY@, which lies beside this file; others (CUDA, strided, other
types) by the same rule written out below in torch's own operations. Generated: change the spec, not this file.
"""

import ctypes
import math  # noqa: F401 (the rule may use it)
import pathlib
from array import array
from concurrent.futures import ThreadPoolExecutor

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
# Ranges of hyperparameters: lower end, whether it belongs to it, upper end, whether it belongs to it.
_RANGES = @RANGES@
_COUNTS_STEPS = @COUNTS@
_DIVISIBLE = @DIVISIBLE@


def _function(name, arguments):
    function = getattr(_LIBRARY, name)
    function.argtypes, function.restype = arguments, ctypes.c_int32
    return function


_STEP = {
    dtype: _function(f"@NAME@_{suffix}_step_many", [ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int32, ctypes.c_void_p])
    for dtype, suffix in @SUFFIXES@
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


def _rule(t, dtype, @RULE_ARGS@):
    """The rule in torch's operations: the weight and the states after step `t`."""
@RULE@

def _initial(w):
    """Fresh states of a leaf."""
    kept = _KEPT.get(w.dtype) or [w.dtype if k.is_floating_point else k for k in _KEPT[torch.float32]]
    states = [torch.empty((), dtype=k, device="cpu") if single else torch.empty_like(w, dtype=k, memory_format=torch.preserve_format) for k, (_, single) in zip(kept, _STATES)]
    if _dense(w) and w.dtype in _INIT:
        _check(_INIT[w.dtype](w.numel(), w.data_ptr(), *(s.data_ptr() for s in states)))
    else:
        source = w.detach().to("cpu", torch.float32).contiguous()
        fresh = [torch.empty((), dtype=k) if single else torch.empty_like(source, dtype=k) for k, (_, single) in zip(_KEPT[torch.float32], _STATES)]
        _check(_INIT[torch.float32](source.numel(), source.data_ptr(), *(s.data_ptr() for s in fresh)))
        states = [s if single else s.copy_(f) for s, f, (_, single) in zip(states, fresh, _STATES)]
        states = [f if single else s for s, f, (_, single) in zip(states, fresh, _STATES)]
    return states


def _dense(x):
    """Whether the elements of a CPU tensor lie one after the other, in whatever order of its axes."""
    return x.device.type == "cpu" and x.layout is torch.strided and (x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x.is_contiguous())


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
    """Leaves of one type that are at the same step, with the addresses of all that stays where it is."""

    def __init__(self, dtype, leaves, states, t, threads):
        self.dtype, self.t, self.leaves, self.states, self.threads = dtype, t, leaves, states, threads
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

    def run(self, pointers, hyper):
        """The next step; where something is wrong, nothing has been done."""
        step, at, t = _STEP[self.dtype], ctypes.addressof(hyper), self.t + 1
        for share in self.shares:
            share.aim(pointers)

        def work(share):
            return step(len(share.gradients), share.table.buffer_info()[0], t, at)

        others = [_threads().submit(work, share) for share in self.shares[1:]]
        codes = [work(share) for share in self.shares[:1]]
        codes += [other.result() for other in others]
        for code in codes:
            _check(code)
        self.t = t
        if _COUNTS_STEPS:
            torch._foreach_add_(self.steps, 1.0)


class @CLASS@(Optimizer):
    r"""@CLASS_DOC@

    Args:
        params: parameters, named parameters or groups of them.
@ARGS@        maximize (bool): ascend instead of descend.
        foreach, fused: accepted and ignored, the update is one pass over each tensor anyway.
        capturable (bool): accepted for CUDA tensors, where the step's number stays on the device's host.
        differentiable (bool): not supported.
    """

    _step_supports_amp_scaling = True

    def __init__(self, params@INIT_ARGS@, *, maximize=False, foreach=None, capturable=False, differentiable=False, fused=None):
@CHECKS@        if differentiable:
            raise RuntimeError("@CLASS@ does not support `differentiable`")
        defaults = dict(@DEFAULTS@, maximize=maximize, foreach=foreach, capturable=capturable, differentiable=differentiable, fused=fused@EXTRA@)
        super().__init__(params, defaults)
        self._plans = {}

    def __setstate__(self, state):
        super().__setstate__(state)
        self._plans = {}
        for group in self.param_groups:
            for name, value in self.defaults.items():
                group.setdefault(name, value)
            for p in group["params"]:
                kept = self.state.get(p)
                if kept and "step" in kept and not torch.is_tensor(kept["step"]):
                    kept["step"] = torch.tensor(float(kept["step"]), dtype=torch.float32)

    def __getstate__(self):
        return {name: value for name, value in super().__getstate__().items() if name != "_plans"} | {"_plans": {}}

    def load_state_dict(self, state_dict):
        """As torch's, but states keep the element type that they are declared with."""
        super().load_state_dict(state_dict)
        self._plans = {}
        given = [k for group in state_dict["param_groups"] for k in group["params"]]
        own = [p for group in self.param_groups for p in group["params"]]
        for k, p in zip(given, own):
            saved = state_dict["state"].get(k)
            kinds = _KEPT.get(p.dtype)
            if not saved or not kinds:
                continue
            for kind, (name, _) in zip(kinds, _STATES):
                if name in saved and torch.is_tensor(saved[name]) and self.state[p][name].dtype != kind:
                    self.state[p][name] = saved[name].to(dtype=kind, device=p.device, copy=True)

    def _hyper(self, group):
        """The group's hyperparameters as the library takes them."""
@UNPACK@        return _Hyper(ctypes.sizeof(_Hyper), _ABI, *(float(x) for x in values)), values

    def _kept(self, p):
        """The states of a parameter, made when it first has a gradient."""
        kept = self.state[p]
        missing = [name for name, _ in _STATES if name not in kept]
        if missing:
            fresh = dict(zip((name for name, _ in _STATES), _initial(p)))
            kept.update({name: fresh[name] for name in missing})
        if _COUNTS_STEPS and "step" not in kept:
            kept["step"] = torch.tensor(0.0, dtype=torch.float32)
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
        if found is not None and float(found):
            return
        for number, group in enumerate(self.param_groups):
            given = [(p, p.grad) for p in group["params"] if p.grad is not None]
            for p, g in given:
                if g.is_sparse:
                    raise RuntimeError("@CLASS@ does not support sparse gradients")
                if p.is_complex():
                    raise RuntimeError("@CLASS@ does not support complex parameters")
            if scale is not None:
                torch._foreach_mul_([g for _, g in given], 1.0 / float(scale))
            if group["maximize"]:
                given = [(p, -g) for p, g in given]
            hyper, values = self._hyper(group)
            self._fast(number, given, hyper, values)

    def _fast(self, number, given, hyper, values):
        """All dense CPU tensors by the library, the others one by one."""
        fast, slow = {}, []
        for p, g in given:
            if p.dtype in _STEP and g.dtype is p.dtype and p.device.type == "cpu" and p.stride() == g.stride() and _dense(p):
                fast.setdefault(p.dtype, []).append((p, g))
            else:
                slow.append((p, g))
        for dtype, pairs in fast.items():
            for plan, gradients in self._planned(number, dtype, pairs):
                plan.run([g.data_ptr() for g in gradients], hyper)
        for p, g in slow:
            kept = self._kept(p)
            t = 1
            if _COUNTS_STEPS:
                self.state[p]["step"] += 1
                t = int(self.state[p]["step"])
            dtype = torch.promote_types(p.dtype, torch.float32)
            results = _rule(t, dtype, p, g, *kept, *values)
            for old, new in zip([p, *kept], results):
                old.copy_(new)

    def _planned(self, number, dtype, pairs):
        """Plans for these leaves, made anew if any lies elsewhere than before; more than one if their steps differ."""
        key = (number, dtype)
        known = self._plans.get(key)
        weights = [p.data_ptr() for p, _ in pairs]
        if known and known[0] == weights and all(plan.threads == torch.get_num_threads() for plan, _ in known[1]) and self._same(known[1]):
            return [(plan, [pairs[k][1] for k in where]) for plan, where in known[1]]
        steps = {}
        for k, (p, _) in enumerate(pairs):
            self._kept(p)
            t = int(self.state[p]["step"]) if _COUNTS_STEPS else 0
            steps.setdefault(t, []).append(k)
        plans = []
        for t, where in steps.items():
            leaves = [pairs[k][0] for k in where]
            states = [self._settled(p) for p in leaves]
            plan = _Plan(dtype, leaves, states, t, torch.get_num_threads())
            plan.steps = [self.state[p]["step"] for p in leaves] if _COUNTS_STEPS else []
            plans.append((plan, where))
        self._plans[key] = (weights, plans)
        return [(plan, [pairs[k][1] for k in where]) for plan, where in plans]

    def _settled(self, p):
        """States that lie as the weight does and have the types that are declared."""
        states = self._kept(p)
        for k, ((name, single), kind) in enumerate(zip(_STATES, _KEPT[p.dtype])):
            s = states[k]
            if s.dtype != kind or (not single and s.stride() != p.stride()) or s.device != p.device:
                fresh = torch.empty((), dtype=kind) if single else torch.empty_like(p, dtype=kind, memory_format=torch.preserve_format)
                states[k] = self.state[p][name] = fresh.copy_(s)
        return states

    def _same(self, plans):
        """Whether states are the tensors that the plans know (someone may have put others in their place)."""
        for plan, _ in plans:
            for p, states in zip(plan.leaves, plan.states):
                kept = self.state[p]
                for (name, _), s in zip(_STATES, states):
                    if kept.get(name) is not s:
                        return False
                if _COUNTS_STEPS and p is plan.leaves[0] and int(kept["step"]) != plan.t:
                    return False
        return True


def @FUNCTION@(params, grads@FUNCTION_STATES@, state_steps, *@FUNCTION_HYPER@, maximize=False):
    """One step on lists of tensors, in place: states and `state_steps` (0-d tensors, counted up) belong to the parameters of the same place."""
    values = tuple([@FUNCTION_VALUES@])
    hyper = _Hyper(ctypes.sizeof(_Hyper), _ABI, *(float(x) for x in values))
    lists = [@FUNCTION_LISTS@]
    for k, (p, g) in enumerate(zip(params, grads)):
        kept = [states[k] for states in lists]
        if maximize:
            g = -g
        state_steps[k] += 1
        t = int(state_steps[k])
        with torch.no_grad():
            if p.dtype in _STEP and g.dtype is p.dtype and _dense(p) and all(x.stride() == p.stride() for x, (_, single) in zip(kept, _STATES) if not single) and g.stride() == p.stride():
                row = array("Q", [p.numel(), p.data_ptr(), g.data_ptr(), *(s.data_ptr() for s in kept)])
                _check(_STEP[p.dtype](1, row.buffer_info()[0], t, ctypes.addressof(hyper)))
            else:
                results = _rule(t, torch.promote_types(p.dtype, torch.float32), p, g, *kept, *values)
                for old, new in zip([p, *kept], results):
                    old.copy_(new)
