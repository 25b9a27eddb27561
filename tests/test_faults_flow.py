"""Faults of pipelines: F53 to F55, the ten complaints about other loaders, and whatever else one can do to them."""

from __future__ import annotations

import asyncio
import functools
import gc
import itertools
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from flows import cancelled, turns

from asyncjobs import ErrorBudget, JobTimeout, Pipeline, ResultNotSendable, RunnerClosed, WorkerLost
from asyncjobs.pipeline.bells import MOST
from asyncjobs.testing import FileGate
from asyncjobs.testing.leaks import take_census, wait_for_no_leaks
from asyncjobs.testing.work import hold, until

ENDED = "this loop over the pipeline has ended"


def same(item: Any) -> Any:
    return item


async def same_on_loop(item: Any) -> Any:
    await asyncio.sleep(0)
    return item


async def collected(pipeline: Any) -> list[Any]:
    return [item async for item in pipeline]


async def collect(pipeline: Any, into: list[Any]) -> None:
    async for item in pipeline:
        into.append(item)


def is_alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


each_lane = pytest.mark.parametrize(
    ("fn", "lane"),
    [
        pytest.param(same_on_loop, None, id="loop"),
        pytest.param(same, "thread", id="thread"),
        pytest.param(same, "process", id="process"),
    ],
)

# --- F53: the source --------------------------------------------------------------------


class Unsendable:
    """Its pickling raises what it was given."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        raise self.error


def _raise(kind: type[BaseException]) -> None:
    raise kind("it cannot be rebuilt")


class Unreadable(Unsendable):
    """Its unpickling raises."""

    def __reduce__(self) -> Any:
        return _raise, (type(self.error),)


@pytest.mark.slow
@each_lane
@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_f53_items_before_the_sources_error_come_the_error_once_and_the_next_epoch_works(
    fn: Any, lane: str | None, kind: str
) -> None:
    is_broken = True

    def source() -> Iterator[int]:
        yield from range(5)
        if is_broken:
            raise LookupError("source is broken")

    async def source_on_loop() -> AsyncIterator[int]:
        for item in source():
            yield item

    made: Any = source if kind == "plain" else source_on_loop
    async with Pipeline(made).map(fn, lane=lane, concurrency=2).prefetch(3) as stream:
        seen: list[int] = []
        with pytest.raises(LookupError, match="source is broken"):
            await collect(stream, seen)
        assert seen == [0, 1, 2, 3, 4]
        is_broken = False
        assert await collected(stream) == [0, 1, 2, 3, 4]


@pytest.mark.slow
@each_lane
def test_f53_an_endless_source_is_not_read_further_than_the_buffers(fn: Any, lane: str | None) -> None:
    pulled = 0

    def source() -> Iterator[int]:
        nonlocal pulled
        while True:
            pulled += 1
            yield pulled

    for delivered in Pipeline(source).map(fn, lane=lane, concurrency=2).prefetch(4):
        # Between thread and loop, in hand, prefetched, between loop and thread, and one in either hand.
        assert pulled - delivered <= MOST + MOST + 4 + MOST + 2
        if delivered == 500:
            break


@pytest.mark.slow
@each_lane
async def test_f53_a_source_that_blocks_holds_up_neither_what_came_before_nor_the_end(
    fn: Any, lane: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    gate = threading.Event()

    def source() -> Iterator[int]:
        yield from range(3)
        gate.wait()

    try:
        async with Pipeline(source).map(fn, lane=lane) as stream:
            items = aiter(stream)
            assert [await anext(items) for _ in range(3)] == [0, 1, 2]
    finally:
        gate.set()
    assert "a call still runs in ['source source']" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("what", [Unsendable, Unreadable])
def test_f53_items_that_do_not_travel_fail_alone_in_their_turn(what: Any, kind: type[BaseException]) -> None:
    items = [0, what(kind("no")), 2, what(kind("no")), 4]
    with Pipeline(items).map(same, lane="process", on_error="skip") as stream:
        assert list(stream) == [0, 2, 4]
        assert [(fault.stage, fault.index) for fault in stream.errors] == [("map(same)", 1), ("map(same)", 3)]


class Giving:
    """A function whose second result does not travel."""

    def __init__(self, bad: Any) -> None:
        self.kind, self.error = type(bad), type(bad.error)

    def __call__(self, number: int) -> Any:
        return self.kind(self.error("no")) if number == 1 else number


@pytest.mark.parametrize("kind", [ValueError, SystemExit])
@pytest.mark.parametrize("what", [Unsendable, Unreadable])
def test_f53_results_that_do_not_travel_fail_alone_in_their_turn(what: Any, kind: type[BaseException]) -> None:
    with Pipeline(range(3)).map(Giving(what(kind("no"))), lane="process", on_error="skip") as stream:
        assert list(stream) == [0, 2]
        (fault,) = stream.errors
    assert fault.index == 1
    assert isinstance(fault.error, ResultNotSendable)


# --- F54: leaving early -----------------------------------------------------------------


@each_lane
@pytest.mark.parametrize("leave_after", [1, 2, 7, 50])
def test_f54_after_a_break_the_source_is_closed_and_nobody_works(fn: Any, lane: str | None, leave_after: int) -> None:
    closed: list[bool] = []

    def source() -> Iterator[int]:
        try:
            yield from itertools.count(1)
        finally:
            closed.append(True)

    before = take_census()
    for number in Pipeline(source).map(fn, lane=lane, concurrency=2).batch(1, collate=list).prefetch(2):
        if number == [leave_after]:
            break
    assert closed == [True]
    assert wait_for_no_leaks(before, within=0.5) == []


@pytest.mark.slow
@each_lane
@pytest.mark.both_loops
async def test_f54_inside_async_with_the_clean_up_has_been_awaited(fn: Any, lane: str | None) -> None:
    closed: list[bool] = []

    async def source() -> AsyncIterator[int]:
        try:
            for number in itertools.count():
                yield number
        finally:
            await asyncio.sleep(0.01)
            closed.append(True)

    async with Pipeline(source).map(fn, lane=lane, concurrency=2) as stream:
        async for _ in stream:
            break
    assert closed == [True]
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.slow
def test_f54_an_error_in_the_body_of_the_loop_wins_and_ends_everything() -> None:
    opened: list[Any] = []

    def divides() -> None:
        with Pipeline(itertools.count).map(same, lane="process") as stream:
            opened.append(stream)
            for number in stream:
                1 // number

    with pytest.raises(ZeroDivisionError):
        divides()
    with pytest.raises(RunnerClosed):
        list(opened[0])


# --- F55: a slow consumer ---------------------------------------------------------------


class Item:
    """Counts those that are alive."""

    def __init__(self, alive: weakref.WeakSet[Item]) -> None:
        alive.add(self)


def waits_a_little(item: Any) -> Any:
    threading.Event().wait(0.003)
    return item


@pytest.mark.parametrize(
    ("build", "in_stages"),
    [
        (lambda p: p, 0),
        (lambda p: p.map(waits_a_little), 2),
        (lambda p: p.map(waits_a_little, concurrency=4), 8),
        (lambda p: p.map(waits_a_little, concurrency=4, ordered=False), 8),
        (lambda p: p.filter(waits_a_little), 2),
        (lambda p: p.prefetch(3), 3),
        (lambda p: p.shuffle(5), 5),
        (lambda p: p.batch(3, collate=list), 6),
        (lambda p: p.zip(itertools.count), 0),
    ],
)
def test_f55_no_more_items_are_alive_than_the_documentation_says(build: Any, in_stages: int) -> None:
    alive: weakref.WeakSet[Item] = weakref.WeakSet()

    def source() -> Iterator[Item]:
        for _ in range(40):
            threading.Event().wait(0.002)  # more than what counts as no time
            yield Item(alive)

    most = 0
    gc.disable()  # it must not need the garbage collector
    try:
        with build(Pipeline(source)) as stream:
            for item in stream:
                threading.Event().wait(0.004)
                most = max(most, len(alive))
                assert item
            del item
            assert len(alive) == 0
    finally:
        gc.enable()
    # 2 before and 2 behind the stages (groups, behind a batch), one that is read, one that passes, one that is used.
    assert most <= in_stages + 2 + 2 * (3 if in_stages == 6 else 1) + 3


def test_f55_what_was_left_out_is_not_kept_by_its_error() -> None:
    alive: weakref.WeakSet[Item] = weakref.WeakSet()

    def fails(item: Item) -> None:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise ValueError("outer") from error

    with Pipeline(lambda: (Item(alive) for _ in range(50))).map(fails, on_error="skip") as stream:
        assert list(stream) == []
        gc.collect()
        assert len(stream.errors) == 50
        assert len(alive) == 0
        (line,) = {fault.error.__traceback__.tb_next.tb_lineno for fault in stream.errors}  # type: ignore[union-attr]
        assert line > 0


# --- complaint 1: memory grows with the workers -----------------------------------------


class Dataset:
    """Many small objects, as a list of paths and labels is."""

    def __init__(self, count: int) -> None:
        self.names = [f"name-{number}" for number in range(count)]

    def __len__(self) -> int:
        return 100

    def __getitem__(self, index: int) -> str:
        return self.names[index]


def process_id(_: Any) -> int:
    return os.getpid()


def _sizes(pids: set[int]) -> list[int]:
    return [psutil.Process(pid).memory_full_info().pss for pid in pids]


@pytest.mark.slow
def test_complaint_1_workers_do_not_hold_the_dataset_and_do_not_grow() -> None:
    dataset = Dataset(600_000)  # some 40 MB, which a forked worker would copy as it counts references
    with Pipeline(dataset).map(process_id, lane="process", concurrency=2) as stream:
        pids = set(stream)
        first = _sizes(pids)
        for _ in range(5):
            assert set(stream) <= pids
        last = _sizes(pids)
    with Pipeline(Dataset(100)).map(process_id, lane="process", concurrency=2) as stream:
        small = _sizes(set(stream))
    assert max(first) < max(small) + 5e6
    assert max(last) < max(first) + 2e6


# --- complaint 2: hangs at the end of an epoch, or after a worker has died ---------------


@pytest.mark.slow
def test_complaint_2_many_epochs_of_any_length_end() -> None:
    for length in (0, 1, 7):
        with Pipeline(range(length)).map(same, lane="process", concurrency=2).batch(2, collate=list) as stream:
            for _ in range(30):
                assert [*itertools.chain(*stream)] == list(range(length))


@pytest.mark.slow
@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGSEGV])
async def test_complaint_2_a_killed_worker_is_named_with_its_item_and_the_next_epoch_works(
    tmp_path: Path, kill: signal.Signals
) -> None:
    gate = FileGate(str(tmp_path))

    async with Pipeline(range(3, 9)).map(functools.partial(pid_or_hold, gate, 5), lane="process") as stream:
        seen: list[int] = []
        consumer = asyncio.create_task(collect(stream, seen))
        await gate.arrival()
        await until(lambda: len(seen) == 2, "the items before it")
        os.kill(seen[0], kill)
        with pytest.raises(WorkerLost) as caught:
            await consumer
        assert f"pid {seen[0]}" in str(caught.value)
        assert kill.name in str(caught.value)
        assert "in stage map(pid_or_hold), item 2 of epoch 0: 5" in caught.value.__notes__
        gate.open()
        again = await collected(stream)
    assert len(again) == 6
    assert seen[0] not in again


def pid_or_hold(gate: FileGate, at: int, number: int) -> int:
    return hold(gate, os.getpid()) if number == at else os.getpid()


@pytest.mark.slow
async def test_complaint_2_an_idle_worker_that_dies_between_two_epochs_costs_nothing() -> None:
    async with Pipeline(range(6)).map(process_id, lane="process", concurrency=2) as stream:
        for pid in set(await collected(stream)):
            os.kill(pid, signal.SIGKILL)
            await until(lambda pid=pid: not is_alive(pid), "its end")  # type: ignore[misc]
        assert len(await collected(stream)) == 6


# --- complaint 3: nobody says where a worker hangs --------------------------------------


def loops_at_five(number: int) -> tuple[int, int]:
    while number == 5:
        time.sleep(0.01)
    return number, os.getpid()


@pytest.mark.slow
def test_complaint_3_a_stall_says_which_item_hangs_and_where_and_a_timeout_replaces_the_worker(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pipeline = Pipeline(range(10), stall_timeout=0.3)
    with pipeline.map(loops_at_five, lane="process", timeout=6, on_error="skip") as stream:
        taken = list(stream)
        (fault,) = stream.errors
    assert [number for number, _ in taken] == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    assert (fault.index, type(fault.error)) == (5, JobTimeout)
    assert "has waited" in caplog.text
    assert "item 5, in its call for" in caplog.text
    assert "in loops_at_five" in caplog.text


# --- complaint 4: one slow item holds up ready ones -------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("lane", ["thread", "process"])
@pytest.mark.parametrize("ordered", [True, False])
async def test_complaint_4_one_slow_item_holds_up_the_others_only_if_order_matters(
    tmp_path: Path, lane: str, ordered: bool
) -> None:
    gate = FileGate(str(tmp_path))
    fn = functools.partial(hold_one, gate)
    async with Pipeline(range(20)).map(fn, lane=lane, concurrency=2, ordered=ordered) as stream:
        seen: list[int] = []
        consumer = asyncio.create_task(collect(stream, seen))
        await gate.arrival()
        if not ordered:
            await until(lambda: len(seen) == 19, "all others")
        gate.open()
        await consumer
    assert seen == list(range(20)) if ordered else seen[-1] == 0


def hold_one(gate: FileGate, number: int) -> int:
    return hold(gate, number) if number == 0 else number


# --- complaint 5: workers are made anew for each epoch ----------------------------------


@pytest.mark.slow
@pytest.mark.alone
def test_complaint_5_the_second_epoch_has_the_same_workers_and_starts_in_milliseconds() -> None:
    with Pipeline(range(20)).map(process_id, lane="process", concurrency=2) as stream:
        pids = set(stream)
        waits = []
        for _ in range(10):
            began = time.perf_counter()
            for pid in stream:
                waits.append(time.perf_counter() - began)
                assert pid in pids
                break
    assert sorted(waits)[5] < 0.05


# --- complaint 6: the same random numbers in all workers and epochs ---------------------


def draws(number: int, rng: np.random.Generator) -> int:
    return int(rng.integers(1 << 62))


@pytest.mark.slow
def test_complaint_6_random_numbers_differ_by_item_and_epoch_and_not_by_the_number_of_workers() -> None:
    made = []
    for lane, concurrency in (("process", 1), ("process", 3), ("thread", 4)):
        with Pipeline(range(30), seed=4).map(draws, lane=lane, concurrency=concurrency) as stream:
            made.append([list(stream) for _ in range(2)])
    assert made[0] == made[1] == made[2]
    assert len({*itertools.chain(*made[0])}) == 60
    assert len({*Pipeline(range(30), seed=5).map(draws), *itertools.chain(*made[0])}) == 90


# --- complaint 7: one corrupt sample ----------------------------------------------------


def decodes(path: str) -> np.ndarray:
    if "bad" in path:
        raise OSError(f"cannot read {path}")
    return np.full(3, len(path))


PATHS = [f"{'bad' if number in (3, 17) else 'ok'}-{number}.png" for number in range(20)]


@pytest.mark.slow
@pytest.mark.parametrize("lane", ["thread", "process"])
def test_complaint_7_a_corrupt_sample_is_named_skipped_counted_and_batches_are_whole(lane: str) -> None:
    decoded = Pipeline(PATHS).map(decodes, lane=lane, concurrency=2, on_error=ErrorBudget(max=4))
    with decoded.batch(6) as stream:
        assert [batch.shape for batch in stream] == [(6, 3)] * 3
        assert stream.skipped == 2
        assert [(fault.index, fault.item) for fault in stream.errors] == [(3, "'bad-3.png'"), (17, "'bad-17.png'")]
        assert len(list(stream)) == 3
        with pytest.raises(ExceptionGroup, match="failed for 5 of") as caught:
            list(stream)
    assert {str(error) for error in caught.value.exceptions} == {"cannot read bad-3.png", "cannot read bad-17.png"}
    with pytest.raises(OSError, match=r"cannot read bad-3\.png") as single:
        list(Pipeline(PATHS).map(decodes, lane=lane))
    assert single.value.__notes__[0] == "in stage map(decodes), item 3 of epoch 0: 'bad-3.png'"


# --- complaint 8: resume ----------------------------------------------------------------

TRAINING = """
import json, sys
import asyncjobs as aj

def jitter(number, rng):
    return number, int(rng.integers(1 << 30))

def pipeline():
    images = aj.Pipeline(range(23), seed=9).shuffle(8).map(jitter, lane="process", concurrency=2)
    return images.batch(4, collate=list).prefetch(3)

if __name__ == "__main__":
    count, state = int(sys.argv[1]), json.loads(sys.argv[2])
    seen = []
    with pipeline() as batches:
        if state:
            batches.load_state_dict(state)
        while len(seen) < count:
            for batch in batches:
                seen.append(batch)
                if len(seen) == count:
                    break
        print(json.dumps([seen, batches.state_dict()]))
"""


def _train(folder: Path, count: int, state: Any) -> tuple[list[Any], Any]:
    script = folder / "training.py"
    script.write_text(TRAINING)
    command = [sys.executable, str(script), str(count), json.dumps(state)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    seen, after = json.loads(done.stdout)
    return seen, after


@pytest.mark.slow
def test_complaint_8_new_processes_go_on_in_mid_epoch_and_at_its_end(tmp_path: Path) -> None:
    whole, _ = _train(tmp_path, 18, None)  # three epochs of six batches
    seen: list[Any] = []
    state: Any = None
    for count in (2, 4, 5, 7):  # in the middle, at the end of the first, in the second, at the end
        more, state = _train(tmp_path, count, state)
        seen += more
        assert seen == whole[: len(seen)]
    assert len(seen) == 18


@pytest.mark.parametrize("stops", [1, 5, 6, 7, 11, 12])
def test_complaint_8_a_fresh_stream_and_the_same_stream_go_on_alike(stops: int) -> None:
    pipeline = Pipeline(range(23), seed=9).shuffle(8).map(draws_with).batch(4, collate=list).prefetch(3)
    with pipeline as stream:
        whole = [batch for _ in range(3) for batch in stream]
    with pipeline as first:
        seen = list(itertools.islice(itertools.chain.from_iterable(itertools.repeat(first)), stops))
        state = first.state_dict()
        # Not one item more is counted for having been fetched.
        assert 6 * state["epoch"] + state["delivered"] == stops
        first.load_state_dict(state)
        again = [batch for _ in range(3 - state["epoch"]) for batch in first]
    with pipeline as fresh:
        fresh.load_state_dict(state)
        assert fresh.state_dict() == state
        rest = [batch for _ in range(3 - state["epoch"]) for batch in fresh]
    assert seen + rest == seen + again == whole


def draws_with(number: int, rng: np.random.Generator) -> tuple[int, int]:
    return number, draws(number, rng)


# --- complaint 9: too many open files, no more shared memory ----------------------------


def _script(text: str, *args: str, timeout: float = 90) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "always::ResourceWarning", "-c", textwrap.dedent(text), *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


@pytest.mark.slow
def test_complaint_9_thousands_of_arrays_are_alive_at_once_with_few_descriptors(tmp_path: Path) -> None:
    script = tmp_path / "arrays.py"
    script.write_text("""
import os, resource
resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
import numpy as np
import asyncjobs as aj

def make(number):
    return np.full(10_000, number)

if __name__ == "__main__":
    shared = set(os.listdir("/dev/shm"))
    kept = list(aj.Pipeline(range(2000)).map(make, lane="process", concurrency=2))  # of 80 kB each
    there = sum(array[0] == array[-1] == number for number, array in enumerate(kept))
    mine = [name for name in set(os.listdir("/dev/shm")) - shared if name.startswith("aj")]
    print(there, len(os.listdir("/proc/self/fd")) < 64, mine)
    back = list(aj.Pipeline(kept).map(np.negative, lane="process", concurrency=2))
    print(sum(array[5] == -number for number, array in enumerate(back)))
""")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["2000 True []", "2000"]


# --- complaint 10: slower than a simple loop --------------------------------------------


def small_array(number: int) -> np.ndarray:
    return np.full(16, number)


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize(("lane", "count", "most"), [("thread", 20_000, 60e-6), ("process", 3000, 1.5e-3)])
def test_complaint_10_tiny_items_and_small_arrays_cost_little_each(lane: str, count: int, most: float) -> None:
    for fn in (same, small_array):
        began = time.perf_counter()
        for number in range(count):
            fn(number)
        simple = time.perf_counter() - began
        with Pipeline(range(count)).map(fn, lane=lane, concurrency=2) as stream:
            assert next(iter(stream)) is not None  # the start of the workers is not what is asked here
            costs = []
            for _ in range(3):
                began = time.perf_counter()
                assert sum(1 for _ in stream) == count
                costs.append((time.perf_counter() - began - simple) / count)
        assert min(costs) < most, f"{min(costs) * 1e6:.0f} us for an item of {fn.__name__}"


# --- and the next ones ------------------------------------------------------------------


@pytest.mark.slow
def test_next_an_iterable_is_read_once_and_not_by_each_worker() -> None:
    begun: list[int] = []

    def source() -> Iterator[int]:
        begun.append(os.getpid())
        yield from range(50)

    assert list(Pipeline(source).map(same, lane="process", concurrency=3)) == list(range(50))
    assert begun == [os.getpid()]


@pytest.mark.slow
@pytest.mark.parametrize("lane", ["thread", "process"])
def test_next_nothing_is_made_ahead_of_a_consumer_that_rests(lane: str) -> None:
    """No gap in what holds back: what rests in all buffers of a long pipeline is bounded, whatever time goes by."""
    pulled = 0

    def source() -> Iterator[np.ndarray]:
        nonlocal pulled
        for pulled in itertools.count(1):
            threading.Event().wait(0.002)  # more than what counts as no time
            yield np.full(1000, pulled)

    stages = Pipeline(source).map(waits_a_little, lane=lane, concurrency=2).map(waits_a_little).prefetch(2)
    with stages.zip(itertools.count).batch(2, collate=list) as stream:
        items = iter(stream)
        next(items)
        before = -1
        while before != pulled:
            before = pulled
            threading.Event().wait(0.3)  # it goes on for as long as there is room
        # Source, two maps, prefetch, the batches at the hand-over, and one in each hand between them.
        assert pulled <= 2 + 4 + 2 + 2 + 2 * 4 + 6


@pytest.mark.slow
@pytest.mark.parametrize(
    "body",
    [
        "items = iter(aj.Pipeline(itertools.count).map(wait)); next(items)",
        "items = iter(aj.Pipeline(itertools.count).map(same, lane='process', concurrency=2)); next(items)",
        "items = iter(aj.Pipeline(itertools.count).map(on_loop, concurrency=3).prefetch(2)); next(items)",
        "items = iter(aj.Pipeline(blocks)); next(items)",
        "stream = aj.Pipeline(itertools.count).map(same, lane='process').__enter__(); next(iter(stream))",
        "asyncio.run(forgets())",
        "items = iter(aj.Pipeline(itertools.count).map(same)); next(items); sys.exit(3)",
        "items = iter(aj.Pipeline(itertools.count).map(same, lane='process')); next(items); 1 / 0",
    ],
)
def test_next_a_pipeline_that_was_never_stopped_does_not_hold_up_the_exit(body: str, tmp_path: Path) -> None:
    """SPDL's PR 1591."""
    script = tmp_path / "script.py"
    preamble = """
import asyncio, itertools, sys, time
import asyncjobs as aj

def same(item):
    return item

def wait(item):
    time.sleep(1000 if item else 0)

async def on_loop(item):
    await asyncio.sleep(1000 if item else 0)

def blocks():
    yield 1
    time.sleep(1000)

async def forgets():
    stream = await aj.Pipeline(itertools.count).map(same, lane="process").__aenter__()
    await anext(aiter(stream))

if __name__ == "__main__":
"""
    script.write_text(preamble + f"    {body}\n")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == (3 if "exit" in body else 1 if "1 / 0" in body else 0), done.stderr
    assert ("Traceback" in done.stderr) == ("1 / 0" in body), done.stderr


def test_next_a_source_that_waits_for_its_own_items_does_not_stand_in_their_way() -> None:
    """SPDL's PR 1624: the source blocks in a thread that no stage needs, also at concurrency 1."""
    passed = threading.Semaphore(1)

    def source() -> Iterator[int]:
        for number in range(20):
            assert passed.acquire(timeout=30)
            yield number

    def worked(number: int) -> int:
        passed.release()
        return number

    assert list(Pipeline(source).map(worked, concurrency=1)) == list(range(20))


SEVERE = [MemoryError, RecursionError, SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError]
SEVERE += [StopIteration, StopAsyncIteration, BaseException]


def raises_at_two(kind: type[BaseException], number: int) -> int:
    if number == 2:
        raise kind("severe")
    return number


async def raises_at_two_on_loop(kind: type[BaseException], number: int) -> int:
    return raises_at_two(kind, number)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("raising", "lane"), [(raises_at_two_on_loop, None), (raises_at_two, "thread"), (raises_at_two, "process")]
)
def test_next_severe_errors_reach_the_consumer_in_their_turn(raising: Any, lane: str | None) -> None:
    """SPDL's PR 699."""
    for kind in SEVERE if lane != "process" else SEVERE[:3]:
        seen: list[int] = []
        stage = functools.partial(raising, kind)
        with pytest.raises(Exception, match=r"severe|coroutine raised StopIteration") as caught:
            seen.extend(Pipeline(range(5)).map(stage, lane=lane))
        assert f"in stage map({raising.__name__}), item 2 of epoch 0: 2" in caught.value.__notes__


def raises(kind: type[BaseException]) -> None:
    raise kind("severe")


def test_next_severe_errors_do_not_end_workers_that_go_on() -> None:
    for lane in ("thread", "process"):
        with Pipeline(SEVERE).map(raises, lane=lane, on_error="skip") as stream:
            assert list(stream) == []
            assert stream.skipped == len(SEVERE)


# --- two loops over one stream, and closing from elsewhere ------------------------------


async def on_the_loop() -> AsyncIterator[int]:
    for number in range(20):
        await asyncio.sleep(0.001)
        yield number


KINDS: dict[str, Callable[[], Pipeline[Any]]] = {
    "list": lambda: Pipeline(range(20)),
    "thread": lambda: Pipeline(lambda: iter(range(20))),
    "loop": lambda: Pipeline(on_the_loop),
    "map": lambda: Pipeline(range(20)).map(same, concurrency=2),
    "process": lambda: Pipeline(range(20)).map(same, lane="process"),
    "prefetch": lambda: Pipeline(on_the_loop).prefetch(3),
    "zip": lambda: Pipeline(on_the_loop).zip(Pipeline(on_the_loop)).flat_map(lambda pair: pair[:1]),
}
each_kind = pytest.mark.parametrize("build", KINDS.values(), ids=KINDS)


@pytest.mark.slow
@each_kind
async def test_a_second_task_ends_the_loop_of_the_first_which_is_told(build: Any) -> None:
    async with build() as stream:
        seen: list[int] = []

        async def slow() -> None:
            async for item in stream:
                seen.append(item)
                await asyncio.sleep(0.002)

        first = asyncio.create_task(slow())
        await until(lambda: len(seen) > 1, "the first loop")
        assert await collected(stream) == list(range(20))
        with pytest.raises(RunnerClosed, match=ENDED):
            await first
        assert len(seen) < 20
        # What the first one counted is not counted as the second one's.
        assert stream.state_dict()["epoch"] == 2
        assert stream.state_dict()["delivered"] == 0


@pytest.mark.slow
@each_kind
def test_a_second_loop_in_a_thread_ends_the_first_which_is_told(build: Any) -> None:
    with build() as stream:
        first = iter(stream)
        assert next(first) == 0
        assert list(itertools.islice(stream, 5)) == [0, 1, 2, 3, 4]
        state = stream.state_dict()
        with pytest.raises(RunnerClosed, match=ENDED):
            list(first)
        assert stream.state_dict() == state
        assert (state["epoch"], state["delivered"]) == (1, 5)


async def test_many_tasks_at_once_leave_one_loop_that_gets_all() -> None:
    async with Pipeline(on_the_loop).map(same_on_loop) as stream:
        tasks = [asyncio.create_task(collected(stream)) for _ in range(10)]
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [outcome for outcome in outcomes if isinstance(outcome, list)] == [list(range(20))]
        assert {type(outcome) for outcome in outcomes if not isinstance(outcome, list)} == {RunnerClosed}


async def test_one_iterator_in_two_tasks_is_refused_by_the_language_and_goes_on() -> None:
    async with Pipeline(on_the_loop) as stream:
        items = aiter(stream)
        first = asyncio.ensure_future(anext(items))
        await turns()
        with pytest.raises(RuntimeError, match="already running"):
            await anext(items)
        assert [await first, *[item async for item in items]] == list(range(20))


async def never() -> AsyncIterator[int]:
    yield 0
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    "build",
    [
        lambda: Pipeline(never),
        lambda: Pipeline(never).prefetch(2),
        lambda: Pipeline(never).map(same),
        lambda: Pipeline(never).flat_map(lambda item: [item]),
        lambda: Pipeline(never).zip(never, Pipeline(never).map(same)),
        lambda: Pipeline([0, 1]).map(only_the_first),
        lambda: Pipeline(never).shuffle(1).batch(1, collate=list),
    ],
)
@pytest.mark.both_loops
async def test_a_close_from_another_task_lets_a_waiting_loop_go_with_an_error(build: Any) -> None:
    async with build() as stream:
        seen: list[Any] = []
        consumer = asyncio.create_task(collect(stream, seen))
        await turns()
        await asyncio.gather(stream.aclose(), stream.aclose())
        async with asyncio.timeout(10):
            with pytest.raises(RunnerClosed, match=ENDED):
                await consumer
        assert stream.state_dict()["epoch"] == 0


async def only_the_first(item: int) -> int:
    if item:
        await asyncio.Event().wait()
    return item


@pytest.mark.parametrize("build", [lambda: Pipeline(never), lambda: Pipeline([0, 1]).map(only_the_first)])
def test_a_close_from_another_thread_lets_a_waiting_for_go_with_an_error(build: Any) -> None:
    with build() as stream:
        items = iter(stream)
        assert next(items) == 0
        closer = threading.Timer(0.05, stream.close)
        closer.start()
        with pytest.raises(RunnerClosed):
            next(items)
        closer.join()


def test_a_close_in_the_body_of_the_loop_ends_it_with_an_error() -> None:
    seen: list[int] = []

    def closes(stream: Any) -> None:
        for item in stream:
            seen.append(item)
            stream.close()

    with Pipeline(range(50)).map(same) as stream, pytest.raises(RunnerClosed):
        closes(stream)
    assert 1 <= len(seen) < 50


# --- cancelling -------------------------------------------------------------------------

CANCELLED: dict[str, Callable[[], Pipeline[Any]]] = {
    "loop": lambda: Pipeline(on_the_loop).map(same_on_loop, concurrency=2).prefetch(2),
    "thread": lambda: Pipeline(lambda: iter(range(20))).map(same, concurrency=2).map(same_on_loop).prefetch(3),
    "zip": lambda: Pipeline(on_the_loop).zip(Pipeline(on_the_loop).map(same_on_loop)),
}


async def _cancelled_after(build: Any, turn: int, again_after: int | None) -> None:
    consumer = asyncio.create_task(_leaves_after_eight(build()))
    for _ in range(turn):
        await asyncio.sleep(0)
    consumer.cancel()
    if again_after is not None:
        for _ in range(again_after):
            await asyncio.sleep(0)
        consumer.cancel()
    async with asyncio.timeout(10):
        await asyncio.wait([consumer])
    assert consumer.cancelled() or consumer.exception() is None
    await until(lambda: asyncio.all_tasks() == {asyncio.current_task()}, "all tasks to end")


async def _leaves_after_eight(pipeline: Any) -> None:
    async with pipeline as stream:
        count = 0
        async for _ in stream:
            count += 1
            if count == 8:
                break


@pytest.mark.parametrize("build", CANCELLED.values(), ids=CANCELLED)
@pytest.mark.parametrize("again_after", [None, 0, 1, 3])
@pytest.mark.both_loops
async def test_a_cancel_at_any_await_and_a_second_in_the_midst_of_the_end_leave_nothing(
    build: Any, again_after: int | None
) -> None:
    for turn in range(0, 40, 1 if again_after is None else 3):
        await _cancelled_after(build, turn, again_after)


@pytest.mark.parametrize("turn", [0, 1, 3, 10, 30, 100])
async def test_a_cancel_at_any_await_of_a_process_stage_leaves_nothing(turn: int) -> None:
    await _cancelled_after(lambda: Pipeline(range(20)).map(same, lane="process").map(same_on_loop), turn, 2)


@pytest.mark.slow
async def test_a_cancelled_opening_can_be_tried_again() -> None:
    pipeline = Pipeline(range(3)).map(same, lane="process")

    async def opened() -> list[int]:
        async with pipeline as stream:
            return await collected(stream)

    opening = asyncio.create_task(opened())
    await asyncio.sleep(0)
    await cancelled(opening)
    assert await opened() == [0, 1, 2]


async def test_a_timeout_ends_the_loop_and_the_state_goes_on_exactly() -> None:
    async def slow(item: int) -> int:
        if item == 5 and not hurried:
            await asyncio.Event().wait()
        return item

    hurried = False
    async with Pipeline(range(10)).map(slow, concurrency=3).prefetch(2) as stream:
        seen: list[int] = []
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await collect(stream, seen)
        assert seen == [0, 1, 2, 3, 4]
        hurried = True
        stream.load_state_dict(stream.state_dict())
        assert seen + await collected(stream) == list(range(10))


# --- hostile items, functions and sources -----------------------------------------------


class Mute:
    """Its repr raises anything at all."""

    def __init__(self, kind: type[BaseException]) -> None:
        self.kind = kind

    def __repr__(self) -> str:
        raise self.kind


@pytest.mark.slow
@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit])
@each_lane
def test_an_item_without_a_repr_does_not_hide_what_happened_to_it(
    fn: Any, lane: str | None, kind: type[BaseException]
) -> None:
    failing: Any = fails_on_loop if lane is None else fails
    with pytest.raises(LookupError, match="the item") as caught:
        list(Pipeline([Mute(kind)]).map(fn, lane=lane).map(failing, lane=lane and "thread"))
    (note,) = caught.value.__notes__
    assert note.endswith("item 0 of epoch 0: <Mute without a repr>")


def fails(item: Any) -> None:
    raise LookupError("the item")


async def fails_on_loop(item: Any) -> None:
    fails(item)


@pytest.mark.slow
@pytest.mark.parametrize("lane", ["thread", "process"])
def test_what_is_neither_true_nor_false_is_the_error_of_the_item_that_was_filtered(lane: str) -> None:
    seen: list[int] = []
    with pytest.raises(ValueError, match="truth value of an array") as caught:
        seen.extend(Pipeline(range(6)).filter(array_at_three, lane=lane).prefetch(6))
    assert caught.value.__notes__ == ["in stage filter(array_at_three), item 3 of epoch 0: 3"]
    with Pipeline(range(6)).filter(array_at_three, lane=lane, on_error="skip") as stream:
        assert list(stream) == [0, 1, 2, 4, 5]
        assert stream.skipped == 1


def array_at_three(number: int) -> Any:
    return np.ones(2) if number == 3 else True


async def test_items_before_that_which_is_neither_true_nor_false_are_handed_out() -> None:
    async def array_at_ten(number: int) -> Any:
        return np.ones(2) if number == 10 else True

    for _ in range(5):
        seen: list[int] = []
        with pytest.raises(ValueError, match="truth value"):
            await collect(Pipeline(range(20)).filter(array_at_ten, concurrency=16).prefetch(20), seen)
        assert seen == list(range(10))


@pytest.mark.parametrize("place", [0, 1, 2])
async def test_rows_of_a_zip_come_before_the_error_of_one_of_its_feeds(place: int) -> None:
    async def fails_at_seven(number: int) -> int:
        if number == 7:
            raise LookupError("seven")
        return number

    for length in (20, 7, 5):  # of the others: the end may come before the error
        feeds: list[Pipeline[Any]] = [Pipeline(range(length)).map(same_on_loop, concurrency=8) for _ in range(3)]
        feeds[place] = Pipeline(range(20)).map(fails_at_seven, concurrency=8)
        seen: list[Any] = []
        consumer = collect(feeds[0].zip(*feeds[1:]).prefetch(20), seen)
        if length == 20 or (length == 7 and place == 0):
            with pytest.raises(LookupError, match="seven"):
                await consumer
        else:
            await consumer
        assert seen == [(number,) * 3 for number in range(min(length, 7))]


def raises_on_close(kind: type[BaseException]) -> Iterator[int]:
    try:
        yield from itertools.count()
    finally:
        raise kind("while it was closed")


@pytest.mark.slow
@pytest.mark.parametrize("kind", [OSError, SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("in_zip", [False, True])
def test_a_source_that_raises_when_it_is_closed_is_told_of_and_harms_nobody(
    kind: type[BaseException], in_zip: bool, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline: Pipeline[Any] = Pipeline(lambda: raises_on_close(kind))
    pipeline = pipeline.zip(pipeline, Pipeline(itertools.count).map(same, lane="process")) if in_zip else pipeline
    with pipeline.map(same) as stream:
        assert len(list(itertools.islice(stream, 5))) == 5
        assert len(list(itertools.islice(stream, 5))) == 5
    assert "source <lambda> raised when it was closed" in caplog.text
    assert "while it was closed" in caplog.text


async def test_an_async_source_that_raises_when_it_is_closed_is_heard_and_the_rest_is_closed() -> None:
    async def source() -> AsyncIterator[int]:
        try:
            while True:
                yield 1
        finally:
            raise OSError("while it was closed")

    async def leaves() -> None:
        async with Pipeline(source).zip(source, Pipeline(itertools.count).map(same, lane="process")) as stream:
            async for _ in stream:
                break

    with pytest.raises(OSError, match="while it was closed"):
        await leaves()
    assert asyncio.all_tasks() == {asyncio.current_task()}


class Scale:
    """A function with something to bring along."""

    def __init__(self, by: int) -> None:
        self.by = by

    def times(self, number: int) -> int:
        return self.by * number

    __call__ = times


@pytest.mark.slow
@pytest.mark.parametrize("lane", ["thread", "process"])
def test_functions_of_every_kind_travel(lane: str) -> None:
    three = 3
    functions: list[Callable[[int], Any]] = [
        lambda number: three * number,
        Scale(3).times,
        Scale(3),
        functools.partial(Scale.times, Scale(3)),
        functools.partial(np.multiply, 3),
        three.__mul__,
    ]
    for fn in functions:
        assert list(Pipeline([1, 2]).map(fn, lane=lane)) == [3, 6]


@pytest.mark.slow
@each_lane
def test_no_items_none_as_item_and_an_enormous_one(fn: Any, lane: str | None) -> None:
    assert list(Pipeline([]).map(fn, lane=lane).batch(3).shuffle(2).prefetch(2)) == []
    assert (
        list(Pipeline([None] * 3).map(fn, lane=lane).shuffle(2).prefetch(2).filter(lambda item: item is None))
        == [None] * 3
    )
    (enormous,) = Pipeline([np.arange(1 << 23)]).map(fn, lane=lane)
    assert enormous.nbytes == 1 << 26
    assert enormous[-1] == (1 << 23) - 1


def endless_recursion(number: int) -> int:
    return endless_recursion(number) + 1


def forks(number: int) -> int:
    pid = os.fork()
    if pid == 0:
        os._exit(7)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def doubled_inside(lane: str, number: int) -> list[int]:
    return list(Pipeline(range(number)).map(same, lane=lane))


@pytest.mark.slow
@pytest.mark.parametrize("lane", ["thread", "process"])
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # forks, from Python 3.12 on
def test_recursion_forks_and_pipelines_inside_of_a_stage(lane: str) -> None:
    with pytest.raises(RecursionError):
        list(Pipeline([1]).map(endless_recursion, lane=lane))
    assert list(Pipeline([1, 2]).map(forks, lane=lane)) == [7, 7]
    for inner in ("thread", "process"):
        inside = functools.partial(doubled_inside, inner)
        assert list(Pipeline([2, 3]).map(inside, lane=lane)) == [[0, 1], [0, 1, 2]]


async def test_a_pipeline_inside_of_a_coroutine_stage() -> None:
    async def inside(number: int) -> list[int]:
        return await collected(Pipeline(range(number)).map(same))

    assert await collected(Pipeline([2, 3]).map(inside, concurrency=2)) == [[0, 1], [0, 1, 2]]


@pytest.mark.slow
def test_many_pipelines_at_once_from_many_threads() -> None:
    outcomes: list[list[int]] = []
    shared = Pipeline(range(50)).map(same)  # a description: each loop over it runs by itself

    def runs(lane: str) -> None:
        outcomes.append(list(shared.map(same, lane=lane)))

    threads = [threading.Thread(target=runs, args=(lane,)) for lane in ["thread"] * 5 + ["process"] * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert outcomes == [list(range(50))] * 7


@pytest.mark.slow
def test_deep_zips_and_one_pipeline_zipped_with_itself() -> None:
    deep: Pipeline[Any] = Pipeline(range(5)).map(same, lane="process")
    for _ in range(3):
        deep = deep.zip(Pipeline(range(5)).map(same, lane="process")).map(list)
    assert list(deep) == [[[[number, number], number], number] for number in range(5)]
    one = Pipeline(range(5)).map(same, lane="process")
    assert list(one.zip(one, one.zip(one))) == [(number, number, (number, number)) for number in range(5)]


@pytest.mark.parametrize(
    ("state", "kind", "says"),
    [
        (None, TypeError, "state=None is not allowed"),
        ([], TypeError, r"state=\[\] is not allowed"),
        ("{}", TypeError, "state='{}' is not allowed"),
        ({}, ValueError, "it lacks delivered, epoch, seed, stages"),
        ({"epoch": "1"}, (TypeError, ValueError), "epoch='1' is not allowed"),
        ({"epoch": 1.5}, (TypeError, ValueError), "epoch=1.5 is not allowed"),
        ({"epoch": True}, (TypeError, ValueError), "epoch=True is not allowed"),
        ({"delivered": None}, (TypeError, ValueError), "delivered=None is not allowed"),
        ({"stages": None}, ValueError, "stages=None"),
    ],
)
def test_a_state_of_the_wrong_kind_is_refused_and_changes_nothing(state: Any, kind: Any, says: str) -> None:
    with Pipeline(range(5)).map(same) as stream:
        assert next(iter(stream)) == 0
        before = stream.state_dict()
        wrong = {**before, **state} if isinstance(state, dict) and state else state
        with pytest.raises(kind, match=says):
            stream.load_state_dict(wrong)
        assert stream.state_dict() == before


# --- the garbage collector, forks, Ctrl-C -----------------------------------------------


def test_the_garbage_collector_may_end_a_pipeline_on_its_own_loop() -> None:
    class Cycle:
        items: Any
        me: Any

    async def collects(number: int) -> int:
        if number == go_at:
            gc.collect()
        return number

    go_at, cycle = -1, Cycle()
    cycle.me = cycle
    cycle.items = iter(Pipeline(itertools.count).map(collects).prefetch(1000))
    gc.disable()
    try:
        assert next(cycle.items) == 0
        went = weakref.ref(cycle)
        go_at = 900
        del cycle
        asyncio.run(until(lambda: went() is None, "the collection"))
    finally:
        gc.enable()
    # That nothing is left, and that nobody complains, is for the fixture and for pytest.


@pytest.mark.slow
@pytest.mark.parametrize("lane", ["thread", "process"])
def test_a_forked_child_is_refused_and_ends_while_the_parent_goes_on(lane: str, tmp_path: Path) -> None:
    script = tmp_path / "forks.py"
    script.write_text(f"""
import gc, itertools, os, sys, warnings
import asyncjobs as aj
warnings.simplefilter("ignore", DeprecationWarning)

def same(item):
    return item

def refused(fn):
    try:
        fn()
    except aj.WrongLoop:
        print("refused", flush=True)

if __name__ == "__main__":
    with aj.Pipeline(itertools.count).map(same, lane={lane!r}) as stream:
        items = iter(stream)
        print(next(items), flush=True)
        child = os.fork()
        if child == 0:
            refused(lambda: list(items))
            refused(lambda: list(stream))
            print(list(aj.Pipeline(range(3)).map(same)), flush=True)
            del items
            gc.collect()
            sys.exit(5)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), next(items), next(items), flush=True)
""")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["0", "refused", "refused", "[0, 1, 2]", "5 1 2"], done.stderr
    assert done.stderr == ""


@pytest.mark.slow
@pytest.mark.parametrize("lane", ["loop", "thread", "process"])
@pytest.mark.parametrize("where", ["body", "wait"])
def test_after_ctrl_c_in_a_plain_for_the_program_goes_on(lane: str, where: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(f"""
import asyncio, itertools, threading, time
import psutil
import asyncjobs as aj

def slow(item):
    time.sleep(0.001 if item < 5 or {where!r} == "body" else 1000 if {lane!r} == "process" else 2)
    return item

async def slow_on_loop(item):
    await asyncio.sleep(0.001 if item < 5 or {where!r} == "body" else 1000)
    return item

if __name__ == "__main__":
    fn, lane = (slow_on_loop, None) if {lane!r} == "loop" else (slow, {lane!r})
    pipeline = aj.Pipeline(itertools.count).map(fn, lane=lane, concurrency=2)
    try:
        with pipeline as stream:
            for item in stream:
                if item == 4:
                    print("now", flush=True)
                    if {where!r} == "body":
                        time.sleep(1000)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    workers = [p for p in psutil.Process().children(recursive=True) if "multiprocessing" not in " ".join(p.cmdline())]
    print(workers, list(pipeline.take(3)), flush=True)
""")
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == b"now\n"
        program.send_signal(signal.SIGINT)
        told, said = program.communicate(timeout=60)
    assert program.returncode == 0, said
    assert told == b"interrupted\n[] [0, 1, 2]\n", said
    assert b"Traceback" not in said
