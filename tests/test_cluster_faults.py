"""What a Dask cluster does to jobs when it fails (F86), and what it is given: data, resources, output."""

from __future__ import annotations

import asyncio
import gc
import importlib
import logging
import os
import pickle
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("distributed", reason="needs the extra `dask`: pip install -e '.[test,dask]'")

import cluster_jobs
from clusters import DaskCluster, dask_cluster

import asyncjobs.station
from asyncjobs import (
    ArenaFull,
    DaskLane,
    FIFOQueue,
    JobState,
    NotSendable,
    RemoteError,
    Runner,
    SyncRunner,
    WorkerLost,
    WorkerStartError,
    gather,
)
from asyncjobs.lanes.clusterfaults import not_up
from asyncjobs.testing import work
from asyncjobs.testing.work import FileGate, lines, until
from asyncjobs.wire import failure


def harms_a_worker(test: Callable[..., object]) -> Callable[..., object]:
    """Mark a test that ends one; the next test finds another in its place."""
    quiet = pytest.mark.may_complain("Dask drops a connection to a worker that died, unlooked at")
    return pytest.mark.may_leak("a worker that was started for it lives on, if it was another that died")(quiet(test))


@pytest.fixture(scope="module")
def steady() -> Iterator[DaskCluster]:
    """A cluster that no test harms."""
    with dask_cluster(2) as cluster:
        cluster.start_worker(options=["--resources", "GPU=1"])
        yield cluster


@pytest.fixture(scope="module")
def _harmed() -> Iterator[DaskCluster]:
    with dask_cluster(2) as cluster:
        yield cluster


@pytest.fixture
def fragile(_harmed: DaskCluster) -> Iterator[DaskCluster]:
    """A cluster of two workers: those that the last test killed have been replaced."""
    _harmed.refill(2)
    yield _harmed
    _harmed.reap()


def over(cluster: DaskCluster) -> Runner:
    return Runner(lanes={"cluster": DaskLane(cluster.address)}, watchdog=None)


# --- what goes there and comes back ---------------------------------------------------------


async def test_what_a_job_prints_comes_back_and_may_be_captured(steady: DaskCluster, capsys) -> None:
    async with over(steady) as runner:
        job = await runner.options(lane="cluster", output="capture").submit(cluster_jobs.say, "captured")
        await job
        assert sorted(job.output.split()) == ["CAPTURED", "captured"]
        await runner.options(lane="cluster").run(cluster_jobs.say, "passed")
    assert capsys.readouterr() == ("passed\n", "PASSED\n")


async def test_large_arrays_travel_beside_the_call_and_shared_ones_once(steady: DaskCluster) -> None:
    array = np.ones(500_000)
    async with over(steady) as runner:
        verbs = runner.options(lane="cluster")
        assert (await verbs.run(cluster_jobs.total, array))[:2] == (500_000.0, True)
        big = await verbs.run(np.add, array, 1.0)
        assert big.sum() == 1_000_000.0
        async with runner.share(array) as shared:
            results = [await job for job in [await verbs.submit(cluster_jobs.total, shared) for _ in range(6)]]
            assert {result[:2] for result in results} == {(500_000.0, False)}
            assert await verbs.run(cluster_jobs.same_object, shared, shared)


@pytest.mark.may_leak("Dask keeps a thread for large messages")
async def test_large_data_is_in_memory_once_on_each_side(steady: DaskCluster) -> None:
    count = 16 * 1024 * 1024  # 128 MiB
    workers = [worker.pid for worker in steady.workers]
    async with over(steady) as runner:
        verbs = runner.options(lane="cluster")
        for array in (np.ones(count), np.broadcast_to(np.ones(count), (count,))):  # the second may not be written to
            with copies_of(array.nbytes, workers) as argument:
                assert (await verbs.run(cluster_jobs.total, array))[0] == count
            assert max(argument) < 1.5, argument
        del array
        with copies_of(8 * count, [os.getpid(), *workers]) as result:
            assert (await verbs.run(cluster_jobs.halves, count))[-1] == 0.5
        assert max(result) < 1.5, result


@contextmanager
def copies_of(nbytes: int, pids: list[int]) -> Iterator[list[float]]:
    """How much memory each process had at its peak within, in copies of so many bytes."""
    for pid in pids:
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    before = [memory_of(pid, "VmRSS") for pid in pids]
    found: list[float] = []
    yield found
    found += [(memory_of(pid, "VmHWM") - had) / nbytes for pid, had in zip(pids, before, strict=True)]


def memory_of(pid: int, what: str) -> int:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) * 1024


async def test_workers_let_go_of_a_shared_object_once_no_job_takes_it(steady: DaskCluster) -> None:
    async with over(steady) as runner:
        verbs = runner.options(lane="cluster")
        for _ in range(3):
            with runner.share(cluster_jobs.Ballast()) as shared:  # closed before the last of them is sent
                jobs = [await verbs.submit(cluster_jobs.weigh, shared.argument) for _ in range(12)]
            assert set(await gather(jobs)) == {100_000.0}
        async with asyncio.timeout(60):
            while sum(await gather([await verbs.submit(cluster_jobs.held) for _ in range(12)])):
                continue
        assert not runner._lanes["cluster"]._goods._shared


async def test_a_lambda_travels_by_value_also_a_large_one(steady: DaskCluster) -> None:
    ballast = np.ones(100_000)
    async with over(steady) as runner:
        verbs = runner.options(lane="cluster")
        assert await verbs.run(lambda x: x + 1, 1) == 2
        assert await verbs.map(lambda x: x + float(ballast[x]), range(5)).collect() == [1.0, 2.0, 3.0, 4.0, 5.0]


async def test_errors_come_back_as_from_any_worker_though_dask_has_a_way_of_its_own(steady: DaskCluster) -> None:
    async with over(steady) as runner:
        verbs = runner.options(lane="cluster")
        with pytest.raises(RecursionError) as deep:
            await verbs.run(cluster_jobs.endless)
        with pytest.raises(RemoteError, match="SystemExit: 2") as gone:
            await verbs.run(cluster_jobs.raise_it, SystemExit(2))
        with pytest.raises(ArenaFull, match="full") as full:
            await verbs.run(cluster_jobs.raise_it, ArenaFull("full"))
    assert "endless" in str(deep.value.__cause__)
    assert isinstance(gone.value.original, SystemExit)
    assert gone.value.original.code == 2
    assert "KeyError: 'before'" in str(full.value.__cause__)
    assert pickle.loads(pickle.dumps(ArenaFull("full"))).args == ("full",)
    assert b"tblib" not in (failure.capture(ValueError("plain")).pickled or b"")


@pytest.mark.parametrize("what", ["work", "Thing"])
async def test_a_module_that_only_we_have_is_named_with_what_to_do(
    steady: DaskCluster, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "only_here.py").write_text("def work(x): ...\nclass Thing: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    only_here = importlib.import_module("only_here")
    async with over(steady) as runner:
        verbs = runner.options(lane="cluster")
        with pytest.raises(ModuleNotFoundError, match="No module named 'only_here'") as caught:
            await (verbs.run(only_here.work, 1) if what == "work" else verbs.run(id, only_here.Thing()))
    assert caught.value.__notes__ == ["the workers of the cluster must be able to import only_here: install it there"]


async def test_a_map_goes_in_groups_and_errors_stay_with_their_items(steady: DaskCluster) -> None:
    async with over(steady) as runner:
        values = await runner.options(lane="cluster").map(work.double, range(5000)).collect()
        assert values == [2 * number for number in range(5000)]
        assert runner.stats().lanes["cluster"].succeeded < 1000
        found = await runner.options(lane="cluster").map(int, ["1", "x", "3"], on_error="return").collect()
        assert found[::2] == [1, 3]
        assert isinstance(found[1], ValueError)


@pytest.mark.parametrize("lookahead", [None, 10])
async def test_a_map_may_begin_before_the_cluster_is_there(steady: DaskCluster, lookahead: int | None) -> None:
    async with over(steady) as runner:
        assert runner._lanes["cluster"].size() == 0
        doubled = runner.options(lane="cluster").map(work.double, range(50), lookahead=lookahead)
        assert await doubled.collect() == [2 * number for number in range(50)]


async def test_resources_are_those_of_the_workers(steady: DaskCluster) -> None:
    async with over(steady) as runner:
        await until(lambda: runner._lanes["cluster"].size() == 3, "the third worker")
        verbs = runner.options(lane="cluster", resources={"GPU": 1})
        where = {await job for job in [await verbs.submit(cluster_jobs.where) for _ in range(4)]}
        assert len(where) == 1
        with pytest.raises(ValueError, match=r"'GPU': 2.* is more than any worker of lane 'cluster' \(Dask\) offers: "):
            await runner.options(lane="cluster", resources={"GPU": 2}).submit(cluster_jobs.where)


async def test_a_queue_cannot_go_there_and_a_lane_says_what_to_do_instead(steady: DaskCluster) -> None:
    async with over(steady) as runner:
        with pytest.raises(NotSendable, match=r"FIFOQueue, which jobs of lane 'cluster' \(dask\) cannot reach: take"):
            await runner.options(lane="cluster").submit(len, FIFOQueue(3))
        with pytest.raises(ValueError, match=r"lane 'thread' cannot honour the options resources, for it is thread\. "):
            await runner.options(lane="thread", resources={"GPU": 1}).submit(len, "abc")


def test_the_sync_face_needs_nothing_else(steady: DaskCluster) -> None:
    with SyncRunner(lanes={"cluster": DaskLane(steady.address)}) as runner:
        assert runner.options(lane="cluster").run(work.double, 4) == 8


# --- F86 ------------------------------------------------------------------------------------


@harms_a_worker
async def test_a_job_whose_worker_is_killed_is_lost_and_never_started_twice(
    fragile: DaskCluster, tmp_path: Path
) -> None:
    ran = str(tmp_path / "ran")
    async with over(fragile) as runner:
        job = await runner.options(lane="cluster").submit(cluster_jobs.die, ran)
        await job.wait()
        assert job.state is JobState.LOST
        error = job.exception()
        assert isinstance(error, WorkerLost)
        assert error.pid == int(lines(ran)[0])
        assert "Dask cluster is gone (it died, or was cut off) while it had 'die', attempt 1" in str(error)
        assert await runner.options(lane="cluster").run(work.double, 2) == 4
    assert len(lines(ran)) == 1


@harms_a_worker
async def test_a_lost_job_is_tried_again_on_another_worker_if_it_may_be(fragile: DaskCluster, tmp_path: Path) -> None:
    async with over(fragile) as runner:
        job = await runner.options(lane="cluster", lost="retry").submit(cluster_jobs.die_once, str(tmp_path / "ran"))
        assert await job == 7
        assert job.attempt == 2


@harms_a_worker
async def test_a_map_over_a_killed_worker_loses_one_item(fragile: DaskCluster, tmp_path: Path) -> None:
    paths = [str(tmp_path / f"{number}") for number in range(4)]
    async with over(fragile) as runner:
        assert await runner.options(lane="cluster", lost="retry").map(cluster_jobs.die_once, paths[:1]).collect() == [7]


async def test_a_cluster_that_never_comes_up_is_named_but_not_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("asyncjobs.lanes.cluster.CONNECT", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        address = f"tcp://127.0.0.1:{deaf.getsockname()[1]}"
        async with Runner(lanes={"cluster": DaskLane(address)}, watchdog=None) as runner:
            with pytest.raises(WorkerStartError, match=f"cluster at {address} did not come up within 1 s: nobody an"):
                await runner.options(lane="cluster").run(work.double, 1)
            unseen = await runner.options(lane="cluster").submit(work.double, 2)
            await until(unseen.done, "its end")
            del unseen
        gc.collect()
    ours = {record.getMessage() for record in caplog.records if record.name == "asyncjobs"}
    why = "the Dask cluster did not come up within 1 s: nobody answers there"
    assert ours == {f"lane 'cluster': {why}", f"job 'double' failed and nobody looked at it: {why}"}


@pytest.mark.parametrize("password", ["secret", "se@cret", "se/cret"])
async def test_nobody_hears_the_password_in_an_address(password: str, caplog: pytest.LogCaptureFixture) -> None:
    lane = DaskLane(f"tcp://me:{password}@127.0.0.1:1")
    async with Runner(lanes={"cluster": lane}, watchdog=None) as runner:
        with pytest.raises(WorkerStartError, match=r"the Dask cluster at tcp://127\.0\.0\.1:1 did not") as caught:
            await runner.options(lane="cluster").run(work.double, 1)
    assert "cret" not in "".join(traceback.format_exception(caught.value)) + caplog.text
    assert DaskLane(f"me:{password}@127.0.0.1:1")._engine.address == "127.0.0.1:1"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ConnectionRefusedError(111, "Connection refused"), "did not come up: Connection refused"),
        (socket.gaierror(-2, "Name or service not known"), "did not come up: Name or service not known"),
        (OSError("Timed out trying to connect"), "did not come up: nobody answers there"),
        (ValueError("missing port in 'me:secret@host'"), "did not come up: ValueError: missing port in host'"),
        (WorkerStartError("versions differ"), "cannot be used: versions differ"),
    ],
)
def test_why_it_did_not_come_up_is_told(error: Exception, said: str) -> None:
    problem = not_up(DaskLane("tcp://host:1")._engine, error, 10.0, answers=False)
    assert str(problem) == f"the Dask cluster at tcp://host:1 {said}"


async def test_a_scheduler_without_workers_is_told_from_one_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncjobs.lanes.cluster.CONNECT", 3.0)
    with dask_cluster(0) as empty:
        async with over(empty) as runner:
            with pytest.raises(WorkerStartError, match="has no workers: none came within 3 s"):
                await runner.options(lane="cluster").run(work.double, 1)


async def test_versions_that_differ_are_refused_at_connect(
    steady: DaskCluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ours = asyncjobs.station.versions()
    monkeypatch.setattr("asyncjobs.lanes.clusterfaults.versions", lambda: {**ours, "asyncjobs": "9.9", "numpy": "0.1"})
    with caplog.at_level(logging.WARNING, "asyncjobs"):
        async with over(steady) as runner:
            with pytest.raises(WorkerStartError, match=r"asyncjobs 9\.9 here, .* there\. Install the same on both"):
                await runner.options(lane="cluster").run(work.double, 1)
    of_numpy = f"lane 'cluster': workers of the cluster have numpy {np.__version__}, this program 0.1"
    assert [record.getMessage() for record in caplog.records].count(of_numpy) == 1  # of three workers


@pytest.mark.parametrize("wrong", [None, "", 3])
def test_what_is_no_cluster_is_refused(wrong: object) -> None:
    with pytest.raises(TypeError, match=r"is not allowed; allowed: a scheduler's address, a distributed\.Client"):
        DaskLane(wrong)


# --- F104 -----------------------------------------------------------------------------------


def test_a_cluster_that_we_start_listens_on_this_machine_only(steady: DaskCluster) -> None:
    found = {address for process in steady.processes() for address in listeners(process.pid)}
    assert found
    assert {address.split(":")[0] for address in found} == {"127.0.0.1"}, found


def listeners(pid: int) -> list[str]:
    """The addresses that a process listens on, of all kinds of TCP."""
    links = [os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")]
    sockets = {link[8:-1] for link in links if link.startswith("socket:[")}
    found = []
    for kind in ("tcp", "tcp6"):
        for row in Path(f"/proc/{pid}/net/{kind}").read_text().splitlines()[1:]:
            columns = row.split()
            if columns[3] == "0A" and columns[9] in sockets:
                found.append(_shown(columns[1]) if kind == "tcp" else f"[{columns[1]}]")
    return found


def _shown(address: str) -> str:
    host, port = address.split(":")
    packed = int(host, 16).to_bytes(4, sys.byteorder)
    return f"{socket.inet_ntoa(packed)}:{int(port, 16)}"


# --- last, for nothing is left of its cluster -------------------------------------------------


@harms_a_worker
async def test_when_the_scheduler_goes_its_jobs_are_lost_and_the_next_say_so(
    fragile: DaskCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = FileGate(str(tmp_path))
    async with over(fragile) as runner:
        job = await runner.options(lane="cluster").submit(work.hold, gate)
        await gate.arrival()
        fragile.scheduler.kill()
        await job.wait()
        assert job.state is JobState.LOST
        assert "the connection to the scheduler is lost" in str(job.exception())
        gate.open()
        monkeypatch.setattr("asyncjobs.lanes.cluster.CONNECT", 1.0)
        with pytest.raises(WorkerStartError, match=f"the Dask cluster at {fragile.address} did not come up within 1 s"):
            await runner.options(lane="cluster").run(work.double, 1)
