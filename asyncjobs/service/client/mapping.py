"""Run a function of many items in a service, with bounded look-ahead: `ServiceMap`.

Each item is a job. Items are taken as results are handed out, so endless sources work; they are sent as
they are taken, and the outbox puts them together.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from types import TracebackType
from typing import Any, Generic, TypeVar

from asyncjobs.errors import AsyncJobsError
from asyncjobs.mapping.source import Source
from asyncjobs.options import check_count, check_flag
from asyncjobs.progressbar import progress_bar
from asyncjobs.service.client.drafts import Plan
from asyncjobs.service.client.intake import Intake
from asyncjobs.service.client.job import ServiceJob
from asyncjobs.wire.failure import safe_to_raise

R = TypeVar("R")

logger: logging.Logger = logging.getLogger("asyncjobs")

LOOKAHEAD = 1000
"""Items that are taken before the result of the first is handed out."""
HANDFUL = 100
"""Items that are taken at once, where that is allowed."""


class ServiceMap(Generic[R]):
    """One run over the items; an async iterator, made by `ServiceClient.map`.

    Iterate it, or ``await run.collect()`` for a list; either, and once. It starts when it is first
    asked for a result. Leaving the loop early cancels what is in flight; inside ``async with``,
    whose value is the run itself, that has been awaited when the block ends.
    """

    def __init__(
        self,
        intake: Intake,
        fn: Callable[..., Any],
        plan: Plan,
        source: Source,
        ordered: bool,
        lookahead: int | None,
        on_error: str,
        progress: bool,
    ) -> None:
        check_count("lookahead", lookahead, 1, or_none=True)
        if on_error not in ("raise", "skip", "return"):
            raise ValueError(f"on_error={on_error!r} is not allowed; allowed: 'raise', 'skip' or 'return'")
        check_flag("ordered", ordered)
        check_flag("progress", progress)
        if plan.settled.fields.get("key") is not None:
            raise ValueError(
                "map makes a job per item, and key= names one job: all items would get the value of the first. Leave "
                "the key out, or submit each item with a key of its own"
            )
        self._intake = intake
        self._fn = fn
        self._plan = plan
        self._source = source
        self._ordered = ordered
        self._lookahead = lookahead or LOOKAHEAD
        self._on_error = on_error
        self._progress = progress
        self._jobs: dict[ServiceJob[Any], None] = {}
        """In flight, in the order of the items."""
        self._landed: deque[ServiceJob[Any]] = deque()
        self._watches: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._feeder: asyncio.Task[None] | None = None
        self._leaving: asyncio.Task[None] | None = None
        self._has_begun = False
        # Weak, or the generator would keep itself alive: a `break` must end it at once.
        self._results: weakref.ref[AsyncGenerator[R, None]] | None = None
        self._kept: AsyncGenerator[R, None] | None = None
        self.in_place_of: Callable[[BaseException], Any] = lambda error: error
        """What stands in place of a value with ``on_error="return"``."""

    # --- the face -----------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The option `name`, or the function's."""
        return self._plan.settled.name

    def __aiter__(self) -> AsyncGenerator[R, None]:
        results = self._results() if self._results is not None else None
        if results is None:
            results = self._iterate()
            self._results = weakref.ref(results)
        return results

    async def __anext__(self) -> R:
        if self._kept is None:
            self._kept = self.__aiter__()
        return await anext(self._kept)

    async def collect(self) -> list[R]:
        """All results as a list.

        Raises:
            RuntimeError: the map has been collected or iterated over before.
        """
        self.begin()
        values: list[R] = []
        try:
            async with aclosing(self.batches()) as batches:
                async for batch in batches:
                    values.extend(batch)
        finally:
            self.cancel("the map ended early")
        return values

    async def __aenter__(self) -> ServiceMap[R]:
        self._kept = self.__aiter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        results = self._results() if self._results is not None else None
        self._kept = None
        if results is not None:
            await results.aclose()
        await self.left()

    async def left(self) -> None:
        """Nobody wants more of it: cancel what is in flight, and wait until the service was told."""
        self.cancel("the map was left")
        if self._leaving is not None:
            await asyncio.wait([self._leaving])

    def begin(self) -> None:
        """Say that it runs now, which it does once.

        Raises:
            RuntimeError: it has run before.
            WrongLoop: called from another event loop or thread.
        """
        self._intake.check_loop()
        if self._has_begun:
            raise RuntimeError(f"the map over {self.name} has begun before; a map runs once: call map() again")
        self._has_begun = True

    async def _iterate(self) -> AsyncGenerator[R, None]:
        self.begin()
        try:
            async with aclosing(self.batches()) as batches:
                async for batch in batches:
                    for value in batch:
                        yield value
        finally:
            self._results = None  # who asks after the end is to hear that a map runs once
            self.cancel("the loop over the map was left")

    def cancel(self, reason: str) -> None:
        """Take nothing more, and have the service cancel what is in flight."""
        if self._feeder is not None:
            self._feeder.cancel()
        for watch in self._watches:
            watch.cancel()
        jobs = list(self._jobs)
        self._jobs.clear()
        self._leaving = self._intake.cancel_soon(jobs, reason) or self._leaving

    # --- the run ------------------------------------------------------------------------

    async def batches(self) -> AsyncGenerator[list[R], None]:
        """Results, one in each list."""
        if self._source.is_async:
            self._feeder = self._intake.start(self._feed())
        with progress_bar(self._progress, self.name, self._source.total) as bar:
            while (job := await self._next()) is not None:
                error = await job.outcome()
                self._jobs.pop(job, None)
                self._room.set()
                bar.update(1)
                if error is None:
                    yield [job.result()]
                elif self._on_error == "raise":
                    raise safe_to_raise(error)
                elif self._on_error == "return":
                    yield [self.in_place_of(error)]
        if self._source.error is not None:
            raise self._source.error

    async def _next(self) -> ServiceJob[Any] | None:
        """The next job to hand out; None: that was the last."""
        while True:
            if self._feeder is None:
                await self._fill()
            self._news.clear()
            if self._ordered and self._jobs:
                return next(iter(self._jobs))
            if self._landed:
                return self._landed.popleft()
            if not self._jobs and self._source.is_empty:
                return None
            await self._news.wait()

    async def _fill(self) -> None:
        """Take and send items, a handful at a time, until the look-ahead is reached."""
        room = self._lookahead - len(self._jobs)
        if self._jobs and room < min(HANDFUL, self._lookahead):
            return
        while room > 0 and not self._source.is_empty:
            # An async source is asked for one at a time: none may wait here for the next.
            for item in await self._source.take(1 if self._source.is_async else min(room, HANDFUL)):
                self._send(item)
                room -= 1
            self._news.set()

    async def _feed(self) -> None:
        """Keep the look-ahead filled, in a task of its own: while an async source makes us wait for its next
        item, the results of the ones before it are handed out."""
        try:
            while not self._source.is_empty:
                self._room.clear()
                await self._fill()
                if not self._source.is_empty:
                    await self._room.wait()
        except asyncio.CancelledError:
            raise
        # Whatever it is, it belongs to whoever iterates over the results.
        except BaseException as error:
            self._source.error = error
        finally:
            self._source.is_empty = True
            await self._source.aclose()
            self._news.set()

    def _send(self, item: Any) -> None:
        job = self._intake.send(self._fn, self._plan, tuple(item) if self._source.is_starred else (item,), {})
        self._jobs[job] = None
        if not self._ordered:
            watch = self._intake.start(self._watch(job))
            self._watches.add(watch)
            watch.add_done_callback(self._watches.discard)

    async def _watch(self, job: ServiceJob[Any]) -> None:
        try:
            await job.outcome()
        except (AsyncJobsError, OSError):
            logger.debug("job %r of a map: whoever hands it out hears of it", job.name)
        self._landed.append(job)
        self._news.set()
