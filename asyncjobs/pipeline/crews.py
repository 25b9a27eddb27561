"""Who calls a stage's function: tasks on the loop or threads of its own; `jobcrew` has the lanes of a runner.

A crew lives as long as the pipeline is open, over all epochs. It takes cells, calls, and puts the outcome into the
cell; order, bounds and errors are for `mapped`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from queue import SimpleQueue
from threading import get_ident
from time import perf_counter, thread_time
from types import CoroutineType
from typing import Any, NamedTuple, Protocol

from asyncjobs.errors import JobTimeout
from asyncjobs.lanes.daemon import DaemonThreads
from asyncjobs.pipeline.account import LOOK
from asyncjobs.pipeline.stacks import stack_of_task, stack_of_thread
from asyncjobs.pipeline.steps import Key, Verdict
from asyncjobs.wire.answers import returned_awaitable

GRACE = 0.2
"""Seconds that a call gets to end of which nobody wants the result; then its process is ended, if it has one."""


class Cell:
    """One item on its way through a stage."""

    __slots__ = (
        "began_at",
        "ended_at",
        "error",
        "index",
        "is_done",
        "is_wanted",
        "item",
        "key",
        "landed",
        "seconds",
        "taken_at",
        "value",
    )

    def __init__(
        self, index: int, item: Any, key: Key | None, landed: Callable[[Cell], None], taken_at: float = 0.0
    ) -> None:
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
        self.taken_at: float = taken_at
        """Since when it is in hand, an instant of `perf_counter`."""
        self.began_at: float = 0.0
        """When its call began; 0: it has not, or only a worker process knows."""
        self.ended_at: float = 0.0

    def done(self) -> None:
        """The outcome is there."""
        self.ended_at = perf_counter()
        if self.error is None and type(self.value) is not Verdict:
            self.item = None  # nobody looks at it any more, and it may be large
        self.is_done = True
        self.landed(self)


class Ongoing(NamedTuple):
    """A call that runs now."""

    cell: Cell
    began_at: float
    stack: Callable[[], str]
    """Where it is; may wait a moment for a worker process to tell."""


class Crew(Protocol):
    """Calls one function on items."""

    @property
    def room(self) -> int:
        """Items in hand that keep it busy: twice as many as it calls at once, or more of those that take no time."""
        ...

    @property
    def is_complete(self) -> bool:
        """Whether as many calls as it may make at once could run now."""
        ...

    def resize(self, size: int) -> None:
        """Call so many at once from now on; what runs is not disturbed."""

    def hand(self, cell: Cell) -> None:
        """Have it called on the cell's item, with the cell's key if it has one."""

    def drop(self, cell: Cell) -> None:
        """Nobody waits for it any more: do not call, or stop."""

    def dismiss(self) -> list[asyncio.Future[None]]:
        """Call nothing more; futures of the calls that still run."""

    def hang_up(self) -> None:
        """Call nothing more; from any thread, and when the loop is closed."""

    def calls(self) -> list[Ongoing]:
        """Those that run now; from any thread."""


class LoopCrew:
    """Awaits a coroutine function on the loop, `size` calls at once."""

    is_complete = True

    def __init__(self, fn: Callable[..., Any], name: str, size: int, timeout: float | None) -> None:
        self._fn = fn
        self._name = name
        self._timeout = timeout
        self._size = size
        self.room: int = 2 * size
        self._waiting: deque[Cell] = deque()
        self._tasks: dict[Cell, asyncio.Task[None]] = {}
        self._thread = get_ident()

    def resize(self, size: int) -> None:
        """At once."""
        self._size = size
        self.room = 2 * size
        self._start()

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
        began = cell.began_at = perf_counter()
        try:
            call = self._fn(cell.item) if cell.key is None else self._fn(cell.item, cell.key)
            cell.value = await (call if self._timeout is None else self._in_time(call, self._timeout))
        # Everything, a cancellation that it brought upon itself too: whoever waits for it has to hear of it.
        except BaseException as error:
            cell.error = error
        cell.seconds = perf_counter() - began

    async def _in_time(self, call: Awaitable[Any], seconds: float) -> Any:
        try:
            async with asyncio.timeout(seconds) as limit:
                return await call
        except TimeoutError as error:
            if not limit.expired():
                raise  # one of its own
            problem = JobTimeout(f"{self._name} ran longer than its timeout of {seconds:g} s")
            problem.seconds = seconds
            raise problem from error

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

    def calls(self) -> list[Ongoing]:
        """The tasks that have begun."""
        tasks = [(cell, task) for cell, task in tuple(self._tasks.items()) if cell.began_at]
        return [Ongoing(cell, cell.began_at, partial(stack_of_task, task, self._thread)) for cell, task in tasks]


class ThreadCrew:
    """Resident threads that call a plain function."""

    is_complete = True

    def __init__(
        self, fn: Callable[..., Any], name: str, size: int, threads: DaemonThreads, computed: dict[int, float]
    ) -> None:
        self._fn = fn
        self._name = name
        self.room: int = 0
        self._computed = computed
        self._calling: dict[int, Cell | None] = {}
        self._cells: SimpleQueue[Cell | None] = SimpleQueue()
        self._threads = threads
        self._ends: set[asyncio.Future[None]] = set()
        self._size = 0
        self.resize(size)

    def resize(self, size: int) -> None:
        """Start threads, or let some end after what they run."""
        for _ in range(size - self._size):
            end = self._threads.submit(self._serve)
            self._ends.add(end)
            end.add_done_callback(self._ends.discard)
        for _ in range(self._size - size):
            self._cells.put(None)
        self._size = size
        self.room = 2 * size

    def hand(self, cell: Cell) -> None:
        """To whichever thread is free first."""
        self._cells.put(cell)

    def _serve(self) -> None:
        calling, me, looked_at = self._calling, get_ident(), 0.0
        started = thread_time() - self._computed.get(me, 0.0)  # it may have served before
        while (cell := self._cells.get()) is not None:
            if cell.is_wanted:
                calling[me] = cell
                self._call(cell)
                calling[me] = None
            cell.done()
            if cell.ended_at - looked_at > LOOK:
                looked_at = cell.ended_at
                self._computed[me] = thread_time() - started
            del cell  # not kept alive while we wait for the next

    def _call(self, cell: Cell) -> None:
        began = cell.began_at = perf_counter()
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
        for _ in range(self._size):
            self._cells.put(None)

    def calls(self) -> list[Ongoing]:
        """What each thread calls."""
        calling = [(thread, cell) for thread, cell in tuple(self._calling.items()) if cell is not None]
        return [Ongoing(cell, cell.began_at, partial(stack_of_thread, thread)) for thread, cell in calling]
