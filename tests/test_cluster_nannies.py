"""Dask workers with a nanny: what they had not begun runs elsewhere, and a job that does not stop can be ended."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("distributed", reason="needs the extra `dask`: pip install -e '.[test,dask]'")

import cluster_jobs
from clusters import HERE, DaskCluster, cluster_is_up

from asyncjobs import DaskLane, Job, JobState, Runner, WorkerStartError
from asyncjobs.submitter import Submitter
from asyncjobs.testing import work
from asyncjobs.testing.work import FileGate, lines

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.may_leak("each ends a worker, and its nanny starts another, which stays"),
    pytest.mark.may_complain("Dask drops a connection to a worker that died, unlooked at"),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[DaskCluster]:
    """One worker of two threads, with a nanny that starts it again."""
    with ExitStack() as stack:
        cluster = DaskCluster(stack.enter_context(tempfile.TemporaryDirectory()), {})
        cluster.start_scheduler()
        stack.callback(cluster.close)
        cluster.start_worker(options=["--nanny", "--nthreads", "2"])
        cluster_is_up(cluster, 1)
        yield cluster


def over(cluster: DaskCluster, **settings: bool) -> Runner:
    return Runner(lanes={"cluster": DaskLane(cluster.address, **settings)}, watchdog=None)


async def test_of_a_killed_worker_only_what_it_had_begun_is_lost(cluster: DaskCluster, tmp_path: Path) -> None:
    gate, paths = FileGate(str(tmp_path)), [str(tmp_path / f"{number}") for number in range(12)]
    async with over(cluster) as runner:
        verbs = runner.options(lane="cluster")
        pid = await short_ones(verbs, str(tmp_path / "pace"))
        first = await verbs.submit(cluster_jobs.hold_if, None, str(tmp_path / "first"))  # its end sends off the others
        holding = [await verbs.submit(cluster_jobs.hold_if, gate, path) for path in paths[:2]]
        ahead = [await verbs.submit(cluster_jobs.hold_if, None, path) for path in paths[2:]]
        await first
        await gate.arrival(2)
        assert len(runner._lanes["cluster"]._flights) == 12
        os.kill(pid, signal.SIGKILL)
        await until_over(holding + ahead)
        assert [job.state for job in holding] == [JobState.LOST] * 2
        assert [job.state for job in ahead] == [JobState.SUCCEEDED] * 10
        assert {job.attempt for job in ahead} == {1}
    assert [len(lines(path)) for path in paths] == [1] * 12


async def test_what_was_sent_ahead_runs_by_its_priority(cluster: DaskCluster, tmp_path: Path) -> None:
    gates, path = [FileGate(str(tmp_path), f"gate{number}") for number in range(2)], str(tmp_path / "order")
    async with over(cluster) as runner:
        lane, verbs = runner._lanes["cluster"], runner.options(lane="cluster")
        urgent = runner.options(lane="cluster", priority=5)
        await short_ones(verbs, str(tmp_path / "pace"))
        await short_ones(urgent, str(tmp_path / "pace"))
        # The end of the second sends off the others, of which one holds the second thread.
        waits = (gates[0], None, gates[1], None, None, None)
        jobs = [await verbs.submit(cluster_jobs.hold_if, gate, path, "low") for gate in waits]
        await gates[0].arrival()
        await gates[1].arrival()
        jobs += [await urgent.submit(cluster_jobs.hold_if, None, path, "high") for _ in range(2)]
        lane.changed()  # as any news would, so that they are sent, too
        while list((await lane._engine._client.run(cluster_jobs.ready)).values()) != [5]:
            await asyncio.sleep(0.01)
        gates[1].open()
        await until_over(jobs[1:])
        gates[0].open()
        await until_over(jobs)
    assert lines(path) == ["low"] * 3 + ["high"] * 2 + ["low"] * 3


async def short_ones(verbs: Submitter, path: str) -> int:
    """Run some, until the lane has learned that they are short, and others may follow them; the worker's process."""
    while True:
        job = await verbs.submit(cluster_jobs.hold_if, None, path)
        pid = await job
        if job._call.plan.pace < 0.002:
            return pid


async def until_over(jobs: list[Job[int]]) -> None:
    for job in jobs:
        await job.wait()


OWNER = """
import asyncio, sys
import asyncjobs as aj
import cluster_jobs
from asyncjobs.testing.work import FileGate
from test_cluster_nannies import short_ones

async def main(address, folder):
    async with aj.Runner(lanes={"cluster": aj.DaskLane(address)}, watchdog=None) as runner:
        verbs, gate = runner.options(lane="cluster"), FileGate(folder)
        await short_ones(verbs, folder + "/pace")
        waits = (None, gate, gate, None, None, None)
        jobs = [await verbs.submit(cluster_jobs.hold_if, gate, folder + "/ran") for gate in waits]
        await jobs[0]
        await gate.arrival(2)
        print("ready", flush=True)
        await asyncio.sleep(3600)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
def owner(cluster: DaskCluster, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another program that uses the cluster: two of its jobs run, and three were sent ahead."""
    command = [sys.executable, "-c", OWNER, cluster.address, str(tmp_path)]
    with subprocess.Popen(command, env=HERE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


async def test_when_its_program_dies_what_runs_ends_by_itself_and_nothing_else_begins(
    cluster: DaskCluster, owner: subprocess.Popen[str], tmp_path: Path
) -> None:
    async with over(cluster) as runner:
        client = await connected(runner)
        while list((await client.run(cluster_jobs.ready)).values()) != [3]:
            await asyncio.sleep(0.01)
        owner.kill()
        while list((await client.run(cluster_jobs.ready)).values()) != [0]:
            await asyncio.sleep(0.01)
        FileGate(str(tmp_path)).open()
        assert await runner.options(lane="cluster").run(work.double, 2) == 4
    assert len(lines(str(tmp_path / "ran"))) == 3


async def connected(runner: Runner) -> Any:
    """The client of Dask that its lane uses."""
    lane: Any = runner._lanes["cluster"]
    while lane.size() == 0:
        await asyncio.sleep(0.01)
    return lane._engine._client


async def test_a_job_that_does_not_stop_is_ended_by_a_restart_that_harms_no_neighbour(
    cluster: DaskCluster, tmp_path: Path
) -> None:
    deaf, patient = FileGate(str(tmp_path), "deaf"), FileGate(str(tmp_path), "patient")
    async with over(cluster, restart_to_kill=True) as runner:
        lane, verbs = runner._lanes["cluster"], runner.options(lane="cluster")
        neighbour = await verbs.submit(work.hold, patient, 7)
        job = await verbs.submit(cluster_jobs.pid_then_hold, str(tmp_path / "pid"), deaf)
        await deaf.arrival()
        await patient.arrival()
        assert job.cancel("enough", grace=0.05) == "requested"
        await job.wait()
        assert job.state is JobState.CANCELLED
        assert lane.abandoned() == 1  # for the neighbour runs in the same worker
        waiting = await verbs.submit(cluster_jobs.where)
        patient.open()
        assert await neighbour == 7
        assert await waiting != int(lines(str(tmp_path / "pid"))[0])
        assert lane.abandoned() == 0


async def test_a_job_alone_on_its_worker_is_killed_at_once(cluster: DaskCluster, tmp_path: Path) -> None:
    gate = FileGate(str(tmp_path))
    async with over(cluster, restart_to_kill=True) as runner:
        job = await runner.options(lane="cluster", grace=0.05).submit(work.hold, gate)
        await gate.arrival()
        job.cancel("enough")
        await job.wait()
        assert "could not be stopped" not in str(job.exception())
        assert runner._lanes["cluster"].abandoned() == 0


async def test_restarts_need_a_nanny(cluster: DaskCluster) -> None:
    lonely = DaskCluster(str(cluster.folder), {})
    lonely.start_scheduler()
    try:
        lonely.start_worker()
        cluster_is_up(lonely, 1)
        async with over(lonely, restart_to_kill=True) as runner:
            with pytest.raises(WorkerStartError, match=r"it has no nanny .* start it without --no-nanny"):
                await runner.options(lane="cluster").run(work.double, 1)
    finally:
        lonely.close()
