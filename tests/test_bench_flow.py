"""The benchmark of flow: its arithmetic, its work, the interpreters that it starts, and who takes part."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asyncjobs.bench import flowfeeds, flowlab, flowqueues, flowtaken, flowwork, memory
from asyncjobs.bench.flowbound import Times, bound, figures, slope
from asyncjobs.bench.flowfeeds import Feeder, Load, LoaderSettings
from asyncjobs.bench.flowlab import Lab, NoFigure, Room
from asyncjobs.bench.measure import judge

# -- the bound ----------------------------------------------------------------------------------------


def times(**changed: float) -> Times:
    """The example of `bound`."""
    found = {"batches": 100, "train": 6.0, "drain": 3.5, "overlapped": 6.5, "serial": 9.5, "cpu": 9.5, "first": 0.05}
    found |= {"waited": 0.65, "cores": 2}
    return Times(**(found | changed))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changed", "seconds"),
    [
        ({}, 6.035),
        ({"drain": 8.0}, 8.035),  # the workers are slower than the trainer
        ({"cpu": 14.0}, 7.035),  # more computing than two cores do in 6 s
        ({"first": 3.0}, 6.035),  # a slow start is nobody's excuse
        ({"serial": 5.9}, 6.0),
    ],
)
def test_bound_is_the_longest_of_three_and_one_preparation(changed: dict[str, float], seconds: float) -> None:
    assert bound(times(**changed)) == pytest.approx(seconds)


def test_who_is_at_the_bound_hides_all_that_can_be_hidden() -> None:
    found = figures(times(overlapped=6.035))
    assert (found["efficiency"], found["hidden"], found["overhead per batch"]) == pytest.approx((1.0, 1.0, 0.0))
    assert found["saving"] == found["saving, at most"] == pytest.approx(1 - 6.035 / 9.5)
    assert found["stall share"] == pytest.approx(0.65 / 6.035)


def test_who_overlaps_nothing_saves_nothing() -> None:
    found = figures(times(overlapped=9.5))
    assert (found["hidden"], found["saving"]) == (0.0, 0.0)


def test_slope_of_a_line_is_not_moved_by_an_outlier() -> None:
    counts = list(range(0, 1000, 100))
    values = [5e6 + 3.0 * count for count in counts]
    values[7] += 1e9
    assert slope(counts, values) == pytest.approx(3.0)


def test_slope_of_one_point_is_an_error() -> None:
    with pytest.raises(ValueError, match="two points"):
        slope([1.0], [1.0])


# -- the work, the interpreters, who takes part ------------------------------------------------------------


@pytest.mark.parametrize("fn", [flowwork.Filled(), flowwork.Unpacked(17), flowwork.Computed(5)], ids=repr)
def test_a_batch_is_1_mib_and_says_its_number(fn: Callable[[int], Any]) -> None:
    batch = fn(77_000)
    assert (batch.nbytes, flowwork.number_of(batch)) == (flowwork.MIB, 77_000)
    flowwork.Trainer(1).step(batch)


def test_a_batch_has_been_unpacked_where_it_is_not_its_number() -> None:
    batch = flowwork.Unpacked(16)(0)
    assert batch[-1000:].any()
    assert batch.max() == 7


@pytest.mark.parametrize(
    ("items", "is_ordered"), [([0, 1], True), ([0, 1, 1], True), ([0, 2, 1], True), ([0, 1, 1], False)]
)
def test_who_loses_doubles_or_mixes_items_is_found_out(items: list[int], is_ordered: bool) -> None:
    with pytest.raises(RuntimeError, match="items"):
        list(flowwork.checked(items, 3, is_ordered))


def test_any_order_is_right_where_none_was_promised() -> None:
    assert list(flowwork.checked([2, 0, 1], 3, is_ordered=False)) == [2, 0, 1]
    with pytest.raises(RuntimeError, match="instead of 1"):
        list(flowtaken.checked_lightly([0, 2], 3))
    with pytest.raises(RuntimeError, match="1 items of 3"):
        list(flowtaken.checked_lightly([0], 3))


def test_memory_of_a_family_counts_a_child(tmp_path: Path) -> None:
    code = "block = b'x' * 50_000_000\nprint(1, flush=True)\ninput()"
    before = memory.of_family(os.getpid())
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert 45_000_000 < memory.of_family(os.getpid()) - before < 120_000_000
        child.communicate("\n")


def test_a_room_is_another_process_that_calls_and_tells_what_went_wrong() -> None:
    room = Room()
    try:
        assert room.call(os.getpid) == room.call(os.getpid) != os.getpid()
        with pytest.raises(NoFigure, match="ValueError: invalid literal"):
            room.call(int, "x")
        with pytest.raises(NoFigure, match="ended with code 7"):
            room.call(os._exit, 7)
    finally:
        room.close()


@pytest.mark.slow
def test_the_pace_is_that_of_one_core_and_makes_work_of_a_wanted_length() -> None:
    with Lab(lambda _: None) as lab:
        pace = lab.call("t", flowwork.pace)
    assert 10e-6 < pace.train_round < 5e-3  # a product of two matrices of 256 x 256
    assert pace.unpacked(2.5 * pace.piece * 4) == flowwork.Unpacked(10)
    assert pace.unpacked(0.0) == flowwork.Unpacked(1)
    assert (pace.train_rounds(7 * pace.train_round), pace.train_rounds(0.0)) == (7, 1)


def test_a_room_in_which_a_call_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flowlab, "LIMIT", 0.5)
    monkeypatch.setattr(flowlab, "LEAVING", 0.1)
    room = Room()
    with pytest.raises(NoFigure, match=r"no figure after 0\.5 s"):
        room.call(time.sleep, 1_000)
    room.close()


@pytest.mark.slow
def test_contestants_of_flow_take_turns_and_one_that_breaks_is_left_out() -> None:
    lines: list[str] = []
    broken = Feeder("broken", "", len)  # type: ignore[arg-type]
    with Lab(lines.append) as lab:
        load = Load(flowwork.echo, 20)
        results = lab.race("t", [flowfeeds.our("thread"), broken], 2, flowtaken.rate, load)
    assert [line.removeprefix("t, round ") for line in lines] == [
        "1 of 2: asyncjobs",
        "1 of 2: broken",
        "2 of 2: asyncjobs",
    ]
    assert results.failures == {"broken": "TypeError: object of type 'Load' has no len()"}
    assert [len(results.figures[name]) for name in ("asyncjobs", "broken")] == [2, 0]
    assert results.best("per item") == "asyncjobs"
    assert results.best("per item", among={"broken"}) == ""


@pytest.mark.slow
@pytest.mark.parametrize("how", flowqueues.HOWS)
def test_every_goal_of_the_queues_is_measured(how: str) -> None:
    with Lab(lambda _: None) as lab:
        found = lab.call("t", flowqueues.race, how, 1, 200)
    assert found.failures == {}
    assert [verdict.reached for verdict in judge(found)] != [None]


@pytest.mark.slow
@pytest.mark.parametrize(
    "feeder",
    [
        flowfeeds.our("process"),
        *flowfeeds.installed(
            *map(flowfeeds.loader, (LoaderSettings(0), LoaderSettings(1), LoaderSettings(2, in_order=False))),
            flowfeeds.SPDL_ARENA_FEEDER,
            flowfeeds.SPDL_EXECUTOR_FEEDER,
            flowfeeds.SPDL_FEEDER,
            flowfeeds.SPDL_ANY_ORDER_FEEDER,
            flowfeeds.GRAIN_FEEDER,
            flowfeeds.GRAIN_THREADS_FEEDER,
            flowfeeds.TF_DATA_FEEDER,
            flowfeeds.TF_QUEUE_FEEDER,
            flowfeeds.WINDOW_FEEDER,
            flowfeeds.NOTHING_FEEDER,
        ),
    ],
    ids=lambda feeder: str(feeder.name),
)
def test_feeder_gives_every_batch_in_every_epoch(feeder: Feeder) -> None:
    case = flowtaken.Case(Load(flowwork.Unpacked(16), 12), 1)
    with Lab(lambda _: None) as lab:
        results = lab.race("t", [feeder], 1, flowtaken.overlap, case)
    assert results.failures == {}
    assert results.of("time per batch")[feeder.name][0] > 0
