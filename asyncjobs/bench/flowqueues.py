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


Run = Callable[[Make, int], Awaitable[None]]
"""So many items through a queue that is made for it."""


def _ours(capacity: int) -> Ends:
    queue: aj.FIFOQueue[int] = aj.FIFOQueue(capacity)
    return Ends(queue.enqueue, queue.dequeue)


def _asyncios(capacity: int) -> Ends:
    queue: asyncio.Queue[int] = asyncio.Queue(capacity)
    return Ends(queue.put, queue.get)


def race(how: str, rounds: int, items: int) -> Measurement:
    """Run in an interpreter of its own, for TensorFlow comes into it; `how` is one of `HOWS`."""
    return aj.run(races.run(task(how, items), rounds, _say_nothing))


def _say_nothing(_line: str) -> None:
    """Whoever calls has said it."""


def task(how: str, items: int) -> Task:
    """The race: who takes part, and the goal."""
    run, note = HOWS[how]
    is_pair = run is _a_pair
    if is_pair:
        note += " TensorFlow: a thread each, one call of the session for each item."
    return Task(
        title=f"Tiny items through one queue, {how}",
        unit=" items/s",
        note=f"{items:,} items. {note}",
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
async def _opened(run: Run, make: Make) -> AsyncIterator[Work]:
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


async def _a_pair(make: Make, count: int) -> None:
    await _between(1, make, count)


async def _ten_by_ten(make: Make, count: int) -> None:
    await _between(10, make, count)


HOWS: dict[str, tuple[Run, str]] = {
    "without waiting": (_without_waiting, "One task puts all of them in, then takes all of them out."),
    "a pair of tasks": (_a_pair, f"One task puts, one takes; {CAPACITY} fit in."),
    "ten by ten tasks": (_ten_by_ten, f"Ten tasks put, ten take; {CAPACITY} fit in."),
}
"""How the items pass."""


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
