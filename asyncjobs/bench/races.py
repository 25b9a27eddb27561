"""The races of ``asyncjobs bench jobs``: who runs, against which clock, and what has to come out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from asyncjobs.bench import measure, ours, peers
from asyncjobs.bench.measure import Clock, Contestant, Goal, Measurement, Race
from asyncjobs.bench.scale import Scale

WORKERS = 2

_EXECUTOR = "ProcessPoolExecutor.submit"
_POOL_MAP = "multiprocessing.Pool.map"


@dataclass(frozen=True, slots=True)
class Task:
    """A race to be run: who, against which clock, and what has to come out."""

    title: str
    unit: str
    note: str
    ours: Sequence[Contestant]
    theirs: Sequence[Contestant]
    clock: Clock
    goals: Sequence[Goal]
    higher_is_better: bool


def tasks(scale: Scale) -> list[Task]:
    """All races, in the order in which they are run and shown."""
    return [_one_by_one(scale), _process_call(scale), _map(scale), _thread_call(scale), _coroutines(scale)]


def _one_by_one(scale: Scale) -> Task:
    return Task(
        title="Jobs submitted one by one, process lane",
        unit=" jobs/s",
        note=f"{scale.jobs:,} calls of a function that returns its argument, submitted one at a time, then every "
        f"result taken; {WORKERS} workers. aiomultiprocess takes a coroutine function.",
        ours=[ours.one_by_one(WORKERS)],
        theirs=peers.one_by_one(WORKERS),
        clock=measure.rate(scale.jobs, 500, scale.settle),
        goals=[
            Goal("jobs one by one", ours.SUBMIT, _EXECUTOR, 8.0, at_least=True),
            Goal("jobs one by one", ours.SUBMIT, "aiomultiprocess", 4.0, at_least=True),
        ],
        higher_is_better=True,
    )


def _process_call(scale: Scale) -> Task:
    return Task(
        title="One idle call, process lane",
        unit="s",
        note=f"The median of {scale.calls:,} calls, each made when the one before has ended.",
        ours=[ours.process_calls(WORKERS)],
        theirs=peers.process_calls(WORKERS),
        clock=measure.idle_latency(scale.calls, 100),
        goals=[Goal("one idle call, process lane", ours.RUN, _EXECUTOR, 0.25, at_least=False)],
        higher_is_better=False,
    )


def _map(scale: Scale) -> Task:
    return Task(
        title="A tiny function over many items",
        unit=" items/s",
        note=f"{scale.items:,} items through a function that returns its argument; {WORKERS} workers. Pool.map with "
        "the chunks it chooses, joblib with automatic batches, ProcessPoolExecutor.map with large chunks.",
        ours=ours.maps(WORKERS),
        theirs=peers.maps(WORKERS),
        clock=measure.rate(scale.items, 5_000, scale.settle),
        goals=[
            Goal("map().collect()", ours.COLLECT, _POOL_MAP, 1.0, at_least=True),
            Goal("map().collect()", ours.COLLECT, "joblib", 3.0, at_least=True),
            Goal("map by async for", ours.ITERATE, _POOL_MAP, 0.7, at_least=True),
        ],
        higher_is_better=True,
    )


def _thread_call(scale: Scale) -> Task:
    return Task(
        title="One idle call, thread lane",
        unit="s",
        note=f"The median of {2 * scale.calls:,} calls, each made when the one before has ended.",
        ours=[ours.thread_calls()],
        theirs=peers.thread_calls(),
        clock=measure.idle_latency(2 * scale.calls, 100),
        goals=[Goal("one idle call, thread lane", ours.RUN, "asyncio.to_thread", 1.3, at_least=False)],
        higher_is_better=False,
    )


def _coroutines(scale: Scale) -> Task:
    return Task(
        title="Tiny coroutines, loop lane",
        unit=" jobs/s",
        note=f"{2 * scale.jobs:,} coroutines that return their argument; the peer makes one bare task for each.",
        ours=[ours.coroutines()],
        theirs=peers.coroutines(),
        clock=measure.rate(2 * scale.jobs, 500, scale.settle),
        goals=[Goal("tiny coroutines", ours.COROUTINES, "asyncio.create_task", 0.5, at_least=True)],
        higher_is_better=True,
    )


async def run(task: Task, rounds: int, say: Callable[[str], None]) -> Measurement:
    """Take a task through its rounds; `say` gets a line before each figure is taken."""
    race = Race([*task.ours, *task.theirs], task.clock)
    async for line in race.run(rounds):
        say(f"{task.title}, {line}")
    return Measurement(
        title=task.title,
        unit=task.unit,
        higher_is_better=task.higher_is_better,
        values=race.values,
        ours=[one.name for one in task.ours],
        goals=task.goals,
        versions=race.versions,
        failures=race.failures,
        note=task.note,
    )
