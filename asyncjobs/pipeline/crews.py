"""Who calls a stage's function: tasks on the loop or threads of its own; `jobcrew` has the lanes of a runner.

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

from asyncjobs.lanes.daemon import DaemonThreads
from asyncjobs.pipeline.steps import Key
from asyncjobs.wire.answers import returned_awaitable

GRACE = 0.2
"""Seconds that a call gets to end of which nobody wants the result; then its process is ended, if it has one."""


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

    @property
    def room(self) -> int:
        """Items in hand that keep it busy: twice as many as it calls at once, or more of those that take no time."""
        ...

    def hand(self, cell: Cell) -> None:
        """Have it called on the cell's item, with the cell's key if it has one."""

    def drop(self, cell: Cell) -> None:
        """Nobody waits for it any more: do not call, or stop."""

    def dismiss(self) -> list[asyncio.Future[None]]:
        """Call nothing more; futures of the calls that still run."""

    def hang_up(self) -> None:
        """Call nothing more; from any thread, and when the loop is closed."""


class LoopCrew:
    """Awaits a coroutine function on the loop, `size` calls at once."""

    def __init__(self, fn: Callable[..., Any], size: int) -> None:
        self._fn = fn
        self._size = size
        self.room: int = 2 * size
        self._waiting: deque[Cell] = deque()
        self._tasks: dict[Cell, asyncio.Task[None]] = {}

    def hand(self, cell: Cell) -> None:
        """At once, if a place is free."""
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
            cell.value = await (self._fn(cell.item) if cell.key is None else self._fn(cell.item, cell.key))
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
        self.room: int = 2 * size
        self._cells: SimpleQueue[Cell | None] = SimpleQueue()
        self._ends = [threads.submit(self._serve) for _ in range(size)]

    def hand(self, cell: Cell) -> None:
        """To whichever thread is free first."""
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
            cell.value = self._fn(cell.item) if cell.key is None else self._fn(cell.item, cell.key)
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
