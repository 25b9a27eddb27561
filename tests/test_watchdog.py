"""The watchdog: a loop that does not answer is noticed, named and shown; an idle runner costs nothing."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import psutil
import pytest
import runner_jobs as jobs
from pauses import attempts
from runner_jobs import held, still_works

import asyncjobs as aj
from asyncjobs import Runner
from asyncjobs.bench import probes
from asyncjobs.watchdog import Watchdog


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the watchdog said."""
    return [record.getMessage() for record in caplog.records if "has not answered" in record.getMessage()]


async def blames_the_lock(hold: Callable[[], Awaitable[object]], caplog: pytest.LogCaptureFixture) -> bool:
    """Whether it says that something kept the interpreter lock, if a job does; a busy machine may keep it from looking
    until the job is over, and then it is nobody's."""
    for _ in range(10):
        await hold()
        for _ in range(50):
            if any("something kept the interpreter lock" in text for text in complaints(caplog)):
                return True
            await asyncio.sleep(0.01)  # its thread has to come round
    return False


async def thread_ends() -> None:
    """Wait until the watchdog's thread is gone."""
    async with asyncio.timeout(10):
        while "asyncjobs-watchdog" in [thread.name for thread in threading.enumerate()]:
            await asyncio.sleep(0.005)


async def lagged(runner: Runner, seconds: float) -> None:
    """Wait until the statistics have a lag of that length: the warning comes first."""
    async with asyncio.timeout(10):
        while runner.stats().loop_lag.max < seconds:
            await asyncio.sleep(0.01)


def block_the_loop(seconds: float) -> None:
    time.sleep(seconds)


def block_the_loop_until_it_is_noticed(caplog: pytest.LogCaptureFixture) -> None:
    """However late a busy machine lets the watchdog have its turn."""
    until = time.monotonic() + 30
    while not complaints(caplog) and time.monotonic() < until:
        time.sleep(0.01)


def hold_the_interpreter_lock(seconds: float) -> None:
    """Sleep in C without letting go of the lock."""
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))


async def test_a_coroutine_that_blocks_the_loop_is_named_and_its_stack_is_shown(
    runner: Runner, caplog: pytest.LogCaptureFixture
) -> None:
    async def rude() -> None:
        block_the_loop_until_it_is_noticed(caplog)

    for attempt in attempts():
        caplog.clear()
        with attempt:
            await runner.options(name="rude one").run(rude)
            assert len(complaints(caplog)) == 1
            text = complaints(caplog)[0]
            assert "job 'rude one' is running on it" in text
            assert "block_the_loop_until_it_is_noticed" in text
            assert "test_watchdog.py" in text
            assert "interpreter lock" not in text
    await lagged(runner, 0.25)
    await still_works(runner)


async def test_code_of_the_users_own_that_blocks_the_loop_is_noticed_while_jobs_run(
    runner: Runner, caplog: pytest.LogCaptureFixture
) -> None:
    job, go = await held(runner, "thread")
    for attempt in attempts():
        caplog.clear()
        with attempt:
            block_the_loop_until_it_is_noticed(caplog)
            assert len(complaints(caplog)) == 1
            assert "threads run hold" in complaints(caplog)[0]
            assert "block_the_loop_until_it_is_noticed" in complaints(caplog)[0]
    go.cancel()
    await job


async def test_each_block_is_reported_once_however_long_it_lasts(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Runner(watchdog=0.1) as runner:

        async def rude() -> None:
            block_the_loop_until_it_is_noticed(caplog)
            block_the_loop(1.2)  # it looks again every second

        for attempt in attempts(pause=0.05):
            caplog.clear()
            with attempt:
                await runner.options(name="rude one").run(rude)
                await runner.run(jobs.aecho)
                assert len([text for text in complaints(caplog) if "'rude one'" in text]) == 1


async def test_a_block_that_is_nobodys_fault_at_first_is_reported_when_it_becomes_somebodys(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As when a runner starts workers, which holds the loop up, and a job goes on with that."""
    for attempt in attempts(pause=0.05):
        caplog.clear()
        found = iter([None, None])
        watchdog = Watchdog(asyncio.get_running_loop(), 0.1, partial(next, found, "a job holds it"), lambda: False)
        watchdog.wake()
        with attempt:
            block_the_loop_until_it_is_noticed(caplog)
            assert len(complaints(caplog)) == 1
            assert "a job holds it" in complaints(caplog)[0]
            assert "interpreter lock" not in complaints(caplog)[0]
            assert next(found, "asked") == "asked"
        watchdog.close()


async def test_a_loop_that_answers_is_not_complained_about(runner: Runner, caplog: pytest.LogCaptureFixture) -> None:
    job, go = await held(runner, "thread")
    for attempt in attempts():
        caplog.clear()
        with attempt:
            for _ in range(60):
                await asyncio.sleep(0.01)  # some looks of the watchdog long
            assert complaints(caplog) == []
    go.cancel()
    await job
    assert runner.stats().loop_lag.count >= 1


@pytest.mark.slow
async def test_a_thread_that_holds_the_interpreter_lock_is_reported_afterwards(
    runner: Runner, caplog: pytest.LogCaptureFixture
) -> None:
    holding = runner.options(name="lock holder")
    assert await blames_the_lock(lambda: holding.run(hold_the_interpreter_lock, 1.2), caplog)
    await lagged(runner, 0.5)
    await still_works(runner)


@pytest.mark.slow
async def test_f7_a_coroutine_that_holds_the_interpreter_lock_is_reported_afterwards(
    runner: Runner, caplog: pytest.LogCaptureFixture
) -> None:
    async def holder() -> None:
        hold_the_interpreter_lock(1.2)

    assert await blames_the_lock(lambda: runner.run(holder), caplog)


async def test_without_a_watchdog_nothing_is_said_and_no_thread_runs(caplog: pytest.LogCaptureFixture) -> None:
    async with Runner(watchdog=None) as runner:

        async def rude() -> None:
            block_the_loop(0.4)

        await runner.run(rude)
        assert "asyncjobs-watchdog" not in [thread.name for thread in threading.enumerate()]
        assert runner.stats().loop_lag.count == 0
    assert complaints(caplog) == []


async def test_it_parks_while_nothing_runs_and_wakes_with_the_next_job(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Runner(watchdog=0.02) as runner:
        watchdog: Any = runner._engine.watchdog
        assert watchdog.is_parked
        for _ in range(3):
            job, go = await held(runner, "thread")
            assert not watchdog.is_parked
            go.cancel()
            await job
            async with asyncio.timeout(5):
                while not watchdog.is_parked:
                    await asyncio.sleep(0.005)  # its thread has to come round


@pytest.mark.slow
async def test_an_idle_runner_with_warm_workers_uses_no_processor_time() -> None:
    async with Runner(processes=2) as runner:
        await aj.gather([await runner.options(lane="process").submit(jobs.burn, 0.05) for _ in range(4)])
        await still_works(runner)
        watchdog: Any = runner._engine.watchdog
        async with asyncio.timeout(10):
            while not watchdog.is_parked:
                await asyncio.sleep(0.05)
        family = [psutil.Process(), *psutil.Process().children(recursive=True)]
        before = [process.cpu_times() for process in family]
        await asyncio.sleep(3)  # the measurement
        after = [process.cpu_times() for process in family]
    used = sum(b.user + b.system - a.user - a.system for a, b in zip(before, after, strict=True))
    # One tick of the clock that the system counts with is 0.01 s.
    assert used < 0.015, f"{used:.3f} s of processor time in 3 s"


async def test_closing_the_runner_ends_its_thread_even_while_the_loop_is_blamed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        async with Runner(watchdog=0.05) as runner:
            await runner.run(jobs.aecho)
            block_the_loop(0.2)
    await thread_ends()


@pytest.mark.slow
@pytest.mark.may_complain("the tasks of a loop that was closed too early are destroyed")
def test_a_loop_that_is_closed_under_the_watchdog_ends_its_thread() -> None:
    async def main() -> Runner:
        runner = await Runner(watchdog=0.05, lanes={}).__aenter__()
        runner.lane("thread").pause()
        await runner.submit(jobs.echo)
        return runner

    loop = asyncio.new_event_loop()
    runner = loop.run_until_complete(main())
    time.sleep(0.2)  # it asks a loop that no longer runs
    loop.close()
    thread: Any = runner._engine.watchdog._thread  # type: ignore[union-attr]
    thread.join(5)
    assert not thread.is_alive()
    with pytest.warns(ResourceWarning, match="was never closed"):
        runner._forgotten()
    del runner, thread
    gc.collect()


STARVED = """
import asyncio, logging, os, subprocess, sys, time
import asyncjobs as aj

logging.basicConfig(format="%(message)s")

async def compute():
    for _ in range(6):
        until = time.thread_time() + 0.1
        while time.thread_time() < until:
            pass
        await asyncio.sleep(0)

async def main():
    async with aj.Runner() as runner:
        job = await runner.submit(compute)
        os.sched_setaffinity(0, {core})
        await job
        print(runner.stats().loop_lag.max)

core = min(os.sched_getaffinity(0))
hog = f"import os; os.sched_setaffinity(0, {{{core}}})\\nwhile True: pass"
hogs = [subprocess.Popen([sys.executable, "-c", hog]) for _ in range(5)]
try:
    aj.run(main())
finally:
    for process in hogs:
        process.kill()
        process.wait()
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how long a thread waited for a core")
def test_a_machine_that_has_no_core_for_the_loop_is_counted_and_not_warned_of() -> None:
    command = [sys.executable, "-c", STARVED]
    for attempt in attempts(3, pause=0):
        with attempt:
            done = subprocess.run(command, capture_output=True, text=True, env=probes.source_environment(), check=True)
            assert float(done.stdout) > 0.3
            assert done.stderr == ""
