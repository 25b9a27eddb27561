"""`runner.map`: order, look-ahead, errors, early ends, groups on the wire, a bar."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import operator
import re
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import runner_jobs as jobs
from runner_jobs import LANES, ended_once, lines, still_works, unharmed

import asyncjobs as aj
from asyncjobs import CancelToken, JobState, Runner
from asyncjobs.testing import Gate

each_lane = pytest.mark.parametrize("lane", LANES)
SQUARE: dict[str, Any] = {"loop": jobs.asquare, "thread": jobs.square, "process": jobs.square}
ADD: dict[str, Any] = {"loop": jobs.aadd, "thread": jobs.add, "process": jobs.add}
ODD: dict[str, Any] = {"loop": jobs.afail_on_odd, "thread": jobs.fail_on_odd, "process": jobs.fail_on_odd}


async def count(start: int = 0, stop: int | None = None) -> AsyncIterator[int]:
    for n in itertools.count(start):
        if n == stop:
            return
        await asyncio.sleep(0)
        yield n


class Taken:
    """An endless source that knows how much was taken from it."""

    def __init__(self) -> None:
        self.count = 0

    def __iter__(self) -> Iterator[int]:
        while True:
            self.count += 1
            yield self.count - 1


# --- results ----------------------------------------------------------------------------


@pytest.mark.slow
@each_lane
async def test_results_come_in_the_order_of_the_items(runner: Runner, lane: str) -> None:
    run = runner.options(lane=lane).map(SQUARE[lane], range(200))
    assert [value async for value in run] == [n * n for n in range(200)]
    assert await runner.options(lane=lane).map(SQUARE[lane], range(50)).collect() == [n * n for n in range(50)]
    assert runner.jobs() == []


@each_lane
async def test_unordered_results_come_all_and_each_once(runner: Runner, lane: str) -> None:
    run = runner.options(lane=lane).map(SQUARE[lane], range(200), ordered=False)
    assert sorted([value async for value in run]) == [n * n for n in range(200)]


async def test_unordered_a_fast_item_overtakes_a_slow_one_and_ordered_it_does_not(runner: Runner) -> None:
    for ordered in (False, True):
        gate = Gate()

        def work(n: int, gate: Gate = gate) -> int:
            if n == 0:
                gate.pass_through()
            return n

        with gate:
            got = []
            async with runner.map(work, range(3), ordered=ordered) as values:
                if not ordered:
                    got = [await anext(values), await anext(values)]
                    assert sorted(got) == [1, 2]
                gate.open()
                got += [value async for value in values]
        assert got[-1] == (0 if not ordered else 2)
        assert sorted(got) == [0, 1, 2]


@pytest.mark.slow
@each_lane
async def test_several_iterables_go_side_by_side_and_the_shortest_ends_the_map(runner: Runner, lane: str) -> None:
    on_lane = runner.options(lane=lane)
    assert await on_lane.map(ADD[lane], range(10), itertools.count(100)).collect() == list(range(100, 120, 2))
    assert await on_lane.map(ADD[lane], [1, 2, 3], []).collect() == []


@pytest.mark.slow
@each_lane
async def test_async_iterables_are_taken_alone_and_beside_plain_ones(runner: Runner, lane: str) -> None:
    on_lane = runner.options(lane=lane)
    assert await on_lane.map(SQUARE[lane], count(0, 20)).collect() == [n * n for n in range(20)]
    assert await on_lane.map(ADD[lane], count(), range(5)).collect() == [0, 2, 4, 6, 8]
    assert sorted(await on_lane.map(ADD[lane], range(5), count(), ordered=False).collect()) == [0, 2, 4, 6, 8]


@each_lane
async def test_no_items_give_no_results(runner: Runner, lane: str) -> None:
    assert await runner.options(lane=lane).map(SQUARE[lane], []).collect() == []
    assert [value async for value in runner.options(lane=lane).map(SQUARE[lane], count(0, 0))] == []


async def test_a_map_starts_when_it_is_first_asked_and_is_iterated_once(runner: Runner) -> None:
    taken = Taken()
    run = runner.map(jobs.square, taken, lookahead=4)
    await asyncio.sleep(0)
    assert taken.count == 0
    async with run as values:
        assert values is run
        assert await anext(values) == 0
        assert await anext(aiter(values)) == 1


@pytest.mark.slow
@each_lane
async def test_inside_async_with_a_map_can_be_collected_or_looped_over_in_parts(runner: Runner, lane: str) -> None:
    async with runner.options(lane=lane).map(SQUARE[lane], range(50)) as values:
        assert await values.collect() == [n * n for n in range(50)]
    async with runner.options(lane=lane).map(SQUARE[lane], itertools.count()) as values:
        async for value in values:
            if value == 4:
                break
        assert await anext(values) == 9
    run = runner.options(lane=lane).map(SQUARE[lane], range(2))
    assert [await anext(run), await anext(run)] == [0, 1]
    with pytest.raises(StopAsyncIteration):
        await anext(run)


@pytest.mark.slow
@each_lane
@pytest.mark.parametrize("first", ["collect", "loop"])
async def test_a_map_that_has_run_says_so_instead_of_giving_nothing(runner: Runner, lane: str, first: str) -> None:
    run = runner.options(lane=lane).map(SQUARE[lane], range(5))
    once = "a map runs once: call map\\(\\) again"
    async with run:
        values = await run.collect() if first == "collect" else [value async for value in run]
        assert values == [0, 1, 4, 9, 16]
        with pytest.raises(RuntimeError, match=once):
            await run.collect()
        with pytest.raises(RuntimeError, match=once):
            [value async for value in run]
    with pytest.raises(RuntimeError, match=once):
        await run.collect()


async def test_a_map_that_is_asked_twice_at_once_goes_on_for_the_first(runner: Runner) -> None:
    run = runner.map(jobs.square, range(5), lookahead=2)
    assert await anext(run) == 0
    with pytest.raises(RuntimeError, match="a map runs once"):
        await run.collect()
    assert [value async for value in run] == [1, 4, 9, 16]


async def test_a_map_over_an_async_source_is_refused_on_another_loop(runner: Runner) -> None:
    for run in (runner.map(jobs.square, count(0, 3)), runner.map(jobs.square, count(0, 3))):
        with pytest.raises(aj.WrongLoop):
            await asyncio.to_thread(asyncio.run, _into([], run))
        assert await run.collect() == [0, 1, 4]


@pytest.mark.parametrize(
    ("arguments", "keywords", "error", "names"),
    [
        ((jobs.square,), {}, TypeError, "at least one iterable"),
        ((jobs.square, 5), {}, TypeError, "5 is not allowed; allowed: an iterable"),
        ((jobs.square, [1]), {"lookahead": 0}, ValueError, "lookahead=0 is not allowed; allowed"),
        ((jobs.square, [1]), {"lookahead": True}, ValueError, "lookahead=True is not allowed; allowed"),
        ((jobs.square, [1]), {"lookahead": 2.0}, ValueError, "lookahead=2.0 is not allowed; allowed"),
        ((jobs.square, [1]), {"on_error": "ignore"}, ValueError, "on_error='ignore' is not allowed; allowed: 'raise'"),
        ((jobs.square, [1]), {"ordered": "yes"}, ValueError, "ordered='yes' is not allowed; allowed: True or False"),
        ((jobs.square, [1]), {"progress": 1}, ValueError, "progress=1 is not allowed; allowed: True or False"),
        ((None, [1]), {}, TypeError, "None is not callable"),
    ],
)
async def test_wrong_arguments_raise_at_the_call(
    runner: Runner, arguments: Any, keywords: Any, error: type[Exception], names: str
) -> None:
    with pytest.raises(error, match=re.escape(names)):
        runner.map(*arguments, **keywords)


@pytest.mark.slow
@each_lane
async def test_a_map_with_a_key_is_refused_at_the_call(runner: Runner, lane: str) -> None:
    keyed = runner.options(lane=lane, key="K")
    with pytest.raises(ValueError, match=r"key='K' names one job.*submit each item with a key of its own"):
        keyed.map(SQUARE[lane], [1, 2, 3])
    assert await keyed.run(SQUARE[lane], 3) == 9


# --- bounded look-ahead: F53, F55 -------------------------------------------------------


@pytest.mark.slow
@each_lane
@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("lookahead", [1, 5, 64])
async def test_f53_an_endless_source_is_taken_no_further_than_the_look_ahead(
    runner: Runner, lane: str, ordered: bool, lookahead: int
) -> None:
    taken = Taken()
    got = []
    async with runner.options(lane=lane).map(SQUARE[lane], taken, ordered=ordered, lookahead=lookahead) as values:
        async for value in values:
            got.append(value)
            assert taken.count <= len(got) + lookahead
            if len(got) == 300:
                break
    assert len(set(got)) == 300
    assert runner.jobs() == []
    await still_works(runner, lane)


@pytest.mark.slow
@each_lane
async def test_f55_a_slow_consumer_holds_up_the_source(runner: Runner, lane: str) -> None:
    taken = Taken()
    async with runner.options(lane=lane).map(SQUARE[lane], taken, lookahead=20) as values:
        for _ in range(5):
            await anext(values)
            await runner.join()  # all that was sent has ended, and nobody asks for more
        assert taken.count <= 25
        assert runner.stats().submitted <= 25


@pytest.mark.slow
@each_lane
async def test_f55_without_a_look_ahead_given_the_lane_bounds_it(runner: Runner, lane: str) -> None:
    taken = Taken()
    async with runner.options(lane=lane).map(SQUARE[lane], taken) as values:
        await anext(values)
        await runner.join()
        assert taken.count <= 3 * runner._lanes[lane].size() + 2


async def test_f55_a_short_queue_bounds_the_map_as_well_and_it_goes_on() -> None:
    async with Runner(queue_size=2, threads=2) as runner:
        assert await runner.map(jobs.square, range(100)).collect() == [n * n for n in range(100)]
        assert await runner.map(jobs.square, count(0, 100)).collect() == [n * n for n in range(100)]


@pytest.mark.slow
@each_lane
@pytest.mark.parametrize("ordered", [True, False])
async def test_f53_results_come_while_an_async_source_waits_for_its_next_item(
    runner: Runner, lane: str, ordered: bool
) -> None:
    gate = Gate()

    async def source() -> AsyncIterator[int]:
        for n in range(3):
            yield n
        await gate.passed()
        yield 3

    async with asyncio.timeout(10), runner.options(lane=lane).map(SQUARE[lane], source(), ordered=ordered) as values:
        assert sorted([await anext(values) for _ in range(3)]) == [0, 1, 4]
        gate.open()
        assert [value async for value in values] == [9]


async def test_f53_a_source_may_wait_for_the_results_of_its_own_items(runner: Runner) -> None:
    heard = asyncio.Queue[int]()

    async def source() -> AsyncIterator[int]:
        yield 2
        while (value := await heard.get()) < 1000:
            yield value

    async with asyncio.timeout(10):
        got = []
        async for value in runner.map(jobs.square, source()):
            got.append(value)
            heard.put_nowait(value)
    assert got == [4, 16, 256, 65536]


# --- errors -----------------------------------------------------------------------------


@pytest.mark.slow
@each_lane
async def test_on_error_raise_gives_what_comes_before_and_cancels_the_rest(runner: Runner, lane: str) -> None:
    got: list[Any] = []
    with pytest.raises(ValueError, match="3 is odd"):
        await _into(got, runner.options(lane=lane).map(ODD[lane], [0, 2, 3, 4, 5]))
    assert got == [0, 2]
    await runner.join()
    assert runner.jobs() == []
    await still_works(runner, lane)


@pytest.mark.slow
@each_lane
async def test_on_error_skip_leaves_out_what_fails(runner: Runner, lane: str) -> None:
    run = runner.options(lane=lane).map(ODD[lane], range(100), on_error="skip")
    assert await run.collect() == list(range(0, 100, 2))


@pytest.mark.slow
@each_lane
async def test_on_error_return_gives_each_items_own_error_in_its_place(runner: Runner, lane: str) -> None:
    values: list[Any] = await runner.options(lane=lane).map(ODD[lane], range(100), on_error="return").collect()
    assert values[::2] == list(range(0, 100, 2))
    assert [str(error) for error in values[1::2]] == [f"{n} is odd" for n in range(1, 100, 2)]
    assert all(type(error) is ValueError for error in values[1::2])


@pytest.mark.slow
@each_lane
async def test_failures_that_the_map_dealt_with_are_not_logged(
    runner: Runner, lane: str, caplog: pytest.LogCaptureFixture
) -> None:
    gc.collect()
    caplog.clear()
    with caplog.at_level(logging.ERROR, "asyncjobs"):
        await runner.options(lane=lane).map(ODD[lane], range(20), on_error="skip").collect()
        with pytest.raises(ValueError):
            await runner.options(lane=lane).map(ODD[lane], [1, 3, 5, 7]).collect()
        await runner.join()
        gc.collect()
    assert caplog.records == []


@pytest.mark.slow
@each_lane
@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_f53_when_the_source_raises_the_items_before_it_count_and_the_error_comes_once(
    runner: Runner, lane: str, kind: str
) -> None:
    def plain() -> Iterator[int]:
        yield from range(5)
        raise LookupError("source is broken")

    async def asynchronous() -> AsyncIterator[int]:
        for n in plain():
            yield n

    got: list[Any] = []
    source: Any = plain() if kind == "plain" else asynchronous()
    run = runner.options(lane=lane).map(SQUARE[lane], source)
    async with run as values:
        with pytest.raises(LookupError, match="source is broken"):
            await _into(got, values)
        with pytest.raises(StopAsyncIteration):
            await anext(values)
    assert got == [0, 1, 4, 9, 16]
    assert runner.jobs() == []
    await still_works(runner, lane)


@pytest.mark.slow
async def test_f53_a_source_that_exits_the_program_does_not_break_the_runner(runner: Runner) -> None:
    async def source() -> AsyncIterator[int]:
        yield 1
        raise SystemExit(5)

    with pytest.raises(SystemExit):
        await runner.map(jobs.square, source()).collect()
    await still_works(runner)


@pytest.mark.slow
async def test_f53_an_unpicklable_item_fails_alone(runner: Runner) -> None:
    items = [0, 1, threading.Lock(), 3]
    async with unharmed(runner, "process"):
        values: list[Any] = await runner.options(lane="process").map(jobs.echo, items, on_error="return").collect()
        assert values[:2] + values[3:] == [0, 1, 3]
        assert isinstance(values[2], aj.NotSendable)
        assert values[2].argument == "item 2 of the map over echo"
        many: list[Any] = [*range(500), threading.Lock(), *range(500)]
        assert await runner.options(lane="process").map(jobs.echo, many, on_error="skip").collect() == (
            [*range(500), *range(500)]
        )


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"timeout": 60}])
async def test_f53_an_unpicklable_item_is_named_by_its_place_in_the_map(runner: Runner, options: Any) -> None:
    on_lane = runner.options(lane="process", **options)
    many = [*range(700), {"deep": [0, threading.Lock()]}, *range(100)]
    with pytest.raises(aj.NotSendable, match="lock does not pickle") as caught:
        await on_lane.map(jobs.echo, many).collect()
    assert caught.value.argument == "item 700['deep'][1] of the map over echo"
    assert isinstance(caught.value.__cause__, TypeError)
    with pytest.raises(aj.NotSendable) as caught:
        await on_lane.map(operator.add, [1, 2], [1, threading.Lock()]).collect()
    assert caught.value.argument == "item 1[1] of the map over add"


@pytest.mark.slow
@pytest.mark.parametrize("fn", [jobs.lock_if_three, jobs.bomb_if_three])
async def test_f53_an_unpicklable_result_fails_alone(runner: Runner, fn: Any) -> None:
    values: list[Any] = await runner.options(lane="process").map(fn, range(6), on_error="return").collect()
    assert values[:3] + values[4:] == [0, 1, 2, 4, 5]
    assert isinstance(values[3], aj.ResultNotSendable)
    with pytest.raises(aj.ResultNotSendable):
        await runner.options(lane="process").map(fn, range(6)).collect()
    await still_works(runner, "process")


async def test_when_the_runner_closes_the_map_hears_of_it() -> None:
    async with Runner() as runner:

        async def endless() -> AsyncIterator[int]:
            yield 1
            await asyncio.Event().wait()

        plain = aiter(runner.map(jobs.square, itertools.count(), lookahead=2))
        waiting = aiter(runner.map(jobs.square, endless()))
        assert (await anext(plain), await anext(waiting)) == (0, 1)
    with pytest.raises(aj.RunnerClosed):
        [value async for value in plain]
    with pytest.raises(aj.RunnerClosed):
        [value async for value in waiting]


# --- groups on the process lane ---------------------------------------------------------


async def test_short_calls_travel_in_groups(runner: Runner) -> None:
    values = await runner.options(lane="process").map(operator.neg, range(20_000)).collect()
    assert values == [-n for n in range(20_000)]
    assert runner.stats().submitted < 2_000


@pytest.mark.slow
async def test_several_iterables_travel_in_groups_too(runner: Runner) -> None:
    values = await runner.options(lane="process").map(jobs.add, range(5_000), range(5_000)).collect()
    assert values == list(range(0, 10_000, 2))
    assert runner.stats().submitted < 2_000


@pytest.mark.slow
async def test_an_error_in_a_group_belongs_to_its_item(runner: Runner) -> None:
    run = runner.options(lane="process").map(jobs.fail_on_odd, range(3000), on_error="return")
    values: list[Any] = await run.collect()
    assert values[::2] == list(range(0, 3000, 2))
    assert all(isinstance(error, ValueError) for error in values[1::2])
    assert [str(error) for error in values[1::2]] == [f"{n} is odd" for n in range(1, 3000, 2)]


@pytest.mark.slow
@pytest.mark.parametrize("ordered", [True, False])
async def test_a_crash_in_a_group_loses_only_its_item(runner: Runner, ordered: bool) -> None:
    async with unharmed(runner, "loop", "thread"):
        run = runner.options(lane="process").map(
            jobs.die_on, range(2000), [1234] * 2000, on_error="return", ordered=ordered
        )
        values: list[Any] = await run.collect()
        lost = [value for value in values if isinstance(value, BaseException)]
        assert [type(error) for error in lost] == [aj.WorkerLost]
        assert lost[0].exit_code == 3
        assert sorted(value for value in values if isinstance(value, int)) == [n for n in range(2000) if n != 1234]
        if ordered:
            assert values[1234] is lost[0]
    await still_works(runner, "process")


@pytest.mark.slow
async def test_several_crashes_in_one_map_lose_only_their_items(runner: Runner) -> None:
    bad = {100, 101, 700}

    def die_on_some(n: int) -> int:
        return jobs.die_on(n, n if n in bad else -1)

    values: list[Any] = await runner.options(lane="process").map(die_on_some, range(1000), on_error="return").collect()
    assert {index for index, value in enumerate(values) if isinstance(value, aj.WorkerLost)} == bad
    assert [value for value in values if isinstance(value, int)] == [n for n in range(1000) if n not in bad]


@pytest.mark.slow
@each_lane
async def test_item_options_make_each_item_a_job_of_its_own(runner: Runner, lane: str, tmp_path: Any) -> None:
    path = str(tmp_path / "attempts")
    run = runner.options(lane=lane, retries=2, timeout=20).map(jobs.FAIL_UNTIL[lane], [path] * 5, [2] * 5)
    assert await run.collect() == [2] * 5
    assert sorted(lines(path)) == ["attempt 1"] * 5 + ["attempt 2"] * 5
    assert runner.stats().submitted == 5
    assert runner.stats().retries == 5


@pytest.mark.slow
@each_lane
async def test_a_time_limit_holds_for_each_item(runner: Runner, lane: str) -> None:
    await still_works(runner, lane)

    def wait_if_two(n: int) -> int:
        if n == 2:
            aj.current_job().token.wait(jobs.LONG)
            aj.current_job().token.check()
        return n

    async def await_if_two(n: int) -> int:
        if n == 2:
            await asyncio.sleep(jobs.LONG)
        return n

    fn: Any = await_if_two if lane == "loop" else wait_if_two
    on_lane = runner.options(lane=lane, timeout=3.0, grace=0.1)
    values: list[Any] = await on_lane.map(fn, range(5), on_error="return").collect()
    assert values[:2] + values[3:] == [0, 1, 3, 4]
    assert isinstance(values[2], aj.JobTimeout)


# --- leaving early: F54 -----------------------------------------------------------------


@pytest.mark.slow
@each_lane
async def test_f54_a_break_cancels_what_is_in_flight_and_stops_the_source(runner: Runner, lane: str) -> None:
    taken = Taken()
    go = CancelToken()
    async with unharmed(runner, lane):
        gc.disable()  # it must not need the garbage collector
        try:
            on_lane = runner.options(lane=lane, grace=0.1)
            async for _ in on_lane.map(_third_holds(lane), taken, [go] * 1000, lookahead=4):
                break
            in_flight = [job for job in runner.jobs() if job.name != jobs.HOLD[lane].__name__]
            async with asyncio.timeout(10):
                for job in in_flight:
                    await job.wait()
        finally:
            gc.enable()
            go.cancel()
        assert JobState.CANCELLED in {job.state for job in in_flight}
        assert taken.count <= 5
        ended_once(*in_flight)


@pytest.mark.slow
@each_lane
async def test_f54_inside_async_with_the_clean_up_has_been_awaited(runner: Runner, lane: str) -> None:
    go = CancelToken()
    closed = []

    async def source() -> AsyncIterator[int]:
        try:
            for n in itertools.count():
                yield n
        finally:
            await asyncio.sleep(0)
            closed.append(True)

    async with runner.options(lane=lane, grace=0.1).map(_third_holds(lane), source(), [go] * 1000) as values:
        async for _ in values:
            break
        assert runner.jobs() != []
    assert runner.jobs() == []
    assert closed == [True]
    go.cancel()
    await still_works(runner, lane)


async def test_f54_an_error_in_the_body_of_the_loop_wins_and_cleans_up(runner: Runner) -> None:
    async def divide() -> None:
        async with runner.map(jobs.square, itertools.count()) as values:
            async for value in values:
                1 // value

    with pytest.raises(ZeroDivisionError):
        await divide()
    assert runner.jobs() == []


@pytest.mark.slow
async def test_f54_cancelling_the_consumer_cleans_up(runner: Runner) -> None:
    for collect in (True, False):
        run = runner.options(grace=0.1).map(jobs.alisten_to, range(100), lookahead=3)

        async def consume(run: Any = run, collect: bool = collect) -> None:
            if collect:
                await run.collect()
            async for _ in run:
                pass

        consumer = asyncio.create_task(consume())
        while len(runner.jobs()) < 3:
            await asyncio.sleep(0)
        consumer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await consumer
        await runner.join()
        assert runner.jobs() == []
    await still_works(runner)


async def test_f54_a_map_that_is_never_iterated_leaves_nothing(runner: Runner) -> None:
    taken = Taken()
    async with runner.map(jobs.square, taken):
        pass
    runner.map(jobs.square, count())
    assert taken.count == 0
    assert runner.jobs() == []


# --- the bar ----------------------------------------------------------------------------


@pytest.mark.slow
@each_lane
async def test_progress_shows_a_tqdm_bar(runner: Runner, lane: str, capsys: pytest.CaptureFixture[str]) -> None:
    await runner.options(lane=lane, name="squares").map(SQUARE[lane], range(40), progress=True).collect()
    bar = capsys.readouterr().err
    assert "squares" in bar
    assert "100%" in bar
    assert "40/40" in bar


async def test_the_bar_of_an_endless_source_has_no_total_and_is_closed_at_a_break(
    runner: Runner, capsys: pytest.CaptureFixture[str]
) -> None:
    async with runner.map(jobs.square, itertools.count(), progress=True) as values:
        async for value in values:
            if value > 100:
                break
    bar = capsys.readouterr().err
    assert re.search(r"square: \d+item \[", bar)
    assert bar.endswith("\n")


# --- inside a job -----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("ordered", [True, False])
async def test_a_map_into_the_full_lane_of_its_own_job_would_deadlock_and_says_so(ordered: bool) -> None:
    async with Runner(coroutines=1) as runner:

        async def parent() -> list[int]:
            return await aj.current_job().runner.map(jobs.asquare, range(3), ordered=ordered).collect()

        async with asyncio.timeout(5):
            with pytest.raises(aj.WouldDeadlock):
                await runner.run(parent)
        await still_works(runner)


async def _into(got: list[Any], values: Any) -> None:
    async for value in values:
        got.append(value)


def _third_holds(lane: str) -> Any:
    """Two results come at once; whatever comes third waits to be told."""

    def hold_third(n: int, go: CancelToken) -> int:
        if n >= 2:
            go.wait(jobs.LONG)
        return n

    async def ahold_third(n: int, go: CancelToken) -> int:
        if n >= 2:
            await go.stopped()
        return n

    return ahold_third if lane == "loop" else hold_third
