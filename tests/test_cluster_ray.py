"""`RayLane` over a real Ray cluster: two nodes on this machine, each with a processor to give."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

ray: Any = pytest.importorskip("ray", reason="needs the extra `ray`: pip install -e '.[test,ray]'")
cluster_utils: Any = pytest.importorskip("ray.cluster_utils")

from services import service  # noqa: E402

import asyncjobs as aj  # noqa: E402
from asyncjobs import JobState, RayLane, Runner, WorkerLost, WorkerStartError  # noqa: E402
from asyncjobs.lanes.base import Lane  # noqa: E402
from asyncjobs.lanes.ray import on_loopback  # noqa: E402
from asyncjobs.testing import LANE_CHECKS, work  # noqa: E402
from asyncjobs.testing.work import FileGate  # noqa: E402

# Ray's threads, descriptors and processes stay as long as the cluster of this file.
pytestmark = [pytest.mark.slow, pytest.mark.may_leak, pytest.mark.timeout(300)]

CHECKS = [name for name in LANE_CHECKS if name != "context_variables_come_along"]
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}


@contextmanager
def two_nodes() -> Iterator[Any]:
    """A cluster that listens on loopback only, and this program connected to it."""
    with on_loopback():
        cluster = cluster_utils.Cluster(initialize_head=True, head_node_args=NODE)
        cluster.add_node(**NODE)
        cluster.wait_for_nodes()
        ray.init(cluster.address, log_to_driver=False, configure_logging=False)
    try:
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with two_nodes() as cluster:
        yield cluster


@pytest.mark.parametrize("name", CHECKS)
async def test_the_ray_lane_keeps_its_promise(cluster: Any, name: str) -> None:
    def make() -> AbstractContextManager[Lane]:
        return nullcontext(RayLane())

    await LANE_CHECKS[name](make)


def where() -> tuple[str, int]:
    """In a worker: its node, and its process."""
    return ray.get_runtime_context().get_node_id(), os.getpid()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def test_both_nodes_work_and_values_come_in_order(cluster: Any, tmp_path: Path) -> None:
    gate = FileGate(str(tmp_path))
    async with Runner(lanes={"ray": RayLane()}) as runner:
        jobs = runner.options(lane="ray")
        held = [await jobs.submit(meet, gate) for _ in range(2)]
        await gate.arrival(2)
        gate.open()
        assert len({await job for job in held}) == 2
        assert await jobs.map(work.double, range(500)).collect() == [2 * number for number in range(500)]


def meet(gate: FileGate) -> str:
    work.hold(gate)
    return where()[0]


async def test_a_worker_that_dies_costs_its_job_and_another_comes(cluster: Any) -> None:
    async with Runner(lanes={"ray": RayLane(workers=1)}) as runner:
        jobs = runner.options(lane="ray")
        first = await jobs.run(where)
        job = await jobs.submit(die)
        await job.wait()
        assert job.state is JobState.LOST
        error = job.exception()
        assert isinstance(error, WorkerLost)
        assert error.cause == "its process died"
        assert (await jobs.run(where))[1] != first[1]


async def test_a_job_that_is_killed_gives_back_what_waits_behind_it(cluster: Any, tmp_path: Path) -> None:
    gate = FileGate(str(tmp_path))
    async with Runner(lanes={"ray": RayLane(workers=1)}) as runner:
        jobs = runner.options(lane="ray")
        for number in range(3):
            await jobs.run(briefly, None, number)  # so that the lane knows it as short, and lets it wait behind others
        deaf = await jobs.submit(briefly, gate, 0)
        await gate.arrival()
        behind = [await jobs.submit(briefly, None, number) for number in range(5)]
        deaf.cancel(grace=0.0)
        await deaf.wait()
        assert deaf.state is JobState.CANCELLED
        assert await aj.gather(behind) == list(range(5))


def briefly(gate: FileGate | None, number: int) -> int:
    return number if gate is None else work.hold(gate, number)


async def test_large_arguments_and_shared_objects_go_through_the_object_store(cluster: Any) -> None:
    import numpy as np

    data = np.arange(500_000, dtype=np.float64)
    async with Runner(lanes={"ray": RayLane(workers=1)}) as runner:
        jobs = runner.options(lane="ray")
        assert await jobs.run(np.sum, data) == data.sum()
        with runner.share(data) as shared:
            assert await aj.gather([await jobs.submit(np.sum, shared) for _ in range(3)]) == [data.sum()] * 3
        back = await jobs.run(np.negative, data)
        assert (back == -data).all()


async def test_a_job_may_need_what_its_worker_holds(cluster: Any) -> None:
    async with Runner(lanes={"ray": RayLane(workers=1, resources={"cpu": 0.5, "memory": "10MiB"})}) as runner:
        assert await runner.options(lane="ray", resources={"cpu": 0.5, "memory": 1024}).run(work.double, 2) == 4
        with pytest.raises(ValueError, match=r"more than any worker of lane 'ray' \(Ray\) offers: cpu=0\.5"):
            await runner.options(lane="ray", resources={"cpu": 2, "gpu": 1}).submit(work.double, 2)


async def test_progress_and_output_come_back(cluster: Any) -> None:
    async with Runner(lanes={"ray": RayLane(workers=1)}) as runner:
        job = await runner.options(lane="ray", output="capture").submit(print, "from Ray")
        await job
        assert job.output == "from Ray\n"


def test_its_processes_listen_on_loopback_only(cluster: Any) -> None:
    listening = []
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            ends = [end for end in process.net_connections("inet") if end.status == psutil.CONN_LISTEN]
            listening += [(process.name(), end.laddr.ip) for end in ends]
    assert {"gcs_server", "raylet"} <= {name for name, _ in listening}
    assert [one for one in listening if one[1] not in ("127.0.0.1", "::1", "::ffff:127.0.0.1")] == []


async def test_a_node_that_is_lost_costs_its_jobs_and_the_others_go_on(cluster: Any, tmp_path: Path) -> None:
    extra = cluster.add_node(**{**NODE, "resources": {"doomed": 1}})
    gate = FileGate(str(tmp_path))
    lanes = {"ray": RayLane(workers=1), "doomed": RayLane(workers=1, resources={"doomed": 1})}
    async with Runner(lanes=lanes) as runner:
        job = await runner.options(lane="doomed").submit(work.hold, gate)
        neighbour = await runner.options(lane="ray").submit(work.hold, gate, 7)
        await gate.arrival(2)
        cluster.remove_node(extra, allow_graceful=False)
        await job.wait()
        assert job.state is JobState.LOST
        assert isinstance(job.exception(), WorkerLost)
        gate.open()
        assert await neighbour == 7


async def test_a_second_cluster_is_refused_in_words(cluster: Any) -> None:
    async with Runner(lanes={"ray": RayLane("127.0.0.1:1")}) as runner:
        with pytest.raises(WorkerStartError, match="connected to another Ray cluster"):
            await runner.options(lane="ray").run(work.double, 1)


def test_jobs_of_a_service_run_on_the_cluster(cluster: Any, tmp_path: Path) -> None:
    options = ["--allow", "cluster_jobs:where", "--allow", "cluster_jobs:say"]
    with service(tmp_path, *options, "--lane", f"cluster=ray:{cluster.address}") as running:
        near = running.submit("cluster_jobs:where")["id"]
        far = running.submit("cluster_jobs:where", lane="cluster")["id"]
        assert psutil.Process(running.value(far)).name().startswith("ray::")
        assert not psutil.Process(running.value(near)).name().startswith("ray::")
        said = running.submit("cluster_jobs:say", "hello", lane="cluster")["id"]
        assert running.value(said) == "hello"
        assert "hello" in running.log_of(said)


ALONE = """
import asyncio, psutil
import asyncjobs as aj

async def main():
    async with aj.Runner(lanes={{"ray": aj.RayLane({address})}}) as runner:
        try:
            print(await runner.options(lane="ray").run(pow, 2, 10))
        except aj.WorkerStartError as error:
            print(type(error).__name__, error)
        family = [psutil.Process(), *psutil.Process().children(recursive=True)]
        ends = [end.laddr.ip for one in family for end in one.net_connections("inet") if end.status == "LISTEN"]
        print(sorted(set(ends)))
    print("left:", len(psutil.Process().children(recursive=True)))

asyncio.run(main())
"""


async def _alone(address: str) -> list[str]:
    """What a program prints that has no cluster yet."""
    import asyncio

    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", ALONE.format(address=address), stdout=-1, stderr=-1
    )
    out, err = await asyncio.wait_for(process.communicate(), 200)
    assert process.returncode == 0, err.decode()
    return out.decode().splitlines()


async def test_without_an_address_a_cluster_of_its_own_starts_on_loopback_and_ends_with_the_runner() -> None:
    value, ends, left = await _alone("workers=1, resources={'cpu': 1}")
    assert value == "1024"
    assert set(eval(ends)) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert ends != "[]"
    assert left == "left: 0"


async def test_a_cluster_that_is_not_there_is_named_after_ten_seconds() -> None:
    error, *_ = await _alone("'127.0.0.1:1'")
    assert error.startswith("WorkerStartError the Ray cluster at 127.0.0.1:1 did not come up")
