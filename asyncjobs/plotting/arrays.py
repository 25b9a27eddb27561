"""What a caller hands over as numbers, as buffers of a type that pages know. Works without numpy, and with it."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any, NamedTuple

_TYPES = {"d": b"f8", "f": b"f4", "b": b"i1", "B": b"u1", "h": b"i2", "H": b"u2", "i": b"i4", "I": b"u4"}
"""Formats of a buffer, and what plotly.js calls them; it knows no integers of 8 bytes."""


class Column(NamedTuple):
    """A contiguous buffer of numbers."""

    buffer: Any
    type: bytes
    nbytes: int
    length: int


NOTHING = Column(b"", b"", 0, 0)


def column(values: Any, what: str) -> Column:
    """The numbers of a list, an array, a series or a tensor; nothing is copied that is a fitting buffer already.

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
    type_ = _TYPES.get(found.format)
    if type_ is None or not found.contiguous:
        doubles = memoryview(array("d", found.tolist()))
        return Column(doubles, b"f8", doubles.nbytes, len(doubles))
    return Column(found, type_, found.nbytes, len(found))


def _view(values: Any) -> memoryview | None:
    """Its buffer, if it has one and numbers are in it."""
    try:
        view = memoryview(values)
    except (TypeError, ValueError):  # dates of numpy have no buffer that anybody may read
        return None
    if view.format not in _NUMBERS or isinstance(values, bytes | bytearray):
        return None
    return view


_NUMBERS = frozenset([*_TYPES, *"lLqQ?e"])
"""Formats that `tolist` understands, among them those of `_TYPES`."""


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
