"""Every lane, put through the same checks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from multiprocessing import get_context

import pytest

from asyncjobs import ExecutorLane, Job, JobState, LoopLane, ProcessLane, Runner, ThreadLane
from asyncjobs.lanes.base import Lane
from asyncjobs.lanes.daemon import DaemonThreads
from asyncjobs.testing import LANE_CHECKS, Gate, assert_no_leaks, check_lane


@contextmanager
def over(make_executor: Callable[[], Executor]) -> Iterator[Lane]:
    with make_executor() as executor:
        yield ExecutorLane(executor, 2)


def over_threads() -> AbstractContextManager[Lane]:
    return over(lambda: ThreadPoolExecutor(2))


def over_processes() -> AbstractContextManager[Lane]:
    return over(lambda: ProcessPoolExecutor(2, mp_context=get_context("forkserver")))


LANES: dict[str, Callable[[], AbstractContextManager[Lane]]] = {
    "loop": lambda: nullcontext(LoopLane(2)),
    "thread": lambda: nullcontext(ThreadLane(2)),
    "forkserver": lambda: nullcontext(ProcessLane(2, start_method="forkserver")),
    "spawn": lambda: nullcontext(ProcessLane(2, start_method="spawn")),
    "executor-threads": over_threads,
    "executor-processes": over_processes,
}
# Context variables cannot leave a process. A foreign executor is handed the bare function.
OWN_PROCESSES = {"context_variables_come_along"}
FOREIGN = {
    "cancel_of_a_listener_stops_it",
    "context_variables_come_along",
    "job_knows_itself",
    "progress_arrives",
}
WITHOUT: dict[str, set[str]] = {
    "forkserver": OWN_PROCESSES,
    "spawn": OWN_PROCESSES,
    "executor-threads": FOREIGN,
    "executor-processes": FOREIGN | {"token_argument_is_one_token"},
}
SLOW = {"spawn", "executor-processes"}
CASES = [
    pytest.param(LANES[lane], check, id=f"{lane}-{name}", marks=[pytest.mark.slow] if lane in SLOW else [])
    for lane in LANES
    for name, check in LANE_CHECKS.items()
    if name not in WITHOUT.get(lane, ())
]


@pytest.mark.both_loops
@pytest.mark.parametrize(("make_lane", "check"), CASES)
async def test_lane_keeps_its_promise(make_lane: Callable[[], AbstractContextManager[Lane]], check: Callable) -> None:
    await check(make_lane)


async def test_check_lane_runs_every_check() -> None:
    await check_lane(LANES["thread"])


async def test_check_lane_refuses_a_promise_that_it_does_not_know() -> None:
    with pytest.raises(ValueError, match=r"without=\['flies'\] is not allowed; allowed: .*value_comes_back"):
        await check_lane(LANES["thread"], without={"flies"})


async def test_check_lane_names_the_check_that_failed() -> None:
    class Shy(ThreadLane):
        def size(self) -> int:
            return 0

    with pytest.raises(AssertionError) as caught:
        await check_lane(lambda: nullcontext(Shy(2)))
    (note,) = caught.value.__notes__
    assert any(note == f"in the lane check {name!r}: {check.__doc__}" for name, check in LANE_CHECKS.items())


# --- what a closed runner holds ---------------------------------------------------------


@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
def test_a_closed_runner_that_lives_on_holds_nothing(start_method: str) -> None:
    async def main() -> Runner:
        async with Runner(lanes={"process": ProcessLane(2, start_method=start_method)}) as runner:
            await runner.options(lane="process").run(len, "abc")
            await runner.run(len, "abc")
        return runner

    with assert_no_leaks():
        kept = asyncio.run(main())
    assert "closed" in repr(kept)


def test_a_thread_that_is_busy_at_the_close_ends_with_its_work() -> None:
    async def main(gate: Gate) -> Job[None]:
        async with Runner(threads=2) as runner:
            job = await runner.submit(gate.pass_through)
            await gate.arrival()
            await runner.aclose(drain=0, grace=0.01)
        return job

    with assert_no_leaks(), Gate() as gate:
        job = asyncio.run(main(gate))
        assert job.state is JobState.CANCELLED


def test_threads_that_end_their_work_while_the_executor_closes_all_end() -> None:
    async def main() -> None:
        for _ in range(200):
            executor = DaemonThreads("closing", asyncio.get_running_loop())
            futures = [executor.submit(int) for _ in range(3)]
            executor.shutdown()
            async with asyncio.timeout(10):
                assert [await future for future in futures] == [0, 0, 0]

    asyncio.run(main())
