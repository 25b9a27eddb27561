"""Who runs calls for programs without `await`: our sync faces, and what people use now.

The work of these contestants blocks; the benchmark's own loop has nothing else to do.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import AbstractContextManager, asynccontextmanager
from typing import Any

from anyio.from_thread import start_blocking_portal

import asyncjobs as aj
from asyncjobs.bench import peers, tiny
from asyncjobs.bench.measure import Clock, Contestant, Work

WORKERS = 2
SYNC = "asyncjobs.SyncRunner"
EXECUTOR = "asyncjobs.ProcessPoolExecutor"
POOL = "asyncjobs.Pool"
THREADS = "ThreadPoolExecutor"
PORTAL = "anyio's blocking portal"
STOCK_EXECUTOR = "ProcessPoolExecutor"
STOCK_POOL = "multiprocessing.Pool"
ALONE = "the loop alone"
BESIDE = "with 100 jobs a second"

SECONDS_PER_JOB = 0.01
"""Between two jobs of the training loop."""

Wait = Callable[[Any], object]


def _ours(name: str, start: peers.Open) -> Contestant:
    return Contestant(name, aj.__version__, start)


# --- handing over: work(n) hands over n calls, work(0) waits for them ---------------------


def handing_over(burst: int, bursts: int) -> Clock:
    """A clock for the seconds that a call takes from whoever hands it over; the calls themselves are off the clock."""

    async def clock(work: Work) -> float:
        durations = []
        for _ in range(bursts + 2):
            start = time.perf_counter()
            await work(burst)
            durations.append((time.perf_counter() - start) / burst)
            await work(0)
        return sorted(durations[2:])[bursts // 2]

    return clock


def submitters() -> list[Contestant]:
    """Ours: a plain function to the thread lane."""

    @asynccontextmanager
    async def start() -> AsyncIterator[Work]:
        with aj.SyncRunner() as runner:
            yield _burst(lambda value: runner.submit(tiny.echo, value), lambda job: job.result())

    return [_ours(SYNC, start)]


def other_submitters() -> list[Contestant]:
    """A thread pool, and the portal that others use to reach a loop."""

    @asynccontextmanager
    async def threads() -> AsyncIterator[Work]:
        with ThreadPoolExecutor(32) as pool:
            yield _burst(lambda value: pool.submit(tiny.echo, value), lambda future: future.result())

    @asynccontextmanager
    async def portal() -> AsyncIterator[Work]:
        with start_blocking_portal(backend_options={"use_uvloop": True}) as open_portal:
            yield _burst(
                lambda value: open_portal.start_task_soon(tiny.async_echo, value), lambda future: future.result()
            )

    return peers.present((THREADS, "", threads), (PORTAL, "anyio", portal))


def _burst(submit: Callable[[int], Any], wait: Wait) -> Work:
    pending: list[Any] = []

    async def work(count: int) -> None:
        if count:
            pending.extend([submit(value) for value in range(count)])
            return
        for one in pending:
            wait(one)
        pending.clear()

    return work


# --- one call at a time -------------------------------------------------------------------


def process_calls(nbytes: int = 0) -> list[Contestant]:
    """One call in a worker through each of our faces; with an array of `nbytes`, if any."""
    fn, argument = _call(nbytes)

    @asynccontextmanager
    async def sync() -> AsyncIterator[Work]:
        with aj.SyncRunner(processes=WORKERS, options={"lane": "process"}) as runner:
            yield _each(lambda: runner.submit(fn, argument()).result())

    return [
        _ours(SYNC, sync),
        _ours(EXECUTOR, lambda: _through(aj.ProcessPoolExecutor(WORKERS), fn, argument)),
        _ours(POOL, lambda: _apply(aj.Pool(WORKERS), fn, argument)),
    ]


def other_process_calls(nbytes: int = 0) -> list[Contestant]:
    """The same through the originals."""
    fn, argument = _call(nbytes)
    return peers.present(
        (
            STOCK_EXECUTOR,
            "",
            lambda: _through(ProcessPoolExecutor(WORKERS, mp_context=peers.context()), fn, argument),
        ),
        (STOCK_POOL, "", lambda: _apply(peers.context().Pool(WORKERS), fn, argument)),
    )


def _call(nbytes: int) -> tuple[Callable[[Any], Any], Callable[[], Any]]:
    """A function, and how to make its argument: a new view each time, for some keep what they have seen."""
    if not nbytes:
        return tiny.echo, lambda: 1
    import numpy as np

    array = np.random.default_rng(0).random(nbytes // 8)
    return tiny.first, lambda: array[:]


@asynccontextmanager
async def _through(pool: Executor, fn: Callable[[Any], Any], argument: Callable[[], Any]) -> AsyncIterator[Work]:
    with pool:
        yield _each(lambda: pool.submit(fn, argument()).result())


@asynccontextmanager
async def _apply(
    pool: AbstractContextManager[Any], fn: Callable[[Any], Any], argument: Callable[[], Any]
) -> AsyncIterator[Work]:
    with pool as running:
        yield _each(lambda: running.apply(fn, (argument(),)))
        running.close()
        running.join()


def _each(call: Callable[[], object]) -> Work:
    async def work(count: int) -> None:
        for _ in range(count):
            call()

    return work


# --- many items -----------------------------------------------------------------------------


def maps() -> list[Contestant]:
    """A tiny function over many items, through `Pool` and through the runner."""

    @asynccontextmanager
    async def sync() -> AsyncIterator[Work]:
        with aj.SyncRunner(processes=WORKERS, options={"lane": "process"}) as runner:
            yield _whole(lambda count: runner.map(tiny.echo, range(count)).collect())

    return [_ours(POOL, lambda: _pool_map(aj.Pool(WORKERS))), _ours(SYNC, sync)]


def other_maps() -> list[Contestant]:
    """The same through the original."""
    return peers.present((STOCK_POOL, "", lambda: _pool_map(peers.context().Pool(WORKERS))))


@asynccontextmanager
async def _pool_map(pool: AbstractContextManager[Any]) -> AsyncIterator[Work]:
    with pool as running:
        yield _whole(lambda count: running.map(tiny.echo, range(count)))
        running.close()
        running.join()


def _whole(collect: Callable[[int], list[int]]) -> Work:
    async def work(count: int) -> None:
        peers.check(collect(count), count)

    return work


# --- a training loop ------------------------------------------------------------------------


def training(steps: int) -> list[Contestant]:
    """A loop of pure Python, alone and while it hands over an upload every 10 ms."""

    @asynccontextmanager
    async def alone() -> AsyncIterator[Work]:
        yield _each(lambda: _train(steps, lambda: None))

    @asynccontextmanager
    async def beside() -> AsyncIterator[Work]:
        with aj.SyncRunner() as runner:
            yield _each(lambda: _train(steps, lambda: runner.submit(tiny.hold, 0.005)))

    return [_ours(BESIDE, beside), _ours(ALONE, alone)]


def _train(steps: int, upload: Callable[[], object]) -> float:
    """Gradient descent on one parameter, a few microseconds a step."""
    weight, due = 0.0, time.perf_counter()
    for _ in range(steps):
        for x in (0.5, 1.0, 1.5, 2.0):
            weight -= 0.001 * 2 * x * (weight * x - 3.0 * x)
        now = time.perf_counter()
        if now >= due:
            upload()
            due = now + SECONDS_PER_JOB
    return weight
