"""A Dask cluster that changes while a runner uses it: it comes again, a worker does not answer, or takes data along."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

pytest.importorskip("distributed", reason="needs the extra `dask`: pip install -e '.[test,dask]'")

import cluster_jobs
import distributed
from clusters import DaskCluster, cluster_is_up, dask_cluster

from asyncjobs import DaskLane, Job, JobState, Runner
from asyncjobs.testing.work import until

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.may_complain("Dask drops a connection to a worker that died, unlooked at"),
]
PATIENCE = 60.0


@pytest.fixture
def cluster() -> Iterator[DaskCluster]:
    with dask_cluster(2) as cluster:
        yield cluster


def over(cluster: DaskCluster) -> Runner:
    return Runner(lanes={"cluster": DaskLane(cluster.address)}, watchdog=None)


def lane_of(runner: Runner) -> Any:
    return runner._lanes["cluster"]


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Within it that process does not answer, but its connections stand."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def ended(job: Job[Any]) -> Any:
    async with asyncio.timeout(PATIENCE):
        return await job


@pytest.mark.parametrize("workers_first", [False, True])
async def test_a_cluster_that_came_again_meanwhile_is_found_by_the_next_job(
    workers_first: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        cluster = DaskCluster(folder, {})
        start(cluster)
        try:
            async with over(cluster) as runner:
                verbs, shared = runner.options(lane="cluster"), runner.share(np.ones(100_000))
                assert (await verbs.run(cluster_jobs.total, shared.argument))[0] == 100_000.0
                engine = lane_of(runner)._engine
                client, link = engine._client, engine._client.scheduler_comm
                if workers_first:
                    cluster.workers[0].kill()
                    await until(lambda: lane_of(runner).size() == 0, "its end")
                    assert caplog.messages[-1] == "lane 'cluster' has no workers any more; its jobs wait for another"
                cluster.close()
                start(cluster, "--port", cluster.address.rpartition(":")[2])
                await until(lambda: client.status == "running" and client.scheduler_comm is not link, "Dask's own")
                jobs = [await verbs.submit(cluster_jobs.total, shared.argument) for _ in range(2)]
                assert [(await ended(job))[0] for job in jobs] == [100_000.0] * 2
                assert [job.attempt for job in jobs] == [1, 1]
                shared.close()
        finally:
            cluster.close()


def start(cluster: DaskCluster, *options: str) -> None:
    cluster.workers.clear()
    cluster.start_scheduler(options=options)
    cluster.start_worker()
    cluster_is_up(cluster, 1)


async def test_a_worker_that_does_not_answer_keeps_nobody_waiting(
    cluster: DaskCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncjobs.lanes.dask.TOGETHER", 0.5)
    first, second = (worker.pid for worker in cluster.workers)
    async with over(cluster) as runner:
        with frozen(first):
            assert await ended(await runner.options(lane="cluster").submit(cluster_jobs.where)) == second
        await until(lambda: lane_of(runner).size() == 2, "the other one")


async def test_a_shared_object_outlives_the_worker_that_had_it(cluster: DaskCluster) -> None:
    async with over(cluster) as runner:
        verbs, lane = runner.options(lane="cluster"), lane_of(runner)
        await until(lambda: lane.size() == 2, "both workers")
        with runner.share(np.ones(100_000)) as shared:
            holder = (await verbs.run(cluster_jobs.total, shared.argument))[2]
            other = next(worker.pid for worker in cluster.workers if worker.pid != holder)
            with frozen(other):
                jobs = [await verbs.submit(cluster_jobs.total, shared.argument) for _ in range(2)]
                await until(lambda: sum(job.done() for job in jobs) == 1, "the one beside it")
                await until(lambda: len(lane._engine._following) == 1, "the one that waits for it")
                os.kill(holder, signal.SIGKILL)
                await until(lambda: lane.size() == 1, "its end")
            found = [await ended(job) for job in jobs]
            assert {value for value, *_ in found} == {100_000.0}
            assert [job.attempt for job in jobs] == [1, 1]
            assert await ended(await verbs.submit(cluster_jobs.total, shared.argument)) == (100_000.0, False, other)


async def test_the_scheduler_forgets_what_jobs_have_said(cluster: DaskCluster) -> None:
    async with distributed.Client(cluster.address, asynchronous=True, set_as_default=False) as client:
        async with over(cluster) as runner:
            job = await runner.options(lane="cluster", output="capture").submit(cluster_jobs.say, "a secret")
            await job
            assert "a secret" in str(await client.get_events())
        assert "a secret" not in str(await client.get_events())


async def test_a_worker_that_went_at_once_is_left_out_without_its_address(
    cluster: DaskCluster, caplog: pytest.LogCaptureFixture
) -> None:
    async with over(cluster) as runner:
        verbs = runner.options(lane="cluster")
        assert await verbs.run(cluster_jobs.where)
        with caplog.at_level(logging.WARNING, "asyncjobs"):
            await lane_of(runner)._engine._enrol("tcp://127.0.0.1:1")
        assert caplog.messages == ["lane 'cluster' leaves out a worker: it does not answer"]
        job = await verbs.submit(cluster_jobs.where)
        assert await ended(job)
        assert job.state is JobState.SUCCEEDED
