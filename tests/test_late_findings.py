"""Faults that were found late, each with the test that fails without its mend."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import jobs
import pytest
from doors import new_door
from runner_jobs import FAIL, LANES, aecho, ahold, awrite_line, ended_once, fail, held, lines, reaches, still_works

import asyncjobs as aj
from asyncjobs.token import StopReason


@pytest.mark.slow
async def test_f02_a_call_whose_workers_die_before_they_claim_it_is_lost_after_three() -> None:
    lane = aj.ProcessLane(1, initializer=jobs.die_before_the_claim)
    async with aj.Runner(lanes={"process": lane}) as runner:
        job = await runner.options(lane="process").submit(abs, -1)
        await job.wait()
        assert isinstance(job.exception(), aj.WorkerLost)
        assert job.attempt == 1
        assert runner.stats().lanes["process"].crashes == 3


@pytest.mark.parametrize(("lane", "fn"), [("loop", jobs.swallow_every_cancel), ("thread", abs)])
@pytest.mark.parametrize("option", [{"output": "capture"}, {"max_result": 10}], ids=lambda option: next(iter(option)))
async def test_an_option_that_a_lane_cannot_honour_is_refused(lane: str, fn: Any, option: Any) -> None:
    async with aj.Runner() as runner:
        with pytest.raises(ValueError, match=f"lane '{lane}' cannot honour the options {next(iter(option))}"):
            await runner.options(lane=lane, **option).submit(fn)


@pytest.mark.slow
async def test_a_worker_that_the_stop_ladder_kills_is_no_crash() -> None:
    async with aj.Runner(processes=1) as runner:
        hang = runner.options(lane="process", timeout=0.2, grace=0.0)
        job = await hang.submit(jobs.sleep_with_the_lock, 60.0)
        await job.wait()
        assert isinstance(job.exception(), aj.JobTimeout)
        assert runner.stats().lanes["process"].crashes == 0


@pytest.mark.slow
def test_f19_a_program_ends_though_a_coroutine_swallows_every_cancel() -> None:
    script = (
        "import asyncjobs as aj, jobs\n"
        "async def main():\n"
        "    async with aj.Runner() as runner:\n"
        "        job = await runner.options(grace=0.1).submit(jobs.swallow_every_cancel)\n"
        "        job.cancel()\n"
        "        await job.wait()\n"
        "        print(job.state.name)\n"
        "aj.run(main())\n"
    )
    folder = jobs.__file__.rpartition("/")[0]
    code = f"import sys; sys.path.insert(0, {folder!r})\n{script}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=False)
    assert done.stdout == "CANCELLED\n", done.stderr
    assert done.returncode == 0


async def test_f34_a_worker_whose_job_was_interrupted_in_an_import_is_replaced(tmp_path: Path) -> None:
    async with aj.Runner(processes=1) as runner, new_door() as door:
        text = f"import time, jobs\njobs.arrive_at({door.path!r})\ntime.sleep(60)\n"
        (tmp_path / "slow_to_import.py").write_text(text)
        lane = runner.options(lane="process", grace=0.0)
        job = await lane.submit(jobs.import_from, str(tmp_path), "slow_to_import")
        importer = await door.arrival()
        job.cancel()
        with pytest.raises(aj.JobCancelled):
            await job
        assert await lane.run(jobs.pid) != importer, "what it half imported stays broken there"


# --- a cancel in the turn of the feed ---------------------------------------------------


async def test_a_coroutine_cancelled_before_its_first_step_is_over_at_once_and_frees_its_place(tmp_path: Path) -> None:
    async with aj.Runner(coroutines=1) as runner:
        job = runner.submit_nowait(awrite_line, str(tmp_path / "ran"))
        assert job.cancel("changed my mind") == "cancelled"
        assert [mark.state for mark in job.history] == [aj.JobState.QUEUED, aj.JobState.CANCELLED]
        assert runner.stats().lanes["loop"].busy == 0
        async with asyncio.timeout(10):
            assert await runner.run(aecho, "the next") == "the next"
        assert runner.stats().lanes["loop"].abandoned == 0
    assert lines(tmp_path / "ran") == []


async def test_a_coroutine_cancelled_in_the_turn_in_which_it_was_fed_from_the_queue_loses_no_place() -> None:
    async with aj.Runner(coroutines=1) as runner:
        first, second, third = [runner.submit_nowait(aecho, text) for text in ("first", "second", "third")]
        # The callback and the feed come in one turn of the loop; this cancel is in the next, before the first step.
        first.add_done_callback(lambda _: runner.loop.call_soon(second.cancel, "the first is over"))
        async with asyncio.timeout(10):
            assert await third == "third"
        assert second.state is aj.JobState.CANCELLED
        assert runner.stats().lanes["loop"].busy == 0


async def test_a_coroutine_out_of_time_before_its_first_step_is_timed_out() -> None:
    async with aj.Runner(coroutines=1) as runner:
        job = runner.submit_nowait(aecho, 1)
        job._call.end(StopReason("deadline", "too late"))
        assert job.state is aj.JobState.TIMED_OUT
        async with asyncio.timeout(10):
            assert await runner.run(aecho, 2) == 2


async def test_a_task_that_somebody_else_cancels_before_its_first_step_is_no_lost_job(tmp_path: Path) -> None:
    async with aj.Runner(coroutines=1) as runner:
        before = asyncio.all_tasks()
        job = runner.submit_nowait(awrite_line, str(tmp_path / "ran"))
        (task,) = asyncio.all_tasks() - before
        task.cancel()
        async with asyncio.timeout(10):
            await job.wait()
            assert await runner.run(aecho, "the next") == "the next"
        assert job.state is aj.JobState.CANCELLED
        assert "cancelled by somebody else before it began" in str(job.exception())
    assert lines(tmp_path / "ran") == []


# --- a backoff function that fails ------------------------------------------------------


def no_such_delay(attempt: int) -> float:
    raise KeyError(f"no delay for attempt {attempt}")


def a_word(attempt: int) -> Any:
    return "soon"


def exits(attempt: int) -> float:
    raise SystemExit(3)


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize(
    ("backoff", "what"),
    [
        (no_such_delay, "KeyError: 'no delay for attempt 1'"),
        (a_word, "it returned 'soon'; allowed: seconds from 0"),
        (exits, "SystemExit: 3"),
    ],
    ids=["raises", "returns a word", "exits"],
)
async def test_a_backoff_function_that_gives_no_delay_fails_its_job_and_harms_nobody(
    lane: str, backoff: Any, what: str
) -> None:
    async with aj.Runner(processes=1, threads=1, coroutines=1) as runner:
        job = await runner.options(lane=lane, retries=aj.Retry(2, backoff=backoff)).submit(FAIL[lane], "the job's own")
        async with asyncio.timeout(10):
            await job.wait()
        error = job.exception()
        assert job.state is aj.JobState.FAILED
        assert isinstance(error, aj.JobError)
        assert f"its backoff function {backoff.__name__!r}" in str(error)
        assert what in str(error)
        assert isinstance(error.__cause__, ValueError), "what the job itself raised"
        assert error.__cause__.args == ("the job's own",)
        await still_works(runner, lane)


# --- a breakdown of the machinery -------------------------------------------------------


class FaultyLane(aj.ThreadLane):
    """Has a fault, from the moment on that a test says so."""

    is_faulty = False

    @property
    def hungry(self) -> bool:
        if self.is_faulty:
            raise LookupError("a fault of the lane")
        return super().hungry


async def test_a_runner_that_broke_down_fails_every_living_job_and_takes_no_more() -> None:
    faulty = FaultyLane(1)
    async with asyncio.timeout(30), aj.Runner(processes=1, threads=2, queue_size=1, lanes={"faulty": faulty}) as runner:
        held_jobs = [await held(runner, lane) for lane in LANES]
        process = runner.options(lane="process")
        queued = await process.submit(abs, -1)
        waiting = asyncio.create_task(process.submit(abs, -2))
        retried = await runner.options(retries=aj.Retry(1, backoff=600)).submit(fail)
        await reaches(runner, retried, aj.JobState.WAITING)
        faulty.is_faulty = True
        last = await runner.options(lane="faulty").submit(abs, -3)
        living = [*(job for job, _ in held_jobs), queued, retried, last]
        for job in living:
            await job.wait()
            assert job.state is aj.JobState.FAILED, job
            error = job.exception()
            assert isinstance(error, aj.RunnerClosed)
            assert "the runner broke down: LookupError('a fault of the lane')" in str(error)
            assert isinstance(error.__cause__, LookupError)
        with pytest.raises(aj.RunnerClosed, match="the runner broke down"):
            await waiting
        for submit in (runner.submit, runner.submit_nowait, process.run):
            with pytest.raises(aj.RunnerClosed, match="the runner broke down") as refused:
                await submit(abs, -4)
            assert isinstance(refused.value.__cause__, LookupError)
        assert "broken" in repr(runner)
        for _, go in held_jobs:
            go.cancel()
    ended_once(*living)


async def test_a_map_over_an_async_source_that_a_broken_runner_is_given_is_refused() -> None:
    async def numbers() -> AsyncIterator[int]:
        yield 1

    faulty = FaultyLane(1)
    async with asyncio.timeout(30), aj.Runner(processes=1, lanes={"faulty": faulty}) as runner:
        faulty.is_faulty = True
        await (await runner.options(lane="faulty").submit(abs, -3)).wait()
        with pytest.raises(aj.RunnerClosed, match="the runner broke down"):
            await runner.map(abs, numbers()).collect()


async def test_a_call_whose_worker_is_closed_though_nobody_asked_it_to_stop_is_lost() -> None:
    async with aj.Runner(processes=1) as runner:
        job, _ = await held(runner, "process")
        (consumer,) = [task for task in asyncio.all_tasks() if task.get_name() == "asyncjobs-process-0"]
        consumer.cancel()  # it closes its place
        async with asyncio.timeout(10):
            await job.wait()
        assert job.state is aj.JobState.LOST
        assert isinstance(job.exception(), aj.WorkerLost)
        assert "was closed while it ran 'hold'" in str(job.exception())


async def test_a_job_that_ran_when_its_runner_was_closed_at_once_says_so() -> None:
    async with aj.Runner(threads=1) as runner:
        job, go = await held(runner, "thread")
        queued = await runner.submit(abs, -1)
        runner._engine.abort()
        assert str(job.exception()) == "the runner was closed while job 'hold' was running"
        assert str(queued.exception()) == "the runner was closed before job 'abs' could run"
        go.cancel()


# --- waits that can never end -----------------------------------------------------------


async def test_a_parent_that_holds_the_only_place_of_its_childs_limiter_is_refused_the_wait() -> None:
    async with asyncio.timeout(10), aj.Runner() as runner:
        limited = runner.options(limiter=anyio.CapacityLimiter(1))

        async def parent() -> int:
            with pytest.raises(aj.WouldDeadlock, match="waits for job 'aecho', which needs a limiter"):
                await limited.run(aecho, 1)
            return 2

        assert await limited.run(parent) == 2


async def test_a_child_whose_limiter_somebody_else_holds_is_waited_for() -> None:
    limiter = anyio.CapacityLimiter(1)
    async with asyncio.timeout(20), aj.Runner() as runner:

        async def parent() -> int:
            return await runner.options(limiter=limiter).run(aecho, 1)

        limiter.acquire_on_behalf_of_nowait("somebody")
        job = await runner.submit(parent)
        while not limiter.statistics().tasks_waiting:
            await asyncio.sleep(0)
        runner._engine.waitlist.look()
        limiter.release_on_behalf_of("somebody")
        assert await job == 1


async def test_a_job_that_waits_for_itself_is_told_so() -> None:
    async with asyncio.timeout(10), aj.Runner() as runner:
        mine: list[aj.Job[Any]] = []

        async def waits_for_itself() -> None:
            await mine[0]

        mine.append(await runner.submit(waits_for_itself))
        with pytest.raises(aj.WouldDeadlock, match="waits for job 'waits_for_itself', which is itself"):
            await mine[0]


async def test_the_look_for_deadlocks_survives_a_waiter_that_was_abandoned() -> None:
    async with asyncio.timeout(20), aj.Runner(coroutines=3) as runner:
        go = aj.CancelToken()
        child = await runner.submit(ahold, go)

        async def deaf() -> None:
            while not child.done():
                try:
                    await child.wait()
                except asyncio.CancelledError:
                    continue

        abandoned = await runner.options(grace=0.0).submit(deaf)
        await reaches(runner, abandoned, aj.JobState.RUNNING)
        abandoned.cancel()
        await abandoned.wait()
        mine: list[aj.Job[Any]] = []

        async def waits_for_itself() -> None:
            await mine[0]

        mine.append(await runner.submit(waits_for_itself))
        with pytest.raises(aj.WouldDeadlock):
            await mine[0]
        go.cancel()


@pytest.mark.parametrize("drain", [None, 0])
async def test_a_job_that_closes_its_own_runner_is_refused(drain: float | None) -> None:
    async with asyncio.timeout(10), aj.Runner() as runner:

        async def closes() -> None:
            await runner.aclose(drain=drain)

        with pytest.raises(aj.WouldDeadlock, match=r"aclose\(\) was called inside job 'closes'"):
            await runner.run(closes)
        await still_works(runner, "loop")


async def test_a_job_may_close_another_runner() -> None:
    async with aj.Runner() as outer:

        async def with_a_runner_of_its_own() -> int:
            async with aj.Runner() as inner:
                return await inner.run(aecho, 1)

        assert await outer.run(with_a_runner_of_its_own) == 1


async def test_a_drain_that_waits_for_a_paused_lane_says_so(caplog: pytest.LogCaptureFixture) -> None:
    async with asyncio.timeout(10), aj.Runner() as runner:
        lane = runner.lane("thread")
        lane.pause()
        queued = [await runner.submit(abs, -number) for number in range(2)]
        closing = asyncio.create_task(runner.aclose())
        while not caplog.messages:
            await asyncio.sleep(0)
        lane.resume()
        await closing
    assert [job.result() for job in queued] == [0, 1]
    (text,) = caplog.messages
    assert "lane 'thread' is paused with 2 queued jobs" in text
