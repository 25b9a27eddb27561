"""TensorFlow's own queues, coordinator and interleave as the referee: the same random operations go through both.

Where ours departs on purpose, the departure stands in `agree`: close() is idempotent (Q17, Q11), a
closed priority queue gives its remainder (PQ4), which elements a shuffle draws is its own business (S4).
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import random
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from flows import turns

from asyncjobs import Pipeline
from asyncjobs.flow import (
    FIFOQueue,
    OutOfRangeError,
    PaddingFIFOQueue,
    PriorityQueue,
    Queue,
    QueueClosedError,
    RandomShuffleQueue,
    SyncCoordinator,
)

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="tensorflow is not installed"),
    pytest.mark.may_leak("TensorFlow keeps threads and files of its own"),
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.slow,
]

CAPACITY, FLOOR, LENGTH = 4, 2, 14
SEQUENCES = 20

HEAD_START = 0.01
"""Seconds until an operation that has to wait is sure to stand in TensorFlow's line: nothing there tells. A sequence
in which the two disagree is played again, with ten times and a hundred times as much, before it counts."""

KINDS = ("fifo", "padding", "shuffle", "priority")

Outcome = tuple[str, Any]
Op = tuple[str, Any]


@pytest.fixture(scope="module")
def tf() -> Iterator[Any]:
    """TensorFlow as it was, quiet."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tensorflow

        yield tensorflow.compat.v1


# --- the two players --------------------------------------------------------------------


class Theirs:
    """A queue of TensorFlow's; each operation runs in a thread of its own."""

    def __init__(self, tf: Any, kind: str) -> None:
        self.tf, self.kind = tf, kind
        self.graph = tf.Graph()
        with self.graph.as_default():
            self._build()
        self.session = tf.Session(graph=self.graph, config=tf.ConfigProto(inter_op_parallelism_threads=16))

    def _build(self) -> None:
        tf, value = self.tf, ([self.tf.int64], [()])
        made = {
            "fifo": lambda: tf.FIFOQueue(CAPACITY, *value),
            "padding": lambda: tf.PaddingFIFOQueue(CAPACITY, *value),
            "shuffle": lambda: tf.RandomShuffleQueue(CAPACITY, FLOOR, *value, seed=1),
            "priority": lambda: tf.PriorityQueue(CAPACITY, *value),
        }
        queue = made[self.kind]()
        self.one, self.column = tf.placeholder(tf.int64, []), tf.placeholder(tf.int64, [None])
        self.count = tf.placeholder(tf.int32, [])
        self.ops = {
            "enqueue": queue.enqueue([self.one, self.one] if self.kind == "priority" else [self.one]),
            "many": queue.enqueue_many([self.column, self.column] if self.kind == "priority" else [self.column]),
            "dequeue": queue.dequeue(),
            "batch": queue.dequeue_many(self.count),
            "up_to": queue.dequeue_up_to(self.count),
            "close": queue.close(),
            "cancel": queue.close(cancel_pending_enqueues=True),
        }
        self.size_op = queue.size()

    def begin(self, op: Op) -> Played:
        played = Played(op)
        threading.Thread(target=self._run, args=(played,), daemon=True).start()
        return played

    def _run(self, played: Played) -> None:
        verb, what = played.op
        feed = {"enqueue": {self.one: what}, "many": {self.column: what}}.get(verb, {self.count: what})
        try:
            value = self.session.run(self.ops[verb], feed if what is not None else {})
            played.outcome = ("ok", numbers(value))
        except self.tf.errors.OutOfRangeError:
            played.outcome = ("out of range", None)
        except self.tf.errors.CancelledError:
            played.outcome = ("closed", None)
        played.over.set()

    def size(self) -> int:
        return int(self.session.run(self.size_op))


class Ours:
    """The same of ours; each operation runs in a task of its own."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.queue: Queue[Any] = {
            "fifo": lambda: FIFOQueue[Any](CAPACITY),
            "padding": lambda: PaddingFIFOQueue[Any](CAPACITY, [()]),
            "shuffle": lambda: RandomShuffleQueue[Any](CAPACITY, FLOOR, seed=1),
            "priority": lambda: PriorityQueue[Any](CAPACITY),
        }[kind]()
        self.tasks: list[asyncio.Task[None]] = []

    def begin(self, op: Op) -> Played:
        played = Played(op)
        self.tasks.append(asyncio.create_task(self._run(played)))
        return played

    async def _run(self, played: Played) -> None:
        try:
            played.outcome = ("ok", numbers(await self._operation(*played.op)))
        except OutOfRangeError:
            played.outcome = ("out of range", None)
        except QueueClosedError:
            played.outcome = ("closed", None)
        played.over.set()

    def _operation(self, verb: str, what: Any) -> Any:
        queue, pairs = self.queue, self.kind == "priority"
        if verb == "enqueue":
            return queue.enqueue((what, what) if pairs else what)
        if verb == "many":
            return queue.enqueue_many((what, what) if pairs else what)
        if verb in ("close", "cancel"):
            return queue.close(cancel_pending_enqueues=verb == "cancel")
        if verb == "dequeue":
            return queue.dequeue()
        return queue.dequeue_many(what) if verb == "batch" else queue.dequeue_up_to(what)


class Played:
    """One operation and what became of it, so far."""

    def __init__(self, op: Op) -> None:
        self.op = op
        self.over = threading.Event()
        self.outcome: Outcome = ("waits", None)


def numbers(value: Any) -> list[int]:
    """What came out, as a list; of a priority queue the values, which are the priorities too."""
    if value is None:
        return []
    if isinstance(value, list | tuple) and len(value) == 2 and np.ndim(value[0]) == np.ndim(value[1]):
        value = value[1]
    return [int(number) for number in np.ravel(value)]


def agree(kind: str, theirs: Played, ours: Played) -> bool:
    """Whether the two made the same of it, but for what ours does better."""
    if ours.op[0] == "close" and theirs.outcome[0] == "closed":
        return ours.outcome[0] == "ok"
    if kind == "priority" and ours.op[0] == "up_to" and theirs.outcome[0] == "out of range":
        return ours.outcome[0] in ("ok", "out of range")
    (word, value), (our_word, our_value) = theirs.outcome, ours.outcome
    if kind == "shuffle" and value and our_value:
        return word == our_word and len(value) == len(our_value)
    return theirs.outcome == ours.outcome


def operations(kind: str, draw: random.Random) -> list[Op]:
    """A random sequence that ends with a close and takes all that is left."""
    fresh = list(range(100))
    draw.shuffle(fresh)
    played: list[Op] = []
    for _ in range(LENGTH):
        verb = draw.choice(["enqueue"] * 4 + ["many"] * 3 + ["dequeue"] * 4 + ["batch"] * 2 + ["up_to"] * 2 + ["close"])
        most = CAPACITY if kind == "priority" and verb in ("batch", "up_to") else 6
        what: Any = draw.randint(0, most) if verb in ("batch", "up_to") else None
        if verb == "enqueue":
            what = fresh.pop()
        if verb == "many":
            what = [fresh.pop() for _ in range(draw.randint(0, 6))]
        played.append((verb, what))
    return [*played, ("cancel", None), *[("dequeue", None)] * 12]


async def disagreement(tf: Any, kind: str, played: list[Op], head_start: float) -> str:
    """What the two make different of a sequence; empty if nothing."""
    theirs, ours = Theirs(tf, kind), Ours(kind)
    pairs: list[tuple[Played, Played]] = []
    for op in played:
        pairs.append((theirs.begin(op), ours.begin(op)))
        await turns()
        for they, we in pairs:
            if we.over.is_set():
                await asyncio.to_thread(they.over.wait, 5 + head_start)
        if not pairs[-1][1].over.is_set():
            await asyncio.sleep(head_start)
        wrong = [(they.op, they.outcome, we.outcome) for they, we in pairs if not agree(kind, they, we)]
        sizes = (theirs.size(), ours.queue.size())
        if wrong or sizes[0] != sizes[1]:
            break
    theirs.session.close()
    for task in ours.tasks:
        task.cancel()
    await asyncio.gather(*ours.tasks, return_exceptions=True)
    told = f"at {op} of {played}: theirs, ours {wrong}, sizes {sizes}"
    return told if wrong or sizes[0] != sizes[1] else ""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", range(4))
async def test_random_operations_have_the_same_outcomes(tf: Any, kind: str, part: int) -> None:
    for seed in range(part * SEQUENCES, (part + 1) * SEQUENCES):
        played = operations(kind, random.Random(seed))
        for head_start in (HEAD_START, 10 * HEAD_START, 100 * HEAD_START):
            told = await disagreement(tf, kind, played, head_start)
            if not told:
                break
        assert not told, f"seed {seed}: {told}"


# --- batches ----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
async def test_padded_batches_are_the_same(tf: Any, seed: int) -> None:
    draw = np.random.default_rng(seed)
    shapes = [(None,), (None, 3, None), ()]
    elements = []
    for _ in range(5):
        a, b, c = draw.integers(0, 5, 3)
        elements.append((draw.random(a).astype("float32"), draw.integers(0, 9, (b, 3, c)), np.int64(a)))
    with tf.Graph().as_default(), tf.Session() as session:
        theirs = tf.PaddingFIFOQueue(9, [tf.float32, tf.int64, tf.int64], shapes)
        for element in elements:
            session.run(theirs.enqueue(element))
        expected = [session.run(theirs.dequeue_many(count)) for count in (2, 0, 3)]
    ours: Queue[Any] = PaddingFIFOQueue(9, shapes, dtypes=["float32", "int64", "int64"])
    await ours.enqueue_many(elements)
    for count, columns in zip((2, 0, 3), expected, strict=True):
        for found, wanted in zip(await ours.dequeue_many(count), columns, strict=True):
            assert found.dtype == wanted.dtype
            np.testing.assert_array_equal(found, wanted)


# --- pipelines --------------------------------------------------------------------------


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("seed", range(40))
async def test_interleave_has_the_same_order(tf: Any, seed: int, parallel: bool) -> None:
    draw = random.Random(seed)
    pairs = [(10 * index, draw.randrange(6)) for index in range(draw.randrange(9))]
    cycle, block = draw.randrange(1, 5), draw.randrange(1, 4)
    dataset = tf.data.Dataset.from_tensor_slices(np.array(pairs, np.int64).reshape(-1, 2)).interleave(
        lambda pair: tf.data.Dataset.range(pair[0], pair[0] + pair[1]),
        cycle,
        block,
        num_parallel_calls=cycle if parallel else None,
    )
    theirs = [int(number) for number in dataset.as_numpy_iterator()]
    ours: Pipeline[int] = Pipeline(pairs).interleave(
        lambda pair: range(pair[0], pair[0] + pair[1]), concurrency=cycle, block_length=block
    )
    assert [number async for number in ours] == theirs


# --- the coordinator --------------------------------------------------------------------


class Clean(Exception):
    """Reported, it is a stop without an error."""


def act(coord: Any, verb: str, error: BaseException) -> Any:
    """One verb, and what became of it."""
    try:
        if verb == "stop":
            return coord.request_stop()
        if verb in ("error", "clean", "exc_info"):
            try:
                raise Clean("clean") if verb == "clean" else error
            except Exception as raised:
                return coord.request_stop(sys.exc_info() if verb == "exc_info" else raised)
        if verb == "block":
            with coord.stop_on_exception():
                raise error
            return None
        if verb == "raise":
            return coord.raise_requested_exception()
        return getattr(coord, {"join": "join", "clear": "clear_stop", "wait": "wait_for_stop"}[verb])(
            *((0.0,) if verb == "wait" else ())
        )
    except Exception as raised:
        return type(raised), raised.args


@pytest.mark.parametrize("seed", range(300))
def test_coordinators_do_the_same(tf: Any, seed: int) -> None:
    draw = random.Random(seed)
    theirs, ours = tf.train.Coordinator((Clean,)), SyncCoordinator((Clean,))
    for position in range(20):
        verb = draw.choice(["stop", "error", "clean", "exc_info", "block", "raise", "join", "clear", "wait"])
        outcomes = [act(coord, verb, ValueError(position)) for coord in (theirs, ours)]
        assert outcomes[0] == outcomes[1], f"{verb} at {position}"
        assert (theirs.should_stop(), theirs.joined) == (ours.should_stop(), ours.joined)
