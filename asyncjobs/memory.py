"""How much shared memory one runner may use, and how much it does.

One budget for all arenas of all its workers: asked before memory is taken, for a memory
file beyond what the machine has is no error but the out-of-memory killer.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from asyncjobs.errors import ArenaFull
from asyncjobs.processors import ControlGroups, read

SHARE = 0.5
"""Of the memory that is free when the runner opens, where no cap is given."""


class Memory:
    """A budget in bytes. All calls on the runner's loop."""

    def __init__(self, cap: int | None = None) -> None:
        self.cap: int = cap if cap is not None else int(SHARE * free_memory())
        self.used: int = 0
        self.room_makers: list[Callable[[], None]] = []
        """Called before a request is refused: whoever can give unused memory back."""

    def allow(self, nbytes: int) -> bool:
        """Take `nbytes` from the budget, if they are there."""
        for make_room in self.room_makers if self.used + nbytes > self.cap else ():
            make_room()
        if self.used + nbytes > self.cap:
            return False
        self.used += nbytes
        return True

    def gave_up(self, nbytes: int) -> None:
        """Put them back."""
        self.used -= nbytes

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


def free_memory() -> int:
    """Bytes that are free now, on this machine and in this container."""
    lines = (read("/proc/meminfo") or "").splitlines()
    available = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)
    if available is None:
        available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    groups = ControlGroups()
    limit = groups.memory_limit()
    return available if limit is None else max(0, min(available, limit - (groups.memory_used() or 0)))
