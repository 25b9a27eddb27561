"""What all queues do, on one event loop: the verbs of TensorFlow's queues, for coroutines.

Every kind is the same two lines of waiters (`lines`) before another store (`storage`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from time import monotonic
from typing import Any, Generic, NamedTuple, Self, TypeVar, cast

from asyncjobs.errors import OutOfRangeError, WrongLoop
from asyncjobs.flow.batches import Column, batch_of, empty, stacked
from asyncjobs.flow.blocking import SyncQueue
from asyncjobs.flow.elements import Layout, whole_number
from asyncjobs.flow.errand import begin
from asyncjobs.flow.lines import Close, Lines, Put, Take, Waiter
from asyncjobs.flow.storage import Store
from asyncjobs.remote.hosted import Errand, Hosted
from asyncjobs.remote.queue import RemoteQueue

T = TypeVar("T")


class QueueStats(NamedTuple):
    """A queue at one moment."""

    name: str
    size: int
    """Elements inside now; what a half-filled batch holds is not."""
    capacity: int
    enqueued: int
    """Elements that went in, ever."""
    dequeued: int
    """Elements that came out, ever, and were not put back."""
    producers_waiting: int
    """Enqueues that wait now."""
    consumers_waiting: int
    """Dequeues that wait now."""
    occupancy: float
    """Mean size over capacity since it was made, weighted by time. Near 0: the consumers starve, near 1: the
    producers are held up."""
    producer_seconds: float
    """Waited by all enqueues together, in seconds, for room. Much of it: the consumers are the bottleneck."""
    consumer_seconds: float
    """Waited by all dequeues together, in seconds, for elements. Much of it: the producers are the bottleneck."""
    open_seconds: float
    """How long ago the queue was made."""
    is_closed: bool


class Queue(Hosted, Generic[T]):
    """What all queues do; make one of the four kinds.

    At most `capacity` elements are inside; who puts waits for room, who takes waits for elements, each line in
    the order in which they came. Only the head of a line is served: a `dequeue_many(100)` that waits holds up
    the `dequeue` after it.

    A wait that is cancelled loses nothing: what a batch had taken goes back to the front, in order, also when the
    cancellation comes in the instant after it was served. An `enqueue` that is cancelled has not put its element,
    unless that had happened in the same instant; an `enqueue_many` may have put the first of them.

    It belongs to the event loop on which somebody first waits, and to its thread. As an argument of a thread or
    process job it has the same verbs without ``await``, those of `SyncQueue`.
    """

    def __init__(self, name: str, capacity: int, store: Store, form: Layout, column: Column = stacked) -> None:
        self._lines = Lines(name, capacity, store)
        self._layout = form
        self._is_free = form.is_free
        self._column = column
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def name(self) -> str:
        """What it is called in errors, statistics and the names of tasks."""
        return self._lines.name

    @property
    def capacity(self) -> int:
        """How many elements may be inside."""
        return self._lines.capacity

    @property
    def argument(self) -> SyncQueue[T]:
        """The queue itself, which type checkers take for what a thread or process job gets."""
        return cast("SyncQueue[T]", self)

    # --- in -----------------------------------------------------------------------------

    async def enqueue(self, element: T) -> None:
        """Put one element, waiting for room.

        It is not copied. A tuple is an element of several components; a dict needs `names`.

        Raises:
            ValueError: it is not as the queue's `shapes`, `dtypes` or `names` say.
            QueueClosedError: the queue is closed, or was while this waited.
        """
        if not self._is_free or isinstance(element, dict):
            element = self._checked(element)
        lines = self._lines
        if lines.size < lines.limit:
            # There is room, so nobody waits for it: what `Put` would do, without one.
            if lines.takers:
                self._bind()
            lines.push(element)
            lines.size += 1
            lines.enqueued += 1
            lines.area -= monotonic()
            if lines.takers:
                lines.pump()
            return
        await self._served(lines.putters, Put((element,)))

    def _checked(self, element: T) -> T:
        fitting: T = self._layout.checked(element)
        return fitting

    async def enqueue_many(self, elements: Any) -> None:
        """Put several elements in their order, as room comes free; there may be more of them than `capacity`.

        `elements` is any iterable of elements, or a batch as `dequeue_many` returns it: an array, whose rows are
        the elements, a tuple of one column for each component, a dict of columns. Cancelled or refused, it
        leaves inside what is in. None at all are put at once, into a closed queue too.

        Raises:
            TypeError: it is no iterable.
            ValueError: an element is not as the queue's `shapes`, `dtypes` or `names` say; columns have different
                lengths. Nothing has been put.
            QueueClosedError: the queue is closed, or was while this waited; `left` is how many did not go in.
        """
        found = self._layout.split(elements)
        if found:
            await self._served(self._lines.putters, Put(found))

    # --- out ----------------------------------------------------------------------------

    async def dequeue(self) -> T:
        """Take one element, waiting for it.

        Raises:
            OutOfRangeError: the queue is closed and empty.
        """
        lines = self._lines
        if lines.size > lines.floor and not lines.takers:
            # Nobody is before it: what `Take` would do, without one.
            if lines.putters:
                self._bind()
            element: T = lines.pop()
            lines.size -= 1
            lines.area += monotonic()
            if lines.putters:
                lines.pump()
            return element
        waiter = Take(1)
        await self._served(lines.takers, waiter)
        taken: T = waiter.held[0]
        return taken

    async def dequeue_many(self, count: int) -> Any:
        """Take `count` elements as one batch, waiting for all of them.

        Arrays and numbers come stacked along a new first axis (elements of shape (28, 28) as (count, 28, 28)),
        tensors too, other values in a list; elements of several components as a tuple of such columns, with
        `names` as a dict. Elements are taken as they come, so `count` may be above `capacity`; what a waiting batch
        holds is inside no more.

        Raises:
            ValueError: `count` is no whole number from 0; the shapes differ, and all elements are back.
            OutOfRangeError: the queue is closed and has fewer; they are back, at the front and in order.
        """
        return await self._batch(count, may_be_less=False)

    async def dequeue_up_to(self, count: int) -> Any:
        """As `dequeue_many`, but of a closed queue take what is left, if that is fewer.

        Raises:
            ValueError: as `dequeue_many`.
            OutOfRangeError: the queue is closed and empty.
        """
        return await self._batch(count, may_be_less=True)

    async def _batch(self, count: int, *, may_be_less: bool) -> Any:
        wanted = self._wanted(count, may_be_less=may_be_less)
        if not wanted:
            return empty(self._layout)
        waiter = Take(wanted, may_be_less=may_be_less)
        await self._served(self._lines.takers, waiter)
        try:
            return self._made(waiter)
        except BaseException:
            self._lines.withdraw(self._lines.takers, waiter)
            raise

    def _wanted(self, count: int, *, may_be_less: bool) -> int:
        return whole_number("count", count, 0)

    def _made(self, waiter: Take) -> Any:
        return batch_of(self._layout, waiter.held, self._column)

    def __aiter__(self) -> Self:
        """Each element, until the queue is closed and empty; several may take turns."""
        return self

    async def __anext__(self) -> T:
        try:
            return await self.dequeue()
        except OutOfRangeError:
            raise StopAsyncIteration from None

    # --- the end ------------------------------------------------------------------------

    async def close(self, cancel_pending_enqueues: bool = False) -> None:
        """Let nothing more in; what is inside can still be taken. A second call does nothing.

        It waits behind the enqueues that wait for room: those still succeed, later ones fail once it takes effect.
        With `cancel_pending_enqueues` it takes effect at once, and they fail. Cancelled while it waits, it closes
        nothing.
        """
        lines = self._lines
        if lines.is_closed:
            return
        if lines.putters and not cancel_pending_enqueues:
            await self._served(lines.putters, Close())
            return
        self._bind()
        self._shut(cancel=cancel_pending_enqueues)

    def _shut(self, *, cancel: bool) -> None:
        self._lines.shut(cancel=cancel)
        self._lines.pump()

    # --- looking ------------------------------------------------------------------------

    def size(self) -> int:
        """How many elements are inside now."""
        return self._lines.size

    def is_closed(self) -> bool:
        """Whether a close has taken effect; elements may be left."""
        return self._lines.is_closed

    def stats(self) -> QueueStats:
        """The figures at this moment."""
        lines = self._lines
        return QueueStats(
            name=lines.name,
            size=lines.size,
            capacity=lines.capacity,
            enqueued=lines.enqueued,
            dequeued=lines.dequeued(),
            producers_waiting=lines.waiting(Put),
            consumers_waiting=lines.waiting(Take),
            occupancy=lines.mean_size() / lines.capacity,
            producer_seconds=lines.waited(Put),
            consumer_seconds=lines.waited(Take),
            open_seconds=lines.open_seconds(),
            is_closed=lines.is_closed,
        )

    def __repr__(self) -> str:
        lines = self._lines
        state = "closed" if lines.is_closed else "open"
        return f"<{type(self).__name__} {lines.name!r} {state}, {lines.size} of {lines.capacity}>"

    # --- waiting ------------------------------------------------------------------------

    async def _served(self, line: deque[Any], waiter: Waiter) -> None:
        """Stand in `line` until it is over; raise if it was refused."""
        loop = self._bind()
        lines = self._lines
        line.append(waiter)
        lines.pump()
        if not waiter.is_over:
            waiter.future = loop.create_future()
            waiter.since = monotonic()
            try:
                await waiter.future
            except BaseException:
                lines.withdraw(line, waiter)
                raise
        if waiter.error is not None:
            raise waiter.refusal()

    def _bind(self, loop: asyncio.AbstractEventLoop | None = None) -> asyncio.AbstractEventLoop:
        if loop is None:
            loop = asyncio.get_running_loop()
        if self._loop is not loop:
            if self._lines.putters or self._lines.takers:
                raise WrongLoop(f"{self!r} has waiters on another event loop; use it from one loop and its thread")
            if self._loop is not None and self._loop.is_running():
                raise WrongLoop(f"{self!r} belongs to another event loop, which runs; use it from that one's thread")
            self._loop = loop
        return loop

    # --- as an argument of a job --------------------------------------------------------

    def settle_on(self, loop: Any) -> None:
        """As `Hosted` says."""
        self._bind(loop)

    def blocking(self, loop: Any) -> SyncQueue[T]:
        """As `Hosted` says."""
        return SyncQueue(self, loop)

    def face(self) -> tuple[type[RemoteQueue], tuple[str, str, int]]:
        """As `Hosted` says."""
        return RemoteQueue, (type(self).__name__, self.name, self.capacity)

    def errand(self, verb: str, argument: Any) -> Errand:
        """As `Hosted` says."""
        return begin(self, verb, argument)
