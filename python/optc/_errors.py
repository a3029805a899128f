"""Errors that the package raises."""

from __future__ import annotations

from typing import Any


class OptcError(Exception):
    """What every error of this package is."""


class SpecError(OptcError):
    """A mistake in a spec, or a failure while it runs.

    The message is what the compiler shows: the place, the cause, the fix. ``diagnostics`` holds the same as data, one dictionary each, with ``code``,
    ``severity``, ``message``, ``primary`` (``file``, ``line``, ``column``), ``labels``, ``notes`` and ``help``.
    """

    def __init__(self, message: str, diagnostics: list[dict[str, Any]]):
        super().__init__(message)
        self.diagnostics = diagnostics


class InternalError(OptcError):
    """A mistake in the compiler itself; please report it with the spec."""
