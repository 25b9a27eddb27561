"""Pipelines: against itertools, from every source, in every lane, with every way to go wrong and to end."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jobs
import numpy as np
import pytest
from flows import cancelled, interleaved, turns
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncjobs import ErrorBudget, FIFOQueue, JobTimeout, Pipeline, Runner, RunnerClosed, SyncQueue, WorkerLost
from asyncjobs.lanes.process import ProcessLane
from asyncjobs.pipeline.bells import MOST, PERIOD, Window
from asyncjobs.testing.work import until

NUMBERS = list(range(20))


def double(number: int) -> int:
    return 2 * number


async def double_on_loop(number: int) -> int:
    await asyncio.sleep(0)
    return 2 * number


def is_even(number: int) -> bool:
    return number % 2 == 0


def twice(number: int) -> Iterator[int]:
    yield number
    yield -number


def fails_at_seven(number: int) -> int:
    if number == 7:
        raise ValueError("seven")
    return number


async def fails_at_seven_on_loop(number: int) -> int:
    return fails_at_seven(number)


def ends_at_seven(number: int) -> int:
    if number == 7:
        os._exit(3)
    return number


def drawn(number: int, rng: np.random.Generator) -> tuple[int, int]:
    return number, int(rng.integers(1 << 30))


def process_id(_: int) -> int:
    return os.getpid()


def thread_id(_: int) -> int:
    return threading.get_ident()


def takes_its_time(number: int) -> int:
    time.sleep(0.005)
    return number


async def collected(pipeline: Pipeline[Any]) -> list[Any]:
    return [item async for item in pipeline]


async def collect(pipeline: Pipeline[Any], into: list[Any]) -> None:
    async for item in pipeline:
        into.append(item)


LANES = [
    pytest.param(double_on_loop, None, id="loop"),
    pytest.param(double, "thread", id="thread"),
    pytest.param(double, "process", id="process"),
]
FAILING = [
    pytest.param(fails_at_seven_on_loop, None, id="loop"),
    pytest.param(fails_at_seven, "thread", id="thread"),
    pytest.param(fails_at_seven, "process", id="process"),
]

# --- against itertools ------------------------------------------------------------------

Model = Callable[[list[Any]], list[Any]]
Step = tuple[str, Callable[[Pipeline[Any]], Pipeline[Any]], Model]


def number_of(item: Any) -> int:
    """A number of whatever the steps before have made."""
    return item if isinstance(item, int) else sum(map(number_of, item))


def odd(item: Any) -> bool:
    return number_of(item) % 2 == 1


def both(item: Any) -> list[Any]:
    return [item, number_of(item)]


def batched(items: list[Any], size: int, drop_last: bool) -> list[Any]:
    lists = [items[at : at + size] for at in range(0, len(items), size)]
    return [batch for batch in lists if len(batch) == size or not drop_last]


@st.composite
def steps(draw: st.DrawFn) -> Step:
    """A verb on a pipeline, and on a list."""
    n, block, flag = draw(st.integers(1, 5)), draw(st.integers(1, 3)), draw(st.booleans())
    mapped = st.sampled_from([number_of, both])
    fn = draw(mapped)
    made: list[Step] = [
        (f"map({n})", lambda p: p.map(fn, concurrency=n), lambda items: [fn(item) for item in items]),
        ("filter", lambda p: p.filter(odd, concurrency=n), lambda items: [item for item in items if odd(item)]),
        (
            f"flat_map({n})",
            lambda p: p.flat_map(both, concurrency=n),
            lambda items: [one for item in items for one in both(item)],
        ),
        (
            f"interleave({n}, {block})",
            lambda p: p.interleave(both, concurrency=n, block_length=block),
            lambda items: interleaved(list(map(both, items)), n, block),
        ),
        ("cache", lambda p: p.cache(), lambda items: items),
        (
            f"batch({n}, {flag})",
            lambda p: p.batch(n, drop_last=flag, collate=list),
            lambda items: batched(items, n, flag),
        ),
        (f"prefetch({n})", lambda p: p.prefetch(n), lambda items: items),
        (f"take({n})", lambda p: p.take(n), lambda items: items[:n]),
        (f"skip({n})", lambda p: p.skip(n), lambda items: items[n:]),
        (f"shard({n - 1}, {n})", lambda p: p.shard(n - 1, n), lambda items: items[n - 1 :: n]),
        (f"repeat({n})", lambda p: p.repeat(n), lambda items: items * n),
        ("zip", lambda p: p.zip(range(n), [7] * 9), lambda items: list(zip(items, range(n), [7] * 9, strict=False))),
    ]
    return draw(st.sampled_from(made))


@pytest.mark.slow
@given(st.lists(steps(), max_size=5), st.integers(0, 30))
@settings(max_examples=80)
def test_any_pipeline_gives_what_lists_give(chain: list[Step], length: int) -> None:
    pipeline: Pipeline[Any] = Pipeline(range(length))
    expected: list[Any] = list(range(length))
    for _, verb, model in chain:
        pipeline, expected = verb(pipeline), model(expected)
        if len(expected) > 2000:
            break
    assert asyncio.run(collected(pipeline)) == expected, [name for name, *_ in chain]


@given(st.lists(steps(), max_size=4), st.integers(0, 30))
@settings(max_examples=15)
def test_plain_for_gives_what_async_for_gives(chain: list[Step], length: int) -> None:
    pipeline: Pipeline[Any] = Pipeline(range(length)).shuffle(5)
    for _, verb, _ in chain[:3]:
        pipeline = verb(pipeline)
    assert list(pipeline) == asyncio.run(collected(pipeline))


@pytest.mark.slow
@pytest.mark.parametrize(("fn", "lane"), LANES)
async def test_unordered_map_loses_and_doubles_nothing(fn: Any, lane: str | None) -> None:
    items = await collected(Pipeline(range(300)).map(fn, lane=lane, concurrency=3, ordered=False))
    assert Counter(items) == Counter(range(0, 600, 2))


async def test_unordered_map_hands_out_what_is_done_first() -> None:
    gate = asyncio.Event()

    async def wait_for_the_last(number: int) -> int:
        if number == 0:
            await gate.wait()
        if number == 2:
            gate.set()
        return number

    assert sorted(await collected(Pipeline(range(3)).map(wait_for_the_last, concurrency=3))) == [0, 1, 2]
    gate.clear()
    pipeline = Pipeline(range(3)).map(wait_for_the_last, concurrency=3, ordered=False)
    assert (await collected(pipeline))[-1] == 0


@pytest.mark.slow
@pytest.mark.parametrize(("fn", "lane"), LANES)
async def test_every_lane_keeps_the_order(fn: Any, lane: str | None) -> None:
    assert await collected(Pipeline(range(200)).map(fn, lane=lane, concurrency=2)) == list(range(0, 400, 2))


@pytest.mark.slow
async def test_filter_and_flat_map_run_in_processes() -> None:
    pipeline = Pipeline(range(6)).filter(is_even, lane="process").flat_map(twice, lane="process", concurrency=2)
    assert await collected(pipeline) == [0, 0, 2, -2, 4, -4]


async def test_flat_map_takes_generators_of_the_loop_and_items_as_they_come() -> None:
    async def endless(number: int) -> AsyncIterator[int]:
        for more in itertools.count(number):
            yield more

    assert await collected(Pipeline([5]).flat_map(endless).take(3)) == [5, 6, 7]
    assert await collected(Pipeline([5]).flat_map(itertools.count).take(3)) == [5, 6, 7]


@pytest.mark.slow
async def test_a_runner_that_is_given_lends_its_lanes_and_stays_open(runner: Runner) -> None:
    assert await collected(Pipeline(range(5), runner=runner).map(double, lane="process")) == [0, 2, 4, 6, 8]
    assert 0 < runner.stats().lanes["process"].submitted <= 5
    assert await runner.run(double, 4) == 8
    with pytest.raises(TypeError, match="async for"):
        list(Pipeline(range(5), runner=runner))


# --- sources ----------------------------------------------------------------------------


class Dataset:
    """Items by number, as in PyTorch: no iterator, no IndexError."""

    def __len__(self) -> int:
        return len(NUMBERS)

    def __getitem__(self, index: int) -> int:
        return NUMBERS[index]


async def on_the_loop() -> AsyncIterator[int]:
    for number in NUMBERS:
        yield number


class Endings:
    """An async iterable that is no generator."""

    def __aiter__(self) -> AsyncIterator[int]:
        return on_the_loop()


SOURCES: dict[str, Callable[[], Any]] = {
    "list": lambda: NUMBERS,
    "tuple": lambda: tuple(NUMBERS),
    "range": lambda: range(20),
    "dict": lambda: dict.fromkeys(NUMBERS),
    "array": lambda: np.arange(20),
    "dataset": Dataset,
    "iterator": lambda: iter(NUMBERS),
    "generator": lambda: (number for number in NUMBERS),
    "function": lambda: lambda: (number for number in NUMBERS),
    "async generator": on_the_loop,
    "async function": lambda: on_the_loop,
    "async iterable": Endings,
}


@pytest.mark.parametrize("make", SOURCES.values(), ids=SOURCES)
async def test_items_come_from_every_kind_of_source(make: Callable[[], Any]) -> None:
    assert await collected(Pipeline(make())) == NUMBERS
    assert list(Pipeline(make())) == NUMBERS


async def test_items_come_from_a_queue_until_it_is_closed_and_empty() -> None:
    queue = FIFOQueue[int](30)
    await queue.enqueue_many(NUMBERS)
    await queue.close()
    assert await collected(Pipeline(queue).map(double)) == [2 * number for number in NUMBERS]


async def test_plain_for_reads_a_queue_of_another_loop_through_its_blocking_twin() -> None:
    queue = FIFOQueue[int](5)
    pipeline = Pipeline(SyncQueue(queue)).map(double)
    consumer = asyncio.create_task(asyncio.to_thread(lambda: list(pipeline)))
    await queue.enqueue_many(NUMBERS)
    await queue.close()
    assert await consumer == [2 * number for number in NUMBERS]


@pytest.mark.parametrize("kind", ["iterator", "generator", "async generator"])
async def test_a_second_epoch_of_what_can_be_read_once_is_an_error(kind: str) -> None:
    with pytest.raises(ValueError, match=r"epoch 1 of .* only once"):
        await collected(Pipeline(SOURCES[kind]()).repeat(2))


@pytest.mark.parametrize("kind", ["iterator", "generator", "async generator"])
async def test_a_second_run_of_what_can_be_read_once_is_an_error(kind: str) -> None:
    pipeline = Pipeline(SOURCES[kind]())
    assert await collected(pipeline.take(2)) == NUMBERS[:2]
    with pytest.raises(ValueError, match=r"epoch 0 of .* only once"):
        await collected(pipeline)


async def test_repeat_of_an_empty_source_ends() -> None:
    assert await collected(Pipeline([]).repeat()) == []


async def test_a_generator_is_closed_in_the_thread_that_read_it() -> None:
    closed_in: list[str] = []

    def endless() -> Iterator[int]:
        try:
            yield from itertools.count()
        finally:
            closed_in.append(threading.current_thread().name)

    async with Pipeline(endless) as stream:
        async for number in stream:
            if number == 3:
                break
    await until(lambda: bool(closed_in), "the generator to be closed")
    assert closed_in[0].startswith("asyncjobs-pipeline-")


# --- order, epochs, random numbers ------------------------------------------------------


@pytest.mark.slow
@given(st.integers(0, 60), st.integers(1, 20), st.integers(0, 5))
@settings(max_examples=30)
def test_shuffle_keeps_all_items_and_is_the_same_for_the_same_seed(length: int, size: int, seed: int) -> None:
    async def main() -> None:
        first = await collected(Pipeline(range(length)).shuffle(size, seed))
        assert sorted(first) == list(range(length))
        assert all(item <= place + size for place, item in enumerate(first)), "it was not there yet"
        # Other numbers of items at a time, from a thread.
        assert await collected(Pipeline(lambda: iter(range(length)), seed=seed).map(abs).shuffle(size)) == first

    asyncio.run(main())


async def test_shuffle_mixes_and_each_epoch_is_different() -> None:
    async with Pipeline(range(100)).shuffle(100, seed=3) as stream:
        epochs = [[item async for item in stream] for _ in range(3)]
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert all(sorted(epoch) == list(range(100)) for epoch in epochs)
    assert await collected(Pipeline(range(100)).shuffle(100, seed=3).repeat(3)) == [*itertools.chain(*epochs)]


@pytest.mark.slow
@pytest.mark.parametrize(("lane", "concurrency"), [("thread", 1), ("thread", 4), ("process", 2)])
async def test_random_numbers_depend_on_seed_epoch_and_index_alone(lane: str, concurrency: int) -> None:
    pipeline = Pipeline(range(10), seed=5).map(drawn, lane=lane, concurrency=concurrency)
    async with pipeline as stream:
        epochs = [[item async for item in stream] for _ in range(2)]
    for epoch, items in enumerate(epochs):
        assert items == [
            (index, int(np.random.default_rng([5, epoch, index]).integers(1 << 30))) for index in range(10)
        ]


@pytest.mark.slow
@pytest.mark.parametrize(("fn", "lane"), [(process_id, "process"), (thread_id, "thread")])
def test_workers_live_across_epochs(fn: Callable[[int], int], lane: str) -> None:
    with Pipeline(range(4)).map(fn, lane=lane) as stream:
        workers = {worker for _ in range(3) for worker in stream}
        assert stream.epoch == 3
    assert len(workers) == 1


async def test_a_generator_of_random_numbers_that_is_bound_stays() -> None:
    def expected() -> list[tuple[int, int]]:
        mine = np.random.default_rng(5)
        return [drawn(number, mine) for number in range(4)]

    assert await collected(Pipeline(range(4)).map(partial(drawn, rng=np.random.default_rng(5)))) == expected()


async def test_a_loop_that_cannot_begin_is_no_epoch() -> None:
    async with Pipeline(iter(range(3))) as stream:
        assert [item async for item in stream] == [0, 1, 2]
        before = stream.state_dict()
        for _ in range(2):
            with pytest.raises(ValueError, match=r"epoch 1 of .* only once"):
                await anext(aiter(stream))
            assert stream.epoch == 1
            assert stream.state_dict() == before


async def test_an_epoch_that_was_left_is_ended_by_the_next() -> None:
    async with Pipeline(range(100)).map(double, concurrency=2).prefetch(3) as stream:
        async for item in stream:
            if item == 10:
                break
        assert [item async for item in stream] == list(range(0, 200, 2))


@pytest.mark.slow
def test_an_epoch_that_was_left_is_ended_by_the_next_in_a_thread_too() -> None:
    with Pipeline(range(100)).map(double, lane="process") as stream:
        first = iter(stream)
        assert next(first) == 0
        assert list(stream) == list(range(0, 200, 2))


# --- going on where another left off ----------------------------------------------------


async def interrupted(pipeline: Pipeline[Any], count: int, epochs: int) -> tuple[list[Any], list[Any]]:
    """The first `count` items of so many epochs, and what comes after a new start with the state of that moment."""
    first: list[Any] = []
    async with pipeline as stream:
        while len(first) < count and stream.epoch < epochs:
            async for item in stream:
                first.append(item)
                if len(first) == count:
                    break
        state = json.dumps(stream.state_dict())
    rest: list[Any] = []
    async with pipeline as stream:
        stream.load_state_dict(json.loads(state))
        while stream.epoch < epochs:
            rest += [item async for item in stream]
    return first, rest


@pytest.mark.slow
@given(st.lists(steps(), max_size=4), st.integers(0, 12), st.integers(0, 30))
@settings(max_examples=100)
def test_what_was_delivered_does_not_come_again_and_all_the_rest_does(
    chain: list[Step], length: int, count: int
) -> None:
    async def main() -> None:
        pipeline: Pipeline[Any] = Pipeline(range(length)).shuffle(4)
        for name, verb, _ in chain:
            pipeline = verb(pipeline) if "repeat" not in name else pipeline.repeat(2)
        async with pipeline as stream:
            whole = [item for _ in range(2) async for item in stream]
        first, rest = await interrupted(pipeline, count, epochs=2)
        assert len(first) == min(count, len(whole))
        assert first + rest == whole

    asyncio.run(main())


async def test_functions_are_not_called_for_what_was_delivered() -> None:
    calls: list[int] = []

    def seen(number: int, rng: np.random.Generator) -> tuple[int, float]:
        calls.append(number)
        return number, rng.random()

    pipeline = Pipeline(Dataset()).shuffle(20).map(seen).batch(4, collate=list).prefetch(2)
    whole = await collected(pipeline)
    calls.clear()
    async with pipeline as stream:
        stream.load_state_dict({**stream.state_dict(), "delivered": 3})
        assert [batch async for batch in stream] == whole[3:]
        assert len(calls) == 8
        assert stream.state_dict()["epoch"] == 1


async def test_items_of_a_dataset_are_not_read_again() -> None:
    read: list[int] = []

    class Slow(Dataset):
        def __getitem__(self, index: int) -> int:
            read.append(index)
            return super().__getitem__(index)

    async with Pipeline(Slow()).map(double) as stream:
        stream.load_state_dict({**stream.state_dict(), "delivered": 17})
        assert [item async for item in stream] == [34, 36, 38]
    assert read == [17, 18, 19]


async def test_the_state_at_the_end_of_an_epoch_is_the_beginning_of_the_next() -> None:
    async with Pipeline(range(5)).shuffle(5) as stream:
        epochs = [[item async for item in stream] for _ in range(3)]
    async with Pipeline(range(5)).shuffle(5) as stream:
        async for _ in stream:
            last = stream.state_dict()
        after = stream.state_dict()
    assert (last["epoch"], last["delivered"]) == (0, 5)
    assert (after["epoch"], after["delivered"]) == (1, 0)
    async with Pipeline(range(5)).shuffle(5) as stream:
        stream.load_state_dict(last)
        assert [[item async for item in stream] for _ in range(2)] == [[], epochs[1]]
        stream.load_state_dict(after)
        assert stream.state_dict() == after
        assert [[item async for item in stream] for _ in range(2)] == epochs[1:]


def test_a_plain_for_goes_on_too_and_skipped_items_do_not_count() -> None:
    pipeline = Pipeline(range(20)).map(fails_at_seven, on_error="skip")
    with pipeline as stream:
        for item in stream:
            if item == 9:
                break
    state = stream.state_dict()
    assert state["delivered"] == 9
    with pipeline as stream:
        stream.load_state_dict(state)
        assert list(stream) == list(range(10, 20))
        assert stream.epoch == 1


async def test_a_state_that_means_nothing_here_is_refused() -> None:
    async with Pipeline(range(5), seed=1).map(double) as stream:
        state = stream.state_dict()
        for change, says in (
            ({"seed": 2}, "seed=2; this one has 1"),
            ({"stages": ["source"]}, "stages=.*this one has"),
            ({"delivered": -1}, "delivered=-1 is not allowed"),
        ):
            with pytest.raises(ValueError, match=says):
                stream.load_state_dict({**state, **change})
    async with Pipeline(range(5)).map(double, ordered=False) as stream:
        with pytest.raises(ValueError, match=r"map\(double\) has ordered=False"):
            stream.state_dict()


# --- batches ----------------------------------------------------------------------------


async def test_batches_are_stacked_and_the_last_may_be_dropped() -> None:
    images = [(np.full((2, 2), number), number) for number in range(5)]
    shapes = [(image.shape, list(labels)) async for image, labels in Pipeline(images).batch(2)]
    assert shapes == [((2, 2, 2), [0, 1]), ((2, 2, 2), [2, 3]), ((1, 2, 2), [4])]
    assert len(await collected(Pipeline(images).batch(2, drop_last=True))) == 2
    rows = [{"x": np.ones(3), "name": str(number)} for number in range(3)]
    (batch,) = await collected(Pipeline(rows).batch(3))
    assert batch["x"].shape == (3, 3)
    assert batch["name"] == ["0", "1", "2"]
    assert await collected(Pipeline(range(5)).batch(3, collate=sum)) == [3, 7]


class Sample(NamedTuple):
    image: Any
    about: dict[str, Any]


async def test_batches_of_nested_items_have_their_form() -> None:
    samples = [Sample(np.full(2, number), {"label": number, "box": (np.ones(4), "cat")}) for number in range(3)]
    (batch,) = await collected(Pipeline(samples).batch(3))
    assert type(batch) is Sample
    assert batch.image.tolist() == [[0, 0], [1, 1], [2, 2]]
    assert batch.about["label"].tolist() == [0, 1, 2]
    boxes, names = batch.about["box"]
    assert boxes.shape == (3, 4)
    assert names == ["cat"] * 3
    longer = [{"x": ([1], 1)}, {"x": ([2, 3], 2)}]
    (padded,) = await collected(Pipeline(longer).padded_batch(2))
    assert padded["x"][0].tolist() == [[1, 0], [2, 3]]


@pytest.mark.parametrize(
    ("items", "says"),
    [
        ([(1, {"x": np.ones(2)}), (1, {"x": np.ones(3)})], r"differ in component 1\['x'\]: .*padded_batch takes"),
        ([{"a": 1}, {"b": 1}], r"items 0 and 1 of a batch have different names: {'a'} and {'b'}"),
        ([{"a": {"x": 1}}, {"a": 5}], r"items 0 and 1 of a batch differ in component 'a': dict and int"),
        ([(1, 2), (1,)], r"items 0 and 1 of a batch have different numbers of components: 2 and 1"),
    ],
)
async def test_items_of_different_forms_make_no_batch(items: list[Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        await collected(Pipeline(items).batch(2))


async def test_padded_batches_are_as_long_as_their_longest() -> None:
    batches = await collected(Pipeline([[1], [2, 3], [], [4]]).padded_batch(3))
    assert [batch.tolist() for batch in batches] == [[[1, 0], [2, 3], [0, 0]], [[4]]]
    pairs = [(np.ones((1, 2)), 1), (np.ones((3, 1)), 2)]
    ((arrays, labels),) = await collected(Pipeline(pairs).padded_batch(2, pad_value=-1))
    assert arrays.shape == (2, 3, 2)
    assert arrays.min() == -1
    assert labels.tolist() == [1, 2]


async def test_items_that_do_not_fit_into_one_batch_raise() -> None:
    with pytest.raises(ValueError, match=r"differ in component 0: .*; padded_batch takes what varies"):
        await collected(Pipeline([np.ones(2), np.ones(3)]).batch(2))


# --- errors -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("fn", "lane"), FAILING)
async def test_an_error_comes_in_its_turn_and_names_stage_index_and_item(fn: Any, lane: str | None) -> None:
    seen: list[int] = []
    with pytest.raises(ValueError, match="seven") as caught:
        await collect(Pipeline(range(5, 20)).map(fn, lane=lane, concurrency=2), seen)
    assert seen == [5, 6]
    text = "".join(traceback.format_exception(caught.value))
    assert f"in stage map({fn.__name__}), item 2 of epoch 0: 7" in text
    assert "in fails_at_seven\n" in text, "the traceback of where it happened"


async def test_an_error_comes_after_all_items_before_it_that_were_done_at_the_same_moment() -> None:
    seen: list[int] = []
    pipeline = Pipeline(range(20)).map(fails_at_seven_on_loop, concurrency=10).prefetch(20)
    with pytest.raises(ValueError, match="seven"):
        await collect(pipeline, seen)
    assert seen == list(range(7))


def test_an_error_reaches_a_plain_for() -> None:
    with pytest.raises(ValueError, match="seven") as caught:
        list(Pipeline(range(20)).map(fails_at_seven, lane="process"))
    assert "item 7 of epoch 0: 7" in caught.value.__notes__[0]


@pytest.mark.slow
@pytest.mark.parametrize(("fn", "lane"), FAILING)
@pytest.mark.parametrize("ordered", [True, False])
async def test_skipped_items_are_counted_and_kept_and_batches_keep_their_size(
    fn: Any, lane: str | None, ordered: bool
) -> None:
    failing = Pipeline(range(9)).map(fn, lane=lane, concurrency=2, ordered=ordered, on_error="skip")
    async with failing.batch(4, collate=list) as stream:
        batches = [batch async for batch in stream]
        (fault,) = stream.errors
        assert stream.skipped == 1
    assert [len(batch) for batch in batches] == [4, 4]
    assert sorted(itertools.chain(*batches)) == [0, 1, 2, 3, 4, 5, 6, 8]
    assert (fault.stage, fault.epoch, fault.index, fault.item) == (f"map({fn.__name__})", 0, 7, "7")
    assert isinstance(fault.error, ValueError)


async def test_a_handler_decides_item_by_item() -> None:
    def goes_on(error: Exception, item: Any) -> bool:
        return isinstance(error, ZeroDivisionError)

    def divide(number: int) -> float:
        return 1 / number

    pipeline: Pipeline[Any] = Pipeline([1, 0, 2]).map(divide, on_error=goes_on)
    assert await collected(pipeline) == [1, 0.5]
    pipeline = Pipeline([1, 0, "two"]).map(divide, on_error=goes_on)
    with pytest.raises(TypeError, match="unsupported"):
        await collected(pipeline)

    def breaks(error: Exception, item: Any) -> bool:
        raise LookupError("the handler itself")

    with pytest.raises(LookupError) as caught:
        await collected(Pipeline([0]).map(divide, on_error=breaks))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


async def test_a_budget_of_errors_raises_all_of_them_once_it_is_spent() -> None:
    def fails(number: int) -> int:
        if number % 3 == 0:
            raise ValueError(number)
        return number

    within = Pipeline(range(9)).map(fails, on_error=ErrorBudget(max=3))
    assert await collected(within) == [1, 2, 4, 5, 7, 8]
    with pytest.raises(ExceptionGroup, match="failed for 4 of 10 items") as caught:
        await collected(Pipeline(range(90)).map(fails, on_error=ErrorBudget(max=3)))
    assert [error.args for error in caught.value.exceptions] == [(0,), (3,), (6,), (9,)]
    with pytest.raises(ExceptionGroup, match="failed for 7 of 19 items"):  # a third, but not judged before
        await collected(Pipeline(range(90)).map(fails, on_error=ErrorBudget(rate=0.3, after=18)))
    assert len(await collected(Pipeline(range(90)).map(fails, on_error=ErrorBudget(rate=0.5)))) == 60


@pytest.mark.slow
async def test_an_item_that_kills_its_worker_costs_that_item() -> None:
    pipeline = Pipeline(range(5, 10)).map(ends_at_seven, lane="process")
    with pytest.raises(WorkerLost, match="exit code 3") as caught:
        await collected(pipeline)
    assert "item 2 of epoch 0: 7" in caught.value.__notes__[0]
    pipeline = Pipeline(range(5, 10)).map(ends_at_seven, lane="process", concurrency=2, on_error="skip")
    assert await collected(pipeline) == [5, 6, 8, 9]


async def test_an_error_of_the_source_comes_after_the_items_before_it() -> None:
    def breaks() -> Iterator[int]:
        yield from range(3)
        raise OSError("the disk is gone")

    seen: list[int] = []
    with pytest.raises(OSError, match="the disk is gone"):
        await collect(Pipeline(breaks).map(double).prefetch(10), seen)
    assert seen == [0, 2, 4]


async def test_flat_map_names_the_item_whose_items_failed() -> None:
    def breaks(number: int) -> Iterator[int]:
        yield number
        yield 1 // number

    with pytest.raises(ZeroDivisionError) as caught:
        await collected(Pipeline([1, 0, 2]).flat_map(breaks))
    assert caught.value.__notes__ == ["in stage flat_map(breaks), item 1 of epoch 0: 0"]
    assert await collected(Pipeline([1, 0, 2]).flat_map(breaks, on_error="skip")) == [1, 1, 0, 2, 0]


@pytest.mark.parametrize("kind", [StopIteration, StopAsyncIteration, SystemExit, asyncio.CancelledError])
async def test_what_no_await_carries_does_not_end_the_items_early(kind: type[BaseException]) -> None:
    def raises(number: int) -> int:
        raise kind

    with pytest.raises(Exception, match=kind.__name__):
        await collected(Pipeline(range(3)).map(raises))


async def test_a_plain_function_that_returns_a_coroutine_is_told() -> None:
    with pytest.raises(TypeError, match="is a plain function that returned an awaitable"):
        await collected(Pipeline(range(3)).map(lambda number: double_on_loop(number)))


# --- bounds -----------------------------------------------------------------------------


@pytest.mark.parametrize(("concurrency", "prefetch"), [(1, 1), (2, 5), (4, 2)])
def test_the_source_is_never_further_ahead_than_all_buffers_together(concurrency: int, prefetch: int) -> None:
    pulled = delivered = furthest = 0
    pause = threading.Event()

    def source() -> Iterator[int]:
        nonlocal pulled, furthest
        for pulled in range(1, 101):
            furthest = max(furthest, pulled - delivered)
            yield pulled

    def slow(number: int) -> int:  # far longer than what counts as no time
        pause.wait(0.002)
        return number

    for _ in Pipeline(source).map(slow, concurrency=concurrency).prefetch(prefetch):
        delivered += 1
        pause.wait(0.004)
    # The reading thread's 2, twice the concurrency, what is prefetched, the hand-over's 2, and one in either hand.
    bound = 2 + 2 * concurrency + prefetch + 2 + 2
    assert 2 * concurrency < furthest <= bound


async def test_items_that_take_no_time_are_bounded_too() -> None:
    pulled = 0

    async def source() -> AsyncIterator[int]:
        nonlocal pulled
        while True:
            pulled += 1
            yield pulled

    async with Pipeline(source).map(double_on_loop, concurrency=8).prefetch(5) as stream:
        async for delivered in stream:
            if delivered == 2000:
                break
            assert pulled - delivered // 2 <= 2 * MOST + 5 + 1


def test_a_buffer_grows_only_for_what_takes_no_time() -> None:
    window = Window(2)
    threading.Event().wait(PERIOD)
    window.passed(1_000_000)
    assert window.size == MOST
    threading.Event().wait(5 * PERIOD)
    window.passed(1)
    assert window.size == 2


# --- the end ----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("fn", "lane"), LANES)
def test_break_ends_everything(fn: Any, lane: str | None) -> None:
    for item in Pipeline(itertools.count).map(fn, lane=lane, concurrency=2).prefetch(3):
        if item == 20:
            break
    # That nothing is left is for the fixture.


@pytest.mark.slow
@pytest.mark.parametrize(("fn", "lane"), LANES)
async def test_break_ends_everything_on_the_loop(fn: Any, lane: str | None) -> None:
    async with Pipeline(itertools.count).map(fn, lane=lane, concurrency=2).prefetch(3) as stream:
        async for item in stream:
            if item == 20:
                break
    with pytest.raises(RunnerClosed):
        await anext(aiter(stream))
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_break_out_of_a_pipeline_that_nobody_opened_ends_everything() -> None:
    async for item in Pipeline(itertools.count).map(double, concurrency=2).map(double_on_loop).prefetch(3):
        if item == 20:
            break
    await until(lambda: asyncio.all_tasks() == {asyncio.current_task()}, "all tasks to end")


async def test_break_cancels_the_coroutines_that_run() -> None:
    running: set[int] = set()

    async def for_ever(number: int) -> int:
        running.add(number)
        try:
            await asyncio.sleep(1000 if number else 0)
        finally:
            running.discard(number)
        return number

    async with Pipeline(range(10)).map(for_ever, concurrency=4) as stream:
        async for _ in stream:
            await until(lambda: len(running) == 4, "the others to run")
            break
    assert not running


async def test_calls_of_an_epoch_that_was_left_make_room_for_the_next() -> None:
    is_first = True

    async def stuck_at_first(number: int) -> int:
        if number and is_first:
            await asyncio.Event().wait()
        return number

    async with Pipeline(range(4)).map(stuck_at_first) as stream:
        async for _ in stream:
            break
        is_first = False
        assert [item async for item in stream] == [0, 1, 2, 3]


async def test_a_cancelled_consumer_ends_everything() -> None:
    began = asyncio.Event()

    async def for_ever(number: int) -> None:
        began.set()
        await asyncio.Event().wait()

    async def consume() -> None:
        async with Pipeline(itertools.count).map(double).map(for_ever, concurrency=3).prefetch(2) as stream:
            async for _ in stream:
                raise AssertionError("nothing can come")

    consumer = asyncio.create_task(consume())
    await began.wait()
    await cancelled(consumer)
    assert consumer.cancelled()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_call_in_a_thread_that_does_not_end_is_named_and_left(caplog: pytest.LogCaptureFixture) -> None:
    gate, began = threading.Event(), threading.Event()

    def stuck(number: int) -> int:
        began.set()
        gate.wait()
        return number

    async def consume() -> None:
        await collected(Pipeline(range(3)).map(stuck))

    consumer = asyncio.create_task(consume())
    await until(began.is_set, "the call")
    await cancelled(consumer)
    gate.set()
    assert "a call still runs in ['map(stuck)']" in caplog.text


async def test_a_stream_that_nobody_closes_warns_and_ends() -> None:
    stream: Any = await Pipeline(itertools.count).map(double).__aenter__()
    assert await anext(aiter(stream)) == 0
    await until(lambda: asyncio.all_tasks() == {asyncio.current_task()}, "the epoch to end")
    with pytest.warns(ResourceWarning, match=r"Stream of 2 stages, open.* was never closed"):
        stream = None
    await turns()


def test_a_sync_stream_that_nobody_closes_warns_and_ends() -> None:
    stream: Any = Pipeline(range(3)).map(double)._sync_stream().__enter__()
    assert list(stream) == [0, 2, 4]
    with pytest.warns(ResourceWarning, match="was never closed"):
        stream = None


@pytest.mark.slow
def test_an_exception_that_ends_the_program_is_not_blamed_on_a_runner_that_nobody_made() -> None:
    script = (
        "import asyncio\n"
        "import asyncjobs as aj\n"
        "async def main():\n"
        "    async for item in aj.Pipeline(range(100)).map(abs, lane='process'):\n"
        "        raise KeyError('mine')\n"
        "asyncio.run(main())\n"
    )
    command = [sys.executable, "-X", "dev", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert "KeyError: 'mine'" in done.stderr
    assert "was never closed" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("lane", ["thread", "process"])
def test_a_pipeline_that_nobody_closes_does_not_hold_up_the_exit(lane: str) -> None:
    script = (
        "import itertools, warnings\n"
        "import asyncjobs as aj\n"
        "warnings.simplefilter('always', ResourceWarning)\n"
        f"items = iter(aj.Pipeline(itertools.count).map(abs, lane={lane!r}))\n"
        "print(next(items), next(items))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0", "1"]
    assert "was never closed" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("lane", ["thread", "process"])
def test_ctrl_c_ends_a_plain_for_that_waits(lane: str) -> None:
    script = (
        "import time\n"
        "import asyncjobs as aj\n"
        "def stuck(number):\n"
        "    time.sleep(1000 if number else 0)\n"
        f"for item in aj.Pipeline(range(3)).map(stuck, lane={lane!r}):\n"
        "    print('waits', flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == b"waits\n"
        program.send_signal(signal.SIGINT)
        _, said = program.communicate(timeout=30)
    assert program.returncode == -signal.SIGINT, said
    assert said.strip().endswith(b"KeyboardInterrupt"), said


async def test_an_open_pipeline_is_not_opened_again() -> None:
    pipeline = Pipeline(range(3))
    async with pipeline:
        with pytest.raises(RuntimeError, match="is open"):
            pipeline.__enter__()
    async with pipeline as stream:
        assert [item async for item in stream] == [0, 1, 2]


# --- what is not allowed ----------------------------------------------------------------


async def test_zip_refuses_a_stage_whose_lane_only_another_runner_has(runner: Runner) -> None:
    async with Runner(lanes={"gpu": ProcessLane(1)}) as other:
        theirs = Pipeline(NUMBERS, runner=other).map(double, lane="gpu")
        for nested in (theirs, Pipeline(NUMBERS, runner=other).zip(theirs)):
            with pytest.raises(ValueError, match=r"map\(double\): lane='gpu' is not allowed; allowed: loop, process"):
                Pipeline(NUMBERS, runner=runner).zip(nested)
            with pytest.raises(ValueError, match=r"map\(double\): lane='gpu' is not allowed; allowed: 'thread'"):
                Pipeline(NUMBERS).zip(nested)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: Pipeline(5), "allowed: an iterable"),  # type: ignore[arg-type]
        (lambda p: Pipeline([], seed=-1), "seed=-1 is not allowed"),
        (lambda p: Pipeline([], stall_timeout=0), "stall_timeout=0 is not allowed; allowed: None, or seconds above 0"),
        (lambda p: p.map(5), "5 is not callable"),
        (lambda p: p.map(double, concurrency=0), "concurrency=0 is not allowed"),
        (lambda p: p.map(double, lane="gpu"), "lane='gpu' is not allowed"),
        (lambda p: p.map(double, lane="loop"), "double is a plain function"),
        (lambda p: p.map(double_on_loop, lane="process"), "double_on_loop is a coroutine function"),
        (lambda p: p.map(double, on_error="ignore"), "on_error='ignore' is not allowed"),
        (lambda p: p.map(lambda rng, item: item), "its first parameter gets the item; allowed: (item, rng)"),
        (lambda p: p.flat_map(lambda rng: [rng]), "its first parameter gets the item; allowed: (item, rng)"),
        (lambda p: p.map(double, ordered=1), "ordered=1 is not allowed"),
        (lambda p: p.flat_map(twice, concurrency=0), "concurrency=0 is not allowed"),
        (lambda p: p.flat_map(twice, lane="loop"), "twice is a plain function"),
        (lambda p: p.flat_map(on_the_loop, lane="process"), "on_the_loop is an async generator function"),
        (lambda p: p.flat_map(double_on_loop), "double_on_loop is a coroutine function"),
        (lambda p: p.flat_map(twice, ordered="yes"), "ordered='yes' is not allowed"),
        (lambda p: p.interleave(twice, concurrency=0), "concurrency=0 is not allowed"),
        (lambda p: p.interleave(twice, block_length=0), "block_length=0 is not allowed"),
        (lambda p: p.interleave(twice, block_length=None), "block_length=None is not allowed"),
        (lambda p: p.interleave(twice, lane="gpu"), "lane='gpu' is not allowed"),
        (lambda p: p.interleave(5), "5 is not callable"),
        (lambda p: Pipeline(NUMBERS, lane="gpu"), "lane='gpu' is not allowed"),
        (lambda p: Pipeline(NUMBERS, lane="loop"), "would block lane 'loop'"),
        (lambda p: Pipeline(on_the_loop, lane="process"), "is advanced on the loop; lane='process' is not allowed"),
        (lambda p: Pipeline(iter(NUMBERS), lane="process"), "cannot travel to lane 'process'"),
        (lambda p: p.batch(0), "n=0 is not allowed"),
        (lambda p: p.batch(2, drop_last="yes"), "drop_last='yes' is not allowed"),
        (lambda p: p.shuffle(0), "buffer_size=0 is not allowed"),
        (lambda p: p.shuffle(5, "a"), "seed='a' is not allowed"),
        (lambda p: p.prefetch(0), "k=0 is not allowed"),
        (lambda p: p.repeat(0), "epochs=0 is not allowed"),
        (lambda p: p.take(-1), "n=-1 is not allowed"),
        (lambda p: p.skip(-1), "n=-1 is not allowed"),
        (lambda p: p.shard(2, 2), "i=2 is not allowed; allowed: a whole number from 0 to 1"),
        (lambda p: p.zip(5), "allowed: an iterable"),
        (lambda p: ErrorBudget(), "it needs max=, rate= or both"),
        (lambda p: ErrorBudget(max=-1), "max=-1 is not allowed"),
        (lambda p: ErrorBudget(rate=2), "rate=2 is not allowed"),
        (lambda p: ErrorBudget(rate=0.1, after=0), "after=0 is not allowed"),
    ],
)
def test_bad_input_is_refused_at_the_call_that_brings_it(make: Callable[[Any], Any], says: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        make(Pipeline(NUMBERS))
    assert says in str(caught.value)


def test_a_stream_that_is_not_open_says_so() -> None:
    stream = Pipeline(range(3))._sync_stream()
    for look in (lambda: list(stream), stream.report, stream.state_dict):
        with pytest.raises(RunnerClosed, match="open it with `with`"):
            look()
    assert repr(stream) == "<SyncStream of 1 stages, closed>"


def test_repr_shows_the_source_and_the_verbs() -> None:
    pipeline = Pipeline(range(3)).map(double).shuffle(5).batch(2, collate=list)
    assert repr(pipeline) == "<Pipeline(range(0, 3), map(double), shuffle(5), group(2))>"


# --- calls that hang --------------------------------------------------------------------


async def hangs_at_seven_on_loop(number: int) -> int:
    if number == 7:
        await asyncio.Event().wait()
    return number


# In processes the first call of each worker loads the function's module, and that counts.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("fn", "lane", "timeout"), [(hangs_at_seven_on_loop, None, 1.0), (jobs.hangs_at_seven, "process", 6.0)]
)
async def test_a_call_that_hangs_costs_its_item_and_no_more(fn: Any, lane: str | None, timeout: float) -> None:
    pipeline = Pipeline(range(12)).map(fn, lane=lane, concurrency=2, timeout=timeout, on_error="skip")
    async with pipeline as stream:
        for _ in range(2):
            assert [item async for item in stream] == [number for number in range(12) if number != 7]
        assert [(fault.index, type(fault.error), fault.error.seconds) for fault in stream.errors] == [
            (7, JobTimeout, timeout)
        ] * 2


async def test_a_timeout_error_of_the_function_is_its_own() -> None:
    async def fails(number: int) -> int:
        raise TimeoutError("the server")

    with pytest.raises(TimeoutError, match="the server"):
        await collected(Pipeline([1]).map(fails, timeout=5))


@pytest.mark.parametrize("bad", [0, -1, "soon", True, float("nan")])
def test_a_timeout_that_is_none_and_one_for_threads_are_refused(bad: Any) -> None:
    with pytest.raises(ValueError, match=r"timeout=.* is not allowed"):
        Pipeline([1]).map(double, lane="process", timeout=bad)
    with pytest.raises(ValueError, match=r"timeout=1 is not allowed for lane 'thread'"):
        Pipeline([1]).filter(double, timeout=1)


async def test_each_stage_that_draws_draws_others() -> None:
    def drawn_too(pair: tuple[int, int], rng: np.random.Generator) -> tuple[int, int, int]:
        return *pair, int(rng.integers(1 << 30))

    items = await collected(Pipeline(range(20), seed=5).map(drawn).map(drawn_too))
    assert all(first != second for _, first, second in items)
    assert items[3][2] == int(np.random.default_rng((5, 0, 3, 1)).integers(1 << 30))


def test_a_state_of_other_sizes_and_a_runner_that_is_none_are_refused() -> None:
    pipeline = Pipeline(range(10), seed=5).shuffle(3)
    with pipeline.batch(2) as batches:
        state = batches.state_dict()
    with pipeline.batch(4) as batches:
        with pytest.raises(ValueError, match=r"group\(2\)"):
            batches.load_state_dict(state)
        with pytest.raises(ValueError, match="it lacks delivered, epoch, seed, stages"):
            batches.load_state_dict({})
    with pytest.raises(TypeError, match="runner=5 is not allowed"):
        Pipeline([1], runner=5)  # type: ignore[arg-type]
