"""Real Dask clusters for tests: a scheduler and workers as processes of their own, on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import asyncjobs.lanes.cluster
import asyncjobs.lanes.dask

WAIT = 60.0
"""Seconds in which a process of the cluster comes up, on a machine that does much else."""

HERE = os.environ | {
    "DASK_LOGGING__DISTRIBUTED": "error",
    "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]),
}
"""The environment of whoever has to find what the jobs of tests are made of."""

# A cluster that is up may take longer to answer there than a user's should.
asyncjobs.lanes.cluster.CONNECT = asyncjobs.lanes.dask.CONNECT = WAIT


class DaskCluster:
    """One scheduler and its workers; `inside` is put before each command, such as ``ip netns exec NAME``."""

    def __init__(self, folder: str, environment: dict[str, str]) -> None:
        self.folder = Path(folder)
        self.environment = HERE | environment
        self.scheduler: subprocess.Popen[bytes]
        self.workers: list[subprocess.Popen[bytes]] = []
        self.address = ""

    def start_scheduler(self, host: str = "127.0.0.1", inside: Sequence[str] = (), options: Sequence[str] = ()) -> None:
        file = self.folder / f"scheduler-{time.monotonic_ns()}.json"
        command = ["distributed.cli.dask_scheduler", "--host", host, "--port", "0", "--no-dashboard"]
        command += ["--dashboard-address", f"{host}:0", "--scheduler-file", str(file), *options]
        self.scheduler = self._start(inside, *command)
        deadline = time.monotonic() + WAIT
        while not file.exists() or not file.read_text():
            assert self.scheduler.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.02)
        self.address = json.loads(file.read_text())["address"]

    def start_worker(self, host: str = "127.0.0.1", inside: Sequence[str] = (), options: Sequence[str] = ()) -> None:
        command = ["distributed.cli.dask_worker", self.address, "--host", host, "--nthreads", "1", "--no-nanny"]
        command += ["--no-dashboard", "--dashboard-address", f"{host}:0", "--memory-limit", "0"]
        command += ["--local-directory", str(self.folder), *options]
        self.workers.append(self._start(inside, *command))

    def _start(self, inside: Sequence[str], module: str, *options: str) -> subprocess.Popen[bytes]:
        with open(self.folder / "log", "ab") as log:
            command = [*inside, sys.executable, "-m", module, *options]
            return subprocess.Popen(command, env=self.environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def reap(self) -> None:
        """Take leave of those that have ended."""
        for process in self.processes():
            process.poll()

    def refill(self, count: int) -> None:
        """Replace the workers that were killed."""
        living = [worker for worker in self.workers if worker.poll() is None]
        dead = [worker for worker in self.workers if worker not in living]
        self.workers[:] = living
        for _ in dead:
            self.start_worker()
        if dead:
            cluster_is_up(self, count)

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def processes(self) -> list[subprocess.Popen[bytes]]:
        return [self.scheduler, *self.workers]

    def close(self) -> None:
        for process in reversed(self.processes()):
            process.kill()
            process.wait()


@contextmanager
def dask_cluster(workers: int = 3, **environment: str) -> Iterator[DaskCluster]:
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        cluster = DaskCluster(folder, environment)
        cluster.start_scheduler()
        stack.callback(cluster.close)
        for _ in range(workers):
            cluster.start_worker()
        if workers:
            cluster_is_up(cluster, workers)
        yield cluster


def cluster_is_up(cluster: DaskCluster, workers: int) -> None:
    """Wait for all workers, in a process of its own: no thread and no loop of Dask's stays here."""
    client = f"distributed.Client({cluster.address!r}, timeout={WAIT})"
    code = f"import distributed; {client}.wait_for_workers({workers}, {WAIT})"
    subprocess.run([sys.executable, "-c", code], check=True, env=cluster.environment, timeout=2 * WAIT)
