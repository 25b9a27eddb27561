"""One training run in a fresh process: ``python -m asyncjobs.bench.trained {...}`` prints one line of JSON.

The loop computes for a fixed time per step and hands a plot over after each: three scalars and a trace of 1,000
points; to trackers, and to the arm of ours beside them, only the scalars. What differs between the arms is only who
takes it.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import tempfile
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import asyncjobs as aj
from asyncjobs.bench.measure import percentile
from asyncjobs.bench.plotserver import upload
from asyncjobs.bench.trackers import TRACKERS, Tracker

POINTS = 1000

ALONE = "without plots"
OURS = "asyncjobs plot"
SCALARS = "asyncjobs plot, scalars"
BLOCKING = "blocking uploads"
QUEUE = "a thread and queue.Queue"
EXECUTOR = "ThreadPoolExecutor(1)"

Hand = Callable[[int, float, Any, Any], object]
"""Take the step's number, its loss, and a trace."""


@dataclass(frozen=True, slots=True)
class Run:
    """What is to be run."""

    arm: str
    loop: str
    """"python", "numpy" or "torch"."""
    step: float
    """Seconds that a step computes, about."""
    steps: int
    port: int
    """Of the plot server; 0: nobody is there."""
    one_core: bool


@dataclass(frozen=True, slots=True)
class Figures:
    """What came out."""

    step: float
    """Seconds per step, all in all."""
    p99: float
    """Of the steps' durations, in seconds."""
    drained: float
    """Seconds from the last step until the newest plot was out."""


def run(wanted: Run) -> Figures:
    """Train, and wait until the newest plot is out."""
    if wanted.one_core:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    compute, x, y = _loop(wanted.loop), *_columns()
    rounds = _calibrate(compute, wanted.step)
    durations = array("d", bytes(8 * wanted.steps))
    with ARMS[wanted.arm](wanted.port) as hand:
        for _ in range(20):
            compute(rounds)
            hand(0, 1.0, x, y)
        began = before = time.perf_counter()
        for step in range(wanted.steps):
            compute(rounds)
            hand(step, 1.0 / (step + 1), x, y)
            now = time.perf_counter()
            durations[step] = now - before
            before = now
        ended = time.perf_counter()
    drained = time.perf_counter() - ended
    return Figures((ended - began) / wanted.steps, percentile(durations, 0.99), drained)


def _columns() -> tuple[Any, Any]:
    import numpy

    x = numpy.linspace(0.0, 6.0, POINTS)
    return x, numpy.sin(x)


# --- loops --------------------------------------------------------------------------------


def _loop(name: str) -> Callable[[int], object]:
    """A function that computes for so many rounds of some microseconds."""
    return {"python": _python, "numpy": _numpy, "torch": _torch}[name]()


def _python() -> Callable[[int], object]:
    def compute(rounds: int) -> float:
        slope = 0.0
        for _ in range(rounds * 10):
            slope -= 0.01 * 2.0 * (slope * 0.7 - 0.5) * 0.7
        return slope

    return compute


def _numpy() -> Callable[[int], object]:
    import numpy

    matrix = numpy.ones((48, 48))

    def compute(rounds: int) -> None:
        for _ in range(rounds):
            numpy.tanh(matrix @ matrix)

    return compute


def _torch() -> Callable[[int], object]:
    import torch

    torch.set_num_threads(1)
    matrix = torch.ones(48, 48)

    def compute(rounds: int) -> None:
        for _ in range(rounds):
            torch.tanh(matrix @ matrix)

    return compute


def _calibrate(compute: Callable[[int], object], seconds: float) -> int:
    """Rounds that take about `seconds`: by the fastest of many tries, for others may use the machine."""
    compute(100)
    fastest = min(_seconds(compute, 100) for _ in range(30)) / 100
    return max(1, round(seconds / fastest))


def _seconds(compute: Callable[[int], object], rounds: int) -> float:
    began = time.perf_counter()
    compute(rounds)
    return time.perf_counter() - began


# --- arms ---------------------------------------------------------------------------------


@contextmanager
def _alone(port: int) -> Iterator[Hand]:
    yield lambda *_: None


@contextmanager
def _ours(port: int) -> Iterator[Hand]:
    address = f"http://127.0.0.1:{port or 1}/loss.json"
    linger = 60.0 if port else 0.0
    with tempfile.TemporaryDirectory() as spool, aj.plot(address, spool=spool, linger=linger) as plot:

        def hand(step: int, loss: float, x: Any, y: Any) -> None:
            plot.log(step, train=loss, val=loss, rate=1e-3)
            plot.write(x, y, name="fit")

        yield hand


@contextmanager
def _blocking(port: int) -> Iterator[Hand]:
    yield lambda step, loss, x, y: _upload(port, step, loss, x, y)


@contextmanager
def _queue(port: int) -> Iterator[Hand]:
    """The little task queue that people write, with its faults mended: it copies, and works on every task."""
    tasks: queue.Queue[tuple[Any, ...] | None] = queue.Queue()

    def consume() -> None:
        while (task := tasks.get()) is not None:
            if tasks.empty() or task[0] % 100 == 0:  # or it would be busy for hours after the last step
                _upload(port, *task)

    thread = threading.Thread(target=consume)
    thread.start()
    yield lambda step, loss, x, y: tasks.put((step, loss, x.copy(), y.copy()))
    tasks.put(None)
    thread.join()


@contextmanager
def _executor(port: int) -> Iterator[Hand]:
    newest = -1

    def take(step: int, loss: float, x: Any, y: Any) -> None:
        if step == newest:  # as above
            _upload(port, step, loss, x, y)

    with ThreadPoolExecutor(1) as pool:

        def hand(step: int, loss: float, x: Any, y: Any) -> None:
            nonlocal newest
            newest = step
            pool.submit(take, step, loss, x.copy(), y.copy())

        yield hand


def _upload(port: int, step: int, loss: float, x: Any, y: Any) -> None:
    """What the blog's loop does at each step."""
    data = [{"type": "scatter", "x": x.tolist(), "y": y.tolist()}]
    try:
        upload(port or 1, f"/{step}", json.dumps({"data": data, "layout": {"title": {"text": loss}}}).encode())
    except OSError:
        if port:
            raise


@contextmanager
def _scalars(port: int) -> Iterator[Hand]:
    with tempfile.TemporaryDirectory() as folder, aj.plot(Path(folder) / "loss.html", linger=60.0) as plot:
        yield lambda step, loss, x, y: plot.log(step, train=loss, val=loss, rate=1e-3)


def _tracked(tracker: Tracker) -> Callable[[int], AbstractContextManager[Hand]]:
    @contextmanager
    def arm(port: int) -> Iterator[Hand]:
        with tracker.start() as log:
            yield lambda step, loss, x, y: log(step, loss, loss, 1e-3)

    return arm


ARMS: dict[str, Callable[[int], AbstractContextManager[Hand]]] = {
    ALONE: _alone,
    OURS: _ours,
    BLOCKING: _blocking,
    QUEUE: _queue,
    EXECUTOR: _executor,
    SCALARS: _scalars,
    **{name: _tracked(tracker) for name, tracker in TRACKERS.items()},
}

if __name__ == "__main__":
    print(json.dumps(asdict(run(Run(**json.loads(sys.argv[1]))))))
