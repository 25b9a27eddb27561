"""Items per second through one queue: ours, asyncio's, TensorFlow's."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, NamedTuple, Protocol

import asyncjobs as aj
from asyncjobs.bench import measure, peers, races
from asyncjobs.bench.measure import Contestant, Goal, Measurement, Work
from asyncjobs.bench.races import Task

CAPACITY = 100
"""Of queues between tasks."""
OURS = "asyncjobs.FIFOQueue"
ASYNCIO = "asyncio.Queue"
TENSORFLOW = "tf FIFOQueue"


class Ends(NamedTuple):
    """How to put an item in, and how to get one out."""

    put: Callable[[int], Awaitable[object]]
    get: Callable[[], Awaitable[int]]


class Make(Protocol):
    """A queue of that capacity."""

    def __call__(self, capacity: int) -> Ends: ...


def _ours(capacity: int) -> Ends:
    queue: aj.FIFOQueue[int] = aj.FIFOQueue(capacity)
    return Ends(queue.enqueue, queue.dequeue)


def _asyncios(capacity: int) -> Ends:
    queue: asyncio.Queue[int] = asyncio.Queue(capacity)
    return Ends(queue.put, queue.get)


async def races_of(rounds: int, items: int, say: Callable[[str], None]) -> list[Measurement]:
    """Without waiting, a pair of tasks, and ten by ten."""
    tasks = [
        _task("without waiting", _without_waiting, "One task puts all of them in, then takes all of them out", items),
        _task("a pair of tasks", partial(_between, 1), f"One task puts, one takes; {CAPACITY} fit in", items),
        _task("ten by ten tasks", partial(_between, 10), f"Ten tasks put, ten take; {CAPACITY} fit in", items),
    ]
    return [await races.run(task, rounds, say) for task in tasks]


def _task(how: str, run: Callable[[Make, int], Awaitable[None]], note: str, items: int) -> Task:
    is_pair = how == "a pair of tasks"
    return Task(
        title=f"Tiny items through one queue, {how}",
        unit=" items/s",
        note=f"{note}; {items:,} items."
        + (" TensorFlow: a thread each, one call of the session for each item." if is_pair else ""),
        ours=[Contestant(OURS, aj.__version__, partial(_opened, run, _ours))],
        theirs=[
            *peers.present((ASYNCIO, "", partial(_opened, run, _asyncios))),
            *(peers.present((TENSORFLOW, "tensorflow", _tensorflow)) if is_pair else ()),
        ],
        clock=measure.rate(items, items // 20, 0.0),
        goals=[Goal(f"one queue, {how}", OURS, ASYNCIO, 0.5, at_least=True)],
        higher_is_better=True,
    )


@asynccontextmanager
async def _opened(run: Callable[[Make, int], Awaitable[None]], make: Make) -> AsyncIterator[Work]:
    yield partial(run, make)


async def _without_waiting(make: Make, count: int) -> None:
    ends = make(count)
    for index in range(count):
        await ends.put(index)
    for index in range(count):
        if await ends.get() != index:
            raise RuntimeError(f"item {index} came in another place")


async def _between(pairs: int, make: Make, count: int) -> None:
    ends, share = make(CAPACITY), count // pairs
    came: list[list[int]] = [[] for _ in range(pairs)]
    async with asyncio.TaskGroup() as group:
        for number in range(pairs):
            group.create_task(_put_all(ends, range(number * share, (number + 1) * share)))
            group.create_task(_get_all(ends, share, came[number]))
    items = [item for one in came for item in one]
    if (items if pairs == 1 else sorted(items)) != list(range(share * pairs)):
        raise RuntimeError(f"{len(items)} items of {count} came, or in another order")


async def _put_all(ends: Ends, items: range) -> None:
    for item in items:
        await ends.put(item)


async def _get_all(ends: Ends, count: int, came: list[int]) -> None:
    for _ in range(count):
        came.append(await ends.get())


@asynccontextmanager
async def _tensorflow() -> AsyncIterator[Work]:
    import tensorflow as tf

    v1: Any = tf.compat.v1
    with v1.Graph().as_default(), v1.Session() as session:
        queue = v1.FIFOQueue(CAPACITY, tf.int64, shapes=())
        item = v1.placeholder(tf.int64, ())
        enqueue = session.make_callable(queue.enqueue(item), [item])
        dequeue = session.make_callable(queue.dequeue())

        async def work(count: int) -> None:
            putting = threading.Thread(target=lambda: [enqueue(index) for index in range(count)])
            putting.start()
            for index in range(count):
                if dequeue() != index:
                    raise RuntimeError(f"item {index} came in another place")
            putting.join()

        yield work
