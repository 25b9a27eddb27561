"""Clusters on this machine for ``asyncjobs bench clusters``, and how their engines are used without us.

Each is opened once, with `WORKERS` workers, and serves all races: our lane and the engine's own way take turns.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from os import getpid
from time import monotonic, sleep
from typing import Any, Final, NamedTuple

import asyncjobs as aj
from asyncjobs.bench import peers, tiny
from asyncjobs.bench.measure import Contestant, Work
from asyncjobs.lanes.base import Lane
from asyncjobs.lanes.rayconnection import on_loopback

WORKERS: Final = 2
WARM: Final = 60.0
"""Seconds in which an engine has all its workers up."""


class Engine(NamedTuple):
    """A cluster that is up."""

    name: str
    lane: Callable[[], Lane]
    own: Sequence[Contestant]
    """How it is used without us; the goals are about the first."""


@asynccontextmanager
async def dask() -> AsyncIterator[Engine]:
    """A Dask cluster: scheduler and workers are processes of their own."""
    import distributed

    settings = {"n_workers": WORKERS, "threads_per_worker": 1, "asynchronous": True, "dashboard_address": None}
    settings["silence_logs"] = logging.CRITICAL  # at the end workers complain that the scheduler went first
    async with distributed.LocalCluster(host="127.0.0.1", **settings) as cluster:
        address = cluster.scheduler_address
        submit = Contestant("distributed client.submit", distributed.__version__, partial(_client_submit, address))
        yield Engine("Dask", partial(aj.DaskLane, address), [submit])


@asynccontextmanager
async def _client_submit(address: str) -> AsyncIterator[Work]:
    import distributed

    async with distributed.Client(address, asynchronous=True, set_as_default=False) as client:

        async def work(count: int) -> None:
            futures = [client.submit(tiny.echo, number, pure=False) for number in range(count)]
            await client.gather(futures)

        yield work


@asynccontextmanager
async def ray() -> AsyncIterator[Engine]:
    """A Ray cluster of one node; this program is connected to it."""
    with on_loopback():
        import ray

        ray.init("local", num_cpus=WORKERS, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        own = [
            Contestant("ray f.remote", ray.__version__, _tasks),
            Contestant("ray actor.method.remote", ray.__version__, _actors),
        ]
        yield Engine("Ray", aj.RayLane, own)
    finally:
        ray.shutdown()


@asynccontextmanager
async def _tasks() -> AsyncIterator[Work]:
    import ray

    echo = ray.remote(tiny.echo)
    _all_up(ray.remote(_process))

    async def work(count: int) -> None:
        ray.get([echo.remote(number) for number in range(count)])

    yield work


def _process(seconds: float) -> int:
    sleep(seconds)
    return getpid()


def _all_up(process: Any) -> None:
    """Wait until tasks run in all workers: Ray starts them as tasks come, and one may do the work of all till then."""
    import ray

    until = monotonic() + WARM
    while len(set(ray.get([process.remote(0.1) for _ in range(WORKERS)]))) < WORKERS:
        if monotonic() > until:
            raise TimeoutError(f"not all of Ray's {WORKERS} workers came up within {WARM:g} s")


class _Echo:
    def echo(self, value: int) -> int:
        return tiny.echo(value)


@asynccontextmanager
async def _actors() -> AsyncIterator[Work]:
    import ray

    actors = [ray.remote(num_cpus=1)(_Echo).remote() for _ in range(WORKERS)]

    async def work(count: int) -> None:
        ray.get([actors[number % WORKERS].echo.remote(number) for number in range(count)])

    try:
        yield work
    finally:
        for actor in actors:
            ray.kill(actor)


ENGINES: Final[Sequence[tuple[str, Callable[[], AbstractAsyncContextManager[Engine]]]]] = (
    ("distributed", dask),
    ("ray", ray),
)
"""The package that each needs, and how to open it."""


def installed() -> list[Callable[[], AbstractAsyncContextManager[Engine]]]:
    """Those whose package is here."""
    return [start for package, start in ENGINES if peers.installed(package)]
