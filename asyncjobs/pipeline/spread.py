"""A stage that makes several items of each, some of them at once: `Spread`, for `flat_map` and `interleave`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from asyncjobs.pipeline.bells import Bell, Window, background
from asyncjobs.pipeline.faults import Faults
from asyncjobs.pipeline.feeds import Feed, Prefetched, discarded
from asyncjobs.pipeline.turns import Branch, Turns
from asyncjobs.wire.failure import safe_to_raise

AHEAD = 2
"""Items of each open one that are fetched ahead, or more of those that take no time."""


class Spread:
    """One epoch of the stage.

    Args:
        below: where the items come from.
        make: opens the feed of the items of an item, by its index and itself.
        turns: in which order they come.
        concurrency: of so many items the feeds are open, and fetch ahead.
        faults: what becomes of items whose feeds fail.
    """

    def __init__(
        self,
        below: Feed,
        make: Callable[[int, Any], Feed],
        turns: Turns,
        concurrency: int,
        faults: Faults,
        epoch: int,
    ) -> None:
        self._below = below
        self._make = make
        self._turns = turns
        self._concurrency = concurrency
        self._faults = faults
        self._epoch = epoch
        loop = asyncio.get_running_loop()
        self._news = Bell(loop)
        self._room = Bell(loop)
        self._branches: dict[Branch, None] = {}
        """Those that are open."""
        self._begun = 0
        self._is_over = False
        self._error: BaseException | None = None
        """It comes once all that was begun before it has ended."""
        self._problem: Exception | None = None
        self._feeder: asyncio.Task[None] | None = None

    # --- in -----------------------------------------------------------------------------

    async def _feed(self) -> None:
        try:
            while items := await self._below.take(await self._free()):
                for item in items:
                    self._begin(item)
        # Everything: whoever takes would wait for ever.
        except BaseException as error:
            self._error = safe_to_raise(error)
        self._is_over = True
        self._news.wake()

    async def _free(self) -> int:
        while (free := self._concurrency - len(self._branches)) <= 0:
            await self._room.wait()
        return free

    def _begin(self, item: Any) -> None:
        branch = Branch(self._begun, item, Prefetched(self._make(self._begun, item), Window(AHEAD), self._news))
        self._begun += 1
        self._branches[branch] = None
        self._turns.add(branch)
        branch.feed.begin()

    # --- out ----------------------------------------------------------------------------

    async def take(self, limit: int) -> list[Any]:
        """The next, as many as are there."""
        if self._feeder is None:
            self._feeder = background(self._feed())
        items: list[Any] = []
        while len(items) < limit and self._problem is None:
            branch = self._turns.ready(self._is_over)
            if branch is not None:
                items += await self._give(branch, limit - len(items))
            elif items or (self._is_over and not self._branches):
                break
            else:
                await self._news.wait()
        return items or self._end()

    async def _give(self, branch: Branch, limit: int) -> list[Any]:
        """Of one that is ready, so that this does not wait."""
        items: list[Any] = []
        error: Exception | None = None
        try:
            items = await branch.feed.take(min(limit, self._turns.limit()))
        except Exception as raised:
            error = raised
        if items:
            self._turns.gave(branch, len(items))
        else:
            await self._close(branch, error)
        return items

    async def _close(self, branch: Branch, error: Exception | None) -> None:
        self._turns.ended(branch)
        del self._branches[branch]
        self._faults.items += 1
        if error is not None:
            self._problem = self._faults.problem(error, self._epoch, branch.index, branch.item)
        self._room.wake()
        await branch.feed.aclose()

    def _end(self) -> list[Any]:
        """Nothing is there, for good."""
        problem = self._problem or self._error
        if problem is not None:
            raise problem
        return []

    async def skip(self, count: int) -> int:
        """How many an item has is known once they are made."""
        return await discarded(self, count)

    async def aclose(self) -> None:
        """Close all feeds that are open, at the same time, and the one below."""
        if self._feeder is not None:
            self._feeder.cancel()
            await asyncio.wait([self._feeder])
        closing = [asyncio.ensure_future(branch.feed.aclose()) for branch in self._branches]
        self._branches.clear()
        try:
            if closing:
                await asyncio.wait(closing)
        finally:
            await self._below.aclose()
        for closed in closing:
            closed.result()
