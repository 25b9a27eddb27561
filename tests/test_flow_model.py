"""Random operations on every kind of queue, beside a model that is a plain list: what leaves is what the model says,
nothing is lost and nothing comes twice, whatever is cancelled in between."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import numpy as np
import pytest
from flows import turns
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncjobs.flow import (
    FIFOQueue,
    OutOfRangeError,
    PaddingFIFOQueue,
    PriorityQueue,
    Queue,
    QueueClosedError,
    RandomShuffleQueue,
)

CAPACITY = 4
KINDS = ("fifo", "padding", "shuffle", "priority")

Step = tuple[str, int]

steps = st.lists(
    st.tuples(st.sampled_from(["enqueue", "many", "dequeue", "batch", "up_to", "cancel"]), st.integers(0, 6)),
    max_size=40,
)


def made(kind: str) -> Queue[Any]:
    """A small queue of that kind."""
    if kind == "padding":
        return PaddingFIFOQueue(CAPACITY, [()])
    if kind == "shuffle":
        return RandomShuffleQueue(CAPACITY, 1, seed=3)
    return PriorityQueue(CAPACITY) if kind == "priority" else FIFOQueue(CAPACITY)


def values(batch: Any) -> list[int]:
    """What came out, as a list of numbers; of a priority queue the numbers that came second."""
    if isinstance(batch, tuple):
        batch = batch[1]
    return [int(value) for value in (batch if isinstance(batch, list | np.ndarray) else [batch])]


class Player:
    """Plays steps against a queue and keeps what was put for sure, maybe, and what came out."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.queue = made(kind)
        self.tasks: list[asyncio.Task[None]] = []
        self.next = 0
        self.surely: set[int] = set()
        self.maybe: set[int] = set()
        self.out: list[int] = []

    def element(self, value: int) -> Any:
        return (value % 3, value) if self.kind == "priority" else value

    async def put(self, count: int, *, single: bool) -> None:
        fresh = list(range(self.next, self.next + count))
        self.next += count
        self.maybe.update(fresh)
        elements = [self.element(value) for value in fresh]
        try:
            await (self.queue.enqueue(elements[0]) if single else self.queue.enqueue_many(elements))
        except QueueClosedError as error:
            self.maybe.difference_update(fresh[len(fresh) - error.left :])
            self.surely.update(fresh[: len(fresh) - error.left])
        else:
            self.surely.update(fresh)

    async def take(self, verb: str, count: int) -> None:
        try:
            if verb == "dequeue":
                self.out += values(await self.queue.dequeue())
            elif verb == "batch":
                self.out += values(await self.queue.dequeue_many(count))
            else:
                self.out += values(await self.queue.dequeue_up_to(count))
        except OutOfRangeError:
            assert self.queue.is_closed()

    async def play(self, verb: str, count: int, draw: random.Random) -> None:
        if verb == "cancel":
            if self.tasks:
                draw.choice(self.tasks).cancel()
        elif verb in ("enqueue", "many"):
            self.begin(self.put(1 if verb == "enqueue" else count, single=verb == "enqueue"))
        elif verb == "batch" and self.kind == "priority" and count > CAPACITY:
            with pytest.raises(ValueError):
                await self.queue.dequeue_many(count)
        else:
            self.begin(self.take(verb, count))
        if draw.random() < 0.7:  # else the next one finds it as it is
            await turns()

    def begin(self, operation: Any) -> None:
        self.tasks.append(asyncio.create_task(operation))

    async def end(self) -> None:
        await self.queue.close(cancel_pending_enqueues=True)
        await turns()
        async for element in self.queue:
            self.out += values(element)
        done, waiting = await asyncio.wait(self.tasks, timeout=5) if self.tasks else ((), ())
        assert not waiting
        assert not [task for task in done if not task.cancelled() and task.exception()]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=120)
@given(played=steps, seed=st.integers(0, 1000))
def test_nothing_is_lost_and_nothing_comes_twice_whatever_is_cancelled(
    kind: str, played: list[Step], seed: int
) -> None:
    async def run() -> Player:
        player, draw = Player(kind), random.Random(seed)
        for verb, count in played:
            await player.play(verb, count, draw)
            assert player.queue.stats().dequeued + player.queue.size() <= player.queue.stats().enqueued
        await player.end()
        return player

    player = asyncio.run(run())
    assert len(player.out) == len(set(player.out)), "twice"
    assert player.surely <= set(player.out), "lost"
    assert set(player.out) <= player.maybe, "from nowhere"
    stats = player.queue.stats()
    assert (stats.size, stats.enqueued, stats.dequeued) == (0, len(player.out), len(player.out))
    assert (stats.producers_waiting, stats.consumers_waiting) == (0, 0)


class Model:
    """What a queue of each kind does, for operations that need not wait, as slowly and plainly as can be."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.inside: list[int] = []
        self.floor = 1 if kind == "shuffle" else 0

    def may_take(self, count: int) -> bool:
        return len(self.inside) - count >= self.floor

    def taken(self, got: list[int]) -> None:
        if self.kind == "shuffle":
            assert set(got) <= set(self.inside)
        elif self.kind == "priority":
            assert got == sorted(self.inside, key=lambda value: value % 3)[: len(got)]
        else:
            assert got == self.inside[: len(got)]
        self.inside = [value for value in self.inside if value not in got]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=120)
@given(played=steps)
def test_what_leaves_is_what_a_list_says(kind: str, played: list[Step]) -> None:
    async def run() -> None:
        player, model = Player(kind), Model(kind)
        for verb, count in played:
            wanted = 1 if verb in ("enqueue", "dequeue") else count
            if verb in ("enqueue", "many") and len(model.inside) + wanted <= CAPACITY:
                model.inside += range(player.next, player.next + wanted)
                await player.put(wanted, single=verb == "enqueue")
            elif verb in ("dequeue", "batch", "up_to") and wanted and model.may_take(wanted):
                before = len(player.out)
                await player.take(verb, wanted)
                model.taken(player.out[before:])
            assert player.queue.size() == len(model.inside)
        await player.queue.close()
        while player.queue.size():
            before = len(player.out)
            await player.take("up_to", 2)
            model.taken(player.out[before:])
        assert model.inside == []

    asyncio.run(run())
