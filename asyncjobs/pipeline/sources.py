"""Where items come from: a list, an iterator that a thread advances, an async iterator on the loop."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Sequence,
)
from inspect import isasyncgenfunction
from itertools import islice
from queue import SimpleQueue
from typing import Any

from asyncjobs.lanes.daemon import DaemonThreads
from asyncjobs.pipeline.bells import Bell, Window
from asyncjobs.pipeline.faults import shown
from asyncjobs.pipeline.feeds import Feed, discarded
from asyncjobs.wire.failure import safe_to_raise

logger: logging.Logger = logging.getLogger("asyncjobs")

AHEAD = 2
"""Items that a thread reads ahead, or more of those that take no time."""


def checked(source: object) -> object:
    """`source` itself.

    Raises:
        TypeError: no items can come from it.
    """
    if is_function(source) or is_async(source) or is_indexed(source) or hasattr(source, "__iter__"):
        return source
    raise TypeError(
        f"Pipeline({shown(source)}) is not allowed; allowed: an iterable, an async iterable, a sequence, a queue, or a "
        "function without arguments that returns one of them"
    )


def is_function(source: object) -> bool:
    """Whether the items are what it returns; an iterable that can also be called is an iterable."""
    if isinstance(source, type):
        return True
    return callable(source) and not any(hasattr(source, name) for name in ("__iter__", "__aiter__", "__getitem__"))


def is_async(source: object) -> bool:
    """Whether the loop advances it."""
    return hasattr(source, "__aiter__")


def is_indexed(source: object) -> bool:
    """Whether it has items by number, and no iterator of its own."""
    return hasattr(source, "__getitem__") and hasattr(source, "__len__") and not hasattr(source, "__iter__")


def is_used_up(source: object) -> bool:
    """Whether it can be gone through only once."""
    return hasattr(source, "__next__") or hasattr(source, "__anext__")


def items_of(source: Any, first: int = 0) -> Iterator[Any]:
    """In a thread: its items; to begin may take time. Those by number from `first` on."""
    if is_function(source):
        source = source()
    return (source[index] for index in range(first, len(source))) if is_indexed(source) else iter(source)


class Listed:
    """Items that are there already."""

    def __init__(self, items: Sequence[Any]) -> None:
        self._items = items
        self._at = 0

    async def take(self, limit: int) -> list[Any]:
        """The next."""
        taken = list(self._items[self._at : self._at + limit])
        self._at += len(taken)
        return taken

    async def skip(self, count: int) -> int:
        """At once."""
        before, self._at = self._at, min(self._at + count, len(self._items))
        return self._at - before

    async def aclose(self) -> None:
        """Nothing to do."""


class Followed:
    """An async iterable, advanced on the loop when an item is asked for."""

    def __init__(self, make: Callable[[], AsyncIterable[Any]]) -> None:
        self._make = make
        self._iterator: AsyncIterator[Any] | None = None

    async def take(self, limit: int) -> list[Any]:
        """The next one."""
        if self._iterator is None:
            self._iterator = aiter(self._make())
        async for item in self._iterator:
            return [item]
        return []

    async def skip(self, count: int) -> int:
        """It has to make them."""
        return await discarded(self, count)

    async def aclose(self) -> None:
        """Close it, if it is a generator."""
        if isinstance(self._iterator, AsyncGenerator):
            await self._iterator.aclose()


class Read:
    """An iterable that a thread of its own advances, a little ahead of whoever takes the items.

    The thread reads as many items as it has been given credit for, and closes a generator when it is told to end.
    """

    def __init__(self, make: Callable[[], Iterable[Any]], name: str, threads: DaemonThreads) -> None:
        self.name: str = name
        self._make = make
        self._credits: SimpleQueue[int] = SimpleQueue()
        self._given = 0
        self._window = Window(AHEAD)
        self._news = Bell(asyncio.get_running_loop())
        self._items: deque[Any] = deque()
        self._error: BaseException | None = None
        self._is_over = False
        self._is_closed = False
        self.end: asyncio.Future[None] = threads.submit(self._run)
        """Done when the thread has ended."""

    # --- in the thread ------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._read(iter(self._make()))
        # Everything: whoever takes would wait for ever.
        except BaseException as error:
            self._error = error
        self._is_over = True
        self._news.ring()

    def _read(self, iterator: Iterator[Any]) -> None:
        try:
            while count := self._credits.get():
                for item in islice(iterator, count):
                    self._items.append(item)
                    self._news.ring()
                    count -= 1
                    if self._is_closed:
                        return
                if count:
                    return
        finally:
            if isinstance(iterator, Generator):
                self._close(iterator)

    def _close(self, iterator: Generator[Any, None, None]) -> None:
        try:
            iterator.close()
        # Everything: nobody takes items any more who could be told.
        except BaseException:
            logger.warning("%s raised when it was closed", self.name, exc_info=True)

    # --- on the loop --------------------------------------------------------------------

    async def take(self, limit: int) -> list[Any]:
        """Those that were read."""
        self._give(self._window.size - self._given)
        while not self._items:
            # In this order: what was read before the end is there by then.
            if self._is_over and not self._items:
                return self._end()
            await self._news.wait()
        taken = [self._items.popleft() for _ in range(min(limit, len(self._items)))]
        self._window.passed(len(taken))
        self._given -= len(taken)
        self._give(self._window.size - self._given)
        return taken

    def _give(self, count: int) -> None:
        if count > 0:
            self._given += count
            self._credits.put(count)

    def _end(self) -> list[Any]:
        if self._error is not None:
            raise safe_to_raise(self._error)
        return []

    async def skip(self, count: int) -> int:
        """It has to make them."""
        return await discarded(self, count)

    async def aclose(self) -> None:
        """Have the thread end."""
        self.hang_up()

    def hang_up(self) -> None:
        """The same from any thread; it ends after the item that it reads."""
        self._is_closed = True
        self._credits.put(0)


class Numbered:
    """Items by number, which a thread gets."""

    def __init__(self, source: Any, read: Callable[[Callable[[], Iterable[Any]]], Feed]) -> None:
        self._source = source
        self._read = read
        self._first = 0
        self._reading: Feed | None = None

    async def take(self, limit: int) -> list[Any]:
        """Those that were read."""
        if self._reading is None:
            self._reading = self._read(lambda: items_of(self._source, self._first))
        return await self._reading.take(limit)

    async def skip(self, count: int) -> int:
        """At once."""
        before, self._first = self._first, min(self._first + count, len(self._source))
        return self._first - before

    async def aclose(self) -> None:
        """Have the thread end."""
        if self._reading is not None:
            await self._reading.aclose()


def opened(source: Any, epoch: int, read: Callable[[Callable[[], Iterable[Any]]], Feed]) -> Feed:
    """The items of one epoch; `read` makes a `Read` of a function.

    Raises:
        ValueError: there is no second epoch.
    """
    if isasyncgenfunction(source):
        return Followed(source)
    if isinstance(source, list | tuple | range):
        return Listed(source)
    if is_function(source):
        return read(lambda: items_of(source))
    if is_indexed(source):
        return Numbered(source, read)
    if epoch and is_used_up(source):
        raise ValueError(
            f"epoch {epoch} of {shown(source)}: it can be gone through only once; give a function without arguments "
            "that makes a new one"
        )
    return Followed(lambda: source) if is_async(source) else read(lambda: items_of(source))
