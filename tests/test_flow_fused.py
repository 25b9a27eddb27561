"""Process stages: neighbours share a trip, short calls travel in groups, and each item is still judged by itself."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncjobs import ErrorBudget, Pipeline, ResultNotSendable, Runner, WorkerLost
from asyncjobs.pipeline.bells import MOST
from asyncjobs.pipeline.fusing import fused
from asyncjobs.pipeline.stages import Map, Zip, work_of


def noted(item: Any) -> tuple[Any, int]:
    return item, os.getpid()


def plus_one(number: int) -> int:
    return number + 1


def is_even(number: int) -> bool:
    return number % 2 == 0


def inverse(number: int) -> float:
    return 1 / number


def dies_at_seven(number: int) -> int:
    if number == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def lock_at_seven(number: int) -> Any:
    return threading.Lock() if number == 7 else number


def leaves_at_seven(number: int) -> int:
    if number == 7:
        raise SystemExit("seven")
    return number


def drawn(number: int, rng: np.random.Generator) -> tuple[int, int]:
    return number, int(rng.integers(1 << 30))


def drawn_again(pair: tuple[int, int], rng: np.random.Generator) -> tuple[int, int, int]:
    return *pair, int(rng.integers(1 << 30))


def ones(count: int) -> np.ndarray[Any, Any]:
    return np.ones(count)


class Choosy:
    """Its truth is nobody's business."""

    def __bool__(self) -> bool:
        raise RuntimeError("no truth")


def choosy(_: int) -> Choosy:
    return Choosy()


async def collected(pipeline: Any) -> list[Any]:
    return [item async for item in pipeline]


async def collect(pipeline: Pipeline[Any], into: list[Any]) -> None:
    async for item in pipeline:
        into.append(item)


def stages_of(pipeline: Pipeline[Any], remote: str = "process") -> list[str]:
    """What is left of the stages that call functions."""
    return [work.name for work in work_of(fused(pipeline._stages, lambda lane: lane == remote))]


# --- which share a trip -----------------------------------------------------------------


def test_neighbours_in_processes_become_one_stage() -> None:
    pipeline = Pipeline([1]).map(plus_one, lane="process").filter(is_even, lane="process")
    assert stages_of(pipeline.map(plus_one, lane="process")) == ["map(plus_one) + filter(is_even) + map(plus_one)"]
    (stage,) = (one for one in fused(pipeline._stages, lambda lane: True) if isinstance(one, Map))
    assert stage.concurrency == 1
    both = Pipeline([1]).map(plus_one, lane="process", concurrency="auto")
    assert len(stages_of(both.map(plus_one, lane="process", concurrency="auto"))) == 1
    assert stages_of(Pipeline([1]).map(plus_one).map(plus_one)) == ["map(plus_one)"] * 2
    (zipped,) = (one for one in fused(Pipeline([1]).zip(pipeline)._stages, lambda lane: True) if isinstance(one, Zip))
    assert [work.name for work in work_of([zipped])] == ["map(plus_one) + filter(is_even)"]


def skip_all(error: Exception, item: Any) -> bool:
    return True


@pytest.mark.parametrize(
    "second",
    [
        lambda p: p.map(plus_one, lane="process", ordered=False),
        lambda p: p.map(plus_one, lane="process", on_error="skip"),
        lambda p: p.map(plus_one, lane="process", concurrency=2),
        lambda p: p.map(plus_one, lane="process", concurrency="auto"),
        lambda p: p.map(plus_one, lane="process", timeout=5),
        lambda p: p.map(plus_one, lane="thread"),
        lambda p: p.prefetch(1).map(plus_one, lane="process"),
        lambda p: p.take(5).map(plus_one, lane="process"),
    ],
    ids=["order", "on_error", "concurrency", "auto", "timeout", "lane", "prefetch", "take"],
)
def test_those_that_differ_stay_apart(second: Callable[[Pipeline[Any]], Pipeline[Any]]) -> None:
    assert stages_of(second(Pipeline([1]).map(plus_one, lane="process"))) == ["map(plus_one)"] * 2


def test_a_function_that_judges_errors_and_one_that_draws_after_a_filter_stay_apart() -> None:
    judged = Pipeline([1]).map(plus_one, lane="process", on_error=skip_all)
    assert stages_of(judged.map(plus_one, lane="process", on_error=skip_all)) == ["map(plus_one)"] * 2
    chosen = Pipeline([1]).filter(is_even, lane="process")
    assert stages_of(chosen.map(drawn, lane="process")) == ["filter(is_even)", "map(drawn)"]


@pytest.mark.slow
def test_one_trip_is_one_process_and_one_job() -> None:
    pipeline = Pipeline(range(4)).map(noted, lane="process", concurrency=2).map(noted, lane="process", concurrency=2)
    assert all(first == second for (_, first), second in pipeline)


@pytest.mark.slow
async def test_lanes_of_a_runner_are_fused_too(runner: Runner) -> None:
    pipeline = Pipeline(range(50), runner=runner).map(plus_one, lane="process").filter(is_even, lane="process")
    assert await collected(pipeline) == list(range(2, 51, 2))
    assert 0 < runner.stats().lanes["process"].submitted <= 50
    with pytest.raises(ValueError, match=r"lane='nowhere' is not allowed; allowed: .*process"):
        Pipeline([1], runner=runner).map(plus_one, lane="nowhere")


# --- the same results -------------------------------------------------------------------

VERBS: dict[str, tuple[Callable[[Pipeline[Any]], Pipeline[Any]], Callable[[list[int]], list[int]]]] = {
    "plus one": (lambda p: p.map(plus_one, lane="process"), lambda items: [item + 1 for item in items]),
    "even": (lambda p: p.filter(is_even, lane="process"), lambda items: [item for item in items if item % 2 == 0]),
    "odd, skipped": (
        lambda p: p.map(fails_at_odd, lane="process", on_error="skip"),
        lambda items: [item for item in items if item % 2 == 0],
    ),
}


def fails_at_odd(number: int) -> int:
    if number % 2:
        raise ValueError("odd")
    return number


@pytest.mark.slow
@given(st.lists(st.sampled_from(sorted(VERBS)), min_size=1, max_size=5), st.integers(0, 40), st.integers(0, 40))
@settings(max_examples=8)
def test_fused_or_not_the_items_and_the_resumption_are_the_same(names: list[str], length: int, count: int) -> None:
    pipeline: Pipeline[Any] = Pipeline(range(length))
    expected = list(range(length))
    for name in names:
        verb, model = VERBS[name]
        pipeline, expected = verb(pipeline), model(expected)
    with pipeline as items:
        taken = [item for _, item in zip(range(count), items, strict=False)]
        state = items.state_dict()
    assert taken == expected[:count]
    with pipeline as items:
        items.load_state_dict(state)
        rest = list(items) if items.epoch == 0 else []
    assert rest == expected[count:]


@pytest.mark.slow
async def test_random_numbers_are_those_of_separate_stages() -> None:
    together = Pipeline(range(40), seed=3).map(drawn, lane="process").map(drawn_again, lane="process")
    apart = Pipeline(range(40), seed=3).map(drawn).map(drawn_again)
    assert await collected(together) == await collected(apart)


# --- groups -----------------------------------------------------------------------------


@pytest.mark.slow
async def test_short_calls_travel_in_groups_and_long_ones_alone(runner: Runner) -> None:
    await collected(Pipeline(range(2000), runner=runner).map(plus_one, lane="process"))
    jobs = runner.stats().lanes["process"].submitted
    assert 2000 / MOST <= jobs < 1000
    async with Pipeline(iter(range(10**6)), runner=runner).map(plus_one, lane="process") as stream:
        async for item in stream:
            if item == 500:
                break
    assert await runner.run(plus_one, 1) == 2


@pytest.mark.slow
@pytest.mark.parametrize("concurrency", [1, 2])
async def test_a_group_that_kills_its_worker_costs_the_one_item(concurrency: int) -> None:
    numbers = list(range(3, 300))
    pipeline = Pipeline(numbers).map(dies_at_seven, lane="process", concurrency=concurrency, on_error="skip")
    async with pipeline as stream:
        # The second time in large groups.
        for _ in range(2):
            assert [item async for item in stream] == [number for number in numbers if number != 7]
        assert [(fault.index, fault.item, type(fault.error)) for fault in stream.errors] == [(4, "7", WorkerLost)] * 2


@pytest.mark.slow
async def test_a_value_of_a_group_that_cannot_travel_costs_the_one_item() -> None:
    async with Pipeline([*range(200)] * 2).map(lock_at_seven, lane="process", on_error="skip") as stream:
        assert [item async for item in stream] == [number for number in range(200) if number != 7] * 2
        assert [type(fault.error) for fault in stream.errors] == [ResultNotSendable] * 2


@pytest.mark.slow
async def test_an_item_that_cannot_be_sent_is_named_and_costs_itself() -> None:
    items: list[Any] = [*range(100), threading.Lock(), *range(100)]
    async with Pipeline(items).map(noted, lane="process", on_error="skip") as stream:
        assert [item async for item, _ in stream] == [*range(100)] * 2
        (fault,) = stream.errors
    assert fault.index == 100
    assert "lock" in str(fault.error)


@pytest.mark.slow
async def test_a_group_goes_on_after_exceptions_of_any_kind() -> None:
    taken: list[int] = []
    with pytest.raises(Exception, match="seven") as caught:
        await collect(Pipeline(range(100)).map(leaves_at_seven, lane="process"), taken)
    assert taken == list(range(7))
    assert "in stage map(leaves_at_seven), item 7 of epoch 0: 7" in caught.value.__notes__


async def test_large_items_do_not_make_large_groups(runner: Runner) -> None:
    """A group is one message: bounded by bytes too."""
    arrays = [np.ones(2**15) for _ in range(200)]  # of 256 KiB, four to a group
    async for _ in Pipeline(arrays, runner=runner).map(np.size, lane="process"):
        pass
    assert runner.stats().lanes["process"].submitted >= 45


# --- errors of a trip -------------------------------------------------------------------


@pytest.mark.slow
async def test_an_error_names_its_own_step_item_and_index() -> None:
    pipeline = Pipeline([2, 3, 4, -2]).filter(is_even, lane="process").map(plus_one, lane="process")
    chain = pipeline.map(plus_one, lane="process").map(inverse, lane="process")
    assert stages_of(chain) == ["filter(is_even) + map(plus_one) + map(plus_one) + map(inverse)"]
    with pytest.raises(ZeroDivisionError) as caught:
        await collected(chain)
    assert caught.value.__notes__ == ["in stage map(inverse), item 2 of epoch 0: 0"]
    assert "return 1 / number" in str(caught.value.__cause__)


@pytest.mark.slow
async def test_an_error_after_a_resumption_names_the_index_of_the_whole_epoch() -> None:
    pipeline = Pipeline([1, 2, 3, 4, 5, -1]).map(plus_one, lane="process").map(inverse, lane="process")
    async with pipeline as stream:
        stream.load_state_dict({**stream.state_dict(), "delivered": 3})
        with pytest.raises(ZeroDivisionError) as caught:
            await collected(stream)
    assert caught.value.__notes__ == ["in stage map(inverse), item 5 of epoch 0: 0"]


@pytest.mark.slow
async def test_who_dies_on_a_trip_is_told_of_the_whole_trip() -> None:
    pipeline = Pipeline([7]).map(plus_one, lane="process").map(plus_one, lane="process", on_error="raise")
    with pytest.raises(WorkerLost) as caught:
        await collected(Pipeline([6]).map(plus_one, lane="process").map(dies_at_seven, lane="process"))
    assert caught.value.__notes__ == ["in stage map(plus_one) + map(dies_at_seven), item 0 of epoch 0: 6"]
    assert await collected(pipeline) == [9]


@pytest.mark.slow
async def test_each_step_counts_what_it_leaves_out() -> None:
    pipeline = Pipeline(range(-3, 3)).map(inverse, lane="process", on_error="skip")
    async with pipeline.map(plus_one, lane="process", on_error="skip").map(
        inverse, lane="process", on_error="skip"
    ) as stream:
        assert len([item async for item in stream]) == 4
        assert [(fault.stage, fault.index) for fault in stream.errors] == [("map(inverse)", 3), ("map(inverse)", 2)]


@pytest.mark.slow
async def test_a_budget_is_kept_by_each_step() -> None:
    budget = ErrorBudget(max=1)
    numbers = [1, 3, 5, 6, 8]
    pipeline = Pipeline(numbers).map(plus_one, lane="process", on_error=budget)
    with pytest.raises(ExceptionGroup, match=r"map\(fails_at_odd\) failed for 2 of 5 items"):
        await collected(pipeline.map(fails_at_odd, lane="process", on_error=budget))


@pytest.mark.slow
async def test_a_filter_whose_answer_has_no_truth_is_an_error_of_its_stage() -> None:
    for lane in ("thread", "process"):
        with pytest.raises(RuntimeError, match="no truth") as caught:
            await collected(Pipeline([1]).filter(choosy, lane=lane))
        assert caught.value.__notes__ == ["in stage filter(choosy), item 0 of epoch 0: 1"]


async def test_a_plain_filter_that_returns_a_coroutine_is_refused() -> None:
    async def later(_: int) -> bool:
        return True

    with pytest.raises(TypeError, match="returned an awaitable"):
        await collected(Pipeline([1]).filter(lambda number: later(number), lane="thread"))


# --- the end ----------------------------------------------------------------------------


@pytest.mark.slow
def test_workers_outlive_an_epoch_that_was_left_while_they_called() -> None:
    def endless() -> Iterator[int]:
        yield from range(10**9)

    with Pipeline(endless).map(noted, lane="process", concurrency=2) as items:
        pids = set()
        for _ in range(5):
            for number, pid in items:
                pids.add(pid)
                if number == 50:
                    break
    assert len(pids) <= 2
