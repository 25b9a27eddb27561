"""When the system gives no more, F64 to F66: a named error, and what runs goes on.

Each case runs in a program of its own, for its limits hold for a whole process.
"""
# The faults are numbered as in the contract.
# ruff: noqa: N802

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jobs
import pytest

START = """
import asyncio, os, resource, sys
import asyncjobs as aj
import jobs
from doors import Door, assert_failed, assert_one_end, common_outcome, new_door

def run(main):
    with asyncio.Runner() as loops:
        loops.get_loop().set_exception_handler(complain)
        loops.run(main)

def complain(loop, context):
    print("the loop complained:", context, file=sys.stderr)
    loop.default_exception_handler(context)
    os._exit(70)
"""


def program(text: str, *args: str) -> subprocess.CompletedProcess[str]:
    """Run a program that prints what it found out."""
    path = [os.path.dirname(jobs.__file__), *(entry for entry in sys.path if entry)]
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", START + text, *args],
        capture_output=True,
        text=True,
        timeout=55,
        cwd="/",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path), "TMPDIR": "/tmp"},
    )


def assert_done(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-6000:]}"
    assert done.stdout.splitlines()[-1] == "all well", done.stdout


# --- F64: descriptors -------------------------------------------------------------------

FORTY = """
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))

async def main():
    lane = aj.ProcessLane(4, start_method=sys.argv[1])
    async with aj.Runner(lanes={"process": lane}) as runner, asyncio.timeout(40):
        submit = runner.options(lane="process")
        jobs_ = [await submit.submit(jobs.pid) for _ in range(20)]
        pids = {await job for job in jobs_}
        assert 1 <= len(pids) <= 2, pids
        assert await submit.run(jobs.add, 1, 2) == 3
        assert await runner.run(jobs.add, 1, 2) == 3
        for job in jobs_:
            assert_one_end(job)
    print("all well")

run(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
def test_F64_forty_descriptors_hold_one_slot_and_every_job_runs_there(start_method: str) -> None:
    assert_done(program(FORTY, start_method))


NOT_ONE = """
async def main():
    async with aj.Runner(processes=2) as runner, asyncio.timeout(40):
        submit = runner.options(lane="process")
        used = len(os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        job = await submit.submit(jobs.add, 1, 2)
        error = await assert_failed(job, aj.ResourceExhausted, "descriptors")
        assert error.resource == "descriptors"
        assert "process-" in str(error)
        assert await runner.run(jobs.add, 1, 2) == 3
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        assert await submit.run(jobs.add, 1, 2) == 3
    print("all well")

run(main())
"""


@pytest.mark.slow
def test_F64_without_descriptors_a_job_fails_by_name_and_the_lane_recovers() -> None:
    assert_done(program(NOT_ONE))


EATEN = """
async def main():
    async with aj.Runner(processes=2) as runner, asyncio.timeout(40):
        submit = runner.options(lane="process")
        await asyncio.gather(*[submit.run(jobs.tick, n) for n in range(20)])
        async with common_outcome(runner):
            used = len(os.listdir("/proc/self/fd"))
            hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            resource.setrlimit(resource.RLIMIT_NOFILE, (used + 3, hard))
            lost = await submit.submit(jobs.exit_at_once, 3)
            await lost.wait()
            assert isinstance(lost.exception(), aj.WorkerLost)
            resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    print("all well")

run(main())
"""


@pytest.mark.slow
def test_F64_a_worker_that_dies_while_descriptors_are_short_is_replaced_later() -> None:
    assert_done(program(EATEN))


# --- F65, F66: processes and threads ----------------------------------------------------

LIMIT = """
from pathlib import Path

def no_more():
    if sys.argv[1]:
        group = Path(sys.argv[1])
        (group / "pids.max").write_text((group / "pids.current").read_text())
    else:
        resource.setrlimit(resource.RLIMIT_NPROC, (1, resource.getrlimit(resource.RLIMIT_NPROC)[1]))

def plenty():
    if sys.argv[1]:
        (Path(sys.argv[1]) / "pids.max").write_text("max")
    else:
        hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
        resource.setrlimit(resource.RLIMIT_NPROC, (hard, hard))

if sys.argv[1]:
    (Path(sys.argv[1]) / "cgroup.procs").write_text(str(os.getpid()))
"""


@pytest.fixture
def group() -> Iterator[str]:
    """A control group for a limit of processes and threads; empty where rlimits do, which root is above."""
    if os.getuid() != 0:
        yield ""
        return
    folder = Path(f"/sys/fs/cgroup/pids/asyncjobs-test-{os.getpid()}")
    if not folder.parent.is_dir():
        folder = Path(f"/sys/fs/cgroup/asyncjobs-test-{os.getpid()}")
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"F65 and F66 as root need the right to make a control group: {error}")
    if not (folder / "pids.max").exists():
        folder.rmdir()
        pytest.skip("F65 and F66 as root need the controller pids")
    yield str(folder)
    while (folder / "cgroup.procs").read_text():
        time.sleep(0.01)  # multiprocessing's helpers end a little later than their program
    folder.rmdir()


SHORT_OF_PROCESSES = """
async def main():
    lane = aj.ProcessLane(2, start_method=sys.argv[2])
    async with aj.Runner(lanes={"process": lane}) as runner, asyncio.timeout(40):
        submit = runner.options(lane="process")
        async with new_door() as door:
            running = await submit.submit(jobs.wait_at, door.path, "unharmed")
            await door.arrival()
            async with aj.Runner(lanes={"process": aj.ProcessLane(1, start_method=sys.argv[2])}) as second:
                no_more()
                job = await second.options(lane="process").submit(jobs.add, 1, 2)
                error = await assert_failed(job, aj.WorkerStartError, "process-0")
                # The process came to be, perhaps, and then the thread beside it did not.
                assert "EAGAIN" in str(error) or "can't start new thread" in str(error), error
                starved = await submit.submit(jobs.add, 1, 2)
            assert not running.done(), running
            door.open()
            assert await running == "unharmed"
            assert running.attempt == 1
            assert await starved == 3
            plenty()
            assert await submit.run(jobs.add, 1, 2) == 3
    print("all well")

run(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_F65_without_processes_a_start_fails_by_name_and_running_jobs_go_on(group: str, start_method: str) -> None:
    assert_done(program(LIMIT + SHORT_OF_PROCESSES, group, start_method))


BACK_TO_PLENTY = """
async def main():
    lane = aj.ProcessLane(1, start_method=sys.argv[2])
    async with aj.Runner(lanes={"process": lane}) as runner, asyncio.timeout(40):
        submit = runner.options(lane="process")
        no_more()
        job = await submit.submit(jobs.add, 1, 2)
        error = await assert_failed(job, aj.WorkerStartError, "process-0")
        assert "EAGAIN" in str(error) or "can't start new thread" in str(error), error
        assert await runner.run(jobs.async_add, 1, 2) == 3
        plenty()
        assert await submit.run(jobs.add, 1, 2) == 3
    print("all well")

run(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_F65_a_lane_comes_up_once_there_are_processes_again(group: str, start_method: str) -> None:
    assert_done(program(LIMIT + BACK_TO_PLENTY, group, start_method))


NO_THREADS = """
async def main():
    async with aj.Runner(threads=8) as runner, asyncio.timeout(40):
        no_more()
        job = await runner.submit(jobs.add, 1, 2)
        error = await assert_failed(job, aj.ResourceExhausted, "thread")
        assert error.resource == "threads"
        assert "add" in str(error)
        assert await runner.run(jobs.async_add, 1, 2) == 3
        plenty()
        assert await runner.run(jobs.add, 1, 2) == 3
    print("all well")

run(main())
"""


@pytest.mark.slow
def test_F66_without_threads_a_job_fails_by_name_and_the_runner_lives(group: str) -> None:
    assert_done(program(LIMIT + NO_THREADS, group))


FEWER_THREADS = """
async def main():
    async with aj.Runner(threads=8) as runner, asyncio.timeout(40):
        assert await runner.run(jobs.add, 1, 2) == 3
        async with new_door() as door:
            first = await runner.submit(jobs.wait_at, door.path, "unharmed")
            await door.arrival()
            no_more()
            rest = [await runner.submit(jobs.add, 1, n) for n in range(20)]
            door.open()
            assert await first == "unharmed"
            assert [await job for job in rest] == list(range(1, 21))
        plenty()
    print("all well")

run(main())
"""


@pytest.mark.slow
def test_F66_with_fewer_threads_than_wanted_all_jobs_run_in_those_there_are(group: str) -> None:
    assert_done(program(LIMIT + FEWER_THREADS, group))


NO_THREAD_TO_PRINT = """
async def main():
    async with aj.Runner(processes=1) as runner, asyncio.timeout(40):
        submit = runner.options(lane="process")
        await submit.run(jobs.add, 1, 2)
        no_more()
        assert await submit.run(jobs.print_both, "unheard") == "unheard"
        plenty()
        assert await submit.run(jobs.print_both, "heard") == "heard"
    print("all well")

run(main())
"""


@pytest.mark.slow
def test_F66_without_a_thread_to_print_with_a_job_succeeds_and_its_words_come_later(group: str) -> None:
    done = program(LIMIT + NO_THREAD_TO_PRINT, group)
    assert_done(done)
    assert "out unheard" in done.stdout
    assert "out heard" in done.stdout
