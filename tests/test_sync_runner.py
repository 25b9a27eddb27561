"""`SyncRunner` and `background`: every verb from a thread without a loop, every lane, waits and refusals."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import inspect
import sys
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import runner_jobs as jobs
from runner_jobs import ECHO, FAIL, HOLD, LANES, LISTEN, ended_once

import asyncjobs as aj
from asyncjobs import CancelToken, Job, JobState, Runner, SyncRunner
from asyncjobs.sync import background as background_module
from asyncjobs.sync.runner import RunnerSettings
from asyncjobs.testing import Gate

each_lane = pytest.mark.parametrize("lane", LANES)
colour: contextvars.ContextVar[str] = contextvars.ContextVar("colour", default="none")


@pytest.fixture
def runner() -> Iterator[SyncRunner]:
    """A runner with 2 processes and 4 threads; what the test leaves in it is cancelled."""
    runner = SyncRunner(processes=2, threads=4)
    yield runner
    runner.close(drain=0, grace=0.1)


def held(runner: SyncRunner, lane: str, value: Any = None) -> tuple[Job[Any], CancelToken]:
    """A job that runs in `lane` until the token is cancelled."""
    go = CancelToken()
    with runner.events(4096) as events:
        job = runner.options(lane=lane).submit(HOLD[lane], go, value)
        while next(events).progress is None:
            continue
    return job, go


# --- submit, run, results ---------------------------------------------------------------


@pytest.mark.slow
@each_lane
def test_a_job_runs_and_its_value_or_error_is_waited_for(runner: SyncRunner, lane: str) -> None:
    on_lane = runner.options(lane=lane)
    job = on_lane.submit(ECHO[lane], "value")
    assert (job.result(), job.result(0), job.exception(), job.state) == ("value", "value", None, JobState.SUCCEEDED)
    assert on_lane.run(ECHO[lane], 2) == 2
    assert on_lane.submit_nowait(ECHO[lane], 3).result() == 3
    failing = on_lane.submit(FAIL[lane], "on purpose")
    assert isinstance(failing.exception(), ValueError)
    for wait in (failing.result, lambda: on_lane.run(FAIL[lane], "on purpose")):
        with pytest.raises(ValueError, match="on purpose"):
            wait()
    ended_once(job, failing)


@pytest.mark.slow
@each_lane
def test_a_wait_with_a_timeout_ends_and_the_job_goes_on(runner: SyncRunner, lane: str) -> None:
    job, go = held(runner, lane, "value")
    for wait in (job.result, job.exception):
        with pytest.raises(TimeoutError, match=r"has not ended within 0\.01 s; it goes on"):
            wait(0.01)
    assert job.state is JobState.RUNNING
    go.cancel()
    assert job.result(20) == "value"


@pytest.mark.slow
@each_lane
def test_a_job_is_awaited_from_any_running_loop(runner: SyncRunner, lane: str) -> None:
    job, go = held(runner, lane, "value")

    async def main() -> list[Any]:
        waiting = [asyncio.ensure_future(job.wait()) for _ in range(3)]
        await asyncio.sleep(0)
        go.cancel()
        await asyncio.gather(*waiting)
        return [await job, await runner.options(lane=lane).submit(ECHO[lane], "more")]

    assert asyncio.run(main()) == ["value", "more"]


@pytest.mark.slow
@each_lane
def test_many_threads_submit_at_once_and_each_gets_its_own(runner: SyncRunner, lane: str) -> None:
    on_lane = runner.options(lane=lane)
    got: dict[int, list[Any]] = {}

    def work(number: int) -> None:
        made = [on_lane.submit(ECHO[lane], (number, n)) for n in range(100)]
        got[number] = [job.result(20) for job in made]

    threads = [threading.Thread(target=work, args=[number]) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert got == {number: [(number, n) for n in range(100)] for number in range(5)}
    assert len({job.id for job in [on_lane.submit(ECHO[lane]) for _ in range(10)]}) == 10


@pytest.mark.slow
@each_lane
def test_context_variables_and_the_job_s_own_handle_reach_it(runner: SyncRunner, lane: str) -> None:
    if lane != "process":

        async def alook() -> str:
            return colour.get()

        colour.set("red")
        assert runner.options(lane=lane).run(alook if lane == "loop" else colour.get) == "red"
        assert runner.options(lane=lane, key="k").run(alook if lane == "loop" else colour.get) == "red"
    who = runner.options(lane=lane, name="me").run(jobs.awho_am_i if lane == "loop" else jobs.who_am_i)
    assert (who["name"], who["attempt"], who["cancelled"]) == ("me", 1, False)


def test_what_a_job_captured_is_freed_once_it_has_ended(runner: SyncRunner) -> None:
    class Big:
        pass

    big = Big()
    gone = weakref.ref(big)
    job = runner.submit(lambda big=big: None)
    del big
    job.result()
    runner.run(jobs.echo)
    gc.collect()
    assert gone() is None


def test_a_burst_of_submits_wakes_the_loop_once(runner: SyncRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    portal, woken, is_held, go = runner._portal, [], threading.Event(), threading.Event()

    def hold() -> None:
        is_held.set()
        go.wait(30)

    portal.post(hold)
    assert is_held.wait(30)
    post = portal.post
    monkeypatch.setattr(portal, "post", lambda *args: woken.append(args) or post(*args))
    burst = [runner.submit(jobs.echo, number) for number in range(100)]
    assert len(woken) == 1, "the loop looks at all of them when it comes to it"
    go.set()
    assert [job.result(30) for job in burst] == [*range(100)]


# --- room in the queue ------------------------------------------------------------------


@pytest.mark.slow
@each_lane
def test_submit_does_not_wait_until_the_queue_is_full_and_then_in_order(lane: str) -> None:
    done: list[int] = []
    with SyncRunner(processes=1, threads=1, coroutines=1, queue_size=3) as runner:
        on_lane = runner.options(lane=lane)
        first, go = held(runner, lane)
        made = [on_lane.submit(ECHO[lane], n) for n in range(3)]
        with pytest.raises(aj.QueueFull, match=r"submit\(\) waits for room"):
            on_lane.submit_nowait(ECHO[lane], -1)

        def more() -> None:
            for n in range(3, 9):
                made.append(on_lane.submit(ECHO[lane], n))
            done.append(len(made))

        thread = threading.Thread(target=more)
        thread.start()
        while not runner._portal.do(lambda: runner._runner._engine.dispatchers[lane].queue._putters):
            pass
        assert (len(made), done) == (3, [])
        go.cancel()
        thread.join(20)
    assert done == [9]
    assert [first.result(), *(job.result() for job in made)] == [None, *range(9)]
    starts = [job.started_at or 0.0 for job in made]
    assert starts == sorted(starts)


@pytest.mark.slow
@pytest.mark.parametrize("bound", ["queue_size", "queue_bytes"])
def test_queue_full_comes_exactly_at_the_bound_whatever_the_loop_does_meanwhile(bound: str) -> None:
    settings: dict[str, Any] = {"queue_size": 20} if bound == "queue_size" else {"queue_bytes": 20 * 100_000}
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with SyncRunner(processes=1, **settings) as runner:
            process = runner.options(lane="process")
            nbytes = process.submit(len, bytes(99_000))._call.nbytes or 100_000
            runner.join()
            runner.lane("process").pause()
            room = 20 if bound == "queue_size" else 20 * 100_000 // nbytes
            for _ in range(20):
                made = [process.submit_nowait(len, bytes(99_000)) for _ in range(room)]
                with pytest.raises(aj.QueueFull):
                    process.submit_nowait(len, bytes(99_000))
                for job in made:
                    job.cancel()
                runner.join()
            runner.lane("process").resume()
    finally:
        sys.setswitchinterval(before)


@pytest.mark.slow
def test_a_waiting_submit_does_not_take_room_that_was_promised() -> None:
    with SyncRunner(threads=1, queue_size=4) as runner:
        queue = runner._runner._engine.dispatchers["thread"].queue
        most: list[int] = []

        def work(_: int) -> None:
            most.append(queue.qsize())

        def storm() -> None:
            for n in range(300):
                runner.submit(work, n)

        threads = [threading.Thread(target=storm) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert len(most) == 1200
    assert max(most) <= 4 + 4  # each thread may be promised a place in the instant that another is given it


def test_submit_nowait_with_a_key_does_not_wait_either() -> None:
    with SyncRunner(threads=1, queue_size=1) as runner:
        job, go = held(runner, "thread")
        keyed = runner.options(key="k").submit_nowait(jobs.echo, 1)
        assert runner.options(key="k").submit_nowait(jobs.echo, 2) is keyed
        with pytest.raises(aj.QueueFull):
            runner.options(key="other").submit_nowait(jobs.echo, 1)
        go.cancel()
        assert (job.result(20), keyed.result(20)) == (None, 1)


# --- options, steering, looking ---------------------------------------------------------


def test_options_key_priority_time_limit_and_retries_are_those_of_the_runner(runner: SyncRunner, tmp_path: Any) -> None:
    job, go = held(runner, "loop")
    with SyncRunner(threads=1) as single:
        first, first_go = held(single, "thread")
        low = single.options(priority=1).submit(jobs.echo, "low")
        high = single.options(priority=9).submit(jobs.echo, "high")
        first_go.cancel()
        assert (low.result(20), high.result(20), first.result(20)) == ("low", "high", None)
        assert high.started_at is not None
        assert low.started_at is not None
        assert high.started_at < low.started_at
    keyed = [runner.options(key="same").submit(jobs.hold, go, 1) for _ in range(3)]
    assert len(set(map(id, keyed))) == 1
    with pytest.raises(aj.JobTimeout):
        runner.options(timeout=0.05, grace=0.1).run(jobs.listen)
    assert runner.options(retries=2).run(jobs.fail_until, str(tmp_path / "tries"), 3) == 3
    go.cancel()
    assert job.result(20) is None


@each_lane
def test_cancel_cancel_all_and_join(runner: SyncRunner, lane: str) -> None:
    made = [runner.options(lane=lane, grace=5.0).submit(LISTEN[lane]) for _ in range(3)]
    assert set(runner.jobs()) == set(made)
    assert made[0].cancel("one") in ("requested", "cancelled")
    made[0].exception(20)
    assert runner.cancel_all("the rest") == 2
    runner.join()
    assert {job.state for job in made} == {JobState.CANCELLED}
    assert runner.jobs() == []
    ended_once(*made)


def test_a_lane_is_paused_resumed_and_resized(runner: SyncRunner) -> None:
    lane = runner.lane("thread")
    lane.pause()
    job = runner.submit(jobs.echo, 1)
    with pytest.raises(TimeoutError):
        job.result(0.05)
    assert "paused" in repr(lane)
    assert repr(lane).startswith("<SyncLaneHandle 'thread'")
    lane.resize(7)
    lane.resume()
    assert job.result(20) == 1
    assert "of 7 places" in repr(lane)
    with pytest.raises(ValueError, match="lane='none' is not allowed"):
        runner.lane("none")


def test_events_are_iterated_and_end_with_the_runner_after_what_has_arrived(runner: SyncRunner) -> None:
    with runner.events() as events:
        job = runner.submit(jobs.echo, 1)
        states = []
        for event in events:
            assert event.job_id == job.id
            states.append(event.state)
            if event.state.is_final:
                break
    assert states[0] is JobState.QUEUED
    assert states[-1] is JobState.SUCCEEDED
    late = runner.events()
    runner.run(jobs.echo, 2)
    runner.close()
    assert [event.state for event in late][-1] is JobState.SUCCEEDED
    assert list(late) == []
    assert late.dropped == 0


@pytest.mark.slow
def test_as_completed_gives_each_job_once_and_gives_up_in_time(runner: SyncRunner) -> None:
    slow, go = held(runner, "process", "slow")
    quick = [runner.submit(jobs.echo, n) for n in range(5)]
    ended = runner.as_completed([slow, *quick], timeout=0.3)
    assert sorted(next(ended).result() for _ in quick) == list(range(5))
    with pytest.raises(TimeoutError, match=r"1 of 6 jobs have not ended within 0\.3 s; they go on"):
        next(ended)
    go.cancel()
    assert [job.result() for job in runner.as_completed([slow])] == ["slow"]
    with pytest.raises(TypeError, match=r"jobs\[0\]=1 is not allowed"):
        runner.as_completed([1])  # type: ignore[list-item]


@pytest.mark.slow
def test_figures_are_there_while_it_is_open_and_after_it_was_closed(runner: SyncRunner) -> None:
    runner.run(jobs.echo, 1)
    assert runner.stats().succeeded == 1
    assert runner.report()
    runner.close()
    assert runner.stats().succeeded == 1
    assert runner.report()
    assert runner.jobs() == []


@pytest.mark.slow
def test_a_value_is_shared_and_its_handle_closed_from_the_script_s_thread(runner: SyncRunner) -> None:
    value = list(range(1000))
    with runner.share(value) as handle:
        assert runner.share(value) is handle
        assert runner.options(lane="process").run(len, handle) == 1000
        assert runner.run(lambda given: given is value, handle)
    with pytest.raises(aj.NotSendable, match="the shared object is closed"):
        runner.options(lane="process").run(len, handle)


# --- who must not wait ------------------------------------------------------------------


def test_blocking_on_the_loop_s_own_thread_is_refused_and_not_blocking_is_fine(runner: SyncRunner) -> None:
    async def inside() -> Any:
        for verb in (runner.join, runner.stats, runner.close, lambda: runner.share([1]), lambda: next(runner.events())):
            with pytest.raises(aj.WouldDeadlock, match=r"submit_nowait\(\) never waits"):
                verb()
        job = runner.submit(jobs.echo, "child")
        with pytest.raises(asyncio.InvalidStateError, match="await it"):
            job.result()
        keyed = runner.options(key="k").submit_nowait(jobs.echo, "keyed")
        return await job, await runner.submit_nowait(jobs.echo, 2), await keyed

    assert runner.run(inside) == ("child", 2, "keyed")


def test_a_job_that_the_loop_cancels_before_it_has_taken_it_in_never_runs_and_harms_nobody(runner: SyncRunner) -> None:
    async def cancel_at_once() -> list[JobState]:
        cancelled = [runner.options(lane=lane).submit(ECHO[lane], 1) for lane in LANES]
        for job in cancelled:
            job.cancel("changed my mind")
        for job in cancelled:
            await job.wait()
        assert not any(job.started_at for job in cancelled)
        return [job.state for job in cancelled]

    assert runner.submit(cancel_at_once).result(30) == [JobState.CANCELLED] * len(LANES)
    assert runner.submit(jobs.echo, 2).result(30) == 2


def test_a_full_queue_on_the_loop_s_own_thread_is_a_deadlock_that_is_said() -> None:
    with SyncRunner(threads=1, queue_size=1) as runner:
        job, go = held(runner, "thread")

        async def inside() -> None:
            runner.submit(jobs.echo)
            with pytest.raises(aj.WouldDeadlock):
                runner.submit(jobs.echo)
            with pytest.raises(aj.QueueFull):
                runner.submit_nowait(jobs.echo)

        runner.run(inside)
        go.cancel()
        job.result(20)


def test_a_thread_job_that_waits_for_a_child_in_its_own_full_lane_is_told() -> None:
    with SyncRunner(threads=1, queue_size=1) as runner:

        def parent() -> str:
            child = runner.submit(jobs.echo, "child")
            with pytest.raises(aj.WouldDeadlock, match="'parent' waits for job 'echo'"):
                child.result()
            with pytest.raises(aj.WouldDeadlock, match="waits for room in the queue"):
                runner.submit(jobs.echo, "no room")
            with pytest.raises(TimeoutError):
                child.result(0.01)
            with pytest.raises(aj.WouldDeadlock, match="itself"):
                runner.join()
            return "told"

        assert runner.submit(parent).result(20) == "told"


def test_a_thread_job_that_waits_for_another_when_the_runner_goes_hears_of_its_end() -> None:
    runner = SyncRunner(threads=2)
    gate, heard = Gate(), []

    def parent() -> None:
        child = runner.submit(jobs.listen)
        gate.open()
        heard.append(child.exception())

    job = runner.submit(parent)
    gate.pass_through()
    runner.close(drain=0, grace=0.2)
    assert job.done()
    while not heard:
        pass
    assert isinstance(heard[0], aj.JobCancelled | aj.RunnerClosed)


# --- bad input, the end -----------------------------------------------------------------


def test_bad_input_is_the_same_error_as_the_runner_s_and_at_the_caller(runner: SyncRunner) -> None:
    async def theirs(call: Any) -> BaseException:
        async with Runner(processes=1) as plain:
            try:
                made = call(plain)
                await made
            except Exception as error:
                return error
        raise AssertionError("it was accepted")

    calls = [
        lambda runner: runner.submit(3),
        lambda runner: runner.options(lane="process").submit(len, threading.Lock()),
        lambda runner: runner.options(lane="loop").submit(len, "x"),
        lambda runner: runner.options(lane="none").submit(len, "x"),
        lambda runner: runner.options(colour="red"),
        lambda runner: runner.options(timeout=-1),
    ]
    for call in calls:
        expected = asyncio.run(theirs(call))
        with pytest.raises(type(expected)) as caught:
            call(runner)
        assert str(caught.value) == str(expected)
    for bad in ({"threads": 0}, {"exit_drain": -1.0}, {"nothing": 1}):
        with pytest.raises((TypeError, ValueError), match=next(iter(bad))):
            SyncRunner(**bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="drain=-1"):
        runner.close(drain=-1)
    assert runner.run(jobs.echo, 1) == 1


def test_after_the_close_every_verb_says_that_it_is_closed() -> None:
    runner = SyncRunner()
    job, lane = runner.submit(jobs.echo, 1), runner.lane("thread")
    assert runner.close() == []
    assert runner.close() == []
    verbs = (
        lambda: runner.submit(jobs.echo),
        lambda: runner.submit_nowait(jobs.echo),
        lambda: runner.options(key="k").submit(jobs.echo),
        lambda: runner.run(jobs.echo),
        lambda: list(runner.map(jobs.echo, [1])),
        lambda: runner.map(jobs.echo, [1]).collect(),
        lambda: runner.share([1]),
        lambda: runner.events(),
        runner.join,
        runner.cancel_all,
        lane.pause,
    )
    for verb in verbs:
        with pytest.raises(aj.RunnerClosed):
            verb()
    assert job.result() == 1
    assert [one.result() for one in runner.as_completed([job])] == [1]
    assert not runner.is_usable
    assert repr(runner).startswith("<SyncRunner closed")


def test_close_names_what_it_cancelled(runner: SyncRunner) -> None:
    job = runner.options(name="slow", grace=1.0).submit(jobs.listen)
    assert runner.close(drain=0.05) == ["slow"]
    assert job.state is JobState.CANCELLED


def test_the_settings_are_the_runner_s_own_keywords() -> None:
    keywords = {name: one for name, one in inspect.signature(Runner.__init__).parameters.items() if name != "self"}
    assert set(RunnerSettings.__annotations__) == set(keywords)
    assert all(one.kind is inspect.Parameter.KEYWORD_ONLY for one in keywords.values())
    with SyncRunner(
        processes=1, threads=1, coroutines=1, queue_size=5, queue_bytes=10**6, drain_timeout=9.0, watchdog=None
    ) as runner:
        assert runner.run(jobs.echo, 1) == 1


# --- background -------------------------------------------------------------------------


@pytest.fixture
def _no_default_runner() -> Iterator[None]:
    yield
    aj.default_runner().close(drain=0)
    background_module._runner = None


@pytest.mark.slow
@pytest.mark.usefixtures("_no_default_runner")
def test_background_runs_on_a_runner_that_starts_by_itself_and_anew_after_a_close() -> None:
    job = aj.background(jobs.echo, "value")
    assert job.result(20) == "value"
    assert aj.background(jobs.aecho, 2).result(20) == 2
    assert aj.background(aj.job(lane="process")(jobs.square), 3).result(20) == 9
    first = aj.default_runner()
    assert aj.default_runner() is first
    first.close()
    assert aj.background(jobs.echo, "again").result(20) == "again"
    assert aj.default_runner() is not first


@pytest.mark.usefixtures("_no_default_runner")
def test_background_from_many_threads_makes_one_runner() -> None:
    gate, found = Gate(), []

    def work() -> None:
        gate.pass_through()
        found.append(aj.background(jobs.echo, 1).runner)

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    gate.wait_for_arrival(5)
    gate.open()
    for thread in threads:
        thread.join(20)
    assert len(found) == 5
    assert len(set(map(id, found))) == 1
