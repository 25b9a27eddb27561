"""Whether and when a failed attempt is tried again."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncjobs import Retry
from asyncjobs.retry import MAX_DELAY

unit = st.floats(min_value=0.0, max_value=1.0, exclude_max=True)
seconds = st.floats(min_value=0.0, max_value=1e12)


@pytest.mark.parametrize(("attempt", "expected"), [(1, 0.2), (2, 0.4), (3, 0.8), (4, 1.6), (5, 3.2), (6, None)])
def test_delays_double_until_the_budget_is_spent(attempt: int, expected: float | None) -> None:
    assert Retry(5, backoff=0.2, jitter=0.0).decide(attempt, OSError(), 0.9) == expected


@pytest.mark.parametrize(
    ("retry", "error", "tried_again"),
    [
        (Retry(1), ValueError(), True),
        (Retry(0), ValueError(), False),
        (Retry(1), KeyboardInterrupt(), False),
        (Retry(1, on=BaseException), KeyboardInterrupt(), True),
        (Retry(1, on=OSError), ConnectionError(), True),
        (Retry(1, on=OSError), ValueError(), False),
        (Retry(1, on=(OSError, ValueError)), ValueError(), True),
        (Retry(1, give_up_on=ValueError), ValueError(), False),
        (Retry(1, on=OSError, give_up_on=ConnectionError), ConnectionError(), False),
        (Retry(1, on=OSError, give_up_on=ConnectionError), FileNotFoundError(), True),
        (Retry(1, on=ValueError, give_up_on=ValueError), ValueError(), False),
    ],
)
def test_the_kind_of_error_decides_and_give_up_on_wins(retry: Retry, error: BaseException, tried_again: bool) -> None:
    assert (retry.decide(1, error, 0.0) is not None) is tried_again


def test_a_function_gives_the_delay_for_the_attempt_that_failed() -> None:
    asked: list[int] = []
    retry = Retry(3, backoff=lambda attempt: asked.append(attempt) or 10.0 * attempt, jitter=0.0)
    assert [retry.decide(attempt, OSError(), 0.5) for attempt in (1, 2, 3, 4)] == [10.0, 20.0, 30.0, None]
    assert asked == [1, 2, 3]


def test_jitter_takes_at_most_its_share_off() -> None:
    retry = Retry(1, backoff=8.0, jitter=0.5)
    assert retry.delay(1, 0.0) == 8.0
    assert retry.delay(1, 0.5) == 6.0
    assert 4.0 < retry.delay(1, 0.999) < 4.01


@pytest.mark.slow
@given(backoff=seconds, jitter=st.floats(0.0, 1.0), attempt=st.integers(1, 10**6), random=unit)
def test_every_delay_is_finite_and_between_zero_and_an_hour(
    backoff: float, jitter: float, attempt: int, random: float
) -> None:
    delay = Retry(1, backoff=backoff, jitter=jitter).delay(attempt, random)
    assert math.isfinite(delay)
    assert 0.0 <= delay <= MAX_DELAY


@given(st.floats())
def test_what_a_function_of_the_user_gives_is_kept_between_zero_and_an_hour(value: float) -> None:
    assert 0.0 <= Retry(1, backoff=lambda _: value).delay(1, 0.3) <= MAX_DELAY


@given(backoff=st.floats(0.0, 10.0), attempt=st.integers(1, 50))
def test_without_jitter_no_delay_is_shorter_than_the_one_before(backoff: float, attempt: int) -> None:
    retry = Retry(100, backoff=backoff, jitter=0.0)
    assert retry.delay(attempt + 1, 0.7) >= retry.delay(attempt, 0.7)


@given(limit=st.integers(0, 20), attempts=st.integers(0, 40))
def test_max_counts_the_calls_after_the_first(limit: int, attempts: int) -> None:
    retry = Retry(limit)
    again = [retry.decide(attempt, ValueError(), 0.0) is not None for attempt in range(1, attempts + 1)]
    assert sum(again) == min(limit, attempts)


@pytest.mark.parametrize(
    ("wrong", "value", "allowed"),
    [
        ({"max": -1}, "-1", "a whole number from 0"),
        ({"max": 1.5}, "1.5", "a whole number from 0"),
        ({"max": True}, "True", "a whole number from 0"),
        ({"max": None}, "None", "a whole number from 0"),
        ({"backoff": -0.1}, "-0.1", "seconds from 0, or a function"),
        ({"backoff": math.nan}, "nan", "seconds from 0, or a function"),
        ({"backoff": math.inf}, "inf", "seconds from 0, or a function"),
        ({"backoff": "1"}, "'1'", "seconds from 0, or a function"),
        ({"jitter": 1.1}, "1.1", "0 to 1"),
        ({"jitter": -0.1}, "-0.1", "0 to 1"),
        ({"jitter": math.nan}, "nan", "0 to 1"),
        ({"jitter": None}, "None", "0 to 1"),
        ({"on": "ValueError"}, "'ValueError'", "exception classes"),
        ({"on": int}, "int", "exception classes"),
        ({"on": ValueError()}, r"ValueError\(\)", "exception classes"),
        ({"give_up_on": (OSError, 3)}, "3", "exception classes"),
        ({"give_up_on": [OSError]}, "OSError", "exception classes"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(wrong: dict[str, Any], value: str, allowed: str) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=rf"Retry\.{name} (is|holds) .*{value}.*; allowed: {allowed}"):
        Retry(**{"max": 1, **wrong})


def test_a_retry_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Retry(1).max = 2  # type: ignore[misc]
