"""Order tasks and threads in a test, without sleeping: `Gate`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from types import TracebackType

from asyncjobs.futures import resolve


class Gate:
    """A door between a test and the work that it watches.

    The work calls `pass_through()` (in a thread) or ``await passed()`` (in a coroutine):
    it arrives, and waits there until somebody calls `open`. The test waits for the arrival
    with `wait_for_arrival` or ``await arrival()``. Every method may be called from any
    thread; leaving a ``with`` block opens the gate, so that a failing test strands nothing.

    Example::

        with Gate() as gate:
            job = await runner.submit(gate.pass_through)
            await gate.arrival()        # now it runs, for sure
            job.cancel()
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._arrivals = 0
        self._is_open = False
        self._woken: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    @property
    def arrivals(self) -> int:
        """How many have come so far."""
        return self._arrivals

    @property
    def is_open(self) -> bool:
        """Whether whoever comes goes straight through."""
        return self._is_open

    def open(self) -> None:
        """Let everybody through, now and later."""
        with self._changed:
            self._is_open = True
            self._tell()

    def pass_through(self, timeout: float = 30.0) -> None:
        """In a thread: arrive, and wait until the gate is open.

        Raises:
            TimeoutError: nobody opened it in `timeout` seconds.
        """
        with self._changed:
            self._arrivals += 1
            self._tell()
            if not self._changed.wait_for(lambda: self._is_open, timeout):
                raise TimeoutError(f"the gate stayed shut for {timeout:g} s")

    async def passed(self) -> None:
        """In a coroutine: arrive, and wait until the gate is open."""
        with self._changed:
            self._arrivals += 1
            self._tell()
        while not self._is_open:
            await self._change(lambda: self._is_open)

    def wait_for_arrival(self, count: int = 1, timeout: float = 30.0) -> None:
        """In a thread: wait until `count` have arrived.

        Raises:
            TimeoutError: they did not in `timeout` seconds.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._arrivals >= count, timeout):
                raise TimeoutError(f"{self._arrivals} of {count} arrived at the gate in {timeout:g} s")

    async def arrival(self, count: int = 1) -> None:
        """In a coroutine: wait until `count` have arrived."""
        while self._arrivals < count:
            await self._change(lambda: self._arrivals >= count)

    async def _change(self, holds: Callable[[], bool]) -> None:
        loop = asyncio.get_running_loop()
        woken = loop.create_future()
        with self._changed:
            # Looked at once more under the lock: what came before it tells nobody.
            if holds():
                return
            self._woken.append((loop, woken))
        await woken

    def _tell(self) -> None:
        self._changed.notify_all()
        woken, self._woken = self._woken, []
        for loop, future in woken:
            loop.call_soon_threadsafe(resolve, future)

    def __enter__(self) -> Gate:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.open()
