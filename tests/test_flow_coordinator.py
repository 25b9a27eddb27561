"""The coordinator, for tasks and for threads. Tests are named after the statements C1 to C19 that they hold."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest
from pauses import attempts

from asyncjobs import CancelToken, Runner, SyncRunner, WouldDeadlock
from asyncjobs.flow import Coordinator, OutOfRangeError, SyncCoordinator
from asyncjobs.testing import Gate

Any_ = Coordinator | SyncCoordinator
both = pytest.mark.parametrize("kind", [Coordinator, SyncCoordinator])


class Threads:
    """Threads that wait at a gate; all are let go at the end of the test."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.started: list[threading.Thread] = []

    def start(self, fn: Callable[[], object] | None = None, name: str | None = None) -> threading.Thread:
        thread = threading.Thread(target=fn or self.gate.pass_through, name=name, daemon=True)
        self.started.append(thread)
        thread.start()
        return thread


@pytest.fixture
def threads() -> Iterator[Threads]:
    made = Threads()
    yield made
    made.gate.open()
    for thread in made.started:
        thread.join(10)


async def joined(coord: Any_, *members: Any, **options: Any) -> None:
    """Join, with whichever of the two."""
    if isinstance(coord, Coordinator):
        await coord.join(members, **options)
    else:
        await asyncio.to_thread(coord.join, members, **options)


async def waited(coord: Any_, timeout: float | None) -> bool:
    """Wait for a stop, with whichever of the two."""
    if isinstance(coord, Coordinator):
        return await coord.wait_for_stop(timeout)
    return await asyncio.to_thread(coord.wait_for_stop, timeout)


def fail(message: str = "First") -> None:
    raise ValueError(message)


# --- C1, C2: the flag -------------------------------------------------------------------


@both
async def test_C1_a_stop_is_seen_and_waited_for(kind: type[Any_]) -> None:
    coord = kind()
    assert coord.should_stop() is False
    assert await waited(coord, 0.01) is False
    assert await waited(coord, 0) is False
    coord.request_stop()
    assert coord.should_stop() is True
    assert await waited(coord, 60) is True
    assert await waited(coord, None) is True


@both
async def test_C2_a_stop_that_another_thread_requests_wakes_who_waits(kind: type[Any_], threads: Threads) -> None:
    coord = kind()
    waiter = asyncio.create_task(waited(coord, 60))
    threads.start(lambda: (threads.gate.pass_through(), coord.request_stop()))
    await threads.gate.arrival()
    threads.gate.open()
    assert await waiter is True


# --- C3 to C8: join ---------------------------------------------------------------------


@both
async def test_C3_join_returns_when_all_have_ended_without_a_stop(kind: type[Any_], threads: Threads) -> None:
    coord = kind()
    members = [threads.start() for _ in range(3)]
    joining = asyncio.create_task(joined(coord, *members))
    await threads.gate.arrival(3)
    assert not joining.done()
    threads.gate.open()
    await joining
    assert not any(member.is_alive() for member in members)
    assert (coord.joined, coord.should_stop()) == (True, False)


async def test_C3_tasks_and_jobs_of_every_lane_are_joined_alike(runner: Runner) -> None:
    coord = Coordinator()
    ended: list[str] = []

    async def work(name: str) -> None:
        while not coord.should_stop():
            await asyncio.sleep(0.001)
        ended.append(name)

    task = asyncio.create_task(work("task"))
    job = await runner.submit(work, "job")
    thread_job = await runner.submit(lambda: ended.append("thread") if coord.token.wait(60) else None)
    process_job = await runner.options(lane="process").submit(CancelToken.wait, coord.token, 60)
    asyncio.get_running_loop().call_later(0.05, coord.request_stop)
    await coord.join([task, job, thread_job, process_job])
    assert sorted(ended) == ["job", "task", "thread"]
    assert process_job.result() is True


@both
async def test_C4_registered_and_given_members_are_joined_and_duplicates_do_no_harm(
    kind: type[Any_], threads: Threads
) -> None:
    coord = kind()
    members = [threads.start() for _ in range(3)]
    for member in (members[0], members[1], members[0]):
        coord.register(member)
    joining = asyncio.create_task(joined(coord, members[1], members[2], members[2]))
    await threads.gate.arrival(3)
    threads.gate.open()
    await joining
    alone = kind()
    alone.register(threads.start())
    await joined(alone)
    assert not any(thread.is_alive() for thread in threads.started)


@both
async def test_C5_who_registers_after_join_began_is_not_joined(kind: type[Any_], threads: Threads) -> None:
    coord, late = kind(), Gate()
    joining = asyncio.create_task(joined(coord, threads.start()))
    await threads.gate.arrival()
    while not coord.token._callbacks:  # join listens for a stop: it has begun
        await asyncio.sleep(0.001)
    with late:
        stubborn = threads.start(late.pass_through)
        coord.register(stubborn)
        threads.gate.open()
        await joining
        assert stubborn.is_alive()


@both
async def test_C6_the_grace_period_begins_with_the_stop(kind: type[Any_], threads: Threads) -> None:
    coord = kind()
    stubborn = threads.start(name="stubborn")
    joining = asyncio.create_task(joined(coord, stubborn, stop_grace_period_secs=0.01))
    await threads.gate.arrival()
    assert not (await asyncio.wait([joining], timeout=0.2))[0]  # twenty times the grace period
    coord.request_stop()
    with pytest.raises(RuntimeError, match="stubborn"):
        await joining


@both
@pytest.mark.parametrize("grace", [0, 1e-10, 0.002, 1.0])
async def test_C7_who_still_runs_after_the_grace_period_is_named_with_its_stack(
    kind: type[Any_], grace: float, threads: Threads
) -> None:
    coord = kind()
    members = [threads.start(name=f"thread-{number}") for number in range(2)]
    await threads.gate.arrival(2)
    coord.request_stop()
    with pytest.raises(RuntimeError) as caught:
        await joined(coord, *members, stop_grace_period_secs=grace)
    assert str(caught.value) == "Coordinator stopped with threads still running: thread-0 thread-1"
    assert sum("pass_through" in note for note in caught.value.__notes__) == 2
    assert coord.joined


async def test_C7_tasks_that_still_run_are_named_with_their_stack() -> None:
    coord, never = Coordinator(), asyncio.Event()

    async def stubborn() -> None:
        await never.wait()

    task = asyncio.create_task(stubborn(), name="the stubborn one")
    coord.request_stop()
    with pytest.raises(RuntimeError, match="still running: the stubborn one") as caught:
        await coord.join([task], stop_grace_period_secs=0.001)
    assert "await never.wait()" in caught.value.__notes__[0]
    never.set()
    await task


@both
async def test_C8_live_members_are_only_logged_if_they_are_to_be_ignored(
    kind: type[Any_], threads: Threads, caplog: pytest.LogCaptureFixture
) -> None:
    coord = kind()
    member = threads.start(name="stubborn")
    coord.request_stop()
    with caplog.at_level(logging.INFO, "asyncjobs"):
        await joined(coord, member, stop_grace_period_secs=0.001, ignore_live_threads=True)
    assert "still running: stubborn" in caplog.text


# --- C9 to C18: what is reported --------------------------------------------------------


@both
async def test_C9_the_reported_exception_is_raised_by_join_once_all_have_ended(
    kind: type[Any_], threads: Threads
) -> None:
    coord = kind()

    def failing() -> None:
        with coord.stop_on_exception():
            fail()

    threads.start(failing).join()
    waiting = threads.start()
    joining = asyncio.create_task(joined(coord, waiting))
    await threads.gate.arrival()
    assert not (await asyncio.wait([joining], timeout=0.05))[0]
    threads.gate.open()
    with pytest.raises(ValueError, match="First") as caught:
        await joining
    assert caught.value is coord.exceptions[0]
    assert "fail" in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]


@both
async def test_C9_the_reported_exception_precedes_that_of_stragglers(kind: type[Any_], threads: Threads) -> None:
    coord = kind()
    coord.request_stop(ValueError("First"))
    with pytest.raises(ValueError, match="First") as caught:
        await joined(coord, threads.start(name="stubborn"), stop_grace_period_secs=0.001)
    assert any("still running: stubborn" in note for note in caught.value.__notes__)


@both
async def test_C10_the_first_exception_is_raised_and_later_ones_are_kept(kind: type[Any_]) -> None:
    coord = kind()
    errors = [ValueError("First"), KeyError("Too late"), OSError("much too late")]
    for error in errors:
        coord.request_stop(error)
    coord.request_stop(errors[1])
    with pytest.raises(ValueError, match="First") as caught:
        await joined(coord)
    assert list(coord.exceptions) == errors
    assert len(caught.value.__notes__) == 2
    assert "KeyError" in caught.value.__notes__[0]


@both
async def test_C10_an_error_after_a_clean_stop_is_kept_and_logged_but_not_raised(
    kind: type[Any_], caplog: pytest.LogCaptureFixture
) -> None:
    coord = kind()
    coord.request_stop()
    coord.request_stop(error := ValueError("after"))
    await joined(coord)
    assert coord.exceptions == (error,)
    assert "already stopping: ValueError('after')" in caplog.text


@both
async def test_C11_an_exception_or_its_exc_info_may_be_reported(kind: type[Any_]) -> None:
    for form in ("exception", "exc_info", "outside"):
        coord = kind()
        try:
            fail(form)
        except ValueError as error:
            kept = error
            if form != "outside":
                coord.request_stop(error if form == "exception" else sys.exc_info())
        if form == "outside":
            coord.request_stop(kept)
        with pytest.raises(ValueError, match=form) as caught:
            await joined(coord)
        assert "fail" in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]


@both
async def test_C11_the_exc_info_of_no_exception_stops_all_the_same_and_says_so(kind: type[Any_]) -> None:
    coord = kind()
    coord.request_stop(sys.exc_info())
    with pytest.raises(ValueError, match="call it in an except block"):
        await joined(coord)


@both
@pytest.mark.parametrize("nonsense", ["stop", 5, ValueError, (1, 2)])
def test_C11_what_is_no_exception_is_refused(kind: type[Any_], nonsense: Any) -> None:
    with pytest.raises(TypeError, match="is not allowed; allowed: None, an exception, or"):
        kind().request_stop(nonsense)


@both
async def test_C12_the_end_of_the_data_is_a_clean_stop(kind: type[Any_]) -> None:
    coord = kind()
    with coord.stop_on_exception():
        raise OutOfRangeError("the end")
    assert coord.should_stop()
    await joined(coord)
    assert coord.exceptions == ()


@both
async def test_C13_other_clean_exceptions_replace_the_default(kind: type[Any_]) -> None:
    clean = kind((ValueError,))
    clean.request_stop(ValueError("clean"))
    await joined(clean)
    dirty = kind((ValueError, StopIteration))
    dirty.request_stop(OutOfRangeError("not clean here"))
    with pytest.raises(OutOfRangeError, match="not clean here"):
        await joined(dirty)


@both
@pytest.mark.parametrize("types", [5, [5], (ValueError(),), "ValueError"])
def test_C13_clean_exceptions_are_classes(kind: type[Any_], types: Any) -> None:
    with pytest.raises(TypeError, match="clean_stop_exception_types="):
        kind(types)


class Odd(BaseException):
    """Neither an Exception nor one of those that mean whoever runs the block."""


@both
@pytest.mark.parametrize("error", [ValueError("First"), StopIteration(5), Odd("odd")])
async def test_C14_stop_on_exception_reports_swallows_and_goes_on(kind: type[Any_], error: BaseException) -> None:
    coord, behind = kind(), False
    with coord.stop_on_exception():
        raise error
    behind = True
    assert behind
    assert coord.exceptions == (error,)
    with pytest.raises(type(error)):
        coord.raise_requested_exception()


@both
@pytest.mark.parametrize("error", [asyncio.CancelledError(), KeyboardInterrupt(), SystemExit(3)])
def test_C14_what_means_the_one_who_runs_the_block_passes_through(kind: type[Any_], error: BaseException) -> None:
    coord = kind()
    with pytest.raises(type(error)), coord.stop_on_exception():
        raise error
    assert not coord.should_stop()


@both
async def test_C15_after_the_join_an_exception_is_raised_where_it_is_reported(kind: type[Any_]) -> None:
    coord = kind()
    await joined(coord)
    coord.request_stop(OutOfRangeError("clean"))
    with pytest.raises(ValueError, match="late"):
        coord.request_stop(ValueError("late"))
    try:
        fail("late too")
    except ValueError:
        with pytest.raises(ValueError, match="late too"):
            coord.request_stop(sys.exc_info())


@both
async def test_C16_clear_stop_makes_it_fit_for_a_second_run(kind: type[Any_]) -> None:
    coord = kind()
    waiting = asyncio.create_task(waited(coord, 60))
    while not coord.token._callbacks and coord.token._event is None:  # it waits
        await asyncio.sleep(0.001)
    coord.clear_stop()  # nothing to clear: who waits goes on waiting
    coord.request_stop(ValueError("First"))
    assert await waiting is True
    with pytest.raises(ValueError, match="First"):
        await joined(coord)
    coord.clear_stop()
    assert (coord.should_stop(), coord.joined, coord.exceptions) == (False, False, ())
    await joined(coord)
    coord.clear_stop()
    coord.request_stop(KeyError("Second"))
    with pytest.raises(KeyError, match="Second"):
        await joined(coord)


@both
async def test_C17_join_leaves_nobody_registered_also_when_it_raises(kind: type[Any_], threads: Threads) -> None:
    coord = kind()
    coord.register(threads.start(name="stubborn"))
    coord.request_stop()
    with pytest.raises(RuntimeError, match="stubborn"):
        await joined(coord, stop_grace_period_secs=0.001)
    coord.clear_stop()
    await joined(coord)


@both
def test_C18_the_requested_exception_can_be_raised_any_number_of_times(kind: type[Any_]) -> None:
    coord = kind()
    coord.raise_requested_exception()
    coord.request_stop(ValueError("First"))
    depths = set()
    for _ in range(3):
        with pytest.raises(ValueError, match="First") as caught:
            coord.raise_requested_exception()
        depths.add(len(traceback.extract_tb(caught.value.__traceback__)))
    assert len(depths) == 1


# --- C19: loops -------------------------------------------------------------------------


@both
@pytest.mark.parametrize("interval", [None, 0, 0.001])
async def test_C19_a_loop_calls_its_target_until_a_stop_is_requested(kind: type[Any_], interval: float | None) -> None:
    coord, calls = kind(), []

    def target(*args: Any, **kwargs: Any) -> None:
        calls.append((args, kwargs))
        if len(calls) == 5:
            coord.request_stop()

    thread = coord.loop(interval, target, (1, 2), {"three": 3})
    await joined(coord)
    assert isinstance(thread, threading.Thread)
    assert thread.daemon
    assert not thread.is_alive()
    assert calls == [((1, 2), {"three": 3})] * 5


@pytest.mark.parametrize("interval", [None, 0, 0.001])
async def test_C19_a_coroutine_function_is_awaited_in_a_task(interval: float | None) -> None:
    coord, calls = Coordinator(), []

    async def target(value: int) -> None:
        calls.append(value)
        if len(calls) == 5:
            coord.request_stop()

    task = coord.loop(interval, target, kwargs={"value": 7})
    await coord.join()
    assert isinstance(task, asyncio.Task)
    assert task.done()
    assert calls == [7] * 5


@both
async def test_C19_what_the_target_raises_is_reported(kind: type[Any_]) -> None:
    coord = kind()
    coord.loop(60, fail, ["in the loop"])
    with pytest.raises(ValueError, match="in the loop"):
        await joined(coord)


@both
async def test_C19_the_stop_is_checked_before_each_run(kind: type[Any_]) -> None:
    coord, calls = kind(), []
    coord.request_stop()
    coord.loop(None, calls.append, (1,))
    coord.loop(0.001, calls.append, (1,))
    await joined(coord)
    assert calls == []


@both
@pytest.mark.alone
async def test_C19_the_instants_do_not_drift(kind: type[Any_]) -> None:
    for attempt in attempts():
        with attempt:
            starts = await _eleven_starts(kind())
            # The call's own 0.03 s, added each time, would make it 1.3 s.
            assert 0.99 < starts[-1] - starts[0] < 1.25


async def _eleven_starts(coord: Any_) -> list[float]:
    starts: list[float] = []

    def target() -> None:
        starts.append(time.monotonic())
        time.sleep(0.03)
        if len(starts) == 11:
            coord.request_stop()

    coord.loop(0.1, target)
    await joined(coord)
    return starts


@both
@pytest.mark.parametrize(
    ("interval", "target", "args", "kwargs"),
    [
        (None, None, (1,), None),
        (None, None, None, {"a": 1}),
        (None, None, None, None),
        (-1, fail, None, None),
        (True, fail, None, None),
        (float("nan"), fail, None, None),
        ("1", fail, None, None),
    ],
)
def test_C19_a_loop_without_a_target_or_interval_is_refused(
    kind: type[Any_], interval: Any, target: Any, args: Any, kwargs: Any
) -> None:
    with pytest.raises(ValueError, match=r"(target|interval)=.* is not allowed; allowed: "):
        kind().loop(interval, target, args, kwargs)


def test_C19_a_coroutine_function_needs_a_coordinator_with_a_loop() -> None:
    with pytest.raises(TypeError, match="A Coordinator awaits others"):
        SyncCoordinator().loop(None, joined)


# --- members, parents -------------------------------------------------------------------


async def test_a_task_a_future_or_a_job_that_fails_stops_all_and_is_raised(runner: Runner) -> None:
    async def failing() -> None:
        fail("of a task")

    for member in (asyncio.create_task(failing()), Future[None](), await runner.submit(fail, "of a job")):
        coord = Coordinator()
        coord.register(member)
        if isinstance(member, Future):
            member.set_exception(ValueError("of a future"))
        await coord.wait_for_stop(10)
        with pytest.raises(ValueError, match="of a"):
            await coord.join()


async def test_a_member_that_was_cancelled_reports_nothing(runner: Runner) -> None:
    coord = Coordinator()
    task = asyncio.create_task(asyncio.sleep(60))
    job = await runner.submit(asyncio.sleep, 60)
    task.cancel()
    job.cancel()
    await coord.join([task, job])
    assert (coord.exceptions, coord.should_stop()) == ((), False)


async def test_a_member_that_fails_after_the_join_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    coord, member = Coordinator(), Future[None]()
    coord.request_stop()
    await coord.join([member], stop_grace_period_secs=0, ignore_live_threads=True)
    member.set_exception(ValueError("late"))
    assert "failed after its coordinator's join" in caplog.text


def test_jobs_of_a_sync_runner_are_joined_without_a_loop() -> None:
    coord = SyncCoordinator()
    with SyncRunner(threads=2) as runner:
        job = runner.submit(coord.token.wait, 60)
        failing = runner.submit(fail, "in a job")
        with pytest.raises(ValueError, match="in a job"):
            coord.join([job, failing])
        assert job.result() is True


@both
async def test_a_member_whose_loop_is_late_to_tell_is_asked(kind: type[Any_]) -> None:
    class Late(Future[None]):
        def add_done_callback(self, fn: Any) -> None:
            """Nobody gets round to it."""

    coord, member = kind(), Late()
    member.set_exception(ValueError("long ago"))
    with pytest.raises(ValueError, match="long ago"):
        await joined(coord, member)


async def test_a_sync_coordinator_takes_no_tasks() -> None:
    task = asyncio.create_task(asyncio.sleep(0))
    with pytest.raises(TypeError, match="A Coordinator joins tasks"):
        SyncCoordinator().register(task)
    await task


@both
@pytest.mark.parametrize("member", [None, 5, "thread", object()])
async def test_what_never_ends_is_no_member(kind: type[Any_], member: Any) -> None:
    with pytest.raises(TypeError, match="is not allowed; allowed: "):
        kind().register(member)
    with pytest.raises(TypeError, match="is not allowed; allowed: "):
        await joined(kind(), member)


async def test_who_waits_for_its_own_end_is_told() -> None:
    coord = Coordinator()
    task = asyncio.current_task()
    with pytest.raises(WouldDeadlock, match="by one of those for whose end it waits"):
        await coord.join([task])
    with pytest.raises(WouldDeadlock):
        SyncCoordinator().join([threading.current_thread()])


@both
@pytest.mark.parametrize("grace", [-1, None, True, "1", float("inf")])
async def test_a_grace_period_that_is_none_is_refused(kind: type[Any_], grace: Any) -> None:
    with pytest.raises(ValueError, match="stop_grace_period_secs="):
        await joined(kind(), stop_grace_period_secs=grace)


@both
async def test_a_parent_token_stops_the_coordinator_and_not_the_other_way(kind: type[Any_]) -> None:
    parent = CancelToken()
    coord, other = kind(parent=parent), kind(parent=parent)
    other.request_stop()
    assert not parent.cancelled
    waiting = asyncio.create_task(waited(coord, 60))
    parent.cancel("all of you")
    assert await waiting is True
    assert coord.token.reason == "all of you"


async def test_a_join_that_is_cancelled_can_be_begun_again(threads: Threads) -> None:
    coord = Coordinator()
    coord.register(threads.start())
    joining = asyncio.create_task(coord.join())
    await asyncio.sleep(0)
    joining.cancel()
    with pytest.raises(asyncio.CancelledError):
        await joining
    assert not coord.joined
    threads.gate.open()
    await coord.join()
    assert coord.joined
