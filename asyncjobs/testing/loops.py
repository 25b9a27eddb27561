"""Event loops for tests: virtual time, and a seeded order of what is ready.

Waits take no time: when nothing is ready, `VirtualClockLoop` jumps to its next timer.
`ShuffledLoop` also runs what is ready in an order drawn from its seed, `ChargedLoop` lets computing
take its time. The runner's waits are the loop's timers, so they are virtual too; its time stamps
are `time.monotonic`, real.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from asyncio import Handle
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from time import thread_time
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
        self._skipping: _SkippingSelector = _SkippingSelector()
        super().__init__(self._skipping)

    def time(self) -> float:
        """Virtual seconds; they pass only while nothing is ready."""
        return self._skipping.now

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Wait for the threads without a limit: virtual seconds would be over before they end."""
        await super().shutdown_default_executor()


class _ChargingSelector(_SkippingSelector):
    """As above, but what its thread computes takes as long as the processor was busy with it."""

    def __init__(self) -> None:
        super().__init__()
        self._since = thread_time()

    def charge(self) -> None:
        """Let the time pass that was computed since the last look."""
        now = thread_time()
        self.now += now - self._since
        self._since = now

    def forgive(self) -> None:
        """What was computed since the last look took no time."""
        self._since = thread_time()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        before = self.now
        self.charge()
        return super().select(None if timeout is None else timeout - (self.now - before))


class ChargedLoop(VirtualClockLoop):
    """Waits take no time, and computing takes its processor time: how a program would do whose loop has all of one
    processor, while everything that it waits for is only played.

    For simulations: a cluster of thousands, in seconds. The time of other threads does not count.

    Example::

        with asyncio.Runner(loop_factory=ChargedLoop) as loops:
            loops.run(play())
    """

    def __init__(self) -> None:
        self._charging = _ChargingSelector()
        asyncio.SelectorEventLoop.__init__(self, self._charging)

    def time(self) -> float:
        """Virtual seconds, as of the beginning of this turn of the loop."""
        return self._charging.now

    def spend(self, seconds: float) -> None:
        """Let time pass as if so much had been computed."""
        self._charging.now += seconds

    @contextmanager
    def free_of_charge(self) -> Iterator[None]:
        """What is computed within it is somebody else's work, and takes no time here."""
        self._charging.charge()
        try:
            yield
        finally:
            self._charging.forgive()


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
