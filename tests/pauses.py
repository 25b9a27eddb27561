"""A shared machine may stop a process for seconds at any moment: what such a pause spoils is tried again.

For statements that a pause can make false and never true, like a bound on wall time or the
absence of a warning. What is wrong without any pause is wrong at the first attempt::

    for attempt in attempts():
        with attempt:
            began = monotonic()
            ...
            assert monotonic() - began < 1.0
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from time import monotonic
from types import TracebackType

LOOK = 0.01
"""Seconds between two looks at the clock."""


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
        self._longest = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="test-pauses", daemon=True)
        self.held = False

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, kind: type[BaseException] | None, error: object, stack: TracebackType | None) -> bool:
        self._over.set()
        self._thread.join()
        self.held = kind is None
        return kind is not None and issubclass(kind, AssertionError) and self._longest >= self._pause

    def _look(self) -> None:
        last = monotonic()
        is_over = False
        while not is_over:
            is_over = self._over.wait(LOOK)
            last, before = monotonic(), last
            self._longest = max(self._longest, last - before)
