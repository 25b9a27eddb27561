"""A queue's verbs for threads, without await: `SyncQueue`.

A thread's operation stands in the same lines as everybody's; only what wakes it is a future of the standard kind
rather than the loop's. Elements are checked, and batches made, in the calling thread.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from asyncjobs.context import running
from asyncjobs.errors import JobStopped, OutOfRangeError, RunnerClosed, WouldDeadlock
from asyncjobs.flow.batches import empty
from asyncjobs.flow.lines import Close, Put, Take, Waiter
from asyncjobs.futures import call_soon, fail, resolve
from asyncjobs.token import CancelToken, StopReason

if TYPE_CHECKING:
    from asyncjobs.flow.base import Queue, QueueStats

T = TypeVar("T")
R = TypeVar("R")

SLICE = 1.0
"""Seconds after which a thread that waits looks whether the loop is still there."""


class SyncQueue(Generic[T]):
    """The same queue for threads: it blocks where the other one is awaited, bounded just the same.

    Make it where the queue's event loop runs, or say which `loop`, and hand it to any number of threads. A thread job
    gets one for each queue among its arguments. A wait that is interrupted (Ctrl-C), or ended by its job's stop, loses
    nothing. All methods raise what those of the queue raise, and besides them:

    Raises:
        JobStopped: in a thread job that is asked to stop, where it would have to wait.
        WouldDeadlock: called in the loop's own thread, which it would block for ever.
        RunnerClosed: the loop has ended.
        WrongLoop: at its making; the queue belongs to another loop.

    Example::

        feed = SyncQueue(queue)
        await asyncio.to_thread(lambda: [feed.enqueue(load(path)) for path in paths])
    """

    def __init__(self, queue: Queue[T], loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._queue = queue
        self._loop = queue._bind(loop)

    # --- in and out ---------------------------------------------------------------------

    def enqueue(self, element: T) -> None:
        """As `Queue.enqueue`."""
        self._serve(self._queue._lines.putters, Put((self._queue._checked(element),)))

    def enqueue_many(self, elements: Any) -> None:
        """As `Queue.enqueue_many`."""
        found = self._queue._layout.split(elements)
        if found:
            self._serve(self._queue._lines.putters, Put(found))

    def dequeue(self) -> T:
        """As `Queue.dequeue`."""
        waiter = Take(1)
        self._serve(self._queue._lines.takers, waiter)
        taken: T = waiter.held[0]
        return taken

    def dequeue_many(self, count: int) -> Any:
        """As `Queue.dequeue_many`."""
        return self._batch(count, may_be_less=False)

    def dequeue_up_to(self, count: int) -> Any:
        """As `Queue.dequeue_up_to`."""
        return self._batch(count, may_be_less=True)

    def _batch(self, count: int, *, may_be_less: bool) -> Any:
        wanted = self._queue._wanted(count, may_be_less=may_be_less)
        if not wanted:
            return empty(self._queue._layout)
        waiter = Take(wanted, may_be_less=may_be_less)
        lines = self._queue._lines
        self._serve(lines.takers, waiter)
        try:
            return self._queue._made(waiter)
        except BaseException:
            self._do(lambda: lines.withdraw(lines.takers, waiter))
            raise

    def __iter__(self) -> Iterator[T]:
        """Each element, until the queue is closed and empty; several threads may take turns."""
        while True:
            try:
                element = self.dequeue()
            except OutOfRangeError:
                return
            yield element

    # --- the end, and looking -----------------------------------------------------------

    def close(self, cancel_pending_enqueues: bool = False) -> None:
        """As `Queue.close`."""
        if cancel_pending_enqueues:
            self._do(lambda: self._queue._shut(cancel=True))
        elif not self.is_closed():
            self._serve(self._queue._lines.putters, Close())

    def size(self) -> int:
        """How many elements are inside now."""
        return self._queue.size()

    def is_closed(self) -> bool:
        """Whether a close has taken effect; elements may be left."""
        return self._queue.is_closed()

    def stats(self) -> QueueStats:
        """The figures at this moment."""
        return self._do(self._queue.stats)

    def __reduce__(self) -> tuple[Any, ...]:
        return self._queue.__reduce__()

    def __repr__(self) -> str:
        return f"<SyncQueue of {self._queue!r}>"

    # --- waiting ------------------------------------------------------------------------

    def _serve(self, line: deque[Any], waiter: Waiter) -> None:
        """Stand in `line` until it is over; raise if it was refused."""
        self._check()
        lines = self._queue._lines
        woken: Future[None] = Future()

        def enter() -> None:
            line.append(waiter)
            lines.pump()
            if waiter.is_over:
                resolve(woken)
            else:
                waiter.future, waiter.since = woken, monotonic()

        def leave() -> None:
            # Served or not, what it holds goes back; if it came to that at all before the interrupt.
            if waiter.is_over or waiter.future is not None:
                lines.withdraw(line, waiter)

        token = _token_of_job()
        try:
            if token is None:
                self._wait(enter, woken)
            else:
                self._wait_in_job(token, enter, woken)
        except BaseException:
            call_soon(self._loop, leave)
            raise
        if waiter.error is not None:
            raise waiter.refusal()

    def _wait_in_job(self, token: CancelToken, enter: Callable[[], object], woken: Future[None]) -> None:
        """The same until the job is asked to stop; one that is stopping already gets what is there at once."""

        forget: Callable[[], object] = bool

        def stop(reason: StopReason) -> None:
            # On the loop, where it cannot meet the one who serves us.
            call_soon(self._loop, fail, woken, JobStopped(reason.text))

        def enter_and_listen() -> None:
            nonlocal forget
            enter()
            if not woken.done():
                forget = token.add_callback(stop)

        try:
            self._wait(enter_and_listen, woken)
        finally:
            forget()

    def _do(self, fn: Callable[[], R]) -> R:
        """What ``fn()`` returns on the loop."""
        self._check()
        answer: Future[R] = Future()
        self._wait(lambda: resolve(answer, fn()), answer)
        return answer.result()

    def _check(self) -> None:
        if asyncio._get_running_loop() is self._loop:
            raise WouldDeadlock(f"{self!r} was used in the thread of its own event loop: there, await the queue itself")

    def _wait(self, begin: Callable[[], object], done: Future[Any]) -> None:
        """Have the loop call ``begin()``, and block until `done` is."""
        is_there = call_soon(self._loop, begin)
        while is_there:
            try:
                done.result(SLICE)
            except TimeoutError:
                is_there = not self._loop.is_closed()
            else:
                return
        raise RunnerClosed(f"the event loop of {self._queue.name} has ended")


def _token_of_job() -> CancelToken | None:
    job = running.get()
    try:
        return None if job is None else job.token
    except ReferenceError:  # it has ended, and left this thread behind
        return None
