"""``asyncjobs bench clusters``: what our lane adds to a cluster's own submit, on a cluster on this machine.

Lane and engine talk to the same scheduler and the same workers, one after the other in each round.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import asyncjobs as aj
from asyncjobs.bench import clusterpeers, measure, races, system, tiny
from asyncjobs.bench.clusterpeers import WORKERS, Engine
from asyncjobs.bench.measure import Clock, Contestant, Goal, Measurement, Work
from asyncjobs.bench.output import check_writable, progress, publish
from asyncjobs.bench.races import Task
from asyncjobs.bench.result import Report
from asyncjobs.bench.scale import FULL, QUICK, Scale
from asyncjobs.lanes.base import Lane


def main(json_path: Path | None = None, html_path: Path | None = None, quick: bool = False) -> None:
    """Measure everything, print it, and write the figures and the page where a path is given.

    Raises:
        ModuleNotFoundError: no engine is installed, or the page cannot be made.
    """
    check_writable(html_path)
    engines = clusterpeers.installed()
    if not engines:
        raise ModuleNotFoundError(
            'there is no engine to measure: pip install "asyncjobs-runner[dask,ray]"', name="distributed"
        )
    scale = QUICK if quick else FULL
    table = system.table()
    measurements = [one for start in engines for one in aj.run(_races(start, scale))]
    command = "asyncjobs bench clusters --quick" if quick else "asyncjobs bench clusters"
    publish(Report("asyncjobs bench clusters", command, table, measurements), json_path, html_path)


async def _races(start: Callable[[], AbstractAsyncContextManager[Engine]], scale: Scale) -> list[Measurement]:
    async with start() as engine:
        tasks = [_tiny(scale, engine), _one(scale, engine), _map(scale, engine)]
        return [await races.run(task, scale.rounds, progress) for task in tasks]


def _ours(verb: str, engine: Engine, use: Callable[[Lane], AbstractAsyncContextManager[Work]]) -> Contestant:
    return Contestant(f"asyncjobs {verb} ({engine.name})", aj.__version__, lambda: use(engine.lane()))


def _tiny(scale: Scale, engine: Engine) -> Task:
    count = scale.jobs // 5
    ours = _ours("submit", engine, _submit)
    return Task(
        title=f"Tiny jobs on {engine.name}",
        unit="s",
        note=f"Seconds per job: {count:,} calls of a function that returns its argument, submitted one by one, then "
        f"every result taken; {WORKERS} workers. The engine gathers all results at once.",
        ours=[ours],
        theirs=engine.own,
        clock=_seconds_each(count),
        goals=[Goal(f"a tiny job on {engine.name}", ours.name, engine.own[0].name, 1.25, at_least=False)],
        higher_is_better=False,
    )


def _one(scale: Scale, engine: Engine) -> Task:
    ours = _ours("submit", engine, _submit)
    return Task(
        title=f"One idle call on {engine.name}",
        unit="s",
        note=f"The median of {scale.calls // 3:,} calls, each made when the one before has ended.",
        ours=[ours],
        theirs=engine.own,
        clock=measure.idle_latency(scale.calls // 3, 10),
        goals=[Goal(f"one idle call on {engine.name}", ours.name, engine.own[0].name, 1.25, at_least=False)],
        higher_is_better=False,
    )


def _map(scale: Scale, engine: Engine) -> Task:
    ours = _ours("map", engine, _collect)
    return Task(
        title=f"A map of 10,000 tiny items on {engine.name}",
        unit=" items/s",
        note="The engine's loop of submits, then one gather; our map groups its items on the wire.",
        ours=[ours],
        theirs=engine.own,
        clock=measure.rate(10_000, 50, 0.1),
        goals=[Goal(f"a map of tiny items on {engine.name}", ours.name, engine.own[0].name, 3.0, at_least=True)],
        higher_is_better=True,
    )


def _seconds_each(count: int) -> Clock:
    rate = measure.rate(count, 50, 0.1)

    async def clock(work: Work) -> float:
        return 1 / await rate(work)

    return clock


@asynccontextmanager
async def _submit(lane: Lane) -> AsyncIterator[Work]:
    async with aj.Runner(lanes={"cluster": lane}, queue_size=100_000) as runner:
        verbs = runner.options(lane="cluster")

        async def work(count: int) -> None:
            for job in [await verbs.submit(tiny.echo, number) for number in range(count)]:
                await job

        yield work


@asynccontextmanager
async def _collect(lane: Lane) -> AsyncIterator[Work]:
    async with aj.Runner(lanes={"cluster": lane}) as runner:
        verbs = runner.options(lane="cluster")

        async def work(count: int) -> None:
            await verbs.map(tiny.echo, range(count)).collect()

        yield work
