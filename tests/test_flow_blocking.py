"""A queue's verbs in threads: the same lines, the same promises, without await."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import pytest
from flows import fifo, filled, standing, turns, waiting

from asyncjobs import RunnerClosed, SyncQueue, WouldDeadlock
from asyncjobs.flow import FIFOQueue, OutOfRangeError, PriorityQueue, QueueClosedError

T = TypeVar("T")


def in_thread(fn: Callable[..., T], *args: Any) -> asyncio.Task[T]:
    """A call that runs in a thread from now on."""
    return asyncio.create_task(asyncio.to_thread(fn, *args))


async def test_threads_and_coroutines_share_one_queue() -> None:
    queue = fifo(5)
    feed, taken = SyncQueue(queue), []

    def produce(first: int) -> None:
        for number in range(first, first + 50):
            feed.enqueue(number)

    def consume() -> None:
        taken.extend(feed)

    async def consume_here() -> None:
        async for number in queue:
            taken.append(number)

    consumers = [in_thread(consume), asyncio.create_task(consume_here())]
    await asyncio.gather(*(in_thread(produce, first) for first in range(0, 200, 50)))
    await queue.close()
    await asyncio.gather(*consumers)
    assert sorted(taken) == list(range(200))


async def test_a_thread_waits_for_room_and_for_elements_in_the_order_of_arrival() -> None:
    queue = await filled(fifo(1), 0)
    feed = SyncQueue(queue)
    first = in_thread(feed.enqueue_many, [1, 2])
    await standing(queue, producers=1)
    second = await waiting(queue.enqueue(3))
    assert [await queue.dequeue() for _ in range(4)] == [0, 1, 2, 3]
    await asyncio.gather(first, second)
    batch = in_thread(feed.dequeue_many, 2)
    await standing(queue, consumers=1)
    await queue.enqueue_many([4, 5])
    assert (await batch).tolist() == [4, 5]
    assert feed.size() == 0


async def test_the_end_of_the_data_reaches_threads() -> None:
    queue = fifo(5)
    feed = SyncQueue(queue)
    batch = in_thread(feed.dequeue_many, 4)
    await standing(queue, consumers=1)
    rest = in_thread(feed.dequeue_up_to, 4)
    await standing(queue, consumers=2)
    await asyncio.to_thread(feed.enqueue_many, [1, 2])
    await asyncio.to_thread(feed.close)
    assert feed.is_closed()
    with pytest.raises(OutOfRangeError, match=r"\(requested 4, current size 2\)"):
        await batch
    assert (await rest).tolist() == [1, 2]
    with pytest.raises(QueueClosedError):
        await asyncio.to_thread(feed.enqueue, 3)
    await asyncio.to_thread(feed.close)


async def test_a_plain_close_in_a_thread_waits_and_a_cancelling_one_does_not() -> None:
    queue = await filled(fifo(1), 0)
    feed = SyncQueue(queue)
    putter = in_thread(feed.enqueue, 1)
    await standing(queue, producers=1)
    closing = in_thread(feed.close)
    while len(queue._lines.putters) < 2:
        await asyncio.sleep(0.001)
    assert not queue.is_closed()
    await asyncio.to_thread(feed.close, True)
    await closing
    with pytest.raises(QueueClosedError, match="was cancelled"):
        await putter
    assert [number async for number in queue] == [0]


async def test_bad_input_is_refused_in_the_thread_that_brings_it() -> None:
    feed: SyncQueue[Any] = SyncQueue(FIFOQueue(3, shapes=[(2,)]))
    with pytest.raises(ValueError, match="Shape mismatch"):
        await asyncio.to_thread(feed.enqueue, [1, 2, 3])
    with pytest.raises(ValueError, match="element 1: Shape mismatch"):
        await asyncio.to_thread(feed.enqueue_many, [[1, 2], [1]])
    with pytest.raises(ValueError, match="count=-1"):
        await asyncio.to_thread(feed.dequeue_many, -1)
    assert (await asyncio.to_thread(feed.dequeue_many, 0)).shape == (0, 2)
    with pytest.raises(ValueError, match="count=4 is not allowed; allowed: at most capacity=3"):
        await asyncio.to_thread(SyncQueue(PriorityQueue[Any](3)).dequeue_many, 4)


async def test_elements_that_do_not_make_a_batch_go_back() -> None:
    queue = await filled(fifo(3), np.zeros(2), np.zeros(3))
    with pytest.raises(ValueError, match="differ in component 0"):
        await asyncio.to_thread(SyncQueue(queue).dequeue_many, 2)
    assert [(await queue.dequeue()).size, (await queue.dequeue()).size] == [2, 3]


async def test_a_wait_that_is_interrupted_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = fifo(5)
    feed = SyncQueue(queue)
    interrupt = threading.Event()

    def interrupted(begin: Callable[[], object], done: Any) -> None:
        feed._loop.call_soon_threadsafe(begin)
        interrupt.wait(30)
        raise KeyboardInterrupt

    monkeypatch.setattr(feed, "_wait", interrupted)

    def take() -> str:
        try:
            feed.dequeue_many(3)
        except KeyboardInterrupt:
            return "interrupted"
        return "served"

    taking = in_thread(take)
    await standing(queue, consumers=1)
    await queue.enqueue_many([1, 2])
    interrupt.set()
    assert await taking == "interrupted"
    await standing(queue)
    assert await queue.dequeue_many(2) is not None
    await turns()
    assert queue.stats().dequeued == 2


async def test_it_is_refused_on_the_loop_that_it_would_block() -> None:
    feed = SyncQueue(fifo(1))
    with pytest.raises(WouldDeadlock, match="await the queue itself"):
        feed.enqueue(1)
    with pytest.raises(WouldDeadlock):
        feed.stats()


def test_a_thread_whose_loop_has_ended_is_told() -> None:
    told: list[BaseException] = []

    def take(feed: SyncQueue[Any]) -> None:
        try:
            feed.dequeue()
        except RunnerClosed as error:
            told.append(error)

    async def main() -> tuple[threading.Thread, SyncQueue[Any]]:
        queue = fifo(1)
        feed = SyncQueue(queue)
        thread = threading.Thread(target=take, args=(feed,))
        thread.start()
        await standing(queue, consumers=1)
        return thread, feed

    thread, feed = asyncio.run(main())
    thread.join(30)
    take(feed)
    assert [str(error) for error in told] == ["the event loop of fifo_queue has ended"] * 2


async def test_statistics_come_from_the_loop() -> None:
    queue = await filled(fifo(3), 1)
    feed = SyncQueue(queue)
    stats = await asyncio.to_thread(feed.stats)
    assert (stats.size, stats.enqueued) == (1, 1)
    assert repr(feed) == "<SyncQueue of <FIFOQueue 'fifo_queue' open, 1 of 3>>"
