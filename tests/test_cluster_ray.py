"""`RayLane` over a real Ray cluster: two nodes on this machine, each with a processor to give."""

from __future__ import annotations

import os
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

ray: Any = pytest.importorskip("ray", reason="needs the extra `ray`: pip install -e '.[test,ray]'")

import cluster_jobs  # noqa: E402
from rays import NODE, PATIENCE, TOKEN, program, said, two_nodes  # noqa: E402
from services import service  # noqa: E402

import asyncjobs as aj  # noqa: E402
from asyncjobs import JobState, Pipeline, RayLane, Runner, SyncRunner, WorkerLost, WorkerStartError  # noqa: E402
from asyncjobs.lanes.base import Lane  # noqa: E402
from asyncjobs.lanes.ray import _cause  # noqa: E402
from asyncjobs.lanes.rayconnection import OWN_ENVIRONMENT  # noqa: E402
from asyncjobs.testing import LANE_CHECKS, work  # noqa: E402
from asyncjobs.testing.work import FileGate, lines, until  # noqa: E402

# Ray's threads, descriptors and processes stay as long as the cluster of this file.
pytestmark = [pytest.mark.slow, pytest.mark.may_leak, pytest.mark.timeout(300)]

CHECKS = [name for name in LANE_CHECKS if name != "context_variables_come_along"]
LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with two_nodes() as cluster:
        yield cluster


# --- while this program is connected to no cluster ------------------------------------------


class Web(BaseHTTPRequestHandler):
    """Answers in words that Ray does not speak."""

    def log_message(self, *args: object) -> None:
        """Nothing."""


@contextmanager
def deaf() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@contextmanager
def web() -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), Web) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.mark.parametrize(
    ("whoever", "text"),
    [
        (nullcontext(1), "did not come up: Connection refused"),
        (deaf(), "did not come up within 10 s: nobody answers there, or wants another token"),
        (web(), "cannot be used: what answers there is not Ray"),
    ],
    ids=["nobody", "deaf", "web"],
)
async def test_a_cluster_that_is_not_there_is_named_without_credentials(
    whoever: AbstractContextManager[int],
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert not ray.is_initialized()
    monkeypatch.setattr("asyncjobs.lanes.cluster.CONNECT", 10.0)
    monkeypatch.setattr("asyncjobs.lanes.rayconnection.KNOCK", 1.0)
    with whoever as port:
        async with Runner(lanes={"ray": RayLane(f"ray://me:secret@127.0.0.1:{port}")}) as runner:
            with pytest.raises(WorkerStartError, match=f"the Ray cluster at ray://127.0.0.1:{port} {text}"):
                await runner.options(lane="ray").run(work.double, 1)
    assert "did not come up" in caplog.text or "cannot be used" in caplog.text
    assert "secret" not in caplog.text


# --- what goes there and comes back ---------------------------------------------------------


@pytest.mark.parametrize("name", CHECKS)
async def test_the_ray_lane_keeps_its_promise(cluster: Any, name: str) -> None:
    def make() -> AbstractContextManager[Lane]:
        return nullcontext(RayLane())

    await LANE_CHECKS[name](make)


def where() -> tuple[str, int]:
    """In a worker: its node, and its process."""
    return ray.get_runtime_context().get_node_id(), os.getpid()


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


async def test_a_worker_that_dies_costs_its_job_and_another_comes(cluster: Any, tmp_path: Path) -> None:
    async with Runner(lanes={"ray": RayLane(workers=1)}) as runner:
        jobs = runner.options(lane="ray")
        first = await jobs.run(where)
        job = await jobs.submit(cluster_jobs.die, str(tmp_path / "died"))
        await job.wait()
        assert job.state is JobState.LOST
        error = job.exception()
        assert isinstance(error, WorkerLost)
        assert (error.cause, error.pid) == ("its process died", first[1])
        assert f"-{first[1]} of the Ray cluster is gone (its process died) while it had 'die', attempt 1" in str(error)
        assert (await jobs.run(where))[1] != first[1]
        again = await runner.options(lane="ray", lost="retry").submit(cluster_jobs.die_once, str(tmp_path / "ran"))
        assert await again == 7
        assert again.attempt == 2


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


async def test_large_arguments_and_shared_objects_go_through_the_object_store(
    cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np

    puts: list[Any] = []
    put = ray.put
    monkeypatch.setattr(ray, "put", lambda value: puts.append(value) or put(value))
    data = np.arange(500_000, dtype=np.float64)
    async with Runner(lanes={"ray": RayLane()}) as runner:
        jobs = runner.options(lane="ray")
        assert (await jobs.run(cluster_jobs.total, data))[:2] == (data.sum(), True)
        assert len(puts) == 1
        async with runner.share(data) as shared:
            found = await aj.gather([await jobs.submit(cluster_jobs.total, shared) for _ in range(6)])
            assert {result[:2] for result in found} == {(data.sum(), False)}
            assert await jobs.run(cluster_jobs.same_object, shared, shared)
        assert len(puts) == 2
        assert (await jobs.run(np.negative, data) == -data).all()


def held() -> tuple[dict[str, float], str]:
    """In a worker: what Ray has set aside for it, and which devices it sees."""
    return ray.get_runtime_context().get_assigned_resources(), os.environ["CUDA_VISIBLE_DEVICES"]


async def test_resources_are_those_that_ray_has_set_aside_for_the_worker(cluster: Any) -> None:
    resources = {"cpu": 0.5, "gpu": 1, "disk": 2, "memory": "10MiB"}
    async with Runner(lanes={"ray": RayLane(workers=1, resources=resources)}) as runner:
        assigned, devices = await runner.options(lane="ray").run(held)
        assert assigned == {"CPU": 0.5, "GPU": 1.0, "disk": 2.0, "memory": 10 * 2**20}
        assert devices == "0"
        assert await runner.options(lane="ray", resources={"cpu": 0.5, "memory": 1024}).run(work.double, 2) == 4
        with pytest.raises(ValueError, match=r"more than any worker of lane 'ray' \(Ray\) offers: cpu=0\.5"):
            await runner.options(lane="ray", resources={"cpu": 2}).submit(work.double, 2)


async def test_what_a_job_prints_comes_back(cluster: Any, capsys: pytest.CaptureFixture[str]) -> None:
    async with Runner(lanes={"ray": RayLane(workers=1)}) as runner:
        job = await runner.options(lane="ray", output="capture").submit(cluster_jobs.say, "captured")
        await job
        assert sorted(job.output.split()) == ["CAPTURED", "captured"]
        await runner.options(lane="ray").run(cluster_jobs.say, "passed")
    assert capsys.readouterr() == ("passed\n", "PASSED\n")


async def test_a_pipeline_maps_over_the_cluster(cluster: Any) -> None:
    async with Runner(lanes={"ray": RayLane(workers=1)}) as runner:
        pipeline = Pipeline(range(200), runner=runner).map(work.double, lane="ray", concurrency=2)
        assert [item async for item in pipeline] == [2 * number for number in range(200)]


def test_the_sync_face_needs_nothing_else(cluster: Any) -> None:
    with SyncRunner(lanes={"ray": RayLane(workers=1)}) as runner:
        assert runner.options(lane="ray").run(work.double, 4) == 8


def test_what_a_notebook_s_cell_defines_runs_there_and_prints_into_its_cell(cluster: Any) -> None:
    kernels = pytest.importorskip("kernels", reason="there is no kernel to test in")
    with kernels.new_kernel(f"import os; os.environ.update({OWN_ENVIRONMENT}); import asyncjobs as aj, ray") as kernel:
        kernel.run(f"ray.init({cluster.address!r}, log_to_driver=False); None")
        kernel.run("runner = aj.SyncRunner(lanes={'ray': aj.RayLane(workers=1)})")
        kernel.run("def shout(word):\n    print(word)\n    return word.upper()")
        cell = kernel.run("runner.options(lane='ray').run(shout, 'hello')")
        assert kernel.value(cell) == "'HELLO'"
        assert kernel.text(cell) == "hello\n"
        kernel.run("runner.close(); ray.shutdown()")


class Child:
    def ping(self) -> None: ...


class Owner:
    def child(self) -> Any:
        self._child = ray.remote(num_cpus=0)(Child).remote()
        ray.get(self._child.ping.remote())
        return self._child


def ping_until_it_is_dead(child: Any) -> None:
    while True:
        with suppress(ray.exceptions.ActorUnavailableError):
            ray.get(child.ping.remote())


def test_a_worker_whose_owner_died_says_so(cluster: Any) -> None:
    owner = ray.remote(num_cpus=0)(Owner).remote()
    child = ray.get(owner.child.remote())
    ray.kill(owner)
    with pytest.raises(ray.exceptions.ActorDiedError) as caught:
        ping_until_it_is_dead(child)
    assert _cause(caught.value) == "its owner died"


def test_its_processes_listen_on_loopback_only(cluster: Any) -> None:
    listening = []
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            ends = [end for end in process.net_connections("inet") if end.status == psutil.CONN_LISTEN]
            listening += [(process.name(), end.laddr.ip) for end in ends]
    assert {"gcs_server", "raylet"} <= {name for name, _ in listening}
    assert [one for one in listening if one[1] not in LOOPBACK] == []


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
        error = job.exception()
        assert isinstance(error, WorkerLost)
        assert error.cause in ("its node died", "its process died")  # whichever Ray has noticed first
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


# --- programs of their own ------------------------------------------------------------------


ALONE = """
import asyncio, psutil
import asyncjobs as aj

async def main():
    async with aj.Runner(lanes={"ray": aj.RayLane(workers=1)}) as runner:
        print(await runner.options(lane="ray").run(pow, 2, 10))
        family = [psutil.Process(), *psutil.Process().children(recursive=True)]
        ends = [end.laddr.ip for one in family for end in one.net_connections("inet") if end.status == "LISTEN"]
        print(*sorted(set(ends)))
    print("left:", len(psutil.Process().children(recursive=True)))

asyncio.run(main())
"""


async def test_without_an_address_a_cluster_of_its_own_starts_on_loopback_and_ends_with_the_runner() -> None:
    out, err = await said(await program(ALONE))
    value, ends, left = out.splitlines()
    assert value == "1024"
    assert ends
    assert set(ends.split()) <= LOOPBACK
    assert left == "left: 0"
    assert "SIGTERM" not in err


HOLDS = """
import asyncio, sys
import asyncjobs as aj
import cluster_jobs
from asyncjobs.lanes import cluster
from asyncjobs.testing.work import FileGate

async def main(address, pids, gate):
    cluster.CONNECT = 60.0
    async with aj.Runner(lanes={"ray": aj.RayLane(address)}) as runner:
        for _ in range(2):
            await runner.options(lane="ray").submit(cluster_jobs.pid_then_hold, pids, FileGate(gate))
        await runner.join()

asyncio.run(main(*sys.argv[1:]))
"""


async def test_when_the_program_is_killed_its_jobs_end_and_their_room_is_free(cluster: Any, tmp_path: Path) -> None:
    pids, gate = str(tmp_path / "pids"), FileGate(str(tmp_path))
    owner = await program(HOLDS, cluster.address, pids, gate.folder)
    await gate.arrival(2)
    workers = [psutil.Process(int(pid)) for pid in lines(pids)]
    owner.kill()
    await owner.communicate()
    await until(lambda: not any(worker.is_running() for worker in workers), "the end of the jobs")
    async with Runner(lanes={"ray": RayLane(workers=2)}) as runner:
        assert await runner.options(lane="ray").map(work.double, range(10)).collect() == list(range(0, 20, 2))


TRIES = """
import asyncio, sys, ray
import asyncjobs as aj
from asyncjobs.lanes import cluster

async def main(address, seconds, packages=None):
    cluster.CONNECT = float(seconds)
    if packages:  # the workers find theirs there
        ray.init(address, runtime_env={"env_vars": {"PYTHONPATH": packages}}, log_to_driver=False)
    async with aj.Runner(lanes={"ray": aj.RayLane(address, workers=1)}) as runner:
        try:
            await runner.options(lane="ray").run(pow, 2, 10)
        except aj.WorkerStartError as error:
            print(error)

asyncio.run(main(*sys.argv[1:]))
"""


async def test_workers_with_another_version_are_refused_when_they_come(cluster: Any, tmp_path: Path) -> None:
    there = tmp_path / "there"
    shutil.copytree(Path(aj.__file__).parent, there / "asyncjobs", ignore=shutil.ignore_patterns("__pycache__"))
    init = there / "asyncjobs" / "__init__.py"
    init.write_text(init.read_text().replace(f'__version__ = "{aj.__version__}"', '__version__ = "0.0.9"'))
    out, err = await said(
        await program(TRIES, cluster.address, str(PATIENCE), str(there), folder=tmp_path, **OWN_ENVIRONMENT)
    )
    assert f"asyncjobs {aj.__version__} here, 0.0.9 there. Install the same on both sides" in out, err
    assert "leaves out a worker: versions differ at the Ray worker on" in err


async def test_a_wrong_token_is_no_cluster_and_stays_a_secret(cluster: Any) -> None:
    wrong = "wrong-" * 10
    out, err = await said(await program(TRIES, cluster.address, "2", RAY_AUTH_TOKEN=wrong))
    assert f"the Ray cluster at {cluster.address} did not come up within 2 s" in out
    assert "or wants another token than this program's" in out
    assert wrong not in out + err
    assert TOKEN not in out + err


async def test_a_cluster_whose_room_others_have_says_so(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Runner(lanes={"ray": RayLane(workers=2)}) as first:
        assert await first.options(lane="ray").run(pow, 2, 3) == 8
        await until(lambda: first._lanes["ray"].size() == 2, "both workers")
        monkeypatch.setattr("asyncjobs.lanes.cluster.CONNECT", 2.0)
        monkeypatch.setattr("asyncjobs.lanes.ray.OWN_START", 2.0)
        monkeypatch.setattr("asyncjobs.lanes.ray.TOGETHER", 0.1)
        why = "has no workers: none came within 2 s. Others may hold all of its room: each lane and program"
        async with Runner(lanes={"ray": RayLane()}) as second:
            with pytest.raises(WorkerStartError, match=why):
                await second.options(lane="ray").run(pow, 2, 3)


SHARES = """
import asyncio, sys, ray
import asyncjobs as aj
from asyncjobs.lanes import cluster

async def main(address):
    cluster.CONNECT = 60.0
    one, two = ({name: aj.RayLane(address, workers=1)} for name in "ab")
    async with aj.Runner(lanes={**one, **two}) as runner:
        print(await asyncio.gather(*(runner.options(lane=name).run(pow, 2, 3) for name in "ab")))
    print(ray.is_initialized())
    async with aj.Runner(lanes=two) as second:
        async with aj.Runner(lanes=one) as first:
            print(await first.options(lane="a").run(pow, 2, 4), await second.options(lane="b").run(pow, 2, 5))
        print(await second.options(lane="b").run(pow, 2, 6))
    print(ray.is_initialized())

asyncio.run(main(*sys.argv[1:]))
"""


async def test_lanes_and_runners_of_one_program_share_its_connection(cluster: Any) -> None:
    out, _ = await said(await program(SHARES, cluster.address, **OWN_ENVIRONMENT))
    assert out.splitlines() == ["[8, 8]", "False", "16 32", "64", "False"]


KILLS = """
import asyncio, sys, ray
import asyncjobs as aj
from asyncjobs.lanes import cluster, ray as lane

async def main(address):
    cluster.CONNECT, lane.DRAIN = 60.0, 2.0
    drained = asyncio.get_running_loop().create_future()
    async with aj.Runner(lanes={"ray": aj.RayLane(address, workers=1)}) as runner:
        print(await runner.options(lane="ray").run(pow, 2, 3))
        engine = runner._lanes["ray"]._engine
        engine.kill(next(iter(engine._actors)))
        asyncio.get_running_loop().call_later(lane.DRAIN, drained.set_result, None)
    print(drained.done())
    await drained
    print(ray.is_initialized())

asyncio.run(main(*sys.argv[1:]))
"""


async def test_nothing_is_asked_of_ray_once_the_lane_is_closed(cluster: Any) -> None:
    out, _ = await said(await program(KILLS, cluster.address, **OWN_ENVIRONMENT))
    assert out.splitlines() == ["8", "False", "False"]
