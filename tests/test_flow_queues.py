"""What every queue promises. Tests are named after the statements of TensorFlow's behaviour that they hold: Q1 to
Q23 for all queues; S, P and PQ for the kinds are in test_flow_kinds.py."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flows import FIFOS, PIECEMEAL, begun, cancelled, drained, fifo, filled, turns, waiting

from asyncjobs import WrongLoop
from asyncjobs.flow import FIFOQueue, OutOfRangeError, PriorityQueue, Queue, QueueClosedError, RandomShuffleQueue

Make = Callable[[int], Queue[Any]]

every_fifo = pytest.mark.parametrize("make", FIFOS)
piecemeal = pytest.mark.parametrize("make", PIECEMEAL)


# --- Q1 to Q7: bound, order, batches ----------------------------------------------------


@piecemeal
async def test_Q1_many_producers_and_consumers_hand_over_each_element_once_within_the_bound(make: Make) -> None:
    queue, taken, sizes = make(7), [], []

    async def produce(first: int) -> None:
        for element in range(first, first + 100):
            await queue.enqueue(element)
            sizes.append(queue.size())

    async def consume() -> None:
        async for element in queue:
            taken.append(element)
            if len(taken) % 3 == 0:
                await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(consume())
        async with asyncio.TaskGroup() as producers:
            for first in range(0, 500, 100):
                producers.create_task(produce(first))
        await queue.close()
    assert sorted(taken) == list(range(500))
    assert max(sizes) <= 7


@piecemeal
async def test_Q2_enqueue_waits_while_full_and_dequeue_while_empty(make: Make) -> None:
    queue = make(1)
    taker = await waiting(queue.dequeue())
    await queue.enqueue(1)
    assert await taker == 1
    await queue.enqueue(2)
    putter = await waiting(queue.enqueue(3))
    assert await queue.dequeue() == 2
    await putter
    assert queue.size() == 1


@every_fifo
async def test_Q3_each_line_is_served_in_order_of_arrival(make: Make) -> None:
    queue = await filled(make(1), 0)
    putters = [await waiting(queue.enqueue(element)) for element in (1, 2, 3)]
    assert [await queue.dequeue() for _ in range(4)] == [0, 1, 2, 3]
    await asyncio.gather(*putters)
    takers = [await waiting(queue.dequeue()) for _ in range(3)]
    for element in (4, 5, 6):
        await queue.enqueue(element)
    assert await asyncio.gather(*takers) == [4, 5, 6]


@piecemeal
async def test_Q3_a_batch_that_waits_holds_up_the_dequeue_behind_it(make: Make) -> None:
    queue = make(10)
    batch = await waiting(queue.dequeue_many(3))
    single = await waiting(queue.dequeue())
    await queue.enqueue_many([1, 2])
    await turns()
    assert not batch.done()
    assert not single.done()
    await queue.enqueue_many([3, 4])
    assert sorted([*await batch, await single]) == [1, 2, 3, 4]


async def test_Q3_an_enqueue_that_comes_later_does_not_overtake_one_that_waits() -> None:
    queue = await filled(fifo(2), 1, 2)
    many = await waiting(queue.enqueue_many([3, 4, 5]))
    late = await waiting(queue.enqueue(6))
    assert [await queue.dequeue() for _ in range(6)] == [1, 2, 3, 4, 5, 6]
    await asyncio.gather(many, late)


@every_fifo
async def test_Q4_enqueue_many_goes_in_as_room_comes_free_and_may_exceed_the_capacity(make: Make) -> None:
    queue = await filled(make(4), 0)
    putter = await waiting(queue.enqueue_many(range(1, 11)))
    assert queue.size() == 4
    assert await queue.dequeue() == 0
    assert queue.size() == 4
    assert [await queue.dequeue() for _ in range(10)] == list(range(1, 11))
    await putter


@piecemeal
async def test_Q5_enqueue_many_of_nothing_succeeds_at_once_even_when_full_or_closed(make: Make) -> None:
    queue = await filled(make(1), 1)
    await queue.enqueue_many([])
    await queue.close()
    await queue.enqueue_many([])
    assert queue.size() == 1


@every_fifo
async def test_Q6_dequeue_many_takes_elements_as_they_come_and_may_exceed_the_capacity(make: Make) -> None:
    queue = make(3)
    batch = await waiting(queue.dequeue_many(8))
    await queue.enqueue_many([0, 1, 2])
    await turns()
    assert queue.size() == 0
    await queue.enqueue_many([3, 4, 5, 6, 7, 8, 9])
    assert list(await batch) == list(range(8))
    assert queue.size() == 2


@piecemeal
async def test_Q7_a_batch_of_nothing_comes_at_once_even_from_an_empty_or_closed_queue(make: Make) -> None:
    queue = make(3)
    for _ in range(2):
        assert len(await queue.dequeue_many(0)) == 0
        assert len(await queue.dequeue_up_to(0)) == 0
        await queue.close()


# --- Q8, Q9: batches of an open queue ---------------------------------------------------


async def test_Q8_shapes_need_not_be_given_for_batches() -> None:
    queue = await filled(fifo(5), [1], "two", None)
    assert await queue.dequeue_many(0) == []
    assert await queue.dequeue_many(3) == [[1], "two", None]


async def test_Q8_shapes_that_were_given_are_those_of_an_empty_batch() -> None:
    queue: Queue[Any] = FIFOQueue(5, shapes=[(2, 3), ()], dtypes=["float32", "int64"])
    pictures, labels = await queue.dequeue_many(0)
    assert (pictures.shape, pictures.dtype, labels.shape, labels.dtype) == ((0, 2, 3), np.float32, (0,), np.int64)


@every_fifo
async def test_Q9_dequeue_up_to_of_an_open_queue_waits_for_all(make: Make) -> None:
    queue = await filled(make(5), 1, 2)
    batch = await waiting(queue.dequeue_up_to(3))
    await queue.enqueue(3)
    assert list(await batch) == [1, 2, 3]


# --- Q10 to Q18: the end, and what is cancelled -----------------------------------------


@every_fifo
async def test_Q10_a_plain_close_waits_for_the_enqueues_before_it_and_fails_those_after_it(make: Make) -> None:
    queue = await filled(make(2), 1, 2)
    before = await waiting(queue.enqueue_many([3, 4]))
    closing = await waiting(queue.close())
    after = await waiting(queue.enqueue(5))
    assert not queue.is_closed()
    assert [await queue.dequeue(), await queue.dequeue()] == [1, 2]
    await asyncio.gather(before, closing)
    assert queue.is_closed()
    with pytest.raises(QueueClosedError, match=r"fifo_queue is closed: 1 of 1 elements did not go in"):
        await after
    assert [element async for element in queue] == [3, 4]


@piecemeal
async def test_Q11_a_cancelling_close_fails_pending_enqueues_at_once_and_leaves_what_is_in(make: Make) -> None:
    queue = make(2)
    many = await waiting(queue.enqueue_many([1, 2, 3, 4, 5]))
    single = await waiting(queue.enqueue(6))
    await queue.close(cancel_pending_enqueues=True)
    assert queue.is_closed()
    with pytest.raises(QueueClosedError, match="enqueue that waited was cancelled: 3 of 5 elements") as caught:
        await many
    assert caught.value.left == 3
    with pytest.raises(QueueClosedError, match="cancelled: 1 of 1"):
        await single
    with pytest.raises(QueueClosedError, match="is closed: 1 of 1"):
        await queue.enqueue(7)
    assert sorted([element async for element in queue]) == [1, 2]


async def test_Q11_a_plain_close_that_still_waits_ends_without_an_error_when_another_comes() -> None:
    queue = await filled(fifo(1), 1)
    putter = await waiting(queue.enqueue(2))
    closing = await waiting(queue.close())
    await queue.close(cancel_pending_enqueues=True)
    await closing
    with pytest.raises(QueueClosedError):
        await putter


@piecemeal
async def test_Q12_enqueues_into_a_closed_queue_fail(make: Make) -> None:
    queue = make(3)
    await queue.close()
    with pytest.raises(QueueClosedError, match=r"_queue is closed: 1 of 1"):
        await queue.enqueue(1)
    with pytest.raises(QueueClosedError, match=r"_queue is closed: 2 of 2"):
        await queue.enqueue_many([1, 2])


@piecemeal
async def test_Q13_a_closed_queue_gives_what_is_left_and_then_is_out_of_range(make: Make) -> None:
    queue = await filled(make(5), 1, 2, 3)
    await queue.close()
    assert sorted([await queue.dequeue(), *await queue.dequeue_many(2)]) == [1, 2, 3]
    with pytest.raises(OutOfRangeError, match=r"insufficient elements \(requested 1, current size 0\)"):
        await queue.dequeue()
    with pytest.raises(EOFError, match=r"\(requested 4, current size 0\)"):
        await queue.dequeue_many(4)


@piecemeal
async def test_Q14_consumers_that_wait_are_woken_by_the_close(make: Make) -> None:
    queue = make(5)
    takers = [
        await waiting(operation) for operation in (queue.dequeue(), queue.dequeue_many(2), queue.dequeue_up_to(2))
    ]
    await queue.close()
    for taker in takers:
        with pytest.raises(OutOfRangeError):
            await taker


@every_fifo
async def test_Q15_a_batch_that_cannot_be_filled_puts_back_what_it_took_in_order(make: Make) -> None:
    queue = make(3)
    batch = await waiting(queue.dequeue_many(8))
    behind = await waiting(queue.dequeue())
    await queue.enqueue_many([1, 2, 3, 4, 5])
    await queue.close()
    with pytest.raises(OutOfRangeError, match=r"\(requested 8, current size 5\)") as caught:
        await batch
    assert (caught.value.requested, caught.value.size) == (8, 5)
    assert await behind == 1
    assert [element async for element in queue] == [2, 3, 4, 5]


@piecemeal
async def test_Q15_a_closed_queue_with_too_few_keeps_them(make: Make) -> None:
    queue = await filled(make(5), 1, 2)
    await queue.close()
    with pytest.raises(OutOfRangeError, match=r"\(requested 3, current size 2\)"):
        await queue.dequeue_many(3)
    assert sorted(await drained(queue)) == [1, 2]


@piecemeal
async def test_Q16_dequeue_up_to_of_a_closed_queue_gives_the_rest_at_once(make: Make) -> None:
    queue = make(5)
    held = await waiting(queue.dequeue_up_to(4))
    await queue.enqueue_many([1, 2])
    await queue.close()
    assert sorted(await held) == [1, 2]
    with pytest.raises(OutOfRangeError, match=r"\(requested 4, current size 0\)"):
        await queue.dequeue_up_to(4)


async def test_Q17_a_second_close_does_nothing() -> None:
    queue = await filled(fifo(2), 1)
    for cancel in (False, False, True, False):
        await queue.close(cancel_pending_enqueues=cancel)
    assert [element async for element in queue] == [1]


@piecemeal
async def test_Q18_a_queue_stays_usable_after_its_waits_were_cancelled(make: Make) -> None:
    queue = make(1)
    await cancelled(await waiting(queue.dequeue()))
    await queue.enqueue(1)
    await cancelled(await waiting(queue.enqueue(2)))
    await cancelled(await waiting(queue.enqueue_many([3, 4])))
    assert await queue.dequeue() == 1
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await queue.dequeue()
    await queue.enqueue(5)
    assert await drained(queue) == [5]


@every_fifo
async def test_Q18_a_half_filled_batch_that_is_cancelled_loses_nothing(make: Make) -> None:
    queue = make(3)
    batch = await waiting(queue.dequeue_many(8))
    behind = await waiting(queue.dequeue_many(2))
    await queue.enqueue_many([1, 2, 3, 4, 5])
    await cancelled(batch)
    assert list(await behind) == [1, 2]
    assert queue.size() == 3
    assert await drained(queue) == [3, 4, 5]


@every_fifo
async def test_Q18_a_dequeue_that_is_cancelled_right_after_it_was_served_loses_nothing(make: Make) -> None:
    queue = make(5)
    takers = [await waiting(queue.dequeue()), await waiting(queue.dequeue_many(2))]
    await queue.enqueue_many([1, 2, 3, 4])  # serves both, and neither has run since
    for taker in takers:
        taker.cancel()
    await asyncio.wait(takers)
    assert all(taker.cancelled() for taker in takers)
    assert sorted(await drained(queue)) == [1, 2, 3, 4]


async def test_Q18_an_element_that_was_given_back_goes_to_the_next_in_line() -> None:
    queue = fifo(5)
    first, second = await waiting(queue.dequeue()), await waiting(queue.dequeue())
    await queue.enqueue(1)
    first.cancel()
    assert await second == 1


async def test_Q18_what_comes_back_into_a_full_queue_goes_before_all_and_holds_up_who_puts() -> None:
    queue = fifo(2)
    taker = await waiting(queue.dequeue_many(2))
    await queue.enqueue_many([1, 2])
    await queue.enqueue_many([3, 4])
    taker.cancel()
    await turns()
    assert queue.size() == 4
    putter = await waiting(queue.enqueue(5))
    assert [await queue.dequeue() for _ in range(5)] == [1, 2, 3, 4, 5]
    await putter


async def test_Q18_cancelled_enqueues_have_not_put_their_elements_and_let_the_next_one_go() -> None:
    queue = await filled(fifo(1), 0)
    first, second = await waiting(queue.enqueue(1)), await waiting(queue.enqueue(2))
    first.cancel()
    assert await queue.dequeue() == 0  # room, before the cancelled task has run
    await second
    assert await drained(queue) == [2]


async def test_Q18_a_close_that_is_cancelled_while_it_waits_closes_nothing() -> None:
    queue = await filled(fifo(1), 1)
    putter = await waiting(queue.enqueue(2))
    await cancelled(await waiting(queue.close()))
    assert await queue.dequeue() == 1
    await putter
    await queue.enqueue_many([])
    assert not queue.is_closed()


# --- Q19 to Q23: elements ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("element", "complaint"),
    [
        ((1.0, 2), r"Shape mismatch in tuple component 0. Expected \[2\], got \[\]"),
        (([1.0, 2.0], [3]), r"Shape mismatch in tuple component 1. Expected \[\], got \[1\]"),
        (([1.0, 2.0], 0.5), r"component 1 must be int64, not float64: 0.5"),
        ((np.zeros(2, "float64"), 1), r"component 0 must be float32, not float64"),
        (([1.0, 2.0], 1 << 80), r"component 1 "),
        (([1.0, [2.0]], 1), r"component 0 is no array"),
        ((["a", "b"], 1), r"component 0 must be float32"),
        (([1.0, 2.0],), r"expected a tuple of 2 components, got \(\[1.0, 2.0\],\)"),
        (([1.0, 2.0], 1, 2), r"expected a tuple of 2 components"),
        ([1.0, 2.0], r"expected a tuple of 2 components"),
    ],
)
async def test_Q19_an_element_that_does_not_fit_is_refused_at_the_call(element: Any, complaint: str) -> None:
    queue: Queue[Any] = FIFOQueue(3, shapes=[(2,), ()], dtypes=["float32", "int64"])
    with pytest.raises(ValueError, match=complaint):
        await queue.enqueue(element)
    with pytest.raises(ValueError, match=f"element 1: {complaint}"):
        await queue.enqueue_many([([1.0, 2.0], 1), element])
    assert queue.size() == 0


async def test_Q19_numbers_and_lists_become_what_dtypes_and_shapes_say() -> None:
    queue: Queue[Any] = FIFOQueue(3, shapes=[(2,), ()], dtypes=["float32", "int64"])
    await queue.enqueue(([1, 2], 3))
    vector, number = await queue.dequeue()
    assert (vector.dtype, vector.shape, number.dtype, number) == (np.float32, (2,), np.int64, 3)


async def test_Q19_components_of_a_batch_need_one_length() -> None:
    queue: Queue[Any] = fifo(9)
    with pytest.raises(ValueError, match="different lengths: 3, 2, 3"):
        await queue.enqueue_many(([1, 2, 3], [1, 2], [1, 2, 3]))
    assert queue.size() == 0


@pytest.mark.parametrize("elements", [5, None, "abc", (1, 2), ("ab", "cd")])
async def test_Q19_what_is_no_batch_is_refused(elements: Any) -> None:
    with pytest.raises(TypeError, match="is not allowed; allowed: an iterable"):
        await fifo(9).enqueue_many(elements)


async def test_Q20_with_names_elements_and_batches_are_dicts() -> None:
    queue: Queue[Any] = FIFOQueue(9, names=["x", "y"])
    await queue.enqueue({"y": 10, "x": 1})
    await queue.enqueue_many({"x": [2, 3], "y": [20, 30]})
    await queue.enqueue_many([{"x": 4, "y": 40}])
    assert await queue.dequeue() == {"x": 1, "y": 10}
    batch = await queue.dequeue_many(3)
    assert {name: column.tolist() for name, column in batch.items()} == {"x": [2, 3, 4], "y": [20, 30, 40]}
    assert await queue.dequeue_up_to(0) == {"x": [], "y": []}


@pytest.mark.parametrize("element", [{"x": 1}, {"x": 1, "y": 2, "z": 3}, {"x": 1, "z": 2}, (1, 2), 5])
async def test_Q20_wrong_names_are_refused(element: Any) -> None:
    queue: Queue[Any] = FIFOQueue(9, names=["x", "y"])
    with pytest.raises(ValueError, match="expected a dict with the names x, y"):
        await queue.enqueue(element)
    with pytest.raises(ValueError, match="expected a dict with the names x, y"):
        await queue.enqueue_many([element])


async def test_Q20_a_dict_without_names_is_refused() -> None:
    with pytest.raises(ValueError, match="must have names"):
        await fifo(9).enqueue({"x": 1})
    with pytest.raises(ValueError, match="must have names"):
        await fifo(9).enqueue_many({"x": [1]})
    with pytest.raises(ValueError, match="element 1: a dict must have names"):
        await fifo(9).enqueue_many([1, {"x": 1}])


async def test_Q21_one_component_comes_bare_and_several_as_a_tuple() -> None:
    queue: Queue[Any] = fifo(9)
    for element in (1, (2, "two"), [3]):
        await queue.enqueue(element)
    assert [await queue.dequeue() for _ in range(3)] == [1, (2, "two"), [3]]
    await queue.enqueue_many(([1, 2], ["one", "two"]))
    numbers, words = await queue.dequeue_many(2)
    assert (numbers.tolist(), words) == ([1, 2], ["one", "two"])


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "uint8", "int16", "int64", "bool", "complex64"])
async def test_Q21_batches_are_stacked_along_a_new_first_axis(dtype: str) -> None:
    queue: Queue[Any] = FIFOQueue(9, shapes=[(2, 3)], dtypes=[dtype])
    made = np.arange(24).reshape(4, 2, 3).astype(dtype)
    await queue.enqueue_many(made)
    batch = await queue.dequeue_many(4)
    assert (batch.shape, batch.dtype) == ((4, 2, 3), np.dtype(dtype))
    np.testing.assert_array_equal(batch, made)


async def test_Q21_tensors_are_stacked_as_tensors() -> None:
    torch = pytest.importorskip("torch")
    queue = await filled(fifo(4), *torch.arange(6.0).reshape(3, 2))
    batch = await queue.dequeue_many(3)
    assert torch.equal(batch, torch.arange(6.0).reshape(3, 2))
    await queue.enqueue_many([torch.zeros(2), torch.zeros(3)])
    with pytest.raises(ValueError, match=r"elements 0 and 1 of the batch differ in component 0: \[2\] and \[3\]"):
        await queue.dequeue_many(2)


@pytest.mark.parametrize("elements", [[1, "a"], ["a", "b"], [1 << 70, 1], [None, None], [[1], [2]]])
async def test_Q21_what_is_no_number_comes_in_a_list_unchanged(elements: list[Any]) -> None:
    queue = await filled(fifo(4), *elements)
    batch = await queue.dequeue_many(len(elements))
    assert isinstance(batch, list)
    assert batch == elements


async def test_Q21_elements_that_do_not_make_a_batch_go_back_in_order() -> None:
    queue = await filled(fifo(4), np.zeros(2), np.zeros(3), np.zeros(4))
    with pytest.raises(ValueError, match=r"elements 0 and 1 of the batch differ in component 0: \[2\] and \[3\]"):
        await queue.dequeue_many(3)
    assert [element.size for element in await drained(queue)] == [2, 3, 4]
    mixed = await filled(fifo(4), (1, 2), (3,))
    with pytest.raises(ValueError, match=r"different numbers of components: \[1, 2\]"):
        await mixed.dequeue_many(2)
    assert await drained(mixed) == [(1, 2), (3,)]


async def test_Q22_size_counts_what_is_inside() -> None:
    queue: Queue[Any] = fifo(9)
    assert queue.size() == 0
    await queue.enqueue_many([1, 2, 3])
    assert queue.size() == 3
    await queue.dequeue()
    assert queue.size() == 2
    batch = await waiting(queue.dequeue_many(5))
    assert queue.size() == 0
    batch.cancel()
    await turns()
    assert queue.size() == 2


@every_fifo
@pytest.mark.parametrize("seed", range(5))
async def test_Q23_single_and_many_mixed_keep_the_order(make: Make, seed: int) -> None:
    queue, draw, taken = make(10), random.Random(seed), []

    async def produce() -> None:
        position = 0
        while position < 250:
            count = draw.randint(0, min(25, 250 - position))
            if draw.random() < 0.5:
                await queue.enqueue_many(range(position, position + count))
                position += count
            else:
                await queue.enqueue(position)
                position += 1

    async def consume() -> None:
        while len(taken) < 250:
            if draw.random() < 0.5:
                taken.append(await queue.dequeue())
            else:
                taken.extend(await queue.dequeue_many(draw.randint(0, min(25, 250 - len(taken)))))

    async with asyncio.TaskGroup() as group:
        group.create_task(produce())
        group.create_task(consume())
    assert taken == list(range(250))


# --- bad input, statistics, the loop ----------------------------------------------------


@pytest.mark.parametrize("capacity", [0, -1, True, 2.5, "3", None])
@pytest.mark.parametrize("make", [FIFOQueue, PriorityQueue, lambda capacity: RandomShuffleQueue(capacity, 0)])
def test_a_capacity_that_is_none_is_refused_by_name(make: Callable[..., Any], capacity: Any) -> None:
    with pytest.raises(ValueError, match=f"capacity={capacity!r} is not allowed; allowed: a whole number from 1"):
        make(capacity)


@pytest.mark.parametrize("count", [-1, True, 1.5, None, "2"])
async def test_a_count_that_is_none_is_refused_by_name(count: Any) -> None:
    for kind in (fifo(3), PriorityQueue[Any](3)):
        with pytest.raises(ValueError, match=f"count={count!r} is not allowed; allowed: a whole number from 0"):
            await kind.dequeue_many(count)
        with pytest.raises(ValueError, match=f"count={count!r} is not allowed"):
            await kind.dequeue_up_to(count)


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ({"shapes": (3,)}, r"shapes=\(3,\) is not allowed; allowed: a list with one shape for each component"),
        ({"shapes": []}, r"shapes=\[\] is not allowed"),
        ({"shapes": [(-1,)]}, r"shapes=\[\(-1,\)\] is not allowed"),
        ({"shapes": [(None, 2)]}, r"only a PaddingFIFOQueue's may vary"),
        ({"dtypes": "float32"}, r"dtypes='float32' is not allowed"),
        ({"dtypes": ["nonsense"]}, r"dtypes=\['nonsense'\] is not allowed"),
        ({"names": "xy"}, r"names='xy' is not allowed"),
        ({"names": ["x", "x"]}, r"names=\['x', 'x'\] is not allowed"),
        ({"names": ["x", 1]}, r"names=\['x', 1\] is not allowed"),
        ({"names": ["x"], "shapes": [(), ()]}, r"names of 1, shapes of 2 components: they have to describe the same"),
    ],
)
def test_descriptions_of_elements_that_are_none_are_refused_by_name(said: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        FIFOQueue(3, **said)


async def test_statistics_tell_who_waits_and_how_full_it_was() -> None:
    queue: Queue[Any] = FIFOQueue(2, name="pictures")
    takers = [await waiting(queue.dequeue()), await waiting(queue.dequeue_many(3))]
    stats = queue.stats()
    assert (stats.name, stats.size, stats.capacity, stats.consumers_waiting, stats.producers_waiting) == (
        "pictures", 0, 2, 2, 0,
    )  # fmt: skip
    await queue.enqueue_many([1, 2, 3])
    assert await takers[0] == 1
    stats = queue.stats()
    assert (stats.enqueued, stats.dequeued, stats.size, stats.consumers_waiting) == (3, 1, 0, 1)
    await cancelled(takers[1])
    stats = queue.stats()
    assert (stats.enqueued, stats.dequeued, stats.size) == (3, 1, 2)
    putter = await waiting(queue.enqueue(4))
    assert queue.stats().producers_waiting == 1
    await queue.close(cancel_pending_enqueues=True)
    with pytest.raises(QueueClosedError):
        await putter
    last = queue.stats()
    assert last.is_closed
    assert 0.0 < last.producer_seconds <= last.open_seconds
    assert 0.0 < last.consumer_seconds <= 2 * last.open_seconds
    assert 0.0 < last.occupancy < 1.0
    assert repr(queue) == "<FIFOQueue 'pictures' closed, 2 of 2>"


async def test_occupancy_is_weighted_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    for module in ("base", "lines"):
        monkeypatch.setattr(f"asyncjobs.flow.{module}.monotonic", lambda: now[0])
    queue: Queue[Any] = fifo(4)
    now[0] += 10  # 10 s empty
    await queue.enqueue_many([1, 2, 3, 4])
    now[0] += 10  # 10 s full
    await queue.dequeue()
    await queue.enqueue(5)
    batch = await queue.dequeue_many(2)
    now[0] += 20  # 20 s half full
    assert queue.stats().occupancy == pytest.approx((10 * 0 + 10 * 4 + 20 * 2) / 40 / 4)
    assert len(batch) == 2


async def test_a_queue_with_waiters_refuses_another_event_loop() -> None:
    queue: Queue[Any] = fifo(1)
    taker = await waiting(queue.dequeue())
    refused: list[Exception] = []

    def elsewhere() -> None:
        try:
            asyncio.run(queue.enqueue(1))
        except WrongLoop as error:
            refused.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    await asyncio.to_thread(thread.join)
    assert "use it from one loop" in str(refused[0])
    await queue.enqueue(2)
    assert await taker == 2


def test_a_queue_may_be_used_by_one_loop_after_the_other() -> None:
    queue: Queue[Any] = fifo(1)
    asyncio.run(queue.enqueue(1))

    async def take() -> list[Any]:
        putter = await waiting(queue.enqueue(2))
        taken = [await queue.dequeue(), await queue.dequeue()]
        await putter
        return taken

    assert asyncio.run(take()) == [1, 2]


async def test_a_shared_loop_over_one_queue_gives_each_element_to_one() -> None:
    queue: Queue[Any] = fifo(3)
    heard: Counter[int] = Counter()

    async def listen() -> None:
        async for element in queue:
            heard[element] += 1

    listeners = [await begun(listen()) for _ in range(4)]
    await queue.enqueue_many(range(40))
    await queue.close()
    await asyncio.gather(*listeners)
    assert heard == Counter(range(40))
