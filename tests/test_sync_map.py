"""`SyncRunner.map` against the built-in map: results, sources, look-ahead, errors, early ends, a bar."""

from __future__ import annotations

import io
import itertools
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import redirect_stderr
from typing import Any

import pytest
import runner_jobs as jobs
from hypothesis import given
from hypothesis import strategies as st
from runner_jobs import LANES
from tqdm.auto import tqdm

import asyncjobs as aj
from asyncjobs import JobState, SyncRunner
from asyncjobs.testing import Gate

each_lane = pytest.mark.parametrize("lane", LANES)
SQUARE: dict[str, Any] = {"loop": jobs.asquare, "thread": jobs.square, "process": jobs.square}
ADD: dict[str, Any] = {"loop": jobs.aadd, "thread": jobs.add, "process": jobs.add}
ODD: dict[str, Any] = {"loop": jobs.afail_on_odd, "thread": jobs.fail_on_odd, "process": jobs.fail_on_odd}


@pytest.fixture(scope="module")
def runner() -> Iterator[SyncRunner]:
    """One for all tests here; the leak check of the first would blame it for its threads."""
    with SyncRunner(processes=2, threads=4) as runner:
        all_threads = threading.Barrier(4)
        for job in [runner.submit(all_threads.wait) for _ in range(4)]:
            job.result()
        for lane in LANES:
            list(runner.options(lane=lane).map(SQUARE[lane], range(20)))
        yield runner


class Watched:
    """A source that knows how much was taken from it, and in which threads; it may raise."""

    def __init__(self, items: Any, error: BaseException | None = None) -> None:
        self.taken = 0
        self.threads: set[int] = set()
        self._items = items
        self._error = error

    def __iter__(self) -> Iterator[Any]:
        for item in self._items:
            self.taken += 1
            self.threads.add(threading.get_ident())
            yield item
        if self._error is not None:
            raise self._error


# --- as the built-in map ----------------------------------------------------------------


@pytest.mark.slow
@each_lane
@given(
    columns=st.lists(st.lists(st.integers(-99, 99), max_size=30), min_size=1, max_size=3),
    lookahead=st.none() | st.integers(1, 40),
    collects=st.booleans(),
    ordered=st.booleans(),
)
def test_it_gives_what_the_built_in_map_gives(
    runner: SyncRunner, lane: str, columns: list[list[int]], lookahead: int | None, collects: bool, ordered: bool
) -> None:
    def total(*numbers: int) -> int:
        return sum(numbers)

    async def atotal(*numbers: int) -> int:
        return sum(numbers)

    fn: Any = atotal if lane == "loop" else total
    sources = [iter(column) for column in columns]
    run = runner.options(lane=lane).map(fn, *sources, lookahead=lookahead, ordered=ordered)
    got = run.collect() if collects else list(run)
    expected = list(map(total, *columns))
    assert got == expected if ordered else sorted(got) == sorted(expected)


@pytest.mark.slow
@each_lane
@given(good=st.integers(0, 25), lookahead=st.none() | st.integers(1, 10))
def test_a_source_that_raises_does_so_after_the_items_before_it(
    runner: SyncRunner, lane: str, good: int, lookahead: int | None
) -> None:
    source = Watched(range(good), LookupError("the source's own"))
    got = []
    with pytest.raises(LookupError, match="the source's own"):
        got.extend(_each(runner.options(lane=lane).map(SQUARE[lane], source, lookahead=lookahead), got))
    assert got == [n * n for n in range(good)]
    assert source.threads <= {threading.get_ident()}


def _each(values: Any, into: list[Any]) -> list[Any]:
    for value in values:
        into.append(value)
    return []


@pytest.mark.slow
@each_lane
@given(items=st.lists(st.integers(0, 9), max_size=20), on_error=st.sampled_from(["raise", "skip", "return"]))
def test_errors_are_raised_in_their_turn_skipped_or_returned(
    runner: SyncRunner, lane: str, items: list[int], on_error: Any
) -> None:
    got: list[Any] = []
    even = [n for n in items if n % 2 == 0]
    before = list(itertools.takewhile(lambda n: n % 2 == 0, items))
    run = runner.options(lane=lane).map(ODD[lane], items, on_error=on_error)
    if on_error == "raise" and len(before) < len(items):
        with pytest.raises(ValueError, match="is odd"):
            _each(run, got)
        assert got == before
        return
    _each(run, got)
    if on_error == "return":
        assert [n if n % 2 == 0 else ValueError for n in items] == [
            type(one) if isinstance(one, Exception) else one for one in got
        ]
    else:
        assert got == even


# --- sources and look-ahead -------------------------------------------------------------


@pytest.mark.slow
@each_lane
@given(lookahead=st.integers(1, 12), wanted=st.integers(1, 30))
def test_an_endless_source_is_advanced_in_the_caller_s_thread_and_no_further_than_the_look_ahead(
    runner: SyncRunner, lane: str, lookahead: int, wanted: int
) -> None:
    source = Watched(itertools.count())
    seen = 0
    with runner.options(lane=lane).map(SQUARE[lane], source, lookahead=lookahead) as values:
        for seen, value in enumerate(values, 1):
            assert value == (seen - 1) ** 2
            assert source.taken <= seen + lookahead + lookahead
            if seen == wanted:
                break
    assert seen == wanted
    assert source.threads == {threading.get_ident()}
    taken = source.taken
    assert runner.run(jobs.echo, 1) == 1
    assert source.taken == taken


async def _count(stop: int) -> AsyncIterator[int]:
    for n in range(stop):
        yield n


@each_lane
def test_async_sources_are_taken_alone_and_beside_plain_ones(runner: SyncRunner, lane: str) -> None:
    on_lane = runner.options(lane=lane)
    assert list(on_lane.map(SQUARE[lane], _count(9))) == [n * n for n in range(9)]
    assert on_lane.map(ADD[lane], _count(5), range(100)).collect() == [0, 2, 4, 6, 8]


def test_a_source_may_use_the_runner_itself(runner: SyncRunner) -> None:
    source = (runner.run(jobs.square, n) for n in range(5))
    assert list(runner.map(jobs.square, source)) == [n**4 for n in range(5)]
    inner = runner.map(jobs.square, range(5))
    assert list(runner.map(jobs.square, inner)) == [n**4 for n in range(5)]


def test_an_interrupt_in_the_source_reaches_the_caller_and_cancels_what_is_in_flight(runner: SyncRunner) -> None:
    started = Gate()

    def source() -> Iterator[str]:
        yield "first"
        started.wait_for_arrival()
        raise KeyboardInterrupt

    def hold(_: str) -> None:
        with pytest.raises(TimeoutError):
            started.pass_through(0.01)
        jobs.listen()

    values = runner.options(grace=5.0).map(hold, source())
    with pytest.raises(KeyboardInterrupt):
        next(values)
    runner.join()
    assert runner.jobs() == []


# --- early ends -------------------------------------------------------------------------


@pytest.mark.slow
@each_lane
@pytest.mark.parametrize("way", ["break", "with", "dropped"])
def test_who_leaves_early_cancels_what_is_in_flight(runner: SyncRunner, lane: str, way: str) -> None:
    with runner.events(4096) as events:
        fn: Any = _alisten_but_first if lane == "loop" else _listen_but_first
        run = runner.options(lane=lane, grace=5.0, timeout=60.0).map(fn, itertools.count(), lookahead=3)
        if way == "with":
            with run as values:
                assert next(values) == 0
            assert runner.jobs() == []
        elif way == "break":
            for value in run:
                assert value == 0
                break
        else:
            assert next(iter(run)) == 0
        runner.join()
        assert runner.jobs() == []
        finals = []
        while (event := events._subscription.next_nowait()) is not None:
            finals += [event.state] if event.state.is_final else []
    assert finals.count(JobState.CANCELLED) == len(finals) - 1


async def _alisten_but_first(n: int) -> int:
    return n if n == 0 else len(await jobs.alisten())


def _listen_but_first(n: int) -> int:
    return n if n == 0 else len(jobs.listen())


@each_lane
def test_a_map_runs_once_and_says_so(runner: SyncRunner, lane: str) -> None:
    for first in (list, lambda run: run.collect()):
        run = runner.options(lane=lane).map(SQUARE[lane], range(3))
        assert first(run) == [0, 1, 4]
        for again in (list, lambda run: run.collect()):
            with pytest.raises(RuntimeError, match=r"a map runs once: call map\(\) again"):
                again(run)


def test_a_map_is_looped_over_in_parts_and_ends_with_its_block(runner: SyncRunner) -> None:
    with runner.map(jobs.square, itertools.count(), lookahead=2) as values:
        assert [next(values), next(values)] == [0, 1]
        assert list(itertools.islice(values, 2)) == [4, 9]
        same = iter(values)
    assert list(same) == []


def test_a_map_in_the_block_of_a_runner_that_was_closed_leaves_in_order() -> None:
    with SyncRunner() as runner, runner.map(jobs.square, itertools.count(), lookahead=2) as values:
        assert next(values) == 0
        runner.close()


def test_two_threads_share_an_iterator_or_are_told_that_they_cannot(runner: SyncRunner) -> None:
    values = runner.map(jobs.square, range(100))
    lock, got = threading.Lock(), []

    def take() -> None:
        while True:
            with lock:
                value = next(values, None)
            if value is None:
                return
            got.append(value)

    threads = [threading.Thread(target=take) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(got) == [n * n for n in range(100)]


# --- a bar, bad input -------------------------------------------------------------------


@pytest.mark.parametrize("collects", [False, True])
def test_progress_shows_a_bar_from_the_caller_s_thread(
    runner: SyncRunner, collects: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = set()

    class Bar(tqdm):  # type: ignore[misc]
        def update(self, n: float = 1) -> Any:
            threads.add(threading.get_ident())
            return super().update(n)

    monkeypatch.setattr("tqdm.auto.tqdm", Bar)
    shown = io.StringIO()
    with redirect_stderr(shown):
        run = runner.options(name="fit").map(jobs.square, range(20), progress=True)
        assert (run.collect() if collects else list(run)) == [n * n for n in range(20)]
    assert "fit: 100%" in shown.getvalue()
    assert "20/20" in shown.getvalue()
    assert threads == {threading.get_ident()}


def test_bad_input_is_refused_at_the_call(runner: SyncRunner) -> None:
    with pytest.raises(TypeError, match="at least one iterable"):
        runner.map(jobs.square)
    with pytest.raises(TypeError, match="an iterable or an async iterable"):
        runner.map(jobs.square, 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="lookahead=0 is not allowed"):
        runner.map(jobs.square, [1], lookahead=0)
    with pytest.raises(ValueError, match="on_error='never' is not allowed"):
        runner.map(jobs.square, [1], on_error="never")  # type: ignore[call-overload]
    with pytest.raises((TypeError, ValueError), match="progress='yes' is not allowed"):
        runner.map(jobs.square, [1], progress="yes")  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="key='k' names one job"):
        runner.options(key="k").map(jobs.square, [1])


def test_a_map_in_the_loop_s_own_thread_is_refused(runner: SyncRunner) -> None:
    async def inside() -> None:
        with pytest.raises(aj.WouldDeadlock, match="submit_nowait"):
            list(runner.map(jobs.square, [1]))
        with pytest.raises(aj.WouldDeadlock, match=r"collect\(\) was called"):
            runner.map(jobs.square, [1]).collect()

    runner.run(inside)


def test_a_map_keeps_its_runner_open_as_long_as_results_are_wanted() -> None:
    def numbers() -> Iterator[int]:
        return iter(SyncRunner(threads=2).map(jobs.square, range(20), lookahead=2))

    with pytest.warns(ResourceWarning, match="was never closed"):
        assert list(numbers()) == [n * n for n in range(20)]
