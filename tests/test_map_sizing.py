"""How many items of a map travel together."""

from __future__ import annotations

import asyncio

import pytest

import asyncjobs as aj
from asyncjobs.bench.clustersim import nothing
from asyncjobs.mapping.sizing import GROUP_BYTES, Sizes
from asyncjobs.testing import ChargedLoop, SimulatedLane


def learned(each: float, workers: int) -> Sizes:
    sizes = Sizes()
    for _ in range(4):
        count = sizes.next(None, workers)
        sizes.took(count, count * each, workers)
    return sizes


@pytest.mark.parametrize(("workers", "expected"), [(1, 16), (100, 16), (1000, 160), (10_000, 1600)])
def test_groups_last_longer_only_where_the_loop_would_not_keep_up(workers: int, expected: int) -> None:
    assert learned(0.001, workers).next(None, workers) == pytest.approx(expected, abs=1)


def test_the_last_groups_of_a_wide_lane_are_smaller_down_to_the_usual_size() -> None:
    sizes = learned(0.001, 1000)
    assert [sizes.next(left, 1000) for left in (10**6, 100_000, 40_000, 0)] == [160, 50, 20, pytest.approx(16, abs=1)]


def test_large_items_travel_in_small_groups_all_the_same() -> None:
    sizes = Sizes()
    sizes.pickled(1, GROUP_BYTES // 4)
    sizes.took(1, 1e-6, 1000)
    assert sizes.next(None, 1000) == 4


def test_a_hint_is_for_the_first_group_however_few_are_left() -> None:
    sizes = Sizes()
    sizes.hint(8)
    assert sizes.next(8, 4) == 8
    sizes.took(8, 8.0, 4)
    assert sizes.next(8, 4) == 1


@pytest.mark.parametrize(("workers", "items", "fewest", "most"), [(4, 200, 190, 200), (1000, 30_000, 0, 20_000)])
def test_items_of_ten_milliseconds_share_calls_on_a_wide_lane_only(
    workers: int, items: int, fewest: int, most: int
) -> None:
    async def calls() -> int:
        async with aj.Runner(lanes={"cluster": SimulatedLane(workers, lambda: 0.01)}, watchdog=None) as runner:
            await runner.options(lane="cluster").map(nothing, range(items), ordered=False).collect()
            return runner.stats().lanes["cluster"].succeeded

    with asyncio.Runner(loop_factory=ChargedLoop) as loops:
        assert fewest <= loops.run(calls()) <= most
