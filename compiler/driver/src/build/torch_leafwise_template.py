"""@DOC@

`@CLASS@` is a `torch.optim.Optimizer` for CPU parameters of the shapes in `_FORMS`, any number of each, in any order: the rule has to know shapes, and @LIBRARY@, which lies beside this file, has functions for
these. Parameter groups, schedulers, `state_dict`, closures, `GradScaler` and hooks work as with those of torch. Generated: change the spec, not this file.
"""

import ctypes
import pathlib
from array import array
from concurrent.futures import ThreadPoolExecutor

import torch
from torch.optim import Optimizer

__all__ = ["@CLASS@"]

_LIBRARY = ctypes.CDLL(str(pathlib.Path(__file__).with_name("@LIBRARY@")))
_ABI = @ABI@
_LIBRARY.@NAME@_error.restype = ctypes.c_char_p

# By element type and shape: prefix of the functions; of each state name, type and shape, or None where such a leaf lacks it; bytes of memory; whether the step and the first states draw.
_FORMS = {
@FORMS@}
# Elements of all parameters below which another thread costs more than it saves.
_SMALL = 1 << 17


class _Hyper(ctypes.Structure):
    _fields_ = [("size", ctypes.c_uint32), ("version", ctypes.c_uint32)] + [(name, ctypes.c_double) for name in @HYPER@]


class _Form:
    """The functions for one shape."""

    def __init__(self, prefix, states, work, draws):
        self.states, self.work, self.draws = states, work, draws
        self.step, self.init = (getattr(_LIBRARY, f"{prefix}_{kind}") for kind in ("step", "init"))
        self.step.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32, ctypes.c_void_p] + [ctypes.c_uint64] * draws[0]
        self.init.argtypes = [ctypes.c_void_p, ctypes.c_void_p] + [ctypes.c_uint64] * draws[1]
        self.step.restype = self.init.restype = ctypes.c_int32


_FORMS = {key: _Form(*form) for key, form in _FORMS.items()}


def _check(code):
    if code:
        raise ValueError(_LIBRARY.@NAME@_error(code).decode())


def _number(x, dtype):
    """A hyperparameter; None stands for the rounding of the parameter's type."""
    return torch.finfo(dtype).eps if x is None else float(x)


def _memory(size):
    """Memory for the functions, and its address on a multiple of 64."""
    held = torch.empty(size + 64, dtype=torch.uint8)
    return held, (held.data_ptr() + 63) // 64 * 64


def _seed(seed, place):
    """A seed for each parameter."""
    x = (int(seed) + 0x9E3779B97F4A7C15 * (place + 1)) & 0xFFFFFFFFFFFFFFFF
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return x ^ (x >> 31)


class @CLASS@(Optimizer):
    r"""@CLASS_DOC@

    Args:
        params: parameters, named parameters or groups of them.
@ARGS@        maximize (bool): ascend instead of descend.
        foreach: accepted and ignored.
    """

    _step_supports_amp_scaling = True

    def __init__(self, params@INIT_ARGS@, *, foreach=None, maximize=False):
        super().__init__(params, dict(@DEFAULTS@, foreach=foreach, maximize=maximize@EXTRA@))
        #: Keys that the optimizer of this name in torch has, and the only values of them that this one knows.
        self._fixed = dict(@EXTRA_ONLY@)
        self._work, self._pool = [], None

    def __setstate__(self, state):
        super().__setstate__(state)
        self._work, self._pool = [], None
        for group in self.param_groups:
            for name, value in self.defaults.items():
                group.setdefault(name, value)
            for p in group["params"]:
                kept = self.state.get(p)
                if kept and "step" in kept and not torch.is_tensor(kept["step"]):
                    kept["step"] = torch.tensor(float(kept["step"]), dtype=torch.float32)

    def __getstate__(self):
        return super().__getstate__() | {"_fixed": self._fixed}

    def load_state_dict(self, state_dict):
        """As torch's, but states are copied, and keep the element type that they are declared with."""
        given = []
        last = self.register_load_state_dict_pre_hook(lambda _, found: given.append(found))
        try:
            super().load_state_dict(state_dict)
        finally:
            last.remove()
        saved = given[-1]
        numbers = [k for group in saved["param_groups"] for k in group["params"]]
        own = [p for group in self.param_groups for p in group["params"]]
        for k, p in zip(numbers, own):
            form = _FORMS.get((p.dtype, tuple(p.shape)))
            kinds = {s[0]: s[1] for s in form.states if s} if form else {}
            for name, x in saved["state"].get(k, {}).items():
                if torch.is_tensor(x):
                    here = self.state[p][name]
                    self.state[p][name] = x.detach().to(dtype=kinds.get(name, here.dtype), device=here.device, copy=True)

    def _form(self, p):
        form = _FORMS.get((p.dtype, tuple(p.shape)))
        if form is None or p.device.type != "cpu":
            known = ", ".join(f"{list(shape)} of {dtype}" for dtype, shape in _FORMS)
            raise RuntimeError(f"@CLASS@ was built for {known} on the CPU, not {list(p.shape)} of {p.dtype} on {p.device}; `optc build --shapes` takes more shapes")
        return form

    def _memory_of(self, number, size):
        """Memory of thread `number`."""
        while len(self._work) <= number:
            self._work.append(_memory(0))
        if self._work[number][0].numel() < size + 64:
            self._work[number] = _memory(size)
        return self._work[number][1]

    def _kept(self, p, form, seed):
        """The states of a parameter in the order of the library, made when it first has a gradient, with their types and shapes."""
        kept = self.state[p]
        names = [s[0] for s in form.states if s]
        begun = [name for name in names if kept.get(name) is not None]
        if begun and len(begun) < len(names):
            missing = next(name for name in names if name not in begun)
            raise ValueError(f"the states of a parameter lack `{missing}`; there are {', '.join(begun)}")
        if not begun:
            fresh = [torch.empty(s[2], dtype=s[1]) if s else None for s in form.states]
            weight = p.detach().contiguous()
            table = array("Q", [weight.data_ptr(), weight.data_ptr(), *(0 if x is None else x.data_ptr() for x in fresh)])
            _check(form.init(table.buffer_info()[0], self._memory_of(0, form.work), *[seed] * form.draws[1]))
            kept.update((s[0], x) for s, x in zip(form.states, fresh) if s)
        if kept.get("step") is None:
            # Where steps were not counted, but there are states, there was one.
            kept["step"] = torch.tensor(float(bool(begun)), dtype=torch.float32)
        for s in form.states:
            if s is None:
                continue
            name, kind, shape = s
            x = kept[name]
            if tuple(x.shape) != shape:
                raise ValueError(f"state `{name}` has the shape {list(x.shape)}, not {list(shape)}")
            if x.dtype != kind or not x.is_contiguous() or x.device.type != "cpu":
                kept[name] = x.to(device="cpu", dtype=kind).contiguous()
        return [None if s is None else kept[s[0]] for s in form.states]

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
        place, work = -1, []
        for group in self.param_groups:
            for name, value in self._fixed.items():
                if group[name] != value:
                    raise ValueError(f"@CLASS@ was built with {name}={value}, but a parameter group says {name}={group[name]}")
            hypers = {}
            for p in group["params"]:
                place += 1
                if p.grad is None:
                    continue
                if p.grad.is_sparse:
                    raise RuntimeError("@CLASS@ does not support sparse gradients")
                form = self._form(p)
                if p.dtype not in hypers:
                    dtype = p.dtype  # noqa: F841 (the values may ask for it)
                    hypers[dtype] = _Hyper(ctypes.sizeof(_Hyper), _ABI, *@VALUES@)
                seed = _seed(group["seed"], place) if @SEEDED@ else 0
                work.append((p, form, self._kept(p, form, seed), hypers[p.dtype], seed, group["maximize"]))
        if scale is not None and work:
            # The reciprocal that GradScaler takes.
            torch._foreach_mul_([w[0].grad for w in work], float(scale.double().reciprocal().float()))
        # Large ones first, each to the thread that has least to do.
        threads = min(torch.get_num_threads(), len(work)) if sum(w[0].numel() for w in work) > _SMALL else 1
        shares, loads = [[] for _ in range(threads)], [0] * threads
        for one in sorted(work, key=lambda w: -w[0].numel()):
            least = loads.index(min(loads))
            shares[least].append(one)
            loads[least] += one[0].numel()
        for k, share in enumerate(shares):
            self._memory_of(k, max((one[1].work for one in share), default=0))
        if threads > 1 and self._pool is None:
            self._pool = ThreadPoolExecutor(thread_name_prefix="@NAME@")
        others = [self._pool.submit(self._share, k, shares[k]) for k in range(1, threads)]
        if work:
            self._share(0, shares[0])
        for other in others:
            other.result()

    def _share(self, number, share):
        """The steps of some parameters, on one thread."""
        for p, form, kept, hyper, seed, maximize in share:
            g = p.grad.to(p.dtype)
            g = g.neg() if maximize else g
            g, w = g.contiguous(), p.detach()
            weight = w if w.is_contiguous() else w.contiguous()
            table = array("Q", [weight.data_ptr(), g.data_ptr(), *(0 if x is None else x.data_ptr() for x in kept)])
            t = int(self.state[p]["step"]) + 1
            _check(form.step(table.buffer_info()[0], self._memory_of(number, form.work), t, ctypes.addressof(hyper), *[seed] * form.draws[0]))
            if weight is not w:
                w.copy_(weight)
            self.state[p]["step"] += 1
            # Autograd is to know that the weights have new values.
            torch.autograd.graph.increment_version([p])
