"""concurrency="auto": the rule against a model of stages and a consumer, and real pipelines that tune themselves."""

from __future__ import annotations

from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncjobs.pipeline.tuning import HOLD, PATIENCE, Dial, Period, Tuning

SECONDS = 0.25


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
    found = settled(service, consume, most=256)[-1]
    smallest = ceil(calls_needed * 0.97)
    assert smallest <= found <= max(1, ceil(1.2 * calls_needed) + 1)


@given(st.integers(1, 16))
def test_what_brings_nothing_is_taken_back(cores: int) -> None:
    assert settled(0.01, 0.0001, cores=cores)[-1] <= max(2 * cores - 1, cores)
    assert settled(0.01, 0.0001, cores=cores)[-1] >= cores


def test_it_climbs_in_few_steps() -> None:
    assert settled(0.01, 0.01 / 32)[:5] == [2, 4, 8, 16, 32]


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


def test_a_consumer_that_becomes_faster_is_fed_again() -> None:
    dial = Dial(64)
    tuning = Tuning([dial])
    for consume in (0.005, 0.001, 0.005):
        for _ in range(2 * HOLD):
            tuning.look([period(dial.calls, 0.01, consume, 64)])
        assert 0.97 * 0.01 / consume <= dial.calls <= 1.2 * 0.01 / consume + 1


@pytest.mark.parametrize("waited", [0.0, SECONDS])
def test_nothing_moves_a_stage_that_is_idle(waited: float) -> None:
    dial = Dial(8)
    for _ in range(5):
        Tuning([dial]).look([Period(SECONDS, waited, 0.0, 0)])
    assert dial.calls == 1
