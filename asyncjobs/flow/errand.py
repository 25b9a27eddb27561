"""What a job in another process asks of a queue, as an operation in the queue's own lines."""

from __future__ import annotations

from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

from asyncjobs.flow.batches import Column, batch_of, empty
from asyncjobs.flow.elements import Layout
from asyncjobs.flow.lines import Close, Put, Take, Waiter
from asyncjobs.remote.hosted import Errand

if TYPE_CHECKING:
    from asyncjobs.flow.base import Queue

BY_NAME = frozenset({"size", "is_closed", "stats"})
"""Verbs that only look."""


class Settled(NamedTuple):
    """An answer that is there at once."""

    value: Any = None
    future: None = None
    holds: bool = False

    def outcome(self) -> Any:
        return self.value

    def withdraw(self) -> None:
        """Nothing was taken."""


class Standing:
    """A waiter in one of the lines, from the loop's own side."""

    def __init__(self, queue: Queue[Any], line: deque[Any], waiter: Waiter) -> None:
        self._lines = queue._lines
        self._line = line
        self._waiter = waiter
        self.future: Any = None
        self.holds: bool = False
        loop = queue._bind()
        line.append(waiter)
        self._lines.pump()
        if not waiter.is_over:
            waiter.future = self.future = loop.create_future()
            waiter.since = monotonic()

    def outcome(self) -> Any:
        if self._waiter.error is not None:
            raise self._waiter.refusal()

    def withdraw(self) -> None:
        self._lines.withdraw(self._line, self._waiter)


class Taking(Standing):
    """Takes one element, or several as a batch."""

    def __init__(self, queue: Queue[Any], waiter: Take, *, is_batch: bool) -> None:
        super().__init__(queue, queue._lines.takers, waiter)
        self.holds = True
        self._held = waiter
        self._queue = queue
        self._is_batch = is_batch

    def outcome(self) -> Any:
        super().outcome()
        held = self._held.held
        return Unmade(self._queue._layout, held, self._queue._column) if self._is_batch else held[0]


class Unmade(NamedTuple):
    """The elements of a batch on their way: unpickled, they are the batch. So the job makes it, and not the loop."""

    layout: Layout
    elements: list[Any]
    column: Column

    def __reduce__(self) -> tuple[Any, ...]:
        return batch_of, tuple(self)


def begin(queue: Queue[Any], verb: str, argument: Any) -> Errand:
    """Begin ``verb(argument)``.

    Raises:
        ValueError: as the verb itself.
        WrongLoop: the queue has waiters on another event loop.
    """
    if verb == "enqueue":
        return Standing(queue, queue._lines.putters, Put((queue._checked(argument),)))
    if verb == "enqueue_many":
        found = queue._layout.split(argument)
        return Standing(queue, queue._lines.putters, Put(found)) if found else Settled()
    if verb == "dequeue":
        return Taking(queue, Take(1), is_batch=False)
    if verb in BY_NAME:
        return Settled(getattr(queue, verb)())
    if verb == "close":
        return _closing(queue, cancel=bool(argument))
    may_be_less = verb == "dequeue_up_to"
    wanted = queue._wanted(argument, may_be_less=may_be_less)
    if not wanted:
        return Settled(empty(queue._layout))
    return Taking(queue, Take(wanted, may_be_less=may_be_less), is_batch=True)


def _closing(queue: Queue[Any], *, cancel: bool) -> Errand:
    if cancel:
        queue._bind()
        queue._shut(cancel=True)
        return Settled()
    return Settled() if queue.is_closed() else Standing(queue, queue._lines.putters, Close())
