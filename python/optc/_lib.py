"""The shared library, and requests to it."""

from __future__ import annotations

import ctypes
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

from ._errors import InternalError, OptcError, SpecError

_ABI = 2
NAMES = {"linux": "liboptc_python.so", "darwin": "liboptc_python.dylib", "win32": "optc_python.dll"}


def _find() -> Path:
    given = os.environ.get("OPTC_LIBRARY")
    if given:
        return Path(given)
    return Path(__file__).with_name(NAMES.get(sys.platform, NAMES["linux"]))


def _load() -> ctypes.CDLL:
    path = _find()
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise OptcError(
            f"cannot load {path}: {error}; install the package with `pip install .`, or name a library built with "
            "`cargo build --release -p optc-python` in OPTC_LIBRARY"
        ) from error
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    library.optc_abi.restype = ctypes.c_uint32
    library.optc_abi.argtypes = []
    if library.optc_abi() != _ABI:
        raise OptcError(f"{path} is of another version of optc")
    library.optc_request.restype = pointer
    library.optc_request.argtypes = [ctypes.c_char_p]
    library.optc_free.restype = None
    library.optc_free.argtypes = [pointer]
    library.optc_call.restype = pointer
    library.optc_call.argtypes = [ctypes.c_uint64, pointer, size]
    library.optc_step.restype = pointer
    library.optc_step.argtypes = [ctypes.c_uint64, ctypes.c_uint32, pointer, size, pointer, size, ctypes.c_uint64, pointer]
    library.optc_release.restype = None
    library.optc_release.argtypes = [ctypes.c_uint64]
    library.optc_interrupt.restype = None
    library.optc_interrupt.argtypes = [ctypes.c_uint32]
    return library


lib = _load()
call = lib.optc_call
step = lib.optc_step
release = lib.optc_release


class Handle:
    """A number of the library, released when nobody holds it any more."""

    __slots__ = ("number",)

    def __init__(self, number: int):
        self.number = number

    def __del__(self, release: Any = release) -> None:
        release(self.number)


def _text(address: int) -> str:
    try:
        return ctypes.string_at(address).decode()
    finally:
        lib.optc_free(address)


def _raise(fault: dict[str, Any]) -> None:
    kind, message = fault["kind"], fault["message"]
    if kind == "interrupted":
        raise KeyboardInterrupt
    if kind == "spec":
        raise SpecError(message, fault.get("diagnostics", []))
    if kind == "bug":
        raise InternalError(message)
    raise ValueError(message)


def failed(address: int) -> None:
    """Raises what a call says that did not go well."""
    _raise(json.loads(_text(address)))


def dropped(address: int) -> None:
    """Frees what a call says, where the error is known already."""
    if address:
        lib.optc_free(address)


def request(**asked: Any) -> Any:
    """Asks the library for something; raises what went wrong."""
    reply = json.loads(_text(lib.optc_request(json.dumps(asked).encode())))
    if "fault" in reply:
        _raise(reply["fault"])
    return reply["ok"]


_running = 0
_count = threading.Lock()


def long_request(**asked: Any) -> Any:
    """As :func:`request`, for what may take long: Ctrl-C ends it after the step at hand."""
    global _running
    if threading.current_thread() is not threading.main_thread():
        return request(**asked)
    done: list[Any] = []

    def work() -> None:
        try:
            done.append((True, request(**asked)))
        except BaseException as error:  # noqa: BLE001 (handed on below)
            done.append((False, error))

    thread = threading.Thread(target=work, name="optc run", daemon=True)
    with _count:
        _running += 1
    thread.start()
    try:
        try:
            thread.join()
        except KeyboardInterrupt:
            lib.optc_interrupt(1)
            thread.join()
            raise
    finally:
        with _count:
            _running -= 1
            if _running == 0:
                lib.optc_interrupt(0)
    good, value = done[0]
    if good:
        return value
    raise value
