"""How well preparing and training overlap: the bound, and the figures beside it. Pure arithmetic.

The bound of N batches: nobody can be faster than the training alone, than the same workers with nobody who trains,
or than all computing spread over the cores; and before the first batch there is nothing to train on.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations


@dataclass(frozen=True, slots=True)
class Times:
    """What was measured of `batches` batches; seconds."""

    batches: int
    train: float
    """Training alone, on one batch that is there."""
    drain: float
    """The same workers, and nobody who trains; at the pace after the first batch."""
    overlapped: float
    """Both at once."""
    serial: float
    """One after the other, in one thread."""
    cpu: float
    """Processor time of preparing and training alone, without anybody's overhead."""
    first: float
    """Until the first batch, workers warm."""
    waited: float
    """The trainer, for batches."""
    cores: int


def bound(times: Times) -> float:
    """Seconds that nobody can be below.

    Before the first step one batch has to be prepared. Not that batch's own latency, nor the whole drain: so nobody is
    excused by a slow start. 100 batches, training 6 s, serial 9.5 s, draining 3.5 s, 9.5 s of computing on two cores:
    6 s and one preparation of 0.035 s.
    """
    prepare = max(times.serial - times.train, 0) / times.batches
    return max(times.train, times.drain, times.cpu / times.cores) + prepare


def figures(times: Times) -> dict[str, float]:
    """Name to figure, as in the tables."""
    least = bound(times)
    could_be_hidden = times.serial - least
    return {
        "efficiency": least / times.overlapped,
        "time per batch": times.overlapped / times.batches,
        "overhead per batch": (times.overlapped - least) / times.batches,
        "hidden": (times.serial - times.overlapped) / could_be_hidden if could_be_hidden > 0 else 0.0,
        "saving": 1 - times.overlapped / times.serial,
        "saving, at most": 1 - least / times.serial,
        "stall share": times.waited / times.overlapped,
        "first batch": times.first,
    }


def slope(counts: Sequence[float], values: Sequence[float]) -> float:
    """Growth of the values for each count: the median over all pairs, which single outliers do not move.

    Raises:
        ValueError: fewer than two points.
    """
    points = list(zip(counts, values, strict=True))
    if len(points) < 2:
        raise ValueError(f"a slope needs two points, not {len(points)}")
    return statistics.median((b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(points, 2))
