"""How much the benchmark of flow does: the full measure, and one that takes less than a minute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is done."""

    rounds: int
    few_rounds: int
    """Of what has no goal."""
    tries_settings: bool
    """Whether the DataLoader's best settings are looked for."""
    ratios: Sequence[float]
    """Preparing over training."""
    batches: int
    """Of 1 MiB in an epoch, prepared beside training."""
    waits: int
    """Items that wait 20 ms."""
    waiters: int
    """Threads, or the DataLoader's processes, that wait at once."""
    queued: int
    """Tiny items through one queue."""
    tiny: int
    """Items through a stage that does nothing."""
    full: int
    """Batches of 1 MiB through a process stage."""
    many: int
    """Items while memory is watched."""
    many_batches: int
    """The same of 1 MiB."""


FULL = Scale(
    rounds=5,
    few_rounds=2,
    tries_settings=True,
    ratios=(0.25, 0.58, 1.0, 2.0),
    batches=40,
    waits=2_000,
    waiters=64,
    queued=20_000,
    tiny=10_000,
    full=300,
    many=2_000_000,
    many_batches=4_000,
)
QUICK = Scale(
    rounds=1,
    few_rounds=1,
    tries_settings=False,
    ratios=(0.58,),
    batches=10,
    waits=200,
    waiters=8,
    queued=2_000,
    tiny=1_000,
    full=60,
    many=100_000,
    many_batches=400,
)
