"""Event loops for tests: virtual time, and a seeded order of what is ready.

Waits take no time: when nothing is ready, `VirtualClockLoop` jumps to its next timer.
`ShuffledLoop` also runs what is ready in an order drawn from its seed. The runner's waits
are the loop's timers, so they are virtual too; its time stamps are `time.monotonic`, real.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from asyncio import Handle
from collections import deque
from typing import Any

START = 100_000.0
"""Where virtual time begins, in seconds: far from any real clock, so that mixing two fails at once."""


class _SkippingSelector(selectors.DefaultSelector):
    """Looks for what is ready, and instead of waiting until a timer is due moves the clock there."""

    def __init__(self) -> None:
        super().__init__()
        self.now = START

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:  # no timer: only another thread or a socket can bring news, in real time
            return super().select(None)
        ready = super().select(0)
        if not ready:
            self.now += max(0.0, timeout)
        return ready


class VirtualClockLoop(asyncio.SelectorEventLoop):
    """A loop on which an hour of sleeping takes no time.

    Not for work in threads or processes that is to end before a timer: the clock does not
    wait for them.

    Example::

        with asyncio.Runner(loop_factory=VirtualClockLoop) as loops:
            loops.run(asyncio.sleep(3600))      # at once
    """

    def __init__(self) -> None:
        self._skipping = _SkippingSelector()
        super().__init__(self._skipping)

    def time(self) -> float:
        """Virtual seconds; they pass only while nothing is ready."""
        return self._skipping.now

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Wait for the threads without a limit: virtual seconds would be over before they end."""
        await super().shutdown_default_executor()


class ShuffledLoop(VirtualClockLoop):
    """Virtual time, and what is ready runs in an order drawn from `seed`.

    The same seed gives the same order. asyncio's own sockets rely on first in, first out:
    for loop lanes and fakes only.

    Example::

        with asyncio.Runner(loop_factory=lambda: ShuffledLoop(seed)) as loops:
            loops.run(race())
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self._ready = _Shuffled(seed)

    def __repr__(self) -> str:
        return f"<ShuffledLoop seed={self.seed}>"


class _Shuffled(deque[Handle]):
    """The loop's line of what is ready, taken from anywhere instead of from the front."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._random = random.Random(seed)

    def popleft(self) -> Any:
        place = self._random.randrange(len(self))
        self[0], self[place] = self[place], self[0]
        return super().popleft()
