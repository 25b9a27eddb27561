"""Make one batch of a list of items: `stack` and `Padding`. Arrays in, larger arrays out; runs in any lane."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from asyncjobs.flow.batches import Padded, stacked
from asyncjobs.flow.elements import is_tensor

Column = Callable[[str, list[Any]], Any]
"""Makes one column out of a component's place in the item and its values, at least one."""


def stack(items: list[Any]) -> Any:
    """Arrays, tensors and numbers stacked along a new first axis; other values in a list.

    Tuples become a tuple of such columns, named tuples one of their kind, dicts a dict, one in the other too.

    Raises:
        ValueError: shapes, numbers of components or names differ.
    """
    return _formed("", items, _stacked)


@dataclass(frozen=True, slots=True)
class Padding:
    """As `stack`, but what differs in its lengths is filled up with `value` to the longest of the batch."""

    value: Any = 0

    def __call__(self, items: list[Any]) -> Any:
        return _formed("", items, self._column)

    def _column(self, place: str, values: list[Any]) -> Any:
        arrays = [value if is_tensor(value) or isinstance(value, str | bytes) else _as_array(value) for value in values]
        ranks = {getattr(array, "ndim", 0) for array in arrays}
        if len(ranks) > 1:
            raise ValueError(f"items of a batch have different numbers of dimensions: {sorted(ranks)}")
        if ranks == {0}:
            return _stacked(place, values)
        return Padded([(None,) * ranks.pop()], [self.value])(0, arrays)


def _formed(place: str, items: list[Any], column: Column) -> Any:
    """A batch of the form that each item has; `place` is where in the whole items these stand."""
    first = items[0]
    if isinstance(first, dict):
        _check(place, items, dict, "names", set)
        return {name: _formed(_inside(place, name), [item[name] for item in items], column) for name in first}
    if isinstance(first, tuple):
        _check(place, items, tuple, "numbers of components", len)
        rows = enumerate(zip(*items, strict=True))
        columns = [_formed(_inside(place, position), list(values), column) for position, values in rows]
        return type(first)(*columns) if hasattr(first, "_fields") else tuple(columns)
    return column(place or "0", items)


def _inside(place: str, name: Any) -> str:
    return f"{place}[{name!r}]" if place else repr(name)


def _check(place: str, items: list[Any], kind: type, what: str, shape: Callable[[Any], Any]) -> None:
    """Raise if an item is not of this `kind`, or has another `shape` than the first."""
    for number, item in enumerate(items):
        if not isinstance(item, kind):
            kinds = f"{type(items[0]).__name__} and {type(item).__name__}"
            raise ValueError(f"items 0 and {number} of a batch differ in component {place or 0}: {kinds}")
        if shape(item) != shape(items[0]):
            shapes = f"{shape(items[0])} and {shape(item)}"
            raise ValueError(f"items 0 and {number} of a batch have different {what}: {shapes}")


def _stacked(place: str, values: list[Any]) -> Any:
    return stacked(place, values, instead="padded_batch")


def _as_array(value: Any) -> Any:
    import numpy as np

    return np.asarray(value)
