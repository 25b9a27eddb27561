"""A stage that makes several items of each, one after the other, as they come: `Spread`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from asyncjobs.pipeline.faults import Faults
from asyncjobs.pipeline.feeds import Feed, discarded


class Spread:
    """One epoch of the stage: the items of one item of the feed below at a time.

    `make` opens the feed of an item's items.
    """

    def __init__(self, below: Feed, make: Callable[[Any], Feed], faults: Faults, epoch: int) -> None:
        self._below = below
        self._make = make
        self._faults = faults
        self._epoch = epoch
        self._index = -1
        self._item: Any = None
        self._feed: Feed | None = None

    async def take(self, limit: int) -> list[Any]:
        """Of one item at a time."""
        while self._feed is not None or await self._begin():
            if items := await self._next(limit):
                return items
        return []

    async def _begin(self) -> bool:
        items = await self._below.take(1)
        if items:
            self._item = items[0]
            self._index += 1
            self._feed = self._make(self._item)
        return bool(items)

    async def _next(self, limit: int) -> list[Any]:
        assert self._feed is not None
        problem = None
        try:
            items = await self._feed.take(limit)
        except Exception as error:
            items, problem = [], self._faults.problem(error, self._epoch, self._index, self._item)
        if problem is not None:
            raise problem
        if not items:
            self._faults.items += 1
            await self._end()
        return items

    async def _end(self) -> None:
        feed, self._feed = self._feed, None
        if feed is not None:
            await feed.aclose()

    async def skip(self, count: int) -> int:
        """How many an item has is known once they are made."""
        return await discarded(self, count)

    async def aclose(self) -> None:
        """Close the item that is open, and the feed below."""
        try:
            await self._end()
        finally:
            await self._below.aclose()
