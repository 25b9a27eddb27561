"""Call a function on many items, with bounded look-ahead: `MapRun`.

Takes items as results are handed out, so endless sources work. On a process lane short
calls travel in groups whose size follows the measured time per item. Items with options of
their own (time limits, retries) are jobs of their own.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from types import TracebackType
from typing import Any, Generic, TypeVar, cast

from asyncjobs.errors import ArenaFull, NotSendable, RunnerClosed
from asyncjobs.intake import Intake
from asyncjobs.job import Job
from asyncjobs.lanes.base import ChunkResult, Lane, Plan
from asyncjobs.mapping.flight import Flight
from asyncjobs.mapping.group import Group, apart, goes_in_groups, item_error, plan_for_map
from asyncjobs.mapping.sizing import Sizes
from asyncjobs.mapping.source import Source
from asyncjobs.options import check_count, check_flag
from asyncjobs.progressbar import progress_bar
from asyncjobs.state import JobState
from asyncjobs.wire.failure import safe_to_raise

R = TypeVar("R")

GROUPS_PER_WORKER = 3
"""In flight: one that runs, one in the worker's window, one on its way."""


class MapRun(Generic[R]):
    """One run over the items; an async iterator, made by `Runner.map`.

    Iterate it, or ``await run.collect()`` for a list; either, and once. It starts when it is first
    asked for a result. Leaving the loop early cancels what is in flight; inside ``async with``,
    whose value is the run itself, that has been awaited when the block ends, and async generators
    among the sources are closed.
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
        _check(ordered, lookahead, on_error, progress)
        _check_key(plan)
        self._intake = intake
        self._fn = fn
        self._lane: Lane = plan.home.lane
        self._on_error = on_error
        self._progress = progress
        self._source = source
        self._grouped = goes_in_groups(plan, self._lane)
        self._plan = plan_for_map(fn, plan, grouped=self._grouped, starred=source.is_starred)
        self._lookahead = lookahead
        self._sizes = Sizes()
        self._seen = 0
        """Items that were taken."""
        self._flight = Flight(ordered)
        self._has_begun = False
        # Weak, or the generator would keep itself alive: a `break` must end it at once.
        self._results: weakref.ref[AsyncGenerator[R, None]] | None = None
        self.in_place_of: Callable[[BaseException], Any] = lambda error: error
        """What stands in place of a value with ``on_error="return"``."""
        self._kept: AsyncGenerator[R, None] | None = None
        """The same, where `async with` ends it, or whoever asks for single results."""
        self._feeder: asyncio.Task[None] | None = None
        self._room = asyncio.Event()

    # --- the face -----------------------------------------------------------------------

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
        """All results as a list; the fastest form.

        Raises:
            RuntimeError: the map has been collected or iterated over before.
            WrongLoop: called from another event loop.
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

    async def __aenter__(self) -> MapRun[R]:
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
        """Nobody wants more of it: cancel what is in flight, and wait for that."""
        for job in self.cancel("the map was left"):
            await job.wait()
        if self._feeder is not None:
            await asyncio.wait([self._feeder])

    @property
    def name(self) -> str:
        """The option `name`, or the function's."""
        return self._plan.name

    def hint(self, size: int) -> None:
        """Let the first group have so many items."""
        self._sizes.hint(size)

    def begin(self) -> None:
        """Say that it runs now, which it does once.

        Raises:
            RuntimeError: it has run before.
            WrongLoop: called from another event loop or thread.
        """
        self._intake.engine.check_loop()
        if self._has_begun:
            raise RuntimeError(f"the map over {self._plan.name} has begun before; a map runs once: call map() again")
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

    def cancel(self, reason: str) -> list[Job[Any]]:
        """Cancel what is in flight, and take nothing more; the jobs that have not ended yet."""
        if self._feeder is not None:
            self._feeder.cancel()
        jobs = [job for job in self._flight.jobs() if not job.done()]
        for job in self._flight.jobs():
            job._listen(Job.exception)  # looked at: nobody will come for it any more
        for job in jobs:
            job.cancel(reason)
        return jobs

    # --- the run ------------------------------------------------------------------------

    async def batches(self) -> AsyncGenerator[list[R], None]:
        """Results, a list at a time."""
        if self._source.is_async and self._feeder is None:
            self._feeder = self._intake.engine.start(self._feed())
        with progress_bar(self._progress, self._plan.name, self._source.total) as bar:
            while True:
                if self._feeder is None:
                    await self._fill()
                group = await self._flight.next(lambda: self._source.is_empty)
                if group is None:
                    break
                self._room.set()
                values, errors = await self._harvest(group)
                bar.update(len(values))
                if not errors:
                    yield values
                    continue
                good, error = self._sort_out(values, errors)
                if good:
                    yield good
                if error is not None:
                    raise safe_to_raise(error)
        if self._source.error is not None:
            raise self._source.error

    def _sort_out(self, values: list[R], errors: dict[int, BaseException]) -> tuple[list[R], BaseException | None]:
        """What to hand out, and what to raise after it."""
        if self._on_error == "return":
            for index, error in errors.items():
                values[index] = self.in_place_of(error)
            return values, None
        if self._on_error == "skip":
            return [value for index, value in enumerate(values) if index not in errors], None
        first = min(errors)
        return values[:first], errors[first]

    async def _feed(self) -> None:
        """Keep the look-ahead filled, in a task of its own: while an async source makes us
        wait for its next item, the results of the ones before it are handed out."""
        try:
            while not self._source.is_empty:
                self._room.clear()
                await self._fill()
                if not self._source.is_empty:
                    await self._room.wait()
        except asyncio.CancelledError:
            self._source.error = RunnerClosed("the runner was closed while it read the map's source")
        # Whatever it is, it belongs to whoever iterates over the results.
        except BaseException as error:
            self._source.error = error
        finally:
            self._source.is_empty = True
            await self._source.aclose()
            self._flight.wake()

    async def _fill(self) -> None:
        """Send off items until the look-ahead is reached."""
        while not self._source.is_empty and (count := self._wanted()) > 0:
            items = await self._source.take(count)
            if not items:
                break
            first = self._seen
            self._seen += len(items)
            self._flight.items += len(items)
            for group in await self._launch(items, first):
                self._flight.add(group)

    def _wanted(self) -> int:
        """How many items to take next; 0: the look-ahead is reached."""
        places = max(1, self._lane.size())  # 0: a cluster that is not there yet
        # An async source is asked for one at a time: none may wait here for the next.
        size = 1
        if self._grouped and not self._source.is_async:
            total = self._source.total
            size = self._sizes.next(None if total is None else total - self._seen, places)
        if self._lookahead is not None:
            return min(max(1, min(size, self._lookahead // (2 * places))), self._lookahead - self._flight.items)
        limit = (GROUPS_PER_WORKER if self._grouped else 2) * places + 1
        return size if len(self._flight) < limit else 0

    async def _launch(self, items: list[Any], first: int) -> list[Group]:
        """Send off one group, whose first item is number `first`; if that cannot be, its items one by one."""
        try:
            job = await self._submit(items)
        except (NotSendable, ArenaFull) as error:
            if len(items) == 1:
                found = item_error(self._fn, items[0], first, error) if isinstance(error, NotSendable) else error
                return [Group(first, items, None, found)]
            return [group for at, item in enumerate(items, first) for group in await self._launch([item], at)]
        return [Group(first, items, job, None)]

    async def _submit(self, items: list[Any]) -> Job[Any]:
        args = (items,) if self._grouped else (tuple(items[0]) if self._source.is_starred else (items[0],))
        job = self._intake.make(self._fn, self._plan, args, {})
        payload = job._call.payload
        if self._grouped and payload is not None:
            self._sizes.pickled(len(items), len(payload.data) + sum(map(len, payload.buffers)))
        return await self._intake.entered(job)

    async def _harvest(self, group: Group) -> tuple[list[R], dict[int, BaseException]]:
        """A value per item; errors by index."""
        job = group.job
        if job is None:
            return [cast(R, None)], {0: cast(BaseException, group.error)}
        error = job.exception()
        if error is None:
            if not self._grouped:
                return [job.result()], {}
            chunk: ChunkResult = job.result()
            self._sizes.took(len(chunk.values), job._call.seconds, self._lane.size())
            return chunk.values, chunk.errors
        if len(group.items) == 1:
            return [cast(R, None)], {0: error}
        return await self._redo(group, error, job.state)

    async def _redo(
        self, group: Group, error: BaseException, state: JobState
    ) -> tuple[list[R], dict[int, BaseException]]:
        """A whole group ended badly: find the item to blame, and run the others again."""
        items = group.items
        if state is JobState.CANCELLED:
            return [cast(R, None)] * len(items), dict.fromkeys(range(len(items)), error)
        values: list[R] = []
        errors: dict[int, BaseException] = {}
        first = group.first
        for part, is_its in apart(items, error):
            if is_its:
                part_values, part_errors = [cast(R, None)], {0: error}
            else:
                part_values, part_errors = await self._again(part, first)
            first += len(part)
            errors.update({len(values) + at: problem for at, problem in part_errors.items()})
            values.extend(part_values)
        return values, errors

    async def _again(self, items: list[Any], first: int) -> tuple[list[R], dict[int, BaseException]]:
        if len(items) == 1:
            (group,) = await self._launch(items, first)
        else:
            group = Group(first, items, await self._submit(items), None)
        if group.job is not None:
            with self._flight.once_more(group):
                await group.job.wait()
        return await self._harvest(group)


def _check_key(plan: Plan) -> None:
    if plan.options.key is not None:
        raise ValueError(
            f"map makes a job per item, and key={plan.options.key!r} names one job: all items would get the value "
            "of the first. Leave the key out, or submit each item with a key of its own"
        )


def _check(ordered: object, lookahead: object, on_error: object, progress: object) -> None:
    check_count("lookahead", lookahead, 1, or_none=True)
    if on_error not in ("raise", "skip", "return"):
        raise ValueError(f"on_error={on_error!r} is not allowed; allowed: 'raise', 'skip' or 'return'")
    check_flag("ordered", ordered)
    check_flag("progress", progress)
