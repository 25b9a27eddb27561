"""What stages wait with: `Bell` wakes a coroutine from any thread, `Window` says how much a buffer may hold.

`background` is for the tasks that wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from time import perf_counter
from typing import Any

from asyncjobs.futures import call_soon, resolve

MOST = 64
"""Items that a buffer holds at most if they pass in no time."""
PERIOD = 0.001
"""Seconds over which that is measured."""


_tasks: set[asyncio.Task[None]] = set()


def background(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """A task on this loop that lives until it ends.

    A loop holds its tasks weakly: one that waits for what is garbage itself would be destroyed, before whoever is to
    close the pipeline comes to it.
    """
    task = asyncio.get_running_loop().create_task(work)
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
    return task


class Bell:
    """Wakes the one coroutine that waits; rung often in between, it wakes once."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._is_rung = False
        self._waiter: asyncio.Future[None] | None = None

    def ring(self) -> None:
        """From any thread, after the news is where the waiter looks for it."""
        # 1. a thread adds news, 2. sees that the bell is rung, 3. and goes on. The loop has yet to call `wake`, which
        # clears the mark before the waiter looks: so it finds the news.
        if not self._is_rung:
            self._is_rung = True
            call_soon(self._loop, self.wake)

    def wake(self) -> None:
        """The same, on the loop."""
        self._is_rung = False
        if self._waiter is not None:
            resolve(self._waiter)

    async def wait(self) -> None:
        """Until it is rung the next time. Look for news first: on the loop, none is missed in between."""
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None


class Window:
    """How many items a buffer may hold: `least`, or as many as pass in a millisecond, but not above `most`.

    What costs a few microseconds is not worth a change of threads for each; what takes longer is never held in
    larger numbers than asked for.
    """

    def __init__(self, least: int, most: int = MOST) -> None:
        self.size: int = least
        self._least = least
        self._most = most
        self._count = 0
        self._since = perf_counter()

    def passed(self, count: int) -> None:
        """So many have left the buffer."""
        self._count += count
        elapsed = perf_counter() - self._since
        if elapsed >= PERIOD:
            self.size = max(self._least, min(self._most, int(self._count * PERIOD / elapsed)))
            self._count = 0
            self._since += elapsed
