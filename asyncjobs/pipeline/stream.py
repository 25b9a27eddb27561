"""An open pipeline, on an event loop: `Stream`."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from asyncjobs.errors import RunnerClosed
from asyncjobs.futures import call_soon
from asyncjobs.pipeline.account import Consumer
from asyncjobs.pipeline.bells import Window, background
from asyncjobs.pipeline.faults import Fault
from asyncjobs.pipeline.fusing import fused
from asyncjobs.pipeline.passage import Passage, to_the_end
from asyncjobs.pipeline.position import Position
from asyncjobs.pipeline.report import PipelineReport
from asyncjobs.pipeline.stages import Stage, is_tuned, opened, work_of
from asyncjobs.pipeline.stall import Watch, in_hand
from asyncjobs.pipeline.tuner import Tuner
from asyncjobs.pipeline.workshop import Workshop, goes_far
from asyncjobs.runner import Runner

T = TypeVar("T")


class Stream(Generic[T]):
    """An open pipeline: each ``async for`` over it is the next epoch, with the same workers.

    One at a time; to begin another ends the one before. Used on the loop that opened it.
    """

    def __init__(
        self, stages: Sequence[Stage], seed: int, runner: Runner | None, stall_timeout: float | None = None
    ) -> None:
        self._stages = fused(stages, lambda lane: goes_far(lane, runner))
        self._shop = Workshop(work_of(self._stages), seed, runner)
        self._passage: Passage | None = None
        self.position: Position = Position(stages, seed)
        """Where the consumer stands."""
        self.consumer: Consumer = Consumer()
        self.watch: Watch = Watch(self._shop, self.consumer, stall_timeout)
        """Warns when the consumer waits too long."""
        self._tuner = Tuner(self.consumer, self._shop.tuned) if is_tuned(self._stages) else None
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
        self._look_away()
        await to_the_end(background(_close(self._passage, self._shop)))

    def __del__(self) -> None:
        loop = getattr(self, "_loop", None)
        if loop is None:
            return
        text = f"{self!r} was never closed; use `async with`, or `for` over the pipeline itself"
        self._loop = None
        if not call_soon(loop, _abandon, self._passage, self._shop):
            self._shop.abort()
        warnings.warn(text, ResourceWarning, source=self, stacklevel=2)

    # --- items --------------------------------------------------------------------------

    def __aiter__(self) -> AsyncGenerator[T, None]:
        """The items of the next epoch.

        Raises:
            RunnerClosed: the pipeline is closed, or is meanwhile; or another loop over it has begun.
        """
        return self._items()

    async def _items(self) -> AsyncGenerator[T, None]:
        window = Window(1)
        async with self.next_epoch() as passage:
            place = passage.place
            self.consumer.begins()
            self.watch.look_on()
            while items := await self._next(passage, window.size):
                for item in items:
                    place.delivered += 1
                    yield item
                window.passed(len(items))
            place.is_ended = True

    async def _next(self, passage: Passage, limit: int) -> list[Any]:
        with self.consumer:
            return await passage.take(limit)

    @asynccontextmanager
    async def next_epoch(self) -> AsyncIterator[Passage]:
        """The items of the next epoch, for whoever takes several at once; any other epoch has ended."""
        while (other := self._passage) is not None:
            await self._end(other)
        if self._loop is None:
            raise RunnerClosed(f"{self!r}: open it with `async with`")
        # In this order: a loop that cannot begin is no epoch.
        feed = opened(self._stages, self._shop, self.position.next_epoch)
        passage = self._passage = Passage(feed, self.position.begin())
        if self._tuner is not None:
            self._tuner.look_on()
        try:
            if passage.place.delivered:
                await passage.skip(passage.place.delivered)
            yield passage
        finally:
            await self._end(passage)

    async def _end(self, passage: Passage) -> None:
        try:
            await passage.aclose()
        finally:
            if self._passage is passage:
                self._look_away()
                self._passage = None

    def _look_away(self) -> None:
        self.watch.look_away()
        if self._tuner is not None:
            self._tuner.look_away()

    # --- going on where another left off ------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Where the consumer stands: the epoch, and how many of its items it was given. JSON takes it.

        Raises:
            ValueError: a stage has ``ordered=False``.
        """
        return self.position.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Have the next loop go on there: what was not delivered comes, and then the next epochs, as they would have.

        Functions are not called for items that were delivered; except where they decide how many there are (`filter`,
        `flat_map`, ``on_error`` other than "raise") or feed a `shuffle`, and sources that are no sequences are read.

        Raises:
            TypeError: `state` is no dict.
            ValueError: a stage has ``ordered=False``; the state is of a pipeline with another seed or other stages.
        """
        self.position.load_state_dict(state)

    # --- looking ------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """The number of the epoch that the next loop begins."""
        return self.position.next_epoch

    @property
    def errors(self) -> list[Fault]:
        """The latest items that were left out because they failed, at most 100 of each stage."""
        return self._shop.errors()

    @property
    def skipped(self) -> int:
        """How many items were left out because they failed."""
        return self._shop.skipped()

    def report(self) -> PipelineReport:
        """What each stage did with its time so far, over all epochs, and in one sentence what holds the consumer up."""
        return self._shop.report(self.consumer)

    def in_hand(self) -> str:
        """The items that each stage has in hand, with their age, and where the calls are: the stacks of threads,
        coroutines and worker processes. For people; a moment passes until workers have told.
        """
        return in_hand(self._shop)

    def __repr__(self) -> str:
        state = "closed" if self._loop is None else "open"
        return f"<Stream of {len(self._stages)} stages, {state}, epoch {self.epoch} is next>"


def _abandon(passage: Passage | None, shop: Workshop) -> None:
    """On the loop: close what nobody closed."""
    background(_close(passage, shop))


async def _close(passage: Passage | None, shop: Workshop) -> None:
    try:
        if passage is not None:
            await passage.aclose()
    finally:
        await shop.aclose()
