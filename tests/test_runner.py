"""The runner's face: every verb, every option, the handle, and what is refused at the call."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import logging
import math
import random
import re
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from typing import Any

import anyio
import numpy as np
import pytest
import runner_jobs as jobs
from runner_jobs import (
    ECHO,
    FAIL,
    FAIL_UNTIL,
    HOLD,
    LANES,
    LISTEN,
    ended_once,
    held,
    lines,
    reaches,
    running,
    still_works,
)

import asyncjobs as aj
from asyncjobs import CancelToken, Job, JobState, Retry, Runner
from asyncjobs.testing import Gate

each_lane = pytest.mark.parametrize("lane", LANES)


# --- submit and its relatives -----------------------------------------------------------


@each_lane
async def test_awaiting_a_submitted_job_gives_its_value(runner: Runner, lane: str) -> None:
    job = await runner.options(lane=lane).submit(ECHO[lane], "value")
    assert isinstance(job, Job)
    assert await job == "value"
    assert (job.lane, job.state, job.name) == (lane, JobState.SUCCEEDED, ECHO[lane].__name__)
    ended_once(job)


@pytest.mark.slow
@each_lane
async def test_run_is_submit_and_await(runner: Runner, lane: str) -> None:
    assert await runner.options(lane=lane).run(ECHO[lane], value=7) == 7
    with pytest.raises(ValueError, match="on purpose"):
        await runner.options(lane=lane).run(FAIL[lane])


@each_lane
async def test_submit_nowait_returns_the_job_at_once(runner: Runner, lane: str) -> None:
    job = runner.options(lane=lane).submit_nowait(ECHO[lane], 1)
    assert job.state in (JobState.QUEUED, JobState.RUNNING)
    assert await job == 1


async def test_submit_nowait_raises_queue_full_and_the_refused_call_leaves_no_trace() -> None:
    async with Runner(queue_size=2) as runner:
        runner.lane("thread").pause()
        waiting = [runner.submit_nowait(jobs.echo, n) for n in range(2)]
        with pytest.raises(aj.QueueFull, match="queue_size is 2") as caught:
            runner.submit_nowait(jobs.echo, 3)
        assert isinstance(caught.value, asyncio.QueueFull)
        assert runner.jobs() == waiting
        assert runner.stats().submitted == 2
        runner.lane("thread").resume()
        assert [await job for job in waiting] == [0, 1]


async def test_submit_waits_while_the_queue_is_full_and_goes_on_when_there_is_room() -> None:
    async with Runner(queue_size=1) as runner:
        runner.lane("thread").pause()
        first = await runner.submit(jobs.echo, 1)
        second = asyncio.create_task(runner.submit(jobs.echo, 2))
        third = asyncio.create_task(runner.submit(jobs.echo, 3))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not second.done()
        assert not third.done()
        assert runner.jobs() == [first]
        runner.lane("thread").resume()
        assert [await first, await (await second), await (await third)] == [1, 2, 3]


async def test_a_submit_that_is_cancelled_while_it_waits_for_room_submits_nothing() -> None:
    async with Runner(queue_size=1) as runner:
        runner.lane("thread").pause()
        first = await runner.submit(jobs.echo, 1)
        waiting = asyncio.create_task(runner.submit(jobs.echo, 2))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        runner.lane("thread").resume()
        assert await first == 1
        await still_works(runner, "thread")
        assert runner.stats().lanes["thread"].submitted == 2


@each_lane
async def test_a_submit_that_is_cancelled_while_the_loop_takes_a_breath_submits_nothing(
    runner: Runner, lane: str
) -> None:
    intake: Any = runner._intake
    intake.breath_due = 0.0  # the next submit lets the loop run others first
    submitting = asyncio.create_task(runner.options(lane=lane).submit(ECHO[lane]))
    await asyncio.sleep(0)
    submitting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await submitting
    assert runner.jobs() == []
    assert runner.stats().submitted == 0
    await still_works(runner, lane)


@each_lane
async def test_cancelling_whoever_waits_in_run_cancels_the_job(runner: Runner, lane: str) -> None:
    waiter = asyncio.create_task(runner.options(lane=lane, grace=0.1).run(LISTEN[lane]))
    while not runner.jobs():
        await asyncio.sleep(0)
    (job,) = runner.jobs()
    await running(runner, job)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    await job.wait()
    assert job.state is JobState.CANCELLED
    await still_works(runner, lane)


async def test_coroutine_functions_go_to_the_loop_and_plain_ones_to_threads(runner: Runner) -> None:
    class Callable:
        def __call__(self) -> str:
            return threading.current_thread().name

        def method(self) -> str:
            return self()

    class AsyncCallable:
        async def __call__(self) -> str:
            return threading.current_thread().name

        async def method(self) -> str:
            return await self()

    main = threading.current_thread().name
    for fn in (AsyncCallable(), AsyncCallable().method, functools.partial(functools.partial(AsyncCallable()))):
        job: Job[str] = await runner.submit(fn)
        assert (job.lane, await job) == ("loop", main)
    for fn in (Callable(), Callable().method, functools.partial(Callable()), lambda: threading.current_thread().name):
        job = await runner.submit(fn)
        assert (job.lane, (await job).startswith("asyncjobs-thread")) == ("thread", True)


async def test_async_partials_pass_their_arguments(runner: Runner) -> None:
    job = await runner.submit(functools.partial(jobs.aadd, 3), 4)
    assert (job.lane, await job, job.name) == ("loop", 7, "aadd")
    assert await runner.run(functools.partial(jobs.aadd, y=5), 6) == 11


async def test_an_async_generator_function_is_refused_at_the_call(runner: Runner) -> None:
    async def numbers() -> AsyncIterator[int]:
        yield 1

    with pytest.raises(TypeError, match="numbers is an async generator function"):
        await runner.submit(numbers)


@pytest.mark.slow
@pytest.mark.parametrize("lane", ["thread", "process"])
async def test_a_plain_function_that_returns_an_awaitable_fails_and_is_told_why(runner: Runner, lane: str) -> None:
    job = await runner.options(lane=lane, name="begin").submit(lambda: jobs.aecho(1))
    with pytest.raises(TypeError, match=r"^begin is a plain function that returned an awaitable \(coroutine\): make"):
        await job
    assert job.state is JobState.FAILED
    with pytest.raises(TypeError, match=r"^begin is a plain function that returned an awaitable"):
        await runner.options(lane=lane, name="begin").map(lambda n: jobs.aecho(n), [1, 2]).collect()
    await still_works(runner, lane)


@each_lane
async def test_a_function_may_have_parameters_named_like_options(runner: Runner, lane: str) -> None:
    fn = jobs.awith_timeout if lane == "loop" else jobs.with_timeout
    value = await runner.options(lane=lane, timeout=20, name="outer").run(fn, timeout=-1.0, name="inner", lane="x")
    assert value == (-1.0, "inner", "x")


async def test_lambdas_closures_and_bound_methods_travel_to_a_process(runner: Runner) -> None:
    base = 40
    process = runner.options(lane="process")
    assert await process.run(lambda x: x + base, 2) == 42
    assert await process.run("a-b".split, "-") == ["a", "b"]
    assert await process.run(math.hypot, 3, 4) == 5


async def test_captured_values_are_those_of_each_submit(runner: Runner) -> None:
    step = 0

    def read() -> int:
        return step

    got = []
    for step in range(3):  # noqa: B007 - the closure reads it
        got.append(await runner.options(lane="process").run(read))
    assert got == [0, 1, 2]


# --- what is refused --------------------------------------------------------------------

LIMITS = ("timeout", "queue_timeout", "deadline")
BAD_OPTIONS = [
    ("lane", "gpu", "loop, process, thread"),
    ("lane", "", "None, or a string that is not empty"),
    ("lane", 3, "None, or a string that is not empty"),
    ("name", "", "a string that is not empty"),
    ("name", 5, "a string that is not empty"),
    ("priority", 1.5, "a whole number"),
    ("priority", True, "a whole number"),
    *(
        (limit, value, "seconds above 0")
        for limit in ("timeout", "queue_timeout", "deadline")
        for value in (0, -1, math.nan, math.inf, 1e18, "1", True)
    ),
    ("retries", -1, "a whole number from 0, or a Retry"),
    ("retries", 1.5, "a whole number from 0, or a Retry"),
    ("retries", None, "a whole number from 0, or a Retry"),
    ("lost", "maybe", "'fail' or 'retry'"),
    ("grace", -0.1, "seconds from 0"),
    ("grace", math.nan, "seconds from 0"),
    ("grace", None, "seconds from 0"),
    ("key", "", "a string that is not empty"),
    ("key", 7, "a string that is not empty"),
    ("limiter", 2, "an anyio.CapacityLimiter"),
    ("limiter", asyncio.Semaphore, "an anyio.CapacityLimiter"),
    ("output", "terminal", "'pass', 'capture' or 'drop'"),
    ("snapshot", 1, "True or False"),
    ("max_result", 0, "a number of bytes from 1"),
    ("max_result", 1e6, "a number of bytes from 1"),
    ("token", "stop", "a CancelToken"),
]


@pytest.mark.parametrize(("option", "value", "allowed"), BAD_OPTIONS, ids=lambda part: str(part)[:24])
async def test_a_wrong_option_raises_at_the_call_and_names_value_and_what_is_allowed(
    runner: Runner, option: str, value: Any, allowed: str
) -> None:
    with pytest.raises(ValueError) as caught:
        runner.options(**{option: value})
    assert f"{option}={value!r}" in str(caught.value)
    assert allowed in str(caught.value)


async def test_an_unknown_option_raises_at_the_call_and_suggests_the_nearest(runner: Runner) -> None:
    with pytest.raises(TypeError, match=r"unknown option 'time_out'; did you mean 'timeout'\? Known: lane, name"):
        runner.options(time_out=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="unknown option 'colour'"):
        aj.job(colour="red")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("argument", "value", "error", "allowed"),
    [
        ("processes", 0, ValueError, "a whole number from 1"),
        ("processes", "four", ValueError, "a whole number from 1"),
        ("threads", -1, ValueError, "a whole number from 1"),
        ("threads", True, ValueError, "a whole number from 1"),
        ("coroutines", 1.5, ValueError, "a whole number from 1"),
        ("queue_size", 0, ValueError, "a whole number from 1"),
        ("history", -1, ValueError, "a whole number from 0"),
        ("drain_timeout", -1, ValueError, "seconds"),
        ("drain_timeout", math.nan, ValueError, "seconds"),
        ("watchdog", 0, ValueError, "seconds above 0"),
        ("watchdog", "fast", ValueError, "seconds above 0"),
        ("lanes", {"gpu": 3}, TypeError, "a lane"),
        ("lanes", {"": aj.ThreadLane(1)}, ValueError, "a name"),
        ("options", {"timeout": -1}, ValueError, "seconds above 0"),
        ("options", {"tiemout": 1}, TypeError, "did you mean 'timeout'"),
        ("options", {"lane": "gpu"}, ValueError, "loop, process, thread"),
        ("lane_options", {"gpu": {}}, ValueError, "loop, process, thread"),
        ("lane_options", {"thread": {"grace": -1}}, ValueError, "seconds from 0"),
    ],
    ids=lambda part: str(part)[:30],
)
def test_a_wrong_argument_of_the_runner_raises_at_the_call(
    argument: str, value: Any, error: type[Exception], allowed: str
) -> None:
    with pytest.raises(error) as caught:
        Runner(**{argument: value})
    assert allowed in str(caught.value)


@pytest.mark.parametrize(
    ("verb", "arguments", "error", "names"),
    [
        ("aclose", {"drain": -1}, ValueError, "drain=-1"),
        ("aclose", {"grace": math.nan}, ValueError, "grace=nan"),
        ("events", {"size": 0}, ValueError, "size=0"),
        ("events", {"size": "big"}, ValueError, "size='big'"),
        ("lane", {"name": "gpu"}, ValueError, "lane='gpu'"),
    ],
)
async def test_wrong_arguments_of_other_verbs_raise_at_the_call(
    runner: Runner, verb: str, arguments: dict[str, Any], error: type[Exception], names: str
) -> None:
    with pytest.raises(error) as caught:
        await _called(getattr(runner, verb), arguments)
    assert names in str(caught.value)
    assert "allowed" in str(caught.value)
    await still_works(runner, "thread")


@pytest.mark.parametrize("size", [0, -3, 2.0, True, "many"])
@each_lane
async def test_a_wrong_size_is_refused_by_resize(runner: Runner, lane: str, size: Any) -> None:
    with pytest.raises(ValueError, match=r"size=.* is not allowed; allowed: a whole number from 1"):
        runner.lane(lane).resize(size)


@pytest.mark.parametrize("grace", [-1, math.nan, math.inf, "soon"])
async def test_a_wrong_grace_is_refused_by_cancel_and_the_job_goes_on(runner: Runner, grace: Any) -> None:
    job, go = await held(runner, "thread", 1)
    with pytest.raises(ValueError, match=r"grace=.* is not allowed; allowed: None, or seconds from 0"):
        job.cancel(grace=grace)
    assert job.state is JobState.RUNNING
    go.cancel()
    assert await job == 1


@pytest.mark.parametrize("fn", [None, 3, "print", [len]])
async def test_what_is_not_callable_is_refused_at_the_call(runner: Runner, fn: Any) -> None:
    for verb in (runner.submit_nowait, runner.map):
        with pytest.raises(TypeError, match="is not callable; submit takes a function"):
            verb(fn, [1])
    with pytest.raises(TypeError, match="is not callable"):
        await runner.submit(fn)
    assert runner.jobs() == []


async def test_a_coroutine_object_is_refused_at_the_call(runner: Runner) -> None:
    coroutine = jobs.aecho(1)
    with pytest.raises(TypeError, match="is not callable"):
        await runner.submit(coroutine)  # type: ignore[arg-type]
    coroutine.close()


@pytest.mark.parametrize("lane", ["thread", "process"])
async def test_a_coroutine_function_is_refused_by_lanes_for_plain_ones(runner: Runner, lane: str) -> None:
    with pytest.raises(TypeError, match=f"aecho is a coroutine function; lane {lane!r} runs plain functions"):
        await runner.options(lane=lane).submit(jobs.aecho)


async def test_a_plain_function_is_refused_by_the_loop_lane(runner: Runner) -> None:
    with pytest.raises(
        TypeError, match="echo is a plain function and would block lane 'loop'; use 'thread' or 'process'"
    ):
        await runner.options(lane="loop").submit(jobs.echo)


async def test_an_executor_lane_refuses_the_options_that_it_cannot_honour() -> None:
    with ThreadPoolExecutor(1) as executor:
        async with Runner(lanes={"mine": aj.ExecutorLane(executor)}) as runner:
            assert await runner.options(lane="mine").run(jobs.add, 1, 2) == 3
            with pytest.raises(ValueError, match="lane 'mine' cannot honour the options max_result"):
                await runner.options(lane="mine", max_result=5).submit(jobs.echo)


async def test_wrong_arguments_of_the_function_are_the_jobs_own_error(runner: Runner) -> None:
    job = await runner.submit(jobs.echo, 1, 2, 3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="echo"):
        await job


async def test_what_cannot_be_sent_to_a_process_raises_at_submit_and_names_the_argument(runner: Runner) -> None:
    with pytest.raises(aj.NotSendable, match="argument 1") as caught:
        await runner.options(lane="process").submit(jobs.echo, {"deep": [threading.Lock()]})
    assert caught.value.argument == "argument 1['deep'][0] of echo"
    assert runner.jobs() == []
    await still_works(runner, "process")


# --- the program ------------------------------------------------------------------------


def test_run_says_what_to_do_with_a_function() -> None:
    async def begin() -> None: ...

    with pytest.raises(TypeError) as caught:
        aj.run(begin)  # type: ignore[arg-type]
    assert str(caught.value) == f"main={begin!r} is not allowed; allowed: a coroutine; call it: run(begin())"
    with pytest.raises(TypeError, match=r"^main=3 is not allowed; allowed: a coroutine$"):
        aj.run(3)  # type: ignore[arg-type]


async def test_run_inside_a_running_loop_says_what_to_write_there_and_leaves_no_coroutine_behind() -> None:
    async def begin() -> None: ...

    main = begin()
    with pytest.raises(RuntimeError, match=r"inside a running event loop; there it is `await main\(\)`"):
        aj.run(main)
    assert main.cr_frame is None, "it was not closed"


# --- before, after, twice ---------------------------------------------------------------


async def test_a_runner_that_is_not_open_refuses_every_verb() -> None:
    new, closed = Runner(), Runner()
    async with closed:
        pass
    for runner, state in ((new, "new"), (closed, "closed")):
        with pytest.raises(aj.RunnerClosed, match=f"{state}|the runner is not open"):
            await runner.submit(jobs.echo)
        with pytest.raises(aj.RunnerClosed):
            runner.submit_nowait(jobs.echo)
        with pytest.raises(aj.RunnerClosed):
            await runner.options(priority=1).run(jobs.echo)
        with pytest.raises(aj.RunnerClosed):
            await runner.map(jobs.echo, [1]).collect()


async def test_a_closed_runner_still_shows_its_figures_and_closes_again_without_a_word() -> None:
    async with Runner() as runner:
        job = await runner.submit(jobs.echo, 1)
    assert await job == 1
    assert runner.stats().succeeded == 1
    assert runner.jobs() == []
    await runner.join()
    assert await runner.aclose() == []
    assert repr(runner) == "<Runner closed with 0 jobs, lanes loop, thread, process>"


async def test_a_runner_opens_only_once() -> None:
    async with Runner() as runner:
        with pytest.raises(aj.RunnerClosed, match="the runner is open; make a new one"):
            await runner.__aenter__()
    with pytest.raises(aj.RunnerClosed, match="the runner is closed; make a new one"):
        await runner.__aenter__()


async def test_a_second_aclose_waits_for_the_first() -> None:
    runner = await Runner().__aenter__()
    job, go = await held(runner, "thread", 1)
    first = asyncio.create_task(runner.aclose())
    await asyncio.sleep(0)
    second = asyncio.create_task(runner.aclose())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not first.done()
    assert not second.done()
    go.cancel()
    assert (await second, await first) == ([], [])
    assert repr(runner).startswith("<Runner closed")
    assert await job == 1


async def test_a_second_aclose_may_be_more_impatient_than_the_first() -> None:
    runner = await Runner().__aenter__()
    job = await runner.options(name="endless").submit(jobs.alisten)
    await running(runner, job)
    first = asyncio.create_task(runner.aclose())
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        assert await runner.aclose(drain=0) == ["endless"]
        assert await first == ["endless"]
    assert job.state is JobState.CANCELLED


# --- precedence -------------------------------------------------------------------------


async def test_options_win_over_job_over_lane_over_runner() -> None:
    @aj.job(name="by job", grace=0.3)
    def marked() -> None: ...

    def plain() -> None: ...

    async with Runner(
        options={"name": "by runner", "grace": 0.1, "priority": 1, "timeout": 11},
        lane_options={"thread": {"name": "by lane", "grace": 0.2, "priority": 2}},
    ) as runner:

        async def made(submitter: Any, fn: Any) -> tuple[str, float, int, float | None]:
            job = await submitter.submit(fn)
            await job
            options = job._call.plan.options
            return job.name, options.grace, job.priority, options.timeout

        assert await made(runner.options(name="by options"), marked) == ("by options", 0.3, 2, 11)
        assert await made(runner, marked) == ("by job", 0.3, 2, 11)
        assert await made(runner, plain) == ("by lane", 0.2, 2, 11)
        assert await made(runner.options(lane="process"), plain) == ("by runner", 0.1, 1, 11)
        assert await made(runner.options(timeout=None), plain) == ("by lane", 0.2, 2, None)


async def test_the_lane_of_job_is_used_and_options_override_it(runner: Runner) -> None:
    @aj.job(lane="process", timeout=60)
    def kernel(x: int) -> int:
        return x

    assert kernel(3) == 3
    job = await runner.submit(kernel, 1)
    assert (job.lane, await job) == ("process", 1)
    job = await runner.submit(functools.partial(kernel, 2))
    assert (job.lane, await job) == ("process", 2)
    job = await runner.options(lane="thread").submit(kernel, 3)
    assert (job.lane, await job) == ("thread", 3)


@pytest.mark.slow
async def test_the_runners_default_lane_holds_for_functions_that_say_nothing() -> None:
    async with Runner(processes=1, options={"lane": "process"}) as runner:
        job = await runner.submit(jobs.echo, 1)
        assert (job.lane, await job) == ("process", 1)


async def test_added_lanes_are_used_by_name_and_built_in_ones_can_be_replaced() -> None:
    lanes = {"thread": aj.ThreadLane(1), "disk": aj.ThreadLane(2), "gpu": aj.ProcessLane(1, env={"DEVICE": "7"})}
    async with Runner(lanes=lanes) as runner:
        assert runner.stats().lanes["thread"].places == 1
        job = await runner.options(lane="disk").submit(lambda: threading.current_thread().name)
        assert "disk" in await job
        assert await runner.options(lane="gpu").run(lambda: __import__("os").environ["DEVICE"]) == "7"


def test_one_lane_under_two_names_is_refused() -> None:
    lane = aj.ThreadLane(2)
    with pytest.raises(ValueError, match="lanes 'a' and 'b' are one object"):
        Runner(lanes={"a": lane, "b": lane})


@pytest.mark.slow
async def test_a_lane_belongs_to_one_open_runner_and_may_go_to_another_after_its_end() -> None:
    lanes = {"disk": aj.ThreadLane(2), "kernels": aj.ProcessLane(1), "calls": aj.LoopLane(3)}
    for _ in range(2):
        async with Runner(lanes=lanes) as runner:
            for name, lane in lanes.items():
                other = Runner(lanes={"mine": lane})
                with pytest.raises(ValueError, match=f"lane 'mine' is lane '{name}' of another open runner"):
                    await other.__aenter__()
            for name in ("disk", "kernels"):
                assert await runner.options(lane=name).run(jobs.echo, name) == name
            assert await runner.options(lane="calls").run(jobs.aecho, 1) == 1
            assert [runner.stats().lanes[name].succeeded for name in lanes] == [1, 1, 1]


async def test_two_runners_that_open_at_once_do_not_share_a_lane() -> None:
    lane = aj.ThreadLane(2)
    runners = [Runner(lanes={"disk": lane}) for _ in range(2)]
    opened = await asyncio.gather(*(runner.__aenter__() for runner in runners), return_exceptions=True)
    assert isinstance(opened[0], Runner)
    assert isinstance(opened[1], ValueError)
    await opened[0].aclose()


async def test_a_lane_is_free_again_when_its_runner_could_not_open() -> None:
    lane = aj.ThreadLane(2)
    bad = aj.ProcessLane(1, env={"PYTHONHASHSEED": "0"}, start_method="forkserver")
    with pytest.raises(ValueError, match="start_method"):
        await Runner(lanes={"disk": lane, "bad": bad}).__aenter__()
    async with Runner(lanes={"disk": lane}) as runner:
        assert await runner.options(lane="disk").run(jobs.echo, 1) == 1


# --- the options ------------------------------------------------------------------------


@pytest.mark.slow
@each_lane
async def test_higher_priority_runs_first_and_equals_in_their_order(lane: str, tmp_path: Any) -> None:
    async with Runner(processes=1, threads=1, coroutines=1) as runner:
        go = CancelToken()
        holder = await runner.options(lane=lane).submit(HOLD[lane], go)
        await running(runner, holder)
        for text, priority in (("a", 0), ("b", -1), ("c", 5), ("d", 0), ("e", 5)):
            await runner.options(lane=lane, priority=priority).submit(jobs.WRITE[lane], str(tmp_path / "order"), text)
        go.cancel()
        await runner.join()
    assert lines(tmp_path / "order") == ["c", "e", "a", "d", "b"]


@pytest.mark.slow
@each_lane
async def test_a_job_past_its_timeout_is_timed_out_and_says_which_limit(runner: Runner, lane: str) -> None:
    job = await runner.options(lane=lane, timeout=0.1, grace=0.1).submit(LISTEN[lane])
    with pytest.raises(aj.JobTimeout, match=r"ran longer than its timeout of 0\.1 s \(attempt 1\)") as caught:
        await job
    assert isinstance(caught.value, TimeoutError)
    assert (caught.value.limit, caught.value.seconds) == ("timeout", 0.1)
    assert job.state is JobState.TIMED_OUT
    ended_once(job)
    await still_works(runner, lane)


@pytest.mark.slow
@each_lane
async def test_a_value_that_comes_after_the_time_limit_does_not_count(runner: Runner, lane: str) -> None:
    job = await runner.options(lane=lane, timeout=0.1).submit(jobs.OBLIGING[lane])
    with pytest.raises(aj.JobTimeout):
        await job
    assert job.state is JobState.TIMED_OUT


@pytest.mark.slow
@each_lane
async def test_the_timeout_counts_from_the_start_not_from_submit(lane: str) -> None:
    async with Runner(processes=1, threads=1, coroutines=1) as runner:
        holder, go = await held(runner, lane)
        job = await runner.options(lane=lane, timeout=0.2).submit(ECHO[lane], "in time")
        await asyncio.sleep(0.3)  # longer than the limit: the point of the test
        assert job.state is JobState.QUEUED
        go.cancel()
        assert await job == "in time"
        await holder


@pytest.mark.slow
@each_lane
async def test_a_job_that_waits_longer_than_its_queue_timeout_never_runs(lane: str, tmp_path: Any) -> None:
    async with Runner(processes=1) as runner:
        runner.lane(lane).pause()
        job = await runner.options(lane=lane, queue_timeout=0.05).submit(jobs.WRITE[lane], str(tmp_path / "ran"))
        with pytest.raises(aj.JobTimeout, match="waited longer than its queue_timeout") as caught:
            await job
        assert caught.value.limit == "queue_timeout"
        assert [mark.state for mark in job.history] == [JobState.QUEUED, JobState.TIMED_OUT]
        runner.lane(lane).resume()
        await still_works(runner, lane)
    assert lines(tmp_path / "ran") == []


@pytest.mark.slow
@each_lane
async def test_the_queue_timeout_leaves_a_job_alone_that_has_started(runner: Runner, lane: str) -> None:
    go = CancelToken()
    job = await runner.options(lane=lane, queue_timeout=5).submit(HOLD[lane], go, "fine")
    await running(runner, job)
    runner._engine.dispatchers[lane]._too_late(job, None, "queue_timeout", "late")
    assert job.state is JobState.RUNNING
    go.cancel()
    assert await job == "fine"


@pytest.mark.slow
@each_lane
async def test_the_deadline_bounds_the_whole_job_retries_included(runner: Runner, lane: str, tmp_path: Any) -> None:
    await still_works(runner, lane)
    path = str(tmp_path / "attempts")
    retry = Retry(100, backoff=0.02, jitter=0)
    job = await runner.options(lane=lane, deadline=0.5, retries=retry).submit(FAIL_UNTIL[lane], path, 1000)
    async with asyncio.timeout(5):
        with pytest.raises(aj.JobTimeout, match="did not end within its deadline") as caught:
            await job
    assert caught.value.limit == "deadline"
    assert job.state is JobState.TIMED_OUT
    tried = len(lines(path))
    assert 2 <= tried < 100
    await still_works(runner, lane)
    assert len(lines(path)) == tried


async def test_the_deadline_holds_although_it_passes_while_an_attempt_is_being_stopped(runner: Runner) -> None:
    # 1. The attempt's own limit asks it to stop. 2. It takes its time. 3. Meanwhile the
    # deadline passes. 4. It stops: another attempt would run without any deadline.
    gate = Gate()
    calls = []

    async def slow_to_stop() -> None:
        calls.append(1)
        try:
            await asyncio.sleep(jobs.LONG)
        finally:
            await gate.passed()

    with gate:
        job = await runner.options(timeout=0.05, deadline=0.15, retries=5).submit(slow_to_stop)
        await gate.arrival()
        await asyncio.sleep(0.2)  # until the deadline has passed: the point of the test
        gate.open()
        with pytest.raises(aj.JobTimeout):
            await job
    assert job.state is JobState.TIMED_OUT
    assert calls == [1]


@pytest.mark.slow
@each_lane
async def test_a_failed_job_is_tried_again_as_often_as_its_retries_say(
    runner: Runner, lane: str, tmp_path: Any
) -> None:
    path = str(tmp_path / "attempts")
    job = await runner.options(lane=lane, retries=3).submit(FAIL_UNTIL[lane], path, 3)
    assert await job == 3
    assert job.attempt == 3
    assert lines(path) == ["attempt 1", "attempt 2", "attempt 3"]
    assert [mark.state.name for mark in job.history] == (
        ["QUEUED", "RUNNING", "WAITING", "QUEUED", "RUNNING", "WAITING", "QUEUED", "RUNNING", "SUCCEEDED"]
    )
    assert runner.stats().retries == 2


@pytest.mark.slow
@each_lane
async def test_when_the_retries_are_spent_the_last_error_is_the_jobs(runner: Runner, lane: str, tmp_path: Any) -> None:
    path = str(tmp_path / "attempts")
    job = await runner.options(lane=lane, retries=Retry(2, backoff=0.0)).submit(FAIL_UNTIL[lane], path, 99)
    with pytest.raises(ConnectionError, match="attempt 3"):
        await job
    assert len(lines(path)) == 3
    ended_once(job)


async def test_retry_listens_to_the_kind_of_error(runner: Runner, tmp_path: Any) -> None:
    path = str(tmp_path / "attempts")
    for retry in (Retry(5, backoff=0, on=ValueError), Retry(5, backoff=0, give_up_on=ConnectionError)):
        with pytest.raises(ConnectionError, match="attempt 1"):
            await runner.options(retries=retry).run(jobs.fail_until, path, 99)
    assert len(lines(path)) == 2


@pytest.mark.slow
@each_lane
async def test_a_timed_out_attempt_is_tried_again(runner: Runner, lane: str, tmp_path: Any) -> None:
    path = str(tmp_path / "attempts")

    def slow_once() -> str:
        jobs.write_line(path)
        if aj.current_job().attempt == 1:
            aj.current_job().token.wait(jobs.LONG)
            aj.current_job().token.check()
        return "second time lucky"

    async def aslow_once() -> str:
        jobs.write_line(path)
        if aj.current_job().attempt == 1:
            await asyncio.sleep(jobs.LONG)
        return "second time lucky"

    fn: Any = aslow_once if lane == "loop" else slow_once
    job = await runner.options(lane=lane, timeout=1.0, retries=1).submit(fn)
    assert await job == "second time lucky"
    assert len(lines(path)) == 2


@each_lane
async def test_a_cancelled_job_is_never_tried_again(runner: Runner, lane: str) -> None:
    job = await runner.options(lane=lane, retries=5, grace=0.1).submit(LISTEN[lane])
    await running(runner, job)
    job.cancel()
    with pytest.raises(aj.JobCancelled):
        await job
    assert job.attempt == 1
    ended_once(job)


@pytest.mark.slow
@each_lane
async def test_a_cancel_while_a_timed_out_attempt_stops_ends_the_job_for_good(runner: Runner, lane: str) -> None:
    # The first reason wins; the second must not be forgotten all the same: no retry.
    go = CancelToken()
    options = {"lane": lane, "timeout": 0.05, "retries": 5, "grace": 20.0}
    job = await runner.options(**options).submit(jobs.STUBBORN[lane], go)  # type: ignore[arg-type]
    await reaches(runner, job, JobState.STOPPING)
    assert job.cancel("enough") == "requested"
    go.cancel()
    with pytest.raises(aj.JobTimeout):  # the first reason wins
        await job
    assert (job.state, job.attempt) == (JobState.TIMED_OUT, 1)
    ended_once(job)


@pytest.mark.slow
async def test_a_lost_job_fails_unless_it_is_to_be_tried_again(runner: Runner, tmp_path: Any) -> None:
    def die_once(path: str) -> int:
        jobs.write_line(path)
        if len(jobs.lines(path)) < 3:
            jobs.die(7)
        return len(jobs.lines(path))

    process = runner.options(lane="process")
    job = await process.submit(die_once, str(tmp_path / "a"))
    with pytest.raises(aj.WorkerLost) as caught:
        await job
    assert (job.state, caught.value.exit_code, caught.value.signal) == (JobState.LOST, 7, None)
    assert await runner.options(lane="process", lost="retry").run(die_once, str(tmp_path / "b")) == 3
    with pytest.raises(aj.WorkerLost):
        await runner.options(lane="process", lost="retry", retries=1).run(die_once, str(tmp_path / "c"))
    assert len(lines(tmp_path / "c")) == 2
    await still_works(runner, "process")


@pytest.mark.slow
@each_lane
async def test_a_live_job_with_the_same_key_is_returned_and_not_doubled(runner: Runner, lane: str) -> None:
    go = CancelToken()
    keyed = runner.options(lane=lane, key="plot")
    first = await keyed.submit(HOLD[lane], go, 1)
    assert await keyed.submit(HOLD[lane], go, 2) is first
    assert keyed.submit_nowait(HOLD[lane], go, 3) is first
    other = await runner.options(lane=lane, key="other").submit(ECHO[lane], 4)
    assert other is not first
    go.cancel()
    assert (await first, await other) == (1, 4)
    again = await keyed.submit(ECHO[lane], 5)
    assert again is not first
    assert await again == 5


async def test_two_submits_with_one_key_that_wait_for_room_make_one_job() -> None:
    async with Runner(queue_size=1) as runner:
        runner.lane("thread").pause()
        blocker = await runner.submit(jobs.echo, 0)
        waiting = [asyncio.create_task(runner.options(key="k").submit(jobs.echo, n)) for n in (1, 2)]
        for _ in range(5):
            await asyncio.sleep(0)
        runner.lane("thread").resume()
        first, second = await asyncio.gather(*waiting)
        assert first is second
        assert (await first, await blocker) == (1, 0)
        assert runner.stats().submitted == 2


@pytest.mark.slow
async def test_a_limiter_bounds_its_jobs_over_all_lanes(runner: Runner) -> None:
    limiter = anyio.CapacityLimiter(2)
    most = 0

    async def watch() -> None:
        nonlocal most
        with runner.events(4096) as events:
            now: set[str] = set()
            async for event in events:
                (now.add if event.state is JobState.RUNNING else now.discard)(event.job_id)
                most = max(most, len(now))

    watcher = asyncio.create_task(watch())
    await asyncio.sleep(0)
    made = [
        await runner.options(lane=lane, limiter=limiter).submit(ECHO[lane], number)
        for number in range(10)
        for lane in LANES
    ]
    assert sorted(await aj.gather(made)) == sorted(list(range(10)) * 3)
    assert limiter.borrowed_tokens == 0
    watcher.cancel()
    await asyncio.wait([watcher])
    assert 1 <= most <= 2


async def test_jobs_without_the_limiter_pass_by_those_that_wait_for_it(runner: Runner) -> None:
    limiter = anyio.CapacityLimiter(1)
    go = CancelToken()
    limited = runner.options(limiter=limiter)
    holder = await limited.submit(jobs.hold, go)
    await running(runner, holder)
    behind = [await limited.submit(jobs.echo, n) for n in range(5)]
    assert await runner.run(jobs.echo, "free") == "free"
    assert {job.state for job in behind} == {JobState.QUEUED}
    assert behind[0].cancel() == "cancelled"
    go.cancel()
    assert await aj.gather(behind[1:]) == [1, 2, 3, 4]
    assert limiter.borrowed_tokens == 0


@each_lane
async def test_the_limiter_is_free_again_after_every_kind_of_end(runner: Runner, lane: str) -> None:
    limiter = anyio.CapacityLimiter(1)
    limited = runner.options(lane=lane, limiter=limiter, grace=0.1)
    failed = await limited.submit(FAIL[lane])
    assert isinstance(await _error_of(failed), ValueError)
    cancelled = await limited.submit(LISTEN[lane])
    await running(runner, cancelled)
    cancelled.cancel()
    assert isinstance(await _error_of(cancelled), aj.JobCancelled)
    late = await runner.options(lane=lane, limiter=limiter, grace=0.1, timeout=0.05).submit(LISTEN[lane])
    assert isinstance(await _error_of(late), aj.JobTimeout)
    assert limiter.borrowed_tokens == 0
    assert await limited.run(ECHO[lane], "free") == "free"


@pytest.mark.both_loops
async def test_output_is_captured_dropped_or_passed_on(capsys: pytest.CaptureFixture[str]) -> None:
    async with Runner(processes=2) as runner:
        drop, pass_on, capture = (runner.options(lane="process", output=how) for how in ("drop", "pass", "capture"))  # type: ignore[arg-type]
        for n in range(200):  # each goes to a worker that has just answered: what the one before printed may come later
            dropped = await drop.submit(jobs.shout, "gone")
            passed = await pass_on.submit(jobs.shout, "said")
            captured = await capture.submit(jobs.shout, f"kept {n}")
            await aj.gather([dropped, passed, captured])
            assert (dropped.output, passed.output, captured.output) == ("", "", f"kept {n}\n")
    assert capsys.readouterr().out == "said\n" * 200  # what is passed on has been written when the runner is closed


@pytest.mark.parametrize("lane", ["thread", "process"])
async def test_a_snapshot_is_taken_at_submit(lane: str) -> None:
    async with Runner(processes=1) as runner:
        for name in ("thread", lane):
            runner.lane(name).pause()
        values = [1, 2]
        copied = await runner.options(lane=lane, snapshot=True).submit(sum, values)
        shared = await runner.options(lane="thread").submit(sum, values)
        values.append(3)
        for name in ("thread", lane):
            runner.lane(name).resume()
        assert (await copied, await shared) == (3, 6)


async def test_a_result_larger_than_max_result_fails_its_job_only(runner: Runner) -> None:
    small = runner.options(lane="process", max_result=1000)
    assert len(await small.run(bytes, 900)) == 900
    job = await small.submit(bytes, 2000)
    with pytest.raises(aj.ResultTooLarge, match="max_result is 1000") as caught:
        await job
    assert caught.value.limit == 1000
    assert caught.value.nbytes >= 2000
    assert len(await runner.options(lane="process").run(bytes, 2000)) == 2000


@pytest.mark.slow
@each_lane
async def test_a_shared_token_stops_all_its_jobs_queued_and_running(runner: Runner, lane: str) -> None:
    token = CancelToken()
    tied = runner.options(lane=lane, token=token, grace=0.1)
    first = await tied.submit(LISTEN[lane])
    await running(runner, first)
    runner.lane(lane).pause()
    second = await tied.submit(ECHO[lane])
    free = await runner.options(lane=lane).submit(ECHO[lane], "free")
    token.cancel("found it")
    for job in (first, second):
        with pytest.raises(aj.JobCancelled, match="found it"):
            await job
    runner.lane(lane).resume()
    assert await free == "free"


@pytest.mark.slow
@each_lane
async def test_a_job_with_a_cancelled_token_is_accepted_and_cancelled(runner: Runner, lane: str) -> None:
    token = CancelToken()
    token.cancel("over before it began")
    job = await runner.options(lane=lane, token=token).submit(ECHO[lane])
    with pytest.raises(aj.JobCancelled, match="over before it began"):
        await job
    assert runner.jobs() == []
    ended_once(job)
    await still_works(runner, lane)


async def test_a_token_outlives_its_jobs_and_keeps_nothing_of_them(runner: Runner) -> None:
    token = CancelToken()
    await aj.gather([await runner.options(token=token).submit(jobs.aecho, n) for n in range(100)])
    assert len(token._callbacks or ()) == 0


# --- the runner as a whole --------------------------------------------------------------


async def test_jobs_lists_the_living_oldest_first(runner: Runner) -> None:
    first, go_first = await held(runner, "loop")
    second, go_second = await held(runner, "thread")
    done = await runner.submit(jobs.echo)
    await done
    assert runner.jobs() == [first, second]
    go_first.cancel()
    await first
    assert runner.jobs() == [second]
    go_second.cancel()


@pytest.mark.slow
async def test_cancel_all_asks_every_job_and_says_how_many_there_were(runner: Runner) -> None:
    made = [await runner.options(lane=lane, grace=0.2).submit(LISTEN[lane]) for lane in LANES]
    for job in made:
        await running(runner, job)
    runner.lane("thread").pause()
    made.append(await runner.submit(jobs.echo))
    assert runner.cancel_all("lights out") == 4
    for job in made:
        with pytest.raises(aj.JobCancelled, match="lights out"):
            await job
    runner.lane("thread").resume()
    await still_works(runner)
    assert runner.cancel_all() == 0


@pytest.mark.slow
async def test_join_waits_for_what_was_submitted_so_far_however_it_ends(runner: Runner) -> None:
    made = [await runner.options(lane=lane).submit(fn[lane]) for lane in LANES for fn in (ECHO, FAIL)]
    await runner.join()
    assert all(job.done() for job in made)
    assert [job.exception() is None for job in made] == [True, False] * 3
    await runner.join()


@pytest.mark.slow
@each_lane
async def test_a_paused_lane_starts_nothing_and_goes_on_when_resumed(lane: str) -> None:
    async with Runner(processes=1) as runner:
        going, go = await held(runner, lane, "went on")
        runner.lane(lane).pause()
        waiting = [await runner.options(lane=lane).submit(ECHO[lane], n) for n in range(3)]
        go.cancel()
        assert await going == "went on"
        for other in LANES:
            if other != lane:
                await still_works(runner, other)
        assert {job.state for job in waiting} == {JobState.QUEUED}
        runner.lane(lane).resume()
        assert await aj.gather(waiting) == [0, 1, 2]


@pytest.mark.slow
@each_lane
async def test_a_lane_grows_and_shrinks_while_it_works(lane: str) -> None:
    async with Runner(processes=1, threads=1, coroutines=1) as runner:
        first, go_first = await held(runner, lane)
        second = await runner.options(lane=lane).submit(HOLD[lane], go := CancelToken())
        assert second.state is JobState.QUEUED
        runner.lane(lane).resize(2)
        await running(runner, second)
        assert (first.state, runner.stats().lanes[lane].places) == (JobState.RUNNING, 2)
        runner.lane(lane).resize(1)
        third = await runner.options(lane=lane).submit(ECHO[lane], 3)
        go_first.cancel()
        await first
        go.cancel()
        await second
        assert await third == 3
        assert runner.stats().lanes[lane].places == 1


STEERING = {
    "pause": lambda runner, lane: runner.lane(lane).pause(),
    "resume": lambda runner, lane: runner.lane(lane).resume(),
    "resize": lambda runner, lane: runner.lane(lane).resize(3),
}
ELSEWHERE = {
    **STEERING,
    "events": lambda runner, _: runner.events(),
    "share": lambda runner, _: runner.share([1]),
}


@each_lane
@pytest.mark.parametrize("steer", STEERING.values(), ids=STEERING)
async def test_a_lane_is_not_steered_from_a_thread(runner: Runner, lane: str, steer: Any) -> None:
    runner.lane(lane).pause()
    job = await runner.options(lane=lane).submit(ECHO[lane], 1)
    with pytest.raises(aj.WrongLoop, match="a thread or process without its event loop"):
        await asyncio.to_thread(steer, runner, lane)
    assert job.state is JobState.QUEUED
    runner.lane(lane).resume()
    assert await job == 1


async def test_events_shares_cancels_and_maps_are_refused_in_a_thread_and_on_another_loop(runner: Runner) -> None:
    async def collect() -> None:
        await runner.map(jobs.square, [1]).collect()

    async def iterate() -> None:
        async for _ in runner.map(jobs.square, [1]):
            pass

    calls = [lambda: ELSEWHERE["events"](runner, ""), lambda: ELSEWHERE["share"](runner, ""), runner.cancel_all]
    calls += [lambda: asyncio.run(collect()), lambda: asyncio.run(iterate())]
    for call in calls:
        with pytest.raises(aj.WrongLoop):
            await asyncio.to_thread(call)
    await still_works(runner)


@pytest.mark.parametrize("call", ELSEWHERE.values(), ids=ELSEWHERE)
async def test_what_comes_after_the_close_is_refused_as_such(call: Any) -> None:
    async with Runner() as runner:
        await runner.run(len, "")
    for lane in LANES:
        with pytest.raises(aj.RunnerClosed, match="the runner is closed"):
            call(runner, lane)
    assert runner.cancel_all() == 0


@pytest.mark.slow
@each_lane
async def test_a_lane_shows_what_it_is_and_nothing_of_the_engine(lane: str) -> None:
    async with Runner(processes=2, threads=2, coroutines=2) as runner:
        handle = runner.lane(lane)
        assert [name for name in dir(handle) if not name.startswith("_")] == ["name", "pause", "resize", "resume"]
        assert handle.name == lane
        job, go = await held(runner, lane)
        assert repr(handle) == f"<LaneHandle {lane!r} open: 1 of 2 places busy, 0 queued>"
        handle.pause()
        waiting = await runner.options(lane=lane).submit(ECHO[lane], 1)
        assert repr(handle) == f"<LaneHandle {lane!r} paused: 1 of 2 places busy, 1 queued>"
        handle.resume()
        go.cancel()
        await aj.gather([job, waiting])
    assert repr(handle) == f"<LaneHandle {lane!r} closed: 0 of 2 places busy, 0 queued>"


@pytest.mark.slow
async def test_events_tell_each_move_in_order(runner: Runner) -> None:
    for lane in LANES:
        with runner.events() as events:
            job = await runner.options(lane=lane, name="told").submit(
                jobs.awho_am_i if lane == "loop" else jobs.who_am_i
            )
            seen = []
            async for event in events:
                assert (event.job_id, event.name, event.lane, event.attempt) == (job.id, "told", lane, 1)
                seen.append(event)
                if event.state.is_final:
                    break
        assert [event.state for event in seen if event.progress is None] == (
            [JobState.QUEUED, JobState.RUNNING, JobState.SUCCEEDED]
        )
        assert [event.at for event in seen] == sorted(event.at for event in seen)


async def test_a_slow_subscriber_loses_the_oldest_events_and_delays_nobody(runner: Runner) -> None:
    events = runner.events(size=4)
    await aj.gather([await runner.submit(jobs.aecho, n) for n in range(10)])
    assert events.dropped == 26
    events.close()
    assert len([event async for event in events]) == 4


async def test_closing_the_runner_ends_the_iteration_over_events() -> None:
    async with Runner() as runner:
        events = runner.events()
        await runner.run(jobs.aecho)
    assert [event.state.name async for event in events] == ["QUEUED", "RUNNING", "SUCCEEDED"]


@pytest.mark.slow
async def test_stats_count_each_end_by_lane_and_in_total(runner: Runner) -> None:
    for lane in LANES:
        made = [
            await runner.options(lane=lane).submit(ECHO[lane]),
            await runner.options(lane=lane).submit(FAIL[lane]),
            await runner.options(lane=lane, timeout=0.05, grace=0.1).submit(LISTEN[lane]),
        ]
        for job in made:
            await job.wait()
            job.exception()
        runner.lane(lane).pause()
        (await runner.options(lane=lane).submit(ECHO[lane])).cancel()
        runner.lane(lane).resume()
    job = await runner.options(lane="process").submit(jobs.die)
    assert isinstance(await _error_of(job), aj.WorkerLost)
    stats = runner.stats()
    assert (stats.submitted, stats.succeeded, stats.failed, stats.timed_out) == (13, 3, 3, 3)
    assert (stats.cancelled, stats.lost, stats.crashes, stats.retries) == (3, 1, 1, 0)
    for lane in LANES:
        figures = stats.lanes[lane]
        assert (figures.succeeded, figures.failed, figures.timed_out, figures.cancelled) == (1, 1, 1, 1)
        assert (figures.queued, figures.queue_size) == (0, 1024)
        assert figures.run.count >= 3
    assert len(stats.spans) == 13
    assert {span.state for span in stats.spans} == {"SUCCEEDED", "FAILED", "TIMED_OUT", "CANCELLED", "LOST"}


async def test_the_history_of_finished_jobs_is_bounded() -> None:
    async with Runner(history=5) as runner:
        await aj.gather([await runner.submit(jobs.aecho, n) for n in range(20)])
        assert len(runner.stats().spans) == 5
        assert runner.stats().succeeded == 20


async def test_report_gives_figures(runner: Runner) -> None:
    await runner.run(jobs.echo)
    assert len(runner.report()) >= 3


# --- several jobs -----------------------------------------------------------------------


async def test_gather_gives_the_values_in_the_order_of_the_jobs(runner: Runner) -> None:
    slow, go = await held(runner, "thread", "slow")
    fast = await runner.submit(jobs.echo, "fast")
    await fast
    asyncio.get_running_loop().call_soon(go.cancel)
    assert await aj.gather(job for job in (slow, fast)) == ["slow", "fast"]
    assert await aj.gather([]) == []


async def test_gather_raises_the_first_failure_and_leaves_the_others_alone(runner: Runner) -> None:
    other = await runner.submit(jobs.echo, 1)
    bad = await runner.submit(jobs.fail, "first")
    worse = await runner.submit(jobs.fail, "second")
    with pytest.raises(ValueError, match="first"):
        await aj.gather([other, bad, worse])
    assert isinstance(worse.exception(), ValueError)
    assert other.state is JobState.SUCCEEDED


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([1], "jobs[1]=1 is not allowed; allowed: a Job"),
        ([None], "jobs[1]=None is not allowed; allowed: a Job"),
        (3, "jobs=3 is not allowed; allowed: an iterable"),
    ],
)
async def test_gather_and_as_completed_name_what_is_no_job(runner: Runner, wrong: Any, message: str) -> None:
    job = await runner.submit(jobs.echo)
    given = [job, *wrong] if isinstance(wrong, list) else wrong
    for call in (lambda: aj.as_completed(given), lambda: aj.gather(given).send(None)):
        with pytest.raises(TypeError) as caught:
            call()
        assert str(caught.value).startswith(message)


async def test_as_completed_hands_out_each_job_as_it_ends(runner: Runner) -> None:
    slow, go = await held(runner, "thread", "slow")
    failed = await runner.submit(jobs.fail)
    await failed.wait()
    order = []
    async for job in aj.as_completed([slow, failed]):
        order.append(job)
        if job is failed:
            assert isinstance(job.exception(), ValueError)
            go.cancel()
    assert order == [failed, slow]
    assert [job async for job in aj.as_completed([])] == []


async def test_gather_and_as_completed_work_from_another_loop(runner: Runner) -> None:
    first, go_first = await held(runner, "thread", 1)
    second, go_second = await held(runner, "loop", 2)
    gate = Gate()

    async def elsewhere() -> tuple[list[int], list[int]]:
        async with asyncio.timeout(10):
            gate.open()
            done = [job.result() async for job in aj.as_completed([first, second])]
            return done, await aj.gather([first, second])

    answer = asyncio.create_task(asyncio.to_thread(asyncio.run, elsewhere()))
    while not gate.is_open:
        await asyncio.sleep(0)
    go_second.cancel()
    await second
    go_first.cancel()
    assert await answer == ([2, 1], [1, 2])


# --- the handle -------------------------------------------------------------------------


@each_lane
async def test_a_job_can_be_awaited_many_times_and_by_many(runner: Runner, lane: str) -> None:
    job, go = await held(runner, lane, "value")
    waiters = [asyncio.create_task(_await(job)) for _ in range(20)]
    await asyncio.sleep(0)
    go.cancel()
    assert await asyncio.gather(*waiters) == ["value"] * 20
    assert (await job, await job, job.result()) == ("value",) * 3


@pytest.mark.slow
@each_lane
async def test_a_job_can_be_awaited_from_other_loops(runner: Runner, lane: str) -> None:
    job, go = await held(runner, lane, "value")
    gate = Gate()

    async def elsewhere() -> str:
        gate.open()
        return await job

    threads = [asyncio.create_task(asyncio.to_thread(asyncio.run, elsewhere())) for _ in range(3)]
    while not gate.is_open:
        await asyncio.sleep(0)
    go.cancel()
    assert await asyncio.gather(*threads) == ["value"] * 3
    assert await asyncio.to_thread(asyncio.run, elsewhere()) == "value"


@pytest.mark.slow
async def test_another_loop_that_was_closed_while_it_waited_harms_nobody(runner: Runner) -> None:
    job, go = await held(runner, "process", "value")
    neighbour, go_on = await held(runner, "process", "untouched")

    def wait_and_vanish() -> asyncio.Task[Any]:
        loop = asyncio.new_event_loop()
        task = loop.create_task(_await(job))
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        return task

    forsaken = await asyncio.to_thread(wait_and_vanish)
    forsaken._log_destroy_pending = False  # type: ignore[attr-defined] - left pending on purpose
    go.cancel()
    assert await job == "value"
    assert neighbour.state is JobState.RUNNING
    go_on.cancel()
    assert await neighbour == "untouched"
    await still_works(runner)


@pytest.mark.slow
@each_lane
async def test_cancelling_one_awaiter_does_not_cancel_the_job(runner: Runner, lane: str) -> None:
    job, go = await held(runner, lane, "value")
    one, other = asyncio.create_task(_await(job)), asyncio.create_task(_await(job))
    await asyncio.sleep(0)
    one.cancel()
    with pytest.raises(asyncio.CancelledError):
        await one
    assert job.state is JobState.RUNNING
    go.cancel()
    assert await other == "value"


async def test_history_lists_each_state_with_its_time_in_epoch_seconds(runner: Runner) -> None:
    import time

    before = time.time()
    job = await runner.submit(jobs.echo)
    await job
    assert [mark.state.name for mark in job.history] == ["QUEUED", "RUNNING", "SUCCEEDED"]
    assert all(before - 0.1 <= mark.at <= time.time() + 0.1 for mark in job.history)


async def test_ids_are_unique_and_names_come_from_the_function_or_the_option(runner: Runner) -> None:
    made = [await runner.submit(jobs.echo) for _ in range(3)]
    made.append(await runner.options(name="mine").submit(jobs.echo))
    made.append(await runner.submit(functools.partial(jobs.echo, 1)))
    await runner.join()
    assert len({job.id for job in made}) == 5
    assert [job.name for job in made] == ["echo", "echo", "echo", "mine", "echo"]
    assert repr(made[3]) == f"<Job {made[3].id} 'mine' SUCCEEDED in lane 'thread'>"


async def test_result_and_exception_of_a_job_that_has_not_ended_raise(runner: Runner) -> None:
    job, go = await held(runner, "loop")
    for question in (job.result, job.exception):
        with pytest.raises(asyncio.InvalidStateError, match="has not ended; await it"):
            question()
    assert not job.done()
    go.cancel()
    await job
    assert job.exception() is None


@pytest.mark.slow
@each_lane
async def test_a_failed_job_raises_its_own_exception_with_the_place_where_it_happened(
    runner: Runner, lane: str
) -> None:
    job = await runner.options(lane=lane).submit(FAIL[lane], "mine")
    with pytest.raises(ValueError, match="mine") as caught:
        await job
    assert job.exception() is caught.value
    import traceback

    assert "runner_jobs.py" in "".join(traceback.format_exception(caught.value))


@pytest.mark.slow
@pytest.mark.parametrize("error", [StopIteration, StopAsyncIteration, KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize("lane", ["thread", "process"])
async def test_what_cannot_travel_through_an_await_comes_as_remote_error_with_the_original(
    runner: Runner, lane: str, error: type[BaseException]
) -> None:
    def throw(kind: type[BaseException]) -> None:
        raise kind("original")

    job = await runner.options(lane=lane).submit(throw, error)
    with pytest.raises(aj.RemoteError) as caught:
        await job
    assert type(caught.value.original) is error
    assert type(job.exception()) is error
    assert job.state is JobState.FAILED
    await still_works(runner, lane)


@each_lane
async def test_progress_that_no_bar_could_show_is_refused_at_the_call(runner: Runner, lane: str) -> None:
    fn = jobs.atell if lane == "loop" else jobs.tell
    wrong: list[tuple[tuple[Any, ...], str]] = [
        ((math.nan,), "done=nan"),
        ((math.inf, 3), "done=inf"),
        ((-1,), "done=-1"),
        (("half",), "done='half'"),
        ((True,), "done=True"),
        ((10**400,), "done=1000"),
        ((1, -3), "total=-3"),
        ((1, -math.inf), "total=-inf"),
        ((1, "3"), "total='3'"),
        ((1, 3, 5), "note=5"),
    ]
    for args, said in wrong:
        job = await runner.options(lane=lane).submit(fn, *args)
        with pytest.raises(ValueError, match=re.escape(said)) as caught:
            await job
        assert "is not allowed; allowed: " in str(caught.value)
        assert job.progress is None


@each_lane
async def test_progress_takes_the_numbers_of_any_library_and_more_than_the_total(runner: Runner, lane: str) -> None:
    fn = jobs.atell if lane == "loop" else jobs.tell
    for args, seen in [
        ((np.float32(0.5), np.int64(2)), (0.5, 2, "")),
        ((Fraction(1, 2),), (0.5, None, "")),
        ((5, 3, "more"), (5, 3, "more")),
        ((0, 0), (0, 0, "")),
    ]:
        job = await runner.options(lane=lane).submit(fn, *args)
        await job
        assert job.progress == seen
        assert [type(number) for number in job.progress[:2]] == [type(number) for number in seen[:2]]


@pytest.mark.slow
@each_lane
async def test_progress_shows_the_last_word_of_the_job(runner: Runner, lane: str) -> None:
    runner.lane(lane).pause()
    job = await runner.options(lane=lane).submit(jobs.awho_am_i if lane == "loop" else jobs.who_am_i)
    assert job.progress is None
    runner.lane(lane).resume()
    await job
    assert job.progress == (3, 3, "step 3")
    assert job.progress.share == 1.0


async def test_callbacks_get_the_ended_job_on_the_runners_loop(runner: Runner) -> None:
    job, go = await held(runner, "thread", 5)
    told: list[tuple[Any, str]] = []

    def callback(ended: Job[Any]) -> None:
        asyncio.get_running_loop()
        told.append((ended.result(), threading.current_thread().name))

    job.add_done_callback(callback)
    await asyncio.to_thread(job.add_done_callback, callback)
    go.cancel()
    await job
    job.add_done_callback(callback)
    while len(told) < 3:
        await asyncio.sleep(0)
    assert told == [(5, threading.main_thread().name)] * 3


async def test_a_callback_that_is_no_function_is_refused_at_the_call(runner: Runner) -> None:
    job = await runner.submit(jobs.echo)
    with pytest.raises(TypeError, match=r"^callback=3 is not allowed; allowed: a function"):
        job.add_done_callback(3)  # type: ignore[arg-type]


def test_a_callback_that_comes_after_the_loop_has_closed_is_called_at_once() -> None:
    async def main() -> Job[int]:
        async with Runner() as runner:
            job: Job[int] = await runner.submit(jobs.echo, 3)
        return job

    job = asyncio.run(main())
    told: list[int] = []
    job.add_done_callback(lambda ended: told.append(ended.result()))
    assert told == [3]
    assert job.cancel() == "ended"


@pytest.mark.slow
async def test_a_failure_that_nobody_looked_at_is_logged_once_with_its_name(
    runner: Runner, caplog: pytest.LogCaptureFixture
) -> None:
    for lane in LANES:
        gc.collect()
        caplog.clear()
        with caplog.at_level(logging.ERROR, "asyncjobs"):
            job = await runner.options(lane=lane, name=f"forgotten in {lane}").submit(FAIL[lane], "unseen")
            await job.wait()
            del job
            async with asyncio.timeout(5):
                while not caplog.records:  # the last reference may be its thread's
                    gc.collect()
                    await asyncio.sleep(0)
        (record,) = caplog.records
        assert f"'forgotten in {lane}'" in record.getMessage()
        assert "unseen" in record.getMessage()


@pytest.mark.slow
async def test_a_failure_that_somebody_looked_at_is_not_logged(
    runner: Runner, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, "asyncjobs"):
        for look in (_error_of, _look, _look_in_callback):
            job = await runner.submit(jobs.fail)
            await look(job)
            del job
        with pytest.raises(ValueError):
            await runner.run(jobs.fail)
        with pytest.raises(ValueError):
            await aj.gather([await runner.submit(jobs.fail)])
        assert await runner.map(jobs.fail, "ab", on_error="skip").collect() == []
        cancelled = await runner.submit(jobs.listen)
        cancelled.cancel()
        await cancelled.wait()
        del cancelled
        gc.collect()
    assert caplog.records == []


@pytest.mark.slow
async def test_a_worker_survives_the_import_of_modules_that_register_exit_hooks(runner: Runner) -> None:
    def pid_after_import(name: str) -> int:
        import importlib
        import os

        importlib.import_module(name)
        return os.getpid()

    process = runner.options(lane="process")
    runner.lane("process").resize(1)
    pids = {await process.run(pid_after_import, name) for name in ("logging", "runner_jobs", "multiprocessing.util")}
    assert len(pids) == 1


# --- inside a job -----------------------------------------------------------------------


@pytest.mark.slow
@each_lane
async def test_current_job_says_the_same_in_every_lane(runner: Runner, lane: str) -> None:
    job = await runner.options(lane=lane, name="mine").submit(jobs.awho_am_i if lane == "loop" else jobs.who_am_i)
    assert await job == {"id": job.id, "name": "mine", "attempt": 1, "cancelled": False, "waited": False}


async def test_current_job_outside_a_job_is_an_error(runner: Runner) -> None:
    await runner.run(jobs.aecho)
    with pytest.raises(RuntimeError, match="outside a job"):
        aj.current_job()


@pytest.mark.slow
async def test_loop_and_thread_jobs_reach_their_runner_and_process_jobs_are_told_why_not(runner: Runner) -> None:
    async def parent() -> int:
        return await aj.current_job().runner.run(jobs.echo, 1)

    def threaded() -> int:
        mine = aj.current_job().runner
        return asyncio.run_coroutine_threadsafe(mine.run(jobs.aecho, 2), mine.loop).result(10)

    assert await runner.run(parent) == 1
    assert await runner.run(threaded) == 2
    with pytest.raises(RuntimeError, match="runs in a worker process, where there is no runner"):
        await runner.options(lane="process").run(lambda: aj.current_job().runner)


@pytest.mark.slow
async def test_a_submit_from_inside_a_process_job_is_an_error_that_says_so(runner: Runner) -> None:
    def submits() -> None:
        aj.current_job().runner.submit_nowait(len, "x")

    job = await runner.options(lane="process", name="parent").submit(submits)
    with pytest.raises(RuntimeError, match="job 'parent' runs in a worker process"):
        await job


@each_lane
async def test_a_job_that_stops_itself_is_cancelled_with_its_own_reason(runner: Runner, lane: str) -> None:
    def stop_myself() -> None:
        aj.current_job().token.cancel("I am done")
        aj.current_job().token.check()

    async def astop_myself() -> None:
        stop_myself()

    job = await runner.options(lane=lane).submit(astop_myself if lane == "loop" else stop_myself)
    with pytest.raises(aj.JobCancelled, match="I am done"):
        await job


setting: contextvars.ContextVar[str] = contextvars.ContextVar("setting", default="unset")


@pytest.mark.parametrize("lane", ["loop", "thread"])
async def test_context_variables_are_those_of_the_submit_one_copy_per_attempt(runner: Runner, lane: str) -> None:
    seen = []

    def read() -> None:
        seen.append(setting.get())
        setting.set("spoilt by the job")
        if aj.current_job().attempt == 1:
            raise ValueError("again")

    async def aread() -> None:
        read()

    setting.set("at submit")
    runner.lane(lane).pause()
    job = await runner.options(lane=lane, retries=1).submit(aread if lane == "loop" else read)
    setting.set("after submit")
    runner.lane(lane).resume()
    await job
    assert seen == ["at submit", "at submit"]
    assert setting.get() == "after submit"


# --- helpers ----------------------------------------------------------------------------


async def _await(job: Job[Any]) -> Any:
    return await job


async def _called(verb: Any, arguments: dict[str, Any]) -> Any:
    answer = verb(**arguments)
    return await answer if asyncio.iscoroutine(answer) else answer


async def _error_of(job: Job[Any]) -> BaseException | None:
    await job.wait()
    return job.exception()


async def _look(job: Job[Any]) -> None:
    with pytest.raises(ValueError):
        await job


async def _look_in_callback(job: Job[Any]) -> None:
    looked = asyncio.Event()

    def look(ended: Job[Any]) -> None:
        ended.exception()
        looked.set()

    job.add_done_callback(look)
    await looked.wait()


async def test_a_failure_and_its_retry_draw_none_of_the_program_s_random_numbers(runner: Runner) -> None:
    random.seed(1)
    before = random.getstate()
    with pytest.raises(ValueError, match="invalid literal"):
        await runner.options(retries=aj.Retry(1, backoff=0.001, jitter=1.0)).run(int, "x")
    assert random.getstate() == before
