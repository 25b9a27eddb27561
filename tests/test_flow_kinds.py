"""What tells the kinds of queues apart: S1 to S7 shuffle, P1 to P5 pad, PQ1 to PQ4 go by priority."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
from flows import begun, drained, filled, turns, waiting

from asyncjobs.flow import OutOfRangeError, PaddingFIFOQueue, PriorityQueue, Queue, RandomShuffleQueue


def shuffled(capacity: int, floor: int = 0, seed: int | None = 1) -> Queue[Any]:
    """A queue in any order."""
    return RandomShuffleQueue(capacity, floor, seed=seed)


# --- S1 to S7: RandomShuffleQueue -------------------------------------------------------


@pytest.mark.parametrize("floor", [-1, 3, 4, True, 1.5, None])
def test_S1_min_after_dequeue_is_at_least_0_and_below_the_capacity(floor: Any) -> None:
    with pytest.raises(ValueError, match=f"min_after_dequeue={floor!r} is not allowed; allowed: "):
        RandomShuffleQueue(3, floor)
    RandomShuffleQueue[int](3, 2)


@pytest.mark.parametrize("seed", [True, 1.5, "seed"])
def test_S1_a_seed_is_a_whole_number(seed: Any) -> None:
    with pytest.raises(ValueError, match="seed="):
        RandomShuffleQueue(3, 0, seed=seed)


async def test_S2_an_element_leaves_only_if_enough_stay() -> None:
    queue = await filled(shuffled(9, 2), 1, 2)
    taker = await waiting(queue.dequeue())
    await queue.enqueue(3)
    assert await taker in (1, 2, 3)
    assert queue.size() == 2
    batch = await waiting(queue.dequeue_many(2))
    await queue.enqueue(4)
    await turns()
    assert not batch.done()
    assert queue.size() == 2  # it holds one
    await queue.enqueue(5)
    assert len(await batch) == 2
    assert queue.size() == 2


async def test_S2_a_batch_may_exceed_the_capacity() -> None:
    queue = shuffled(4, 3)
    batch = await waiting(queue.dequeue_many(20))
    await queue.enqueue_many(range(23))
    assert len({*await batch, *await drained(queue)}) == 23


async def test_S3_a_closed_queue_gives_all_whatever_the_minimum_says() -> None:
    queue = await filled(shuffled(9, 5), 1, 2, 3, 4, 5)
    taker = await waiting(queue.dequeue())
    await queue.close()
    taken = [await taker, await queue.dequeue()]
    assert sorted([*taken, *await queue.dequeue_up_to(9)]) == [1, 2, 3, 4, 5]
    with pytest.raises(OutOfRangeError, match=r"requested 1, current size 0"):
        await queue.dequeue()


async def test_S4_each_element_is_as_likely_as_the_others() -> None:
    queue = shuffled(4)
    firsts: Counter[int] = Counter()
    for _ in range(4000):
        await queue.enqueue_many(range(4))
        firsts[await queue.dequeue()] += 1
        await queue.dequeue_many(3)
    assert all(abs(count - 1000) < 150 for count in firsts.values())  # more than 5 standard deviations
    assert len(firsts) == 4


async def test_S5_the_same_seed_gives_the_same_order_and_another_seed_another() -> None:
    orders = []
    for seed in (7, 7, 8, None, None):
        queue = await filled(shuffled(64, 0, seed), *range(64))
        batches = [await queue.dequeue_many(16), await queue.dequeue_up_to(16)]
        orders.append([*np.concatenate(batches).tolist(), *await drained(queue)])
    assert orders[0] == orders[1]
    assert len({tuple(order) for order in orders}) == 4
    assert all(sorted(order) == list(range(64)) for order in orders)


async def test_S5_successive_batches_differ() -> None:
    queue = shuffled(32)
    orders = []
    for _ in range(3):
        await queue.enqueue_many(range(32))
        orders.append(tuple(await queue.dequeue_many(32)))
    assert len(set(orders)) == 3


async def test_S6_what_waits_for_room_cannot_be_drawn() -> None:
    for seed in range(20):
        queue = await filled(shuffled(2, 0, seed), 1, 2)
        putter = await waiting(queue.enqueue_many([3, 4]))
        assert await queue.dequeue() in (1, 2)
        await queue.dequeue_many(3)
        await putter


async def test_S7_many_producers_and_consumers_share_the_elements_out() -> None:
    queue, taken, draw = shuffled(20, 5), [], random.Random(3)

    async def consume() -> None:
        try:
            while True:
                taken.extend(await queue.dequeue_up_to(draw.randint(1, 30)))
        except OutOfRangeError:
            return

    consumers = [await begun(consume()) for _ in range(4)]
    await asyncio.gather(*(queue.enqueue_many(range(first, first + 50)) for first in range(0, 300, 50)))
    await queue.close()
    await asyncio.gather(*consumers)
    assert sorted(taken) == list(range(300))


# --- P1 to P5: PaddingFIFOQueue ---------------------------------------------------------


@pytest.mark.parametrize("shapes", [None, [], 3, [3], [None], ["?"], (2,)])
def test_P1_shapes_are_required_and_of_known_rank(shapes: Any) -> None:
    with pytest.raises(ValueError, match="is not allowed; allowed: a list with one"):
        PaddingFIFOQueue(3, shapes)


async def test_P2_what_may_vary_is_padded_to_the_longest_of_the_batch() -> None:
    queue: Queue[Any] = PaddingFIFOQueue(9, [(None,), (None, 2), (), (2,)])
    for length in (1, 3, 2, 0):
        await queue.enqueue((list(range(length)), np.full((length, 2), length, "float32"), length, [length, 7]))
    first = await queue.dequeue_many(2)
    assert [column.tolist() for column in first] == [
        [[0, 0, 0], [0, 1, 2]],
        [[[1, 1], [0, 0], [0, 0]], [[3, 3], [3, 3], [3, 3]]],
        [1, 3],
        [[1, 7], [3, 7]],
    ]
    assert first[1].dtype == np.float32
    alone = await queue.dequeue()
    assert (alone[0].shape, alone[1].shape) == ((2,), (2, 2))
    await queue.close()
    rest = await queue.dequeue_up_to(5)
    assert [column.shape for column in rest] == [(1, 0), (1, 0, 2), (1,), (1, 2)]


async def test_P2_strings_are_padded_with_the_empty_string_and_other_values_may_be_given() -> None:
    words: Queue[Any] = PaddingFIFOQueue(9, [(None,)])
    await words.enqueue_many([["a"], ["bb", "ccc"]])
    assert (await words.dequeue_many(2)).tolist() == [["a", ""], ["bb", "ccc"]]
    labels: Queue[Any] = PaddingFIFOQueue(9, [(None,), (None,)], pad_value=(0.5, -100), dtypes=["float64", "int64"])
    await labels.enqueue_many([([1], [1]), ([2, 2], [])])
    floats, ints = await labels.dequeue_many(2)
    assert (floats.tolist(), ints.tolist()) == ([[1, 0.5], [2, 2]], [[1], [-100]])


async def test_P2_tensors_are_padded_as_tensors() -> None:
    torch = pytest.importorskip("torch")
    queue: Queue[Any] = PaddingFIFOQueue(9, [(None, None)], -1)
    await queue.enqueue_many([torch.ones(1, 2), torch.ones(2, 1)])
    assert (await queue.dequeue_many(2)).tolist() == [[[1, 1], [-1, -1]], [[1, -1], [1, -1]]]


@pytest.mark.parametrize("pads", [(0, 0), ()])
def test_P2_pad_values_are_one_or_one_for_each_component(pads: Any) -> None:
    with pytest.raises(ValueError, match=r"pad_value=.* is not allowed; allowed: one value, or 1 of them"):
        PaddingFIFOQueue(3, [(None,)], pads)


async def test_P3_what_cannot_be_padded_is_refused_at_the_call() -> None:
    queue: Queue[Any] = PaddingFIFOQueue(9, [(None, 3)])
    for element in (np.zeros((3, 4)), np.zeros(3), 5):
        with pytest.raises(ValueError, match=r"Shape mismatch in tuple component 0. Expected \[\?,3\], got \["):
            await queue.enqueue(element)
    with pytest.raises(ValueError, match=r"element 1: .*Expected \[\?,3\], got \[3,4\]"):
        await queue.enqueue_many([np.zeros((1, 3)), np.zeros((3, 4))])
    assert queue.size() == 0


async def test_P4_an_empty_batch_has_no_length_where_it_may_vary() -> None:
    queue: Queue[Any] = PaddingFIFOQueue(9, [(None, 3), ()], dtypes=["float32", "int64"])
    for batch in (await queue.dequeue_many(0), await queue.dequeue_up_to(0)):
        assert [(column.shape, column.dtype) for column in batch] == [((0, 0, 3), np.float32), ((0,), np.int64)]


async def test_P5_names_and_order_are_those_of_any_queue() -> None:
    queue: Queue[Any] = PaddingFIFOQueue(2, [(None,)], names=["x"])
    putter = await waiting(queue.enqueue_many({"x": [[1], [2, 2], [3, 3, 3]]}))
    assert (await queue.dequeue_many(3))["x"].tolist() == [[1, 0, 0], [2, 2, 0], [3, 3, 3]]
    await putter


# --- PQ1 to PQ4: PriorityQueue ----------------------------------------------------------


@pytest.mark.parametrize("element", [5, "ab", [1, 2], (), (1.0, "a"), (True, "a"), ("1", "a"), (1 << 63, "a"), (None,)])
async def test_PQ1_the_first_component_is_a_whole_number(element: Any) -> None:
    queue: Queue[Any] = PriorityQueue(3)
    with pytest.raises(ValueError, match=r"is not allowed; allowed: a (tuple|whole number)"):
        await queue.enqueue(element)
    with pytest.raises(ValueError, match="element 1: "):
        await queue.enqueue_many([(1, "a"), element])
    assert queue.size() == 0


async def test_PQ1_the_lowest_priority_comes_first_and_comes_along() -> None:
    queue: Queue[Any] = PriorityQueue(9)
    await queue.enqueue_many(([3, -5, 1 << 62], ["c", "a", "d"]))
    await queue.enqueue((np.int64(2), "b"))
    assert [await queue.dequeue() for _ in range(2)] == [(-5, "a"), (2, "b")]
    priorities, values = await queue.dequeue_many(2)
    assert (priorities.tolist(), values) == ([3, 1 << 62], ["c", "d"])


async def test_PQ1_names_and_dtypes_include_the_priority() -> None:
    queue: Queue[Any] = PriorityQueue(9, names=["when", "what"], dtypes=["int64", "float32"])
    await queue.enqueue_many({"when": [2, 1], "what": [0.5, 1.5]})
    batch = await queue.dequeue_many(2)
    assert {name: column.tolist() for name, column in batch.items()} == {"when": [1, 2], "what": [1.5, 0.5]}


@pytest.mark.parametrize("said", [{"dtypes": ["int64"]}, {"shapes": [()]}, {"names": ["when"]}])
def test_PQ1_there_is_a_value_after_the_priority(said: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="at least one value after it"):
        PriorityQueue(3, **said)


async def test_PQ2_equals_leave_in_the_order_they_came_also_when_put_back() -> None:
    queue: Queue[Any] = PriorityQueue(9)
    taker = await waiting(queue.dequeue_many(4))
    await queue.enqueue_many([(1, 0), (0, 1), (1, 2), (0, 3)])  # served
    await queue.enqueue_many([(0, 4), (1, 5)])
    taker.cancel()
    await turns()
    assert await drained(queue) == [(0, 1), (0, 3), (0, 4), (1, 0), (1, 2), (1, 5)]


async def test_PQ3_a_batch_is_taken_in_one_piece() -> None:
    queue: Queue[Any] = PriorityQueue(3)
    batch = await waiting(queue.dequeue_many(3))
    await queue.enqueue((2, "b"))
    await queue.enqueue((3, "c"))
    await turns()
    assert queue.size() == 2
    assert not batch.done()
    await queue.enqueue((1, "a"))
    priorities, values = await batch
    assert (priorities.tolist(), values) == ([1, 2, 3], ["a", "b", "c"])


async def test_PQ3_a_batch_that_waits_holds_up_the_dequeue_behind_it() -> None:
    queue: Queue[Any] = PriorityQueue(3)
    batch = await waiting(queue.dequeue_many(2))
    await queue.enqueue((2, "b"))
    single = await waiting(queue.dequeue())
    await queue.enqueue_many([(1, "a"), (3, "c")])
    assert (await batch)[1] == ["a", "b"]
    assert await single == (3, "c")


async def test_PQ3_a_batch_that_can_never_be_inside_is_refused() -> None:
    queue: Queue[Any] = PriorityQueue(3)
    with pytest.raises(ValueError, match="count=4 is not allowed; allowed: at most capacity=3"):
        await queue.dequeue_many(4)


async def test_PQ4_a_closed_queue_keeps_too_few_and_gives_the_sorted_rest() -> None:
    queue: Queue[Any] = PriorityQueue(5)
    batch = await waiting(queue.dequeue_many(3))
    rest = await waiting(queue.dequeue_up_to(9))
    await queue.enqueue_many([(2, "b"), (1, "a")])
    await queue.close()
    with pytest.raises(OutOfRangeError, match=r"requested 3, current size 2"):
        await batch
    priorities, values = await rest
    assert (priorities.tolist(), values) == ([1, 2], ["a", "b"])
    with pytest.raises(OutOfRangeError, match=r"requested 9, current size 0"):
        await queue.dequeue_up_to(9)
