"""One curve of bounded length: a million points come in, a few thousand that look the same stay."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from math import isfinite, isnan

FEWEST = 16
"""Points that a curve must be allowed to keep."""


class Curve:
    """Keeps at most `limit` points of all that are added, among them the first, the last, and every extreme.

    While there are few, all are kept. When they would be more, each bucket of neighbours keeps only its minimum and
    its maximum, in the order in which they came, and buckets grow twofold: the time per point falls with their number.

    Not a number and infinity are kept while all points are; later only where a bucket has nothing else.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.count: int = 0
        """Points that were added."""
        self.thinnings: int = 0
        """How often points went: what was drawn before is then no longer the beginning of what is kept."""
        self._kept = _Points()
        self._bucket = 2
        """Points of which at most two are kept."""
        self._open = _Points()
        """Of the bucket that is not full yet: its extremes."""
        self._open_count = 0
        self._last = _Points()

    def extend(self, xs: Sequence[float], ys: Sequence[float]) -> None:
        """Add points in their order; both of equal length."""
        # In pieces, so that memory stays bounded however many come at once.
        for start in range(0, len(xs), self._limit):
            piece = slice(start, start + self._limit)
            self._add(_Points(array("d", xs[piece]), array("d", ys[piece])))

    def points(self) -> tuple[array[float], array[float]]:
        """What is kept, in the order in which it came."""
        every = self._kept + self._open
        # Of its bucket, full or not, the newest point may be neither extreme.
        if self.count > len(every) and self._last != every[-1:]:
            every += self._last
        return every.x, every.y

    def _add(self, new: _Points) -> None:
        self.count += len(new)
        self._last = new[-1:]
        if self._open_count:
            room = self._bucket - self._open_count
            self._fill(new[:room])
            new = new[room:]
        whole = len(new) // self._bucket * self._bucket
        self._kept += new[:whole].extremes(self._bucket)
        self._fill(new[whole:])
        # The room for the two of the open bucket and the newest.
        while len(self._kept) > self._limit - 3:
            self._thin()

    def _fill(self, new: _Points) -> None:
        """Put `new` into the open bucket, in which there is room for it."""
        self._open = (self._open + new).extremes(max(2, len(self._open) + len(new)))
        self._open_count += len(new)
        if self._open_count == self._bucket:
            self._kept += self._open
            self._open, self._open_count = _Points(), 0

    def _thin(self) -> None:
        self._kept = self._kept[:1] + self._kept[1:].extremes(4)
        self._bucket *= 2
        self.thinnings += 1


class _Points:
    """Two columns that are cut and joined as one."""

    __slots__ = ("x", "y")

    def __init__(self, x: array[float] | None = None, y: array[float] | None = None) -> None:
        self.x = array("d") if x is None else x
        self.y = array("d") if y is None else y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, part: slice) -> _Points:
        return _Points(self.x[part], self.y[part])

    def __add__(self, other: _Points) -> _Points:
        return _Points(self.x + other.x, self.y + other.y)

    def __eq__(self, other: object) -> bool:
        # As bytes: what is not a number equals itself here.
        return isinstance(other, _Points) and bytes(self.x) == bytes(other.x) and bytes(self.y) == bytes(other.y)

    __hash__ = None  # type: ignore[assignment]  # it changes

    def extremes(self, size: int) -> _Points:
        """The lowest and the highest of each `size` neighbours; the last ones may be fewer."""
        if size <= 2:
            return self
        kept: list[int] = []
        for start in range(0, len(self), size):
            kept.extend(start + index for index in _two(self.y[start : start + size].tolist()))
        return _Points(array("d", [self.x[index] for index in kept]), array("d", [self.y[index] for index in kept]))


def _two(bucket: list[float]) -> list[int]:
    """Where the lowest and the highest are."""
    if not isfinite(sum(bucket)):  # comparisons with what is not a number would decide by the order
        finite = [value for value in bucket if isfinite(value)]
        if not finite:
            return [next((index for index, value in enumerate(bucket) if isnan(value)), 0)]
    else:
        finite = bucket
    low, high = bucket.index(min(finite)), bucket.index(max(finite))
    return sorted({low, high})
