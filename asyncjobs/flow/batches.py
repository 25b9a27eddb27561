"""Several elements as one batch: arrays stacked along a new first axis, tensors too, everything else as a list.

One component makes one column, several make a tuple of columns, or a dict of them by name.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from asyncjobs.flow.elements import Layout, Shape, is_tensor, shown

Column = Callable[[int, list[Any]], Any]
"""Makes one column out of a component's number and its values, at least one."""

_INT64 = range(-(1 << 63), 1 << 63)


def batch_of(layout: Layout, elements: list[Any], column: Column) -> Any:
    """The batch that `elements` make.

    Raises:
        ValueError: their shapes, or their numbers of components, differ.
    """
    if layout.names is None and not isinstance(elements[0], tuple):
        return column(0, elements)
    rows = [layout.parts(element) for element in elements]
    lengths = {len(row) for row in rows}
    if len(lengths) > 1:
        raise ValueError(f"elements of a batch have different numbers of components: {sorted(lengths)}")
    columns = tuple(column(position, list(values)) for position, values in enumerate(zip(*rows, strict=True)))
    return layout.formed(columns)


def empty(layout: Layout) -> Any:
    """The batch of no elements: arrays where shapes or dtypes say which, with 0 in dimensions of any length."""
    if layout.components is None:
        return []
    return layout.formed(tuple(_no_values(layout, position) for position in range(layout.components)))


def _no_values(layout: Layout, position: int) -> Any:
    if layout.shapes is None and layout.dtypes is None:
        return []
    import numpy as np

    shape = () if layout.shapes is None else layout.shapes[position]
    dtype = None if layout.dtypes is None else layout.dtypes[position]
    return np.empty((0, *(length or 0 for length in shape)), dtype)


def stacked(position: int | str, values: list[Any], instead: str = "a PaddingFIFOQueue") -> Any:
    """Values of one shape as one array, or tensor; a list of what is no number.

    Raises:
        ValueError: their shapes differ; names the first two that do, and what to take `instead`.
    """
    if all(is_tensor(value) for value in values):
        import torch

        _check_shapes(position, values, instead)
        return torch.stack(values)
    numpy = sys.modules.get("numpy")
    if numpy is not None and all(isinstance(value, numpy.ndarray | numpy.generic) for value in values):
        _check_shapes(position, values, instead)
        return numpy.stack(values)
    return _numbers(values) if all(_is_number(value, numpy) for value in values) else values


@dataclass(frozen=True, slots=True)
class Padded:
    """Stacks what differs in the dimensions that its shape leaves open, filled up at the end of each to the longest.

    A `Column` that can be pickled, for batches that are made in another process.
    """

    shapes: Sequence[Shape]
    pad_values: Sequence[Any]

    def __call__(self, position: int, values: list[Any]) -> Any:
        if None not in self.shapes[position]:
            return stacked(position, values)
        longest = tuple(max(lengths) for lengths in zip(*(value.shape for value in values), strict=True))
        filled = _filled(values, (len(values), *longest), self.pad_values[position])
        for row, value in zip(filled, values, strict=True):
            row[tuple(slice(length) for length in value.shape)] = value
        return filled


def _filled(values: list[Any], shape: tuple[int, ...], pad_value: Any) -> Any:
    if is_tensor(values[0]):
        return values[0].new_full(shape, pad_value)
    import numpy as np

    dtype = np.result_type(*values)
    # 0 is whatever zero is in that dtype: the empty string among strings.
    return np.zeros(shape, dtype) if type(pad_value) is int and pad_value == 0 else np.full(shape, pad_value, dtype)


def _check_shapes(position: int | str, values: list[Any], instead: str) -> None:
    first = tuple(values[0].shape)
    for number, value in enumerate(values):
        if tuple(value.shape) != first:
            raise ValueError(
                f"elements 0 and {number} of the batch differ in component {position}: "
                f"{shown(first)} and {shown(tuple(value.shape))}; {instead} takes what varies"
            )


def _is_number(value: Any, numpy: Any) -> bool:
    if isinstance(value, int):
        return value in _INT64
    return isinstance(value, float | complex) or (numpy is not None and isinstance(value, numpy.number | numpy.bool_))


def _numbers(values: list[Any]) -> Any:
    try:
        import numpy as np
    except ImportError:
        return values
    return np.asarray(values)
