"""The service is killed at each named point of its code, and keeps its promises (4.2, 4.3, 4.5; F68 to F73)."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import service_jobs
from services import ROOT
from trials import PAUSE, Trial, live

import asyncjobs as aj

KILLED = -signal.SIGKILL
NO_ROOM = "result.file=errno:ENOSPC@1"
Scene = Callable[[Trial, str], AbstractAsyncContextManager[None]]


# --- scenes: what comes before the point, and after the clients' work ----------------------


@asynccontextmanager
async def at_work(trial: Trial, failpoints: str) -> AsyncIterator[None]:
    """Clients at work come past it, and some points before they do."""
    yield


@asynccontextmanager
async def when_stopped(trial: Trial, failpoints: str) -> AsyncIterator[None]:
    yield
    trial.terminate()
    await ended(trial)


@asynccontextmanager
async def after_a_crash(trial: Trial, failpoints: str) -> AsyncIterator[None]:
    """The next start finds jobs that ran."""
    async with trial.client() as client:
        jobs = [await trial.submit(client, f"held {n}", service_jobs.note, trial.effects, "x", 30.0) for n in range(4)]
        while not all(job.state is aj.JobState.RUNNING for job in jobs[:2]):
            for job in jobs:
                await job.refresh()
        await trial.kill(failpoints)
        for job in jobs:
            await trial.cancel(job)
    yield


@asynccontextmanager
async def with_much_to_prune(trial: Trial, failpoints: str) -> AsyncIterator[None]:
    """The next start finds jobs whose time is over."""
    async with trial.client() as client:
        for n in range(3):
            await (await trial.submit(client, f"short {n}", service_jobs.sha, "x", keep=0.0)).wait()
        await trial.kill(failpoints)
    yield


@asynccontextmanager
async def with_many_children(trial: Trial, failpoints: str) -> AsyncIterator[None]:
    """More than one transaction tells of their parent's end."""
    async with trial.client() as client:
        parent = await trial.submit(client, "parent of many", service_jobs.wait, delay=600.0)
        await trial.submit_many(client, "one of many", 510, service_jobs.wait, after=[parent])
        await trial.cancel(parent)
    yield


@asynccontextmanager
async def with_much_to_copy(trial: Trial, failpoints: str) -> AsyncIterator[None]:
    """More than the log beside the database is to hold."""
    async with trial.client() as client:
        for n in range(9):
            await trial.submit(client, f"heavy {n}", service_jobs.sha, "x" * 500_000)
    yield


@asynccontextmanager
async def with_a_backup(trial: Trial, failpoints: str) -> AsyncIterator[None]:
    async with trial.client():
        with contextlib.suppress(OSError, http.client.HTTPException):  # no answer, if it is killed meanwhile
            request = {"path": f"{trial.notes}.backup"}
            await asyncio.to_thread(trial.service.ask, "POST", "/v1/backup", request)
    yield


@asynccontextmanager
async def until_a_worker_died(trial: Trial, failpoints: str) -> AsyncIterator[None]:
    """It is the worker that is killed there, each of them; then the service is, too."""
    async with trial.client() as client:
        jobs = [await trial.submit(client, f"first {n}", service_jobs.sha, "x") for n in range(8)]
        while "no worker could be started" not in log_of(trial):
            if any([(await job.refresh()).crashes for job in jobs]):
                break
        await trial.kill()
    yield


def log_of(trial: Trial) -> str:
    return (trial.service.folder / "logs" / "service.log").read_text()


async def ended(trial: Trial) -> None:
    while not trial.ends:
        await asyncio.sleep(PAUSE)


FATAL = (when_stopped, until_a_worker_died)
"""Without a failpoint they would wait in vain."""


# --- the points -----------------------------------------------------------------------------


class Place(NamedTuple):
    """How to come past a point."""

    scene: Scene = at_work
    times: int = 3
    """How often that happens, as far as this is of interest."""
    with_: str = ""
    """Another failpoint that leads there."""


POINTS = {
    "backup.finish": Place(with_a_backup, times=1),
    "ballast.release": Place(times=1, with_=NO_ROOM),
    "begin.after_commit": Place(times=1),
    "begin.before_commit": Place(times=1),
    "cancel.after_commit": Place(times=2),
    "cancel.before_commit": Place(times=2),
    "checkpoint": Place(with_much_to_copy, times=1),
    "claim.after_commit": Place(),
    "claim.before_commit": Place(),
    "keep.after_commit": Place(),
    "keep.before_commit": Place(),
    "migrate.step": Place(times=1),
    "notify.before": Place(),
    "pause.after_commit": Place(times=2),
    "pause.before_commit": Place(times=2),
    "prune.after_commit": Place(times=1),
    "prune.batch": Place(with_much_to_prune, times=1),
    "prune.before_commit": Place(times=1),
    "recover.row": Place(after_a_crash, times=2),
    "reply.before": Place(),
    "result.after_commit": Place(),
    "result.before_commit": Place(),
    "result.file": Place(times=1),
    "result.received": Place(),
    "run.started": Place(until_a_worker_died),
    "schedule.after_commit": Place(times=1),
    "schedule.before_commit": Place(times=1),
    "settle.after_commit": Place(with_many_children, times=1),
    "settle.before_commit": Place(with_many_children, times=1),
    "shutdown.closed": Place(when_stopped, times=1),
    "shutdown.drained": Place(when_stopped, times=1),
    "shutdown.start": Place(when_stopped, times=1),
    "shm.create": Place(),
    "shm.retire": Place(when_stopped, times=2),
    "spawn.after": Place(until_a_worker_died, times=1),
    "spawn.before": Place(times=2),
    "submit.after_commit": Place(),
    "submit.before_commit": Place(),
    "task.sent": Place(),
}
"""Of the whole tree, but for those in `ELSEWHERE`."""
ELSEWHERE = {"shm.attach"}
"""No array goes through the service: its calls and outcomes are sealed bytes."""

SWEEP = [
    pytest.param(name, n, id=f"{name}@{n}", marks=[pytest.mark.slow] if row or n > 1 else [])
    for row, (name, place) in enumerate(POINTS.items())
    for n in range(1, place.times + 1)
]


@pytest.mark.parametrize(("point", "number"), SWEEP)
async def test_F68_to_F73_a_SIGKILL_there_loses_nothing_and_doubles_nothing(
    tmp_path: Path, point: str, number: int
) -> None:
    place = POINTS[point]
    failpoints = f"{place.with_};{point}=kill@{number}".strip(";")
    is_later = place.scene in (after_a_crash, with_much_to_prune)
    async with Trial(tmp_path, failpoints="" if is_later else failpoints) as trial:
        async with place.scene(trial, failpoints), trial.client() as client:
            await live(trial, client)
        report = await trial.verdict(is_pruned=place.scene is with_much_to_prune)
    assert trial.ends == [KILLED] * (1 + is_later) + [0], "it did not come past the point"
    assert not trial.refusals
    assert not report.violations


@pytest.mark.slow
async def test_the_sweep_hears_of_a_build_that_answers_before_the_commit(tmp_path: Path) -> None:
    broken = {"ASYNCJOBS_BROKEN": "ack_before_commit"}
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo, 0o600)
    async with Trial(tmp_path, failpoints=f"submit.before_commit=pause:{fifo}@1", environment=broken) as trial:
        async with trial.client() as client:
            await trial.submit(client, "lost", service_jobs.sha, "x")
        await trial.kill()  # it waits there, and has answered
        report = await trial.verdict()
    assert {violation.rule for violation in report.violations} == {"I1"}


# --- are these all? -------------------------------------------------------------------------


def points_of_the_tree() -> set[str]:
    """Those that are named where they are, and those around the commits of each kind of request."""
    texts = [path.read_text() for path in (ROOT / "asyncjobs").rglob("*.py") if path.name != "failpoint.py"]
    named = {name for text in texts for name in re.findall(r"\bpoint\(\"([\w.]+)\"\)", text)}
    kinds = {
        name for text in texts for name, rest in re.findall(r"= Kind\(\"(\w+)\"(.*)\)", text) if "writes" not in rest
    }
    return named | {f"{kind}.{side}_commit" for kind in kinds for side in ("before", "after")}


ARRAYS = """
import asyncio, sys
import numpy as np
import asyncjobs as aj

async def main():
    async with aj.Runner(processes=1) as runner:
        await runner.options(lane="process").run(np.negative, np.zeros(300_000))

if __name__ == "__main__":
    asyncio.run(main())
"""


def test_the_sweep_has_every_point_of_the_tree() -> None:
    assert points_of_the_tree() == POINTS.keys() | ELSEWHERE


@pytest.mark.slow
async def test_every_point_of_the_tree_is_come_past(tmp_path: Path) -> None:
    """By the service in the scenes of the sweep, and by a runner with arrays."""
    seen, script = tmp_path / "seen", tmp_path / "arrays.py"
    script.write_text(ARRAYS)
    environment = {"ASYNCJOBS_FAILPOINTS_SEEN": str(seen)}
    async with Trial(tmp_path, failpoints=NO_ROOM, environment=environment) as trial:
        async with AsyncExitStack() as scenes:
            for scene in dict.fromkeys(place.scene for place in POINTS.values() if place.scene not in FATAL):
                await scenes.enter_async_context(scene(trial, NO_ROOM))
            async with trial.client() as client:
                await live(trial, client)
        report = await trial.verdict(is_pruned=True)
    assert not report.violations
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(script), env={**os.environ, **environment, "PYTHONPATH": str(ROOT)}
    )
    assert await process.wait() == 0
    assert set(seen.read_text().split()) == points_of_the_tree()
