"""How much the benchmark of the service does: the full measure, and one that takes a minute."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is done."""

    rounds: int
    tries_settings: bool
    """Whether the peers' best settings are looked for."""
    jobs: int
    """Tiny jobs of ours in batches."""
    their_jobs: int
    """Of a peer's, which take as long."""
    batch: int
    single: int
    """Jobs one by one, each accepted before the next."""
    starts: int
    """Jobs whose way to the start is timed."""
    load: float
    """Seconds of requests over several connections."""
    queued: int
    """Jobs that wait while memory is watched."""
    idle: float
    """Seconds."""


FULL = Scale(
    rounds=5,
    tries_settings=True,
    jobs=20_000,
    their_jobs=1_000,
    batch=500,
    single=1_000,
    starts=100,
    load=5.0,
    queued=1_000_000,
    idle=5.0,
)
QUICK = Scale(
    rounds=1,
    tries_settings=False,
    jobs=4_000,
    their_jobs=300,
    batch=500,
    single=200,
    starts=20,
    load=2.0,
    queued=50_000,
    idle=5.0,
)
