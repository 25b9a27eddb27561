"""The kits themselves: they pass what is right and catch what is wrong."""

from __future__ import annotations

import asyncio
import itertools
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from pauses import PauseClock

import asyncjobs.testing
from asyncjobs import Job, JobState, Runner
from asyncjobs.testing import Gate, ShuffledLoop, VirtualClockLoop, assert_no_leaks, check_history, faults

# --- virtual time -----------------------------------------------------------------------


def test_an_hour_of_sleep_takes_no_time(clock: PauseClock) -> None:
    async def sleep() -> float:
        loop = asyncio.get_running_loop()
        before = loop.time()
        await asyncio.sleep(3600.0)
        return loop.time() - before

    began = clock()
    with asyncio.Runner(loop_factory=VirtualClockLoop) as loops:
        assert loops.run(sleep()) == pytest.approx(3600.0)
    assert clock() - began < 5.0


def test_virtual_timers_fire_in_their_order_and_limits_strike_at_their_time() -> None:
    async def race() -> tuple[list[int], float]:
        loop, order = asyncio.get_running_loop(), []
        for delay in (30, 10, 20):
            loop.call_later(delay, order.append, delay)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(25):
                await asyncio.sleep(60)
        return order, loop.time()

    with asyncio.Runner(loop_factory=VirtualClockLoop) as loops:
        order, at = loops.run(race())
    assert order == [10, 20]
    assert at == pytest.approx(100_025.0)


def test_virtual_time_waits_for_threads_where_no_timer_is_set() -> None:
    async def offload() -> int:
        return await asyncio.get_running_loop().run_in_executor(None, lambda: 42)

    with asyncio.Runner(loop_factory=VirtualClockLoop) as loops:
        assert loops.run(offload()) == 42


def order_on(loop: asyncio.AbstractEventLoop) -> list[int]:
    async def collect() -> list[int]:
        order: list[int] = []
        for number in range(8):
            asyncio.get_running_loop().call_soon(order.append, number)
        await asyncio.sleep(1.0)
        return order

    with asyncio.Runner(loop_factory=lambda: loop) as loops:
        return loops.run(collect())


def test_a_seed_draws_an_order_and_the_same_seed_the_same_order() -> None:
    orders = [order_on(ShuffledLoop(seed)) for seed in range(20)]
    assert orders == [order_on(ShuffledLoop(seed)) for seed in range(20)]
    assert all(sorted(order) == list(range(8)) for order in orders)
    assert len({tuple(order) for order in orders}) > 15
    assert order_on(VirtualClockLoop()) == list(range(8))


def test_every_order_of_three_callbacks_is_drawn_by_some_seed() -> None:
    def first_three(seed: int) -> tuple[int, ...]:
        return tuple(number for number in order_on(ShuffledLoop(seed)) if number < 3)

    assert {first_three(seed) for seed in range(100)} == set(itertools.permutations(range(3)))


# --- the gate ---------------------------------------------------------------------------


def test_a_gate_orders_two_threads() -> None:
    log: list[str] = []
    with ThreadPoolExecutor(1) as threads, Gate() as gate:

        def work() -> None:
            log.append("arrives")
            gate.pass_through()
            log.append("goes on")

        done = threads.submit(work)
        gate.wait_for_arrival()
        log.append("opens")
        gate.open()
        done.result(10)
    assert log == ["arrives", "opens", "goes on"]
    assert (gate.arrivals, gate.is_open) == (1, True)


@pytest.mark.both_loops
async def test_a_gate_orders_a_coroutine_and_a_thread() -> None:
    log: list[str] = []
    with Gate() as gate:

        def work() -> None:
            log.append("thread")
            gate.pass_through()

        async def wait() -> None:
            log.append("coroutine")
            await gate.passed()

        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.to_thread(work))
            group.create_task(wait())
            await gate.arrival(2)
            log.append("open")
            gate.open()
    assert sorted(log[:2]) == ["coroutine", "thread"]
    assert log[2:] == ["open"]


def test_a_gate_that_nobody_opens_gives_up() -> None:
    with pytest.raises(TimeoutError, match=r"stayed shut for 0\.01 s"):
        Gate().pass_through(0.01)
    with pytest.raises(TimeoutError, match="0 of 2 arrived"):
        Gate().wait_for_arrival(2, 0.01)


def test_leaving_the_block_opens_the_gate_even_after_an_error() -> None:
    gate = Gate()
    with pytest.raises(KeyError), gate:
        raise KeyError
    gate.pass_through(0.0)


# --- leaks ------------------------------------------------------------------------------


def soon() -> AbstractContextManager[None]:
    return assert_no_leaks(within=0.05)


def test_a_clean_block_passes() -> None:
    async def main() -> None:
        async with Runner(processes=1, threads=2) as runner:
            await runner.run(len, "abc")
            await runner.options(lane="process").run(len, "abc")

    with assert_no_leaks():
        asyncio.run(main())


def test_a_thread_that_ends_in_time_is_no_leak() -> None:
    with assert_no_leaks():
        threading.Timer(0.05, int).start()


def test_a_leaked_thread_is_shown_with_its_stack() -> None:
    release = threading.Event()
    stray = threading.Thread(target=release.wait, name="stray")
    with pytest.raises(AssertionError, match=r"(?s)thread 'stray' \(daemon=False\):.* in wait"), soon():
        stray.start()
    release.set()
    stray.join()


def test_a_leaked_process_is_shown_with_its_command() -> None:
    code = "import time; time.sleep(60)"
    with pytest.raises(AssertionError, match=rf"process \d+: .*{re.escape(code)}"), soon():
        child = subprocess.Popen([sys.executable, "-c", code])
    child.kill()
    child.wait()


def test_a_leaked_descriptor_is_shown_with_its_end(tmp_path: Path) -> None:
    path = tmp_path / "left-open"
    with pytest.raises(AssertionError, match=r"descriptor \d+ -> .*left-open"), soon():
        descriptor = os.open(path, os.O_CREAT | os.O_RDONLY)
    os.close(descriptor)


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no /dev/shm on this system")
def test_leaked_shared_memory_is_shown_with_its_name() -> None:
    path = Path(f"/dev/shm/aj-left-behind-{os.getpid()}")
    with pytest.raises(AssertionError, match=f"shared memory {path}"), soon():
        path.touch()
    path.unlink()


def test_an_error_in_the_block_goes_first() -> None:
    release = threading.Event()
    stray = threading.Thread(target=release.wait)

    def leak_and_fail() -> None:
        with soon():
            stray.start()
            raise KeyError

    with pytest.raises(KeyError):
        leak_and_fail()
    release.set()
    stray.join()


# --- histories --------------------------------------------------------------------------


async def test_a_history_that_is_no_path_of_the_table_is_caught() -> None:
    async with Runner() as runner:
        job = await runner.submit(asyncio.sleep, 0)
        await job
    check_history(job)
    good = job._marks
    wrong: list[tuple[tuple[Any, ...], str]] = [
        ((), "has no history"),
        (good[2:], "begins with RUNNING"),
        ((*good[:2], *good[4:]), "no move leads from QUEUED to SUCCEEDED"),
        (good[:4], "its history ends otherwise"),
        ((*good, JobState.SUCCEEDED, good[-1]), "no move leads from SUCCEEDED"),
        ((*good[:3], good[1] - 1.0, *good[4:]), "time runs backwards"),
    ]
    for marks, message in wrong:
        job._marks = marks
        with pytest.raises(AssertionError, match=message):
            check_history(job)


async def test_a_success_with_an_error_is_caught() -> None:
    async with Runner() as runner:
        job: Job[Any] = await runner.submit(asyncio.sleep, 0)
        await job
    job._error = ValueError("leftover")
    with pytest.raises(AssertionError, match="SUCCEEDED with ValueError"):
        check_history(job)


# --- faults -----------------------------------------------------------------------------


def in_a_child(code: str) -> int:
    """The exit code of a fresh interpreter that runs `code`."""
    program = f"from asyncjobs.testing import faults\n{code}"
    ended = subprocess.run([sys.executable, "-c", program], check=False, timeout=50, stderr=subprocess.DEVNULL)
    return ended.returncode


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("faults.die()", -signal.SIGKILL),
        ("import signal; faults.die(signal.SIGTERM)", -signal.SIGTERM),
        ("faults.exit_with(7)", 7),
        ("faults.segfault()", -signal.SIGSEGV),
        ("import pickle; pickle.dumps(faults.DiesOnPickle())", -signal.SIGKILL),
        ("import os, pickle; pickle.dumps(faults.DiesOnPickle(home=os.getpid()))", 0),
        ("import pickle; pickle.loads(pickle.dumps(faults.DiesOnUnpickle()))", 0),
        ("faults.DiesWhenDeleted(home=1)", -signal.SIGKILL),
        ("faults.DiesWhenDeleted()", 0),
    ],
)
def test_a_fault_ends_a_process_as_it_says_and_spares_its_home(code: str, expected: int) -> None:
    assert in_a_child(code) == expected


def test_values_break_where_they_should() -> None:
    with pytest.raises(TypeError, match="not for travelling"):
        pickle.dumps(faults.Unpicklable())
    data = pickle.dumps(faults.RaisesOnUnpickle())
    with pytest.raises(ValueError, match="broken on arrival"):
        pickle.loads(data)
    with pytest.raises(KeyError):
        pickle.loads(pickle.dumps(faults.RaisesOnUnpickle(KeyError("x"))))
    with pytest.raises(TypeError):
        pickle.loads(pickle.dumps(faults.TwoArguments(1, 2)))
    assert faults.take(faults.make(faults.Unpicklable), 2) == "taken"


@pytest.mark.parametrize("name", asyncjobs.testing.__all__)
def test_every_name_of_the_kit_is_there(name: str) -> None:
    assert getattr(asyncjobs.testing, name) is not None


def test_an_unknown_name_of_the_kit_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Gates'"):
        _ = asyncjobs.testing.Gates


def test_a_fault_costs_a_worker_no_runner() -> None:
    assert in_a_child("import sys; sys.exit('asyncio' in sys.modules)") == 0
