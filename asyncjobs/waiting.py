"""Wait for several jobs: `gather` and `as_completed`."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable
from typing import Any, TypeVar

from asyncjobs.futures import call_soon
from asyncjobs.job import Job

R = TypeVar("R")


async def gather(jobs: Iterable[Job[R]]) -> list[R]:
    """The values of `jobs`, in their order; the first failure (in that order) is raised.

    The other jobs go on: cancel them yourself if they are of no use any more.

    Raises:
        TypeError: `jobs` are no jobs.
    """
    waiting = checked_jobs(jobs)
    for job in waiting:
        await job.wait()
    return [job.result() for job in waiting]


def as_completed(jobs: Iterable[Job[R]]) -> AsyncIterator[Job[R]]:
    """The jobs themselves, each as soon as it has ended; from any event loop.

    Raises:
        TypeError: `jobs` are no jobs.
    """
    return _each(checked_jobs(jobs))


def checked_jobs(jobs: Iterable[Job[R]]) -> list[Job[R]]:
    """A list of them, once each is known to be a job."""
    if not isinstance(jobs, Iterable):
        raise TypeError(f"jobs={jobs!r} is not allowed; allowed: an iterable of jobs")
    found = list(jobs)
    for index, job in enumerate(found):
        if not isinstance(job, Job):
            raise TypeError(f"jobs[{index}]={job!r} is not allowed; allowed: a Job, as submit returns it")
    return found


async def _each(waiting: list[Job[R]]) -> AsyncIterator[Job[R]]:
    loop = asyncio.get_running_loop()
    ready: deque[Job[Any]] = deque()
    arrived = asyncio.Event()

    def on_end(job: Job[Any]) -> None:
        ready.append(job)
        arrived.set()

    for job in waiting:
        job._listen(lambda ended: call_soon(loop, on_end, ended))
    for _ in waiting:
        while not ready:
            arrived.clear()
            await arrived.wait()
        yield ready.popleft()
