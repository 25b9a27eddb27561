"""Items on their way from a job to a queue on the loop: `send_items`, and what items an object has.

Two threads: that of the job makes items, another one enqueues what there is, as a list. So as many items travel
together as are made during one trip: tiny ones by the dozen, large ones alone, and none waits for the next to be made.
"""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import islice
from typing import Any, Protocol

from asyncjobs.errors import NotSendable, QueueClosedError
from asyncjobs.wire.parcel import LARGE

MOST = 64
"""Items that travel together at most."""
FIRST = 0.001
"""Seconds that the first items wait for others."""
LOOKED_AT = 8
"""Components of an item whose sizes are asked for; the others are taken to be like them."""
SCALAR = 32
"""Bytes of a number and the like."""


class Queue(Protocol):
    """As a job gets it."""

    def enqueue(self, element: Any) -> None: ...


# --- what items an object has -----------------------------------------------------------


def is_function(source: object) -> bool:
    """Whether the items are what it returns; an iterable that can also be called is an iterable."""
    if isinstance(source, type):
        return True
    return callable(source) and not any(hasattr(source, name) for name in ("__iter__", "__aiter__", "__getitem__"))


def is_indexed(source: object) -> bool:
    """Whether it has items by number, and no iterator of its own."""
    return hasattr(source, "__getitem__") and hasattr(source, "__len__") and not hasattr(source, "__iter__")


def items_of(source: Any, first: int = 0) -> Iterator[Any]:
    """Its items; to begin may take time. Those by number from `first` on."""
    if is_function(source):
        source = source()
    return (source[index] for index in range(first, len(source))) if is_indexed(source) else iter(source)


# --- in the job -------------------------------------------------------------------------


def send_items(queue: Queue, make: Callable[..., Iterable[Any]], *args: Any) -> list[Any]:
    """Enqueue the items of ``make(*args)`` in lists, until they end or the queue is closed; return the last of them.

    A generator is closed in either case, and what it raises comes after the items before it.
    """
    outbox = _Outbox(queue)
    try:
        _make_all(iter(make(*args)), outbox)
        return outbox.rest()
    finally:
        outbox.close()


def _make_all(iterator: Iterator[Any], outbox: _Outbox) -> None:
    try:
        for item in iterator:
            if not outbox.put(item):
                return
    finally:
        if isinstance(iterator, Generator):
            iterator.close()


class _Outbox:
    """Items that wait to travel, and the thread that sends them."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._items: list[Any] = []
        self._nbytes = 0
        self._sent = 0
        self._is_over = False
        self._error: BaseException | None = None
        self._news = threading.Condition()
        # A worker that a job leaves a thread to is replaced: `close` waits for it.
        self._sender = threading.Thread(target=self._send_all, name="asyncjobs-items", daemon=True)
        self._sender.start()

    # --- the thread that makes items ----------------------------------------------------

    def put(self, item: Any) -> bool:
        """Wait until there is room for it; False: nobody wants any more."""
        nbytes = nbytes_of(item)
        with self._news:
            while self._items and not self._has_room(nbytes) and self._error is None:
                self._news.wait()
            self._items.append(item)
            self._nbytes += nbytes
            self._news.notify()
        return self._error is None

    def _has_room(self, nbytes: int) -> bool:
        return len(self._items) < MOST and self._nbytes + nbytes < LARGE

    def rest(self) -> list[Any]:
        """What has not begun to travel, and may do so as the result of the job: that saves the trip to the queue."""
        with self._news:
            if not _is_small(self._items):
                return []
            rest, self._items = self._items, []
            return rest

    def close(self) -> None:
        """Wait until the last have travelled; raise what went wrong with that."""
        with self._news:
            self._is_over = True
            self._news.notify()
        self._sender.join()
        if self._error is not None and not isinstance(self._error, QueueClosedError):
            raise self._error

    # --- the thread that sends them -----------------------------------------------------

    def _send_all(self) -> None:
        try:
            while chunk := self._next():
                self._send(chunk)
        # Everything: whoever makes items has to hear of it.
        except BaseException as error:
            with self._news:
                self._error = error
                self._news.notify()

    def _next(self) -> list[Any]:
        with self._news:
            while not self._items and not self._is_over:
                self._news.wait()
            if not self._sent:
                # Of a generator with a few items, the end comes within this time.
                self._news.wait_for(lambda: self._is_over or not self._has_room(0), FIRST)
            chunk, self._items, self._nbytes = self._items, [], 0
            self._news.notify()
            return chunk

    def _send(self, chunk: list[Any]) -> None:
        try:
            self._queue.enqueue(chunk)
        except (NotSendable, MemoryError) as error:
            if len(chunk) == 1:
                error.add_note(f"it is item {self._sent} of what makes the items in a process")
                raise
            for item in chunk:  # those before the culprit arrive
                self._send([item])
        else:
            self._sent += len(chunk)


def _is_small(items: list[Any]) -> bool:
    """Whether they pickle, to less than what is large."""
    try:
        return len(pickle.dumps(items, 5)) < LARGE
    # The user's __reduce__ may raise anything at all. Then the queue says which item it is.
    except Exception:
        return False


def nbytes_of(item: Any, depth: int = 4) -> int:
    """About so many bytes; of an object that does not say and that we cannot look into, so many that it goes alone."""
    if item is None or isinstance(item, bool | int | float | complex):
        return SCALAR
    if isinstance(item, bytes | bytearray | str):
        return len(item)
    nbytes = getattr(item, "nbytes", None)
    if isinstance(nbytes, int):
        return nbytes
    parts = item if isinstance(item, tuple | list | dict | set | frozenset) else getattr(item, "__dict__", None)
    if parts is None or not depth:
        return LARGE
    values = parts.values() if isinstance(parts, dict) else parts
    sizes = [nbytes_of(part, depth - 1) for part in islice(values, LOOKED_AT)]
    return SCALAR + sum(sizes) * len(parts) // max(1, len(sizes))
