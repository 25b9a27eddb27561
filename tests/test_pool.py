"""`Pool`, as those use it who know `multiprocessing.Pool`."""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import operator
import os
import pickle
import signal
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import runner_jobs as jobs
import test_faults_lifecycle
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import asyncjobs as aj
from asyncjobs.testing import Gate

launch = test_faults_lifecycle.launch

SOON = 60.0
"""Seconds after which something that should come at once has failed."""


@pytest.fixture
def pool() -> Iterator[aj.Pool]:
    with aj.Pool(2) as made:
        yield made


def held(pool: aj.Pool, value: Any = None) -> tuple[Any, aj.CancelToken]:
    """A call that runs, for sure, until the token is cancelled."""
    go = aj.CancelToken()
    hosted = pool._hosted
    before = set(hosted.portal.do(hosted.runner.jobs))
    result = pool.apply_async(jobs.hold, (go, value))
    (job,) = set(hosted.portal.do(hosted.runner.jobs)) - before
    hosted.portal.call(jobs.running, hosted.runner, job)
    return result, go


def in_thread(fn: Callable[[], object]) -> Callable[[], object]:
    """Start ``fn()`` in a thread; the answer waits for it, and gives what it returned or raised."""
    box: list[object] = []

    def run() -> None:
        try:
            box.append(fn())
        except BaseException as error:
            box.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def joined() -> object:
        thread.join(SOON)
        assert not thread.is_alive(), f"{fn} still blocks"
        return box[0]

    return joined


def write(path: str) -> None:
    Path(path).touch()


def kill_if(number: int, bad: int) -> int:
    if number == bad:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def kill_if_three(number: int) -> int:
    return kill_if(number, 3)


def leave_with(code: int) -> None:
    raise SystemExit(code)


PREPARED: list[Any] = []


def prepare(*values: Any) -> None:
    PREPARED.extend(values)


def prepared() -> list[Any]:
    return list(PREPARED)


def refuse() -> None:
    raise ValueError("not prepared")


def divide(x: int, y: int) -> float:
    return x / y


# --- how it is made ---------------------------------------------------------------------


@pytest.mark.slow
def test_all_arguments_by_position() -> None:
    with aj.Pool(1, prepare, ("a", "b"), 2, multiprocessing.get_context("forkserver")) as pool:
        assert pool.apply(prepared) == ["a", "b"]
        pids = [pool.apply(os.getpid) for _ in range(5)]
    assert [len(list(group)) for _, group in itertools.groupby(pids)] == [1, 2, 2]


@pytest.mark.parametrize("processes", [0, -1, "2", 1.5, True])
def test_bad_numbers_of_processes_are_refused(processes: Any) -> None:
    with pytest.raises(ValueError, match="processes="):
        aj.Pool(processes)
    with pytest.raises(ValueError, match="maxtasksperchild="):
        aj.Pool(1, maxtasksperchild=processes)


def test_other_bad_arguments_are_refused() -> None:
    with pytest.raises(TypeError, match="initializer=3"):
        aj.Pool(1, initializer=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'fork' is not allowed"):
        aj.Pool(1, context=multiprocessing.get_context("fork"))


def test_numbers_of_numpy_are_numbers() -> None:
    with aj.Pool(np.int64(1)) as pool:
        assert pool._processes == 1
        assert pool.map(jobs.square, [1, 2], chunksize=np.int64(1)) == [1, 4]


@pytest.mark.slow
def test_an_initializer_that_raises_fails_calls_and_hangs_none() -> None:
    with aj.Pool(1, refuse) as pool:
        with pytest.raises(aj.WorkerStartError, match="not prepared"):
            pool.apply_async(jobs.echo).get(SOON)
        with pytest.raises(aj.WorkerStartError, match="not prepared"):
            pool.map_async(jobs.echo, [1, 2]).get(SOON)


def test_a_pool_does_not_pickle(pool: aj.Pool) -> None:
    with pytest.raises(NotImplementedError, match="cannot be passed between processes or pickled"):
        pickle.dumps(pool)


# --- every method ------------------------------------------------------------------------


def add_one_to(array: np.ndarray) -> float:
    array += 1
    return float(array.sum())


@pytest.mark.slow
def test_a_large_array_may_be_written_to_and_the_callers_stays(pool: aj.Pool) -> None:
    array = np.zeros(2**20)
    assert pool.apply(add_one_to, (array,)) == 2**20
    assert list(pool.imap(add_one_to, [array, array])) == [2**20, 2**20]
    assert not array.any()


def test_apply(pool: aj.Pool) -> None:
    assert pool.apply(jobs.add, (2,), {"y": 3}) == 5
    assert pool.apply(jobs.add, [2, 3]) == 5
    assert pool.apply_async(jobs.add, (2,), {"y": 3}).get(SOON) == 5
    with pytest.raises(ValueError, match="on purpose"):
        pool.apply(jobs.fail, ("on purpose",))


@pytest.mark.slow
@pytest.mark.parametrize("chunksize", [None, 1, 3, 100])
def test_map_in_all_its_forms(pool: aj.Pool, chunksize: int | None) -> None:
    squares = [number * number for number in range(20)]
    assert pool.map(jobs.square, range(20), chunksize) == squares
    assert pool.map(jobs.square, iter(range(20)), chunksize) == squares
    assert pool.map(jobs.square, [], chunksize) == []
    assert pool.map_async(jobs.square, range(20), chunksize).get(SOON) == squares
    assert list(pool.imap(jobs.square, range(20), chunksize or 1)) == squares
    assert sorted(pool.imap_unordered(jobs.square, range(20), chunksize or 1)) == squares


@pytest.mark.slow
def test_starmap_in_all_its_forms(pool: aj.Pool) -> None:
    pairs = [(number, 2 * number) for number in range(10)]
    sums = [3 * number for number in range(10)]
    assert pool.starmap(jobs.add, pairs) == sums
    assert pool.starmap(jobs.add, (pair for pair in pairs)) == sums
    assert pool.starmap(jobs.add, zip(range(10), range(0, 20, 2), strict=True)) == sums
    assert pool.starmap(jobs.add, [list(pair) for pair in pairs], 3) == sums
    assert pool.starmap_async(jobs.add, iter(pairs)).get(SOON) == sums
    assert pool.starmap(jobs.add, []) == []


@pytest.mark.parametrize("chunksize", [0, -1, 1.5, "2"])
def test_bad_chunksizes_are_refused(pool: aj.Pool, chunksize: Any) -> None:
    for method in (pool.map, pool.map_async, pool.imap, pool.imap_unordered):
        with pytest.raises(ValueError, match="chunksize="):
            method(jobs.square, [1], chunksize)


def test_bad_calls_are_refused_at_the_caller(pool: aj.Pool) -> None:
    with pytest.raises(TypeError):
        pool.map(jobs.square, 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        pool.imap(jobs.square, 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="callback=3"):
        pool.apply_async(jobs.square, (1,), callback=3)  # type: ignore[arg-type]
    with pytest.raises(aj.NotSendable):
        pool.apply_async(jobs.echo, (threading.Lock(),))
    with pytest.raises(OSError, match="the source"):
        pool.map_async(jobs.square, raising_source())


@pytest.mark.slow
def test_an_item_that_does_not_pickle_is_that_items_error(pool: aj.Pool) -> None:
    with pytest.raises(aj.NotSendable):
        pool.map(jobs.echo, [1, threading.Lock(), 2])
    results = pool.imap(jobs.echo, [1, threading.Lock(), 2])
    assert next(results) == 1
    with pytest.raises(aj.NotSendable):
        next(results)
    assert next(results) == 2


def raising_source() -> Iterator[int]:
    yield 1
    raise OSError("the source")


@pytest.mark.slow
def test_a_list_is_taken_as_it_is_at_the_call(pool: aj.Pool) -> None:
    items = list(range(1000))
    result = pool.map_async(jobs.echo, items)
    items.clear()
    assert result.get(SOON) == list(range(1000))


@pytest.mark.slow
def test_a_result_that_does_not_pickle_is_that_calls_error(pool: aj.Pool) -> None:
    with pytest.raises(aj.ResultNotSendable):
        pool.apply(jobs.lock_if_three, (3,))
    with pytest.raises(aj.ResultNotSendable):
        pool.map(jobs.lock_if_three, range(5))
    assert pool.map(jobs.square, range(3)) == [0, 1, 4]


def test_the_traceback_of_the_worker_is_shown(pool: aj.Pool) -> None:
    for call in (lambda: pool.apply(jobs.fail), lambda: pool.map(jobs.fail, ["text"])):
        with pytest.raises(ValueError) as caught:
            call()
        assert "raise ValueError(text)" in "".join(traceback.format_exception(caught.value))


@pytest.mark.slow
def test_a_call_that_exits_fails_and_the_pool_goes_on(pool: aj.Pool) -> None:
    with pytest.raises(aj.RemoteError, match="SystemExit"):
        pool.apply_async(leave_with, (3,)).get(SOON)
    assert pool.apply(jobs.square, (3,)) == 9


FUNCTIONS: list[Callable[[int], Any]] = [jobs.square, operator.neg, str, jobs.fail_on_odd, lambda x: [x] * 3]


@pytest.fixture(scope="module")
def shared_pool() -> Iterator[aj.Pool]:
    with aj.Pool(2) as made:
        yield made


def outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:
        return type(error), str(error)


@pytest.mark.slow
@pytest.mark.may_leak("the module's one pool starts its workers when they are first needed")
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    function=st.sampled_from(FUNCTIONS),
    items=st.lists(st.integers(-1000, 1000), max_size=60),
    chunksize=st.integers(1, 70),
    as_list=st.booleans(),
)
def test_maps_are_the_built_in_map(
    shared_pool: aj.Pool, function: Callable[[int], Any], items: list[int], chunksize: int, as_list: bool
) -> None:
    source: Callable[[], Any] = (lambda: items) if as_list else (lambda: iter(items))
    wanted = outcome(lambda: list(map(function, items)))
    assert outcome(lambda: shared_pool.map(function, source(), chunksize)) == wanted
    assert outcome(lambda: list(shared_pool.imap(function, source(), chunksize))) == wanted
    rows = [(item,) for item in items]
    assert outcome(lambda: shared_pool.starmap(function, rows, chunksize)) == wanted
    if isinstance(wanted, list):
        found = list(shared_pool.imap_unordered(function, source(), chunksize))
        assert sorted(map(repr, found)) == sorted(map(repr, wanted))


# --- errors among many items -------------------------------------------------------------


@pytest.mark.slow
def test_an_item_that_raises_does_not_stop_the_others_and_the_first_error_comes_last(
    pool: aj.Pool, tmp_path: Path
) -> None:
    def work(number: int) -> None:
        write(str(tmp_path / str(number)))
        if number in (3, 5):
            raise ValueError(f"item {number}")

    with pytest.raises(ValueError, match="item 3"):
        pool.map(work, range(10))
    assert len(list(tmp_path.iterdir())) == 10


@pytest.mark.slow
@pytest.mark.parametrize("chunksize", [1, 4])
def test_imap_goes_on_after_an_item_that_raised(pool: aj.Pool, chunksize: int) -> None:
    results = pool.imap(jobs.fail_on_odd, range(6), chunksize)
    found = [outcome(lambda: next(results)) for _ in range(6)]
    assert found == [0, (ValueError, "1 is odd"), 2, (ValueError, "3 is odd"), 4, (ValueError, "5 is odd")]
    with pytest.raises(StopIteration):
        next(results)
    with pytest.raises(StopIteration):
        next(results)


@pytest.mark.slow
def test_a_worker_that_is_killed_raises_and_nothing_hangs(pool: aj.Pool) -> None:
    with pytest.raises(BrokenProcessPool):
        pool.apply_async(jobs.die).get(SOON)
    with pytest.raises(BrokenProcessPool):
        pool.map_async(kill_if_three, range(6), 2).get(SOON)
    results = pool.imap(kill_if_three, range(6), 2)
    found = [outcome(lambda: results.next(SOON)) for _ in range(6)]
    assert [one for one in found if isinstance(one, int)] == [0, 1, 2, 4, 5]
    assert pool.map(jobs.square, range(3)) == [0, 1, 4]


@pytest.mark.slow
def test_a_worker_is_replaced_after_its_share_of_calls() -> None:
    with aj.Pool(1, maxtasksperchild=3) as pool:
        pids = [pool.apply(os.getpid) for _ in range(9)]
    assert [len(list(group)) for _, group in itertools.groupby(pids)] == [3, 3, 3]


# --- results of one call -----------------------------------------------------------------


@pytest.mark.slow
def test_what_a_result_says_before_and_after(pool: aj.Pool) -> None:
    result, go = held(pool, "value")
    assert not result.ready()
    with pytest.raises(ValueError, match="not ready"):
        result.successful()
    for timeout in (0, -1, 0.01):
        result.wait(timeout)
        with pytest.raises(multiprocessing.TimeoutError):
            result.get(timeout)
        with pytest.raises(TimeoutError):
            result.get(timeout)
    go.cancel()
    result.wait(SOON)
    assert result.ready()
    assert result.successful()
    assert result.get() == result.get(0) == "value"
    failed = pool.apply_async(jobs.fail)
    failed.wait(SOON)
    assert not failed.successful()
    for _ in range(2):
        with pytest.raises(ValueError, match="on purpose"):
            failed.get()


@pytest.mark.slow
def test_callbacks_get_the_value_or_the_error_before_anybody_else(pool: aj.Pool) -> None:
    seen: list[Any] = []
    assert pool.apply_async(jobs.square, (3,), callback=seen.append, error_callback=seen.append).get(SOON) == 9
    assert seen == [9]
    assert pool.map_async(jobs.square, [1, 2], callback=seen.append).get(SOON) == [1, 4]
    assert seen == [9, [1, 4]]
    assert pool.starmap_async(jobs.add, [(1, 2)], callback=seen.append).get(SOON) == [3]
    assert seen[2:] == [[3]]
    del seen[:]
    for result in (
        pool.apply_async(jobs.fail, callback=seen.append, error_callback=seen.append),
        pool.map_async(jobs.fail, ["text"], callback=seen.append, error_callback=seen.append),
    ):
        result.wait(SOON)
    assert [type(error) for error in seen] == [ValueError, ValueError]


@pytest.mark.slow
@pytest.mark.parametrize("error", [ValueError("bad"), SystemExit(3), KeyboardInterrupt()])
def test_f42_a_callback_that_raises_is_logged_and_harms_nothing(
    pool: aj.Pool, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    def bad(_: object) -> None:
        raise error

    assert pool.apply_async(jobs.square, (3,), callback=bad).get(SOON) == 9
    assert pool.map_async(jobs.square, [3], callback=bad).get(SOON) == [9]
    assert pool.apply(jobs.square, (2,)) == 4
    assert "a callback of a pool's result raised" in caplog.text


@pytest.mark.slow
def test_f42_a_callback_that_would_block_for_ever_is_told_so(pool: aj.Pool) -> None:
    pending, go = held(pool)
    found: list[Any] = []

    def block(_: object) -> None:
        found.append(outcome(pending.get)[0])
        found.append(outcome(lambda: pool.map(jobs.square, [1]))[0])

    assert pool.apply_async(jobs.square, (3,), callback=block).get(SOON) == 9
    assert found == [aj.WouldDeadlock, aj.WouldDeadlock]
    go.cancel()


def test_a_callback_may_hand_over_more_work(pool: aj.Pool) -> None:
    made: list[Any] = []
    pool.apply_async(jobs.echo, callback=lambda _: made.append(pool.map_async(jobs.square, [3]))).get(SOON)
    assert made[0].get(SOON) == [9]


@pytest.mark.slow
def test_a_callback_may_terminate_the_pool() -> None:
    pool = aj.Pool(2)
    pending, _ = held(pool)
    pool.apply_async(jobs.echo, callback=lambda _: pool.terminate()).wait(SOON)
    with pytest.raises(aj.AsyncJobsError):
        pending.get(SOON)
    pool.join()
    with pytest.raises(ValueError, match="not running"):
        pool.apply(jobs.echo)


def _use_and_drop(use: Callable[[], list[int]]) -> None:
    assert use() == [1, 4]
    gc.collect()


@pytest.mark.slow
def test_a_result_keeps_its_pool() -> None:
    with pytest.warns(ResourceWarning, match="unclosed running"):
        _use_and_drop(lambda: aj.Pool(1).map_async(jobs.square, [1, 2]).get(SOON))
    with pytest.warns(ResourceWarning, match="unclosed running"):
        _use_and_drop(lambda: list(aj.Pool(1).imap(jobs.square, [1, 2])))


# --- imap --------------------------------------------------------------------------------


@pytest.mark.slow
def test_imap_starts_by_itself(pool: aj.Pool, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    results = pool.imap(write_to, [str(tmp_path / "fifo")])
    assert (tmp_path / "fifo").read_text() == "here", "nobody has asked for a result"
    assert list(results) == [None]


def write_to(path: str) -> None:
    with open(path, "w") as file:
        file.write("here")


def test_next_keeps_its_timeout(pool: aj.Pool) -> None:
    go = aj.CancelToken()
    results = pool.imap(jobs.hold, [go])
    for timeout in (0, -1, 0.01):
        with pytest.raises(multiprocessing.TimeoutError):
            results.next(timeout)
    go.cancel()
    assert results.next(SOON) is None
    with pytest.raises(StopIteration):
        results.next(SOON)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_an_endless_source_is_read_only_so_far_ahead(pool: aj.Pool, method: str) -> None:
    taken = itertools.count()
    results = getattr(pool, method)(slow_echo, taken)
    assert len(list(itertools.islice(results, 50))) == 50
    assert next(taken) < 100_000
    pool.terminate()


def slow_echo(value: int) -> int:
    return jobs.burn(0.001) and value


def test_a_source_that_raises_does_so_after_the_items_before_it(pool: aj.Pool) -> None:
    results = pool.imap(jobs.square, raising_source())
    assert next(results) == 1
    with pytest.raises(OSError, match="the source"):
        next(results)
    with pytest.raises(StopIteration):
        next(results)


def test_a_source_that_blocks_holds_up_nothing_else() -> None:
    with Gate() as gate, aj.Pool(1) as pool:

        def source() -> Iterator[int]:
            yield 1
            gate.pass_through()
            yield 2

        results = pool.imap(jobs.square, source())
        gate.wait_for_arrival()
        assert pool.apply(jobs.square, (3,)) == 9
        gate.open()
        assert list(results) == [1, 4]


def test_terminate_does_not_wait_for_a_source_that_blocks() -> None:
    with Gate() as gate:
        with aj.Pool(1) as pool:
            results = pool.imap(jobs.square, iter(lambda: gate.pass_through(), 1))
            gate.wait_for_arrival()
        with pytest.raises(aj.AsyncJobsError):
            results.next(SOON)


@pytest.mark.parametrize("is_kept", [True, False])
def test_results_that_nobody_takes_do_not_hold_up_the_end(is_kept: bool) -> None:
    pool = aj.Pool(1)
    kept = [pool.imap(jobs.echo, range(2000)), pool.imap_unordered(jobs.echo, range(2000))]
    late = pool.map_async(jobs.square, [3])
    if not is_kept:
        del kept[:]
        gc.collect()
    pool.close()
    in_thread(pool.join)()
    assert late.get(0) == [9]
    for results in kept:
        assert sorted(results) == list(range(2000))


@pytest.mark.slow
def test_a_dropped_iterators_work_is_done_and_nothing_is_kept(pool: aj.Pool, tmp_path: Path) -> None:
    pool.imap(write, [str(tmp_path / str(number)) for number in range(200)])
    pool.close()
    pool.join()
    assert len(list(tmp_path.iterdir())) == 200


@pytest.mark.slow
def test_several_threads_may_take_from_one_iterator(pool: aj.Pool) -> None:
    results = pool.imap(jobs.square, range(500), 7)
    takers = [in_thread(lambda: list(results)) for _ in range(4)]
    taken = [taker() for taker in takers]
    assert sorted(itertools.chain.from_iterable(taken)) == [n * n for n in range(500)]  # type: ignore[arg-type]


# --- the end -----------------------------------------------------------------------------


ENDS = [order for count in (1, 2, 3) for order in itertools.product(("close", "terminate", "join"), repeat=count)]


@pytest.mark.parametrize("order", [order for order in ENDS if order[0] != "join"], ids="-".join)
def test_the_end_in_every_order(order: tuple[str, ...]) -> None:
    pool = aj.Pool(1)
    for step in order:
        assert in_thread(getattr(pool, step))() is None
    for method in (pool.map, pool.imap, pool.imap_unordered, pool.map_async, pool.starmap):
        with pytest.raises(ValueError, match="Pool not running"):
            method(jobs.square, [])
    with pytest.raises(ValueError, match="Pool not running"), pool:
        pass
    pool.terminate()
    assert "closed" in repr(pool)


@pytest.mark.slow
def test_ends_of_every_kind_at_once_end_every_call() -> None:
    for _ in range(10):
        pool = aj.Pool(1)
        made = [pool.map_async(jobs.square, [1, 2]) for _ in range(3)]
        for ended in [in_thread(end) for end in (pool.terminate, pool.close, pool.terminate)]:
            assert ended() is None
        pool.join()
        for result in made:
            result.wait(SOON)
            assert result.ready()


def test_join_before_close_is_refused(pool: aj.Pool) -> None:
    with pytest.raises(ValueError, match="still running"):
        pool.join()
    assert pool.apply(jobs.square, (3,)) == 9


@pytest.mark.slow
def test_close_and_join_finish_what_was_handed_over() -> None:
    pool = aj.Pool(2)
    one, go = held(pool, "one")
    mapped = pool.map_async(jobs.square, range(50))
    streamed = pool.imap(jobs.square, iter(range(50)))
    pool.close()
    joined = in_thread(pool.join)
    go.cancel()
    assert joined() is None
    assert one.get(0) == "one"
    assert mapped.get(0) == list(streamed) == [n * n for n in range(50)]


def test_what_is_pending_at_terminate_raises() -> None:
    pool = aj.Pool(1)
    running, go = held(pool)
    pending = [
        running,
        pool.apply_async(jobs.hold, (go,)),
        pool.map_async(jobs.hold, [go, go]),
        pool.starmap_async(jobs.hold, [(go,)]),
    ]
    streams = [pool.imap(jobs.hold, [go]), pool.imap_unordered(jobs.hold, itertools.repeat(go))]
    waiters = [in_thread(result.get) for result in pending] + [in_thread(lambda it=it: next(it)) for it in streams]
    pool.terminate()
    assert all(isinstance(waiter(), aj.AsyncJobsError) for waiter in waiters)
    pool.join()


@pytest.mark.slow
@pytest.mark.parametrize("end", ["close", "terminate"])
def test_work_that_is_handed_over_at_the_very_end_is_done_or_refused(end: str) -> None:
    for _ in range(10):
        pool = aj.Pool(1)
        made: list[Any] = []

        def hand_over(pool: aj.Pool = pool, made: list[Any] = made) -> None:
            for number in itertools.count():
                made.append(pool.map_async(jobs.square, [number]))
                made.append(pool.apply_async(jobs.square, (number,)))
                pool.imap(jobs.square, [number])

        refused = in_thread(hand_over)
        while not made:
            pass
        getattr(pool, end)()
        assert isinstance(refused(), (ValueError, aj.RunnerClosed))
        pool.join()
        ends = [outcome(lambda result=result: result.get(SOON)) for result in made]
        assert multiprocessing.TimeoutError not in {one[0] for one in ends if isinstance(one, tuple)}


def test_the_block_terminates() -> None:
    with aj.Pool(1) as pool:
        pending, _ = held(pool)
    with pytest.raises(aj.JobCancelled):
        pending.get(0)


@pytest.mark.slow
def test_an_unclosed_pool_warns_and_its_workers_go() -> None:
    with pytest.warns(ResourceWarning, match="unclosed running multiprocessing pool"):
        _use_and_drop(lambda: aj.Pool(1).map(jobs.square, [1, 2]))


@pytest.mark.slow
def test_a_closed_pool_does_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pool = aj.Pool(1)
        result = pool.apply_async(jobs.square, (3,))
        pool.close()
        del pool
        gc.collect()
        assert result.get(SOON) == 9


# --- real programs -----------------------------------------------------------------------


@pytest.mark.slow
def test_an_unclosed_pool_does_not_hold_up_the_exit(launch: Any) -> None:
    program = launch("""
        pool = aj.Pool(2)
        say(pool.map(len, ["abc", "d"]))
        pool.apply_async(sleeper)
        results = pool.imap(sleeper, [60, 60])
    """)
    assert program.ends(SOON) == 0
    assert program.output.startswith("[3, 1]\n")
    assert "ResourceWarning" in program.output
    assert "Traceback" not in program.output


@pytest.mark.slow
def test_functions_of_the_script_need_no_guard(launch: Any) -> None:
    program = launch("""
        FACTOR = 3

        def work(number):
            return number * FACTOR

        say("started")
        with aj.Pool(2) as pool:
            say(pool.map(work, range(4)), list(pool.imap(work, range(3))), pool.starmap(max, [(1, 2)]))
        pool = aj.Pool()
        result = pool.map_async(work, range(100))
        pool.close()
        pool.join()
        say(sum(result.get()))
    """)
    assert program.ends(SOON) == 0
    assert program.output == "started\n[0, 3, 6, 9] [0, 3, 6] [2]\n14850\n"


@pytest.mark.slow
@pytest.mark.parametrize("where", ["result.get()", "next(results)", "pool.join()", "pool.map(len, ['abc'])"])
def test_f48_ctrl_c_ends_a_program_that_waits(launch: Any, where: str) -> None:
    program = launch(
        f"""
        def work():
            # By now the main thread waits. CPython loses a Ctrl-C in the very moment before.
            time.sleep(0.3)
            say("waits")
            time.sleep(60)

        with aj.Pool(1) as pool:
            result = pool.apply_async(work)
            results = pool.imap(len, ["abc"])
            if "join" in {where!r}:
                pool.close()
            {where}
    """,
        terminal=True,
    )
    program.read_until("waits")
    program.interrupt()
    assert program.ends(SOON) in (130, -signal.SIGINT)
    assert program.output.count("Traceback") == 1, program.output
    assert program.output.rstrip().endswith("KeyboardInterrupt"), program.output


@pytest.mark.slow
def test_a_forked_child_is_inert(launch: Any) -> None:
    program = launch("""
        pool = aj.Pool(1)
        go = aj.CancelToken()
        result = pool.apply_async(go.wait, (60,))
        results = pool.imap(len, ["ab"])
        __import__("warnings").simplefilter("ignore")  # newer interpreters warn of a fork beside threads
        pid = os.fork()
        if pid == 0:
            for what in (lambda: pool.apply(len, ("a",)), result.get, lambda: next(results), pool.close, pool.join):
                try:
                    say(what())
                except aj.WrongLoop:
                    say("refused")
            pool.terminate()
            sys.exit(0)
        _, status = os.waitpid(pid, 0)
        go.cancel()
        say("child", status, "parent", result.get(20), next(results), pool.apply(len, ("abc",)))
        pool.close()
        pool.join()
    """)
    assert program.ends(SOON) == 0
    assert program.output == "refused\nrefused\nrefused\nNone\nNone\nchild 0 parent True 2 3\n"
