"""``asyncjobs bench clusters``: what our lane adds to a cluster's own submit, on a cluster on this machine.

Lane and engine talk to the same scheduler and the same workers, one after the other in each round.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncjobs as aj
from asyncjobs.bench import measure, peers, races, system, tiny
from asyncjobs.bench.measure import Clock, Contestant, Goal, Measurement, Work
from asyncjobs.bench.output import check_writable, progress, publish
from asyncjobs.bench.races import Task
from asyncjobs.bench.result import Report
from asyncjobs.bench.scale import FULL, QUICK, Scale

WORKERS = 2
DASK = "distributed client.submit"
SUBMIT, MAP = "asyncjobs submit (Dask)", "asyncjobs map (Dask)"


def main(json_path: Path | None = None, html_path: Path | None = None, quick: bool = False) -> None:
    """Measure everything, print it, and write the figures and the page where a path is given."""
    check_writable(html_path)
    scale = QUICK if quick else FULL
    table = system.table()
    measurements = aj.run(_dask(scale)) if peers.installed("distributed") else []
    command = "asyncjobs bench clusters --quick" if quick else "asyncjobs bench clusters"
    publish(Report("asyncjobs bench clusters", command, table, measurements), json_path, html_path)


async def _dask(scale: Scale) -> list[Measurement]:
    import distributed

    settings = {"n_workers": WORKERS, "threads_per_worker": 1, "asynchronous": True, "dashboard_address": None}
    async with distributed.LocalCluster(host="127.0.0.1", **settings) as cluster:
        address = cluster.scheduler_address
        tasks = [_tiny(scale, address), _one(scale, address), _map(scale, address)]
        return [await races.run(task, scale.rounds, progress) for task in tasks]


def _contestants(address: str) -> tuple[Contestant, Contestant]:
    import distributed

    ours = Contestant(SUBMIT, aj.__version__, lambda: _submit(address))
    return ours, Contestant(DASK, distributed.__version__, lambda: _client_submit(address))


def _tiny(scale: Scale, address: str) -> Task:
    count = scale.jobs // 5
    ours, theirs = _contestants(address)
    return Task(
        title="Tiny jobs on Dask",
        unit="s",
        note=f"Seconds per job: {count:,} calls of a function that returns its argument, submitted one by one, then "
        f"every result taken; {WORKERS} workers. The engine gathers all results at once.",
        ours=[ours],
        theirs=[theirs],
        clock=_seconds_each(count),
        goals=[Goal("a tiny job", SUBMIT, DASK, 1.25, at_least=False)],
        higher_is_better=False,
    )


def _one(scale: Scale, address: str) -> Task:
    ours, theirs = _contestants(address)
    return Task(
        title="One idle call on Dask",
        unit="s",
        note=f"The median of {scale.calls // 3:,} calls, each made when the one before has ended.",
        ours=[ours],
        theirs=[theirs],
        clock=measure.idle_latency(scale.calls // 3, 10),
        goals=[Goal("one idle call", SUBMIT, DASK, 1.25, at_least=False)],
        higher_is_better=False,
    )


def _map(scale: Scale, address: str) -> Task:
    _, theirs = _contestants(address)
    return Task(
        title="A map of 10,000 tiny items on Dask",
        unit=" items/s",
        note="The engine's loop of submits, then one gather; our map groups its items on the wire.",
        ours=[Contestant(MAP, aj.__version__, lambda: _collect(address))],
        theirs=[theirs],
        clock=measure.rate(10_000, 50, 0.1),
        goals=[Goal("a map of tiny items", MAP, DASK, 3.0, at_least=True)],
        higher_is_better=True,
    )


def _seconds_each(count: int) -> Clock:
    rate = measure.rate(count, 50, 0.1)

    async def clock(work: Work) -> float:
        return 1 / await rate(work)

    return clock


@asynccontextmanager
async def _client_submit(address: str) -> AsyncIterator[Work]:
    import distributed

    async with distributed.Client(address, asynchronous=True, set_as_default=False) as client:

        async def work(count: int) -> None:
            futures = [client.submit(tiny.echo, number, pure=False) for number in range(count)]
            await client.gather(futures)

        yield work


@asynccontextmanager
async def _submit(address: str) -> AsyncIterator[Work]:
    async with aj.Runner(lanes={"dask": aj.DaskLane(address)}, queue_size=100_000) as runner:
        verbs = runner.options(lane="dask")

        async def work(count: int) -> None:
            for job in [await verbs.submit(tiny.echo, number) for number in range(count)]:
                await job

        yield work


@asynccontextmanager
async def _collect(address: str) -> AsyncIterator[Work]:
    async with aj.Runner(lanes={"dask": aj.DaskLane(address)}) as runner:
        verbs = runner.options(lane="dask")

        async def work(count: int) -> None:
            await verbs.map(tiny.echo, range(count)).collect()

        yield work
