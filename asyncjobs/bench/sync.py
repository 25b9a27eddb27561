"""``asyncjobs bench sync``: what programs without `await` pay, beside what they use now."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import asyncjobs as aj
from asyncjobs.bench import faces, measure, races, system
from asyncjobs.bench.measure import Goal, Measurement
from asyncjobs.bench.output import check_writable, progress, publish
from asyncjobs.bench.races import Task
from asyncjobs.bench.result import Report

LARGE = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is done."""

    rounds: int
    burst: int
    """Calls that are handed over at once: fewer than a queue takes."""
    bursts: int
    calls: int
    """Idle calls one after the other."""
    large_calls: int
    items: int
    steps: int
    """Of the training loop, a few microseconds each."""


FULL = Scale(rounds=7, burst=1000, bursts=15, calls=1000, large_calls=9, items=400_000, steps=1_000_000)
QUICK = Scale(rounds=2, burst=200, bursts=3, calls=50, large_calls=2, items=20_000, steps=50_000)


def main(json_path: Path | None = None, html_path: Path | None = None, quick: bool = False) -> None:
    """Measure everything, print it, and write the figures and the page where a path is given.

    About four minutes on two cores, with `quick` under one; nothing else should run meanwhile.
    """
    check_writable(html_path)
    table = system.table()
    measurements = aj.run(_races(QUICK if quick else FULL))
    command = "asyncjobs bench sync --quick" if quick else "asyncjobs bench sync"
    publish(Report("asyncjobs bench sync", command, table, measurements), json_path, html_path)


async def _races(scale: Scale) -> list[Measurement]:
    tasks = [_handing_over(scale), _process_call(scale), _map(scale), _large(scale), _training(scale)]
    return [await races.run(task, scale.rounds, progress) for task in tasks]


def _handing_over(scale: Scale) -> Task:
    return Task(
        title="Handing a call over, time in the caller",
        unit="s",
        note=f"{scale.burst} calls of a function that returns its argument are handed over in one go and waited for "
        f"off the clock; the median of {scale.bursts} times. The portal takes a coroutine function.",
        ours=faces.submitters(),
        theirs=faces.other_submitters(),
        clock=faces.handing_over(scale.burst, scale.bursts),
        goals=[
            Goal("handing a call over", faces.SYNC, faces.THREADS, 0.4, at_least=False),
            Goal("handing a call over", faces.SYNC, faces.PORTAL, 0.1, at_least=False),
        ],
        higher_is_better=False,
    )


def _process_call(scale: Scale) -> Task:
    return Task(
        title="One idle call in another process",
        unit="s",
        note=f"The median of {scale.calls:,} calls, each made when the one before has ended.",
        ours=faces.process_calls(),
        theirs=faces.other_process_calls(),
        clock=measure.idle_latency(scale.calls, 100),
        goals=[Goal("one idle call, process lane", faces.SYNC, faces.STOCK_EXECUTOR, 0.4, at_least=False)],
        higher_is_better=False,
    )


def _map(scale: Scale) -> Task:
    return Task(
        title="A tiny function over many items",
        unit=" items/s",
        note=f"{scale.items:,} items through a function that returns its argument; {faces.WORKERS} workers.",
        ours=faces.maps(),
        theirs=faces.other_maps(),
        clock=measure.rate(scale.items, 5_000, 0.3),
        goals=[Goal("Pool.map, tiny function", faces.POOL, faces.STOCK_POOL, 1 / 1.1, at_least=True)],
        higher_is_better=True,
    )


def _large(scale: Scale) -> Task:
    return Task(
        title="An argument of 64 MiB",
        unit="s",
        note="The median of idle calls of a function that takes a float64 array and returns its first number.",
        ours=faces.process_calls(LARGE),
        theirs=faces.other_process_calls(LARGE),
        clock=measure.idle_latency(scale.large_calls, 2),
        goals=[
            Goal("argument of 64 MiB, Pool.apply", faces.POOL, faces.STOCK_POOL, 1 / 12, at_least=False),
            Goal("argument of 64 MiB, executor", faces.EXECUTOR, faces.STOCK_EXECUTOR, 1 / 12, at_least=False),
        ],
        higher_is_better=False,
    )


def _training(scale: Scale) -> Task:
    return Task(
        title="A training loop of pure Python",
        unit="s",
        note=f"{scale.steps:,} steps of gradient descent, alone and while every 10 ms a blocking upload of 5 ms is "
        "handed over; the median of three runs.",
        ours=faces.training(scale.steps),
        theirs=[],
        clock=measure.idle_latency(3, 1),
        goals=[Goal("training beside 100 jobs a second", faces.BESIDE, faces.ALONE, 1.02, at_least=False)],
        higher_is_better=False,
    )
