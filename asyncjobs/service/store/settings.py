"""What a store is opened with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from asyncjobs.service.clock import SteadyClock
from asyncjobs.state import JobState

DAY = 86_400.0

KEEP: Mapping[JobState, float] = MappingProxyType(
    {
        JobState.SUCCEEDED: 7 * DAY,
        JobState.CANCELLED: 7 * DAY,
        JobState.FAILED: 30 * DAY,
        JobState.TIMED_OUT: 30 * DAY,
        JobState.LOST: 30 * DAY,
    }
)
"""Seconds that a job is kept after its end, per final state."""


def as_it_is(old: str, new: str, payload: bytes) -> bytes:
    """The `reseal` of a store whose payloads are not sealed."""
    return payload


def says_nothing(job: str, name: str, attempts: int) -> tuple[str, bytes]:
    """The `too_late` of a store whose outcomes are not sealed."""
    return "its deadline passed", b""


class Room(Protocol):
    """Disk space kept back for what has to be written (`ballast`)."""

    def release(self) -> bool:
        """Give it free; False: it is gone already. Runs on the store's thread."""

    def restore(self) -> bool:
        """Keep it back again; False: there is no space for it. Runs on the store's thread."""


@dataclass(frozen=True)
class StoreSettings:
    """Where and how a store keeps its jobs."""

    path: Path
    queue_limit: int = 1_000_000
    """So many QUEUED and WAITING jobs; beyond that `ServiceFull`."""
    keep: Mapping[JobState, float] = field(default_factory=lambda: KEEP)
    results: Path | None = None
    """Folder for large outcomes; None: all lie in the database."""
    ballast: Room | None = None
    clock: Callable[[], float] = field(default_factory=SteadyClock)
    """Seconds since 1970 that do not jump."""
    reseal: Callable[[str, str, bytes], bytes] = as_it_is
    """``(old id, new id, payload)`` -> the payload sealed for the new id, for replays and schedules. Runs on the
    store's thread."""
    too_late: Callable[[str, str, int], tuple[str, bytes]] = says_nothing
    """``(id, name, attempts so far)`` -> note and sealed outcome of a job that waited beyond its deadline. Runs on the
    store's thread."""
