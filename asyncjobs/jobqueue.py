"""The bounded queue of one lane: an `asyncio.Queue` with priorities.

Higher priority first, first in first out among equals. What is given back goes where it
stood, beyond the bound if need be. Knows calls only by number, priority and place in line.
"""

from __future__ import annotations

import asyncio
import sys
from bisect import insort
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from asyncjobs.errors import AsyncJobsError
from asyncjobs.lanes.base import Call


class QueueFull(AsyncJobsError, asyncio.QueueFull):
    """The lane's queue is full and the caller would not wait."""


class Listener(Protocol):
    """Who waits for something to take, and is told by whoever puts it, at once."""

    def offer(self, call: Call) -> bool:
        """`call` is all there is: take it, or say no and it is queued."""

    def wake(self) -> None:
        """There is something in the queue."""


class JobQueue(asyncio.Queue[Call]):
    """Calls in the order in which they are to run.

    `maxsize` bounds `put`, never `give_back`, and so does `max_bytes` by what the calls' arguments
    refer to; a call that is larger than that may wait alone. `get` is the standard queue's; the runner's
    consumers `take` what suits their place, and `listen` while there is nothing. What is parked
    elsewhere keeps its room here.
    """

    # `_buckets` holds a line per priority; `_order` its keys, negated and sorted, so that
    # the first is the highest. A withdrawn call stays in its line, no longer `in_queue`,
    # until it comes to the front or the withdrawn outnumber the living.

    def __init__(self, maxsize: int = 0, max_bytes: int | None = None) -> None:
        self._byte_room = max_bytes
        self._nbytes = 0
        super().__init__(maxsize)

    def _init(self, maxsize: int) -> None:
        self._buckets: dict[int, deque[Call]] = {}
        self._order: list[int] = []
        self._live = 0
        self._parked = 0
        # For those that are in here: what is parked makes it smaller.
        self._room = maxsize if maxsize > 0 else sys.maxsize
        self._withdrawn = 0
        self._getters: deque[asyncio.Future[None]]
        self._putters: deque[asyncio.Future[None]]
        # Sets in order of arrival.
        self._listeners: dict[Listener, None] = {}
        self._reserves: dict[Listener, None] = {}

    def qsize(self) -> int:
        """How many calls wait, parked ones included."""
        return self._live + self._parked

    def empty(self) -> bool:
        """Whether there is none to take."""
        return not self._live

    def may_enter(self, call: Call, ahead: int = 0, ahead_nbytes: int = 0) -> bool:
        """Whether there is room for `call`, and nobody waits for it who came before: a large call
        would never find enough while small ones went ahead. `ahead` are on their way here."""
        if self._byte_room is None:
            return self._live + ahead < self._room
        return not self._putters and self.has_room(call, ahead, ahead_nbytes)

    def full(self) -> bool:
        """Whether `put` would wait, whatever is put."""
        return self._live >= self._room or (self._byte_room is not None and self._nbytes >= self._byte_room)

    def has_room(self, call: Call, ahead: int = 0, ahead_nbytes: int = 0) -> bool:
        """Whether `put` would not wait with `call`, behind so many that are on their way here."""
        if self._live + ahead >= self._room:
            return False
        nbytes = self._nbytes + ahead_nbytes
        return self._byte_room is None or not nbytes or nbytes + call.nbytes <= self._byte_room

    # --- in -----------------------------------------------------------------------------

    def put_nowait(self, call: Call) -> None:
        """Append `call` to its line.

        Raises:
            QueueFull: there is no room.
        """
        self.require_room(call)
        self.append(call)

    def require_room(self, call: Call) -> None:
        """Raise `QueueFull` if there is no room for `call`."""
        if self._live >= self._room:
            raise QueueFull(f"{self.qsize()} jobs wait, and queue_size is {self.maxsize}; await submit(), or wait")
        if self._byte_room is not None and not self.has_room(call):
            raise QueueFull(
                f"{self.qsize()} jobs wait that refer to {self._nbytes} bytes, this one to {call.nbytes}, and "
                f"queue_bytes is {self._byte_room}; await submit(), or wait"
            )

    def append(self, call: Call) -> None:
        """Put `call` at the end of its line, whether there is room or not; a listener may take it at once."""
        if self._listeners and not self._live and self._listeners.popitem()[0].offer(call):
            if self._putters and not self.full():
                _wake_next(self._putters)  # the room that this one was woken for is still there
            return
        line = self._buckets.get(call.priority)
        if line is None:
            line = self._line(call.priority)
        line.append(call)
        self._entered(call)
        if self._byte_room is not None and self._putters and not self.full():
            _wake_next(self._putters)  # one call's end may be room for several
        if self._listeners or self._reserves or self._getters:
            self.wake()

    def _entered(self, call: Call) -> None:
        call.in_queue = True
        self._live += 1
        if self._byte_room is not None:
            self._nbytes += call.nbytes

    def _left(self, call: Call) -> None:
        call.in_queue = False
        self._live -= 1
        if self._byte_room is not None:
            self._nbytes -= call.nbytes

    def _line(self, priority: int) -> deque[Call]:
        insort(self._order, -priority)
        line = self._buckets[priority] = deque()
        return line

    def give_back(self, calls: Iterable[Call]) -> None:
        """Put calls back where they stood, whether there is room or not."""
        for call in sorted(calls, key=lambda call: call.number, reverse=True):
            line = self._buckets.get(call.priority)
            if line is None:
                line = self._line(call.priority)
            passed = 0
            while passed < len(line) and line[passed].number < call.number:
                passed += 1
            line.insert(passed, call)
            self._entered(call)
            self.wake()

    # --- out ----------------------------------------------------------------------------

    def _front(self) -> deque[Call]:
        """The line whose first call is next, without withdrawn ones before it."""
        while True:
            line = self._buckets[-self._order[0]]
            while line:
                if line[0].in_queue:
                    return line
                line.popleft()
                self._withdrawn -= 1
            del self._buckets[-self._order.pop(0)]

    def _get(self) -> Call:
        call = self._front().popleft()
        self._left(call)
        return call

    def take(self, admits: Callable[[Call], bool] | None = None) -> Call | None:
        """The next call if there is one, and if `admits` agrees to it; never waits."""
        if not self._live:
            return None
        line = self._buckets[-self._order[0]]
        if not line or not line[0].in_queue:
            line = self._front()
        call = line[0]
        if admits is not None and not admits(call):
            return None
        line.popleft()
        self._left(call)
        if self._putters and not self.full():
            _wake_next(self._putters)
        return call

    def withdraw(self, call: Call) -> bool:
        """Take `call` out, wherever it stands; False if it is not here."""
        if not call.in_queue:
            return False
        self._left(call)
        self._withdrawn += 1
        if self._withdrawn > 1000 and self._withdrawn > self._live:
            self._sweep()
        if self._putters and not self.full():
            _wake_next(self._putters)
        return True

    def park(self, call: Call) -> None:
        """`call`, which was taken, waits elsewhere for more than a place: its room here stays taken."""
        self._parked += 1
        self._room -= 1
        if self._byte_room is not None:
            self._nbytes += call.nbytes

    def unpark(self, call: Call) -> None:
        """`call` waits there no more: it has come back, or has ended."""
        self._parked -= 1
        self._room += 1
        if self._byte_room is not None:
            self._nbytes -= call.nbytes
        if self._putters and not self.full():
            _wake_next(self._putters)

    def _sweep(self) -> None:
        for priority, line in self._buckets.items():
            self._buckets[priority] = deque(call for call in line if call.in_queue)
        self._withdrawn = 0

    # --- waking -------------------------------------------------------------------------

    def listen(self, listener: Listener, *, reserve: bool = False) -> None:
        """Tell `listener`, once, when there is something to take.

        The last to listen is told first: it is the warmest. Reserves are told only when
        nobody else listens: they stand for workers that would have to be started first.
        """
        (self._reserves if reserve else self._listeners)[listener] = None

    def unlisten(self, listener: Listener) -> None:
        """Forget `listener`, if it is here."""
        self._listeners.pop(listener, None)
        self._reserves.pop(listener, None)

    def wake(self) -> None:
        """Tell one listener; whoever is told and does not take calls this again."""
        if self._listeners:
            self._listeners.popitem()[0].wake()
        elif not _wake_next(self._getters) and self._reserves:
            reserve = next(iter(self._reserves))
            del self._reserves[reserve]
            reserve.wake()

    def wake_putters(self) -> None:
        """Let everybody who waits for room look around."""
        while _wake_next(self._putters):
            continue

    async def put(self, call: Call) -> None:
        """Append `call`, waiting for room."""
        while not self.has_room(call):
            await self.room(asyncio.get_running_loop().create_future())
        self.put_nowait(call)

    async def room(self, waiter: asyncio.Future[Any], *, again: bool = False) -> None:
        """Wait on `waiter` for a place to come free; not a promise that it still is. Who has
        waited before and found too little waits `again`, before the others."""
        if again:
            self._putters.appendleft(waiter)
        else:
            self._putters.append(waiter)
        try:
            await waiter
        except BaseException:
            # Woken and cancelled at once: somebody else may have the place.
            if waiter.done() and not waiter.cancelled() and not self.full():
                _wake_next(self._putters)
            raise


def _wake_next(waiters: deque[asyncio.Future[None]]) -> bool:
    while waiters:
        waiter = waiters.popleft()
        if not waiter.done():
            waiter.set_result(None)
            return True
    return False
