"""What the tests of queues and pipelines share: the kinds, operations that wait, the order of an interleave."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

from asyncjobs.flow import FIFOQueue, PaddingFIFOQueue, Queue, RandomShuffleQueue

T = TypeVar("T")

TURNS = 5
"""Of the loop: after so many, whatever is not done waits for something."""


def fifo(capacity: int) -> Queue[Any]:
    """First in, first out."""
    return FIFOQueue(capacity)


def padding(capacity: int) -> Queue[Any]:
    """First in, first out, of numbers."""
    return PaddingFIFOQueue(capacity, shapes=[()])


def shuffle(capacity: int) -> Queue[Any]:
    """In any order."""
    return RandomShuffleQueue(capacity, 0, seed=1)


FIFOS = [fifo, padding]
PIECEMEAL = [fifo, padding, shuffle]
"""Kinds that take a batch as its elements come."""


async def turns() -> None:
    """Let everything run that can."""
    for _ in range(TURNS):
        await asyncio.sleep(0)


async def begun(operation: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """The operation, as far as it gets by itself."""
    task = asyncio.create_task(operation)
    await turns()
    return task


async def waiting(operation: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """The operation, which has to wait."""
    task = await begun(operation)
    assert not task.done()
    return task


async def standing(queue: Queue[Any], producers: int = 0, consumers: int = 0) -> None:
    """Wait until so many stand in the lines."""
    while (queue.stats().producers_waiting, queue.stats().consumers_waiting) != (producers, consumers):
        await asyncio.sleep(0.001)


async def cancelled(task: asyncio.Task[Any]) -> None:
    """Cancel it, and see that it ended so."""
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def drained(queue: Queue[Any]) -> list[Any]:
    """Close it and take what is inside."""
    await queue.close(cancel_pending_enqueues=True)
    return [element async for element in queue]


async def filled(queue: Queue[Any], *elements: Any) -> Queue[Any]:
    """The queue with these inside."""
    await queue.enqueue_many(list(elements))
    return queue


def interleaved(lists: list[list[Any]], cycle: int, block: int) -> list[Any]:
    """What tf.data makes of them, as its documentation has it."""
    waiting, given = iter(lists), []
    places: list[Iterator[Any] | None] = [None] * cycle
    is_over, at = False, 0
    while not is_over or any(place is not None for place in places):
        place = places[at]
        if place is None and not is_over:
            found = next(waiting, None)
            is_over = found is None
            place = places[at] = None if found is None else iter(found)
        items = [] if place is None else list(itertools.islice(place, block))
        given += items
        if len(items) < block:
            places[at] = None
        at = (at + 1) % cycle
    return given
