"""Cancels, time limits and races, F32 to F43: in each lane, with the common outcome after each."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

import pytest
import runner_jobs as jobs
from pauses import PauseClock
from runner_jobs import (
    ECHO,
    FAIL,
    HOLD,
    LANES,
    LISTEN,
    OBLIGING,
    STUBBORN,
    WRITE,
    ended_once,
    held,
    lines,
    reaches,
    running,
    still_works,
    unharmed,
)

import asyncjobs as aj
from asyncjobs import CancelToken, JobState, Retry, Runner, context

each_lane = pytest.mark.parametrize("lane", LANES)


# --- F32, F33: before it runs -----------------------------------------------------------


@each_lane
async def test_f32_a_job_that_is_cancelled_while_queued_is_never_called(lane: str, tmp_path: Any) -> None:
    async with Runner(processes=1, threads=1, coroutines=1) as runner:
        holder, go = await held(runner, lane, "untouched")
        path = str(tmp_path / "ran")
        job = await runner.options(lane=lane).submit(WRITE[lane], path)
        behind = await runner.options(lane=lane).submit(ECHO[lane], "behind")
        assert job.cancel("changed my mind") == "cancelled"
        assert job.state is JobState.CANCELLED
        with pytest.raises(aj.JobCancelled, match="changed my mind") as caught:
            await job
        assert caught.value.reason == "changed my mind"
        assert runner.stats().lanes[lane].queued == 1
        go.cancel()
        assert (await holder, await behind) == ("untouched", "behind")
        assert lines(path) == []
        assert [mark.state for mark in job.history] == [JobState.QUEUED, JobState.CANCELLED]
        ended_once(job, holder, behind)
        await still_works(runner)


async def test_f32_thousands_of_cancelled_jobs_make_room_in_the_queue_at_once() -> None:
    async with Runner(queue_size=3000) as runner:
        runner.lane("loop").pause()
        made = [runner.submit_nowait(jobs.aecho, n) for n in range(3000)]
        with pytest.raises(aj.QueueFull):
            runner.submit_nowait(jobs.aecho)
        assert {job.cancel() for job in made[:2999]} == {"cancelled"}
        more = [runner.submit_nowait(jobs.aecho, n) for n in range(2999)]
        runner.lane("loop").resume()
        assert await aj.gather(more) == list(range(2999))
        assert await made[2999] == 2999
        ended_once(*made)


@pytest.mark.slow
@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
async def test_f33_a_job_that_is_cancelled_while_its_worker_starts_leaves_the_worker_to_others(
    start_method: str, tmp_path: Any
) -> None:
    lanes = {"process": aj.ProcessLane(1, start_method=start_method)}
    async with Runner(lanes=lanes) as runner:
        path = str(tmp_path / "ran")
        job = await runner.options(lane="process").submit(jobs.write_line, path)
        (slot,) = runner._lanes["process"].places()
        while slot._body is None:
            await asyncio.sleep(0)
        assert job.state is JobState.QUEUED
        assert job.cancel() == "cancelled"
        pid = await runner.options(lane="process").run(__import__("os").getpid)
        assert pid == slot.pid
        assert lines(path) == []
        assert [mark.state for mark in job.history] == [JobState.QUEUED, JobState.CANCELLED]
        assert runner.stats().crashes == 0
        await still_works(runner)


@pytest.mark.slow
async def test_f33_a_job_that_is_cancelled_in_a_workers_window_never_starts(tmp_path: Any) -> None:
    path = str(tmp_path / "ran")

    def quick(go: CancelToken | None, text: str) -> str:
        if go is not None:
            jobs.hold(go)
        jobs.write_line(path, text)
        return text

    async with Runner(processes=1) as runner:
        on_lane = runner.options(lane="process")
        for n in range(50):  # so that it is known to be quick
            await on_lane.run(quick, None, f"warm {n}")
        go = CancelToken()
        first = await on_lane.submit(quick, go, "first")
        behind = [await on_lane.submit(quick, None, f"behind {n}") for n in range(3)]
        await running(runner, first)
        (slot,) = runner._lanes["process"].places()
        assert slot.count > 1, "nothing waits in the window: the test tests nothing"
        answer = behind[0].cancel("not you")
        assert answer in ("requested", "cancelled")
        with pytest.raises(aj.JobCancelled, match="not you"):
            await behind[0]
        assert first.state is JobState.RUNNING
        go.cancel()
        assert await aj.gather([first, *behind[1:]]) == ["first", "behind 1", "behind 2"]
        assert lines(path)[50:] == ["first", "behind 1", "behind 2"]
        assert JobState.RUNNING not in [mark.state for mark in behind[0].history]
        ended_once(first, *behind)


# --- F34: while it runs -----------------------------------------------------------------


@each_lane
async def test_f34_a_running_job_that_listens_ends_at_once_when_it_is_cancelled(
    runner: Runner, lane: str, clock: PauseClock
) -> None:
    async with unharmed(runner):
        job = await runner.options(lane=lane, grace=20.0).submit(LISTEN[lane])
        await running(runner, job)
        asked = clock()
        assert job.cancel("enough") == "requested"
        assert job.state is JobState.STOPPING
        with pytest.raises(aj.JobCancelled, match="enough"):
            await job
        assert clock() - asked < 2
        assert [mark.state.name for mark in job.history] == ["QUEUED", "RUNNING", "STOPPING", "CANCELLED"]
        ended_once(job)


@pytest.mark.slow
@each_lane
async def test_f34_a_job_that_returns_a_value_within_the_grace_has_succeeded(runner: Runner, lane: str) -> None:
    async with unharmed(runner, lane):
        job = await runner.options(lane=lane).submit(OBLIGING[lane])
        await running(runner, job)
        assert job.cancel() == "requested"
        assert await job == "in time"
        assert job.state is JobState.SUCCEEDED
        ended_once(job)


@pytest.mark.slow
async def test_f34_a_process_job_that_does_not_listen_is_interrupted_after_its_grace(
    runner: Runner, clock: PauseClock
) -> None:
    def sleeps() -> None:
        aj.current_job().progress(0)
        try:
            time.sleep(jobs.LONG)
        finally:
            print("cleaned up")

    async with unharmed(runner):
        job = await runner.options(lane="process", grace=0.2, output="capture").submit(sleeps)
        await running(runner, job)
        asked, counted = time.monotonic(), clock()
        assert job.cancel() == "requested"
        with pytest.raises(aj.JobCancelled):
            await job
        assert time.monotonic() - asked > 0.15
        assert clock() - counted < 2
        assert job.output == "cleaned up\n"
        assert runner.stats().crashes == 0
        ended_once(job)


@pytest.mark.slow
async def test_f34_a_process_job_that_swallows_the_interrupt_is_killed_a_second_later(
    runner: Runner, clock: PauseClock
) -> None:
    async with unharmed(runner, "loop", "thread"):
        neighbour, go = await held(runner, "process", "untouched")
        job = await runner.options(lane="process", grace=0.2).submit(jobs.stubborn, CancelToken())
        await running(runner, job)
        asked = clock()
        job.cancel()
        with pytest.raises(aj.JobCancelled):
            await job
        assert clock() - asked < 0.2 + 1 + 1
        assert neighbour.state is JobState.RUNNING
        go.cancel()
        assert await neighbour == "untouched"
        ended_once(job, neighbour)
    await still_works(runner, "process")


@pytest.mark.parametrize("lane", ["loop", "thread"])
async def test_f34_a_job_that_cannot_be_stopped_is_abandoned_and_counted_until_it_ends(
    runner: Runner, lane: str, clock: PauseClock
) -> None:
    go = CancelToken()
    async with unharmed(runner):
        job = await runner.options(lane=lane, grace=0.1).submit(STUBBORN[lane], go)
        await running(runner, job)
        asked = clock()
        assert job.cancel() == "requested"
        with pytest.raises(aj.JobCancelled, match="could not be stopped and still runs"):
            await job
        assert clock() - asked < 1.5
        assert runner.stats().lanes[lane].abandoned == 1
        assert runner.stats().lanes[lane].busy == 2  # the neighbour, and what goes on
        ended_once(job)
        go.cancel()
        while runner.stats().lanes[lane].abandoned:
            await asyncio.sleep(0)
        assert runner.stats().lanes[lane].busy == 1
        assert job.state is JobState.CANCELLED


async def test_f34_a_thread_lane_full_of_abandoned_threads_says_so_and_recovers() -> None:
    go = CancelToken()
    async with Runner(lanes={"thread": aj.ThreadLane(1, max_abandoned=1)}) as runner:
        for _ in range(2):
            job = await runner.options(name="deaf", grace=0.05).submit(jobs.stubborn, go)
            await running(runner, job)
            job.cancel()
            await job.wait()
        with pytest.raises(aj.LaneStalled, match=r"2 abandoned threads.*they still run: deaf"):
            await runner.submit(jobs.echo)
        await still_works(runner, "loop", "process")
        go.cancel()
        while runner.stats().lanes["thread"].abandoned:
            await asyncio.sleep(0)
        await still_works(runner)


async def test_f34_a_coroutine_gets_the_cancellation_at_its_next_await(runner: Runner) -> None:
    heard = []

    async def listens() -> None:
        aj.current_job().progress(0)
        try:
            await asyncio.sleep(jobs.LONG)
        except asyncio.CancelledError as error:
            heard.append((str(error), aj.current_job().token.cancelled))
            raise

    job = await runner.submit(listens)
    await running(runner, job)
    job.cancel("why")
    await job.wait()
    assert heard == [("why", True)]
    ended_once(job)


# --- F35 to F37: races ------------------------------------------------------------------


@pytest.mark.slow
@each_lane
async def test_f35_cancel_and_the_end_of_a_job_agree_whatever_comes_first(runner: Runner, lane: str) -> None:
    dice = random.Random(35)
    async with unharmed(runner, lane):
        told: list[tuple[Any, str]] = []
        for n in range(150):
            job = await runner.options(lane=lane, grace=1.0).submit(ECHO[lane], n)
            for _ in range(dice.randrange(6)):
                await asyncio.sleep(dice.choice((0, 0, 0.0002)))
            was_done = job.done()
            answer = job.cancel()
            told.append((job, answer))
            assert (answer == "ended") == was_done
            if answer == "cancelled":
                assert job.state is JobState.CANCELLED
        async with asyncio.timeout(10):
            for job, _ in told:
                await job.wait()
        for number, (job, answer) in enumerate(told):
            ended_once(job)
            if answer == "ended":
                assert job.state is JobState.SUCCEEDED
            if answer == "cancelled":
                assert JobState.RUNNING not in [mark.state for mark in job.history]
            if job.state is JobState.SUCCEEDED:
                assert job.result() == number
            else:
                assert isinstance(job.exception(), aj.JobCancelled)


@pytest.mark.slow
@each_lane
async def test_f36_a_second_cancel_and_one_after_the_end_change_nothing(runner: Runner, lane: str) -> None:
    async with unharmed(runner, lane):
        running_one = await runner.options(lane=lane).submit(LISTEN[lane])
        await running(runner, running_one)
        assert [running_one.cancel("first"), running_one.cancel("second")] == ["requested", "requested"]
        await running_one.wait()
        assert running_one.cancel("third") == "ended"
        assert str(running_one.exception()).endswith("was cancelled: first")
        done = await runner.options(lane=lane).submit(ECHO[lane], 1)
        await done
        assert done.cancel() == "ended"
        assert done.result() == 1
        failed = await runner.options(lane=lane).submit(FAIL[lane])
        await failed.wait()
        assert failed.cancel() == "ended"
        assert isinstance(failed.exception(), ValueError)
        ended_once(running_one, done, failed)


@pytest.mark.slow
@each_lane
async def test_f36_a_thousand_cancels_from_many_threads_end_each_job_once(runner: Runner, lane: str) -> None:
    async with unharmed(runner, lane):
        first = await runner.options(lane=lane, grace=0.2).submit(LISTEN[lane])
        await running(runner, first)
        queued = [await runner.options(lane=lane).submit(LISTEN[lane]) for _ in range(20)]
        made = [first, *queued]
        with ThreadPoolExecutor(8) as threads:
            answers = [threads.submit(made[n % 21].cancel, f"cancel {n}") for n in range(1000)]
            async with asyncio.timeout(20):
                for job in made:
                    await job.wait()
        assert {answer.result() for answer in answers} <= {"requested", "cancelled", "ended"}
        assert {job.state for job in made} == {JobState.CANCELLED}
        ended_once(*made)


@pytest.mark.parametrize("order", ["cancel first", "value first"])
@pytest.mark.parametrize("turns", range(4))
async def test_f37_value_and_cancel_in_one_turn_of_the_loop_have_one_winner(
    runner: Runner, order: str, turns: int
) -> None:
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def waits() -> str:
        aj.current_job().progress(0)
        return await ready

    job = await runner.submit(waits)
    await running(runner, job)
    if order == "value first":
        ready.set_result("value")
        for _ in range(turns):
            await asyncio.sleep(0)
        answer = job.cancel()
    else:
        answer = job.cancel()
        for _ in range(turns):
            await asyncio.sleep(0)
        if not ready.done():
            ready.set_result("value")
    await job.wait()
    ended_once(job)
    assert job.state in (JobState.SUCCEEDED, JobState.CANCELLED)
    assert (job.state is JobState.SUCCEEDED) == (job.exception() is None)
    if answer == "ended":
        assert job.result() == "value"
    await still_works(runner, "loop")


# --- F38, F39: time limits --------------------------------------------------------------


class Steps(asyncio.SelectorEventLoop):
    """A loop whose clock stands still until the test moves it."""

    now = 1000.0

    def time(self) -> float:
        return self.now


@pytest.mark.parametrize("nanoseconds", [-1, 0, 1])
@pytest.mark.parametrize("retries", [0, 1])
def test_f38_a_time_limit_and_the_end_in_one_turn_have_one_winner(nanoseconds: int, retries: int) -> None:
    async def main() -> None:
        async with Runner(watchdog=None) as runner:
            loop = asyncio.get_running_loop()
            assert isinstance(loop, Steps)
            ready: asyncio.Future[str] = loop.create_future()
            attempts = []

            async def waits() -> str:
                attempts.append(aj.current_job().attempt)
                if len(attempts) > 1:
                    return "second"
                return await ready

            job = await runner.options(timeout=10, retries=retries).submit(waits)
            while not attempts:
                await asyncio.sleep(0)
            loop.call_at(loop.now + 10 + nanoseconds * 1e-9, lambda: ready.done() or ready.set_result("value"))
            loop.now += 10 + 1e-8
            async with asyncio.timeout(None):
                await job.wait()
            ended_once(job)
            if job.state is JobState.SUCCEEDED:
                assert job.result() == ("value" if len(attempts) == 1 else "second")
            else:
                assert isinstance(job.exception(), aj.JobTimeout)
            await still_works(runner, "loop")

    with asyncio.Runner(loop_factory=Steps) as outer:
        outer.run(main())


@pytest.mark.slow
@each_lane
async def test_f39_the_shortest_limit_is_a_limit_and_the_longest_is_none(runner: Runner, lane: str) -> None:
    async with unharmed(runner, lane):
        late = await runner.options(lane=lane, timeout=1e-9, grace=0.1).submit(LISTEN[lane])
        with pytest.raises(aj.JobTimeout, match="1e-09 s"):
            await late
        assert await runner.options(lane=lane, timeout=1e9, deadline=1e9, queue_timeout=1e9).run(ECHO[lane], 1) == 1
        ended_once(late)


@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan"), 1e18])
async def test_f39_impossible_limits_are_refused_at_the_call(runner: Runner, value: Any) -> None:
    for name in ("timeout", "queue_timeout", "deadline"):
        with pytest.raises(ValueError, match=f"{name}=.* is not allowed"):
            runner.options(**{name: value})  # type: ignore[misc]
        with pytest.raises(ValueError, match=f"{name}=.* is not allowed"):
            aj.job(**{name: value})  # type: ignore[misc]


# --- F40: a stop never hits the next job ------------------------------------------------


@pytest.mark.parametrize("lane", ["thread", "process"])
async def test_f40_a_late_stop_never_hits_the_next_job_of_the_same_worker(lane: str) -> None:
    dice = random.Random(40)
    async with Runner(processes=1, threads=1) as runner:
        on_lane = runner.options(lane=lane, grace=0.002)
        await on_lane.run(jobs.burn, 0.001)
        for n in range(40):
            short = await on_lane.submit(jobs.burn, 0.002)
            following = await runner.options(lane=lane).submit(_steps, n)
            await asyncio.sleep(dice.random() * 0.005)
            short.cancel()
            async with asyncio.timeout(10):
                assert await following == n
            await short.wait()
            assert short.state in (JobState.SUCCEEDED, JobState.CANCELLED)
            ended_once(short, following)
        assert runner.stats().crashes == 0
        await still_works(runner, lane)


def _steps(n: int) -> int:
    for _ in range(2000):
        pass
    return n


# --- F41: whoever waits goes away -------------------------------------------------------


@pytest.mark.slow
@each_lane
async def test_f41_the_job_goes_on_when_an_awaiting_task_is_cancelled(
    runner: Runner, lane: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with unharmed(runner, lane):
        go = CancelToken()
        job = await runner.options(lane=lane).submit(HOLD[lane], go, "value")
        waiters = [asyncio.create_task(_await(job)) for _ in range(10)]
        await running(runner, job)
        for waiter in waiters[:9]:
            waiter.cancel()
        await asyncio.wait(waiters[:9])
        assert all(waiter.cancelled() for waiter in waiters[:9])
        assert job.state is JobState.RUNNING
        go.cancel()
        assert await waiters[9] == "value"
        ended_once(job)


@each_lane
async def test_f41_a_failure_after_its_waiter_went_away_is_said_once_and_not_by_asyncio(
    runner: Runner, lane: str, caplog: pytest.LogCaptureFixture
) -> None:
    go = CancelToken()

    def fails() -> None:
        jobs.hold(go)
        raise ValueError("after all")

    async def afails() -> None:
        await jobs.ahold(go)
        raise ValueError("after all")

    gc.collect()
    caplog.clear()
    with caplog.at_level(logging.ERROR):
        job = await runner.options(lane=lane, name="left alone").submit(afails if lane == "loop" else fails)
        waiter = asyncio.create_task(_await(job))
        await running(runner, job)
        waiter.cancel()
        await asyncio.wait([waiter])
        go.cancel()
        await job.wait()
        del job, waiter
        await _logged(caplog)
    (record,) = caplog.records
    assert (record.name, "'left alone'" in record.getMessage()) == ("asyncjobs", True)
    await still_works(runner, lane)


# --- F42: done callbacks ----------------------------------------------------------------


@each_lane
async def test_f42_callbacks_that_raise_exit_or_submit_harm_nobody(
    runner: Runner, lane: str, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[Any] = []
    more: list[Any] = []

    def raises(_: Any) -> None:
        raise RuntimeError("callback broke")

    def exits(_: Any) -> None:
        raise SystemExit(3)

    def submits(_: Any) -> None:
        more.append(runner.options(lane=lane).submit_nowait(ECHO[lane], "from a callback"))

    async with unharmed(runner):
        job = await runner.options(lane=lane, name="watched").submit(ECHO[lane], 1)
        for callback in (told.append, raises, exits, submits, told.append):
            job.add_done_callback(callback)
        assert await job == 1
        while len(told) < 2:
            await asyncio.sleep(0)
        assert told == [job, job]
        assert await more[0] == "from a callback"
        ended_once(job, *more)
    logged = [record for record in caplog.records if "a done callback of job 'watched' raised" in record.getMessage()]
    assert len(logged) == 2


async def test_f42_a_callback_that_blocks_delays_but_does_not_break_anything(
    runner: Runner, caplog: pytest.LogCaptureFixture
) -> None:
    async with unharmed(runner):
        told: list[Any] = []
        job = await runner.submit(jobs.echo, 1)
        job.add_done_callback(lambda _: time.sleep(0.6))  # real blocking is what is tested
        job.add_done_callback(told.append)
        await job
        while not told:
            await asyncio.sleep(0)
    assert any("has not answered" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("lane", ["loop", "thread", "process"])
async def test_a_callback_has_the_context_variables_of_whoever_added_it(runner: Runner, lane: str) -> None:
    whose: ContextVar[str] = ContextVar("whose", default="nobody's")
    told: asyncio.Queue[tuple[str, object]] = asyncio.Queue()
    job = await runner.options(lane=lane).submit(ECHO[lane], 1)
    whose.set("mine")
    job.add_done_callback(lambda _: told.put_nowait((whose.get(), context.running.get())))
    whose.set("changed")
    assert await told.get() == ("mine", None)


@pytest.mark.slow
async def test_f42_callbacks_of_a_cancelled_and_of_a_lost_job_are_called(runner: Runner) -> None:
    told: list[JobState] = []
    for job, end in (
        (await runner.submit(jobs.listen), lambda job: job.cancel()),
        (await runner.options(lane="process").submit(jobs.die), lambda job: None),
    ):
        job.add_done_callback(lambda ended: told.append(ended.state))
        end(job)
        await job.wait()
        job.exception()
    while len(told) < 2:
        await asyncio.sleep(0)
    assert told == [JobState.CANCELLED, JobState.LOST]
    await still_works(runner)


# --- F43: between two attempts ----------------------------------------------------------


@pytest.mark.slow
@each_lane
async def test_f43_a_job_that_waits_for_its_next_attempt_is_cancelled_at_once(
    runner: Runner, lane: str, tmp_path: Any
) -> None:
    path = str(tmp_path / "attempts")
    async with unharmed(runner, lane):
        patient = runner.options(lane=lane, retries=Retry(5, backoff=60.0, jitter=0))
        job = await patient.submit(jobs.FAIL_UNTIL[lane], path, 99)
        await reaches(runner, job, JobState.WAITING)
        assert job.cancel("no more") == "cancelled"
        assert job.state is JobState.CANCELLED
        with pytest.raises(aj.JobCancelled, match="no more"):
            await job
        assert lines(path) == ["attempt 1"]
        ended_once(job)


@each_lane
async def test_f43_a_closing_runner_does_not_wait_for_a_backoff(lane: str, tmp_path: Any) -> None:
    path = str(tmp_path / "attempts")
    async with asyncio.timeout(10):
        async with Runner(processes=1, drain_timeout=0.1) as runner:
            patient = runner.options(lane=lane, retries=Retry(5, backoff=60.0))
            job = await patient.submit(jobs.FAIL_UNTIL[lane], path, 99)
            await reaches(runner, job, JobState.WAITING)
    assert job.state is JobState.CANCELLED
    ended_once(job)


async def test_f43_a_jump_of_the_wall_clock_does_not_touch_the_backoff(
    runner: Runner, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, clock: PauseClock
) -> None:
    path = str(tmp_path / "attempts")
    real = time.time
    for jump in (-86400.0, 86400.0):
        retry = Retry(1, backoff=0.2, jitter=0)
        submitted = time.monotonic()
        job = await runner.options(retries=retry).submit(jobs.fail_until, path, 2)
        await reaches(runner, job, JobState.WAITING)
        monkeypatch.setattr(time, "time", lambda jump=jump: real() + jump)
        started = clock()
        assert await job == 2
        assert time.monotonic() - submitted >= 0.2
        assert clock() - started < 2
        monkeypatch.undo()
        ended_once(job)


async def _logged(caplog: pytest.LogCaptureFixture) -> None:
    """Wait for a record: the last reference to a job may be its thread's."""
    async with asyncio.timeout(5):
        while not caplog.records:
            gc.collect()
            await asyncio.sleep(0)


async def _await(job: Any) -> Any:
    return await job


# --- asked once more --------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("lane", LANES)
async def test_a_second_cancel_with_a_shorter_grace_hurries_the_stop(runner: Runner, lane: str) -> None:
    go = CancelToken()
    job = await runner.options(lane=lane, grace=300.0).submit(STUBBORN[lane], go)
    await running(runner, job)
    assert [job.cancel("politely"), job.cancel("now", grace=0.05)] == ["requested", "requested"]
    with pytest.raises(aj.JobCancelled, match="politely"):
        await job
    go.cancel()
    ended_once(job)


@pytest.mark.slow
@pytest.mark.parametrize("lane", LANES)
async def test_a_second_cancel_with_a_longer_grace_never_slows_the_stop_down(runner: Runner, lane: str) -> None:
    go = CancelToken()
    job = await runner.options(lane=lane, grace=300.0).submit(STUBBORN[lane], go)
    await running(runner, job)
    for grace in (0.05, 300.0, None):
        assert job.cancel(grace=grace) == "requested"
    await job.wait()
    go.cancel()
    ended_once(job)


@pytest.mark.both_loops
async def test_a_job_may_be_cancelled_twice_without_a_grace(runner: Runner) -> None:
    job = await runner.options(lane="process").submit(jobs.stubborn, CancelToken())
    await running(runner, job)
    assert [job.cancel(grace=0), job.cancel(grace=0)] == ["requested", "requested"]
    with pytest.raises(aj.JobCancelled):
        await job


async def test_a_job_that_is_cancelled_before_its_worker_has_come_to_it_is_stopped_not_killed() -> None:
    lane = aj.ProcessLane(1)
    async with Runner(lanes={"process": lane}) as runner:
        await runner.options(lane="process").run(abs, 1)
        (worker,) = lane.pids()
        for _ in range(20):
            os.kill(worker, signal.SIGSTOP)
            job = await runner.options(lane="process").submit(time.sleep, jobs.LONG)
            await asyncio.sleep(0)
            job.cancel(grace=0)
            await asyncio.sleep(0.01)  # both channels of the worker have something, and it takes either first
            os.kill(worker, signal.SIGCONT)
            await job.wait()
            assert await runner.options(lane="process").run(abs, -1) == 1
        assert lane.pids() == [worker]


async def test_a_second_cancel_from_another_thread_hurries_too(runner: Runner) -> None:
    job = await runner.options(lane="process", grace=300.0).submit(jobs.stubborn, CancelToken())
    await running(runner, job)
    job.cancel()
    await asyncio.to_thread(job.cancel, grace=0.05)
    with pytest.raises(aj.JobCancelled):
        await job


@pytest.mark.slow
@pytest.mark.parametrize("lane", LANES)
async def test_closing_with_a_shorter_grace_hurries_what_is_stopping(lane: str) -> None:
    async with Runner(processes=1) as runner:
        go = CancelToken()
        job = await runner.options(lane=lane, grace=300.0).submit(STUBBORN[lane], go)
        await running(runner, job)
        job.cancel("politely")
        job.add_done_callback(lambda _: go.cancel())
        await runner.aclose(drain=0, grace=0.05)
        assert isinstance(job.exception(), aj.JobCancelled)


async def test_a_coroutine_that_is_hurried_goes_on_with_its_clean_up(runner: Runner) -> None:
    steps: list[str] = []
    go = asyncio.Event()

    async def careful() -> None:
        aj.current_job().progress(0)
        try:
            await asyncio.sleep(jobs.LONG)
        finally:
            steps.append("cleans up")
            await go.wait()
            steps.append("clean")

    job = await runner.options(grace=300.0).submit(careful)
    await running(runner, job)
    job.cancel()
    while not steps:
        await asyncio.sleep(0)
    job.cancel(grace=100.0)
    await asyncio.sleep(0)
    go.set()
    await job.wait()
    assert steps == ["cleans up", "clean"]


async def test_the_interrupt_comes_once_although_a_second_cancel_hurries_it(runner: Runner) -> None:
    def careful() -> None:
        aj.current_job().progress(0)
        try:
            time.sleep(jobs.LONG)
        finally:
            time.sleep(0.5)  # longer than the two interrupts would be apart
            print("clean")

    job = await runner.options(lane="process", grace=0.5, output="capture").submit(careful)
    await running(runner, job)
    job.cancel()
    job.cancel(grace=0.1)
    await job.wait()
    assert job.output == "clean\n"
    assert runner.stats().crashes == 0


@pytest.mark.parametrize("reason", [None, 5, b"no"])
async def test_a_reason_that_is_no_string_is_refused_wherever_a_stop_is_asked_for(runner: Runner, reason: Any) -> None:
    job, go = await held(runner, "thread", 1)
    for ask in (job.cancel, runner.cancel_all, CancelToken().cancel):
        with pytest.raises(TypeError, match=r"reason=.* is not allowed; allowed: a string"):
            ask(reason)
    assert job.state is JobState.RUNNING
    go.cancel()
    assert await job == 1


async def test_a_job_that_has_ended_refuses_the_same_as_a_living_one(runner: Runner) -> None:
    job = await runner.submit(jobs.echo, 1)
    await job
    with pytest.raises(ValueError, match="grace=-1 is not allowed"):
        job.cancel(grace=-1)
    with pytest.raises(TypeError, match="reason=None is not allowed"):
        job.cancel(None)  # type: ignore[arg-type]
    assert job.cancel(grace=1) == "ended"
