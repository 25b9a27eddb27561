"""How much the benchmark of jobs does: the full measure, and one that takes less than a minute."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is done; durations in seconds."""

    rounds: int
    jobs: int
    """Single jobs at once, each round."""
    items: int
    """Items of a map, each round."""
    calls: int
    """Idle calls one after the other, each round."""
    passed: int
    """Items through map while the memory is watched."""
    queued: int
    imports: int
    """Fresh interpreters for each import statement."""
    idle: float
    settle: float
    """Between starting workers and the clock."""


FULL = Scale(
    rounds=7,
    jobs=10_000,
    items=400_000,
    calls=1_000,
    passed=1_000_000,
    queued=1_000_000,
    imports=21,
    idle=5.0,
    settle=0.3,
)
QUICK = Scale(
    rounds=3, jobs=1_500, items=30_000, calls=150, passed=100_000, queued=50_000, imports=5, idle=2.0, settle=0.1
)
