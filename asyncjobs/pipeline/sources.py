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
from threading import get_ident
from time import perf_counter
from typing import Any

from asyncjobs.lanes.daemon import DaemonThreads
from asyncjobs.pipeline.account import Account
from asyncjobs.pipeline.bells import Bell, Window
from asyncjobs.pipeline.faults import shown
from asyncjobs.pipeline.feeds import Close, Feed, discarded
from asyncjobs.pipeline.stacks import stack_of_awaited, stack_of_thread
from asyncjobs.remote.items import is_function, is_indexed, items_of
from asyncjobs.wire.failure import safe_to_raise

logger: logging.Logger = logging.getLogger("asyncjobs")

AHEAD = 2
"""Items that a thread reads ahead, or more of those that take no time."""


def checked(source: object, lane: str | None) -> tuple[object, str]:
    """`source` itself, and the lane that advances it.

    Raises:
        TypeError: no items can come from it, or not there.
    """
    if not (is_function(source) or is_async(source) or is_indexed(source) or hasattr(source, "__iter__")):
        raise TypeError(
            f"Pipeline({shown(source)}) is not allowed; allowed: an iterable, an async iterable, a sequence, a queue, "
            "or a function without arguments that returns one of them"
        )
    is_loops = is_async(source) or isasyncgenfunction(source)
    if lane == "loop" and not is_loops:
        raise TypeError(f"{shown(source)} would block lane 'loop'; use 'thread' or 'process'")
    if lane not in (None, "loop") and is_loops:
        raise TypeError(f"{shown(source)} is advanced on the loop; lane={lane!r} is not allowed")
    if lane not in (None, "loop", "thread") and is_used_up(source):
        raise TypeError(
            f"{shown(source)} cannot travel to lane {lane!r}; give a function without arguments that makes it there"
        )
    return source, "thread" if lane in (None, "loop") else str(lane)


def is_async(source: object) -> bool:
    """Whether the loop advances it."""
    return hasattr(source, "__aiter__")


def is_used_up(source: object) -> bool:
    """Whether it can be gone through only once."""
    return not isinstance(source, type) and (hasattr(source, "__next__") or hasattr(source, "__anext__"))


def name_of(source: object) -> str:
    """For people: a function's or generator's name, another's repr."""
    return str(getattr(source, "__name__", None) or shown(source))


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

    def __init__(self, make: Callable[[], AsyncIterable[Any]], account: Account) -> None:
        self._make = make
        self._account = account
        self._iterator: AsyncIterator[Any] | None = None
        self._thread = get_ident()
        self.since: float | None = None
        account.readings.add(self)

    async def take(self, limit: int) -> list[Any]:
        """The next one."""
        if self._iterator is None:
            self._iterator = aiter(self._make())
        began = self.since = perf_counter()
        try:
            async for item in self._iterator:
                self._account.read([perf_counter() - began])
                return [item]
        finally:
            self.since = None
        return []

    def stack(self) -> str:
        """Of the coroutine that makes the next item."""
        return stack_of_awaited(self._iterator, self._thread)

    async def skip(self, count: int) -> int:
        """It has to make them."""
        return await discarded(self, count)

    async def aclose(self) -> None:
        """Close it, if it is a generator."""
        self._account.readings.discard(self)
        if isinstance(self._iterator, AsyncGenerator):
            await self._iterator.aclose()


class Read:
    """An iterable that a thread of its own advances, a little ahead of whoever takes the items.

    The thread reads as many items as it has been given credit for, and closes a generator when it is told to end.
    """

    def __init__(self, make: Callable[[], Iterable[Any]], account: Account, threads: DaemonThreads) -> None:
        self.name: str = account.name
        self._account = account
        self._make = make
        self._credits: SimpleQueue[int] = SimpleQueue()
        self._given = 0
        self._window = Window(AHEAD)
        self._news = Bell(asyncio.get_running_loop())
        self._items: deque[tuple[Any, float]] = deque()
        """With the seconds that each took."""
        self._error: BaseException | None = None
        self._is_over = False
        self._is_closed = False
        self._thread = 0
        self.since: float | None = None
        account.readings.add(self)
        self.end: asyncio.Future[None] = threads.submit(self._run)
        """Done when the thread has ended."""

    # --- in the thread ------------------------------------------------------------------

    def _run(self) -> None:
        self._thread = get_ident()
        began = self.since = perf_counter()
        try:
            iterator = iter(self._make())
            self._read(iterator, perf_counter() - began)
        # Everything: whoever takes would wait for ever.
        except BaseException as error:
            self._error = error
        self.since = None
        self._is_over = True
        self._news.ring()

    def _read(self, iterator: Iterator[Any], spent: float) -> None:
        """Having `spent` so many seconds to begin, which is part of the first item's."""
        try:
            while count := self._granted():
                began = self.since = perf_counter()
                for item in islice(iterator, count):
                    now = self.since = perf_counter()
                    self._items.append((item, spent + now - began))
                    began, spent = now, 0.0
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

    def _granted(self) -> int:
        """How many items there is room for; waits while there is none."""
        self.since = None
        return self._credits.get()

    # --- on the loop --------------------------------------------------------------------

    async def take(self, limit: int) -> list[Any]:
        """Those that were read."""
        self._give()
        while not self._items:
            # In this order: what was read before the end is there by then.
            if self._is_over and not self._items:
                return self._end()
            await self._news.wait()
        taken, seconds = zip(*[self._items.popleft() for _ in range(min(limit, len(self._items)))], strict=True)
        self._account.read(seconds)
        self._window.passed(len(taken))
        self._given -= len(taken)
        self._give()
        return list(taken)

    def _give(self) -> None:
        """Credit for what there is room for, several items at a time: the thread has to be woken for it."""
        count = self._window.size - self._given
        if count >= max(1, self._window.size // 4):
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
        self._account.readings.discard(self)
        self.hang_up()

    def stack(self) -> str:
        """Of the thread."""
        return stack_of_thread(self._thread)

    def hang_up(self) -> None:
        """The same from any thread; it ends after the item that it reads."""
        self._is_closed = True
        self._credits.put(0)


class Numbered:
    """Items by number, which a thread or a worker process gets; `made` as for `opened`."""

    def __init__(self, source: Any, made: Callable[..., Feed]) -> None:
        self._source = source
        self._made = made
        self._first = 0
        self._reading: Feed | None = None

    async def take(self, limit: int) -> list[Any]:
        """Those that were read."""
        if self._reading is None:
            self._reading = self._made(items_of, self._source, self._first)
        return await self._reading.take(limit)

    async def skip(self, count: int) -> int:
        """At once."""
        before, self._first = self._first, min(self._first + count, len(self._source))
        return self._first - before

    async def aclose(self) -> None:
        """Have the reading end."""
        if self._reading is not None:
            await self._reading.aclose()


class Told:
    """The items of `below`, whose error says in a note how many of the source called `name` came before it."""

    def __init__(self, below: Feed, name: str, epoch: int) -> None:
        self._below = below
        self._name = name
        self._epoch = epoch
        self._count = 0
        self.aclose: Close = below.aclose

    async def take(self, limit: int) -> list[Any]:
        """The same."""
        try:
            items = await self._below.take(limit)
        except Exception as error:
            error.add_note(f"in {self._name}, after {self._count} items of epoch {self._epoch}")
            raise
        self._count += len(items)
        return items

    async def skip(self, count: int) -> int:
        """The same; of an error on the way nobody knows how many came before it."""
        skipped = await self._below.skip(count)
        self._count += skipped
        return skipped


def opened(source: Any, made: Callable[..., Feed], account: Account) -> Feed:
    """The items of one epoch; ``made(fn, *args)`` has a thread or a worker advance what ``fn(*args)`` returns."""
    if isasyncgenfunction(source):
        return Followed(source, account)
    if isinstance(source, list | tuple | range):
        return Listed(source)
    if is_indexed(source):
        return Numbered(source, made)
    return Followed(lambda: source, account) if is_async(source) else made(items_of, source)


def check_again(source: object, epoch: int, *, is_first: bool) -> None:
    """Refuse to begin anew what can be gone through only once.

    Raises:
        ValueError: it is, and this is not the first time or not the first epoch.
    """
    if is_used_up(source) and (epoch or not is_first):
        raise ValueError(
            f"epoch {epoch} of {shown(source)}: it can be gone through only once; give a function without arguments "
            "that makes a new one"
        )
