"""Who carries arrays between processes: asyncjobs, one copy in memory, and the peers.

Each call gets a new view of the array, for some peers keep what they have seen.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import asyncjobs as aj
from asyncjobs.bench import peers, tiny
from asyncjobs.bench.measure import Contestant, Work

WORKERS = 2
OURS = "asyncjobs run"
COPY = "copying in memory"
EXECUTOR = "ProcessPoolExecutor"
SHARED = "with the shared array"
NOT_SHARED = "without it"


def _array(nbytes: int) -> Any:
    import numpy as np

    return np.random.default_rng(0).random(nbytes // 8)


def _function(back: bool) -> Callable[[Any], Any]:
    return tiny.echo if back else tiny.first


def ours(nbytes: int, *, back: bool) -> Contestant:
    """A job in the process lane."""

    @asynccontextmanager
    async def start() -> AsyncIterator[Work]:
        array, fn = _array(nbytes), _function(back)
        async with aj.Runner(processes=WORKERS, options={"lane": "process"}) as runner:

            async def work(count: int) -> None:
                for _ in range(count):
                    await runner.run(fn, array[:])

            yield work

    return Contestant(OURS, aj.__version__, start)


def theirs(nbytes: int, *, back: bool) -> list[Contestant]:
    """The copy that nobody can beat, and the peers."""
    fn = _function(back)
    return peers.present(
        (COPY, "numpy", lambda: _copy(nbytes, 2 if back else 1)),
        (EXECUTOR, "", lambda: _executor(nbytes, fn)),
        ("multiprocessing.Pool", "", lambda: _pool(nbytes, fn)),
        ("loky", "loky", lambda: _loky(nbytes, fn)),
        ("joblib", "joblib", lambda: _joblib(nbytes, fn)),
        ("dask", "distributed", lambda: _dask(nbytes, fn)),
        ("ray", "ray", lambda: _ray(nbytes, fn)),
    )


def our_burst(nbytes: int) -> Contestant:
    """Many jobs at once, each with an array of its own."""

    @asynccontextmanager
    async def start() -> AsyncIterator[Work]:
        array = _array(nbytes)
        async with aj.Runner(processes=WORKERS, options={"lane": "process"}, history=1_000) as runner:

            async def work(count: int) -> None:
                jobs = [await runner.submit(tiny.echo, array[:]) for _ in range(count)]
                for job in jobs:
                    await job

            yield work

    return Contestant(OURS, aj.__version__, start)


def their_burst(nbytes: int) -> list[Contestant]:
    """The same with executors."""
    return peers.present(
        (EXECUTOR, "", lambda: _executor_burst(nbytes)),
        ("loky", "loky", lambda: _loky_burst(nbytes)),
    )


def with_shared(nbytes: int) -> Contestant:
    """100 jobs that take the handle of one shared array."""

    @asynccontextmanager
    async def start() -> AsyncIterator[Work]:
        async with aj.Runner(processes=WORKERS, options={"lane": "process"}) as runner:
            with runner.share(_array(nbytes)) as handle:
                yield _hundred(runner, handle)

    return Contestant(SHARED, aj.__version__, start)


def without_shared() -> Contestant:
    """The same jobs without it."""

    @asynccontextmanager
    async def start() -> AsyncIterator[Work]:
        async with aj.Runner(processes=WORKERS, options={"lane": "process"}) as runner:
            yield _hundred(runner, [0.0])

    return Contestant(NOT_SHARED, aj.__version__, start)


def _hundred(runner: aj.Runner, argument: Any) -> Work:
    async def work(count: int) -> None:
        for _ in range(count):
            jobs = [await runner.submit(tiny.busy_first, argument) for _ in range(100)]
            for job in jobs:
                await job

    return work


# --- the others -------------------------------------------------------------------------


@asynccontextmanager
async def _copy(nbytes: int, times: int) -> AsyncIterator[Work]:
    import numpy as np

    array = _array(nbytes)
    target = np.zeros_like(array)

    async def work(count: int) -> None:
        for _ in range(count * times):
            np.copyto(target, array)

    yield work


@asynccontextmanager
async def _executor(nbytes: int, fn: Callable[[Any], Any]) -> AsyncIterator[Work]:
    with ProcessPoolExecutor(WORKERS, mp_context=peers.context()) as pool:
        yield _through(pool, nbytes, fn)


@asynccontextmanager
async def _loky(nbytes: int, fn: Callable[[Any], Any]) -> AsyncIterator[Work]:
    import loky

    with loky.ProcessPoolExecutor(WORKERS) as pool:
        yield _through(pool, nbytes, fn)


def _through(pool: Executor, nbytes: int, fn: Callable[[Any], Any]) -> Work:
    array = _array(nbytes)

    async def work(count: int) -> None:
        for _ in range(count):
            pool.submit(fn, array[:]).result()

    return work


@asynccontextmanager
async def _executor_burst(nbytes: int) -> AsyncIterator[Work]:
    with ProcessPoolExecutor(WORKERS, mp_context=peers.context()) as pool:
        yield _burst_through(pool, nbytes)


@asynccontextmanager
async def _loky_burst(nbytes: int) -> AsyncIterator[Work]:
    import loky

    with loky.ProcessPoolExecutor(WORKERS) as pool:
        yield _burst_through(pool, nbytes)


def _burst_through(pool: Executor, nbytes: int) -> Work:
    array = _array(nbytes)

    async def work(count: int) -> None:
        futures = [pool.submit(tiny.echo, array[:]) for _ in range(count)]
        for future in futures:
            future.result()

    return work


@asynccontextmanager
async def _pool(nbytes: int, fn: Callable[[Any], Any]) -> AsyncIterator[Work]:
    array = _array(nbytes)
    with peers.context().Pool(WORKERS) as pool:

        async def work(count: int) -> None:
            for _ in range(count):
                pool.apply(fn, (array[:],))

        yield work
        pool.close()
        pool.join()


@asynccontextmanager
async def _joblib(nbytes: int, fn: Callable[[Any], Any]) -> AsyncIterator[Work]:
    """Arrays above 1 MB go through memory maps, by joblib's own default."""
    import joblib
    from joblib.externals.loky import get_reusable_executor

    array = _array(nbytes)
    try:
        with joblib.Parallel(WORKERS) as parallel:

            async def work(count: int) -> None:
                for _ in range(count):
                    parallel([joblib.delayed(fn)(array[:])])

            yield work
    finally:
        get_reusable_executor().shutdown(wait=True)


@asynccontextmanager
async def _dask(nbytes: int, fn: Callable[[Any], Any]) -> AsyncIterator[Work]:
    import distributed

    array = _array(nbytes)
    settings = {"n_workers": WORKERS, "threads_per_worker": 1, "asynchronous": True, "dashboard_address": None}
    async with (
        distributed.LocalCluster(**settings) as cluster,
        distributed.Client(cluster, asynchronous=True) as client,
    ):

        async def work(count: int) -> None:
            for _ in range(count):
                await client.submit(fn, array[:], pure=False)

        yield work


@asynccontextmanager
async def _ray(nbytes: int, fn: Callable[[Any], Any]) -> AsyncIterator[Work]:
    import ray

    array = _array(nbytes)
    await asyncio.to_thread(ray.init, num_cpus=WORKERS, include_dashboard=False, log_to_driver=False)
    try:
        remote = ray.remote(fn)

        async def work(count: int) -> None:
            for _ in range(count):
                ray.get(remote.remote(array[:]))

        yield work
    finally:
        ray.shutdown()
