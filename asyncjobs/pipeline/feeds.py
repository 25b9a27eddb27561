"""Stages that need no workers: they take items from the feed below and hand on others, on the loop.

All items travel in lists of what is there at the moment, so that what a hop costs is shared by several. A feed lives
for one epoch.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from random import Random
from typing import Any, Protocol

from asyncjobs.pipeline.bells import MOST, Bell, Window, background
from asyncjobs.wire.failure import safe_to_raise

Lower = Callable[[int], "Feed"]
"""Opens the feed below for an epoch."""
Close = Callable[[], Coroutine[Any, Any, None]]


class Feed(Protocol):
    """One epoch of items."""

    async def take(self, limit: int) -> list[Any]:
        """At least one item and at most `limit`, those that are there; none at the end. One call at a time."""

    async def skip(self, count: int) -> int:
        """Leave out the next `count` items, before any was taken; how many there were. Calls no function of the user's
        that it can do without."""

    async def aclose(self) -> None:
        """Let go of everything, also in the midst; a second call does nothing."""


async def discarded(feed: Feed, count: int) -> int:
    """`skip` for a feed that has to make its items all the same."""
    left = count
    while left and (items := await feed.take(min(left, MOST))):
        left -= len(items)
    return count - left


async def _exactly(feed: Feed, count: int) -> list[Any]:
    """So many items; fewer only at the end."""
    items = await feed.take(count) if count else []
    while items and len(items) < count and (more := await feed.take(count - len(items))):
        items += more
    return items


class Grouped:
    """Lists of `size` items."""

    def __init__(self, below: Feed, size: int, drop_last: bool) -> None:
        self._below = below
        self._size = size
        self._drop_last = drop_last
        self.aclose: Close = below.aclose

    async def take(self, limit: int) -> list[Any]:
        """One group: it is large enough to be on its own."""
        items = await _exactly(self._below, self._size)
        is_whole = len(items) == self._size
        return [items] if is_whole or (items and not self._drop_last) else []

    async def skip(self, count: int) -> int:
        """Whole groups."""
        groups, rest = divmod(await self._below.skip(count * self._size), self._size)
        return groups + (rest > 0 and not self._drop_last)


class Sharded:
    """Every `count`-th item, from the one at `index` on."""

    def __init__(self, below: Feed, index: int, count: int) -> None:
        self._below = below
        self._count = count
        self._skip = index
        self.aclose: Close = below.aclose

    async def take(self, limit: int) -> list[Any]:
        """Those among the next."""
        while items := await self._below.take(limit):
            mine = items[self._skip :: self._count]
            self._skip = (self._skip - len(items)) % self._count
            if mine:
                return mine
        return []

    async def skip(self, count: int) -> int:
        """Those of the others too."""
        first, self._skip = self._skip, self._count - 1
        skipped = await self._below.skip(first + 1 + (count - 1) * self._count) if count else 0
        return (skipped - first - 1) // self._count + 1 if skipped > first else 0


class Taken:
    """The first `count` items."""

    def __init__(self, below: Feed, count: int) -> None:
        self._below = below
        self._left = count
        self.aclose: Close = below.aclose

    async def take(self, limit: int) -> list[Any]:
        """As long as there are any."""
        items = await self._below.take(min(limit, self._left)) if self._left else []
        self._left -= len(items)
        return items

    async def skip(self, count: int) -> int:
        """At most those that are left."""
        skipped = await self._below.skip(min(count, self._left))
        self._left -= skipped
        return skipped


class Skipped:
    """All but the first `count` items."""

    def __init__(self, below: Feed, count: int) -> None:
        self._below = below
        self._ahead = count
        self.aclose: Close = below.aclose

    async def take(self, limit: int) -> list[Any]:
        """Those after them, which nobody has to make."""
        if self._ahead:
            await self.skip(0)
        return await self._below.take(limit)

    async def skip(self, count: int) -> int:
        """Of those after them."""
        ahead, self._ahead = self._ahead, 0
        return max(0, await self._below.skip(ahead + count) - ahead)


class Shuffled:
    """Each item is any of `size` that are held, and the next one takes its place."""

    def __init__(self, below: Feed, size: int, random: Random) -> None:
        self._below = below
        self._size = size
        self._random = random
        self._held: list[Any] = []
        self._is_last = False
        self.aclose: Close = below.aclose

    async def take(self, limit: int) -> list[Any]:
        """Which item comes depends on those that came before, not on when they came."""
        held = self._held
        if not self._is_last and len(held) < self._size:
            held += await _exactly(self._below, self._size - len(held))
            self._last_if(len(held) < self._size)
        if not self._is_last:
            items = await self._below.take(limit)
            self._last_if(not items)
            if items:
                return [self._exchanged(item) for item in items]
        taken, self._held = held[:limit], held[limit:]
        return taken

    def _last_if(self, is_last: bool) -> None:
        if is_last:
            self._is_last = True
            self._random.shuffle(self._held)

    def _exchanged(self, item: Any) -> Any:
        at = int(self._random.random() * self._size)
        self._held[at], item = item, self._held[at]
        return item

    async def skip(self, count: int) -> int:
        """What is held afterwards depends on them."""
        return await discarded(self, count)


class Zipped:
    """Tuples of one item of each, as long as all have one."""

    def __init__(self, feeds: list[Feed]) -> None:
        self._feeds = feeds
        self._is_over = False
        self._error: Exception | None = None

    async def take(self, limit: int) -> list[Any]:
        """As many as the first has there."""
        rows = await self._rows(limit) if not self._is_over else []
        if self._error is not None and not rows:
            raise self._error
        return rows

    async def _rows(self, limit: int) -> list[Any]:
        columns = [await self._feeds[0].take(limit)]
        for feed in self._feeds[1:]:
            columns.append(await self._column(feed, len(columns[-1])))
        return list(zip(*columns, strict=False))

    async def _column(self, feed: Feed, count: int) -> list[Any]:
        """So many items. If there are fewer, for an error or for the end, the row after them is what ends us."""
        items: list[Any] = []
        raised: Exception | None = None
        try:
            while len(items) < count and (more := await feed.take(count - len(items))):
                items += more
        except Exception as error:
            raised = error
        if len(items) < count:
            self._is_over, self._error = True, raised
        return items

    async def skip(self, count: int) -> int:
        """Of all of them."""
        return min([await feed.skip(count) for feed in self._feeds])

    async def aclose(self) -> None:
        """All of them, also if one fails."""
        async with AsyncExitStack() as stack:
            for feed in reversed(self._feeds):
                stack.push_async_callback(feed.aclose)


class Repeated:
    """One epoch after the other; one without any item is the last."""

    def __init__(self, below: Lower, first: int, epochs: int | None) -> None:
        self._below = below
        self._next = first
        self._end = None if epochs is None else first + epochs
        self._feed: Feed | None = None
        self._is_empty = True

    async def take(self, limit: int) -> list[Any]:
        """Of one epoch at a time."""
        while (feed := self._current()) is not None:
            if items := await feed.take(limit):
                self._is_empty = False
                return items
            await self._end_epoch()
        return []

    async def skip(self, count: int) -> int:
        """Whole epochs, and the beginning of another."""
        left = count
        while left and (feed := self._current()) is not None:
            skipped = await feed.skip(left)
            left -= skipped
            self._is_empty = self._is_empty and not skipped
            if left:
                await self._end_epoch()
        return count - left

    def _current(self) -> Feed | None:
        """The epoch that is open, or the next; None after the last."""
        if self._feed is None and self._next != self._end:
            self._feed = self._below(self._next)
            self._next += 1
            self._is_empty = True
        return self._feed

    async def _end_epoch(self) -> None:
        await self.aclose()
        if self._is_empty:
            self._end = self._next

    async def aclose(self) -> None:
        """The epoch that is open."""
        feed, self._feed = self._feed, None
        if feed is not None:
            await feed.aclose()


class Prefetched:
    """Items are fetched ahead of whoever takes them, as many as the window says.

    With a bell that several share, whoever waits for any of them hears of each.
    """

    def __init__(self, below: Feed, window: Window, news: Bell | None = None) -> None:
        self._below = below
        self._window = window
        loop = asyncio.get_running_loop()
        self._news = news or Bell(loop)
        self._room = Bell(loop)
        self._items: deque[Any] = deque()
        self._error: BaseException | None = None
        self._is_over = False
        self._fetcher: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Fetch from now on; the first `take` would."""
        if self._fetcher is None:
            self._fetcher = background(self._fetch())

    async def _fetch(self) -> None:
        try:
            while items := await self._below.take(await self._free()):
                self._items.extend(items)
                self._news.wake()
        # Everything: whoever takes would wait for ever. It comes after the items that came before it.
        except BaseException as error:
            self._error = safe_to_raise(error)
        self._is_over = True
        self._news.wake()

    async def _free(self) -> int:
        while (free := self._window.size - len(self._items)) <= 0:
            await self._room.wait()
        return free

    @property
    def is_ready(self) -> bool:
        """Whether `take` would not wait."""
        return bool(self._items) or self._is_over

    async def take(self, limit: int) -> list[Any]:
        """Those that were fetched."""
        self.begin()
        while not self.is_ready:
            await self._news.wait()
        if not self._items and self._error is not None:
            raise self._error
        taken = [self._items.popleft() for _ in range(min(limit, len(self._items)))]
        self._window.passed(len(taken))
        size = self._window.size
        # Where many are held, several are fetched for one change of tasks.
        if size - len(self._items) >= max(1, size // 4):
            self._room.wake()
        return taken

    async def skip(self, count: int) -> int:
        """Nothing has been fetched yet."""
        return await self._below.skip(count)

    async def aclose(self) -> None:
        """Stop fetching, and close the feed below."""
        if self._fetcher is not None:
            self._fetcher.cancel()
            await asyncio.wait([self._fetcher])
        await self._below.aclose()


class Cached:
    """Keeps the items that pass; whoever has all of them is told by a call of `keep`."""

    def __init__(self, below: Feed, keep: Callable[[list[Any]], object]) -> None:
        self._below = below
        self._keep = keep
        self._items: list[Any] = []
        self.aclose: Close = below.aclose

    async def take(self, limit: int) -> list[Any]:
        """The next; after the last, `keep` has them all."""
        items = await self._below.take(limit)
        self._items += items
        if not items:
            self._keep(self._items)
        return items

    async def skip(self, count: int) -> int:
        """They are kept too: a later epoch needs them."""
        return await discarded(self, count)
