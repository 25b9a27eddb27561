"""Who calls a stage's function: tasks on the loop, threads of its own, or a runner's worker processes.

A crew lives as long as the pipeline is open, over all epochs. It takes cells, calls, and puts the outcome into the
cell; order, bounds and errors are for `mapped`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from time import perf_counter
from types import CoroutineType
from typing import Any, Protocol

from asyncjobs.futures import resolve
from asyncjobs.job import Job
from asyncjobs.lanes.daemon import DaemonThreads
from asyncjobs.submitter import Submitter
from asyncjobs.wire.answers import returned_awaitable

Key = tuple[int, int, int]
"""Seed, epoch and index: what an item's random numbers come from."""


class Cell:
    """One item on its way through a stage."""

    __slots__ = ("error", "index", "is_done", "is_wanted", "item", "key", "landed", "seconds", "value")

    def __init__(self, index: int, item: Any, key: Key | None, landed: Callable[[Cell], None]) -> None:
        self.index: int = index
        self.item: Any = item
        self.key: Key | None = key
        """Only for a function that takes `rng`."""
        self.landed: Callable[[Cell], None] = landed
        """Called in any thread once it is done."""
        self.is_wanted: bool = True
        """False: it was dropped before a thread came to it."""
        self.is_done: bool = False
        self.value: Any = None
        self.error: BaseException | None = None
        self.seconds: float = 0.0
        """How long the call took."""

    def done(self) -> None:
        """The outcome is there."""
        self.is_done = True
        self.landed(self)


class Crew(Protocol):
    """Calls one function on items."""

    async def hand(self, cell: Cell) -> None:
        """Have it called on the cell's item; waits only where a runner's queue is full."""

    def drop(self, cell: Cell) -> None:
        """Nobody waits for it any more: do not call, or stop."""

    def dismiss(self) -> list[asyncio.Future[None]]:
        """Call nothing more; futures of the calls that still run."""

    def hang_up(self) -> None:
        """Call nothing more; from any thread, and when the loop is closed."""


def seeded(fn: Callable[..., Any], item: Any, key: Key) -> Any:
    """``fn(item, rng=...)``, with random numbers that depend on the key alone."""
    import numpy as np

    return fn(item, rng=np.random.default_rng(key))


class LoopCrew:
    """Awaits a coroutine function on the loop, `size` calls at once."""

    def __init__(self, fn: Callable[..., Any], size: int) -> None:
        self._fn = fn
        self._size = size
        self._waiting: deque[Cell] = deque()
        self._tasks: dict[Cell, asyncio.Task[None]] = {}

    async def hand(self, cell: Cell) -> None:
        """Never waits."""
        self._waiting.append(cell)
        self._start()

    def _start(self) -> None:
        while self._waiting and len(self._tasks) < self._size:
            cell = self._waiting.popleft()
            task = self._tasks[cell] = asyncio.get_running_loop().create_task(self._call(cell))
            task.add_done_callback(partial(self._ended, cell))

    async def _call(self, cell: Cell) -> None:
        began = perf_counter()
        try:
            cell.value = await (self._fn(cell.item) if cell.key is None else seeded(self._fn, cell.item, cell.key))
        # Everything, a cancellation that it brought upon itself too: whoever waits for it has to hear of it.
        except BaseException as error:
            cell.error = error
        cell.seconds = perf_counter() - began

    def _ended(self, cell: Cell, task: asyncio.Task[None]) -> None:
        del self._tasks[cell]
        if task.cancelled():  # before its first step
            cell.error = asyncio.CancelledError()
        cell.done()
        self._start()

    def drop(self, cell: Cell) -> None:
        """Cancel it."""
        if cell in self._tasks:
            self._tasks[cell].cancel()
        elif cell in self._waiting:
            self._waiting.remove(cell)

    def dismiss(self) -> list[asyncio.Future[None]]:
        """Cancel the calls."""
        self._waiting.clear()
        for task in self._tasks.values():
            task.cancel()
        return list(self._tasks.values())

    def hang_up(self) -> None:
        """The loop ends its tasks itself."""


class ThreadCrew:
    """Resident threads that call a plain function."""

    def __init__(self, fn: Callable[..., Any], name: str, size: int, threads: DaemonThreads) -> None:
        self._fn = fn
        self._name = name
        self._cells: SimpleQueue[Cell | None] = SimpleQueue()
        self._ends = [threads.submit(self._serve) for _ in range(size)]

    async def hand(self, cell: Cell) -> None:
        """Never waits."""
        self._cells.put(cell)

    def _serve(self) -> None:
        while (cell := self._cells.get()) is not None:
            if cell.is_wanted:
                self._call(cell)
            cell.done()
            del cell  # not kept alive while we wait for the next

    def _call(self, cell: Cell) -> None:
        began = perf_counter()
        try:
            cell.value = self._fn(cell.item) if cell.key is None else seeded(self._fn, cell.item, cell.key)
        # Everything: an exception must not end the thread.
        except BaseException as error:
            cell.error = error
        cell.seconds = perf_counter() - began
        if type(cell.value) is CoroutineType:
            cell.error = returned_awaitable(self._name, cell.value)

    def drop(self, cell: Cell) -> None:
        """A call that runs cannot be stopped."""
        cell.is_wanted = False

    def dismiss(self) -> list[asyncio.Future[None]]:
        """Let the threads end after what they run."""
        self.hang_up()
        return list(self._ends)

    def hang_up(self) -> None:
        """The same."""
        for _ in self._ends:
            self._cells.put(None)


class JobCrew:
    """A lane of a runner; each call is a job."""

    def __init__(self, fn: Callable[..., Any], jobs: Submitter) -> None:
        self._fn = fn
        self._submit = jobs.submit
        self._running: dict[Cell, Job[Any]] = {}

    async def hand(self, cell: Cell) -> None:
        """Waits while the lane's queue is full."""
        try:
            if cell.key is None:
                job = await self._submit(self._fn, cell.item)
            else:
                job = await self._submit(seeded, self._fn, cell.item, cell.key)
        # It cannot be sent, for whatever reason its pickling gives, or the runner is closed.
        except BaseException as error:
            cell.error = error
            cell.done()
            if isinstance(error, asyncio.CancelledError):
                raise
            return
        self._running[cell] = job
        job.add_done_callback(lambda job: self._ended(cell, job))

    def _ended(self, cell: Cell, job: Job[Any]) -> None:
        del self._running[cell]
        cell.error, cell.seconds = job.exception(), job._call.seconds
        if cell.error is None:
            cell.value = job.result()
        cell.done()

    def drop(self, cell: Cell) -> None:
        """Cancel the job."""
        if cell in self._running:
            self._running[cell].cancel("the pipeline ended", grace=0)

    def dismiss(self) -> list[asyncio.Future[None]]:
        """Cancel the jobs."""
        for cell in tuple(self._running):
            self.drop(cell)
        return [_end_of(job) for job in self._running.values()]

    def hang_up(self) -> None:
        """The runner ends its jobs itself."""


def _end_of(job: Job[Any]) -> asyncio.Future[None]:
    end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    job.add_done_callback(lambda _: resolve(end))
    return end
