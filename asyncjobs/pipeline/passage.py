"""One loop over an open pipeline: `Passage`, which another loop or the close may end while it waits for items."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio

from asyncjobs.errors import RunnerClosed
from asyncjobs.pipeline.bells import background
from asyncjobs.pipeline.feeds import Feed
from asyncjobs.pipeline.position import Place

R = TypeVar("R")


class Passage:
    """The items of one epoch, on their way to one consumer.

    Args:
        feed: where they come from.
        place: how far the consumer has come; the consumer counts.
    """

    def __init__(self, feed: Feed, place: Place) -> None:
        self.place: Place = place
        self._feed = feed
        self._wait = anyio.CancelScope()
        self._in_use = asyncio.Lock()
        self._is_ended = False
        self._closing: asyncio.Task[None] | None = None

    async def take(self, limit: int) -> list[Any]:
        """As `Feed.take`.

        Raises:
            RunnerClosed: another loop over the pipeline has begun, or the pipeline was closed.
        """
        return await self._unless_ended(self._feed.take, limit)

    async def skip(self, count: int) -> int:
        """As `Feed.skip`, and as `take`."""
        return await self._unless_ended(self._feed.skip, count)

    async def _unless_ended(self, ask: Callable[[int], Awaitable[R]], count: int) -> R:
        async with self._in_use:
            # A scope can be entered only once.
            with anyio.CancelScope() as self._wait:
                if not self._is_ended:
                    return await ask(count)
        raise RunnerClosed("this loop over the pipeline has ended: another has begun, or the pipeline was closed")

    async def aclose(self) -> None:
        """Have whoever takes leave, and close the feed; a second call only waits for the first."""
        self._is_ended = True
        self._wait.cancel()
        if self._closing is None:
            self._closing = background(self._close())
            await to_the_end(self._closing)
        else:
            await asyncio.wait([self._closing])

    async def _close(self) -> None:
        async with self._in_use:
            await self._feed.aclose()


async def to_the_end(task: asyncio.Task[None]) -> None:
    """Await it, and only then heed a cancellation: what is half closed is open."""
    # Not one of anyio's shields: they let through what asyncio itself cancels.
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    task.result()
