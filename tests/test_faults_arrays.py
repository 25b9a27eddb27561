"""F58 to F63: shared memory that is full, and processes that are killed in the middle of a transfer."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import array_jobs as jobs
import numpy as np
import psutil
import pytest
from doors import new_door

import asyncjobs as aj
from asyncjobs.lanes import freight
from asyncjobs.options import OptionFields
from asyncjobs.wire import arena

MIB = 2**20
IN_64_KIB = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=64k tmpfs /dev/shm && exec "$@"', "sh")

ROUND_TRIPS = """
import asyncio, os, sys
import numpy as np
import asyncjobs as aj
{prelude}

def same(array):
    return array

async def main():
    async with aj.Runner(processes=2, options={{"lane": "process", "lost": "retry"}}) as runner:
        sent = np.arange(300_000.0)
        for number in range({rounds}):
            back = await runner.run(same, sent + number)
            assert np.array_equal(back, sent + number)
            print("round", number, flush=True)
        try:
            with runner.share(sent) as handle:
                assert await runner.run(np.sum, handle) == sent.sum()
        except aj.ArenaFull:
            assert runner.stats().memory.inlined
        print("all well", runner.stats().memory.inlined, flush=True)

aj.run(main())
"""


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(aj.__file__).parent.parent)}


def run(*command: str, timeout: float = 50) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment(), check=False)


def may_mount() -> bool:
    return run(*IN_64_KIB, "true").returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("files", ["memory files", "unlinked files"])
def test_f58_a_dev_shm_of_64_kib_holds_nobody_up(files: str, tmp_path: Path) -> None:
    if not may_mount():
        pytest.skip("this user may not mount")
    script = tmp_path / "script.py"
    prelude = "" if files == "memory files" else "del os.memfd_create"
    script.write_text(ROUND_TRIPS.format(prelude=prelude, rounds=3))
    done = run(*IN_64_KIB, sys.executable, str(script))
    assert "all well 0" in done.stdout, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("size", ["300k", "3m"])
def test_f59_files_that_find_no_room_are_no_bus_error(size: str, tmp_path: Path) -> None:
    """Without memory files arenas are unlinked files; a full file system must not be SIGBUS."""
    if not may_mount():
        pytest.skip("this user may not mount")
    script = tmp_path / "script.py"
    script.write_text(ROUND_TRIPS.format(prelude="del os.memfd_create", rounds=3))
    mount = f'mount -t tmpfs -o size={size} tmpfs /mnt && TMPDIR=/mnt exec "$@"'
    done = run("unshare", "--mount", "sh", "-c", mount, "sh", sys.executable, str(script))
    assert done.returncode >= 0, f"killed by signal {-done.returncode}"
    assert "all well" in done.stdout, done.stderr
    assert "all well 0" not in done.stdout, "there was no room"


def memory_files(pids: list[int]) -> set[int]:
    """The inodes of the memory files that these processes hold open."""
    found: set[int] = set()
    for pid in pids:
        with suppress(OSError):
            for number in os.listdir(f"/proc/{pid}/fd"):
                with suppress(OSError):
                    path = f"/proc/{pid}/fd/{number}"
                    if os.readlink(path).startswith("/memfd:asyncjobs"):
                        found.add(os.stat(path).st_ino)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("victims", ["the worker", "the parent", "both"])
def test_f60_whoever_is_killed_in_the_middle_of_a_transfer_leaves_nothing_behind(victims: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(ROUND_TRIPS.format(prelude="", rounds=100_000))
    chance = random.Random(victims)
    for _ in range(5):
        program = subprocess.Popen(
            [sys.executable, str(script)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment(),
        )
        assert program.stdout is not None
        for line in program.stdout:
            if line.startswith("round"):
                break
        parent = psutil.Process(program.pid)
        workers = parent.children(recursive=True)
        held = memory_files([program.pid, *(worker.pid for worker in workers)])
        time.sleep(chance.random() / 50)  # anywhere in a transfer
        if victims != "the parent":
            for worker in workers:
                worker.kill()
        if victims == "the worker":
            assert any(line.startswith("round") for line in program.stdout), "the next worker goes on"
        program.kill()
        program.stdout.close()
        program.wait(10)
        _, alive = psutil.wait_procs(workers, timeout=5)
        assert not alive
        assert held, "there were memory files"
        assert not held & memory_files(psutil.pids()), "nobody holds them, so there is no memory behind them"


@pytest.mark.slow
async def test_f61_the_end_of_one_worker_leaves_what_others_use() -> None:
    async with aj.Runner(processes=2, options={"lane": "process"}) as runner:
        sent = np.arange(300_000.0)
        with runner.share(sent) as handle:
            pids = {(await runner.run(jobs.address_and_sum, handle))[0]}
            held = await runner.run(jobs.same, sent)
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            for _ in range(6):
                assert await runner.run(jobs.total, handle) == sent.sum()
            assert np.array_equal(held, sent)


@pytest.mark.parametrize("kept", [True, False], ids=["pages are looked at", "pages are dropped unseen"])
async def test_f62_nothing_that_a_job_wrote_shows_in_the_next(kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arena, "WORTH_LOOKING", 1 if kept else sys.maxsize)
    async with aj.Runner(processes=1, options={"lane": "process"}) as runner:
        for number in range(6):
            sent = np.full(50_000, float(number + 1))
            assert await runner.run(jobs.total, sent) == sent.sum()
            assert (await runner.run(jobs.negated_in_place, sent)).sum() == -sent.sum()


@pytest.mark.slow
@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
async def test_a_long_soak_with_deaths_and_shared_objects_holds_nothing_in_the_end(start_method: str) -> None:
    chance = np.random.default_rng(7)
    until = time.monotonic() + 15
    lane = aj.ProcessLane(2, start_method=start_method, recycle_after=60)
    options: OptionFields = {"lane": "process", "lost": "retry"}
    async with aj.Runner(lanes={"process": lane}, arena_bytes=96 * MIB, options=options) as runner:
        held: list[np.ndarray] = []  # type: ignore[type-arg]
        rounds = 0
        while time.monotonic() < until:
            rounds += 1
            sizes = chance.integers(1, 2 * MIB, 8)
            sent = [chance.random(int(size) // 8 + 1) for size in sizes]
            async with runner.share(sent[0]) as handle:
                work = [await runner.submit(jobs.same, array) for array in sent]
                sums = [await runner.submit(jobs.total, handle) for _ in range(2)]
            if rounds % 20 == 0 and lane.pids():
                with suppress(ProcessLookupError):  # it has just been replaced
                    os.kill(lane.pids()[0], signal.SIGKILL)
            for array, job in zip(sent, work, strict=True):
                back = await job
                assert np.array_equal(back, array)
                held.append(back)
            assert [await job for job in sums] == [sent[0].sum()] * 2
            held = held[-int(chance.integers(1, 20)) :]
            assert 0 <= runner._engine.memory.used <= 2 * 96 * MIB
        held.clear()
        del back, job, work, sums, handle
        gc.collect()
        for figure in ("in_use", "shared", "shared_nbytes"):
            await settled(runner, figure, 0)
        async with asyncio.timeout(10):  # the loop hears of the last ends a turn later
            while len(runner._engine.memory.tallies) > 2 or len(runner._engine.shares.on_close) > 2:
                await asyncio.sleep(0.01)


# --- lifetime and budget, where they were wrong once ------------------------------------


def one_worker(**settings: object) -> aj.Runner:
    return aj.Runner(processes=1, options={"lane": "process"}, **settings)  # type: ignore[arg-type]


async def settled(runner: aj.Runner, fact: str, value: int, within: float = 10.0) -> None:
    """Wait until a figure of the memory has a value."""
    async with asyncio.timeout(within):
        while getattr(runner.stats().memory, fact) != value:
            await asyncio.sleep(0.01)


async def test_a_child_that_a_job_forked_does_not_write_over_its_result() -> None:
    async with one_worker() as runner, new_door() as door:
        await runner.run(jobs.filled, 100_000, 7)  # leaves a segment that goes round
        result = await runner.run(jobs.filled_by_both_after_fork, 100_000, door.path)
        assert result.min() == 1.0
        door.open()
        await door.arrival()
        assert result.min() == 1.0


@pytest.mark.slow
async def test_results_that_outlived_their_worker_come_back_to_the_budget() -> None:
    async with one_worker(arena_bytes=64 * MIB) as runner:
        for _ in range(6):
            held = await runner.run(jobs.filled, 2 * MIB, 1)
            os.kill(await runner.run(jobs.pid), signal.SIGKILL)
            assert await runner.run(jobs.total, np.ones(10)) == 10.0
            assert runner.stats().memory.in_use >= held.nbytes
            del held
            gc.collect()
            await settled(runner, "nbytes", 0)
        assert runner.stats().memory.inlined == 0


@pytest.mark.slow
async def test_a_small_result_does_not_keep_its_dead_workers_memory() -> None:
    async with one_worker() as runner:
        small = await runner.run(jobs.filled, 60_000, 1)
        large = await runner.run(jobs.filled, 16 * MIB, 2)
        assert large[-1] == 2.0
        inodes = memory_files([os.getpid()])
        del large
        os.kill(await runner.run(jobs.pid), signal.SIGKILL)
        assert await runner.run(jobs.total, np.ones(10)) == 10.0
        await settled(runner, "nbytes", small.nbytes + -small.nbytes % 4096)
        assert inodes
        assert shared_memory_of(os.getpid()) <= 16 * MIB
        assert small.sum() == 60_000


def shared_memory_of(pid: int) -> int:
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssShmem"))


@pytest.mark.slow
async def test_shared_objects_of_workers_that_were_replaced_come_back() -> None:
    lane = aj.ProcessLane(2, recycle_after=1)
    async with aj.Runner(lanes={"process": lane}, options={"lane": "process"}, arena_bytes=64 * MIB) as runner:
        for number in range(20):
            async with runner.share(np.full(MIB, float(number))) as handle:
                assert await runner.run(jobs.total, handle) == MIB * number
                assert await runner.run(jobs.total, np.ones(10)) == 10.0
            del handle
        assert len(runner._engine.shares.on_close) <= 4
        await settled(runner, "shared_nbytes", 0)


async def test_memory_of_a_result_that_was_held_for_long_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freight, "IDLE", 0.05)
    async with one_worker() as runner:
        held = await runner.run(jobs.filled, MIB, 1)
        await settled(runner, "nbytes", held.nbytes)
        del held
        await settled(runner, "nbytes", 0)


async def test_arguments_in_a_cycle_come_back_from_an_idle_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freight, "IDLE", 0.05)
    async with one_worker() as runner:
        await runner.run(jobs.keep_in_a_cycle, np.ones(MIB))
        await settled(runner, "in_use", 0)


async def test_jobs_wait_for_room_that_comes_at_once_and_nothing_goes_through_a_socket() -> None:
    async with one_worker(arena_bytes=12 * MIB) as runner:
        for _ in range(10):
            assert await runner.run(jobs.total, np.ones(MIB)) == MIB
        queued = [await runner.submit(jobs.total, np.ones(MIB)) for _ in range(10)]
        assert [await job for job in queued] == [MIB] * 10
        await runner.run(jobs.keep_in_a_cycle, np.ones(MIB))
        assert await runner.run(jobs.total, np.ones(MIB)) == MIB
        assert runner.stats().memory.inlined == 0


@pytest.mark.slow
@pytest.mark.parametrize("room", ["a shared object is closed", "a busy worker's free segments", "never comes"])
async def test_a_call_without_room_does_not_wait_for_a_job_that_has_nothing_to_do_with_it(room: str) -> None:
    async with aj.Runner(processes=2, options={"lane": "process"}, arena_bytes=20 * MIB) as runner, new_door() as door:
        await runner.run(jobs.pid)
        if room == "a busy worker's free segments":
            for _ in range(4):
                await runner.run(jobs.total, np.ones(2 * MIB))
        unrelated = await runner.submit(jobs.wait_at, door.path)
        await door.arrival()
        handle = runner.share(np.ones(2 * MIB)) if room == "a shared object is closed" else None
        held = await runner.run(jobs.filled, 2 * MIB, 1) if room == "never comes" else None
        big = await runner.submit(jobs.total, np.ones(2 * MIB))
        small = await runner.submit(jobs.total, np.ones(10))
        if handle is not None:
            handle.close()
        async with asyncio.timeout(20):
            assert (await big, await small) == (2 * MIB, 10)
        assert not unrelated.done()
        door.open()
        await unrelated
        del held


@pytest.mark.slow
async def test_room_that_comes_in_one_lane_helps_the_other() -> None:
    lanes = {"a": aj.ProcessLane(1), "b": aj.ProcessLane(1)}
    async with aj.Runner(lanes=lanes, arena_bytes=20 * MIB) as runner, new_door() as door:
        a, b = runner.options(lane="a"), runner.options(lane="b")
        await b.run(jobs.pid)
        first = await a.submit(jobs.same_at, np.ones(2 * MIB), door.path)
        await door.arrival()
        second = await b.submit(jobs.total, np.ones(2 * MIB))
        door.open()
        await first
        del first
        async with asyncio.timeout(20):
            assert await second == 2 * MIB


@pytest.mark.slow
async def test_a_shared_object_finds_the_room_that_is_only_kept_for_the_next_job() -> None:
    async with one_worker(arena_bytes=40 * MIB) as runner:
        await runner.run(jobs.same, np.ones(2 * MIB))
        await settled(runner, "in_use", 0)
        with runner.share(np.ones(4 * MIB)) as handle:
            assert await runner.run(jobs.total, handle) == 4 * MIB


@pytest.mark.slow
async def test_a_map_over_large_items_makes_groups_that_fit() -> None:
    async with one_worker(arena_bytes=4 * MIB) as runner:
        items = [np.ones(12_800) for _ in range(200)]
        assert await runner.map(jobs.total, items).collect() == [12_800.0] * 200
        with pytest.raises(aj.ArenaFull):
            await runner.map(jobs.total, [np.ones(10), np.ones(MIB), np.ones(10)]).collect()


async def test_a_large_call_is_not_overtaken_for_ever_by_small_ones() -> None:
    async with one_worker(queue_bytes=4 * MIB) as runner:
        stop = asyncio.Event()

        async def stream() -> None:
            while not stop.is_set():
                await runner.submit(jobs.total, np.ones(MIB // 8))

        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(stream())
            large = await runner.submit(jobs.total, np.ones(7 * MIB // 16))
            stop.set()
        assert await large == 7 * MIB // 16


async def test_a_result_that_cannot_be_rebuilt_does_not_keep_its_memory() -> None:
    async with one_worker() as runner:
        job = await runner.submit(jobs.array_and_a_thing_that_does_not_unpickle, MIB)
        await job.wait()
        assert isinstance(job.exception(), aj.ResultNotSendable)
        await settled(runner, "in_use", 0)


@pytest.mark.slow
async def test_handles_that_close_with_their_runner_make_no_trouble() -> None:
    for _ in range(5):
        async with aj.Runner(processes=2, options={"lane": "process"}) as runner, runner.share(np.ones(MIB)) as handle:
            assert await asyncio.gather(*(runner.run(jobs.total, handle) for _ in range(4))) == [MIB] * 4
