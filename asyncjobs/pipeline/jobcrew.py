"""A stage's function in a lane of a runner, a worker process for instance: `JobCrew`.

Items whose calls are short travel in groups, as many as take about a millisecond, so that a trip's hundred
microseconds are shared. A group never waits to become full: it takes what is there when a place is free.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from math import ceil
from time import monotonic, perf_counter
from typing import Any

from asyncjobs.errors import NotSendable
from asyncjobs.futures import resolve
from asyncjobs.job import Job
from asyncjobs.lanes.base import ChunkResult
from asyncjobs.lanes.slot import Slot, running_item, stacks_of
from asyncjobs.mapping.group import apart, goes_in_groups, item_error, plan_for_map
from asyncjobs.pipeline.bells import MOST, PERIOD, Bell, background
from asyncjobs.pipeline.crews import GRACE, Cell, Ongoing
from asyncjobs.pipeline.stacks import without_ours
from asyncjobs.state import JobState
from asyncjobs.steering import LaneHandle
from asyncjobs.submitter import Submitter

GROUP_BYTES = 1024 * 1024
"""Arguments that travel together are not larger, as far as the latest trip tells."""


class Trip:
    """Items that travel together."""

    __slots__ = ("cells", "job")

    def __init__(self, cells: list[Cell], job: Job[Any]) -> None:
        self.cells: list[Cell] = cells
        self.job: Job[Any] = job


class JobCrew:
    """Sends items on trips, each of which is a job.

    Args:
        call: what is called with an item, and with its key too if `is_seeded`.
        jobs: the lane, and the name of the jobs.
        size: calls at once.
        own: the lane, if nobody else uses it. Then the next trip may wait in front of its worker.
    """

    def __init__(
        self, call: Callable[..., Any], jobs: Submitter, is_seeded: bool, size: int, own: LaneHandle | None
    ) -> None:
        self._intake = jobs._runner._intake
        self._call = call
        plan = jobs._plan(call)
        self._is_seeded = is_seeded
        self._is_grouped = goes_in_groups(plan, plan.home.lane)
        self._plan = plan_for_map(call, plan, grouped=self._is_grouped, starred=is_seeded)
        self._lane = plan.home.lane
        self._own = own
        self._concurrency = size
        self._waiting: deque[Cell] = deque()
        self._again: deque[list[Cell]] = deque()
        """Groups of a trip that ended badly, which go once more before all others."""
        self._under_way: dict[Cell, Trip] = {}
        self._trips = 0
        self._size = 1
        """Items of a group at most, by the time that they take."""
        self._fit = MOST
        """The same by their bytes, going by the latest trip."""
        self._news = Bell(asyncio.get_running_loop())
        self._sender = background(self._send())

    @property
    def room(self) -> int:
        """So many that all trips can be as large as they may be."""
        return max(2 * self._concurrency, min(MOST, self._at_once * min(self._size, self._fit)))

    @property
    def _at_once(self) -> int:
        """Trips under way at most."""
        return self._concurrency if self._own is None else 2 * self._concurrency

    @property
    def is_complete(self) -> bool:
        """Whether all workers have started that are needed."""
        return self._own is None or len(self._lane.pids()) >= self._concurrency

    def resize(self, size: int) -> None:
        """Workers start when they are needed, and end after what they run."""
        self._concurrency = size
        if self._own is not None:
            self._own.resize(size)
        self._news.wake()

    # --- out ----------------------------------------------------------------------------

    def hand(self, cell: Cell) -> None:
        """With the next trip."""
        self._waiting.append(cell)
        self._news.wake()

    async def _send(self) -> None:
        while True:
            while not (cells := self._next()):
                await self._news.wait()
            self._trips += 1
            await self._start(cells)

    def _next(self) -> list[Cell]:
        """Who goes on the next trip; nobody, if nobody waits or no place is free."""
        free = max(self._at_once - self._trips, 0)  # with fewer calls at once than before more may be under way
        while self._again and free:
            if wanted := [cell for cell in self._again.popleft() if cell.is_wanted]:
                return wanted
        count = min(self._size, self._fit, ceil(len(self._waiting) / free)) if free else 0
        return [self._waiting.popleft() for _ in range(count)]

    async def _start(self, cells: list[Cell]) -> None:
        try:
            job = self._intake.make(self._call, self._plan, self._arguments(cells), {})
            payload = job._call.payload
            nbytes = len(payload.data) + sum(map(len, payload.buffers)) if payload is not None else 0
            job = await self._intake.entered(job)
        # One of them cannot be sent, for whatever reason its pickling gives, or the runner is closed.
        except BaseException as error:
            self._trips -= 1
            self._refused(cells, error)
            if isinstance(error, asyncio.CancelledError):
                raise
            return
        self._fit = max(1, GROUP_BYTES * len(cells) // nbytes) if nbytes else MOST
        trip = Trip(cells, job)
        self._under_way |= dict.fromkeys(cells, trip)
        job.add_done_callback(lambda _: self._landed(trip))
        self._cancel_unwanted(trip)  # dropped while we waited for room

    def _arguments(self, cells: list[Cell]) -> tuple[Any, ...]:
        items = [(cell.item, cell.key) for cell in cells] if self._is_seeded else [cell.item for cell in cells]
        if self._is_grouped:
            return (items,)
        return items[0] if self._is_seeded else (items[0],)

    def _refused(self, cells: list[Cell], error: BaseException) -> None:
        if len(cells) > 1 and not isinstance(error, asyncio.CancelledError):
            self._again.extend([cell] for cell in cells)
            return
        for cell in cells:
            if isinstance(error, NotSendable):
                cell.error = item_error(self._call, cell.item, cell.index, error)
            else:
                cell.error = error
            cell.done()

    # --- home ---------------------------------------------------------------------------

    def _landed(self, trip: Trip) -> None:
        self._trips -= 1
        for cell in trip.cells:
            self._under_way.pop(cell, None)
        error = trip.job.exception()
        if error is None:
            self._unload(trip)
        elif len(trip.cells) > 1 and trip.job.state is not JobState.CANCELLED:
            self._part(trip.cells, error)
        else:
            _end(trip.cells, error)
        self._news.wake()

    def _unload(self, trip: Trip) -> None:
        value = trip.job.result()
        chunk = value if self._is_grouped else ChunkResult([value], {})
        seconds = trip.job._call.seconds / len(trip.cells)
        for index, cell in enumerate(trip.cells):
            cell.value, cell.error = chunk.values[index], chunk.errors.get(index)
            cell.seconds = seconds
            cell.done()
        if self._is_grouped:
            self._size = max(1, min(MOST, int(PERIOD / seconds))) if seconds else MOST

    def _part(self, cells: list[Cell], error: BaseException) -> None:
        """Nobody knows what became of the items: the one to blame gets the error, the others go once more."""
        for part, is_to_blame in apart(cells, error):
            if is_to_blame:
                _end(part, error)
            else:
                self._again.append(part)

    # --- the end ------------------------------------------------------------------------

    def drop(self, cell: Cell) -> None:
        """Cancel the job, once nobody waits for any of its items."""
        cell.is_wanted = False
        trip = self._under_way.get(cell)
        if trip is not None:
            self._cancel_unwanted(trip)
        elif cell in self._waiting:
            self._waiting.remove(cell)

    def _cancel_unwanted(self, trip: Trip) -> None:
        if not any(cell.is_wanted for cell in trip.cells):
            trip.job.cancel("the pipeline ended", grace=GRACE)

    def dismiss(self) -> list[asyncio.Future[None]]:
        """Cancel the jobs."""
        self._sender.cancel()
        for cell in tuple(self._under_way):
            self.drop(cell)
        return [_end_of(trip.job) for trip in {*self._under_way.values()}]

    def hang_up(self) -> None:
        """The runner ends its jobs itself."""

    def calls(self) -> list[Ongoing]:
        """Of each trip that runs, the item that it is at."""
        clocks = perf_counter() - monotonic()
        return [
            Ongoing(trip.cells[_item_of(trip.job, len(trip.cells))], began_at + clocks, partial(stack_of_job, trip.job))
            for trip in {*tuple(self._under_way.values())}
            if (began_at := trip.job.started_at) is not None
        ]


def _end(cells: list[Cell], error: BaseException) -> None:
    for cell in cells:
        cell.error = error
        cell.done()


def _end_of(job: Job[Any]) -> asyncio.Future[None]:
    end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    job.add_done_callback(lambda _: resolve(end))
    return end


def _item_of(job: Job[Any], count: int) -> int:
    """Which of so many items its worker is at."""
    place = job._call.place
    return min(running_item(place), count - 1) if isinstance(place, Slot) else 0


def stack_of_job(job: Job[Any]) -> str:
    """Where its worker is; empty if nobody can say. Takes some 0.1 s."""
    place = job._call.place
    return without_ours(stacks_of(place)) if isinstance(place, Slot) else ""
