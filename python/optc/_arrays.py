"""Arrays of NumPy, torch and JAX: their addresses, and new ones of the same kind."""

from __future__ import annotations

import ctypes
import sys
from array import array as _plain_array
from typing import Any

import numpy as np

from . import _lib

_NUMPY = {
    np.dtype(np.float32): "f32",
    np.dtype(np.float64): "f64",
    np.dtype(np.float16): "f16",
    np.dtype(np.int32): "i32",
    np.dtype(np.int64): "i64",
    np.dtype(np.uint32): "u32",
    np.dtype(np.uint8): "u8",
    np.dtype(np.bool_): "bool",
}
_BY_NAME = {name: dtype for dtype, name in _NUMPY.items()}
_ALIASES = {
    "float32": "f32", "float64": "f64", "float16": "f16", "bfloat16": "bf16", "int32": "i32", "int64": "i64", "uint32": "u32", "uint8": "u8", "bool": "bool",
}
_torch: dict[Any, str] = {}
_torch_by_name: dict[str, Any] = {}


def _bfloat16() -> Any:
    """NumPy's bfloat16, which the package ml_dtypes (a part of JAX) brings; none without it."""
    if "bf16" not in _BY_NAME:
        try:
            import ml_dtypes
        except ImportError:
            return None
        _BY_NAME["bf16"] = np.dtype(ml_dtypes.bfloat16)
        _NUMPY[_BY_NAME["bf16"]] = "bf16"
    return _BY_NAME["bf16"]


def _torch_names() -> dict[Any, str]:
    if not _torch:
        torch = sys.modules["torch"]
        for long, short in _ALIASES.items():
            dtype = getattr(torch, long, None)
            if dtype is not None:
                _torch[dtype] = short
                _torch_by_name[short] = dtype
    return _torch


def kind(x: Any) -> str:
    """Whose array it is: ``numpy``, ``torch``, ``jax``, ``other`` (anything that DLPack or NumPy understands), or ``""``."""
    if isinstance(x, np.ndarray):
        return "numpy"
    module = type(x).__module__
    if module.startswith("torch") or (("torch" in sys.modules) and isinstance(x, sys.modules["torch"].Tensor)):
        return "torch"
    if module.startswith(("jax", "jaxlib")) and hasattr(x, "unsafe_buffer_pointer"):
        return "jax"
    if hasattr(x, "__dlpack__") or hasattr(x, "__array_interface__"):
        return "other"
    return ""


def dtype_name(dtype: Any) -> str:
    """The language's name of an element type of NumPy or torch, or of its name."""
    if isinstance(dtype, str) and dtype in _ALIASES:
        return _ALIASES[dtype]
    if isinstance(dtype, str) and (dtype in _BY_NAME or dtype == "bf16"):
        return dtype
    if "torch" in sys.modules:
        found = _torch_names().get(dtype)
        if found is not None:
            return found
    try:
        dtype = np.dtype(dtype)
    except TypeError:
        raise TypeError(f"{dtype!r} is no element type") from None
    found = _NUMPY.get(dtype)
    if found is None:
        _bfloat16()
        found = _NUMPY.get(dtype)
    if found is None:
        raise TypeError(f"arrays of {dtype} are not understood; there are {', '.join(_ALIASES)}")
    return found


def numpy_dtype(name: str) -> Any:
    """NumPy's element type of this name; none for bfloat16 without ml_dtypes."""
    return _bfloat16() if name == "bf16" else _BY_NAME[name]


_addressof = ctypes.addressof
_from_buffer: Any = ctypes.c_char.from_buffer


def address_of(x: np.ndarray) -> int:
    """The address of a NumPy array. The interface that says it is slow to make, so that arrays with a buffer to write to, which most are, take a shorter way."""
    try:
        return _addressof(_from_buffer(x))
    except (TypeError, ValueError, BufferError):
        return x.__array_interface__["data"][0]


def block(addresses: list[int]) -> tuple[Any, int]:
    """Addresses as C takes them: what holds them, and where."""
    held = _plain_array("Q", addresses)
    return held, held.buffer_info()[0]


class Seen:
    """An array as compiled code sees it: its address, and what keeps it alive."""

    __slots__ = ("address", "dtype", "shape", "keep", "kind")

    def __init__(self, address: int, dtype: str, shape: tuple[int, ...], keep: Any, kind: str):
        self.address, self.dtype, self.shape, self.keep, self.kind = address, dtype, shape, keep, kind


def _of_numpy(x: np.ndarray, of: str, write: bool, bits: bool = False) -> Seen:
    native = x.dtype if x.dtype.isnative else x.dtype.newbyteorder("=")
    dtype = "bf16" if bits and native == np.uint16 else _NUMPY.get(native) or dtype_name(native)
    flags = x.flags
    if not (flags.c_contiguous and flags.aligned) or not x.dtype.isnative:
        if write:
            raise ValueError("an array that is updated in place must be contiguous, aligned and of the machine's byte order")
        x = np.array(x, dtype=native, order="C")
    elif write and not flags.writeable:
        raise ValueError("an array that is updated in place must be writable")
    return Seen(address_of(x), dtype, x.shape, x, of)


def see(x: Any, write: bool = False, of: str | None = None, bits: bool = False) -> Seen:
    """The array's memory. What is not contiguous is copied, unless it is to be written to: then it is an error. With ``bits`` uint16 stands for bfloat16."""
    if isinstance(x, np.ndarray):
        return _of_numpy(x, "numpy", write, bits)
    of = of or kind(x)
    if of == "torch":
        if not x.is_cpu:
            raise ValueError(f"a tensor on {x.device} is out of reach; move it with `.cpu()`")
        if not x.is_contiguous() or x.is_neg():
            if write:
                raise ValueError("a tensor that is updated in place must be contiguous")
            x = x.detach().resolve_neg().contiguous()
        names = _torch or _torch_names()
        dtype = names.get(x.dtype)
        if dtype is None:
            raise TypeError(f"tensors of {x.dtype} are not understood; there are {', '.join(_ALIASES)}")
        return Seen(x.data_ptr(), dtype, tuple(x.shape), x, of)
    if of == "jax":
        if write:
            raise ValueError("JAX arrays do not change; use `update`, which gives new ones")
        x.block_until_ready()
        if next(iter(x.devices())).platform != "cpu" or len(x.devices()) != 1:
            raise ValueError("an array that is not on one CPU device is out of reach; move it with `jax.device_put`")
        return Seen(x.unsafe_buffer_pointer(), dtype_name(x.dtype), x.shape, x, of)
    if of == "other":
        try:
            array = np.from_dlpack(x) if hasattr(x, "__dlpack__") else np.asarray(x)
        except (BufferError, RuntimeError, TypeError):
            array = np.asarray(x)
        return _of_numpy(array, "numpy", write)
    raise TypeError(f"{type(x).__name__} is no array")


def empty(shape: tuple[int, ...], dtype: str, of: str) -> tuple[Any, int]:
    """Memory for a result, of NumPy or torch, and its address. JAX's results are NumPy arrays until :func:`finish`."""
    if of == "torch":
        torch = sys.modules["torch"]
        _torch_names()
        if dtype in _torch_by_name:
            x = torch.empty(shape, dtype=_torch_by_name[dtype])
            return x, x.data_ptr()
    size = 1
    for extent in shape:
        size *= extent
    as_numpy = numpy_dtype(dtype) or np.dtype(np.uint16)
    if of != "jax":
        x = np.empty(shape, as_numpy)
        return x, address_of(x)
    # JAX takes memory as it is where it begins at a multiple of 64.
    raw = np.empty(size * as_numpy.itemsize + 64, np.uint8)
    skip = -address_of(raw) % 64
    x = raw[skip : skip + size * as_numpy.itemsize].view(as_numpy).reshape(shape)
    return x, address_of(raw) + skip


def borrowed_torch(address: int, shape: tuple[int, ...], dtype: str) -> Any:
    """A torch tensor over memory that lies at an address, not copied."""
    torch = sys.modules["torch"]
    _torch_names()
    of = _torch_by_name[dtype]
    count = 1
    for extent in shape:
        count *= extent
    if count == 0:
        return torch.empty(shape, dtype=of)
    raw = (ctypes.c_uint8 * (count * of.itemsize)).from_address(address)
    return torch.frombuffer(raw, dtype=of).reshape(shape)


def finish(x: Any, dtype: str, of: str) -> Any:
    """A result as whoever called expects it."""
    if dtype == "bf16" and isinstance(x, np.ndarray) and x.dtype == np.uint16:
        # NumPy alone has no bfloat16: the same values, exactly, as float32.
        wide = (x.astype(np.uint32) << 16).view(np.float32)
        x = wide.reshape(x.shape)
    if of == "jax":
        import jax

        return jax.device_put(x, jax.devices("cpu")[0])
    return x


def scalar(x: Any, dtype: str) -> Any:
    """A result without axes as a number."""
    return finish(x, dtype, "numpy").item()


class _Memory:
    """Memory of the library, released when nothing looks at it any more."""

    def __init__(self, handle: int, address: int, shape: tuple[int, ...], typestr: str):
        self._handle = _lib.Handle(handle)
        self.__array_interface__ = {"version": 3, "data": (address, False), "shape": shape, "typestr": typestr}


def handed_out(described: dict[str, Any]) -> np.ndarray:
    """A NumPy array over memory that the library hands out, not copied."""
    name, shape = described["dtype"], tuple(described["shape"])
    dtype = numpy_dtype(name)
    raw = np.dtype(np.uint16) if name == "bf16" else dtype
    array = np.asarray(_Memory(described["handle"], described["address"], shape, raw.str))
    if name == "bf16":
        return array.view(dtype) if dtype is not None else finish(array, name, "numpy")
    return array
