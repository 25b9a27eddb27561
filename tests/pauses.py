"""A shared machine may stop a process for seconds at any moment: such a pause is not counted, or tried again.

`PauseClock`, which the fixture `clock` gives, is for bounds on wall time. `attempts` is for statements that a pause can
make false and never true, like the absence of a warning; what is wrong without any pause fails at once::

    for attempt in attempts():
        with attempt:
            ...
            assert warnings == []
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from time import monotonic
from types import TracebackType

LOOK = 0.01
"""Seconds between two looks at the real clock."""
MOST = 0.05
"""Seconds that the time between two looks counts at most: what is beyond, this process did not run."""


class PauseClock:
    """Seconds that went by while this process ran, and the process `pid`, if there is one, was not stopped."""

    def __init__(self, pid: int | None = None) -> None:
        self._pid = pid
        self._seconds = 0.0
        self._longest = 0.0
        self._last = monotonic()
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="test-clock", daemon=True)
        self._thread.start()

    def __call__(self) -> float:
        """The seconds until now."""
        with self._lock:
            last, self._last = self._last, monotonic()
            passed = self._last - last
            self._longest = max(self._longest, passed)
            self._seconds += 0.0 if self._is_stopped() else min(passed, MOST)
            return self._seconds

    @property
    def pause(self) -> float:
        """Seconds between the two looks that were farthest from each other."""
        return self._longest

    def close(self) -> None:
        """End its thread, with a last look."""
        self._over.set()
        self._thread.join()
        self()

    def _run(self) -> None:
        while not self._over.wait(LOOK):
            self()

    def _is_stopped(self) -> bool:
        if self._pid is None:
            return False
        try:
            with open(f"/proc/{self._pid}/stat", encoding="utf-8", errors="replace") as file:
                return file.read().rpartition(")")[2].split()[0] == "T"
        except OSError:
            return False


def attempts(most: int = 8, *, pause: float = 0.1) -> Iterator[Attempt]:
    """Until one attempt holds, or fails although this process ran on; the last one counts in any case.

    `pause` is for how many seconds it must have stood still for a failure to be excused; 0 excuses every failure, for
    what other processes take part in: then it is the best of `most`.
    """
    for n in range(most):
        attempt = Attempt(pause if n + 1 < most else float("inf"))
        yield attempt
        if attempt.held:
            return


class Attempt:
    """Its block's ``AssertionError`` is dropped if the process has stood still for `pause` seconds meanwhile."""

    def __init__(self, pause: float) -> None:
        self._pause = pause
        self.held = False

    def __enter__(self) -> None:
        self._clock = PauseClock()

    def __exit__(self, kind: type[BaseException] | None, error: object, stack: TracebackType | None) -> bool:
        self._clock.close()
        self.held = kind is None
        return kind is not None and issubclass(kind, AssertionError) and self._clock.pause >= self._pause
