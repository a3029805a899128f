"""Kernels of `@EXPRESSION@` for NVIDIA GPUs, launched through the driver's own interface (`libcuda.so.1`).

Needs Python alone: memory and streams are addresses and handles of whoever calls, in the primary context of a GPU, which is that of the CUDA runtime. @PTX@, which lies beside this file, is compiled by the driver for the
GPU at hand, of compute capability @CAPABILITY_WORDS@. Nothing here waits for a GPU. Generated: change the spec, not this file.
"""

import ctypes
import pathlib
from array import array
from itertools import accumulate

_FILE = pathlib.Path(__file__).with_name("@PTX@")
# The oldest GPUs that the code runs on, and the first after them that it does not.
_CAPABILITY, _BEYOND = @CAPABILITY@, @BEYOND@
_HYPER = @HYPERS@
# The entry that writes words, and how many.
_WORDS, _WORD_COUNT = "@WORDS@", @WORD_COUNT@
# Parameters that all entries take, and those of the first one of a step before the hyperparameters.
_COMMON, _FIRST = 10, 13
# A part of a leaf has so many elements, at least and at most; a multiprocessor gets so many parts.
_SHORT, _LONG, _PARTS = 1 << 10, 1 << 16, 16


class Unavailable(RuntimeError):
    """Why a GPU cannot run the kernels."""


class _Form:
    """A step for one element type: bytes of memory that leaves share and that each has, bytes of partial results, numbers that are combined over leaves, and by rounds the entries:
    name, name for addresses that are no multiples of 64, what blocks are for, threads."""

    def __init__(self, shared, own, partials, folds, rounds):
        self.shared, self.own, self.partials, self.folds, self.rounds = shared, own, partials, folds, rounds


_FORMS = {
@FORMS@}
_driver = None


def _cuda():
    """The driver."""
    global _driver
    if _driver is None:
        try:
            library = ctypes.CDLL("libcuda.so.1")
        except OSError as why:
            raise Unavailable(f"there is no NVIDIA driver ({why})") from None
        library.cuLaunchKernel.argtypes = [ctypes.c_void_p] + [ctypes.c_uint] * 7 + [ctypes.c_void_p] * 3
        library.cuCtxPushCurrent_v2.argtypes = [ctypes.c_void_p]
        code = library.cuInit(0)
        if code:
            raise Unavailable(f"the NVIDIA driver does not start: {_name(library, code)}")
        _driver = library
    return _driver


def _name(library, code):
    text = ctypes.c_char_p()
    library.cuGetErrorName(code, ctypes.byref(text))
    return (text.value or b"error %d" % code).decode()


class Gpu:
    """The kernels on GPU `number`. As a context manager: its context is the thread's."""

    def __init__(self, number):
        self.cuda = cuda = _cuda()

        def asked(what, function, *arguments):
            code = function(*arguments)
            if code:
                raise Unavailable(f"{what}: {_name(cuda, code)}")

        device, context, value = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_int()

        def attribute(which):
            asked("GPU attributes", cuda.cuDeviceGetAttribute, ctypes.byref(value), which, device)
            return value.value

        asked(f"there is no GPU {number}", cuda.cuDeviceGet, ctypes.byref(device), number)
        capability, self.multiprocessors = (attribute(75), attribute(76)), attribute(16)
        if not _CAPABILITY <= capability < _BEYOND:
            raise Unavailable(f"GPU {number} has compute capability {capability[0]}.{capability[1]}, and the kernels are for @CAPABILITY_WORDS@")
        asked("the context of the GPU", cuda.cuDevicePrimaryCtxRetain, ctypes.byref(context), device)
        self.context = context
        try:
            text = _FILE.read_bytes() + b"\0"
        except OSError as why:
            raise Unavailable(f"the kernels cannot be read: {why}") from None
        with self:
            log = ctypes.create_string_buffer(4096)
            # The buffer for errors, and its size.
            options, values = (ctypes.c_int * 2)(5, 6), (ctypes.c_void_p * 2)(ctypes.addressof(log), len(log))
            module = ctypes.c_void_p()
            code = cuda.cuModuleLoadDataEx(ctypes.byref(module), text, 2, options, values)
            if code:
                raise Unavailable(f"the driver refuses the kernels: {_name(cuda, code)} {log.value.decode(errors='replace').strip()}".rstrip())
            self.functions = {}
            entries = [e for form in _FORMS.values() for round in form.rounds for e in round]
            for name in [_WORDS] + [n for first, narrow, *_ in entries for n in (first, narrow) if n]:
                function = ctypes.c_void_p()
                asked(name, cuda.cuModuleGetFunction, ctypes.byref(function), module, name.encode())
                self.functions[name] = function
        self._words = (ctypes.c_uint64 * (2 + _WORD_COUNT))()
        self._word_places = _places(self._words)

    def __enter__(self):
        self.check(self.cuda.cuCtxPushCurrent_v2(self.context))
        return self

    def __exit__(self, *_):
        before = ctypes.c_void_p()
        self.check(self.cuda.cuCtxPopCurrent_v2(ctypes.byref(before)))

    def check(self, code):
        if code:
            raise RuntimeError(f"CUDA driver: {_name(self.cuda, code)}")

    def launch(self, name, blocks, threads, places, stream):
        self.check(self.cuda.cuLaunchKernel(self.functions[name], blocks, 1, 1, threads, 1, 1, 0, stream, places, None))

    def write(self, to, words, stream):
        """Writes words in the order of a stream. They go along with the launch, so that a recorded graph holds them and nothing of the host's is read later."""
        for begin in range(0, len(words), _WORD_COUNT):
            part = words[begin : begin + _WORD_COUNT]
            self._words[0], self._words[1] = to + 8 * begin, len(part)
            ctypes.memmove(ctypes.addressof(self._words) + 16, part.buffer_info()[0], 8 * len(part))
            self.launch(_WORDS, 1, 32, self._word_places, stream)


def _places(words):
    """The addresses of parameters."""
    return (ctypes.c_void_p * len(words))(*(ctypes.addressof(words) + 8 * k for k in range(len(words))))


def _up(n, to):
    return -(-n // to) * to


class Folds:
    """Where numbers are that leaves of several lists have in common, in the memory of one of them."""

    def __init__(self, address):
        self.address, self.begun = address, None


class Leaves:
    """Leaves of one element type (`f32`) on a GPU. `lengths`: their elements; `arrays`: of the weight and each state the addresses of all leaves' arrays;
    `counts`: the address of counts of steps, floats of 4 bytes, and how many there are. `place` is to be called with memory of so many `bytes` before anything else."""

    def __init__(self, gpu, kind, lengths, arrays, counts=(0, 0)):
        self.gpu, self.form = gpu, _FORMS[kind]
        # Leaves without elements have nothing to be done.
        self.kept = [k for k, n in enumerate(lengths) if n]
        self.lengths = [lengths[k] for k in self.kept]
        self.count = len(self.kept)
        weights, *states = ([column[k] for k in self.kept] for column in arrays)
        self.columns, self.aligned = [weights, None, *states], all(at % 64 == 0 for column in (weights, *states) for at in column)
        total = sum(self.lengths)
        self.chunk = min(max(_up(-(-total // (_PARTS * gpu.multiprocessors)), _SHORT), _SHORT), _LONG)
        begins = list(accumulate((-(-n // self.chunk) for n in self.lengths), initial=0))
        self.parts, self.rows = begins[-1], _up(self.count + 1, 8)
        self.columns = [self.lengths, begins, *self.columns]
        sizes = [self.form.shared, 8 * self.form.folds, self.form.own * self.count, 8 * len(self.form.partials) * self.parts, 8 * self.rows * len(self.columns)]
        self.offsets = list(accumulate((_up(size, 64) for size in sizes), initial=0))
        self.bytes = self.offsets.pop()
        self.gradients, self.wide = None, False
        self._parameters = (ctypes.c_uint64 * (_FIRST + 2 * _HYPER))()
        self._numbers = (ctypes.c_double * (_FIRST + 2 * _HYPER)).from_buffer(self._parameters)
        self._parameters[_COMMON], self._parameters[_COMMON + 1] = counts
        self._places = _places(self._parameters)

    def place(self, memory):
        """Memory at an address that is a multiple of 64; whatever is in it."""
        shared, folds, own, partials, self.table = (memory + offset for offset in self.offsets)
        self._parameters[:9] = [self.table, self.rows, self.count, shared, own, partials, folds, self.chunk, self.parts]
        self.folds, self.gradients = Folds(folds), None

    def aim(self, gradients, stream, again=False):
        """The addresses of all leaves' gradients; the table of addresses on the GPU is brought up to date if they are others, or in any case."""
        gradients = [gradients[k] for k in self.kept]
        if self.gradients is None:
            columns = [*self.columns]
            columns[3] = gradients
            table = array("Q")
            for column in columns:
                table.extend(column)
                table.extend([0] * (self.rows - len(column)))
            self.gpu.write(self.table, table, stream)
        elif again or gradients != self.gradients:
            self.gpu.write(self.table + 8 * 3 * self.rows, array("Q", gradients), stream)
        if gradients != self.gradients:
            self.gradients, self.wide = gradients, self.aligned and all(at % 64 == 0 for at in gradients)

    def round(self, number, hyper, stream, found=0, folds=None):
        """Round `number` of a step. `hyper`: of each hyperparameter a number, and the address of a double that is taken instead, or 0; `found`: the address of a float that says, unless it is zero, that no step is made, or 0."""
        folds, p = folds or self.folds, self._parameters
        p[6], p[9] = folds.address, folds.begun != number
        if self.count:
            folds.begun = None if number + 1 == len(self.form.rounds) else number
        p[_COMMON + 2] = found
        for k, (value, address) in enumerate(hyper):
            self._numbers[_FIRST + 2 * k], p[_FIRST + 2 * k + 1] = value, address
        for name, narrow, form, threads in self.form.rounds[number]:
            if form == "begin":
                blocks = 1
            elif not self.count:
                continue
            else:
                blocks = {"once": 1, "threads": -(-self.count // threads), "blocks": self.count, "parts": self.parts}[form]
                # Any number will do; more than a GPU takes at once are no gain.
                blocks = min(blocks, 64 * self.gpu.multiprocessors)
            self.gpu.launch(name if self.wide or not narrow else narrow, blocks, threads, self._places, stream)

    def step(self, gradients, hyper, stream, found=0, again=False):
        """A step of these leaves alone."""
        self.folds.begun = None
        with self.gpu:
            self.aim(gradients, stream, again)
            for number in range(len(self.form.rounds)):
                self.round(number, hyper, stream, found)
