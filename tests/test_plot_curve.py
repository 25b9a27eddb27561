"""A curve stays short and keeps what the eye would see."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncjobs.plotting.curve import Curve

LIMIT = 64


def filled(ys: list[float], pieces: int = 1) -> Curve:
    curve = Curve(LIMIT)
    size = max(1, -(-len(ys) // pieces))
    for start in range(0, len(ys), size):
        curve.extend(list(map(float, range(start, min(start + size, len(ys))))), ys[start : start + size])
    return curve


def test_a_short_curve_is_kept_whole() -> None:
    xs, ys = filled([3.0, 1.0, 2.0]).points()
    assert (xs.tolist(), ys.tolist()) == ([0.0, 1.0, 2.0], [3.0, 1.0, 2.0])


def test_an_empty_curve_has_no_points() -> None:
    curve = Curve(LIMIT)
    curve.extend([], [])
    assert [column.tolist() for column in curve.points()] == [[], []]


finite = st.floats(-1e6, 1e6)


@given(ys=st.lists(finite, min_size=1, max_size=3000), pieces=st.integers(1, 50))
def test_it_stays_within_its_limit_in_order_and_keeps_first_last_and_extremes(ys: list[float], pieces: int) -> None:
    curve = filled(ys, pieces)
    xs, kept = (column.tolist() for column in curve.points())
    assert len(xs) == len(kept) <= LIMIT
    assert curve.count == len(ys)
    assert xs == sorted(set(xs))
    assert all(ys[int(x)] == y for x, y in zip(xs, kept, strict=True))
    assert (xs[0], xs[-1]) == (0.0, len(ys) - 1.0)
    assert (min(kept), max(kept)) == (min(ys), max(ys))


@given(ys=st.lists(finite, min_size=1, max_size=500), pieces=st.integers(2, 40))
def test_it_looks_alike_however_the_points_come(ys: list[float], pieces: int) -> None:
    whole, parts = filled(ys), filled(ys, pieces)
    assert len(parts.points()[0]) >= min(len(ys), LIMIT // 4)
    assert len(whole.points()[0]) >= min(len(ys), LIMIT // 4)


def test_what_is_no_number_hides_no_extreme() -> None:
    ys = [math.sin(n / 40) for n in range(5000)]
    ys[1234], ys[2000], ys[3000] = math.nan, 50.0, -math.inf
    kept = [y for y in filled(ys, 7).points()[1] if math.isfinite(y)]
    assert max(kept) == 50.0
    assert min(kept) == min(y for y in ys if math.isfinite(y))


def test_a_curve_that_has_become_no_number_says_so() -> None:
    ys = [1.0 / (n + 1) for n in range(1000)] + [math.nan] * 3000
    kept = filled(ys, 9).points()[1]
    assert math.isnan(kept[-1])
    assert sum(map(math.isnan, kept)) > 10


@pytest.mark.slow
def test_a_million_points_take_little_time_and_no_more_room() -> None:
    curve = Curve(2000)
    for start in range(0, 1_000_000, 8192):
        piece = [float(n) for n in range(start, min(start + 8192, 1_000_000))]
        curve.extend(piece, piece)
    xs, _ = curve.points()
    assert 1000 <= len(xs) <= 2000
    assert (xs[-1], curve.count) == (999_999.0, 1_000_000)


@pytest.mark.parametrize("last", [0.5, 99.0, math.nan])
@pytest.mark.parametrize("count", [20, 1000, 1024, 4096, 4097])
def test_a_curve_that_loses_points_keeps_the_last_one(count: int, last: float) -> None:
    curve = Curve(64)
    curve.extend(range(count), [step % 7 - 3.0 for step in range(count - 1)] + [last])
    xs, ys = curve.points()
    assert (xs[-1], str(ys[-1])) == (count - 1, str(last))
    assert len(xs) == len({*xs}) <= 64
