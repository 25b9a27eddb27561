"""What a caller hands over as numbers, as buffers of a type that pages know. Works without numpy, and with it."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable
from math import nan
from typing import Any

TYPES = {"d": b"f8", "f": b"f4", "b": b"i1", "B": b"u1", "h": b"i2", "H": b"u2", "i": b"i4", "I": b"u4"}
"""Formats of a buffer, and what plotly.js calls them; it knows no integers of 8 bytes."""

_plain: set[type] = {array}
"""Kinds of sequences whose buffer is all that there is to them: no mask, no graph."""
_REAL = "biuf"
"""Kinds of numpy's types that are real numbers."""


def column(values: Any, what: str) -> memoryview[Any]:
    """The numbers of a list, an array, a series or a tensor, contiguous and of one of the `TYPES`.

    Nothing is copied that is such a buffer already. What is masked is not a number.

    Raises:
        TypeError: they are no real numbers; names `what` and the first that is none.
        ValueError: they have more than one dimension.
    """
    if type(values) in _plain:
        try:
            view = memoryview(values)
        except ValueError:  # dates of numpy have no buffer that anybody may read
            return _converted(values, what)
        if view.format in TYPES and view.ndim == 1 and view.contiguous:
            return view
    return _converted(values, what)


def _converted(values: Any, what: str) -> memoryview[Any]:
    if isinstance(values, str | bytes | bytearray) or not hasattr(values, "__iter__"):
        raise TypeError(f"{what} must be numbers, in a list, an array, a series or a tensor, not {_kind(values)}")
    for name in ("detach", "cpu"):  # a tensor
        if hasattr(values, name):
            values = getattr(values, name)()
    if hasattr(values, "to_numpy"):  # a series
        return _of_array(values.to_numpy(), what)
    if hasattr(values, "__array__"):
        return _of_array(_array(values), what)
    if isinstance(values, array | memoryview):
        return _of_buffer(memoryview(values), what)
    return _doubles(values, what)


def _array(values: Any) -> Any:
    if hasattr(values, "astype"):
        return values
    try:
        return values.__array__()
    except TypeError:  # a tensor of a type that numpy does not have, as bfloat16
        return values.double().__array__()


def _of_array(values: Any, what: str) -> memoryview[Any]:
    """Of an array of numpy."""
    if values.ndim != 1:
        raise ValueError(f"{what} must have one dimension, not the shape {values.shape}")
    if values.dtype.kind == "O":
        return _doubles(values.tolist(), what)
    if values.dtype.kind not in _REAL:
        raise TypeError(f"{what} must be real numbers, not {values.dtype} as in {_kind(values)}")
    if hasattr(values, "filled"):  # it has a mask
        return memoryview(values.astype("f8").filled(nan))
    if values.dtype.isnative and values.dtype.char in TYPES and values.flags.c_contiguous:
        _plain.add(type(values))
        return memoryview(values)
    return memoryview(values.astype("f8"))


def _of_buffer(view: memoryview[Any], what: str) -> memoryview[Any]:
    if view.ndim != 1:
        raise ValueError(f"{what} must have one dimension, not the shape {view.shape}")
    return view if view.format in TYPES and view.contiguous else _doubles(view.tolist(), what)


def _doubles(values: Iterable[Any], what: str) -> memoryview[float]:
    numbers = (*values,)  # another thread may go on appending
    try:
        return memoryview(struct.pack(f"{len(numbers)}d", *numbers)).cast("d")  # three times as fast as array("d", ...)
    except (TypeError, OverflowError, struct.error) as error:
        raise TypeError(f"{what}{_first_wrong(numbers)}, and no number that a float can hold: {error}") from None


def _first_wrong(numbers: tuple[Any, ...]) -> str:
    for position, value in enumerate(numbers):
        try:
            struct.pack("d", value)
        except (TypeError, OverflowError, struct.error):
            return f"[{position}] is {_kind(value)}"
    return " changes"  # or what it holds does


def _kind(values: Any) -> str:
    text = f"{values!r:.200}"
    return f"{type(values).__name__} {text if len(text) <= 60 else text[:59] + '…'}"
