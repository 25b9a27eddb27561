"""An open pipeline, on an event loop: `Stream`."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import anyio

from asyncjobs.errors import RunnerClosed
from asyncjobs.futures import call_soon
from asyncjobs.pipeline.bells import Window
from asyncjobs.pipeline.faults import Fault
from asyncjobs.pipeline.feeds import Feed
from asyncjobs.pipeline.stages import Stage, opened, work_of
from asyncjobs.pipeline.workshop import Workshop
from asyncjobs.runner import Runner

T = TypeVar("T")


class Stream(Generic[T]):
    """An open pipeline: each ``async for`` over it is the next epoch, with the same workers.

    One at a time; to begin another ends the one before. Used on the loop that opened it.
    """

    def __init__(self, stages: Sequence[Stage], seed: int, runner: Runner | None) -> None:
        self._stages = stages
        self._shop = Workshop(work_of(stages), seed, runner)
        self._feed: Feed | None = None
        self._epoch = 0
        self._loop: asyncio.AbstractEventLoop | None = None

    # --- life ---------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self._shop.open()
        self._loop = asyncio.get_running_loop()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End everything: tasks, threads, worker processes. A second call does nothing."""
        if self._loop is None:
            return
        self._loop = None
        with anyio.CancelScope(shield=True):
            try:
                await self._end_epoch()
            finally:
                await self._shop.aclose()

    async def _end_epoch(self) -> None:
        feed, self._feed = self._feed, None
        if feed is not None:
            await feed.aclose()

    def __del__(self) -> None:
        loop = getattr(self, "_loop", None)
        if loop is None:
            return
        text = f"{self!r} was never closed; use `async with`, or `for` over the pipeline itself"
        self._loop = None
        if not call_soon(loop, _abandon, self._feed, self._shop):
            self._shop.abort()
        warnings.warn(text, ResourceWarning, source=self, stacklevel=2)

    # --- items --------------------------------------------------------------------------

    def __aiter__(self) -> AsyncGenerator[T, None]:
        """The items of the next epoch.

        Raises:
            RunnerClosed: the pipeline is closed.
        """
        return self._items()

    async def _items(self) -> AsyncGenerator[T, None]:
        window = Window(1)
        async with self.next_epoch() as feed:
            while items := await feed.take(window.size):
                for item in items:
                    yield item
                window.passed(len(items))

    @asynccontextmanager
    async def next_epoch(self) -> AsyncIterator[Feed]:
        """The items of the next epoch, for whoever takes several at once; any other epoch has ended."""
        if self._loop is None:
            raise RunnerClosed(f"{self!r}: open it with `async with`")
        await self._end_epoch()
        feed = self._feed = opened(self._stages, self._shop, self._epoch)
        self._epoch += 1
        try:
            yield feed
        finally:
            if self._feed is feed:
                self._feed = None
            with anyio.CancelScope(shield=True):
                await feed.aclose()

    # --- looking ------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """How many epochs have begun."""
        return self._epoch

    @property
    def errors(self) -> list[Fault]:
        """The latest items that were left out because they failed, at most 100 of each stage."""
        return self._shop.errors()

    @property
    def skipped(self) -> int:
        """How many items were left out because they failed."""
        return self._shop.skipped()

    def __repr__(self) -> str:
        state = "closed" if self._loop is None else "open"
        return f"<Stream of {len(self._stages)} stages, {state}, {self._epoch} epochs begun>"


def _abandon(feed: Feed | None, shop: Workshop) -> None:
    """On the loop: close what nobody closed."""
    closing: asyncio.Task[Any] = asyncio.get_running_loop().create_task(_close(feed, shop))
    _closing.add(closing)
    closing.add_done_callback(_closing.discard)


_closing: set[asyncio.Task[Any]] = set()
"""The loop keeps only weak references."""


async def _close(feed: Feed | None, shop: Workshop) -> None:
    if feed is not None:
        await feed.aclose()
    await shop.aclose()
