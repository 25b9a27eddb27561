"""Make one batch of a list of items: `stack` and `Padding`. Arrays in, larger arrays out; runs in any lane."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from asyncjobs.flow.batches import Padded, batch_of, stacked
from asyncjobs.flow.elements import Layout, is_tensor


def stack(items: list[Any]) -> Any:
    """Arrays, tensors and numbers stacked along a new first axis; other values in a list.

    Tuples become a tuple of such columns, dicts a dict of them.

    Raises:
        ValueError: shapes, numbers of components or names differ.
    """
    return batch_of(_layout(items[0]), items, partial(stacked, instead="padded_batch"))


@dataclass(frozen=True, slots=True)
class Padding:
    """As `stack`, but what differs in its lengths is filled up with `value` to the longest of the batch."""

    value: Any = 0

    def __call__(self, items: list[Any]) -> Any:
        return batch_of(_layout(items[0]), items, self._column)

    def _column(self, position: int, values: list[Any]) -> Any:
        arrays = [value if is_tensor(value) or isinstance(value, str | bytes) else _as_array(value) for value in values]
        ranks = {getattr(array, "ndim", 0) for array in arrays}
        if len(ranks) > 1:
            raise ValueError(f"items of a batch have different numbers of dimensions: {sorted(ranks)}")
        if ranks == {0}:
            return stacked(position, values)
        return Padded([(None,) * ranks.pop()], [self.value])(0, arrays)


def _layout(first: Any) -> Layout:
    return Layout(names=tuple(first), components=len(first)) if isinstance(first, dict) else Layout()


def _as_array(value: Any) -> Any:
    import numpy as np

    return np.asarray(value)
