"""How much shared memory one runner may use, and how much it does.

One budget for all arenas of all its workers: asked before memory is taken, for a memory
file beyond what the machine has is no error but the out-of-memory killer.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from asyncjobs.errors import ArenaFull
from asyncjobs.processors import ControlGroups, read

SHARE = 0.5
"""Of the memory that is free when the runner opens, where no cap is given."""


class Tally(NamedTuple):
    """What the arenas of one worker hold, and have done."""

    segments: int = 0
    in_use: int = 0
    recycled: int = 0
    retired: int = 0
    inlined: int = 0

    def plus(self, other: Tally) -> Tally:
        """The sum of both."""
        return Tally(*map(sum, zip(self, other, strict=True)))


class MemoryStats(NamedTuple):
    """A runner's shared memory at one moment; sizes in bytes, counts since it opened."""

    cap: int = 0
    """`arena_bytes`: more is never used."""
    nbytes: int = 0
    """In use or kept for the next job. Near `cap`: jobs wait for room."""
    in_use: int = 0
    """Of arguments that jobs hold and results that the program holds."""
    segments: int = 0
    """Ranges of memory that there are, free ones included."""
    recycled: int = 0
    """How often data went into a range that had its memory already. Far below the jobs: sizes vary much."""
    retired: int = 0
    """How often a free range's memory was given back to the system."""
    inlined: int = 0
    """How often there was no room, and data went through a socket instead. Above 0: raise `arena_bytes`."""
    shared: int = 0
    """Handles of shared objects that are open."""
    shared_nbytes: int = 0
    """What shared objects take."""


class Memory:
    """A budget in bytes. All calls on the runner's loop."""

    def __init__(self, cap: int | None = None) -> None:
        self.cap: int = cap if cap is not None else int(SHARE * free_memory())
        self.used: int = 0
        self.room_makers: list[Callable[[], None]] = []
        """Called before a request is refused: whoever can give unused memory back."""
        self.waiting: list[Callable[[], None]] = []
        """Called when memory may have come free: lanes whose next call waits for some."""
        self.shared_nbytes: int = 0
        """What shared objects take."""
        self.tallies: set[Callable[[], Tally]] = set()
        """Of the workers that there are."""
        self.past: Tally = Tally()
        """Of those that are gone."""

    def allow(self, nbytes: int, *, soon: bool = False) -> bool:
        """Take `nbytes` from the budget, if they are there; or if they will be `soon`, for workers
        have been asked to give back what they keep for their next jobs."""
        for make_room in self.room_makers if self.used + nbytes > self.cap else ():
            make_room()
        needed = self.shared_nbytes + sum(tally().in_use for tally in self.tallies) if soon else self.used
        if needed + nbytes > self.cap:
            return False
        self.used += nbytes
        return True

    def gave_up(self, nbytes: int) -> None:
        """Put them back."""
        self.used -= nbytes

    def room_came(self) -> None:
        """Memory may have come free, in any lane."""
        waiting, self.waiting = self.waiting, []
        for look in waiting:
            look()

    def stats(self, shared: int, shared_nbytes: int) -> MemoryStats:
        """The figures of this moment."""
        whole = self.past
        for tally in self.tallies:
            whole = whole.plus(tally())
        segments, in_use, recycled, retired, inlined = whole
        return MemoryStats(self.cap, self.used, in_use, segments, recycled, retired, inlined, shared, shared_nbytes)

    def check(self, what: str, nbytes: int) -> None:
        """Raise if `nbytes` can never fit.

        Raises:
            ArenaFull: with need, used and cap.
        """
        if nbytes > self.cap:
            raise arena_full(what, nbytes, self.used, self.cap)


def arena_full(what: str, need: int, used: int, cap: int) -> ArenaFull:
    """The error for large data that can never fit."""
    error = ArenaFull(f"{what} need {need} bytes of shared memory; {used} are in use, arena_bytes allows {cap}")
    error.need, error.used, error.cap = need, used, cap
    return error


def available_memory() -> int | None:
    """Bytes that this machine could still give out; None if it does not say."""
    lines = (read("/proc/meminfo") or "").splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def free_memory() -> int:
    """Bytes that are free now, on this machine and in this container."""
    available = available_memory()
    if available is None:
        available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    groups = ControlGroups()
    limit = groups.memory_limit()
    return available if limit is None else max(0, min(available, limit - (groups.memory_used() or 0)))
