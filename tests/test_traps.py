"""The traps of the process slot and of the loop, T1 to T20: each was fallen into once.

T5 and T6 are tested as what a job sees: its arguments stay right, and they are its own.
"""
# The traps are numbered as in the contract.
# ruff: noqa: N802

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path
from time import monotonic, process_time
from typing import Any

import anyio
import jobs
import psutil
import pytest
from doors import BOUND, assert_failed, common_outcome, gone, is_running, new_door
from pauses import PauseClock

import asyncjobs as aj
from asyncjobs.lanes.process import DESCRIPTORS_PER_SLOT
from asyncjobs.testing.leaks import take_census
from asyncjobs.wire import frames

LOOPS = ["asyncio", "uvloop"]

START = """
import asyncio, os, sys, threading
import asyncjobs as aj
import jobs
from doors import new_door

def run(main, loop):
    aj.run(main) if loop == "uvloop" else asyncio.run(main)
"""


def environment() -> dict[str, str]:
    path = [os.path.dirname(jobs.__file__), *(entry for entry in sys.path if entry)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}


def program(text: str, *args: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*before, sys.executable, "-c", START + text, *args],
        capture_output=True,
        text=True,
        timeout=50,
        env=environment(),
    )


def process(runner: aj.Runner, **options: Any) -> Any:
    return runner.options(lane="process", **options)


# --- T1 to T4: starting and ending ------------------------------------------------------


@pytest.mark.slow
async def test_T01_slots_make_no_entry_in_shared_memory() -> None:
    def mapped(pid: int) -> int:
        return Path(f"/proc/{pid}/maps").read_text().count("/dev/shm/")

    before = mapped(os.getpid())
    async with aj.Runner(processes=4) as runner, new_door() as door:
        work = [await process(runner).submit(jobs.wait_at, door.path) for _ in range(4)]
        for _ in work:
            assert mapped(await door.arrival()) == 0
        assert mapped(os.getpid()) == before
        door.open(4)
        await aj.gather(work)


TINY_SHARED_MEMORY = """
async def main():
    async with aj.Runner(processes=6) as runner, new_door() as door:
        submit = runner.options(lane="process")
        work = [await submit.submit(jobs.wait_at, door.path, 1) for _ in range(6)]
        for _ in work:
            await door.arrival()
        door.open(6)
        print(sum(await aj.gather(work)))

run(main(), "asyncio")
"""


@pytest.mark.slow
def test_T01_six_slots_fit_where_shared_memory_has_64_kib() -> None:
    mount = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=64k tmpfs /dev/shm && exec "$@"', "sh")
    if subprocess.run([*mount, "true"], capture_output=True).returncode:
        pytest.skip("T1 needs the right to mount a small /dev/shm")
    done = program(TINY_SHARED_MEMORY, before=mount)
    assert done.stdout == "6\n", done.stderr


FORGOTTEN = """
async def main():
    runner = aj.Runner(processes=2)
    await runner.__aenter__()
    print(await runner.options(lane="process").run(jobs.add, 1, 2), flush=True)
    if sys.argv[2] == "busy":
        await runner.options(lane="process").submit(jobs.loop_until_stopped, os.devnull + "/..")
    globals()["kept"] = runner

run(main(), sys.argv[1])
"""


@pytest.mark.slow
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("worker", ["idle", "busy"])
def test_T02_a_forgotten_close_does_not_hang_the_exit(loop: str, worker: str, clock: PauseClock) -> None:
    began = clock()
    done = program(FORGOTTEN, loop, worker)
    assert done.stdout == "3\n", done.stderr
    assert clock() - began < 10.0  # imports included; without the hook it hangs for ever


ORPHAN = """
async def main():
    lane = aj.ProcessLane(1, start_method=sys.argv[1])
    async with aj.Runner(lanes={"process": lane}) as runner:
        await runner.options(lane="process").run(jobs.hold_the_lock_for_ever, sys.argv[2])

run(main(), "asyncio")
"""


@pytest.mark.slow
@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
async def test_T03_a_worker_whose_job_holds_the_interpreter_lock_dies_with_its_parent(start_method: str) -> None:
    async with new_door() as door, asyncio.timeout(BOUND):
        parent = await asyncio.create_subprocess_exec(
            sys.executable, "-c", START + ORPHAN, start_method, door.path, env=environment()
        )
        worker = await door.arrival()
        parent.kill()
        await parent.wait()
        await gone(worker)


@pytest.mark.slow
@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
async def test_T03_a_worker_started_from_another_thread_s_loop_outlives_that_thread(start_method: str) -> None:
    """With `spawn` a death signal would follow the thread that started the worker."""
    lane = aj.ProcessLane(1, start_method=start_method)
    async with aj.Runner(lanes={"process": lane}) as runner:
        pid = await process(runner).run(jobs.pid)
        other = threading.Thread(target=lambda: None)
        other.start()
        other.join()
        assert await process(runner).run(jobs.pid) == pid


MAIN = """
import asyncio, sys, threading
import asyncjobs as aj

print("main runs")
stop, errors, reads = threading.Event(), [], []

def read():
    count = 0
    while not stop.is_set():
        try:
            __file__
            sys.modules["__main__"].__file__
        except (NameError, AttributeError) as error:
            errors.append(error)
        count += 1
    reads.append(count)

threading.Thread(target=read).start()

def square(n):
    return n * n

async def main():
    async with aj.Runner(lanes={"process": aj.ProcessLane(3, start_method=sys.argv[1])}) as runner:
        print(await runner.options(lane="process").map(square, range(5)).collect())

asyncio.run(main())
stop.set()
print(len(errors), "errors")
"""


@pytest.mark.slow
@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
def test_T04_workers_neither_import_main_nor_disturb_it(tmp_path: Path, start_method: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(MAIN)
    done = subprocess.run(
        [sys.executable, str(script), start_method], capture_output=True, text=True, timeout=50, env=environment()
    )
    assert done.stdout.splitlines() == ["main runs", "[0, 1, 4, 9, 16]", "0 errors"], done.stderr


# --- T5, T6: arguments ------------------------------------------------------------------


@pytest.mark.slow
async def test_T05_an_argument_that_a_job_keeps_stays_right_while_others_come_and_go() -> None:
    async with aj.Runner(processes=1) as runner:
        submit = process(runner)
        for letter in b"abc":
            await submit.run(jobs.keep, bytes([letter]) * 2**20)
        for _ in range(5):
            await submit.run(jobs.take, b"z" * 2**20)
        assert await submit.run(jobs.first_bytes, 4) == [b"aaaa", b"bbbb", b"cccc"]


@pytest.mark.slow
async def test_T06_a_job_that_writes_into_its_argument_changes_only_its_own_copy(runner: aj.Runner) -> None:
    data = bytearray(b"mine" * 2**18)
    async with common_outcome(runner):
        assert await process(runner).run(jobs.overwrite, data) == b"over"
        assert await process(runner).run(jobs.overwrite, data) == b"over"
        assert data[:4] == b"mine"


# --- T7 to T9: tickets ------------------------------------------------------------------


@pytest.mark.slow
async def test_T07_a_storm_of_give_backs_loses_no_job_and_runs_none_twice(tmp_path: Path) -> None:
    async with aj.Runner(processes=2) as runner, new_door() as door, asyncio.timeout(50):
        submit = process(runner)
        for item in range(200):
            await submit.run(jobs.tick_or_wait, item)  # known to be short by now
        for _ in range(40):
            ahead = await submit.submit(jobs.tick_or_wait, -1, door.path)
            behind = [await submit.submit(jobs.tick_or_wait, item) for item in range(60)]
            await door.arrival()
            assert await aj.gather(behind) == list(range(60)), "the other worker runs them meanwhile"
            assert not ahead.done()
            door.open()
            assert await ahead == -1
        assert runner.stats().lanes["process"].succeeded == 200 + 40 * 61


@pytest.mark.slow
async def test_T08_giving_back_to_a_full_queue_neither_raises_nor_blocks() -> None:
    async with aj.Runner(processes=2, queue_size=4) as runner, new_door() as door, asyncio.timeout(BOUND):
        submit = process(runner)
        for item in range(100):
            await submit.run(jobs.tick_or_wait, item)
        long = [await submit.submit(jobs.tick_or_wait, -1, door.path) for _ in range(2)]
        behind: list[aj.Job[int]] = []
        try:
            while len(behind) < 500:
                behind.append(submit.submit_nowait(jobs.tick_or_wait, len(behind)))
        except aj.QueueFull:
            pass
        pids = [await door.arrival() for _ in long]
        assert len(set(pids)) == 2
        door.open(1)
        assert await aj.gather(behind) == list(range(len(behind)))
        door.open(1)
        assert await aj.gather(long) == [-1, -1]


@pytest.mark.slow
async def test_T09_a_late_interrupt_hits_neither_our_code_nor_the_next_job() -> None:
    async with aj.Runner(processes=1) as runner, asyncio.timeout(50):
        submit = process(runner, grace=0.0)
        first = await submit.run(jobs.pid)
        ends = {"SUCCEEDED": 0, "CANCELLED": 0}
        for turn in range(400):
            job = await submit.submit(jobs.recurse_a_little, turn % 40)
            follower = await submit.submit(jobs.tick, turn)
            while job.state.name == "QUEUED":
                await asyncio.sleep(0)
            for _ in range(turn % 7):
                await asyncio.sleep(0)
            job.cancel("late")
            await job.wait()
            ends[job.state.name] += 1
            assert await follower == turn
        assert await submit.run(jobs.pid) == first, f"nobody had to be killed: {ends}"


async def test_T09_an_interrupt_reaches_python_code_sleeps_and_locks_and_finally_runs(
    runner: aj.Runner, tmp_path: Path, clock: PauseClock
) -> None:
    async with common_outcome(runner) as neighbour, new_door() as door:
        for fn, args in (
            (jobs.loop_until_stopped, (door.path,)),
            (jobs.clean_up_when_stopped, (door.path, str(tmp_path / "log"))),
        ):
            job = await process(runner, grace=0.05).submit(fn, *args)
            pid = await door.arrival()
            began = clock()
            job.cancel("enough")
            with pytest.raises(aj.JobCancelled, match="enough"):
                await job
            assert clock() - began < 1.0
            assert await process(runner).run(jobs.pid) == pid != neighbour
        assert (tmp_path / "log").read_text() == "cleaned up"


# --- T10 to T13: lives and deaths -------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
async def test_T10_a_worker_that_dies_before_its_hello_is_not_waited_for(start_method: str) -> None:
    lane = aj.ProcessLane(1, initializer=jobs.exit_at_once, initargs=(5,), start_method=start_method)
    async with aj.Runner(lanes={"process": lane}) as runner, asyncio.timeout(BOUND):
        job = await process(runner).submit(jobs.add, 1, 2)
        await assert_failed(job, aj.WorkerStartError, "exit code 5")


@pytest.mark.slow
@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
async def test_T11_a_grandchild_that_holds_everything_open_does_not_hide_a_death(
    start_method: str, clock: PauseClock
) -> None:
    lane = aj.ProcessLane(2, start_method=start_method)
    async with aj.Runner(lanes={"process": lane}) as runner, common_outcome(runner), new_door() as door:
        job = await process(runner).submit(jobs.leave_a_child_in_its_own_session_and_die, door.path)
        grandchild = await door.arrival()
        try:
            began = clock()
            door.open()
            await job.wait()
            assert clock() - began < 1.5, "half a second of it for the exit code"
            error = job.exception()
            assert isinstance(error, aj.WorkerLost)
            assert error.cause in ("exit code 11", "unknown")
            assert await process(runner).run(jobs.add, 1, 2) == 3
            assert is_running(grandchild)
        finally:
            os.kill(grandchild, signal.SIGKILL)


@pytest.mark.slow
async def test_T12_cancelling_whoever_waits_breaks_no_worker(runner: aj.Runner) -> None:
    async with common_outcome(runner):
        for _ in range(20):
            waiter = asyncio.create_task(process(runner, grace=0.0).run(jobs.wait_at, "/no/such/door"))
            await asyncio.sleep(0)
            waiter.cancel()
            await asyncio.wait([waiter])
            assert waiter.cancelled() or isinstance(waiter.exception(), FileNotFoundError)
        assert await process(runner).run(jobs.add, 1, 2) == 3


INTERRUPTED = """
async def main():
    lane = aj.ProcessLane(3, start_method=sys.argv[1])
    async with aj.Runner(lanes={"process": lane}) as runner:
        submit = runner.options(lane="process")
        work = [await submit.submit(jobs.loop_until_stopped, sys.argv[2]) for _ in range(3)]
        print("starting", flush=True)
        for job in work:
            await job

run(main(), "asyncio")
"""


@pytest.mark.slow
@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
async def test_T13_ctrl_c_while_workers_start_prints_one_traceback_and_none_of_theirs(start_method: str) -> None:
    async with new_door() as door, asyncio.timeout(BOUND):
        parent = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            START + INTERRUPTED,
            start_method,
            door.path,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert parent.stdout is not None
        await parent.stdout.readline()
        os.killpg(parent.pid, signal.SIGINT)
        _, written = await parent.communicate()
        errors = written.decode()
        assert errors.count("Traceback (most recent call last)") <= 2, errors  # asyncio.run chains one to another
        assert "spawn_main" not in errors
        assert "forkserver" not in errors
        assert "Process " not in errors
        assert "KeyboardInterrupt" in errors


# --- T14 to T17: settings and frames ----------------------------------------------------


@pytest.mark.slow
async def test_T14_mapped_memory_does_not_count_against_max_rss() -> None:
    lane = aj.ProcessLane(2, max_rss=120 * 2**20)
    async with aj.Runner(lanes={"process": lane}) as runner, common_outcome(runner), new_door() as door:
        job = await process(runner).submit(jobs.map_shared_memory_and_wait, 250 * 2**20, door.path)
        pid = await door.arrival()
        assert psutil.Process(pid).memory_info().rss > 250 * 2**20
        await asyncio.sleep(0.6)  # two looks at the memory, 0.25 s apart
        door.open()
        assert await job == pid


@pytest.mark.parametrize("name", ["LD_LIBRARY_PATH", "MALLOC_ARENA_MAX", "PYTHONHASHSEED"])
async def test_T15_early_variables_are_there_before_any_code_runs(name: str) -> None:
    async with aj.Runner(lanes={"process": aj.ProcessLane(1, env={name: "1"})}) as runner:
        assert await process(runner).run(jobs.initial_environment, name) == "1"


async def test_T15_early_variables_with_a_forkserver_are_refused_by_name() -> None:
    lane = aj.ProcessLane(1, env={"LD_PRELOAD": "x"}, start_method="forkserver")
    with pytest.raises(ValueError, match="LD_PRELOAD"):
        async with aj.Runner(lanes={"process": lane}):
            pass


async def test_T15_a_worker_has_loaded_no_numpy_that_would_fix_its_threads_too_early() -> None:
    async with aj.Runner(processes=1) as runner:
        assert await process(runner).run(jobs.is_loaded, "numpy", "plotly", "sqlite3") == [False, False, False]


@pytest.mark.slow
async def test_T16_a_slot_costs_no_more_descriptors_and_threads_than_it_says() -> None:
    async with aj.Runner(processes=1) as first:
        await process(first).run(jobs.add, 1, 2)  # what all slots share
        before = take_census()
        async with aj.Runner(processes=4) as runner, new_door() as door:
            work = [await process(runner).submit(jobs.wait_at, door.path) for _ in range(4)]
            for _ in work:
                await door.arrival()
            now = take_census()
            assert len(now.descriptors) - len(before.descriptors) - 2 <= 4 * DESCRIPTORS_PER_SLOT
            # A watchdog besides.
            assert len(now.threads) - len(before.threads) <= 4 * 2 + 1
            door.open(4)
            await aj.gather(work)


def test_T17_a_frame_may_be_longer_than_four_gib() -> None:
    head = frames.HEADER.pack(frames.MAGIC, frames.RETURNED, 0, 0, 1, 5 * 2**30, 0.0)
    assert frames.HEADER.unpack(head)[5] == 5 * 2**30


@pytest.mark.slow
async def test_T17_large_frames_are_not_copied_from_piece_to_piece(runner: aj.Runner) -> None:
    nbytes = 384 * 2**20  # more than malloc keeps for the next one: each copy has its pages to touch
    frames_took, copies_took = [], []
    for _ in range(4):
        began = process_time()  # of our own: what others do beside us does not count
        value = await process(runner).run(jobs.big, nbytes)
        ended = process_time()
        copy = bytearray(value)
        frames_took.append(ended - began)
        copies_took.append(process_time() - ended)
        assert len(copy) == len(value) == nbytes
        del value, copy
    # Received once and copied once. Who copies what is there with each piece that comes, of 1 MiB, copies it 192 times.
    assert min(frames_took) < 16 * min(copies_took)


@pytest.mark.slow
async def test_T17_a_burst_of_answers_does_not_starve_the_loop(runner: aj.Runner) -> None:
    await process(runner).run(jobs.tick, 0)
    counts, most, is_over = runner._engine.dispatchers["process"].ledger.counts, 0, False

    async def beat() -> None:
        nonlocal most
        before = counts["SUCCEEDED"]
        while not is_over:
            await asyncio.sleep(0)
            most, before = max(most, counts["SUCCEEDED"] - before), counts["SUCCEEDED"]

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(beat())
        work = [await process(runner).submit(jobs.tick, item) for item in range(10_000)]
        assert await aj.gather(work) == list(range(10_000))
        is_over = True
    # Between two turns of the loop: at most what the windows of two workers hold, and a little more.
    assert 0 < most <= 512


# --- T18 to T20: the loop ---------------------------------------------------------------


@pytest.mark.slow
async def test_T18_an_idle_runner_with_warm_workers_uses_no_processor_time(runner: aj.Runner) -> None:
    async with new_door() as door:
        work = [await process(runner).submit(jobs.wait_at, door.path) for _ in range(2)]
        pids = [await door.arrival() for _ in work]
        door.open(2)
        await aj.gather(work)
    watchdog = runner._engine.watchdog
    assert watchdog is not None
    async with asyncio.timeout(BOUND):
        while not watchdog.is_parked:
            await asyncio.sleep(0.05)
    family = [psutil.Process(), *map(psutil.Process, pids)]
    before = [member.cpu_times() for member in family]
    await asyncio.sleep(1.5)  # the measurement itself
    after = [member.cpu_times() for member in family]
    used = sum(now.user + now.system - then.user - then.system for then, now in zip(before, after, strict=True))
    assert used <= 0.02  # two ticks of the system's clock


@pytest.mark.slow
async def test_T19_a_drain_under_a_cancelled_scope_does_not_spin(runner: aj.Runner) -> None:
    async with new_door() as door:
        job = await process(runner, grace=0.4).submit(jobs.swallow_stops, door.path, 1)
        await door.arrival()
        used, began = process_time(), monotonic()
        with anyio.CancelScope() as scope:
            scope.cancel()
            await runner.aclose(drain=None)
        assert job.done()
        assert monotonic() - began >= 0.3, "the job had its grace"
        assert process_time() - used < 0.2


@pytest.mark.slow
async def test_T20_a_queued_job_takes_at_most_a_kilobyte() -> None:
    count = 20_000
    async with aj.Runner(threads=1, queue_size=count + 1) as runner:
        gate = threading.Event()
        first = await runner.submit(gate.wait)
        while first.state.name == "QUEUED":
            await asyncio.sleep(0)
        tracemalloc.start()
        try:
            work = [runner.submit_nowait(jobs.tick, item) for item in range(count)]
            nbytes, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert nbytes / count <= 1000
        gate.set()
        assert await work[-1] == count - 1
