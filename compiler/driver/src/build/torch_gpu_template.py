_kernels, _gpus = None, {}


def _gpu(device):
    """The kernels on a CUDA device; nothing where they cannot run, which is said once. `OPTC_TORCH_GPU=off` in the environment does without."""
    global _kernels
    if device.index not in _gpus:
        found = None
        if torch.version.hip is None and os.environ.get("OPTC_TORCH_GPU") != "off":
            if _kernels is None:
                file = pathlib.Path(__file__).with_name("@GPU_MODULE@")
                spec = importlib.util.spec_from_file_location("@NAME@_gpu", file)
                _kernels = importlib.util.module_from_spec(spec)
                spec.loader.exec_module(_kernels)
            try:
                found = _kernels.Gpu(device.index)
            except _kernels.Unavailable as why:
                warnings.warn(f"@CLASS@ takes torch's operations for tensors on {device}: {why}", stacklevel=2)
        _gpus[device.index] = found
    if _gpus[device.index] is not None and _capturing():
        raise RuntimeError("@CLASS@ meets parameters for the first time, or others than in its last step, while a graph is recorded: make a step before")
    return _gpus[device.index]


def _memory(size, device):
    return torch.empty(size, dtype=torch.uint8, device=device)


def _stream(device):
    return torch.cuda.current_stream(device)


def _capturing():
    return torch.cuda.is_current_stream_capturing()


class _DevicePlan:
    """Leaves of one type and layout on one GPU that are at the same step. Counts of steps are on the GPU, where a step that is not made does not count."""

    captured = False

    def __init__(self, gpu, dtype, layout, leaves, states, t):
        self.dtype, self.layout, self.leaves, self.device = dtype, layout, leaves, leaves[0].device
        self.steps = torch.full((len(leaves),), float(t), dtype=torch.float32, device=self.device) if _COUNTS_STEPS else None
        self.moved_on()
        arrays = [[p.data_ptr() for p in leaves], *([kept[k].data_ptr() for kept in states] for k in range(len(_STATES)))]
        counts = (self.steps.data_ptr(), len(leaves)) if _COUNTS_STEPS else (0, 0)
        self.work = _kernels.Leaves(gpu, dict(@SUFFIXES@)[dtype], [p.numel() for p in leaves], arrays, counts)
        self.memory, self.home = _memory(self.work.bytes, self.device), _stream(self.device)
        self.work.place(self.memory.data_ptr())
        self.valid = None

    def moved_on(self):
        """Steps were counted leaf by leaf."""
        self.version = None if self.steps is None else self.steps._version

    def still(self):
        """Whether nobody else has written to the counts."""
        return self.steps is None or self.steps._version == self.version

    def prepared(self, values):
        """Hyperparameters as the kernels take them; those on a GPU are read there."""
        held = [x.detach().to(self.device, torch.float64) if torch.is_tensor(x) and not x.is_cpu else None for x in values]
        numbers = [float(x) if h is None else 0.0 for x, h in zip(values, held)]
        if numbers != self.valid:
            _in_range(self.dtype, [x if h is None else None for x, h in zip(numbers, held)])
            self.valid = numbers
        return [(x, 0 if h is None else h.data_ptr()) for x, h in zip(numbers, held)], held

    def aimed(self, gradients):
        """These gradients, lying as the weights do; their addresses are in the table."""
        gradients = _fitting(gradients, self.layout)
        capturing, stream = _capturing(), _stream(self.device)
        self.captured = self.captured or capturing
        if stream != self.home:
            # The memory is not to be anybody else's before this stream is done with it.
            self.memory.record_stream(stream)
        # A recorded graph writes its own addresses whenever it runs.
        with self.work.gpu:
            self.work.aim([g.data_ptr() for g in gradients], stream.cuda_stream, self.captured)
        return gradients

    def folds(self):
        """Where numbers are that leaves have in common; there are none yet."""
        self.work.folds.begun = None
        return self.work.folds

    def round(self, number, prepared, folds, found):
        """One of several rounds; what leaves have in common is in `folds`. Weights and states are written in the last."""
        found = None if found is None else found.to(self.device, torch.float32, non_blocking=True)
        with self.work.gpu:
            self.work.round(number, prepared[0], _stream(self.device).cuda_stream, 0 if found is None else found.data_ptr(), folds)
        if number + 1 == _ROUNDS:
            torch.autograd.graph.increment_version(self.leaves)

    def run(self, gradients, values, found):
        """The next step; where something is wrong, nothing has been done."""
        prepared = self.prepared(values)
        alive = self.aimed(gradients)
        folds = self.folds()
        for number in range(_ROUNDS):
            self.round(number, prepared, folds, found)
        # What is freed from here on is used again after the step in the order of the stream.
        del alive, prepared


def _in_range(dtype, numbers):
    """Refuses hyperparameters as the library does; those that are None are not known."""
    hyper, nothing = _Hyper(), array("Q", [0] * 8)
    _LIBRARY.@NAME@_defaults(ctypes.byref(hyper))
    for (name, _), x in zip(_Hyper._fields_[2:], numbers):
        if x is not None:
            setattr(hyper, name, x)
    # A leaf without elements.
    row = array("Q", [0] + [nothing.buffer_info()[0]] * (2 + len(_STATES)))
    _check(_STEP[dtype](1, row.buffer_info()[0], 1, ctypes.addressof(hyper)))
