"""What a caller hands over as numbers, as buffers of a type that pages know. Works without numpy, and with it."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

TYPES = {"d": b"f8", "f": b"f4", "b": b"i1", "B": b"u1", "h": b"i2", "H": b"u2", "i": b"i4", "I": b"u4"}
"""Formats of a buffer, and what plotly.js calls them; it knows no integers of 8 bytes."""


def column(values: Any, what: str) -> memoryview[Any]:
    """The numbers of a list, an array, a series or a tensor, contiguous and of one of the `TYPES`.

    Nothing is copied that is such a buffer already.

    Raises:
        TypeError: they are no real numbers; names `what` and the first that is none.
        ValueError: they have more than one dimension.
    """
    found = _view(values)
    if found is None:
        found = _view(_plain(values, what))
    if found is None:
        raise TypeError(f"{what} must be numbers, in a list, an array, a series or a tensor, not {_kind(values)}")
    if found.ndim != 1:
        raise ValueError(f"{what} must have one dimension, not the shape {found.shape}")
    if found.format in TYPES and found.contiguous:
        return found
    return memoryview(array("d", found.tolist()))


def _view(values: Any) -> memoryview[Any] | None:
    """Its buffer, if it has one and numbers are in it."""
    try:
        view = memoryview(values)
    except (TypeError, ValueError):  # dates of numpy have no buffer that anybody may read
        return None
    if view.format not in _NUMBERS or type(values) in _BYTES:
        return None
    return view


_NUMBERS = frozenset([*TYPES, *"lLqQ?e"])
"""Formats that `tolist` understands, among them those of `TYPES`."""
_BYTES = frozenset([bytes, bytearray])
"""Buffers that look like numbers."""


def _plain(values: Any, what: str) -> Any:
    for name in ("detach", "cpu"):  # a tensor
        if hasattr(values, name):
            values = getattr(values, name)()
    for name in ("to_numpy", "__array__"):  # a series, or anything that numpy understands
        if hasattr(values, name):
            return getattr(values, name)()
    if isinstance(values, str | bytes | bytearray) or not hasattr(values, "__iter__"):
        raise TypeError(f"{what} must be numbers, not {_kind(values)}")
    return _doubles(list(values) if not isinstance(values, Sequence) else values, what)


def _doubles(values: Sequence[Any], what: str) -> array[float]:
    try:
        return array("d", values)
    except (TypeError, OverflowError):
        pass
    for position, value in enumerate(values):
        try:
            array("d", [value])
        except (TypeError, OverflowError):
            raise TypeError(f"{what}[{position}] is {value!r}, and no number that a float can hold") from None
    raise AssertionError("unreachable")


def _kind(values: Any) -> str:
    return f"{type(values).__name__} {str(values)[:60]!r}"
