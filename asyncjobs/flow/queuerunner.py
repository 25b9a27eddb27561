"""Keep a queue filled: `QueueRunner` repeats operations that enqueue, and closes the queue when they end."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Sequence
from typing import Any

from asyncjobs.errors import OutOfRangeError, QueueClosedError
from asyncjobs.flow.base import Queue
from asyncjobs.flow.coordinator import Coordinator
from asyncjobs.futures import call_soon
from asyncjobs.lanes.daemon import DaemonThreads

logger: logging.Logger = logging.getLogger("asyncjobs")

Op = Callable[[], Any]


class QueueRunner:
    """Repeats each of several operations, in a task of its own, until a stop is requested or it ends with an error.

    The last of them to end closes the queue, however it ended, so that no consumer waits for ever: it gets what is
    inside, and then `OutOfRangeError`.

    Args:
        queue: what is closed in the end.
        enqueue_ops: functions without arguments, each of which puts something into the queue, as ``[read] * 4``. A
            coroutine function is awaited. Anything else runs in a thread, and if it returns something awaitable,
            that is awaited on the loop: ``lambda: queue.enqueue(load())`` loads in a thread.
        queue_closed_exception_types: an operation that raises one of these has come to its end, without an error.

    Raises:
        ValueError: there is no queue, or no operation.
        TypeError: an operation is no function, or an exception type is none.

    Example::

        runner = QueueRunner(queue, [read] * 4)
        runner.start(coord)
    """

    def __init__(
        self,
        queue: Queue[Any],
        enqueue_ops: Sequence[Op],
        *,
        queue_closed_exception_types: tuple[type[Exception], ...] = (OutOfRangeError,),
    ) -> None:
        if queue is None or not enqueue_ops:
            raise ValueError(f"QueueRunner({queue!r}, {enqueue_ops!r}) is not allowed: it needs a queue and operations")
        for index, op in enumerate(enqueue_ops):
            if not callable(op):
                raise TypeError(f"enqueue_ops[{index}]={op!r} is not allowed; allowed: a function without arguments")
        self._closed_types = _error_types(queue_closed_exception_types)
        self._queue = queue
        self._ops = tuple(enqueue_ops)
        self._exceptions: list[Exception] = []
        self._run: _Run | None = None

    @property
    def name(self) -> str:
        """The queue's name."""
        return self._queue.name

    @property
    def exceptions_raised(self) -> list[Exception]:
        """What ended operations of the latest start that had no coordinator to report to."""
        return list(self._exceptions)

    def start(self, coord: Coordinator | None = None) -> list[asyncio.Task[None]]:
        """Start a task for each operation; with a coordinator they are registered, and one more that, on a stop,
        closes the queue and cancels the enqueues that wait. As long as any runs, another call starts nothing.

        What ends an operation with an error is reported to the coordinator. Without one it is kept in
        `exceptions_raised`, and raised by the operation's task.

        Raises:
            RuntimeError: no event loop is running.
        """
        if self._run is not None and self._run.left:
            return []
        self._exceptions = []
        run = self._run = _Run(asyncio.get_running_loop(), len(self._ops), coord)
        tasks = [self._task(run, self._work(run, op), _name_of(op)) for op in self._ops]
        if coord is not None:
            tasks.append(self._task(run, self._close_on_stop(run, coord), "close_on_stop"))
        return tasks

    def _task(self, run: _Run, work: Any, name: str) -> asyncio.Task[None]:
        task = run.loop.create_task(work, name=f"QueueRunnerThread-{self.name}-{name}")
        # The loop keeps only weak references; whoever has a coordinator need not keep what start() returned.
        run.tasks.add(task)
        task.add_done_callback(run.tasks.discard)
        if run.coord is not None:
            run.coord.register(task)
        return task

    # --- one operation ------------------------------------------------------------------

    async def _work(self, run: _Run, op: Op) -> None:
        is_cancelled = True
        try:
            error = await self._repeat(run, op)
            is_cancelled = False
            self._told(run.coord, error)
        finally:
            await self._one_ended(run, is_cancelled=is_cancelled)

    async def _repeat(self, run: _Run, op: Op) -> Exception | None:
        """Until it ends; its error, None for a stop. A value, for no coroutine lets a StopIteration pass."""
        is_awaited = inspect.iscoroutinefunction(op) or inspect.iscoroutinefunction(getattr(op, "__call__", None))  # noqa: B004
        error: Exception | None = None
        while error is None and not (run.coord is not None and run.coord.should_stop()):
            try:
                if is_awaited:
                    await op()
                else:
                    error = await self._in_thread(run, op)
            except Exception as raised:
                return raised
            await asyncio.sleep(0)  # an operation that never waits must not keep the loop from the others
        return error

    async def _in_thread(self, run: _Run, op: Op) -> Exception | None:
        value, error = await run.loop.run_in_executor(run.threads, _outcome, op)
        if inspect.isawaitable(value):
            await value
        return error

    def _told(self, coord: Coordinator | None, error: Exception | None) -> None:
        if error is None or isinstance(error, self._closed_types):
            return
        if coord is None:
            self._exceptions.append(error)
            raise error
        if not (isinstance(error, QueueClosedError) and coord.should_stop()):  # else it was our own close
            coord.request_stop(error)

    # --- the end ------------------------------------------------------------------------

    async def _one_ended(self, run: _Run, *, is_cancelled: bool) -> None:
        run.left -= 1
        if run.left:
            return
        run.threads.shutdown()
        run.news.set()
        # A task that was cancelled must not wait for consumers.
        await self._close(cancel_pending_enqueues=is_cancelled)

    async def _close_on_stop(self, run: _Run, coord: Coordinator) -> None:
        forget = coord.token.add_callback(lambda _: call_soon(run.loop, run.news.set))
        try:
            await run.news.wait()
        finally:
            forget()
        if coord.should_stop():
            await self._close(cancel_pending_enqueues=True)

    async def _close(self, *, cancel_pending_enqueues: bool) -> None:
        try:
            await self._queue.close(cancel_pending_enqueues=cancel_pending_enqueues)
        except asyncio.CancelledError:
            await self._queue.close(cancel_pending_enqueues=True)
            raise
        except Exception:
            logger.info("closing %s failed", self.name, exc_info=True)

    def __repr__(self) -> str:
        left = self._run.left if self._run is not None else 0
        return f"<QueueRunner of {self.name!r}, {left} of {len(self._ops)} operations running>"


class _Run:
    """One start, until its last operation has ended."""

    def __init__(self, loop: asyncio.AbstractEventLoop, left: int, coord: Coordinator | None) -> None:
        self.loop = loop
        self.left = left
        self.coord = coord
        self.tasks: set[asyncio.Task[None]] = set()
        self.threads = DaemonThreads("queue-runner-", loop)
        self.news = asyncio.Event()


_collected: list[QueueRunner] = []


def add_queue_runner(runner: QueueRunner) -> None:
    """Collect it for `start_queue_runners`."""
    _collected.append(runner)


def start_queue_runners(coord: Coordinator | None = None) -> list[asyncio.Task[None]]:
    """Start all that were collected, in their order, and return all their tasks; they are collected no more."""
    runners = _collected.copy()
    _collected.clear()
    return [task for runner in runners for task in runner.start(coord)]


def _outcome(op: Op) -> tuple[Any, Exception | None]:
    try:
        return op(), None
    except Exception as error:
        return None, error


def _name_of(op: Op) -> str:
    return str(getattr(op, "__name__", type(op).__name__))


def _error_types(types: Any) -> tuple[type[Exception], ...]:
    is_tuple = isinstance(types, tuple) and types
    if not is_tuple or not all(isinstance(each, type) and issubclass(each, Exception) for each in types):
        raise TypeError(
            f"queue_closed_exception_types={types!r} is not allowed; allowed: a tuple of exception classes, not empty"
        )
    return tuple(types)
