"""Who takes three scalars or a trace from a training loop: `plot`, and what people use now.

What is measured is the time in the caller; whatever happens behind it goes on meanwhile.
"""

from __future__ import annotations

import asyncio
import queue
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncjobs as aj
from asyncjobs.bench import peers
from asyncjobs.bench.measure import Clock, Contestant, Work
from asyncjobs.bench.trackers import Log, Tracker, here

LOG = "asyncjobs plot.log"
WRITE = "asyncjobs plot.write"
QUEUE = "a thread and queue.Queue"
EXECUTOR = "ThreadPoolExecutor(1)"
COPY = "copying the arrays"

POINTS = 10_000


def in_the_caller(burst: int, bursts: int) -> Clock:
    """A clock for the median seconds of a call, of `bursts` times `burst` calls in a row with a pause between."""

    async def clock(work: Work) -> float:
        durations = []
        for _ in range(bursts + 1):
            began = time.perf_counter()
            await work(burst)
            durations.append((time.perf_counter() - began) / burst)
            await asyncio.sleep(0.05)  # a training loop computes something between; what is behind comes to work
        return sorted(durations[1:])[bursts // 2]

    return clock


def loggers() -> list[Contestant]:
    """Ours."""
    return [Contestant(LOG, aj.__version__, _plot)]


def other_loggers() -> list[Contestant]:
    """The classic thread queue with its faults mended, and an executor of one thread."""
    return peers.present((QUEUE, "", _thread_queue), (EXECUTOR, "", _executor))


def tracker_loggers() -> list[Contestant]:
    """The trackers that are here."""
    return peers.present(*((name, one.packages[0], _with(one)) for name, one in here().items()))


def _calls(log: Log) -> Work:
    async def work(count: int) -> None:
        for step in range(count):
            log(step, 0.5, 0.25, 1e-3)

    return work


@asynccontextmanager
async def _plot() -> AsyncIterator[Work]:
    with tempfile.TemporaryDirectory() as folder, aj.plot(Path(folder) / "loss.html") as plot:

        async def work(count: int) -> None:
            for step in range(count):
                plot.log(step, train=0.5, val=0.25, rate=1e-3)

        yield work


@asynccontextmanager
async def _thread_queue() -> AsyncIterator[Work]:
    tasks: queue.Queue[dict[str, float] | None] = queue.Queue()
    rows: list[dict[str, float]] = []

    def consume() -> None:
        while (row := tasks.get()) is not None:
            rows.append(row)

    thread = threading.Thread(target=consume)
    thread.start()
    yield _calls(lambda step, train, val, rate: tasks.put({"step": step, "train": train, "val": val, "rate": rate}))
    tasks.put(None)
    thread.join()


@asynccontextmanager
async def _executor() -> AsyncIterator[Work]:
    rows: list[tuple[float, ...]] = []
    with ThreadPoolExecutor(1) as pool:
        yield _calls(lambda *row: pool.submit(rows.append, row))


def _with(tracker: Tracker) -> peers.Open:
    @asynccontextmanager
    async def start() -> AsyncIterator[Work]:
        with tracker.start() as log:
            yield _calls(log)

    return start


# --- traces -------------------------------------------------------------------------------


def writers() -> list[Contestant]:
    """Ours."""

    @asynccontextmanager
    async def start() -> AsyncIterator[Work]:
        x, y = _columns()
        with tempfile.TemporaryDirectory() as folder, aj.plot(Path(folder) / "fit.html") as plot:
            yield _traces(lambda: plot.write(x, y, name="fit"))

    return [Contestant(WRITE, aj.__version__, start)]


def copiers() -> list[Contestant]:
    """What no snapshot can be cheaper than."""

    @asynccontextmanager
    async def start() -> AsyncIterator[Work]:
        x, y = _columns()
        yield _traces(lambda: (x.copy(), y.copy()))

    return peers.present((COPY, "numpy", start))


def _traces(write: Callable[[], object]) -> Work:
    async def work(count: int) -> None:
        for _ in range(count):
            write()

    return work


def _columns() -> tuple[Any, Any]:
    import numpy

    x = numpy.linspace(0.0, 6.0, POINTS)
    return x, numpy.sin(x)
