"""asyncjobs as a contestant: the same work, through the public face only."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncjobs as aj
from asyncjobs.bench import peers, tiny
from asyncjobs.bench.measure import Contestant, Work

SUBMIT = "asyncjobs submit"
RUN = "asyncjobs run"
COLLECT = "asyncjobs map().collect()"
ITERATE = "asyncjobs async for"
COROUTINES = "asyncjobs submit (coroutines)"


def one_by_one(workers: int) -> Contestant:
    """Many single jobs to the process lane, then every result."""
    return Contestant(SUBMIT, _version(), lambda: _submit(workers))


def process_calls(workers: int) -> Contestant:
    """One call in the process lane while nothing else runs."""
    return Contestant(RUN, _version(), lambda: _run_process(workers))


def maps(workers: int) -> list[Contestant]:
    """A map over many items, taken whole and item by item."""
    return [
        Contestant(COLLECT, _version(), lambda: _collect(workers)),
        Contestant(ITERATE, _version(), lambda: _iterate(workers)),
    ]


def thread_calls() -> Contestant:
    """One call in the thread lane while nothing else runs."""
    return Contestant(RUN, _version(), _run_thread)


def coroutines() -> Contestant:
    """Many coroutines in the loop lane."""
    return Contestant(COROUTINES, _version(), _submit_coroutines)


def _version() -> str:
    # Not the metadata: the package may run from its source folder.
    return aj.__version__


@asynccontextmanager
async def _submit(workers: int) -> AsyncIterator[Work]:
    async with aj.Runner(processes=workers) as runner:
        process = runner.options(lane="process")

        async def work(count: int) -> None:
            jobs = [await process.submit(tiny.echo, value) for value in range(count)]
            for job in jobs:
                await job

        yield work


@asynccontextmanager
async def _run_process(workers: int) -> AsyncIterator[Work]:
    async with aj.Runner(processes=workers) as runner:
        process = runner.options(lane="process")

        async def work(count: int) -> None:
            for value in range(count):
                await process.run(tiny.echo, value)

        yield work


@asynccontextmanager
async def _collect(workers: int) -> AsyncIterator[Work]:
    async with aj.Runner(processes=workers) as runner:
        process = runner.options(lane="process")

        async def work(count: int) -> None:
            peers.check(await process.map(tiny.echo, range(count)).collect(), count)

        yield work


@asynccontextmanager
async def _iterate(workers: int) -> AsyncIterator[Work]:
    async with aj.Runner(processes=workers) as runner:
        process = runner.options(lane="process")

        async def work(count: int) -> None:
            peers.check([value async for value in process.map(tiny.echo, range(count))], count)

        yield work


@asynccontextmanager
async def _run_thread() -> AsyncIterator[Work]:
    async with aj.Runner() as runner:

        async def work(count: int) -> None:
            for value in range(count):
                await runner.run(tiny.echo, value)

        yield work


@asynccontextmanager
async def _submit_coroutines() -> AsyncIterator[Work]:
    async with aj.Runner() as runner:

        async def work(count: int) -> None:
            jobs = [await runner.submit(tiny.async_echo, value) for value in range(count)]
            for job in jobs:
                await job

        yield work
