"""What a job can do to its worker, F1 to F31: the named error, and nobody else notices.

Every case runs beside a neighbour, and afterwards the same runner runs another job
(`common_outcome`); what is left behind is found by the leak check in conftest.py.
"""
# The faults are numbered as in the contract.
# ruff: noqa: N802

from __future__ import annotations

import asyncio
import functools
import os
import signal
import socket
import subprocess
import sys
import threading
from asyncio.subprocess import PIPE
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from time import monotonic
from typing import Any

import jobs
import psutil
import pytest
from doors import (
    BOUND,
    assert_failed,
    assert_lost,
    assert_one_end,
    common_outcome,
    coroutine_outcome,
    gone,
    is_running,
    new_door,
    outcome_in,
    safe_text,
)
from pauses import PauseClock, attempts

import asyncjobs as aj
from asyncjobs.lanes import wear
from asyncjobs.wire import frames

LANES = ("loop", "thread", "process")


@pytest.fixture(params=["forkserver", "spawn"])
async def either(request: pytest.FixtureRequest) -> AsyncIterator[aj.Runner]:
    """A runner with two workers, by each start method."""
    lane = aj.ProcessLane(2, start_method=request.param)
    async with aj.Runner(lanes={"process": lane}) as opened:
        yield opened
        await opened.aclose(drain=0, grace=0.1)


def process(runner: aj.Runner, **options: Any) -> Any:
    return runner.options(lane="process", **options)


async def warm(runner: aj.Runner) -> set[int]:
    """Bring both workers up; their process ids."""
    async with new_door() as door, asyncio.timeout(BOUND):
        both = [await process(runner).submit(jobs.wait_at, door.path) for _ in range(2)]
        pids = {await door.arrival() for _ in both}
        door.open(2)
        await aj.gather(both)
    return pids


# --- F1 to F3: the worker dies ----------------------------------------------------------

DEATHS = [
    pytest.param(jobs.segfault, (), signal.SIGSEGV, None, "SIGSEGV", id="F01-segfault-is-named"),
    pytest.param(jobs.read_address_zero, (), signal.SIGSEGV, None, "SIGSEGV", id="F01-segfault-in-ctypes-is-named"),
    pytest.param(jobs.abort, (), signal.SIGABRT, None, "SIGABRT", id="F01-abort-is-named"),
    pytest.param(jobs.kill_itself, (), signal.SIGKILL, None, "SIGKILL", id="F02-sigkill-of-a-busy-worker-is-a-loss"),
    pytest.param(jobs.exit_at_once, (0,), None, 0, "exit code 0", id="F03-exit-code-zero-is-a-loss-not-a-success"),
    pytest.param(jobs.exit_at_once, (99,), None, 99, "exit code 99", id="F03-exit-code-99-is-named"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("fn", "args", "number", "code", "cause"), DEATHS)
async def test_F01_to_F03_a_death_costs_one_job_and_is_named(
    either: aj.Runner, fn: Callable[..., Any], args: tuple[Any, ...], number: int | None, code: int | None, cause: str
) -> None:
    async with common_outcome(either):
        job = await process(either).submit(fn, *args)
        error = await assert_lost(job, signal=number, exit_code=code, cause=cause)
        with pytest.raises(aj.WorkerLost):
            await job
        if number in (signal.SIGSEGV, signal.SIGABRT):
            assert "Fatal Python error" in error.stderr
            assert fn.__name__ in error.stderr, "the stack at the crash"
            assert fn.__name__ in str(error)


async def test_F01_the_last_words_of_a_worker_are_in_the_error(runner: aj.Runner) -> None:
    async with common_outcome(runner):
        error = await assert_lost(await process(runner).submit(jobs.last_words_then_die), exit_code=3)
        assert "these are my last words" in error.stderr
        assert "these are my last words" in str(error)


async def test_F02_a_death_from_outside_is_seen_within_a_second(either: aj.Runner, clock: PauseClock) -> None:
    async with common_outcome(either), new_door() as door:
        job = await process(either).submit(jobs.wait_at, door.path)
        pid = await door.arrival()
        killed_at = clock()
        os.kill(pid, signal.SIGKILL)
        error = await assert_lost(job, signal=signal.SIGKILL)
        assert error.pid == pid
        assert clock() - killed_at < 1.0


@pytest.mark.slow
async def test_F02_sigkill_of_an_idle_worker_is_invisible(either: aj.Runner) -> None:
    pids = await warm(either)
    async with common_outcome(either) as neighbour:
        (idle,) = pids - {neighbour}
        os.kill(idle, signal.SIGKILL)
        job = await process(either).submit(jobs.pid)
        assert await job not in pids
        assert job.attempt == 1


@pytest.mark.slow
async def test_F02_sigkill_of_an_idle_worker_is_repaired_without_a_job(runner: aj.Runner) -> None:
    pids = await warm(runner)
    lane = runner._lanes["process"]
    async with common_outcome(runner) as neighbour:
        (idle,) = pids - {neighbour}
        os.kill(idle, signal.SIGKILL)
        await gone(idle)
        async with asyncio.timeout(BOUND):
            while len(set(lane.pids()) - {idle}) < 2:
                await asyncio.sleep(0.01)  # nobody is told when a slot is up again
        assert runner.stats().lanes["process"].lost == 0


@pytest.mark.slow
async def test_F02_a_job_that_was_sent_and_never_started_is_sent_again(either: aj.Runner) -> None:
    pids = await warm(either)
    async with common_outcome(either) as neighbour:
        (idle,) = pids - {neighbour}
        os.kill(idle, signal.SIGSTOP)  # it takes the bytes, and does not read them
        job = await process(either).submit(jobs.pid)
        while job.state.name == "QUEUED":
            await asyncio.sleep(0)
        os.kill(idle, signal.SIGKILL)
        assert await job not in pids
        assert job.attempt == 1
        assert_one_end(job)


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="the number is all that is known of a worker here")
async def test_F02_the_number_of_a_dead_worker_may_be_anothers_by_now(runner: aj.Runner) -> None:
    """Its group is killed for what the job left in there; a program that got its number is not."""
    pid = await process(runner).run(jobs.pid)
    (body,) = [slot._body for slot in runner._lanes["process"]._slots if slot.pid == pid]  # type: ignore[attr-defined]
    other = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE, start_new_session=True)
    os.kill(pid, signal.SIGKILL)
    while psutil.pid_exists(pid):  # until it has been waited for; the loop is not to see it yet
        continue
    assert not body.is_dead
    body.pid = other.pid
    while not body.is_dead:
        await asyncio.sleep(0)
    assert await other.communicate(b"still here") == (b"still here", None)


@pytest.mark.slow
async def test_F02_a_lost_job_runs_again_if_asked_to(runner: aj.Runner) -> None:
    async with common_outcome(runner), new_door() as door:
        job = await process(runner, lost="retry").submit(jobs.wait_at, door.path, "second try")
        os.kill(await door.arrival(), signal.SIGKILL)
        await door.arrival()
        door.open()
        assert await job == "second try"
        assert job.attempt == 2
        assert_one_end(job)


@pytest.mark.slow
async def test_F02_what_waits_behind_the_victim_in_its_window_runs_all_the_same(runner: aj.Runner) -> None:
    async with common_outcome(runner):
        submit = process(runner)
        for _ in range(20):
            await submit.run(jobs.tick, 0)  # known to be short, so that several are sent at once
        work = [await submit.submit(jobs.tick, item) for item in range(50)]
        victim = await submit.submit(jobs.exit_at_once, 9)
        work += [await submit.submit(jobs.tick, item) for item in range(50, 100)]
        await assert_lost(victim, exit_code=9)
        assert await aj.gather(work) == list(range(100))
        assert {job.attempt for job in work} == {1}


@pytest.mark.slow
async def test_F02_a_death_in_the_middle_of_a_map_costs_one_item(runner: aj.Runner) -> None:
    async with common_outcome(runner):
        die_on_70 = functools.partial(jobs.die_on, bad=70)
        items = await process(runner).map(die_on_70, range(100), on_error="return").collect()
        assert [item for item in items if not isinstance(item, Exception)] == [n for n in range(100) if n != 70]
        assert isinstance(items[70], aj.WorkerLost)
        assert items[70].exit_code == 9


async def test_F02_a_worker_killed_by_its_forkserver_s_end_is_not_lost() -> None:
    """The forkserver is not ours alone, and the kernel may choose it as a victim."""
    from multiprocessing import forkserver

    forkserver.ensure_running()
    async with aj.Runner(processes=2) as runner, common_outcome(runner):
        server = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
        os.kill(server, signal.SIGKILL)
        await gone(server)
    forkserver.ensure_running()


# --- F4, F5: memory ---------------------------------------------------------------------


@pytest.mark.slow
async def test_F04_no_memory_is_a_memory_error_and_the_worker_is_recycled(either: aj.Runner) -> None:
    pids = await warm(either)
    async with common_outcome(either) as neighbour:
        (victim,) = pids - {neighbour}
        job = await process(either).submit(jobs.too_large_an_allocation, 300 * 2**20)
        await assert_failed(job, MemoryError)
        assert await process(either).run(jobs.pid) not in (victim, neighbour)


@pytest.mark.slow
async def test_F04_a_limit_that_a_job_leaves_behind_does_not_reach_the_next(runner: aj.Runner) -> None:
    async with common_outcome(runner):
        await process(runner).run(jobs.limit_address_space, 100 * 2**20)
        assert await process(runner).run(jobs.allocate, 200 * 2**20) == 200 * 2**20


@pytest.mark.parametrize("lane", ["loop", "thread"])
async def test_F04_a_memory_error_in_this_process_fails_one_job(runner: aj.Runner, lane: str) -> None:
    async with outcome_in(lane, runner):
        fn = jobs.async_raise_it if lane == "loop" else jobs.memory_error
        args = (MemoryError, "no more") if lane == "loop" else ()
        job = await runner.options(lane=lane).submit(fn, *args)
        await assert_failed(job, MemoryError, "no more")


@pytest.fixture
def memory_cgroup() -> Any:
    """A control group that may use 256 MiB."""
    folder = Path(f"/sys/fs/cgroup/memory/asyncjobs-test-{os.getpid()}")
    limit = "memory.limit_in_bytes"
    if not folder.parent.is_dir():
        folder, limit = Path(f"/sys/fs/cgroup/asyncjobs-test-{os.getpid()}"), "memory.max"
    try:
        folder.mkdir()
        (folder / limit).write_text(str(256 * 2**20))
    except OSError as error:
        if folder.is_dir():
            folder.rmdir()
        pytest.skip(f"F05 needs the right to make a control group with a memory limit: {error}")
    yield folder
    folder.rmdir()


@pytest.mark.slow
async def test_F05_the_out_of_memory_killer_is_suspected(memory_cgroup: Path) -> None:
    async with aj.Runner(processes=2) as runner, common_outcome(runner), new_door() as door:
        job = await process(runner).submit(jobs.wait_at, door.path)
        pid = await door.arrival()
        (memory_cgroup / "cgroup.procs").write_text(str(pid))
        door.open()
        await job
        error = await assert_lost(await process(runner).submit(jobs.eat_memory), signal=signal.SIGKILL)
        assert "possibly out of memory" in str(error)


# --- F6, F7: jobs that do not stop ------------------------------------------------------


async def _timed_out(job: aj.Job[Any], limit: float, clock: PauseClock) -> None:
    started_at = clock()
    with pytest.raises(aj.JobTimeout) as caught:
        await job
    assert clock() - started_at < limit
    assert job.state.name == "TIMED_OUT"
    assert_one_end(job)
    for fact in (job.name, f"attempt {job.attempt}", "timeout of 0.2 s"):
        assert fact in str(caught.value)


@pytest.mark.slow
async def test_F06_a_job_deaf_to_every_signal_is_killed_at_its_limit(either: aj.Runner, clock: PauseClock) -> None:
    for attempt in attempts(3):
        with attempt:
            async with common_outcome(either), new_door() as door:
                job = await process(either, timeout=0.2, grace=0.2).submit(jobs.spin, door.path)
                pid = await door.arrival()
                # limit 0.2 + grace 0.2 + 1 to raise in it + 1 to see it die
                await _timed_out(job, 2.4, clock)
                await gone(pid)


@pytest.mark.slow
async def test_F06_a_stopped_process_is_killed_at_its_limit(runner: aj.Runner, clock: PauseClock) -> None:
    for attempt in attempts(3):
        with attempt:
            async with common_outcome(runner), new_door() as door:
                job = await process(runner, timeout=0.2, grace=0.2).submit(jobs.stop_itself, door.path)
                pid = await door.arrival()
                await _timed_out(job, 2.4, clock)
                await gone(pid)


@pytest.mark.slow
async def test_F06_cancelling_a_deaf_job_ends_it_too(runner: aj.Runner) -> None:
    async with common_outcome(runner), new_door() as door:
        job = await process(runner).submit(jobs.spin, door.path)
        pid = await door.arrival()
        assert job.cancel("enough", grace=0.1) == "requested"
        with pytest.raises(aj.JobCancelled, match="enough"):
            await job
        await gone(pid)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fn", "args"),
    [
        pytest.param(jobs.catastrophic_match, (60,), id="in-a-regular-expression"),
        pytest.param(jobs.sleep_with_the_lock, (600.0,), id="in-c-code"),
    ],
)
async def test_F07_a_job_that_holds_the_interpreter_lock_is_killed(
    either: aj.Runner, fn: Callable[..., Any], args: tuple[Any, ...], clock: PauseClock
) -> None:
    for attempt in attempts(3):
        with attempt:
            async with common_outcome(either):
                job = await process(either, timeout=0.2, grace=0.2).submit(fn, *args)
                while job.state.name == "QUEUED":
                    await asyncio.sleep(0.01)  # the worker starts
                await _timed_out(job, 2.4, clock)


@pytest.mark.slow
async def test_F07_a_thread_that_holds_the_interpreter_lock_times_out_and_the_watchdog_says_so(
    runner: aj.Runner, caplog: pytest.LogCaptureFixture, clock: PauseClock
) -> None:
    await runner.options(lane="thread").run(jobs.add, 1, 2)
    async with common_outcome(runner, lane="thread"):
        for attempt in attempts(pause=0):  # time in which a busy machine has no core for us is nobody's fault
            job = await runner.options(lane="thread", timeout=0.2, grace=0.0).submit(jobs.sleep_with_the_lock, 1.5)
            await _timed_out(job, 5.0, clock)
            for _ in range(100):
                await asyncio.sleep(0.01)  # the watchdog's thread has to come round
            with attempt:
                assert "has not answered" in caplog.text
                assert "interpreter lock" in caplog.text


async def test_F07_a_thread_that_hangs_times_out_and_is_replaced(runner: aj.Runner, clock: PauseClock) -> None:
    stuck = threading.Event()
    async with common_outcome(runner, lane="thread"):
        slow = runner.options(lane="thread", timeout=0.2, grace=0.0)
        hanging = [await slow.submit(stuck.wait) for _ in range(3)]
        for job in hanging:
            await _timed_out(job, 5.0, clock)
        assert runner.stats().lanes["thread"].abandoned == 3
        assert await aj.gather([await runner.submit(jobs.add, 1, n) for n in range(8)]) == list(range(1, 9))
        stuck.set()


@pytest.mark.slow
async def test_F07_a_coroutine_that_blocks_the_loop_is_shown_with_its_stack(
    runner: aj.Runner, caplog: pytest.LogCaptureFixture
) -> None:
    async with coroutine_outcome(runner):
        assert await runner.options(name="the culprit").run(jobs.block_the_loop, 0.9) == "blocked"
        assert "has not answered" in caplog.text
        assert "the culprit" in caplog.text
        assert "block_the_loop" in caplog.text


# --- F8, F9: arguments ------------------------------------------------------------------

LOCK = threading.Lock()


class Holder:
    def __init__(self) -> None:
        self.inner = {"lock": LOCK}


UNSENDABLE = [
    pytest.param((LOCK,), {}, "argument 1", id="a-lock"),
    pytest.param((1, (n for n in range(3))), {}, "argument 2", id="a-generator"),
    pytest.param((), {"where": threading.RLock()}, "argument 'where'", id="a-keyword"),
    pytest.param(([1, {"deep": (2, LOCK)}],), {}, "argument 1[1]['deep'][1]", id="deep-in-containers"),
    pytest.param((Holder(),), {}, "argument 1.inner['lock']", id="an-attribute"),
    pytest.param((jobs.RaisesWhenPickled(),), {}, "argument 1", id="reduce-that-raises"),
    pytest.param((jobs.RaisesUnprintableWhenPickled(),), {}, "argument 1", id="reduce-that-raises-the-unprintable"),
]


@pytest.mark.parametrize(("args", "kwargs", "path"), UNSENDABLE)
async def test_F08_what_cannot_be_sent_raises_at_submit_and_names_the_argument(
    runner: aj.Runner, args: tuple[Any, ...], kwargs: dict[str, Any], path: str
) -> None:
    async with common_outcome(runner):
        before = runner.stats().lanes["process"]
        with pytest.raises(aj.NotSendable) as caught:
            await process(runner).submit(jobs.take, *args, **kwargs)
        assert caught.value.argument == f"{path} of take"
        assert f"{path} of take" in str(caught.value)
        with pytest.raises(aj.NotSendable):
            process(runner).submit_nowait(jobs.take, *args, **kwargs)
        with pytest.raises(aj.NotSendable):
            await process(runner).run(jobs.take, *args, **kwargs)
        after = runner.stats().lanes["process"]
        assert (before.submitted, before.queued) == (after.submitted, after.queued)


async def test_F08_a_socket_is_named_too(runner: aj.Runner) -> None:
    with socket.socket() as unsendable:
        async with common_outcome(runner):
            with pytest.raises(aj.NotSendable, match="argument 1 of take"):
                await process(runner).submit(jobs.take, unsendable)


async def test_F08_a_function_that_captured_something_unsendable_is_named(runner: aj.Runner) -> None:
    def captures() -> object:
        return LOCK, inner

    inner = threading.Lock()
    async with common_outcome(runner):
        with pytest.raises(aj.NotSendable, match=r"the function .*captures"):
            await process(runner).submit(captures)


@pytest.mark.slow
async def test_F08_a_lambda_as_an_argument_is_no_fault(runner: aj.Runner) -> None:
    async with common_outcome(runner):
        assert await process(runner).run(map_over, [1, 2, 3], lambda n: n * n) == [1, 4, 9]


def map_over(items: list[int], fn: Callable[[int], int]) -> list[int]:
    return [fn(item) for item in items]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argument", "code", "number"),
    [
        pytest.param(jobs.ExitsWhenUnpickled(3), 3, None, id="exits"),
        pytest.param(jobs.SegfaultsWhenUnpickled(), None, signal.SIGSEGV, id="segfaults"),
    ],
)
async def test_F09_an_argument_that_kills_while_it_is_unpickled_costs_its_own_job(
    either: aj.Runner, argument: object, code: int | None, number: int | None
) -> None:
    async with common_outcome(either):
        await assert_lost(await process(either).submit(jobs.take, argument), signal=number, exit_code=code)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argument", "kind"),
    [
        pytest.param(jobs.RaisesWhenUnpickled(), ValueError, id="raises"),
        pytest.param(jobs.SystemExitWhenUnpickled(), SystemExit, id="raises-SystemExit"),
        pytest.param(jobs.UnprintableWhenUnpickled(), jobs.Unprintable, id="raises-the-unprintable"),
    ],
)
async def test_F09_an_argument_that_raises_while_it_is_unpickled_fails_its_own_job(
    runner: aj.Runner, argument: object, kind: type[BaseException]
) -> None:
    async with common_outcome(runner) as neighbour:
        before = {neighbour, await process(runner).run(jobs.pid)}
        error = await assert_failed(await process(runner).submit(jobs.take, argument), kind)
        assert "arguments of the job were unpickled in the worker" in str(error.__cause__)
        assert await process(runner).run(jobs.pid) in before, "the worker is as good as new"


@pytest.mark.slow
async def test_F09_an_exception_that_refuses_notes_is_no_end_of_the_worker(runner: aj.Runner) -> None:
    class RefusesNotes:
        def __reduce__(self) -> tuple[Any, ...]:
            return jobs.raise_it, (jobs.NoNotes, "mine")

    async with common_outcome(runner):
        await assert_failed(await process(runner).submit(jobs.take, RefusesNotes()), jobs.NoNotes, "mine")


# --- F10, F11, F15: results -------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fn", "args", "kind"),
    [
        pytest.param(jobs.generator_result, (), "generator", id="a-generator"),
        pytest.param(jobs.socket_result, (), "socket", id="a-socket"),
        pytest.param(jobs.make, (jobs.RaisesWhenPickled,), "RaisesWhenPickled", id="reduce-that-raises"),
        pytest.param(jobs.make, (jobs.SystemExitWhenPickled,), "SystemExitWhenPickled", id="reduce-that-exits"),
        pytest.param(
            jobs.make,
            (jobs.RaisesUnprintableWhenPickled,),
            "RaisesUnprintableWhenPickled",
            id="unprintable-in-every-way",
        ),
        pytest.param(jobs.nested_list, (100_000,), "list", id="nested-too-deep"),
    ],
)
async def test_F10_a_result_that_does_not_pickle_is_named(
    runner: aj.Runner, fn: Callable[..., Any], args: tuple[Any, ...], kind: str
) -> None:
    async with common_outcome(runner) as neighbour:
        pids = {neighbour, await process(runner).run(jobs.pid)}
        job = await process(runner).submit(fn, *args)
        error = await assert_failed(job, aj.ResultNotSendable, kind)
        with pytest.raises(aj.ResultNotSendable):
            await job
        assert "does not pickle" in str(error)
        assert await process(runner).run(jobs.pid) in pids


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "code", "number"),
    [
        pytest.param(jobs.SegfaultsWhenPickled, None, signal.SIGSEGV, id="segfaults"),
        pytest.param(jobs.ExitsWhenPickled, 5, None, id="exits"),
    ],
)
async def test_F10_a_result_that_kills_while_it_is_pickled_is_a_loss(
    either: aj.Runner, kind: type[Any], code: int | None, number: int | None
) -> None:
    async with common_outcome(either):
        await assert_lost(await process(either).submit(jobs.make, kind), signal=number, exit_code=code)


@pytest.mark.slow
async def test_F10_a_lambda_as_a_result_is_no_fault(runner: aj.Runner) -> None:
    async with common_outcome(runner):
        assert (await process(runner).run(jobs.lambda_result))() == 7


@pytest.mark.slow
async def test_F10_an_item_of_a_map_whose_result_does_not_pickle_fails_alone(runner: aj.Runner) -> None:
    def result(item: int) -> object:
        return threading.Lock() if item == 5 else item

    async with common_outcome(runner):
        items = await process(runner).map(result, range(10), on_error="return").collect()
        assert isinstance(items[5], aj.ResultNotSendable)
        assert [item for item in items if isinstance(item, int)] == [0, 1, 2, 3, 4, 6, 7, 8, 9]


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", [jobs.RaisesWhenUnpickled, jobs.UnprintableWhenUnpickled, jobs.SystemExitWhenUnpickled]
)
async def test_F11_a_result_that_cannot_be_rebuilt_here_fails_its_own_job(either: aj.Runner, kind: type[Any]) -> None:
    async with common_outcome(either) as neighbour:
        pids = {neighbour, await process(either).run(jobs.pid)}
        error = await assert_failed(await process(either).submit(jobs.make, kind), aj.ResultNotSendable)
        assert "could not be unpickled here" in str(error)
        assert error.__cause__ is not None
        assert await process(either).run(jobs.pid) in pids


@pytest.mark.slow
async def test_F11_an_item_of_a_map_that_cannot_be_rebuilt_here_fails_and_the_runner_lives(runner: aj.Runner) -> None:
    def result(item: int) -> object:
        return jobs.RaisesWhenUnpickled() if item == 5 else item

    async with common_outcome(runner):
        items = await process(runner).map(result, range(10), on_error="return").collect()
        assert isinstance(items[5], aj.ResultNotSendable)
        assert [item for item in items if isinstance(item, int)] == [0, 1, 2, 3, 4, 6, 7, 8, 9]


@pytest.mark.slow
async def test_F11_progress_that_cannot_be_rebuilt_here_harms_nobody(runner: aj.Runner) -> None:
    async with common_outcome(runner), new_door() as door:
        job = await process(runner).submit(jobs.progress_of, jobs.RaisesWhenUnpickled(), door.path)
        door.open()
        await job.wait()
        assert job.done()


async def test_F15_a_result_beyond_max_result_is_refused_before_it_is_sent(runner: aj.Runner) -> None:
    async with common_outcome(runner) as neighbour:
        pids = {neighbour, await process(runner).run(jobs.pid)}
        used = psutil.Process().memory_info().rss
        job = await process(runner, max_result=2**20).submit(jobs.big, 256 * 2**20)
        error = await assert_failed(job, aj.ResultTooLarge, "max_result")
        assert isinstance(error, aj.ResultTooLarge)
        assert error.limit == 2**20
        assert 256 * 2**20 < error.nbytes < 257 * 2**20
        assert psutil.Process().memory_info().rss - used < 64 * 2**20, "none of it came here"
        assert await process(runner).run(jobs.pid) in pids


@pytest.mark.slow
async def test_F15_a_result_of_two_gib_is_refused_or_arrives(runner: aj.Runner) -> None:
    if psutil.virtual_memory().available < 10 * 2**30:
        pytest.skip("F15 with 2 GiB needs 10 GiB of memory")
    async with common_outcome(runner, bound=50):
        job = await process(runner, max_result=2**30).submit(jobs.big, 2**31)
        await assert_failed(job, aj.ResultTooLarge)


@pytest.mark.slow
async def test_F15_a_death_in_the_middle_of_an_answer_is_a_loss(either: aj.Runner) -> None:
    async with common_outcome(either):
        job = await process(either).submit(jobs.die_in_the_middle_of_the_answer, 64 * 2**20)
        await assert_lost(job, signal=signal.SIGKILL)


# --- F12 to F14, F16 to F18: exceptions, in every lane ----------------------------------


async def _submit_raising(runner: aj.Runner, lane: str, kind: type[BaseException], *args: Any) -> aj.Job[Any]:
    fn = jobs.async_raise_it if lane == "loop" else jobs.raise_it
    return await runner.options(lane=lane).submit(fn, kind, *args)


@pytest.mark.slow
async def test_F12_an_exception_that_cannot_be_rebuilt_keeps_its_name_text_and_traceback(either: aj.Runner) -> None:
    async with common_outcome(either):
        job = await _submit_raising(either, "process", jobs.TwoArguments, "this", "that")
        error = await assert_failed(job, "TwoArguments", "this and that")
        assert isinstance(error, aj.RemoteError)
        assert error.type_name == "jobs.TwoArguments"
        assert error.text == "this and that"
        assert "raise_it" in error.remote_traceback
        with pytest.raises(aj.RemoteError, match="this and that"):
            await job


VICIOUS = [
    pytest.param(jobs.ReduceRaises, ("text",), "text", id="reduce-raises"),
    pytest.param(jobs.Unprintable, ("hidden",), "", id="str-and-repr-raise"),
    pytest.param(jobs.WithLock, (), "holds a lock", id="args-hold-a-lock"),
    pytest.param(jobs.TextOfAnOddKind, (), "odd", id="text-that-does-not-pickle"),
]


@pytest.mark.slow
@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize(("kind", "args", "text"), VICIOUS)
async def test_F13_an_exception_made_to_harm_keeps_its_type_name(
    runner: aj.Runner, lane: str, kind: type[Exception], args: tuple[Any, ...], text: str
) -> None:
    async with outcome_in(lane, runner):
        job = await _submit_raising(runner, lane, kind, *args)
        await job.wait()
        error = job.exception()
        name = error.type_name if isinstance(error, aj.RemoteError) else f"jobs.{type(error).__name__}"
        assert name == f"jobs.{kind.__name__}"
        assert job.state.name == "FAILED"
        assert text in safe_text(error) or text in getattr(error, "text", "")
        if kind is jobs.Unprintable and lane == "process":
            assert isinstance(error, (jobs.Unprintable, aj.RemoteError))
            assert "<" in str(error.__cause__ if isinstance(error, jobs.Unprintable) else error)
        with pytest.raises((kind, aj.RemoteError)):
            await job


@pytest.mark.slow
@pytest.mark.parametrize("lane", LANES)
async def test_F13_causes_in_a_circle_do_not_hang(runner: aj.Runner, lane: str) -> None:
    async with outcome_in(lane, runner):
        fn = jobs.async_raise_in_a_circle if lane == "loop" else jobs.raise_in_a_circle
        error = await assert_failed(await runner.options(lane=lane).submit(fn), ValueError, "first")
        if lane == "process":
            assert "second" in str(error.__cause__)


@pytest.mark.slow
@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("where", ["", "_in_pickle", "_in_json"])
async def test_F14_recursion_without_end_is_a_recursion_error(runner: aj.Runner, lane: str, where: str) -> None:
    async with outcome_in(lane, runner):
        fn = getattr(jobs, f"{'async_' if lane == 'loop' else ''}recurse{where}")
        error = await assert_failed(await runner.options(lane=lane).submit(fn), RecursionError)
        assert "recurse" in str(error.__cause__) or lane != "process"


@pytest.mark.slow
async def test_F14_the_text_of_a_traceback_is_capped(runner: aj.Runner) -> None:
    async with common_outcome(runner):
        job = await process(runner).submit(jobs.raise_it, jobs.TwoArguments, "a" * 10**7, "the end")
        error = await assert_failed(job, "TwoArguments")
        assert isinstance(error, aj.RemoteError)
        assert len(error.remote_traceback) <= 65 * 1024
        assert error.remote_traceback.startswith("Traceback")
        assert "the end" in error.remote_traceback[-100:]
        assert "left out" in error.remote_traceback
        assert len(str(error)) < 200 * 1024, "nor is it hidden elsewhere in the error"


HARMFUL = [KeyboardInterrupt, SystemExit, GeneratorExit, jobs.Plain, StopIteration, StopAsyncIteration]


@pytest.mark.slow
@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("kind", HARMFUL)
async def test_F16_F17_an_exception_that_harms_awaits_fails_its_job_and_nothing_else(
    runner: aj.Runner, lane: str, kind: type[BaseException]
) -> None:
    async with outcome_in(lane, runner):
        job = await _submit_raising(runner, lane, kind, "on purpose")
        # A coroutine cannot raise StopIteration: the language makes a RuntimeError of it.
        changed = lane == "loop" and kind is StopIteration
        expected = RuntimeError if changed else kind
        error = await assert_failed(job, expected, kind.__name__ if changed else "on purpose")
        if lane == "process":
            assert "raise_it" in str(error.__cause__)
        if changed:
            return
        with pytest.raises(aj.RemoteError, match="on purpose") as caught:
            await job
        assert caught.value.original is error
        assert caught.value.type_name.endswith(kind.__name__)


@pytest.mark.slow
@pytest.mark.parametrize("lane", LANES)
async def test_F16_a_map_survives_an_exception_that_harms_awaits(runner: aj.Runner, lane: str) -> None:
    def exits_on_three(item: int) -> int:
        return sys.exit("three") if item == 3 else item

    async def async_exits_on_three(item: int) -> int:
        return exits_on_three(item)

    async with outcome_in(lane, runner):
        fn = async_exits_on_three if lane == "loop" else exits_on_three
        items = await runner.options(lane=lane).map(fn, range(6), on_error="return").collect()
        assert isinstance(items[3], (SystemExit, aj.RemoteError))
        assert [item for item in items if isinstance(item, int)] == [0, 1, 2, 4, 5]


@pytest.mark.slow
@pytest.mark.parametrize("lane", LANES)
async def test_F18_a_cancelled_error_that_nobody_asked_for_is_a_failure(runner: aj.Runner, lane: str) -> None:
    async with outcome_in(lane, runner):
        job = await _submit_raising(runner, lane, asyncio.CancelledError, "my own")
        await assert_failed(job, asyncio.CancelledError, "my own")
        with pytest.raises(aj.RemoteError, match="my own"):
            await job


# --- F19: a coroutine that does not stop ------------------------------------------------


async def test_F19_a_coroutine_that_swallows_its_cancellation_is_abandoned_and_close_is_bounded(
    caplog: pytest.LogCaptureFixture,
    clock: PauseClock,
) -> None:
    go = asyncio.Event()

    async def swallows() -> str:
        while not go.is_set():
            try:
                await go.wait()
            except asyncio.CancelledError:
                task = asyncio.current_task()
                assert task is not None
                task.uncancel()
        return "in my own time"

    async with aj.Runner() as runner:
        async with coroutine_outcome(runner):
            job = await runner.options(grace=0.1).submit(swallows)
            await asyncio.sleep(0)
            while job.state.name != "RUNNING":
                await asyncio.sleep(0)
            assert job.cancel("please") == "requested"
            with pytest.raises(aj.JobCancelled, match="still runs"):
                await job
            assert runner.stats().lanes["loop"].abandoned == 1
        began = clock()
        await runner.aclose(drain=0, grace=0.1)
        assert clock() - began < 3.0
    go.set()
    await asyncio.sleep(0.01)  # lets the abandoned task end


# --- F20: output ------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("output", ["drop", "capture"])
async def test_F20_a_flood_of_output_blocks_nobody_and_takes_no_memory(runner: aj.Runner, output: str) -> None:
    nbytes = 256 * 2**20
    async with common_outcome(runner, bound=45):
        used = psutil.Process().memory_info().rss
        job = await process(runner, output=output).submit(jobs.flood, nbytes)
        assert await job == "dry"
        assert psutil.Process().memory_info().rss - used < 32 * 2**20
        assert len(job.output) <= 5 * 64 * 1024
        assert ("\ufffd\x00\ufffd-" in job.output) == (output == "capture")


@pytest.mark.slow
async def test_F20_a_flood_passed_on_to_a_slow_terminal_is_cut_and_counted(
    runner: aj.Runner, capsys: pytest.CaptureFixture[str]
) -> None:
    async with common_outcome(runner):
        assert await process(runner).run(jobs.flood, 16 * 2**20) == "dry"
    await runner.aclose()
    written = capsys.readouterr()
    assert "\ufffd\x00\ufffd-" in written.out


@pytest.mark.slow
async def test_F20_output_in_many_small_pieces_does_not_hold_up_the_loop(runner: aj.Runner) -> None:
    async with common_outcome(runner):
        job = await process(runner, output="capture").submit(jobs.print_pieces, 30_000)
        assert await job == 30_000
        assert job.output == "." * 30_000


# --- F21, F22: descriptors --------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1, 2])
async def test_F21_a_job_may_close_a_standard_stream(runner: aj.Runner, number: int) -> None:
    async with common_outcome(runner):
        assert await process(runner).run(jobs.close_descriptor, number) == "closed"
        assert await process(runner, output="capture").run(jobs.print_both, "next") == "next"
        job = await process(runner, output="capture").submit(jobs.print_both, "again")
        await job
        assert job.output == "out again\nerr again\n"


@pytest.mark.slow
@pytest.mark.parametrize("fn", [jobs.close_stdout_object, jobs.lose_stdout])
async def test_F21_a_job_may_lose_its_stdout(runner: aj.Runner, fn: Callable[[], str]) -> None:
    async with common_outcome(runner):
        assert await process(runner).run(fn) in ("closed", "lost")
        job = await process(runner, output="capture").submit(jobs.print_both, "again")
        assert await job == "again"
        assert job.output == "out again\nerr again\n"


@pytest.mark.slow
async def test_F21_a_job_that_closes_the_channels_is_a_loss(either: aj.Runner) -> None:
    async with common_outcome(either):
        job = await process(either).submit(jobs.close_all)
        await job.wait()
        error = job.exception()
        assert isinstance(error, aj.WorkerLost), repr(error)
        assert job.state.name == "LOST"
        assert "protocol closed" in str(error)


async def test_F21_a_job_that_puts_a_file_over_the_channels_is_a_loss(either: aj.Runner, tmp_path: Path) -> None:
    async with common_outcome(either):
        job = await process(either).submit(jobs.put_something_else_over_the_channels, str(tmp_path / "file"))
        await job.wait()
        assert isinstance(job.exception(), aj.WorkerLost), repr(job.exception())
        assert "protocol closed" in str(job.exception())


def _frame_with_a_wrong_checksum() -> bytes:
    frame = bytearray(frames.encode(frames.RETURNED, 1, b"cos\nsystem\n(S'true'\ntR."))
    frame[-1] ^= 0xFF
    return bytes(frame)


GARBAGE = [
    pytest.param(b"this is no frame at all, and it is long enough to be looked at", id="text"),
    pytest.param(b"\0" * 4096, id="zeros"),
    pytest.param(frames.HEADER.pack(frames.MAGIC, 0xEE, 0, 0, 1, 2**60, 0.0), id="a-header-of-an-exabyte"),
    pytest.param(frames.HEADER.pack(frames.MAGIC, frames.RETURNED, 0, 0, 1, 2**60, 0.0), id="an-answer-of-an-exabyte"),
    pytest.param(frames.HEADER.pack(frames.MAGIC, 0xEE, 0, 0, 1, 5000, 0.0), id="a-header-and-nothing-more"),
    pytest.param(_frame_with_a_wrong_checksum(), id="a-wrong-checksum"),
]


@pytest.mark.parametrize("garbage", GARBAGE)
async def test_F22_garbage_in_the_channels_is_found_out_and_never_unpickled(runner: aj.Runner, garbage: bytes) -> None:
    async with common_outcome(runner):
        job = await process(runner).submit(jobs.write_into_the_channels, garbage)
        await job.wait()
        error = job.exception()
        assert isinstance(error, aj.WorkerLost), repr(error)
        assert "protocol broken" in str(error)


# --- F23 to F25: processes and threads of the job ---------------------------------------


async def test_F23_a_forked_child_that_returns_into_the_worker_answers_nothing(either: aj.Runner) -> None:
    async with common_outcome(either):
        job = await process(either).submit(jobs.fork_and_return_twice)
        answer = await job
        assert answer.startswith("from ")
        assert_one_end(job)
        error = await assert_failed(await process(either).submit(jobs.fork_and_raise_twice), ValueError, "from ")
        assert error.args[0] in str(error.__cause__)


async def test_F23_a_child_forked_in_the_middle_of_a_map_does_not_go_on_with_its_items(
    runner: aj.Runner, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    async with common_outcome(runner):
        fork_on_3 = functools.partial(jobs.fork_on, bad=3, log=str(log))
        assert await process(runner).map(fork_on_3, range(20)).collect() == list(range(20))
    await runner.aclose()
    calls = Counter(int(line) for line in log.read_text().split())
    # The child gets no further than the end of the item that forked, if it lives so long.
    assert calls - Counter(range(20)) <= Counter([3])


async def test_F24_a_job_ends_when_the_worker_says_so_and_its_child_is_killed_with_the_worker(
    either: aj.Runner,
) -> None:
    async with common_outcome(either), new_door() as door:
        child = await process(either).run(jobs.leave_a_forked_child, door.path)
        assert await door.arrival() == child
        assert is_running(child), "it is the job's own, as long as its worker lives"
        await assert_lost(await process(either).submit(jobs.exit_at_once, 3), exit_code=3)
        await gone(child)


async def test_F24_the_death_of_a_worker_is_seen_at_once_in_spite_of_its_child(
    either: aj.Runner, clock: PauseClock
) -> None:
    async with common_outcome(either), new_door() as door:
        job = await process(either).submit(jobs.leave_a_forked_child_and_die, door.path)
        child = await door.arrival()
        began = clock()
        door.open()
        await job.wait()
        assert clock() - began < 1.0
        assert isinstance(job.exception(), aj.WorkerLost)
        assert job.exception().exit_code in (11, None)  # type: ignore[union-attr]
        await gone(child)


async def test_F24_a_process_that_left_the_group_is_killed_or_named_at_close(
    runner: aj.Runner, caplog: pytest.LogCaptureFixture
) -> None:
    async with common_outcome(runner):
        same = await process(runner).run(jobs.leave_a_process, False)
        other = await process(runner).run(jobs.leave_a_process, True)
        assert is_running(same)
        assert is_running(other)
    await runner.aclose()
    await gone(same)
    _killed_or_named(other, caplog.text)


@pytest.mark.slow
async def test_F24_a_process_that_left_the_group_of_a_killed_worker_is_killed_or_named(
    runner: aj.Runner, caplog: pytest.LogCaptureFixture
) -> None:
    async with common_outcome(runner), new_door() as door:
        job = await process(runner, grace=0.0).submit(jobs.leave_a_process_and_spin, door.path)
        other = await door.arrival()
        job.cancel()
        with pytest.raises(aj.JobCancelled):
            await job
    await runner.aclose()
    _killed_or_named(other, caplog.text)


def _killed_or_named(pid: int, log: str) -> None:
    was_running = is_running(pid)
    if was_running:
        os.kill(pid, signal.SIGKILL)
    assert not was_running or str(pid) in log


@pytest.mark.slow
async def test_F25_a_daemon_thread_that_outlives_its_job_costs_the_worker(either: aj.Runner) -> None:
    async with common_outcome(either) as neighbour:
        dirty = await process(either).run(jobs.leave_a_daemon_thread)
        assert await process(either).run(jobs.pid) not in (dirty, neighbour)
        await gone(dirty)


async def test_F25_a_thread_that_blocks_the_exit_costs_the_worker_and_no_time(
    either: aj.Runner, clock: PauseClock
) -> None:
    for attempt in attempts(3):
        with attempt:
            async with common_outcome(either) as neighbour:
                began = clock()
                dirty = await process(either).run(jobs.leave_a_thread)
                assert await process(either).run(jobs.pid) not in (dirty, neighbour)
                await gone(dirty)
                assert clock() - began < 3.0


async def test_F25_a_thread_job_that_leaves_a_thread_behind_has_returned(runner: aj.Runner) -> None:
    async with new_door() as door, common_outcome(runner, lane="thread"):
        assert await runner.run(jobs.leave_a_thread_until, door.path) == "returned"
        await door.arrival()
        door.open()


# --- F26: dirt --------------------------------------------------------------------------

DIRT = [
    jobs.change_directory,
    jobs.change_umask,
    jobs.change_environment,
    jobs.handle_signals,
    jobs.block_signals,
    jobs.set_timer,
    jobs.raise_recursion_limit,
    jobs.limit_files,
    jobs.be_nice,
    jobs.replace_stdout,
    jobs.leave_a_thread,
]


@pytest.mark.slow
@pytest.mark.parametrize("dirty", DIRT)
async def test_F26_the_next_job_sees_a_clean_process(runner: aj.Runner, dirty: Callable[[], Any]) -> None:
    async with common_outcome(runner):
        clean = await process(runner).run(jobs.state_of_process)
        await process(runner).run(dirty)
        assert await process(runner).run(jobs.state_of_process) == clean


async def test_F26_a_directory_that_is_gone_harms_nobody(runner: aj.Runner, tmp_path: Path) -> None:
    async with common_outcome(runner):
        await process(runner).run(jobs.change_to_a_lost_directory, str(tmp_path / "lost"))
        assert await process(runner).run(os.getcwd) == os.getcwd()


async def test_F26_a_job_that_leaves_an_exit_hook_costs_the_worker(runner: aj.Runner, tmp_path: Path) -> None:
    async with common_outcome(runner) as neighbour:
        dirty = await process(runner).run(jobs.register_exit_hook, str(tmp_path / "made at exit"))
        assert await process(runner).run(jobs.pid) not in (dirty, neighbour)


@pytest.mark.slow
async def test_F26_memory_that_a_job_leaks_goes_with_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wear, "RSS_INTERVAL", 3600.0)  # else a slow machine may catch the job while it runs
    lane = aj.ProcessLane(2, max_rss=60 * 2**20)
    async with aj.Runner(lanes={"process": lane}) as runner, common_outcome(runner) as neighbour:
        await process(runner).run(jobs.leak_memory, 2**20)
        leaky = await process(runner).run(jobs.leak_memory, 60 * 2**20)
        await gone(leaky)
        assert await process(runner).run(jobs.pid) not in (leaky, neighbour)


@pytest.mark.parametrize("fn", [jobs.handle_signals, jobs.block_signals])
async def test_F26_the_next_job_can_still_be_stopped(runner: aj.Runner, fn: Callable[[], None]) -> None:
    async with common_outcome(runner) as neighbour, new_door() as door:
        await process(runner).run(fn)
        job = await process(runner).submit(jobs.swallow_stops, door.path, 0)
        await door.arrival()
        assert await job == "stopped in my own time"
        deaf = await process(runner).submit(jobs.wait_at, door.path)
        pid = await door.arrival()
        deaf.cancel("stop", grace=0.0)
        with pytest.raises(aj.JobCancelled):
            await deaf
        assert pid != neighbour
        assert await process(runner).run(jobs.pid) == pid, "it was interrupted, not killed"


# --- F27: the end of the arguments ------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("argument", [jobs.ExitsWhenCollected, jobs.SegfaultsWhenCollected])
async def test_F27_arguments_that_kill_when_they_are_freed_cost_nothing_but_the_worker(
    either: aj.Runner, argument: type[Any]
) -> None:
    async with common_outcome(either) as neighbour:
        job = await process(either).submit(jobs.take, argument())
        followers = [await process(either).submit(jobs.pid) for _ in range(5)]
        assert await job == "taken"
        for follower in followers:
            assert await follower != neighbour
            assert follower.attempt == 1


# --- F28, F29: workers that do not come up, jobs that always kill -----------------------


async def _fails_to_start(runner: aj.Runner, text: str) -> None:
    async with asyncio.timeout(BOUND):
        job = await process(runner).submit(jobs.add, 1, 2)
        error = await assert_failed(job, aj.WorkerStartError, text)
        assert isinstance(error, aj.WorkerStartError)
        assert text in error.stderr
        assert "worker process-" in str(error)
        assert await runner.run(jobs.add, 1, 2) == 3, "the other lanes go on"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "text"),
    [
        pytest.param({"initializer": jobs.boom, "initargs": ("bad start",)}, "bad start", id="initializer-raises"),
        pytest.param({"initializer": jobs.last_words_then_die}, "these are my last words", id="initializer-dies"),
        pytest.param({"preload": ["no_such_module"]}, "no_such_module", id="preload-is-missing"),
        pytest.param(
            {"initializer": jobs.take, "initargs": (jobs.RaisesWhenUnpickled(),)},
            "not to be unpickled",
            id="initargs-cannot-be-rebuilt",
        ),
    ],
)
@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
async def test_F28_a_worker_that_does_not_come_up_is_named_with_its_last_words(
    settings: dict[str, Any], text: str, start_method: str
) -> None:
    lane = aj.ProcessLane(1, start_method=start_method, **settings)
    async with aj.Runner(lanes={"process": lane}) as runner:
        await _fails_to_start(runner, text)
        await _fails_to_start(runner, text)


@pytest.mark.slow
async def test_F28_a_worker_that_does_not_come_up_makes_no_storm_of_processes(tmp_path: Path) -> None:
    started = tmp_path / "started"
    started.write_text("")
    lane = aj.ProcessLane(2, initializer=note_and_die, initargs=(str(started),))
    async with aj.Runner(lanes={"process": lane}) as runner:
        began = monotonic()
        while monotonic() - began < 3.0:
            job = await process(runner).submit(jobs.add, 1, 2)
            await job.wait()
            assert isinstance(job.exception(), aj.WorkerStartError)
        seconds = monotonic() - began
    # Three tries at first for each of the two slots, then one a second at most.
    assert len(started.read_text()) <= 2 * (3 + 3 * seconds)


def note_and_die(path: str) -> None:
    with open(path, "a", encoding="ascii") as file:
        file.write(".")
    os._exit(1)


@pytest.mark.slow
async def test_F28_an_interpreter_that_does_not_exist_is_a_start_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import multiprocessing.spawn

    monkeypatch.setattr(multiprocessing.spawn, "_python_exe", b"/no/such/python")
    async with aj.Runner(lanes={"process": aj.ProcessLane(1, start_method="spawn")}) as runner:
        async with asyncio.timeout(BOUND):
            job = await process(runner).submit(jobs.add, 1, 2)
            await assert_failed(job, aj.WorkerStartError)
        monkeypatch.undo()
        async with asyncio.timeout(BOUND):
            assert await process(runner).run(jobs.add, 1, 2) == 3, "and it comes up once it can"


@pytest.mark.slow
async def test_F28_a_lane_whose_worker_comes_up_at_the_third_try_works(tmp_path: Path) -> None:
    counter = tmp_path / "tries"
    counter.write_text("")
    lane = aj.ProcessLane(1, initializer=succeed_at_the_third_try, initargs=(str(counter),))
    async with aj.Runner(lanes={"process": lane}) as runner, asyncio.timeout(BOUND):
        assert await process(runner).run(jobs.add, 1, 2) == 3
    assert counter.read_text() == "..."


def succeed_at_the_third_try(path: str) -> None:
    with open(path, "a+", encoding="ascii") as file:
        file.write(".")
        file.seek(0)
        if len(file.read()) < 3:
            sys.exit("not yet")


@pytest.mark.slow
@pytest.mark.parametrize(("options", "attempts"), [({}, 4), ({"retries": 1}, 2), ({"retries": 5}, 6)])
async def test_F29_a_job_that_always_kills_its_worker_has_a_bounded_number_of_tries(
    runner: aj.Runner, options: dict[str, Any], attempts: int
) -> None:
    async with common_outcome(runner):
        job = await process(runner, lost="retry", **options).submit(jobs.exit_at_once, 13)
        await assert_lost(job, exit_code=13)
        assert job.attempt == attempts


# --- F30: jobs that wait for jobs -------------------------------------------------------


async def test_F30_coroutines_that_wait_for_children_in_their_own_full_lane_are_told_so(clock: PauseClock) -> None:
    async def parent(runner: aj.Runner) -> int:
        return await runner.run(jobs.async_add, 1, 2)

    async with aj.Runner(coroutines=2) as runner, asyncio.timeout(BOUND):
        began = clock()
        parents = [await runner.submit(parent, runner) for _ in range(2)]
        results = [await _outcome(job) for job in parents]
        assert clock() - began < 3.0
        assert any(isinstance(result, aj.WouldDeadlock) for result in results)
        assert all(isinstance(result, (aj.WouldDeadlock, int)) for result in results)
        assert await runner.run(jobs.async_add, 1, 2) == 3


async def test_F30_threads_that_wait_for_children_in_their_own_full_lane_are_told_so(clock: PauseClock) -> None:
    def parent() -> int:
        runner = aj.current_job().runner
        future = asyncio.run_coroutine_threadsafe(in_lane(runner), runner.loop)
        return future.result(BOUND)

    async def in_lane(runner: aj.Runner) -> int:
        return await runner.options(lane="thread").run(jobs.add, 1, 2)

    async with aj.Runner(threads=2) as runner, asyncio.timeout(BOUND):
        began = clock()
        parents = [await runner.submit(parent) for _ in range(2)]
        results = [await _outcome(job) for job in parents]
        assert clock() - began < 3.0
        assert any(isinstance(result, aj.WouldDeadlock) for result in results), results
        assert await runner.run(jobs.add, 1, 2) == 3


@pytest.mark.slow
async def test_F30_a_process_job_is_told_that_it_cannot_submit(either: aj.Runner) -> None:
    async with common_outcome(either):
        job = await process(either).submit(jobs.submit_from_inside)
        await assert_failed(job, RuntimeError, "no runner")


async def _outcome(job: aj.Job[Any]) -> Any:
    await job.wait()
    return job.exception() or job.result()


# --- F31: everybody kills everybody -----------------------------------------------------


@pytest.mark.slow
async def test_F31_thirteen_workers_that_kill_each_other_end_every_job_and_heal() -> None:
    async with aj.Runner(processes=13) as runner, asyncio.timeout(50):
        submit = process(runner)
        async with new_door() as door:
            crowd = [await submit.submit(jobs.wait_at, door.path) for _ in range(13)]
            pids = [await door.arrival() for _ in crowd]
            door.open(13)
            await aj.gather(crowd)
        victims = [await submit.submit(jobs.kill, pids[(7 * n) % 13]) for n in range(13)]
        bystanders = [await submit.submit(jobs.tick, n) for n in range(100)]
        for job in [*victims, *bystanders]:
            await job.wait()
            assert_one_end(job)
            assert job.state.name in ("SUCCEEDED", "LOST")
        async with new_door() as door:
            crowd = [await submit.submit(jobs.wait_at, door.path) for _ in range(13)]
            healed = {await door.arrival() for _ in crowd}
            door.open(13)
            await aj.gather(crowd)
        assert len(healed) == 13
        assert not any(is_running(pid) for pid in set(pids) - healed)


# --- a whole program --------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_F01_F03_F12_a_plain_script_survives_all_of_it_on_either_loop(tmp_path: Path, loop: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script), loop],
        capture_output=True,
        text=True,
        timeout=50,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([os.path.dirname(jobs.__file__), *sys.path])},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["WorkerLost SIGSEGV", "WorkerLost exit code 0", "Mine told", "3"]
    assert "Traceback" not in done.stderr, done.stderr


SCRIPT = """
import asyncio, sys
import asyncjobs as aj
import jobs

class Mine(Exception):
    pass

def fail():
    raise Mine("told")

async def main():
    async with aj.Runner(processes=2) as runner:
        submit = runner.options(lane="process", output="drop")
        for fn, args in ((jobs.segfault, ()), (jobs.exit_at_once, (0,))):
            try:
                await submit.run(fn, *args)
            except aj.WorkerLost as error:
                print(type(error).__name__, error.cause)
        try:
            await submit.run(fail)
        except Mine as error:
            print("Mine", error)
        print(await submit.run(jobs.add, 1, 2))

if sys.argv[1] == "uvloop":
    aj.run(main())
else:
    asyncio.run(main())
"""
