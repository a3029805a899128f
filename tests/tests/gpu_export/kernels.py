"""Kernels that `optc build --emit torch` writes, launched by their own module on the driver at hand, beside the library for the processor: `kernels.py FOLDER NAME TOLERANCE [PART]`.

TOLERANCE is how far results may be from the library's, relative to the largest of an array (0: the same bits). PART is `steps` (default) or `leaves COUNT STEPS`, for what the driver counts. Needs Python alone."""

import ctypes
import importlib.util
import pathlib
import random
import re
import struct
import sys
from array import array
from types import SimpleNamespace

FOLDER, NAME, TOLERANCE = pathlib.Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
LENGTHS = [1, 0, 7, 1024, 5001, 3, 16384, 33001]
WIDTHS = {"f32": 4, "f64": 8, "bf16": 2, "i32": 4, "bool": 1}
TYPES = {"float32": "f32", "float64": "f64", "bfloat16": "bf16", "int32": "i32", "bool": "bool"}

spec = importlib.util.spec_from_file_location("kernels_under_test", FOLDER / f"{NAME}_gpu.py")
kernels = importlib.util.module_from_spec(spec)
spec.loader.exec_module(kernels)
text = (FOLDER / f"{NAME}_torch.py").read_text()
names = {"torch": SimpleNamespace(**TYPES)}
STATES = eval(re.search(r"^_STATES = (.*)$", text, re.M)[1], names)
KEPT = eval(re.search(r"^_KEPT = (.*)$", text, re.M)[1], names)
HYPER = eval(re.search(r"for name in (\(.*\))\n", text)[1], names)
cuda = kernels._cuda()
library = ctypes.CDLL(str(FOLDER / f"lib{NAME}.so"))


def call(function, *arguments):
    code = getattr(cuda, function)(*arguments)
    assert code == 0, (function, kernels._name(cuda, code))


class Hyper(ctypes.Structure):
    _fields_ = [("size", ctypes.c_uint32), ("version", ctypes.c_uint32)] + [(name, ctypes.c_double) for name in HYPER]


def numbers(kind, n, seed):
    draw = random.Random(seed)
    values = [draw.gauss(0.0, 1.0) for _ in range(n)]
    if kind == "bf16":
        return b"".join(struct.pack("<f", x)[2:] for x in values)
    return array({"f32": "f", "f64": "d"}[kind], values).tobytes()


def decoded(kind, data):
    if kind == "bf16":
        return [struct.unpack("<f", b"\0\0" + data[k : k + 2])[0] for k in range(0, len(data), 2)]
    return list(array({"f32": "f", "f64": "d", "i32": "i", "bool": "B"}[kind], data))


class Memory:
    """Memory of the GPU's."""

    def __init__(self, size, shift=0):
        at = ctypes.c_uint64()
        call("cuMemAlloc_v2", ctypes.byref(at), ctypes.c_size_t(max(size, 1) + shift))
        self.base, self.at, self.size = at.value, at.value + shift, size

    def put(self, data):
        if data:
            call("cuMemcpyHtoD_v2", ctypes.c_uint64(self.at), ctypes.c_char_p(data), ctypes.c_size_t(len(data)))
        return self

    def get(self):
        out = ctypes.create_string_buffer(max(self.size, 1))
        if self.size:
            call("cuMemcpyDtoH_v2", out, ctypes.c_uint64(self.at), ctypes.c_size_t(self.size))
        return out.raw[: self.size]

    def free(self):
        call("cuMemFree_v2", ctypes.c_uint64(self.base))


class Host:
    """The same leaves on the processor."""

    def __init__(self, kind, lengths):
        self.kind, self.lengths = kind, lengths
        self.kinds = KEPT[kind]
        self.weights = [ctypes.create_string_buffer(numbers(kind, n, 10 + k), max(WIDTHS[kind] * n, 1)) for k, n in enumerate(lengths)]
        self.states = []
        for n, w in zip(lengths, self.weights):
            states = [ctypes.create_string_buffer(max(WIDTHS[s] * (1 if single else n), 1)) for s, (_, single) in zip(self.kinds, STATES)]
            code = getattr(library, f"{NAME}_{kind}_init")(ctypes.c_size_t(n), w, *states)
            assert code == 0, code
            self.states.append(states)
        self.hyper = Hyper()
        getattr(library, f"{NAME}_defaults")(ctypes.byref(self.hyper))

    def step(self, t, gradients):
        rows = array("Q")
        for n, w, g, states in zip(self.lengths, self.weights, gradients, self.states):
            # As in the class: leaves without elements are left out.
            if n:
                rows.extend([n, ctypes.addressof(w), ctypes.addressof(g), *map(ctypes.addressof, states)])
        many = getattr(library, f"{NAME}_{self.kind}_step_many")
        code = many(ctypes.c_size_t(len([n for n in self.lengths if n])), ctypes.c_void_p(rows.buffer_info()[0]), t, ctypes.byref(self.hyper))
        assert code == 0, code

    def arrays(self):
        for k, n in enumerate(self.lengths):
            yield f"weight {k}", self.kind, self.weights[k].raw[: WIDTHS[self.kind] * n]
            for (name, single), kind, s in zip(STATES, self.kinds, self.states[k]):
                yield f"{name} of {k}", kind, s.raw[: WIDTHS[kind] * (1 if single else n)] if n else b""


class Device:
    """Leaves on the GPU, as a host has them."""

    def __init__(self, gpu, host, stream, shift=0):
        """Arrays begin `shift` elements after what is a multiple of 64."""
        self.gpu, self.host, self.stream = gpu, host, stream
        self.arrays_of = [[Memory(len(data), shift * WIDTHS[kind]).put(data) for _, kind, data in leaf] for leaf in self.of_leaves(host)]
        columns = [[leaf[k].at if leaf[k].size else 0 for leaf in self.arrays_of] for k in range(1 + len(STATES))]
        self.counts = Memory(4 * len(host.lengths)).put(bytes(4 * len(host.lengths)))
        self.leaves = kernels.Leaves(gpu, host.kind, host.lengths, columns, (self.counts.at, len(host.lengths)))
        self.memory = Memory(self.leaves.bytes)
        self.leaves.place(self.memory.at)
        self.found = Memory(4)

    @staticmethod
    def of_leaves(host):
        all = list(host.arrays())
        size = 1 + len(STATES)
        return [all[k : k + size] for k in range(0, len(all), size)]

    def numbers(self):
        return [(getattr(self.host.hyper, name), 0) for name in HYPER]

    def same(self, what):
        call("cuStreamSynchronize", self.stream)
        for leaf, here in zip(self.of_leaves(self.host), self.arrays_of):
            for (name, kind, want), memory in zip(leaf, here):
                have = memory.get()
                if TOLERANCE == 0 or kind in ("i32", "bool"):
                    assert have == want, (what, name, [(k, a, b) for k, (a, b) in enumerate(zip(decoded(kind, have), decoded(kind, want))) if a != b][:3])
                    continue
                a, b = decoded(kind, have), decoded(kind, want)
                most = max(map(abs, b), default=0.0) or 1.0
                far = max((abs(x - y) for x, y in zip(a, b)), default=0.0)
                assert all(x == x for x in a) and far <= TOLERANCE * most, (what, name, far / most)


def gradients(host, t, shift=0):
    data = [numbers(host.kind, n, 1000 * t + k) for k, n in enumerate(host.lengths)]
    on_host = [ctypes.create_string_buffer(d, max(len(d), 1)) for d in data]
    return on_host, [Memory(len(d), shift * WIDTHS[host.kind]).put(d) for d in data]


def steps(gpu, kind):
    """Steps whose gradients lie elsewhere each time, of which some are not made; hyperparameters of the host's and of the GPU's; addresses that are multiples of 64 and such that are not."""
    stream = ctypes.c_void_p()
    call("cuStreamCreate", ctypes.byref(stream), 1)
    for shift in (0, 1):
        host = Host(kind, LENGTHS)
        device = Device(gpu, host, stream, shift)
        rate, t, kept = Memory(8), 0, []
        for turn in range(6):
            on_host, on_gpu = gradients(host, turn, shift)
            kept.append(on_gpu)
            skipped = turn == 2
            device.found.put(struct.pack("<f", float(skipped)))
            hyper, found = device.numbers(), device.found.at if turn in (1, 2) else 0
            if turn == 4 and "lr" in HYPER:
                host.hyper.lr *= 0.5
                rate.put(struct.pack("<d", host.hyper.lr))
                hyper[HYPER.index("lr")] = (float("nan"), rate.at)
            device.leaves.step([g.at if g.size else 0 for g in on_gpu], hyper, stream, found)
            call("cuStreamSynchronize", stream)
            if not skipped:
                t += 1
                host.step(t, on_host)
            if turn in (0, 2, 5):
                device.same((kind, shift, turn))
        assert set(decoded("f32", device.counts.get())) == {float(t)}
        assert device.leaves.wide == (shift == 0)
        for memory in [rate, device.memory, device.found, device.counts, *(m for leaf in device.arrays_of for m in leaf), *(m for list in kept for m in list)]:
            memory.free()


def recorded(gpu, kind):
    """A step recorded as a graph once and run often, and steps that are not recorded between."""
    stream = ctypes.c_void_p()
    call("cuStreamCreate", ctypes.byref(stream), 1)
    host = Host(kind, LENGTHS)
    device = Device(gpu, host, stream)
    rate, t = Memory(8).put(struct.pack("<d", getattr(host.hyper, "lr", 0.0))), 0
    hyper = device.numbers()
    rated = "lr" in HYPER
    if rated:
        hyper[HYPER.index("lr")] = (0.0, rate.at)

    def at(list):
        return [g.at if g.size else 0 for g in list]

    plain, fixed = gradients(host, 1), gradients(host, 2)
    device.leaves.step(at(plain[1]), hyper, stream)
    host.step(1, plain[0])
    call("cuStreamBeginCapture_v2", stream, 1)
    device.leaves.step(at(fixed[1]), hyper, stream, again=True)
    graph, exec = ctypes.c_void_p(), ctypes.c_void_p()
    call("cuStreamEndCapture", stream, ctypes.byref(graph))
    call("cuGraphInstantiateWithFlags", ctypes.byref(exec), graph, ctypes.c_uint64(0))
    t = 1
    for turn in range(6):
        call("cuStreamSynchronize", stream)
        if rated:
            host.hyper.lr = 1e-2 / (1 + turn)
            rate.put(struct.pack("<d", host.hyper.lr))
        t += 1
        if turn % 3 == 2:
            device.leaves.step(at(plain[1]), hyper, stream, again=True)
            host.step(t, plain[0])
        else:
            call("cuGraphLaunch", exec, stream)
            host.step(t, fixed[0])
    device.same((kind, "recorded"))
    assert set(decoded("f32", device.counts.get())) == {float(t)}


def many(gpu, count, turns):
    """Steps of many leaves, for what they are in launches; nothing is waited for but the end."""
    host = Host("f32", [1 + 37 * k % 300 for k in range(count)])
    device = Device(gpu, host, None)
    on_host, on_gpu = gradients(host, 1)
    for t in range(1, turns + 1):
        device.leaves.step([g.at for g in on_gpu], device.numbers(), None)
        host.step(t, on_host)
    call("cuStreamSynchronize", None)
    device.same("many")


def main():
    gpu = kernels.Gpu(0)
    part = sys.argv[4:] or ["steps"]
    with gpu:
        if part[0] == "leaves":
            many(gpu, int(part[1]), int(part[2]))
        else:
            for kind in kernels._FORMS:
                steps(gpu, kind)
                recorded(gpu, kind)


main()
