"""The service's clock: what the wall clock said when it started, carried on by a clock that nobody can set.

Nothing that waits is hurt when the wall clock jumps; the time that a machine sleeps counts. Only the next start
reads the wall again.
"""

from __future__ import annotations

import time
from collections.abc import Callable


def uptime() -> float:
    """Seconds that only ever grow, those of a sleeping machine included where the system counts them."""
    return time.clock_gettime(_CLOCK)


# Linux counts sleep in BOOTTIME, macOS in MONOTONIC_RAW.
_CLOCK: int = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC_RAW", time.CLOCK_MONOTONIC))


_UNNOTICED = 0.5
"""Seconds that the wall clock may be off before an instant is converted: it is corrected a little all the time."""


class SteadyClock:
    """Call it for the seconds since 1970.

    Args:
        wall: read once now, and by `from_wall`.
        ticks: seconds that never jump.
    """

    def __init__(self, wall: Callable[[], float] = time.time, ticks: Callable[[], float] = uptime) -> None:
        self._wall = wall
        self._ticks = ticks
        self._offset = wall() - ticks()

    def __call__(self) -> float:
        return self._ticks() + self._offset

    def from_wall(self, instant: float) -> float:
        """What this clock shows when as much time has passed as the wall clock now lacks to `instant`."""
        jump = self() - self._wall()
        return instant if abs(jump) < _UNNOTICED else instant + jump
