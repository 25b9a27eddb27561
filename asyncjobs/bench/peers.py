"""The other ways to run jobs, each at its best settings, opened warm and shut down whole.

A peer that is not installed is left out. All start their workers by spawn: fork beside
the threads of a benchmark is not safe, and under forkserver multiprocessing.Pool took
1,000 to 7,000 single jobs a second where spawn took 10,000 to 19,000 (5,000 at once, two
workers, Python 3.11.7); ProcessPoolExecutor did not care.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import importlib.util
import math
import multiprocessing
import platform
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from multiprocessing.context import BaseContext

import anyio.to_thread

from asyncjobs.bench import tiny
from asyncjobs.bench.measure import Contestant, Work

# Large enough that the way there costs little per item, small enough to keep both workers busy to the end.
_CHUNKS_PER_WORKER = 4

START_METHOD = "spawn"
"""How peers start their workers."""

Open = Callable[[], AbstractAsyncContextManager[Work]]


def installed(package: str) -> bool:
    """Whether the package can be imported; it is not imported."""
    return importlib.util.find_spec(package) is not None


def version(package: str) -> str:
    """The installed version of a distribution, or of the one that brings the package; "-" without its metadata."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        brought_by = importlib.metadata.packages_distributions().get(package)  # MLflow comes as mlflow-skinny too
        return importlib.metadata.version(brought_by[0]) if brought_by else "-"


def python() -> str:
    """The version of what comes with Python."""
    return f"Python {platform.python_version()}"


def context() -> BaseContext:
    """The multiprocessing context of all peers that take one."""
    return multiprocessing.get_context(START_METHOD)


def one_by_one(workers: int) -> list[Contestant]:
    """Who takes many single jobs and gives each one's result."""
    return present(
        ("ProcessPoolExecutor.submit", "", lambda: executor_submit(workers)),
        ("multiprocessing.Pool.apply_async", "", lambda: pool_apply(workers)),
        ("pebble", "pebble", lambda: pebble_schedule(workers)),
        ("loky", "loky", lambda: loky_submit(workers)),
        ("aiomultiprocess", "aiomultiprocess", lambda: aiomultiprocess_map(workers)),
    )


def process_calls(workers: int) -> list[Contestant]:
    """Who runs one call in another process while nothing else runs."""
    return present(
        ("ProcessPoolExecutor.submit", "", lambda: executor_submit(workers)),
        ("multiprocessing.Pool.apply_async", "", lambda: pool_apply(workers)),
        ("loky", "loky", lambda: loky_submit(workers)),
        ("pebble", "pebble", lambda: pebble_schedule(workers)),
    )


def maps(workers: int) -> list[Contestant]:
    """Who maps a tiny function over many items."""
    return present(
        ("multiprocessing.Pool.map", "", lambda: pool_map(workers)),
        ("ProcessPoolExecutor.map", "", lambda: executor_map(workers)),
        ("joblib", "joblib", lambda: joblib_map(workers)),
    )


def thread_calls() -> list[Contestant]:
    """Who runs one call in a thread while nothing else runs."""
    return present(
        ("asyncio.to_thread", "", asyncio_to_thread),
        ("anyio.to_thread", "anyio", anyio_to_thread),
    )


def coroutines() -> list[Contestant]:
    """Who runs many coroutines on the loop."""
    return present(("asyncio.create_task", "", bare_tasks))


def present(*peers: tuple[str, str, Open]) -> list[Contestant]:
    """The contestants that are installed: name, distribution (empty: the standard library), how to start."""
    return [
        Contestant(name, version(package) if package else python(), start)
        for name, package, start in peers
        if not package or installed(package)
    ]


def _fast_loop() -> Callable[[], asyncio.AbstractEventLoop]:
    if not installed("uvloop"):
        return asyncio.new_event_loop
    import uvloop

    make: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return make


def _chunk(count: int, workers: int) -> int:
    return max(1, math.ceil(count / (workers * _CHUNKS_PER_WORKER)))


@asynccontextmanager
async def executor_submit(workers: int) -> AsyncIterator[Work]:
    """The standard executor: submit all, then take all results; blocking, without a loop in the way."""
    with ProcessPoolExecutor(workers, mp_context=context()) as pool:

        async def work(count: int) -> None:
            futures = [pool.submit(tiny.echo, value) for value in range(count)]
            for future in futures:
                future.result()

        yield work


@asynccontextmanager
async def executor_map(workers: int) -> AsyncIterator[Work]:
    """The standard executor's map with a chunk size of a quarter of a worker's share (its default is 1)."""
    with ProcessPoolExecutor(workers, mp_context=context()) as pool:

        async def work(count: int) -> None:
            check(list(pool.map(tiny.echo, range(count), chunksize=_chunk(count, workers))), count)

        yield work


@asynccontextmanager
async def pool_apply(workers: int) -> AsyncIterator[Work]:
    """multiprocessing.Pool with one apply_async per job."""
    with context().Pool(workers) as pool:

        async def work(count: int) -> None:
            results = [pool.apply_async(tiny.echo, (value,)) for value in range(count)]
            for result in results:
                result.get()

        yield work
        pool.close()
        pool.join()


@asynccontextmanager
async def pool_map(workers: int) -> AsyncIterator[Work]:
    """multiprocessing.Pool.map with the chunks that it chooses itself."""
    with context().Pool(workers) as pool:

        async def work(count: int) -> None:
            check(pool.map(tiny.echo, range(count)), count)

        yield work
        pool.close()
        pool.join()


@asynccontextmanager
async def loky_submit(workers: int) -> AsyncIterator[Work]:
    """loky's executor, workers kept for ever."""
    import loky

    with loky.ProcessPoolExecutor(workers) as pool:

        async def work(count: int) -> None:
            futures = [pool.submit(tiny.echo, value) for value in range(count)]
            for future in futures:
                future.result()

        yield work


@asynccontextmanager
async def pebble_schedule(workers: int) -> AsyncIterator[Work]:
    """pebble's process pool, no limit on the tasks of a worker."""
    import pebble

    with pebble.ProcessPool(workers, context=context()) as pool:

        async def work(count: int) -> None:
            futures = [pool.schedule(tiny.echo, args=(value,)) for value in range(count)]
            for future in futures:
                future.result()

        yield work


@asynccontextmanager
async def aiomultiprocess_map(workers: int) -> AsyncIterator[Work]:
    """aiomultiprocess: its map queues one job per item, and waits for all of them without one task each."""
    import aiomultiprocess

    aiomultiprocess.set_start_method(START_METHOD)
    # One queue for each worker and uvloop in it: 16,000 jobs a second instead of 10,000 with the defaults.
    async with aiomultiprocess.Pool(
        workers, queuecount=workers, childconcurrency=64, loop_initializer=_fast_loop()
    ) as pool:

        async def work(count: int) -> None:
            await pool.map(tiny.async_echo, range(count))

        yield work
        pool.close()
        await pool.join()


@asynccontextmanager
async def joblib_map(workers: int) -> AsyncIterator[Work]:
    """joblib with workers kept between calls and its automatic batches."""
    import joblib
    from joblib.externals.loky import get_reusable_executor

    try:
        # With all jobs dispatched at the start no batch can grow: 2,000 items a second instead of 140,000.
        with joblib.Parallel(workers, batch_size="auto", pre_dispatch="4*n_jobs") as parallel:

            async def work(count: int) -> None:
                check(parallel(joblib.delayed(tiny.echo)(value) for value in range(count)), count)

            yield work
    finally:
        # Parallel keeps its workers for the next one; here they would run beside the next contestant.
        get_reusable_executor().shutdown(wait=True)


@asynccontextmanager
async def asyncio_to_thread() -> AsyncIterator[Work]:
    """The standard library's way into a thread."""

    async def work(count: int) -> None:
        for value in range(count):
            await asyncio.to_thread(tiny.echo, value)

    yield work


@asynccontextmanager
async def anyio_to_thread() -> AsyncIterator[Work]:
    """anyio's way into a thread."""

    async def work(count: int) -> None:
        for value in range(count):
            await anyio.to_thread.run_sync(tiny.echo, value)

    yield work


@asynccontextmanager
async def bare_tasks() -> AsyncIterator[Work]:
    """A task for each coroutine, no bound, nothing kept."""

    async def work(count: int) -> None:
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(tiny.async_echo(value)) for value in range(count)]
        for task in tasks:
            await task

    yield work


def check(results: Sequence[int], count: int) -> None:
    """A peer that loses items wins no race.

    Raises:
        RuntimeError: there are more or fewer results than items, or the last is wrong.
    """
    if len(results) != count or results[-1] != count - 1:
        raise RuntimeError(f"{len(results)} results for {count} items")
