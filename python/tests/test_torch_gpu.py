"""Generated optimizers whose tensors lie on a GPU: a virtual one, as there may be no other. The tensors are stand-ins, which torch takes for CUDA tensors; their memory is the virtual GPU's.

The environment variable OPTC_LLVM names a binary with LLVM, OPTC_VIRTUAL_GPU the library of the virtual GPU (`libvirtual_cuda.so`, which the build of the tests leaves in `target/debug/deps`).
Skipped without these, or without torch."""

import ctypes
import importlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import unittest
import warnings
from unittest import mock

for needed in ("OPTC_LLVM", "OPTC_VIRTUAL_GPU"):
    if needed not in os.environ:
        raise unittest.SkipTest(f"{needed} is not set")
if importlib.util.find_spec("torch") is None:
    raise unittest.SkipTest("torch is not installed")

import torch
from torch.overrides import TorchFunctionMode

RULES = {"adamw": "adamw", "lion": "lion", "clipped": "clip_by_global_norm(1.0) |> adamw()", "nadam": "nadam"}
GPU = torch.device("cuda", 0)
open_library = ctypes.CDLL


def library(name, *more, **options):
    """The virtual GPU in the place of the driver."""
    return open_library(os.environ["OPTC_VIRTUAL_GPU"] if name == "libcuda.so.1" else name, *more, **options)


class Driver:
    """The driver's own calls, for the stand-ins."""

    cuda = None

    @classmethod
    def call(cls, function, *arguments):
        if cls.cuda is None:
            cls.cuda, device, cls.context = library("libcuda.so.1"), ctypes.c_int(), ctypes.c_void_p()
            assert cls.cuda.cuInit(0) == 0 and cls.cuda.cuDevicePrimaryCtxRetain(ctypes.byref(cls.context), 0) == 0
        assert cls.cuda.cuCtxPushCurrent_v2(cls.context) == 0
        code = getattr(cls.cuda, function)(*arguments)
        assert code == 0, (function, code)
        before = ctypes.c_void_p()
        assert cls.cuda.cuCtxPopCurrent_v2(ctypes.byref(before)) == 0

    @classmethod
    def allocate(cls, size):
        at = ctypes.c_uint64()
        cls.call("cuMemAlloc_v2", ctypes.byref(at), ctypes.c_size_t(max(size, 1)))
        return at.value


#: How often a value of the GPU's has been looked at by the host.
looks = []


class OnGpu(torch.Tensor):
    """A tensor that says it is on a GPU. Its elements are in the virtual GPU's memory; what operations of torch see is a copy, brought up to date before and written back after them."""

    def __new__(cls, copy, start=None):
        self = torch.Tensor._make_subclass(cls, copy, copy.requires_grad)
        with torch._C.DisableTorchFunctionSubclass():
            self.copy = copy.detach()
            # Where the first element of the storage is.
            self.start = Driver.allocate(copy.untyped_storage().nbytes()) if start is None else start
        if start is None:
            self.write()
        return self

    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)
    device = property(lambda self: GPU)

    def data_ptr(self):
        with torch._C.DisableTorchFunctionSubclass():
            return self.start + self.copy.storage_offset() * self.copy.element_size() if self.copy.numel() else 0

    def record_stream(self, stream):
        pass

    def _storage(self):
        with torch._C.DisableTorchFunctionSubclass():
            storage = self.copy.untyped_storage()
            return storage.data_ptr(), storage.nbytes()

    def read(self):
        here, size = self._storage()
        if size:
            Driver.call("cuMemcpyDtoH_v2", ctypes.c_void_p(here), ctypes.c_uint64(self.start), ctypes.c_size_t(size))

    def write(self):
        here, size = self._storage()
        if size:
            Driver.call("cuMemcpyHtoD_v2", ctypes.c_uint64(self.start), ctypes.c_void_p(here), ctypes.c_size_t(size))

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


def each(x, what):
    """The same with something done to each stand-in."""
    if isinstance(x, OnGpu):
        return what(x)
    if isinstance(x, (list, tuple)):
        return type(x)(each(y, what) for y in x)
    return x


# Functions of torch that have the host look at values.
LOOKS = {"item", "tolist", "__float__", "__int__", "__bool__", "cpu", "numpy", "equal"}
METADATA = {"__get__", "__set__", "numel", "dim", "element_size", "is_contiguous", "is_complex", "is_floating_point", "size", "stride", "is_neg", "resolve_neg", "requires_grad_", "_is_view", "backward"}


def run(func, args, kwargs):
    name = func.__name__
    if name in METADATA:
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)
    used, kwargs = [], dict(kwargs)
    each([args, list(kwargs.values())], used.append)
    goal = kwargs.get("device")
    goals = [torch.device(goal)] if goal is not None else [torch.device(x) for x in args[1:2] if isinstance(x, (str, torch.device))]
    if name in LOOKS or any(g.type == "cpu" for g in goals) and used:
        looks.append(name)
    if name == "to" and (not goals or goals[0].type == "cuda") and not kwargs.get("copy"):
        kinds = [x for x in (*args[1:], *kwargs.values()) if isinstance(x, torch.dtype)]
        if used and all(k is args[0].dtype for k in kinds):
            return args[0]
    there = goals[0].type == "cuda" if goals else bool(used)
    args = tuple("cpu" if isinstance(x, torch.device) else x for x in args)
    if "device" in kwargs:
        kwargs["device"] = "cpu"
    with torch._C.DisableTorchFunctionSubclass():
        for x in used:
            x.read()
        result = func(*each(args, lambda x: x.copy), **{k: each(v, lambda x: x.copy) for k, v in kwargs.items()})
        if name.endswith("_") and not name.endswith("__") or name in ("__iadd__", "__setitem__"):
            for x in used:
                x.write()

        def wrapped(y):
            if isinstance(y, (list, tuple)):
                return type(y)(map(wrapped, y))
            if not isinstance(y, torch.Tensor) or not there:
                return y
            for x in used:
                if y.untyped_storage().data_ptr() == x.copy.untyped_storage().data_ptr():
                    return x if y is x.copy else OnGpu(y, x.start)
            return OnGpu(y)

        return wrapped(result)


class Factories(TorchFunctionMode):
    """Has `torch.full(…, device=GPU)` and such give stand-ins."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if not types and kwargs.get("device") == GPU:
            return run(func, args, kwargs)
        return func(*args, **kwargs)


class Stream:
    cuda_stream = 0

    def __eq__(self, other):
        return isinstance(other, Stream)


def optimizer_of(module):
    """The class that a generated module defines."""
    return getattr(module, module.__all__[0])


class OnVirtualGpu(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        for name, rule in RULES.items():
            command = [os.environ["OPTC_LLVM"], "build", "--optimizer", rule, "--name", name, "--emit", "torch", "--dtype", "f32,bf16", "-o", cls.folder.name]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        cls.patched = mock.patch("ctypes.CDLL", library)
        cls.patched.start()
        sys.path.insert(0, cls.folder.name)

    @classmethod
    def tearDownClass(cls):
        cls.patched.stop()
        sys.path.remove(cls.folder.name)
        cls.folder.cleanup()

    def setUp(self):
        self.mode = Factories()
        self.mode.__enter__()
        self.launched, self.capturing = [], False

    def tearDown(self):
        self.mode.__exit__(None, None, None)

    def module(self, name):
        """A fresh module, whose launches are counted."""
        sys.modules.pop(f"{name}_torch", None)
        module = importlib.import_module(f"{name}_torch")
        module._stream, module._capturing = (lambda device: Stream()), (lambda: self.capturing)
        gpu = module._gpu(GPU)
        if gpu is not None:
            launch = gpu.launch
            gpu.launch = lambda entry, *more: (self.launched.append(entry), launch(entry, *more))
        return module

    def leaves(self, sizes, dtype=torch.float32, seed=0):
        """The same parameters on the processor and on the GPU."""
        made = torch.Generator().manual_seed(seed)
        here = [torch.randn(n, generator=made).to(dtype) for n in sizes]
        there = [OnGpu(x.clone()) for x in here]
        return [x.requires_grad_() for x in here], [x.requires_grad_() for x in there]

    def gradients(self, here, there, seed, scale=1.0):
        made = torch.Generator().manual_seed(seed)
        for p, q in zip(here, there):
            g = torch.randn(p.shape, generator=made).to(p.dtype)
            p.grad, q.grad = g, OnGpu(g * scale)

    def apart(self, here, there):
        for q in there:
            q.read()
        return max((float((p.detach().double() - q.copy.double()).abs().max()) for p, q in zip(here, there) if p.numel()), default=0.0)

    def taken(self):
        """Launches since the last look."""
        taken, self.launched[:] = list(self.launched), []
        return taken

    def test_a_hundred_leaves(self):
        for name, options in (("adamw", {"weight_decay": 0.1}), ("lion", {"maximize": True})):
            for dtype in (torch.float32, torch.bfloat16):
                with self.subTest(name=name, dtype=dtype):
                    module, suffix = self.module(name), {torch.float32: "f32", torch.bfloat16: "bf16"}[dtype]
                    make = optimizer_of(module)
                    here, there = self.leaves([1 + 13 * k % 200 for k in range(99)] + [0], dtype)
                    one, other = make(here, lr=1e-2, **options), make(there, lr=1e-2, **options)
                    for turn in range(5):
                        self.gradients(here, there, turn)
                        one.step()
                        looks.clear()
                        self.taken()
                        other.step()
                        if turn:
                            # Gradients lie elsewhere each time.
                            self.assertEqual(self.taken(), [f"{name}_words", f"{name}_{suffix}_0_0", f"{name}_{suffix}_0_1"])
                            self.assertEqual(looks, [])
                    self.taken()
                    looks.clear()
                    one.step()
                    other.step()
                    # Gradients that change their sign are others each time.
                    again = [f"{name}_words"] if "maximize" in options else []
                    self.assertEqual(self.taken(), [*again, f"{name}_{suffix}_0_0", f"{name}_{suffix}_0_1"])
                    self.assertEqual(looks, [])
                    self.assertEqual(self.apart(here, there), 0)
                    states = [[o.state[p][k] for p in (here, there)[n]] for n, o in enumerate((one, other)) for k in one.state[here[0]] if k != "step"]
                    for a, b in zip(states[: len(states) // 2], states[len(states) // 2 :]):
                        self.assertEqual(self.apart(a, b), 0)
                    if name == "adamw":
                        self.assertEqual({float(other.state[q]["step"]) for q in there}, {6.0})

    def test_scaled_gradients_and_steps_that_are_not_made(self):
        AdamW = self.module("adamw").AdamW
        here, there = self.leaves([3, 40, 1])
        one, other = AdamW(here, lr=1e-2), AdamW(there, lr=1e-2)
        for turn in range(5):
            self.gradients(here, there, turn, scale=8.0)
            skipped = turn in (1, 3)
            other.grad_scale, other.found_inf = OnGpu(torch.tensor(8.0)), OnGpu(torch.tensor([float(skipped)]))
            looks.clear()
            other.step()
            self.assertEqual(looks, ["to"] * 3 if turn == 0 else [])  # First states are made by the library.
            if not skipped:
                one.step()
        self.assertEqual(self.apart(here, there), 0)
        self.assertEqual({float(other.state[q]["step"]) for q in there}, {3.0})

    def test_a_rate_on_the_gpu(self):
        AdamW = self.module("adamw").AdamW
        here, there = self.leaves([300, 7])
        one, other = AdamW(here, lr=0.5), AdamW(there, lr=OnGpu(torch.tensor(0.5)), capturable=True)
        for turn in range(4):
            self.gradients(here, there, turn)
            one.param_groups[0]["lr"] = 0.25**turn
            other.param_groups[0]["lr"].fill_(0.25**turn)
            looks.clear()
            one.step(), other.step()
            self.assertTrue(turn == 0 or not looks, looks)
        self.assertEqual(self.apart(here, there), 0)

    def test_a_recorded_step(self):
        """While a graph is recorded nothing is copied from the host, and the table is written anew each time from then on."""
        AdamW = self.module("adamw").AdamW
        here, there = self.leaves([5, 6])
        other = AdamW(there, lr=0.1, capturable=True)
        self.gradients(here, there, 0)
        other.step()
        self.assertEqual(len(self.taken()), 3)
        self.capturing = True
        looks.clear()
        with mock.patch.object(Driver, "call", side_effect=AssertionError("a copy")):
            other.step()
        self.capturing = False
        self.assertEqual(self.taken(), ["adamw_words", "adamw_f32_0_0", "adamw_f32_0_1"])
        self.assertEqual(looks, [])
        other.step()
        self.assertEqual(len(self.taken()), 3)
        # What the graph uses outlives another plan.
        other.load_state_dict(other.state_dict())
        self.assertEqual(len(other._captured), 1)
        self.capturing = True
        with self.assertRaisesRegex(RuntimeError, "AdamW meets parameters for the first time.* make a step before"):
            other.step()
        self.capturing = False

    def test_tensors_of_other_classes(self):
        class Other(OnGpu):
            """Its elements may be anywhere."""

            @classmethod
            def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
                return func(*args, **(kwargs or {}))

        AdamW = self.module("adamw").AdamW
        here, there = self.leaves([5, 6])
        there[1] = Other(here[1].detach().clone()).requires_grad_()
        one, other = AdamW(here, lr=0.1), AdamW(there, lr=0.1)
        for turn in range(3):
            self.gradients(here, there, turn)
            one.step(), other.step()
            self.assertEqual(len([e for e in self.taken() if e != "adamw_words"]), 2)
        self.assertLess(self.apart(here, there), 1e-6)

    def test_norms_over_groups(self):
        module = self.module("clipped")
        for turn_off in (False, True):
            here, there = self.leaves([30, 1, 500, 8])
            groups = lambda p: [{"params": p[:2], "weight_decay": 0.0}, {"params": p[2:], "weight_decay": 0.1}]
            one, other = module.Clipped(groups(here), lr=1e-2), module.Clipped(groups(there), lr=1e-2, native=not turn_off)
            for turn in range(4):
                self.gradients(here, there, turn)
                one.step(), other.step()
                taken = [entry for entry in self.taken() if entry != "clipped_words"]
                self.assertEqual(len(taken), 0 if turn_off else 12)
            self.assertLess(self.apart(here, there), 1e-6)

    def test_numbers_of_leaves(self):
        make = optimizer_of(self.module("nadam"))
        here, there = self.leaves([30, 1])
        one, other = make(here, lr=1e-2), make(there, lr=1e-2)
        for turn in range(4):
            self.gradients(here, there, turn)
            one.step(), other.step()
        self.assertLess(self.apart(here, there), 1e-6)

    def test_what_kernels_do_not_take(self):
        """Strided weights and those of the processor make their step beside the others; leaves that begin later have counts of their own."""
        AdamW = self.module("adamw").AdamW
        here, there = self.leaves([6, 9, 4])
        table = torch.randn(5, 4)
        here.append(table.clone().t().requires_grad_())
        there.append(OnGpu(table.clone().t()).requires_grad_())
        more = torch.randn(3)
        here.append(more.clone().requires_grad_())
        there.append(more.clone().requires_grad_())
        one, other = AdamW(here, lr=1e-2), AdamW(there, lr=1e-2)
        for turn in range(4):
            self.gradients(here, there[:4], turn)
            here[4].grad = there[4].grad = torch.full((3,), 0.3)
            if turn < 2:
                here[1].grad = there[1].grad = None
            one.step(), other.step()
            kinds = [entry for entry in self.taken() if entry != "adamw_words"]
            self.assertEqual(len(kinds), 2 if turn < 2 else 4)
        self.assertLess(self.apart(here[:4], there[:4]), 1e-6)
        self.assertTrue(torch.equal(here[4], there[4]))
        self.assertEqual([float(other.state[q]["step"]) for q in there], [4.0, 2.0, 4.0, 4.0, 4.0])

    def test_what_is_out_of_range(self):
        AdamW = self.module("adamw").AdamW
        _, there = self.leaves([6])
        other = AdamW(there, lr=1e-2)
        there[0].grad = OnGpu(torch.ones(6))
        other.param_groups[0]["lr"] = -1.0
        with self.assertRaisesRegex(ValueError, "lr must be >= 0"):
            other.step()
        self.assertEqual([e for e in self.taken() if e != "adamw_words"], [])

    def test_kernels_that_do_not_load_are_done_without(self):
        file = os.path.join(self.folder.name, "adamw_gpu.ptx")
        with open(file) as f:
            text = f.read()
        try:
            with open(file, "w") as f:
                f.write(text.replace(".visible", ".invisible"))
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                AdamW = self.module("adamw").AdamW
                here, there = self.leaves([6, 20])
                one, other = AdamW(here, lr=1e-2), AdamW(there, lr=1e-2)
                for turn in range(3):
                    self.gradients(here, there, turn)
                    one.step(), other.step()
            self.assertEqual(len([w for w in said if "torch's operations for tensors on cuda:0: the driver refuses the kernels" in str(w.message)]), 1)
            self.assertLess(self.apart(here, there), 1e-6)
        finally:
            with open(file, "w") as f:
                f.write(text)
        with mock.patch.dict(os.environ, {"OPTC_TORCH_GPU": "off"}), warnings.catch_warnings():
            warnings.simplefilter("error")
            self.assertIsNone(self.module("adamw")._gpu(GPU))


if __name__ == "__main__":
    unittest.main()
