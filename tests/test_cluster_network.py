"""A Dask cluster of three hosts (network namespaces): one is cut off, one is killed (F86). Needs root."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

pytest.importorskip("distributed", reason="needs the extra `dask`: pip install -e '.[test,dask]'")

import cluster_jobs
from clusters import DaskCluster, cluster_is_up

from asyncjobs import DaskLane, JobState, Runner
from asyncjobs.testing import work
from asyncjobs.testing.work import FileGate, lines, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0 or shutil.which("ip") is None, reason="needs root and iproute2"),
]

NET = "10.213.77"
TTL = "5s"
"""After which Dask takes a silent worker for dead; 5 minutes by itself."""


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


class Hosts:
    """A bridge with us on it, and hosts that hang on it by a cable each."""

    def __init__(self, count: int) -> None:
        self.tag = f"aj{os.getpid() % 100000}"
        self.bridge = f"{self.tag}b"
        self.names = [f"{self.tag}n{number}" for number in range(count)]

    def build(self) -> None:
        ip("link", "add", self.bridge, "type", "bridge")
        ip("addr", "add", f"{NET}.1/24", "dev", self.bridge)
        ip("link", "set", self.bridge, "up")
        for number, name in enumerate(self.names):
            ip("netns", "add", name)
            ip("link", "add", self.cable(number), "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("link", "set", self.cable(number), "master", self.bridge, "up")
            ip("-n", name, "addr", "add", f"{self.address(number)}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
            ip("-n", name, "link", "set", "lo", "up")

    def cable(self, number: int) -> str:
        return f"{self.tag}c{number}"

    def address(self, number: int) -> str:
        return f"{NET}.{10 + number}"

    def inside(self, number: int) -> Sequence[str]:
        return ("ip", "netns", "exec", self.names[number])

    def cut(self, number: int) -> None:
        ip("link", "set", self.cable(number), "down")

    def remove(self) -> None:
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
        subprocess.run(["ip", "link", "del", self.bridge], check=False, capture_output=True)


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    hosts = Hosts(3)
    try:
        hosts.build()
    except subprocess.CalledProcessError as error:
        hosts.remove()
        pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")
    yield hosts
    hosts.remove()


@pytest.fixture
def cluster(hosts: Hosts) -> Iterator[DaskCluster]:
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        cluster = DaskCluster(folder, {"DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": TTL})
        cluster.start_scheduler(f"{NET}.1")
        stack.callback(cluster.close)
        for number in range(3):
            cluster.start_worker(hosts.address(number), hosts.inside(number))
        cluster_is_up(cluster, 3)
        yield cluster


async def test_of_three_hosts_one_is_cut_off_and_one_is_killed(
    cluster: DaskCluster, hosts: Hosts, tmp_path: Path
) -> None:
    gate = FileGate(str(tmp_path))
    async with Runner(lanes={"cluster": DaskLane(cluster.address)}, watchdog=None) as runner:
        verbs = runner.options(lane="cluster")
        await until(lambda: runner._lanes["cluster"].size() == 3, "three hosts")
        jobs = []
        for number in range(3):
            jobs.append(await verbs.submit(cluster_jobs.pid_then_hold, str(tmp_path / f"pid{number}"), gate))
        await gate.arrival(3)
        pids = [int(lines(str(tmp_path / f"pid{number}"))[0]) for number in range(3)]
        where = {worker.pid: number for number, worker in enumerate(cluster.workers)}
        by_host = {where[pid]: job for pid, job in zip(pids, jobs, strict=True)}
        hosts.cut(0)
        cluster.workers[1].kill()
        await by_host[1].wait()
        assert by_host[1].state is JobState.LOST
        await by_host[0].wait()
        assert by_host[0].state is JobState.LOST
        assert by_host[2].state is JobState.RUNNING
        gate.open()
        assert await by_host[2] == cluster.workers[2].pid
        assert await verbs.run(work.double, 3) == 6
        assert runner._lanes["cluster"].size() == 1
