"""Jobs that wait for their limiter: they count as queued, keep their order, and hold nobody up."""

from __future__ import annotations

import asyncio
import time

import anyio
import pytest
import runner_jobs as jobs
from runner_jobs import running

import asyncjobs as aj
from asyncjobs import CancelToken, Job, JobState, QueueFull, Runner
from asyncjobs.engine.line import Line
from asyncjobs.lanes.base import Call, Plan
from asyncjobs.options import settle


def queued(runner: Runner, lane: str = "thread") -> int:
    return runner.stats().lanes[lane].queued


async def turns(count: int = 10) -> None:
    """Give whatever is ready so many turns of the loop."""
    for _ in range(count):
        await asyncio.sleep(0)


async def taken(runner: Runner, limiter: anyio.CapacityLimiter) -> tuple[Job[int], CancelToken]:
    """A job that runs and holds the limiter until its token is raised."""
    go = CancelToken()
    holder = await runner.options(limiter=limiter, lane="thread").submit(jobs.hold, go)
    await running(runner, holder)
    return holder, go


# --- the bound --------------------------------------------------------------------------


async def test_jobs_that_wait_for_their_limiter_are_bounded_by_the_queue() -> None:
    async with Runner(queue_size=5) as runner:
        limiter = anyio.CapacityLimiter(1)
        _, go = await taken(runner, limiter)
        tasks = len(asyncio.all_tasks())
        limited = runner.options(limiter=limiter)
        behind = [limited.submit_nowait(jobs.echo, n) for n in range(5)]
        await turns()
        with pytest.raises(QueueFull, match="5 jobs wait, and queue_size is 5"):
            limited.submit_nowait(jobs.echo, 5)
        with pytest.raises(QueueFull):
            runner.submit_nowait(jobs.echo, "unlimited")
        assert queued(runner) == 5
        assert len(asyncio.all_tasks()) <= tasks + 1, "one task asks for all of them"
        go.cancel()
        assert await aj.gather(behind) == [0, 1, 2, 3, 4]
        assert (queued(runner), limiter.borrowed_tokens) == (0, 0)


async def test_a_submitter_waits_for_room_that_comes_when_a_limited_job_goes() -> None:
    async with Runner(queue_size=2) as runner:
        limiter = anyio.CapacityLimiter(1)
        _, go = await taken(runner, limiter)
        limited = runner.options(limiter=limiter)
        waiting = [asyncio.create_task(limited.submit(jobs.echo, n)) for n in range(6)]
        await turns()
        assert [task.done() for task in waiting] == [True, True, False, False, False, False]
        go.cancel()
        assert [await (await task) for task in waiting] == [0, 1, 2, 3, 4, 5]


async def test_their_bytes_count_too() -> None:
    async with Runner(processes=1, queue_bytes=300_000) as runner:
        limiter = anyio.CapacityLimiter(1)
        _, go = await taken(runner, limiter)
        limited = runner.options(lane="process", limiter=limiter)
        first = limited.submit_nowait(len, bytes(200_000))
        await turns()
        with pytest.raises(QueueFull, match="queue_bytes is 300000"):
            limited.submit_nowait(len, bytes(200_000))
        go.cancel()
        assert await first == 200_000
        assert await limited.run(len, bytes(250_000)) == 250_000


@pytest.mark.parametrize("how", ["cancel", "queue_timeout", "deadline"])
async def test_a_job_that_ends_while_it_waits_for_its_limiter_leaves_its_room(how: str) -> None:
    async with Runner(queue_size=1) as runner:
        limiter = anyio.CapacityLimiter(1)
        _, go = await taken(runner, limiter)
        limits = {} if how == "cancel" else {how: 0.02}
        behind = await runner.options(limiter=limiter, **limits).submit(jobs.echo, 1)  # type: ignore[arg-type]
        await turns()
        next_one = asyncio.create_task(runner.submit(jobs.echo, 2))
        await turns()
        assert not next_one.done()
        if how == "cancel":
            assert behind.cancel() == "cancelled"
        assert await (await next_one) == 2
        assert behind.state is (JobState.CANCELLED if how == "cancel" else JobState.TIMED_OUT)
        assert queued(runner) == 0
        go.cancel()
    assert limiter.borrowed_tokens == 0


# --- order ------------------------------------------------------------------------------


@pytest.mark.parametrize("places", [1, 8])
async def test_the_first_by_priority_and_number_gets_the_next_token(places: int) -> None:
    async with Runner(coroutines=places) as runner:
        limiter = anyio.CapacityLimiter(1)
        _, go = await taken(runner, limiter)
        order: list[int] = []

        async def note(number: int) -> None:
            order.append(number)

        for number, priority in enumerate((0, 0, -1, 10, 0, 10)):
            await runner.options(limiter=limiter, priority=priority).submit(note, number)
        await turns()
        go.cancel()
        await runner.join()
    assert order == [3, 5, 0, 1, 4, 2]


async def test_a_job_that_is_tried_again_stands_where_it_stood() -> None:
    async with Runner() as runner:
        limiter = anyio.CapacityLimiter(1)
        order: list[int] = []

        async def fails_once(number: int) -> None:
            order.append(number)
            if number == 0 and order.count(0) == 1:
                raise OSError
            await asyncio.sleep(0)

        limited = runner.options(limiter=limiter, retries=aj.Retry(1, backoff=0))
        for number in range(4):
            limited.submit_nowait(fails_once, number)
        await runner.join()
    assert sorted(order) == [0, 0, 1, 2, 3]
    assert order.index(0, 1) < 3, "not behind all the others"


async def test_others_pass_by_whatever_waits_for_a_limiter() -> None:
    async with Runner(threads=1) as runner:
        limiter = anyio.CapacityLimiter(1)
        await limiter.acquire()
        behind = [await runner.options(limiter=limiter, priority=9).submit(jobs.echo, n) for n in range(3)]
        assert await runner.run(jobs.echo, "free") == "free"
        assert {job.state for job in behind} == {JobState.QUEUED}
        limiter.release()
        assert await aj.gather(behind) == [0, 1, 2]


# --- a limiter has other users ----------------------------------------------------------


async def test_a_token_that_other_code_gives_back_gets_the_next_job_going() -> None:
    async with Runner() as runner:
        limiter = anyio.CapacityLimiter(1)
        for number in range(3):
            async with limiter:
                job = await runner.options(limiter=limiter).submit(jobs.echo, number)
                await turns()
                assert job.state is JobState.QUEUED
            assert await job == number


async def test_other_code_gets_its_turn_among_the_jobs() -> None:
    async with Runner() as runner:
        limiter = anyio.CapacityLimiter(1)
        _, go = await taken(runner, limiter)
        limited = runner.options(limiter=limiter)
        behind = [await limited.submit(jobs.echo, n) for n in range(50)]
        await turns()
        outside = asyncio.create_task(limiter.acquire_on_behalf_of("outside"))
        await turns()
        go.cancel()
        await outside
        assert not all(job.done() for job in behind)
        limiter.release_on_behalf_of("outside")
        assert await aj.gather(behind) == list(range(50))


async def test_when_the_last_that_waited_has_left_the_token_is_for_others() -> None:
    async with Runner() as runner:
        limiter = anyio.CapacityLimiter(1)
        await limiter.acquire()
        behind = [await runner.options(limiter=limiter).submit(jobs.echo, n) for n in range(3)]
        await turns()
        assert limiter.statistics().tasks_waiting == 1
        for job in behind:
            assert job.cancel() == "cancelled"
        late = await runner.options(limiter=limiter).submit(jobs.echo, "late")
        await turns()
        assert limiter.statistics().tasks_waiting == 1
        limiter.release()
        assert await late == "late"
        assert limiter.borrowed_tokens == 0


async def test_one_limiter_bounds_the_jobs_of_two_runners_and_all_their_lanes() -> None:
    limiter = anyio.CapacityLimiter(2)
    now, most = 0, 0

    async def count() -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await turns()
        now -= 1

    lanes = {"other": aj.LoopLane(3)}
    async with Runner(lanes=lanes) as one, Runner(coroutines=2) as two:
        made = [
            await runner.options(limiter=limiter, lane=lane).submit(count)
            for _ in range(30)
            for runner, lane in ((one, "loop"), (one, "other"), (two, "loop"))
        ]
        await aj.gather(made)
    assert (most, limiter.borrowed_tokens) == (2, 0)


# --- ends -------------------------------------------------------------------------------


async def test_closing_the_runner_ends_what_waits_for_its_limiter() -> None:
    limiter = anyio.CapacityLimiter(1)
    await limiter.acquire()
    async with Runner() as runner:
        behind = [await runner.options(limiter=limiter).submit(jobs.echo, n) for n in range(3)]
        await turns()
        await runner.aclose(drain=0, grace=0)
    assert {job.state for job in behind} == {JobState.CANCELLED}
    assert limiter.statistics().tasks_waiting == 0
    limiter.release()


@pytest.mark.slow
async def test_jobs_that_wait_for_their_limiter_fail_with_the_others_if_no_worker_comes_up() -> None:
    lanes = {"bad": aj.ProcessLane(1, initializer=time.sleep, initargs=("wrong",))}
    async with Runner(lanes=lanes) as runner:
        limiter = anyio.CapacityLimiter(1)
        await limiter.acquire()
        parked = await runner.options(lane="bad", limiter=limiter).submit(jobs.echo, 1)
        gate = runner._engine.dispatchers["bad"]._gate
        plain = await runner.options(lane="bad").submit(jobs.echo, 2)
        # As if its place had been up when it came.
        call = runner._engine.dispatchers["bad"].queue.take()
        assert call is parked._call
        assert not gate.admits(call, runner._engine.tasks)
        for job in (parked, plain):
            with pytest.raises(aj.WorkerStartError):
                await job
        assert queued(runner, "bad") == 0


def test_a_line_keeps_little_of_those_who_left() -> None:
    line = Line()
    calls = [Call(Plan("len", "thread", settle(aj.JobOptions()), is_coroutine=False)) for _ in range(2000)]
    for number, call in enumerate(calls):
        call.number = number
        line.join(call)
    for call in calls[:-1]:
        line.leave(call)
    assert len(line._order) <= 110
    assert (len(line), line.calls()) == (1, calls[-1:])
    assert line.pop() is calls[-1]
    assert not line
