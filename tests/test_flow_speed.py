"""What an element costs, beside asyncio.Queue: in time of the processor, for other programs run on the machine too."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import process_time
from typing import Any

import pytest

from asyncjobs.flow import FIFOQueue

ITEMS = 4_000
ROUNDS = 7

Put = Callable[[Any], Awaitable[None]]
Get = Callable[[], Awaitable[Any]]


async def one_by_one(put: Put, get: Get) -> None:
    """Never a wait."""
    for number in range(ITEMS):
        await put(number)
        await get()


async def side_by_side(put: Put, get: Get, pairs: int = 1) -> None:
    """Producers and consumers that wait for each other."""

    async def produce() -> None:
        for number in range(ITEMS // pairs):
            await put(number)

    async def consume() -> None:
        for _ in range(ITEMS // pairs):
            await get()

    async with asyncio.TaskGroup() as group:
        for _ in range(pairs):
            group.create_task(produce())
            group.create_task(consume())


async def ten_by_ten(put: Put, get: Get) -> None:
    """Nearly every operation waits."""
    await side_by_side(put, get, 10)


async def seconds(way: Callable[[Put, Get], Awaitable[None]], put: Put, get: Get) -> float:
    began = process_time()
    await way(put, get)
    return process_time() - began


@pytest.mark.alone
@pytest.mark.parametrize("way", [one_by_one, side_by_side, ten_by_ten])
async def test_elements_go_through_at_half_of_the_rate_of_asyncio_at_least(
    way: Callable[[Put, Get], Awaitable[None]],
) -> None:
    ours, theirs = [], []
    for _ in range(ROUNDS):
        queue: FIFOQueue[int] = FIFOQueue(20)
        peer: asyncio.Queue[int] = asyncio.Queue(20)
        ours.append(await seconds(way, queue.enqueue, queue.dequeue))
        theirs.append(await seconds(way, peer.put, peer.get))
    assert min(ours) < 2 * min(theirs)
