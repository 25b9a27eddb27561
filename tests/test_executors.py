"""The drop-in executors, as those use them who know the standard ones."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import itertools
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
import weakref
from collections.abc import Callable, Iterator
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np
import pytest
import runner_jobs as jobs
import test_faults_lifecycle
from programs import starts_workers_at_the_exit

import asyncjobs as aj
from asyncjobs.processors import usable_processors
from asyncjobs.sync.executor import JobExecutor, JobFuture
from asyncjobs.testing import Gate

launch = test_faults_lifecycle.launch

KINDS: dict[str, Any] = {"thread": aj.ThreadPoolExecutor, "process": aj.ProcessPoolExecutor}
STANDARD = {"thread": futures.ThreadPoolExecutor, "process": futures.ProcessPoolExecutor}
each_kind = pytest.mark.parametrize("kind", KINDS)
SOON = 60.0
"""Seconds after which something that should come at once has failed."""


@pytest.fixture(params=KINDS)
def executor(request: pytest.FixtureRequest) -> Iterator[JobExecutor]:
    with KINDS[request.param](2) as made:
        yield made


@pytest.fixture
def threads() -> Iterator[aj.ThreadPoolExecutor]:
    with aj.ThreadPoolExecutor(2) as made:
        yield made


@pytest.fixture
def processes() -> Iterator[aj.ProcessPoolExecutor]:
    with aj.ProcessPoolExecutor(2) as made:
        yield made


def held(executor: JobExecutor, value: Any = None) -> tuple[JobFuture[Any], aj.CancelToken]:
    """A call that runs, for sure, until the token is cancelled."""
    go = aj.CancelToken()
    future = executor.submit(jobs.hold, go, value)
    hosted = executor._hosted
    hosted.portal.call(jobs.running, hosted.runner, future.job)
    return future, go


def fill(executor: JobExecutor) -> list[tuple[JobFuture[Any], aj.CancelToken]]:
    """As many as it has workers, all running: what comes next has to wait."""
    return [held(executor, number) for number in range(executor._max_workers)]


def release(*calls: tuple[JobFuture[Any], aj.CancelToken]) -> None:
    for _, go in calls:
        go.cancel()


def raise_this(error: BaseException) -> None:
    raise error


def interrupt() -> None:
    raise KeyboardInterrupt("by the call")


def leave() -> None:
    raise SystemExit(7)


def stop_iteration() -> None:
    raise StopIteration("by the call")


def add_one_to(array: np.ndarray) -> float:
    array += 1
    return float(array.sum())


def double(array: np.ndarray) -> np.ndarray:
    return array * 2


PREPARED: list[Any] = []


def prepare(value: Any) -> None:
    PREPARED.append(value)


def prepared() -> list[Any]:
    return list(PREPARED)


def refuse() -> None:
    raise ValueError("not prepared")


@aj.job(lane="loop", name="decorated")
def where() -> tuple[int, str]:
    return os.getpid(), threading.current_thread().name


class Thing:
    """Something that can be watched."""

    def __call__(self, *_: Any) -> Thing:
        return Thing()


def make_thing(*_: Any) -> Thing:
    return Thing()


# --- how they are made ------------------------------------------------------------------


@each_kind
def test_the_arguments_are_those_of_the_standard_one_in_their_order(kind: str) -> None:
    def arguments(cls: type) -> list[str]:
        signature = inspect.signature(cls.__init__).parameters.values()
        return [one.name for one in signature if one.kind is not one.VAR_KEYWORD]

    assert arguments(KINDS[kind]) == arguments(STANDARD[kind])


@pytest.mark.slow
def test_all_arguments_by_position() -> None:
    with aj.ThreadPoolExecutor(1, "by-position", prepare, ("thread",)) as executor:
        assert executor.submit(where).result()[1].startswith("by-position_")
        assert executor.submit(prepared).result() == ["thread"]
    PREPARED.clear()
    context = multiprocessing.get_context("forkserver")
    with aj.ProcessPoolExecutor(1, context, prepare, ("process",)) as executor:
        assert executor.submit(prepared).result() == ["process"]


@each_kind
@pytest.mark.parametrize("workers", [0, -1, "2", 1.5, True])
def test_bad_numbers_of_workers_are_refused(kind: str, workers: Any) -> None:
    with pytest.raises(ValueError, match="max_workers must be greater than 0"):
        KINDS[kind](workers)


@each_kind
def test_an_initializer_that_is_no_function_is_refused(kind: str) -> None:
    with pytest.raises(TypeError, match="initializer=3 is not allowed"):
        KINDS[kind](1, initializer=3)


@pytest.mark.parametrize(("value", "error"), [("2", TypeError), (1.5, TypeError), (0, ValueError), (-1, ValueError)])
def test_bad_max_tasks_per_child_is_refused(value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="max_tasks_per_child"):
        aj.ProcessPoolExecutor(1, max_tasks_per_child=value)


@each_kind
def test_numbers_of_numpy_are_numbers(kind: str) -> None:
    with KINDS[kind](np.int64(2)) as executor:
        assert executor._max_workers == 2
        assert list(executor.map(jobs.square, range(5), chunksize=np.int64(2))) == [0, 1, 4, 9, 16]


@each_kind
def test_without_a_number_there_are_as_many_workers_as_in_the_standard_one(kind: str) -> None:
    with KINDS[kind]() as executor:
        if kind == "thread":
            with futures.ThreadPoolExecutor() as standard:
                assert executor._max_workers == standard._max_workers
        else:
            assert executor._max_workers == usable_processors()


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_context_says_how_workers_start(method: str) -> None:
    with aj.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as executor:
        assert executor.submit(jobs.add, 2, 3).result() == 5


def test_fork_is_refused_and_the_text_says_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"'fork' is not allowed; allowed: .*forkserver.*initializer="):
        aj.ProcessPoolExecutor(mp_context=multiprocessing.get_context("fork"))
    with pytest.raises(TypeError, match="mp_context=3 is not allowed"):
        aj.ProcessPoolExecutor(mp_context=3)  # type: ignore[arg-type]


def test_threads_are_named_as_in_the_standard_one() -> None:
    with aj.ThreadPoolExecutor(1) as one, aj.ThreadPoolExecutor(1, thread_name_prefix="mine") as other:
        assert one.submit(where).result()[1].startswith("ThreadPoolExecutor-")
        assert other.submit(where).result()[1] == "mine_0"


# --- submit -----------------------------------------------------------------------------


def test_values_and_exceptions_come_back(executor: JobExecutor) -> None:
    assert executor.submit(jobs.add, 2, y=3).result() == 5
    failed = executor.submit(jobs.fail, "on purpose")
    with pytest.raises(ValueError, match="on purpose"):
        failed.result(SOON)
    assert isinstance(failed.exception(), ValueError)


def test_a_future_is_one_of_the_standard_ones(executor: JobExecutor) -> None:
    future = executor.submit(jobs.echo, 1)
    assert isinstance(future, futures.Future)
    assert isinstance(executor, futures.Executor)
    assert future.result(SOON) == 1
    assert future.done()
    assert not future.running()
    assert not future.cancelled()


def test_a_function_may_have_parameters_called_as_ours() -> None:
    def call(self: int, fn: int, name: int) -> tuple[int, int, int]:
        return self, fn, name

    with aj.ThreadPoolExecutor(1) as executor:
        assert executor.submit(call, self=1, fn=2, name=3).result() == (1, 2, 3)


def test_lambdas_and_closures_go_to_processes(processes: aj.ProcessPoolExecutor) -> None:
    offset = 5
    assert list(processes.map(lambda x: x + offset, range(3))) == [5, 6, 7]


def test_what_does_not_pickle_is_refused_at_submit(processes: aj.ProcessPoolExecutor) -> None:
    with pytest.raises(aj.NotSendable, match="argument") as caught:
        processes.submit(jobs.echo, threading.Lock())
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, pickle.PicklingError)
    assert processes.submit(jobs.echo, 1).result() == 1


def test_a_result_that_does_not_pickle_is_the_calls_error(processes: aj.ProcessPoolExecutor) -> None:
    with pytest.raises(aj.ResultNotSendable):
        processes.submit(jobs.lock_if_three, 3).result(SOON)
    with pytest.raises(aj.ResultNotSendable):
        processes.submit(jobs.bomb_if_three, 3).result(SOON)
    assert processes.submit(jobs.lock_if_three, 1).result() == 1


def test_the_traceback_of_the_worker_is_shown(processes: aj.ProcessPoolExecutor) -> None:
    error = processes.submit(jobs.fail).exception(SOON)
    assert error is not None
    text = "".join(traceback.format_exception(error))
    assert "raise ValueError(text)" in text
    assert "runner_jobs.py" in text


@pytest.mark.slow
@pytest.mark.parametrize(("call", "error"), [(interrupt, KeyboardInterrupt), (leave, SystemExit)])
def test_what_ends_programs_ends_only_its_own_call(
    executor: JobExecutor, call: Callable[[], None], error: type[BaseException]
) -> None:
    with pytest.raises(error):
        executor.submit(call).result(SOON)
    assert executor.submit(jobs.echo, 1).result(SOON) == 1


def test_stop_iteration_does_not_end_the_iterator_of_whoever_waits(executor: JobExecutor) -> None:
    with pytest.raises(aj.RemoteError, match="StopIteration") as caught:
        executor.submit(stop_iteration).result(SOON)
    assert isinstance(caught.value.original, StopIteration)


async def test_stop_iteration_is_heard_by_a_loop(executor: JobExecutor) -> None:
    async with asyncio.timeout(SOON):
        with pytest.raises(aj.RemoteError, match="StopIteration"):
            await asyncio.get_running_loop().run_in_executor(executor, stop_iteration)


def test_a_large_array_may_be_written_to_and_the_callers_stays(processes: aj.ProcessPoolExecutor) -> None:
    array = np.zeros(1_000_000)
    assert processes.submit(add_one_to, array).result(SOON) == 1_000_000
    assert not array.any()
    result = processes.submit(double, np.ones(1_000_000)).result(SOON)
    result += 1
    assert result.sum() == 3_000_000


def test_a_decorated_function_runs_in_the_executors_lane() -> None:
    with aj.ThreadPoolExecutor(1, "here") as threads, aj.ProcessPoolExecutor(1) as processes:
        assert threads.submit(where).result() == (os.getpid(), "here_0")
        assert processes.submit(where).result()[0] != os.getpid()


def test_a_coroutine_function_is_refused(executor: JobExecutor) -> None:
    with pytest.raises(TypeError, match="coroutine function"):
        executor.submit(jobs.aecho, 1)


def test_the_current_job_is_known(executor: JobExecutor) -> None:
    future = executor.submit(jobs.who_am_i)
    assert future.result(SOON)["id"] == future.job.id
    assert future.job.progress is not None


def test_calls_may_be_submitted_from_many_threads(threads: aj.ThreadPoolExecutor) -> None:
    made: list[JobFuture[int]] = []

    def submit() -> None:
        made.extend(threads.submit(jobs.square, number) for number in range(50))

    workers = [threading.Thread(target=submit) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted(future.result(SOON) for future in made) == sorted([n * n for n in range(50)] * 4)


def test_a_call_may_submit_to_its_own_executor_of_threads(threads: aj.ThreadPoolExecutor) -> None:
    assert threads.submit(lambda: threads.submit(jobs.square, 3).result(SOON)).result(SOON) == 9


def test_a_call_in_a_process_may_have_an_executor_of_its_own(processes: aj.ProcessPoolExecutor) -> None:
    def nested() -> int:
        with aj.ThreadPoolExecutor(1) as inner:
            return inner.submit(jobs.square, 3).result(SOON)

    assert processes.submit(nested).result(SOON) == 9


# --- initializers, and workers that end --------------------------------------------------


def test_each_worker_process_is_prepared() -> None:
    with aj.ProcessPoolExecutor(1, initializer=prepare, initargs=("x",)) as executor:
        assert [executor.submit(prepared).result(SOON) for _ in range(3)] == [["x"]] * 3


@pytest.mark.slow
@each_kind
def test_an_initializer_that_raises_fails_each_call_and_hangs_none(kind: str) -> None:
    with KINDS[kind](1, initializer=refuse) as executor:
        for _ in range(2):
            with pytest.raises(futures.BrokenExecutor, match="not prepared"):
                executor.submit(jobs.echo).result(SOON)


def test_a_worker_is_replaced_after_its_share_of_calls() -> None:
    with aj.ProcessPoolExecutor(1, max_tasks_per_child=2) as executor:
        pids = [executor.submit(os.getpid).result(SOON) for _ in range(6)]
    assert [len(list(group)) for _, group in itertools.groupby(pids)] == [2, 2, 2]


@pytest.mark.slow
def test_a_crash_fails_its_own_future_and_the_executor_goes_on(processes: aj.ProcessPoolExecutor) -> None:
    neighbour, go = held(processes, "untouched")
    for _ in range(3):
        with pytest.raises(BrokenProcessPool):
            processes.submit(jobs.die).result(SOON)
    assert processes.submit(jobs.square, 3).result(SOON) == 9
    go.cancel()
    assert neighbour.result(SOON) == "untouched"


def test_a_worker_that_is_killed_from_outside_fails_its_own_call(processes: aj.ProcessPoolExecutor) -> None:
    pid = processes.submit(os.getpid).result(SOON)
    calls = fill(processes)
    os.kill(pid, signal.SIGKILL)
    ends = futures.wait([future for future, _ in calls], SOON, return_when=futures.FIRST_EXCEPTION)
    (broken,) = ends.done
    assert isinstance(broken.exception(), BrokenProcessPool)
    release(*calls)
    assert len(futures.wait([future for future, _ in calls], SOON).done) == 2


# --- map --------------------------------------------------------------------------------


@pytest.mark.parametrize("chunksize", [1, 3, 100])
def test_map_gives_results_in_the_order_of_the_items(executor: JobExecutor, chunksize: int) -> None:
    assert list(executor.map(jobs.add, range(10), range(12), chunksize=chunksize)) == [2 * n for n in range(10)]
    assert list(executor.map(jobs.square, [], chunksize=chunksize)) == []


@pytest.mark.parametrize("chunksize", [1, 2])
def test_an_item_that_raises_ends_the_map_there(executor: JobExecutor, chunksize: int) -> None:
    results = executor.map(jobs.fail_on_odd, [0, 2, 3, 4], chunksize=chunksize)
    assert [next(results), next(results)] == [0, 2]
    with pytest.raises(ValueError, match="3 is odd"):
        next(results)
    assert list(results) == []


def test_map_takes_everything_at_once_without_a_buffersize(executor: JobExecutor) -> None:
    source = iter(range(5))
    results = executor.map(jobs.square, source)
    assert next(source, "empty") == "empty"
    assert list(results) == [0, 1, 4, 9, 16]


@pytest.mark.parametrize("chunksize", [1, 2])
def test_map_with_a_buffersize_is_lazy(executor: JobExecutor, chunksize: int) -> None:
    taken: list[int] = []
    source = (taken.append(number) or number for number in itertools.count())
    results = executor.map(jobs.square, source, buffersize=3, chunksize=chunksize)
    per_chunk = chunksize if isinstance(executor, aj.ProcessPoolExecutor) else 1
    assert len(taken) == 3 * per_chunk
    assert list(itertools.islice(results, 20)) == [number * number for number in range(20)]
    assert len(taken) <= 20 + 4 * per_chunk
    results.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize(("buffersize", "error"), [(0, ValueError), (-1, ValueError), ("2", TypeError)])
def test_bad_buffersizes_are_refused(executor: JobExecutor, buffersize: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="buffersize"):
        executor.map(jobs.square, [1], buffersize=buffersize)


@pytest.mark.parametrize("chunksize", [0, -1, 1.5, None])
def test_bad_chunksizes_are_refused_where_there_are_chunks(
    processes: aj.ProcessPoolExecutor, threads: aj.ThreadPoolExecutor, chunksize: Any
) -> None:
    with pytest.raises(ValueError, match="chunksize must be >= 1"):
        processes.map(jobs.square, [1], chunksize=chunksize)
    assert list(threads.map(jobs.square, [2], chunksize=chunksize)) == [4]


def test_a_source_that_raises_does_so_in_map(executor: JobExecutor) -> None:
    def source() -> Iterator[int]:
        yield 1
        raise OSError("the source")

    with pytest.raises(OSError, match="the source"):
        executor.map(jobs.square, source())
    lazily = executor.map(jobs.square, source(), buffersize=1)
    with pytest.raises(OSError, match="the source"):
        list(lazily)
    with pytest.raises(TypeError):
        executor.map(jobs.square, 3)  # type: ignore[arg-type]


@pytest.mark.parametrize("timeout", [0, -1, 0.01])
def test_map_keeps_its_timeout(executor: JobExecutor, timeout: float) -> None:
    go = aj.CancelToken()
    results = executor.map(jobs.hold, [go, go, go], timeout=timeout)
    with pytest.raises(TimeoutError):
        next(results)
    go.cancel()


@pytest.mark.parametrize("chunksize", [1, 2])
def test_a_map_that_is_closed_cancels_what_does_not_run_yet(chunksize: int) -> None:
    with aj.ProcessPoolExecutor(1) as executor:
        go = aj.CancelToken()
        items: list[Any] = [0] * chunksize + [go] * chunksize + list(range(8))
        results = executor.map(echo_or_hold, items, chunksize=chunksize)
        assert next(results) == 0
        waiting = executor._hosted.portal.do(executor._hosted.runner.jobs)
        results.close()  # type: ignore[attr-defined]
        go.cancel()
        executor.shutdown()
        assert aj.JobState.CANCELLED in {job.state for job in waiting}
        assert all(job.done() for job in waiting)


def echo_or_hold(item: Any) -> Any:
    return jobs.hold(item) if isinstance(item, aj.CancelToken) else item


@each_kind
def test_map_of_a_dropped_executor_brings_its_results(kind: str) -> None:
    assert list(KINDS[kind](2).map(jobs.square, range(5))) == [0, 1, 4, 9, 16]


# --- what concurrent.futures and asyncio do with our futures -----------------------------


def test_as_completed_brings_all(executor: JobExecutor) -> None:
    first, go = held(executor, "first")
    second = executor.submit(jobs.echo, "second")
    completed = futures.as_completed([first, second], SOON)
    assert next(completed) is second
    go.cancel()
    assert next(completed) is first


@pytest.mark.parametrize("how", [futures.FIRST_COMPLETED, futures.FIRST_EXCEPTION, futures.ALL_COMPLETED])
def test_wait_waits_for_what_it_is_asked(executor: JobExecutor, how: str) -> None:
    call, go = held(executor)
    failed = executor.submit(jobs.fail)
    if how == futures.ALL_COMPLETED:
        go.cancel()
    done, _ = futures.wait([call, failed], SOON, how)
    assert failed in done
    assert (call in done) == (how == futures.ALL_COMPLETED)
    go.cancel()


def test_wait_hears_of_a_cancel(executor: JobExecutor) -> None:
    call, go = held(executor)
    canceller = threading.Thread(target=call.cancel)
    canceller.start()
    assert futures.wait([call], SOON).done == {call}
    canceller.join()
    go.cancel()


async def test_run_in_executor_brings_values_and_exceptions(executor: JobExecutor) -> None:
    loop = asyncio.get_running_loop()
    assert await loop.run_in_executor(executor, jobs.add, 1, 2) == 3
    with pytest.raises(ValueError, match="on purpose"):
        await loop.run_in_executor(executor, jobs.fail, "on purpose")


async def test_cancelling_a_wrapped_future_cancels_the_call(executor: JobExecutor) -> None:
    future = executor.submit(jobs.listen)
    wrapped = asyncio.wrap_future(future)
    wrapped.cancel()
    with pytest.raises(asyncio.CancelledError):
        await wrapped
    assert await asyncio.to_thread(futures.wait, [future], SOON)
    assert future.cancelled()


# --- cancel, and what a future says of itself -------------------------------------------


def test_a_waiting_call_is_cancelled_and_never_runs(executor: JobExecutor, tmp_path: Any) -> None:
    calls = fill(executor)
    waiting = executor.submit(jobs.write_line, str(tmp_path / "ran"))
    assert not waiting.running()
    assert waiting.cancel()
    assert waiting.cancelled()
    assert waiting.done()
    release(*calls)
    executor.shutdown()
    with pytest.raises(futures.CancelledError):
        waiting.result()
    assert jobs.lines(tmp_path / "ran") == []


def test_a_running_call_is_cancelled(executor: JobExecutor) -> None:
    future, go = held(executor)
    assert future.running()
    assert future.cancel()
    assert future.cancel(), "a second time says the same"
    assert future.cancelled()
    with pytest.raises(futures.CancelledError):
        future.result()
    go.cancel()
    assert executor.submit(jobs.square, 2).result(SOON) == 4


def test_a_call_that_has_ended_is_not_cancelled(executor: JobExecutor) -> None:
    future = executor.submit(jobs.echo, 1)
    assert future.result(SOON) == 1
    assert not future.cancel()
    assert not future.cancelled()
    assert future.result() == 1


def test_cancels_that_race_with_the_end_leave_one_answer(executor: JobExecutor) -> None:
    for _ in range(100):
        future = executor.submit(jobs.echo, 1)
        said = future.cancel()
        (done,) = futures.wait([future], SOON).done
        assert done.cancelled() == said
        assert said or done.result() == 1


def test_result_keeps_its_timeout(executor: JobExecutor) -> None:
    future, go = held(executor, 1)
    for timeout in (0, -1, 0.01):
        with pytest.raises(TimeoutError):
            future.result(timeout)
        with pytest.raises(futures.TimeoutError):
            future.exception(timeout)
    go.cancel()
    assert future.result(SOON) == 1


@pytest.mark.slow
def test_a_repr_tells_the_state(executor: JobExecutor) -> None:
    future, go = held(executor)
    assert "RUNNING" in repr(future)
    assert "hold" in repr(future)
    assert "open" in repr(executor)
    go.cancel()
    executor.shutdown()
    assert "SUCCEEDED" in repr(future)
    assert "shut down" in repr(executor)


# --- F42: callbacks ---------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError("bad"), SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_f42_a_callback_that_raises_harms_nothing(
    threads: aj.ThreadPoolExecutor, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    future, go = held(threads, 1)
    seen: list[str] = []
    future.add_done_callback(lambda _: seen.append("before"))
    future.add_done_callback(lambda _: raise_this(error))
    future.add_done_callback(lambda _: seen.append("after"))
    go.cancel()
    assert threads.submit(jobs.square, 3).result(SOON) == 9
    threads.shutdown()
    assert seen == ["before", "after"]
    assert "a done callback of" in caplog.text
    assert future.result() == 1


def test_f42_a_callback_that_raises_at_a_cancel_harms_nothing(threads: aj.ThreadPoolExecutor) -> None:
    future, go = held(threads)
    future.add_done_callback(lambda _: raise_this(SystemExit(3)))
    assert future.cancel()
    assert futures.wait([future], SOON).done == {future}
    go.cancel()
    assert threads.submit(jobs.square, 3).result(SOON) == 9


def test_f42_a_callback_may_submit(executor: JobExecutor) -> None:
    made: list[JobFuture[int]] = []
    told = threading.Event()

    def more(_: object) -> None:
        made.append(executor.submit(jobs.square, 4))
        told.set()

    executor.submit(jobs.echo).add_done_callback(more)
    assert told.wait(SOON)
    assert made[0].result(SOON) == 16


def test_f42_a_callback_that_would_block_for_ever_is_told_so(threads: aj.ThreadPoolExecutor) -> None:
    pending, go = held(threads)
    found: list[BaseException] = []
    told = threading.Event()

    def block(_: object) -> None:
        for wait in (pending.result, pending.exception, threads.shutdown):
            try:
                wait()
            except aj.WouldDeadlock as error:
                found.append(error)
        told.set()

    threads.submit(jobs.echo).add_done_callback(block)
    assert told.wait(SOON)
    assert len(found) == 3
    go.cancel()
    assert threads.submit(jobs.echo, "still open").result(SOON) == "still open"


def test_f42_a_callback_that_takes_its_time_delays_and_breaks_nothing(threads: aj.ThreadPoolExecutor) -> None:
    with Gate() as gate:
        threads.submit(jobs.echo).add_done_callback(lambda _: gate.pass_through())
        gate.wait_for_arrival()
        later = threads.submit(jobs.square, 3)
        assert not later.done()
    assert later.result(SOON) == 9


def test_a_callback_on_an_ended_future_is_called_at_once(threads: aj.ThreadPoolExecutor) -> None:
    future = threads.submit(jobs.echo, 1)
    future.result(SOON)
    seen: list[int] = []
    future.add_done_callback(lambda _: seen.append(threading.get_ident()))
    assert seen == [threading.get_ident()]


def test_shutdown_in_a_callback_without_waiting_ends_it() -> None:
    executor = aj.ThreadPoolExecutor(1)
    future, go = held(executor)
    told = threading.Event()

    def end(_: object) -> None:
        executor.shutdown(wait=False)
        told.set()

    future.add_done_callback(end)
    go.cancel()
    assert told.wait(SOON)
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.submit(jobs.echo)
    executor.shutdown()


# --- shutdown ---------------------------------------------------------------------------


@pytest.mark.parametrize("wait", [True, False])
@pytest.mark.parametrize("cancel_futures", [True, False])
@each_kind
def test_shutdown_ends_what_it_should(kind: str, wait: bool, cancel_futures: bool) -> None:
    executor = KINDS[kind](1)
    calls = fill(executor)
    waiting = [executor.submit(jobs.square, number) for number in range(3)]
    if wait:
        starter = threading.Thread(target=executor.shutdown, kwargs={"cancel_futures": cancel_futures})
        starter.start()
    else:
        executor.shutdown(wait=False, cancel_futures=cancel_futures)
    if cancel_futures:
        futures.wait(waiting, SOON)
    release(*calls)
    assert calls[0][0].result(SOON) == 0
    ends = futures.wait(waiting, SOON).done
    assert [future.cancelled() for future in ends] == [cancel_futures] * 3
    if wait:
        starter.join(SOON)
        assert not starter.is_alive()
    for again in (True, False):
        executor.shutdown(wait=again)
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.submit(jobs.echo)
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.map(jobs.square, [1])


def test_shutdown_a_second_time_from_another_thread() -> None:
    found: list[BaseException] = []

    def again(executor: JobExecutor) -> None:
        try:
            executor.shutdown()
        except RuntimeError as error:
            found.append(error)

    for _ in range(5):
        executor = aj.ThreadPoolExecutor(1)
        executor.submit(jobs.echo).result(SOON)
        executor.shutdown()
        # The system gives the new thread the number of the loop's.
        thread = threading.Thread(target=again, args=(executor,))
        thread.start()
        thread.join()
    assert found == []


def test_shutdown_from_several_threads_at_once() -> None:
    executor = aj.ProcessPoolExecutor(1)
    future, go = held(executor, 1)
    threads = [threading.Thread(target=executor.shutdown) for _ in range(4)]
    for thread in threads:
        thread.start()
    go.cancel()
    for thread in threads:
        thread.join(SOON)
    assert not any(thread.is_alive() for thread in threads)
    assert future.result(0) == 1


def test_shutdowns_of_every_kind_at_once_end_every_call() -> None:
    for _ in range(20):
        executor = aj.ThreadPoolExecutor(1)
        made = [executor.submit(jobs.square, 3) for _ in range(20)]
        kinds = [{"wait": wait, "cancel_futures": cancel} for wait in (True, False) for cancel in (False, True)]
        threads = [threading.Thread(target=executor.shutdown, kwargs=kind) for kind in kinds]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SOON)
        assert not any(thread.is_alive() for thread in threads)
        assert not futures.wait(made, SOON).not_done


def test_shutdown_inside_one_of_its_own_calls_is_refused_and_harms_nothing(threads: aj.ThreadPoolExecutor) -> None:
    with pytest.raises(aj.WouldDeadlock):
        threads.submit(threads.shutdown).result(SOON)
    assert threads.submit(jobs.square, 3).result(SOON) == 9


def test_shutdown_without_waiting_inside_one_of_its_own_calls_ends_it() -> None:
    executor = aj.ThreadPoolExecutor(1)
    assert executor.submit(executor.shutdown, wait=False).result(SOON) is None
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(jobs.echo)
    executor.shutdown()


@pytest.mark.slow
def test_submits_that_race_with_a_shutdown_are_done_or_refused() -> None:
    for _ in range(20):
        executor = aj.ThreadPoolExecutor(2)
        made: list[JobFuture[int]] = []
        refused: list[RuntimeError] = []

        def submit(executor: JobExecutor = executor, made: list = made, refused: list = refused) -> None:
            try:
                while True:
                    made.append(executor.submit(jobs.square, 3))
            except RuntimeError as error:
                refused.append(error)

        thread = threading.Thread(target=submit)
        thread.start()
        while not made and thread.is_alive():
            pass
        executor.shutdown()
        thread.join(SOON)
        assert len(refused) == 1
        assert {future.result(0) for future in made} == {9}


@each_kind
def test_an_executor_that_is_dropped_finishes_its_work(kind: str) -> None:
    executor = KINDS[kind](1)
    calls = fill(executor)
    waiting = [executor.submit(jobs.square, number) for number in range(5)]
    gone = weakref.ref(executor)
    del executor
    gc.collect()
    assert gone() is None
    release(*calls)
    assert [future.result(SOON) for future in waiting] == [0, 1, 4, 9, 16]


def test_ctrl_c_in_the_block_cancels_what_is_left() -> None:
    with contextlib.suppress(KeyboardInterrupt), aj.ProcessPoolExecutor(1) as executor:
        running = executor.submit(jobs.listen)
        waiting = executor.submit(jobs.listen)
        raise KeyboardInterrupt
    assert running.cancelled()
    assert waiting.cancelled()


# --- nothing is kept --------------------------------------------------------------------


def _gone(*watched: Any) -> list[threading.Event]:
    """An event for each, set when it is gone."""
    events = []
    for one in watched:
        event = threading.Event()
        weakref.finalize(one, event.set)
        events.append(event)
    return events


@pytest.mark.slow
def test_functions_arguments_and_results_are_not_kept(executor: JobExecutor) -> None:
    fn, argument = Thing(), Thing()
    future = executor.submit(fn, argument)
    events = _gone(fn, argument, future.result(SOON))
    del fn, argument, future
    assert all(event.wait(SOON) for event in events)


@pytest.mark.slow
def test_the_results_of_a_map_are_not_kept(executor: JobExecutor) -> None:
    for chunksize in (1, 2):
        results = executor.map(make_thing, range(4), chunksize=chunksize)
        for result in results:
            (event,) = _gone(result)
            del result
            assert event.wait(SOON)


# --- real programs ----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["thread", pytest.param("process", marks=starts_workers_at_the_exit)])
def test_the_end_of_the_program_finishes_all_work(launch: Any, kind: str, tmp_path: Any) -> None:
    program = launch(f"""
        def work(number):
            with open({str(tmp_path)!r} + f"/{{number}}", "w"):
                pass

        executor = aj.{KINDS[kind].__name__}(2)
        for number in range(20):
            executor.submit(work, number)
    """)
    assert program.ends(SOON) == 0
    assert program.output == ""
    assert sorted(int(path.name) for path in tmp_path.glob("[0-9]*")) == list(range(20))


@pytest.mark.slow
@each_kind
def test_functions_of_the_script_need_no_guard(launch: Any, kind: str) -> None:
    program = launch(f"""
        FACTOR = 3

        def work(number):
            return number * FACTOR

        say("started")
        with aj.{KINDS[kind].__name__}(2) as executor:
            say(list(executor.map(work, range(4))))
    """)
    assert program.ends(SOON) == 0
    assert program.output == "started\n[0, 3, 6, 9]\n"


@pytest.mark.slow
@each_kind
def test_submit_at_the_very_end_is_refused(launch: Any, kind: str) -> None:
    program = launch(f"""
        import atexit
        executor = aj.{KINDS[kind].__name__}(1)

        @atexit.register
        def late():
            try:
                executor.submit(len, "abc")
            except RuntimeError as error:
                say("refused:", error)
            try:
                aj.{KINDS[kind].__name__}(1).submit(len, "abc")
            except RuntimeError as error:
                say("refused:", error)

        executor.submit(len, "abc").result()
    """)
    assert program.ends(SOON) == 0
    first, second = program.output.splitlines()
    assert first == "refused: cannot schedule new futures after shutdown"
    assert second.startswith("refused: the interpreter exits")


@starts_workers_at_the_exit
def test_an_executor_that_a_call_makes_while_the_program_ends_finishes_too(launch: Any, tmp_path: Any) -> None:
    program = launch(f"""
        def late():
            with open({str(tmp_path / "late")!r}, "w"):
                pass

        def work():
            try:
                while True:
                    executor.submit(len, "until it is refused")
            except RuntimeError:
                aj.ThreadPoolExecutor(1).submit(late)

        executor = aj.ThreadPoolExecutor(1)
        executor.submit(work)
    """)
    assert program.ends(SOON) == 0
    assert program.output == ""
    assert (tmp_path / "late").exists()


@pytest.mark.slow
@each_kind
@pytest.mark.parametrize("where_it_blocks", ["future.result()", "executor.shutdown()"])
def test_f48_ctrl_c_ends_a_program_that_waits(launch: Any, kind: str, where_it_blocks: str) -> None:
    program = launch(
        f"""
        def work():
            # By now the main thread waits. CPython loses a Ctrl-C in the very moment before.
            time.sleep(0.3)
            say("waits")
            listener()

        with aj.{KINDS[kind].__name__}(1) as executor:
            future = executor.submit(work)
            waiting = executor.submit(work)
            {where_it_blocks}
    """,
        terminal=True,
    )
    program.read_until("waits")
    program.interrupt()
    assert program.ends(SOON) in (130, -signal.SIGINT)
    assert program.output.count("Traceback") == 1, program.output
    assert program.output.rstrip().endswith("KeyboardInterrupt"), program.output


def test_f48_a_second_ctrl_c_ends_at_once(launch: Any) -> None:
    program = launch(
        """
        def work():
            time.sleep(0.3)  # as above
            say("waits")
            stubborn()

        executor = aj.ThreadPoolExecutor(1)
        executor.submit(work)
        try:
            executor.shutdown()
        finally:
            say("over")
    """,
        terminal=True,
    )
    program.read_until("waits")
    program.interrupt()
    program.read_until("^C")
    program.interrupt()
    assert program.ends(SOON) in (130, -signal.SIGINT)


@pytest.mark.parametrize("face", ["ThreadPoolExecutor(1)", "ProcessPoolExecutor(1)", "TaskQueue()"])
def test_f48_a_second_ctrl_c_while_the_block_is_left_adds_no_traceback(launch: Any, face: str) -> None:
    program = launch(
        f"""
        def work():
            say("waits")
            stubborn()

        def watch(hosted):
            while not hosted.doorway.is_closed:
                time.sleep(0.01)
            time.sleep(0.1)  # by now it waits for the jobs, which have a grace of 2 s
            say("closes")

        with aj.{face} as face:
            threading.Thread(target=watch, args=[face._hosted]).start()
            (face.add_task if hasattr(face, "add_task") else face.submit)(work)
            time.sleep(60)
    """,
        terminal=True,
    )
    program.read_until("waits")
    program.interrupt()
    program.read_until("closes")
    program.interrupt()
    assert program.ends(SOON) in (130, -signal.SIGINT)
    assert program.output.count("Traceback") == 1, program.output


@pytest.mark.slow
def test_a_forked_child_is_inert(launch: Any) -> None:
    program = launch("""
        executor = aj.ProcessPoolExecutor(1)
        go = aj.CancelToken()
        future = executor.submit(go.wait, 60)
        __import__("warnings").simplefilter("ignore")  # newer interpreters warn of a fork beside threads
        pid = os.fork()
        if pid == 0:
            for what in (lambda: executor.submit(len, "a"), future.result, future.exception):
                try:
                    what()
                except aj.WrongLoop:
                    say("refused")
            say(future.cancel())
            executor.shutdown()
            sys.exit(0)
        _, status = os.waitpid(pid, 0)
        go.cancel()
        say("child", status, "parent", future.result(20), executor.submit(len, "abc").result(20))
        executor.shutdown()
    """)
    assert program.ends(SOON) == 0
    assert program.output == "refused\nrefused\nrefused\nFalse\nchild 0 parent True 3\n"
