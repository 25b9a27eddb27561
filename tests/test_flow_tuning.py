"""concurrency="auto": the rule against a model of stages and a consumer, and real pipelines that tune themselves."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from math import ceil
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncjobs import Pipeline, Runner
from asyncjobs.pipeline.tuning import HOLD, PATIENCE, Dial, Period, Tuning

SECONDS = 0.25
ENDLESS = range(10**9)


def waits(number: int) -> int:
    time.sleep(0.02)
    return number


async def waits_on_loop(number: int) -> int:
    await asyncio.sleep(0.02)
    return number


def computes(number: int) -> int:
    return sum(range(100_000)) - sum(range(100_000)) + number


def found(pipeline: Pipeline[Any], seconds: float, enough: Callable[[int], bool]) -> tuple[list[int], list[int]]:
    """What came in so many seconds for each item, until the concurrency is `enough`; and the concurrencies."""
    taken, seen = [], [1]
    with pipeline as items:
        for item in items:
            taken.append(item)
            (stage,) = [stage for stage in items.report().stages if stage.is_tuned]
            if stage.concurrency != seen[-1]:
                seen.append(stage.concurrency)
            if len(taken) >= 2000 or (len(taken) > 100 and enough(stage.concurrency)):
                break
            time.sleep(seconds)
    return taken, seen


def period(calls: int, service: float, consume: float, cores: float, rate: float | None = None) -> Period:
    """What a stage shows whose calls take `service` seconds while there are cores for them."""
    fastest = min(calls, cores) / service
    rate = min(fastest, 1 / consume) if rate is None else rate
    takes = service * max(1.0, calls / cores) if rate == fastest else service
    waited = SECONDS * max(0.0, 1 - rate * consume)
    return Period(SECONDS, waited, min(rate * takes, calls) * SECONDS, round(1000 * rate * SECONDS))


def settled(service: float, consume: float, cores: float = 1000, most: int = 64, looks: int = HOLD - 1) -> list[int]:
    """The number of calls at once, period by period."""
    dial = Dial(most)
    tuning = Tuning([dial])
    seen = []
    for _ in range(looks):
        tuning.look([period(dial.calls, service, consume, cores)])
        seen.append(dial.calls)
    return seen


@given(st.floats(0.001, 1), st.floats(0.05, 100))
def test_it_finds_the_smallest_number_that_feeds_the_consumer(service: float, calls_needed: float) -> None:
    consume = service / calls_needed
    calls = settled(service, consume, most=256)[-1]
    smallest = ceil(calls_needed * 0.97)
    assert smallest <= calls <= max(1, ceil(1.2 * calls_needed) + 1)


@given(st.integers(1, 16))
def test_what_brings_nothing_is_taken_back(cores: int) -> None:
    assert cores <= settled(0.01, 0.0001, cores=cores)[-1] <= ceil(1.3 * cores) + 1


def test_it_climbs_in_few_steps() -> None:
    assert settled(0.01, 0.01 / 32)[:5] == [2, 4, 8, 16, 32]


@pytest.mark.parametrize(("is_far", "reached"), [(True, 8), (False, 1)])
def test_calls_that_are_on_their_way_for_long_may_hold_the_consumer_up(is_far: bool, reached: int) -> None:
    dial, service, way = Dial(64, is_far=is_far), 0.01, 0.03
    tuning = Tuning([dial])
    for _ in range(HOLD - 1):
        rate = min(dial.calls, 8) / (service + way)  # there are eight workers
        tuning.look([Period(SECONDS, 0.99 * SECONDS, rate * service * SECONDS, round(1000 * rate * SECONDS))])
    assert reached <= dial.calls <= 1.3 * reached + 1


def test_it_never_leaves_its_bounds() -> None:
    assert max(settled(0.01, 0.00001, most=7)) == 7
    assert settled(0.01, 1.0) == [1] * (HOLD - 1)


def test_calls_to_spare_are_given_back_until_that_is_felt_and_then_held() -> None:
    dial = Dial(64, calls=8)
    tuning = Tuning([dial])
    seen = []
    for _ in range(8 * PATIENCE + HOLD // 2):
        # Three are enough by their figures, and yet four are needed: a slow item now and then.
        is_short = dial.calls < 4
        tuning.look([Period(SECONDS, 0.1 * SECONDS if is_short else 0.0, 2.0 * SECONDS, 100)])
        seen.append(dial.calls)
    assert seen[-1] == 4
    assert seen.count(3) == 1


def test_of_two_stages_the_one_that_holds_up_the_consumer_is_turned_up() -> None:
    slow, fast = Dial(64), Dial(64)
    tuning = Tuning([fast, slow])
    for _ in range(HOLD - 1):
        rate = min(slow.calls / 0.01, fast.calls / 0.002, 1 / 0.001)
        tuning.look([period(fast.calls, 0.002, 0.001, 64, rate), period(slow.calls, 0.01, 0.001, 64, rate)])
    assert 10 <= slow.calls <= 13
    assert 2 <= fast.calls <= 4


@pytest.mark.parametrize("services", [(0.01, 0.01), (0.01, 0.005), (0.01, 0.01, 0.01), (0.02, 0.01, 0.005)])
def test_stages_that_limit_together_are_turned_up_together(services: tuple[float, ...]) -> None:
    dials = [Dial(64) for _ in services]
    tuning = Tuning(dials)
    consume = 0.001
    for _ in range(3 * HOLD):
        rate = min(1 / consume, *(dial.calls / service for dial, service in zip(dials, services, strict=True)))
        tuning.look(
            [period(dial.calls, service, consume, 64, rate) for dial, service in zip(dials, services, strict=True)]
        )
    for dial, service in zip(dials, services, strict=True):
        assert 0.97 * service / consume <= dial.calls <= 1.3 * service / consume + 1


def test_a_consumer_that_becomes_faster_is_fed_again() -> None:
    dial = Dial(64)
    tuning = Tuning([dial])
    for consume in (0.005, 0.001, 0.005):
        for _ in range(2 * HOLD):
            tuning.look([period(dial.calls, 0.01, consume, 64)])
        assert 0.97 * 0.01 / consume <= dial.calls <= 1.2 * 0.01 / consume + 1


def test_workers_that_come_later_are_used() -> None:
    dial = Dial(1)
    tuning = Tuning([dial])
    for most, expected in ((1, 1), (64, 4), (3, 4)):
        dial.allow(most)
        for _ in range(HOLD - 1):
            tuning.look([period(dial.calls, 0.01, 0.0025, 64)])
        assert expected <= dial.calls <= expected * 1.25


@pytest.mark.parametrize("waited", [0.0, SECONDS])
def test_nothing_moves_a_stage_that_is_idle(waited: float) -> None:
    dial = Dial(8)
    for _ in range(5):
        Tuning([dial]).look([Period(SECONDS, waited, 0.0, 0)])
    assert dial.calls == 1


# --- real pipelines ---------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("fn", "lane"), [(waits, "thread"), (waits_on_loop, None)], ids=["thread", "loop"])
def test_a_stage_that_waits_gets_as_many_calls_at_once_as_the_consumer_needs(fn: Any, lane: str | None) -> None:
    # 20 ms for an item, and 4 ms in the consumer, sleeping late included.
    taken, seen = found(Pipeline(ENDLESS).map(fn, lane=lane, concurrency="auto"), 0.004, lambda calls: calls >= 4)
    assert taken == list(range(len(taken)))
    assert 4 <= seen[-1] <= 12


@pytest.mark.slow
def test_a_consumer_that_is_slower_anyway_leaves_it_at_one() -> None:
    pipeline = Pipeline(ENDLESS).map(waits, concurrency="auto")
    taken, seen = found(pipeline.take(110), 0.03, lambda calls: calls > 3)
    assert taken == list(range(110))
    assert max(seen) <= 2


@pytest.mark.slow
def test_processes_are_started_up_to_the_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncjobs.pipeline.workshop.usable_processors", lambda: 3)
    taken, seen = found(
        Pipeline(ENDLESS).map(computes, lane="process", concurrency="auto"), 0.0, lambda calls: calls > 1
    )
    assert taken == list(range(len(taken)))
    assert 1 < max(seen) <= 3


@pytest.mark.slow
async def test_a_lane_of_a_runner_bounds_it(runner: Runner) -> None:
    async with Pipeline(range(300), runner=runner).map(computes, lane="process", concurrency="auto") as stream:
        assert [item async for item in stream] == list(range(300))
        (stage,) = [stage for stage in stream.report().stages if stage.is_tuned]
        assert 1 <= stage.concurrency <= runner._lanes["process"].size()
        assert "auto: " in str(stream.report())


def test_short_epochs_count_together() -> None:
    with Pipeline(range(7)).map(waits, concurrency="auto") as items:
        for _ in range(60):
            assert list(items) == list(range(7))
            (stage,) = [stage for stage in items.report().stages if stage.is_tuned]
            if stage.concurrency > 2:
                break
        assert stage.concurrency > 2
        assert '"auto" has' in items.report().verdict or '"auto" is still looking' in items.report().verdict


@pytest.mark.slow
def test_threads_that_are_not_needed_any_more_end() -> None:
    with Pipeline(ENDLESS).map(waits, concurrency="auto") as items:
        most = 0
        for number, _ in enumerate(items):
            most = max(most, sum(thread.name.startswith("asyncjobs-pipeline-") for thread in threading.enumerate()))
            time.sleep(0.002 if number < 400 else 0.03)
            (stage,) = [stage for stage in items.report().stages if stage.is_tuned]
            if number > 400 and stage.concurrency < 4:
                break
        assert most > 4


@pytest.mark.parametrize("bad", [0, -1, 1.5, "many", None, True])
def test_a_concurrency_that_is_none_is_refused(bad: Any) -> None:
    with pytest.raises(ValueError, match=r"concurrency=.* is not allowed"):
        Pipeline([1]).map(computes, concurrency=bad)
    with pytest.raises(ValueError, match=r"concurrency='auto' is not allowed"):
        Pipeline([1]).flat_map(range, concurrency="auto")  # type: ignore[arg-type]
