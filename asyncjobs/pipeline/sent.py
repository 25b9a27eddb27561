"""Items that a worker process makes and sends: `Sent`."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from time import perf_counter
from typing import Any

from asyncjobs.errors import OutOfRangeError
from asyncjobs.flow.queues import FIFOQueue
from asyncjobs.job import Job
from asyncjobs.pipeline.account import Account
from asyncjobs.pipeline.feeds import discarded
from asyncjobs.pipeline.jobcrew import stack_of_job
from asyncjobs.remote.items import send_items
from asyncjobs.submitter import Submitter

AHEAD = 1
"""Lists of items that have arrived and wait; another one waits in the worker, and one is being made."""
GRACE = 0.2
"""Seconds that a generator gets to come to its next item, where it is closed, before it is interrupted."""


class Sent:
    """The items of ``make(*args)``, which is called and advanced in a job.

    The job fills a queue, and the queue makes it wait; the last items are its result. What ends the job closes the
    queue, and to close the queue ends the job at its next item.
    """

    def __init__(self, jobs: Submitter, account: Account, make: Callable[..., Iterable[Any]], *args: Any) -> None:
        self._jobs = jobs
        self._account = account
        self._call = (make, *args)
        self._queue: FIFOQueue[list[Any]] = FIFOQueue(AHEAD)
        self._items: deque[Any] = deque()
        self._job: Job[list[Any]] | None = None
        self._is_over = False
        self.since: float | None = None
        account.readings.add(self)

    async def take(self, limit: int) -> list[Any]:
        """Those that have arrived."""
        if self._job is None:
            self._job = await self._jobs.submit(send_items, self._queue.argument, *self._call)
            self._job.add_done_callback(lambda _: self._queue._shut(cancel=True))
        while not self._items and not self._is_over:
            began = self.since = perf_counter()
            try:
                chunk = await self._queue.dequeue()
            except OutOfRangeError:
                self._is_over = True
                chunk = self._job.result()
            finally:
                self.since = None
            if chunk:
                # What it took while nobody waited is not known here, and holds nobody up.
                self._account.read([(perf_counter() - began) / len(chunk)] * len(chunk))
                self._items.extend(chunk)
        return [self._items.popleft() for _ in range(min(limit, len(self._items)))]

    def stack(self) -> str:
        """Of the worker."""
        return "" if self._job is None else stack_of_job(self._job)

    async def skip(self, count: int) -> int:
        """It has to make them."""
        return await discarded(self, count)

    async def aclose(self) -> None:
        """Have the job end. If it does not, it is interrupted, and a second later its worker is killed."""
        self._account.readings.discard(self)
        job = self._job
        if job is None:
            return
        await self._queue.close(cancel_pending_enqueues=True)
        if job.started_at is not None:
            await _wait(job, GRACE)
        job.cancel("the pipeline ended", grace=0)
        await job.wait()
        job.exception()  # nobody else may have looked at it


async def _wait(job: Job[Any], seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await job.wait()
    except TimeoutError:
        return
