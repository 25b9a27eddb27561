"""Decide how many jobs of a lane may be claimed at once: those that run, and a few that are next.

Pure. A claim takes some milliseconds, which only short jobs have to make up for; what is claimed cannot be
overtaken by what is more urgent, so long jobs are claimed one by one.
"""

from __future__ import annotations

AHEAD_SECONDS = 0.03
"""So much work may lie ready for each worker: the time of a claim, and of the commit before it."""
MOST_AHEAD = 128
"""Jobs for each worker, at most: what a worker's window holds."""
SHORT = 1.0
"""Seconds: for shorter jobs there is always one ready."""
WEIGHT = 0.1
"""Of each job in the moving average."""
FIRST_HOLD, LONGEST_HOLD = 1.0, 60.0
"""Seconds in which nothing is claimed after no worker could be started; doubled each time."""


class Window:
    """The bound for one lane."""

    def __init__(self) -> None:
        self.pace: float | None = None
        """Moving average of the run time, in seconds."""
        self.claimed: int = 0
        """How many are claimed, or are being claimed."""
        self.held_until: float = 0.0
        """When it is tried again whether there are workers."""
        self._hold = FIRST_HOLD
        self._is_stalled = False

    def hold(self, now: float) -> bool:
        """No worker could be started: nothing is claimed for a while. False: that is known, several fail at once."""
        if now < self.held_until:
            return False
        self.held_until, self._hold = now + self._hold, min(2 * self._hold, LONGEST_HOLD)
        return True

    def stalled(self) -> None:
        """Some of those ahead went back, for the workers are at long ones: none ahead until one of these ends."""
        self._is_stalled = True

    def measured(self, seconds: float) -> None:
        """A job ran for so long: there are workers, and the next hold is a short one."""
        self._hold = FIRST_HOLD
        self._is_stalled = False
        self.pace = seconds if self.pace is None else self.pace + WEIGHT * (seconds - self.pace)

    def room(self, workers: int, now: float) -> int:
        """How many more may be claimed."""
        return 0 if now < self.held_until else max(0, workers * (1 + self._ahead()) - self.claimed)

    def _ahead(self) -> int:
        if self.pace is None or self._is_stalled:
            return 0
        return min(MOST_AHEAD, max(int(self.pace < SHORT), int(AHEAD_SECONDS / max(self.pace, 1e-6))))
