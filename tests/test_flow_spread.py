"""Pipelines: several items of each, in turn or as they come; generators in worker processes; files by lines; caches."""

from __future__ import annotations

import asyncio
import gc
import gzip
import itertools
import json
import os
import pickle
import signal
import sys
import threading
import time
import traceback
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from flows import interleaved
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncjobs import (
    ErrorBudget,
    ExecutorLane,
    FIFOQueue,
    Lines,
    NotSendable,
    Pipeline,
    ProcessLane,
    QueueClosedError,
    Runner,
    WorkerLost,
)
from asyncjobs.remote.items import MOST, send_items
from asyncjobs.testing.work import FileGate, lines, note, until
from asyncjobs.wire.parcel import LARGE


async def collected(pipeline: Pipeline[Any]) -> list[Any]:
    return [item async for item in pipeline]


async def collect(pipeline: Pipeline[Any], into: list[Any]) -> None:
    async for item in pipeline:
        into.append(item)


def counted(length: int, start: int = 0) -> Iterator[int]:
    yield from range(start, start + length)


async def counted_on_loop(length: int) -> AsyncIterator[int]:
    for number in range(length):
        yield number


def tagged(length: int) -> Iterator[tuple[int, int]]:
    for number in range(length):
        yield length, number


async def tagged_on_loop(length: int) -> AsyncIterator[tuple[int, int]]:
    for number in range(length):
        await asyncio.sleep(0)
        yield length, number


def breaks_after_two(number: int) -> Iterator[tuple[int, int]]:
    yield number, 0
    yield number, 1
    if number == 7:
        raise ValueError("seven")


async def breaks_after_two_on_loop(number: int) -> AsyncIterator[tuple[int, int]]:
    for item in breaks_after_two(number):
        yield item


def ends_at_seven(number: int) -> Iterator[tuple[int, int]]:
    yield number, 0
    yield number, 1
    if number == 7:
        time.sleep(0.1)  # or what it has yielded dies with it
        os._exit(3)


def endless(_: object = None) -> Iterator[int]:
    yield from itertools.count()


LANES = [
    pytest.param(tagged_on_loop, None, id="loop"),
    pytest.param(tagged, "thread", id="thread"),
    pytest.param(tagged, "process", id="process"),
]
FAILING = [
    pytest.param(breaks_after_two_on_loop, None, id="loop"),
    pytest.param(breaks_after_two, "thread", id="thread"),
    pytest.param(breaks_after_two, "process", id="process"),
]
LENGTHS = [3, 0, 1, 5, 2]


# --- order ------------------------------------------------------------------------------


@pytest.mark.slow
@given(st.lists(st.integers(0, 7), max_size=9), st.integers(1, 4), st.integers(1, 3))
@settings(max_examples=100)
def test_interleave_gives_the_order_of_the_model(lengths: list[int], cycle: int, block: int) -> None:
    pipeline: Pipeline[Any] = Pipeline(enumerate(lengths))
    pipeline = pipeline.interleave(lambda pair: counted(pair[1], 10 * pair[0]), concurrency=cycle, block_length=block)
    lists = [list(counted(length, 10 * index)) for index, length in enumerate(lengths)]
    assert asyncio.run(collected(pipeline)) == interleaved(lists, cycle, block)


def test_the_model_is_that_of_the_documentation_of_tensorflow() -> None:
    lists = [[number] * 6 for number in range(1, 6)]
    expected = [1] * 4 + [2] * 4 + [1] * 2 + [2] * 2 + [3] * 4 + [4] * 4 + [3] * 2 + [4] * 2 + [5] * 4 + [5] * 2
    assert interleaved(lists, 2, 4) == expected


@pytest.mark.slow
@pytest.mark.parametrize(("fn", "lane"), LANES)
@pytest.mark.parametrize("block", [1, 2])
async def test_interleave_takes_turns_in_every_lane(fn: Any, lane: str | None, block: int) -> None:
    pipeline = Pipeline(LENGTHS).interleave(fn, concurrency=2, block_length=block, lane=lane)
    assert await collected(pipeline) == interleaved([list(tagged(length)) for length in LENGTHS], 2, block)


@pytest.mark.slow
@pytest.mark.parametrize(("fn", "lane"), LANES)
@pytest.mark.parametrize("concurrency", [1, 3])
async def test_flat_map_keeps_the_order_in_every_lane(fn: Any, lane: str | None, concurrency: int) -> None:
    pipeline = Pipeline(LENGTHS).flat_map(fn, lane=lane, concurrency=concurrency)
    assert await collected(pipeline) == [item for length in LENGTHS for item in tagged(length)]


@pytest.mark.slow
@pytest.mark.parametrize(("fn", "lane"), LANES)
@pytest.mark.parametrize("verb", ["flat_map", "interleave"])
async def test_unordered_items_are_all_there_and_in_order_within_each(fn: Any, lane: str | None, verb: str) -> None:
    pipeline = getattr(Pipeline(LENGTHS), verb)(fn, lane=lane, concurrency=2, ordered=False)
    items = await collected(pipeline)
    assert Counter(items) == Counter(item for length in LENGTHS for item in tagged(length))
    assert all([item for item in items if item[0] == length] == list(tagged(length)) for length in LENGTHS)


async def test_unordered_items_come_as_they_are_made() -> None:
    gate = asyncio.Event()

    async def first_waits(number: int) -> AsyncIterator[int]:
        if number == 0:
            await gate.wait()
        yield number

    items = []
    async for item in Pipeline(range(4)).flat_map(first_waits, concurrency=2, ordered=False):
        items.append(item)
        if len(items) == 3:
            gate.set()
    assert items == [1, 2, 3, 0]


async def test_the_generators_of_the_next_items_run_ahead_and_no_more() -> None:
    begun: set[int] = set()

    def tells(number: int) -> Iterator[int]:
        begun.add(number)
        yield from itertools.repeat(number)

    async with Pipeline(range(10)).flat_map(tells, concurrency=3) as stream:
        async for item in stream:
            assert item == 0
            await until(lambda: len(begun) >= 3, "those ahead")
            break
    assert begun == {0, 1, 2}


async def test_a_slow_item_below_does_not_hold_up_what_is_open() -> None:
    gate = asyncio.Event()

    async def second_waits() -> AsyncIterator[int]:
        yield 2
        await gate.wait()
        yield 1

    items = []
    async for item in Pipeline(second_waits).flat_map(tagged_on_loop, concurrency=2):
        items.append(item)
        if len(items) == 2:
            gate.set()
    assert items == [(2, 0), (2, 1), (1, 0)]


async def test_an_unordered_spread_has_no_state() -> None:
    for verb in ("flat_map", "interleave"):
        async with getattr(Pipeline(LENGTHS), verb)(tagged, ordered=False) as stream:
            with pytest.raises(ValueError, match=rf"{verb}\(tagged\) has ordered=False"):
                stream.state_dict()


# --- errors -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("fn", "lane"), FAILING)
@pytest.mark.parametrize("verb", ["flat_map", "interleave"])
async def test_an_error_comes_after_the_items_before_it_and_names_the_item(
    fn: Any, lane: str | None, verb: str
) -> None:
    seen: list[Any] = []
    with pytest.raises(ValueError, match="seven") as caught:
        await collect(getattr(Pipeline([6, 7, 8]), verb)(fn, lane=lane, concurrency=1), seen)
    assert seen == [(6, 0), (6, 1), (7, 0), (7, 1)]
    text = "".join(traceback.format_exception(caught.value))
    assert f"in stage {verb}({fn.__name__}), item 1 of epoch 0: 7" in text
    assert "in breaks_after_two\n" in text, "the traceback of where it happened"


@pytest.mark.slow
@pytest.mark.parametrize(("fn", "lane"), FAILING)
async def test_with_skip_the_items_before_the_error_stay(fn: Any, lane: str | None) -> None:
    pipeline = Pipeline([6, 7, 8]).interleave(fn, lane=lane, concurrency=2, on_error="skip")
    async with pipeline as stream:
        items = [item async for item in stream]
        (fault,) = stream.errors
    assert items == [(6, 0), (7, 0), (6, 1), (7, 1), (8, 0), (8, 1)]
    assert (fault.stage, fault.index, fault.item) == (f"interleave({fn.__name__})", 1, "7")


async def test_a_budget_counts_the_items_below() -> None:
    def odd_ones_break(number: int) -> Iterator[int]:
        yield number
        if number % 2:
            raise ValueError(number)

    within = Pipeline(range(10)).flat_map(odd_ones_break, on_error=ErrorBudget(rate=0.5, after=4))
    assert await collected(within) == list(range(10))
    with pytest.raises(ExceptionGroup, match="failed for 3 of 6 items"):
        await collected(Pipeline(range(10)).flat_map(odd_ones_break, on_error=ErrorBudget(max=2), concurrency=3))


async def test_an_error_of_the_source_comes_after_all_that_was_open() -> None:
    def source() -> Iterator[int]:
        yield 2
        raise OSError("the disk is gone")

    seen: list[Any] = []
    with pytest.raises(OSError, match="the disk is gone"):
        await collect(Pipeline(source).interleave(tagged), seen)
    assert seen == [(2, 0), (2, 1)]


async def test_a_function_that_returns_no_items_at_all_is_told() -> None:
    with pytest.raises(TypeError, match="not iterable") as caught:
        await collected(Pipeline([1]).flat_map(lambda number: number))
    assert "item 0 of epoch 0: 1" in caught.value.__notes__[0]


# --- generators in worker processes -----------------------------------------------------


def process_ids() -> Iterator[int]:
    yield os.getpid()
    yield os.getpid()


class Numbers:
    """Items by number, in whichever process."""

    def __len__(self) -> int:
        return 25

    def __getitem__(self, index: int) -> int:
        return index


class NumbersAndProcesses(Numbers):
    """Says which process that is."""

    def __getitem__(self, index: int) -> Any:
        return index, os.getpid()


def made_elsewhere(gate: FileGate) -> Iterator[int]:
    """Says when it is left, and in which process."""
    try:
        yield from itertools.count()
    finally:
        note(f"{gate.folder}/left", str(os.getpid()))


@pytest.mark.slow
@pytest.mark.parametrize(
    "source", [process_ids, partial(process_ids), lambda: [os.getpid()] * 2], ids=["function", "partial", "lambda"]
)
def test_a_source_runs_in_a_worker_that_lives_across_epochs(source: Any) -> None:
    with Pipeline(source, lane="process") as stream:
        (process,) = {item for _ in range(3) for item in stream}
    assert process != os.getpid()


@pytest.mark.slow
async def test_iterables_and_sequences_are_read_in_a_worker_and_lists_are_not() -> None:
    items = await collected(Pipeline(NumbersAndProcesses(), lane="process"))
    assert [index for index, _ in items] == list(range(25))
    assert os.getpid() not in {process for _, process in items}
    assert await collected(Pipeline(np.arange(150), lane="process")) == list(range(150))
    assert await collected(Pipeline([1, 2], lane="process")) == [1, 2]


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["source", "flat_map", "interleave"])
def test_an_endless_generator_in_a_process_arrives_and_a_break_ends_it(verb: str) -> None:
    pipeline: Pipeline[int] = Pipeline(endless, lane="process")
    if verb != "source":
        pipeline = getattr(Pipeline([1, 1]), verb)(endless, lane="process", concurrency=2)
    for count, item in enumerate(pipeline):
        assert item == (count if verb != "interleave" else count // 2)
        if count == 1000:
            break
    # That nothing is left is for the fixture.


@pytest.mark.slow
async def test_a_generator_that_is_left_is_closed_and_its_worker_lives_on(tmp_path: Path) -> None:
    gate = FileGate(str(tmp_path))
    async with Pipeline(partial(made_elsewhere, gate), lane="process") as stream:
        for _ in range(3):
            async for number in stream:
                if number == 100:
                    break
        await stream.aclose()
    left = lines(f"{gate.folder}/left")
    assert len(left) == 3
    assert len(set(left)) == 1


def one_and_then_waits(gate: FileGate) -> Iterator[int]:
    yield 1
    while not gate.is_open:
        time.sleep(0.001)
    yield 2


@pytest.mark.slow
async def test_no_item_waits_for_the_next_to_be_made(tmp_path: Path) -> None:
    gate, items = FileGate(str(tmp_path)), []
    async for item in Pipeline(partial(one_and_then_waits, gate), lane="process"):
        items.append(item)
        gate.open()
    assert items == [1, 2]


def counts_what_it_makes(path: str, nbytes: int) -> Iterator[np.ndarray]:
    for number in range(60):
        note(path, ".", end="")
        yield np.full(nbytes, number % 100, np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize("nbytes", [10, LARGE])
async def test_a_generator_in_a_process_is_never_far_ahead(tmp_path: Path, nbytes: int) -> None:
    path, furthest, pause = str(tmp_path / "made"), 0, threading.Event()
    pipeline: Pipeline[np.ndarray] = Pipeline(partial(counts_what_it_makes, path, nbytes), lane="process")
    taken = 0
    async for array in pipeline:
        assert array[0] == taken % 100
        await asyncio.to_thread(pause.wait, 0.004)
        taken += 1
        furthest = max(furthest, len(lines(path)[0]) - taken)
    # One has arrived, one waits for room, one waits to travel, one is made: each alone if it is large.
    assert furthest <= (4 if nbytes == LARGE else 60)
    assert furthest >= 3


def never_comes_back(path: str, *, blocks: bool) -> Iterator[int]:
    yield os.getpid()
    if blocks:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    note(path, "stuck")
    while True:
        time.sleep(1000)


@pytest.mark.slow
@pytest.mark.parametrize("blocks", [False, True], ids=["interrupted", "killed"])
async def test_a_worker_that_does_not_come_back_is_interrupted_or_killed(tmp_path: Path, blocks: bool) -> None:
    path = str(tmp_path / "stuck")
    processes = []
    async with Pipeline(partial(never_comes_back, path, blocks=blocks), lane="process") as stream:
        for epoch in (1, 2):
            async for process in stream:
                processes.append(process)
                await until(lambda: len(lines(path)) == epoch, "the worker to be stuck")  # noqa: B023
                break
    assert len(set(processes)) == (2 if blocks else 1)


@pytest.mark.slow
@pytest.mark.parametrize("on_error", ["raise", "skip"])
async def test_a_worker_that_dies_costs_the_rest_of_its_item(on_error: str) -> None:
    seen: list[Any] = []

    pipeline = Pipeline([6, 7, 8]).flat_map(ends_at_seven, lane="process", on_error=on_error)
    if on_error == "skip":
        await collect(pipeline, seen)
        assert seen == [(6, 0), (6, 1), (7, 0), (7, 1), (8, 0), (8, 1)]
        return
    with pytest.raises(WorkerLost, match="exit code 3") as caught:
        await collect(pipeline, seen)
    assert seen == [(6, 0), (6, 1), (7, 0), (7, 1)]
    assert "item 1 of epoch 0: 7" in caught.value.__notes__[0]


def breaks_off() -> Iterator[int]:
    yield from range(100)
    raise OSError("the disk is gone")


def breaks_at_three() -> Iterator[int]:
    yield from range(3)
    raise OSError("the disk is gone")


async def breaks_at_three_on_loop() -> AsyncIterator[int]:
    for number in breaks_at_three():
        yield number


class BreaksAtThree:
    """By number."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> int:
        if index == 3:
            raise OSError("the disk is gone")
        return index


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "lane"),
    [
        (breaks_at_three, None),
        (breaks_at_three, "process"),
        (breaks_at_three_on_loop, None),
        (BreaksAtThree(), None),
    ],
)
async def test_an_error_of_a_source_says_how_far_it_came(source: Any, lane: str | None) -> None:
    name = getattr(source, "__name__", repr(source))
    async with Pipeline(source, lane=lane).prefetch(2).map(abs) as stream:
        for epoch, delivered in ((0, 0), (1, 0), (1, 2)):
            stream.load_state_dict(stream.state_dict() | {"epoch": epoch, "delivered": delivered})
            with pytest.raises(OSError, match="the disk is gone") as caught:
                await anext(item async for item in stream if item > 2)
            notes = [note for note in caught.value.__notes__ if "after" in note]
            assert notes == [f"in source {name}, after 3 items of epoch {epoch}"]


@pytest.mark.slow
async def test_an_error_of_a_source_in_a_process_comes_after_its_items() -> None:
    seen: list[int] = []
    with pytest.raises(OSError, match="the disk is gone") as caught:
        await collect(Pipeline(breaks_off, lane="process"), seen)
    assert seen == list(range(100))
    assert "in breaks_off\n" in "".join(traceback.format_exception(caught.value))


def some_do_not_pickle() -> Iterator[Any]:
    yield from range(10)
    yield {"lock": threading.Lock()}


@pytest.mark.slow
async def test_an_item_that_cannot_travel_is_named_after_the_items_before_it() -> None:
    seen: list[int] = []
    with pytest.raises(NotSendable, match=r"\['lock'\] cannot be sent to a process: lock does not pickle") as caught:
        await collect(Pipeline(some_do_not_pickle, lane="process"), seen)
    assert seen == list(range(10))
    assert "it is item 10 of" in caught.value.__notes__[0]


async def test_what_cannot_travel_to_a_worker_is_named() -> None:
    lock = threading.Lock()
    with pytest.raises(NotSendable, match="lock"):
        await collected(Pipeline(lambda: [lock], lane="process"))
    with pytest.raises(NotSendable, match="lock") as caught:
        await collected(Pipeline([lock]).flat_map(tagged, lane="process"))
    assert "in stage flat_map(tagged), item 0" in caught.value.__notes__[0]


@pytest.mark.slow
async def test_a_pipeline_zipped_with_itself_has_a_worker_for_each_half() -> None:
    pipeline = Pipeline(partial(counted, 9), lane="process").flat_map(partial(counted, 2), lane="process")
    pairs = await collected(pipeline.zip(pipeline))
    assert len(pairs) == 18
    assert all(one == other for one, other in pairs)


@pytest.mark.slow
async def test_generators_run_in_the_lanes_of_a_given_runner() -> None:
    async with Runner(processes=1, lanes={"wide": ProcessLane(3)}) as runner:
        source: Pipeline[int] = Pipeline(partial(counted, 4), lane="wide", runner=runner)
        assert await collected(source.interleave(tagged, concurrency=2, lane="wide")) == interleaved(
            [list(tagged(length)) for length in range(4)], 2, 1
        )
        with pytest.raises(ValueError, match=r"lane 'wide' with 3 workers is not allowed; allowed: at least 4"):
            await collected(source.interleave(tagged, concurrency=3, lane="wide"))
        with pytest.raises(ValueError, match=r"lane 'process' with 1 workers .* at least 2"):
            await collected(Pipeline(endless, lane="process", runner=runner).map(abs, lane="process"))


async def test_generators_are_refused_where_their_items_have_no_way_home() -> None:
    with ThreadPoolExecutor(1) as executor:
        async with Runner(lanes={"far": ExecutorLane(executor)}) as runner:
            for pipeline, stage in (
                (Pipeline(endless, lane="far", runner=runner), "source"),
                (Pipeline(range(3), runner=runner).flat_map(tagged, lane="far"), r"flat_map\(tagged\)"),
            ):
                with pytest.raises(ValueError, match=rf"{stage} in lane 'far' \(executor\) is not allowed"):
                    await collected(pipeline)


@pytest.mark.slow
@pytest.mark.parametrize("source", [partial(counted, 25), Numbers()], ids=["generator", "sequence"])
async def test_a_source_in_a_process_goes_on_where_it_was_left(source: Any) -> None:
    def made() -> Pipeline[Any]:
        return Pipeline(source, lane="process").flat_map(repeated, lane="process", concurrency=2)

    whole = await collected(made())
    async with made() as stream:
        async for item in stream:
            if item == whole[30]:
                break
        state = json.dumps(stream.state_dict())
    async with made() as stream:
        stream.load_state_dict(json.loads(state))
        assert [item async for item in stream] == whole[31:]


def repeated(item: Any) -> Iterator[Any]:
    yield item, 0
    yield item, 1


class Kept:
    """A queue that takes everything, until it is closed."""

    def __init__(self, room: float = float("inf")) -> None:
        self.lists: list[list[Any]] = []
        self._room = room

    def enqueue(self, element: Any) -> None:
        if len(self.lists) >= self._room:
            raise QueueClosedError("closed")
        self.lists.append(element)


def test_tiny_items_travel_together_and_large_ones_alone() -> None:
    kept = Kept()
    rest = send_items(kept, counted, 1000)
    assert [*itertools.chain(*kept.lists), *rest] == list(range(1000))
    assert len(kept.lists) < 500
    assert max(map(len, kept.lists)) <= MOST
    kept = Kept()
    send_items(kept, lambda: ({"x": np.zeros(LARGE, np.uint8)} for _ in range(20)))
    assert [len(chunk) for chunk in kept.lists] == [1] * 20
    kept = Kept()
    assert send_items(kept, counted, 2) == [0, 1], "no trip for them alone"


def test_a_closed_queue_ends_the_generator_and_no_thread_stays() -> None:
    closed = []

    def watched() -> Iterator[int]:
        try:
            yield from itertools.count()
        finally:
            closed.append(threading.current_thread())

    kept = Kept(room=3)
    send_items(kept, watched)
    assert len(kept.lists) == 3
    assert closed == [threading.current_thread()]
    assert threading.active_count() == len(threading.enumerate())


# --- files by lines ---------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Three of them, one packed."""
    (tmp_path / "a.txt").write_bytes(b"one\ntwo\r\n\nlast without an end")
    (tmp_path / "b.txt").write_bytes(b"")
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress("Käse\n\x0bnot an end\n".encode()))
    return [str(tmp_path / name) for name in ("a.txt", "b.txt", "c.txt.gz")]


EXPECTED = ["one", "two", "", "last without an end", "Käse", "\x0bnot an end"]


def test_lines_come_without_their_ends_any_number_of_times(files: list[str]) -> None:
    source = Lines(*files)
    assert list(source) == EXPECTED
    assert list(pickle.loads(pickle.dumps(source))) == EXPECTED
    with Pipeline(source) as stream:
        assert [list(stream) for _ in range(2)] == [EXPECTED] * 2
    assert list(Pipeline(files).flat_map(Lines)) == EXPECTED
    assert repr(Lines(files[0], encoding="latin-1")) == f"Lines({files[0]!r}, encoding='latin-1')"


@pytest.mark.parametrize("lane", ["thread", "process"])
def test_lines_are_read_where_the_pipeline_says(files: list[str], lane: str) -> None:
    assert list(Pipeline(Lines(*files), lane=lane)) == EXPECTED
    lists = [list(Lines(file)) for file in files]
    assert list(Pipeline(files).interleave(Lines, lane=lane, concurrency=2)) == interleaved(lists, 2, 1)


def test_a_file_is_closed_when_the_reader_stops_early(files: list[str]) -> None:
    before = os.listdir("/proc/self/fd") if sys.platform == "linux" else []
    reader = iter(Lines(*files))
    assert next(reader) == "one"
    reader.close()
    assert (os.listdir("/proc/self/fd") if before else []) == before
    for line in Pipeline(Lines(*files)):
        assert line == "one"
        break
    # That no descriptor is left is for the fixture.


def test_relative_paths_stay_those_files(files: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(os.path.dirname(files[0]))
    source = Lines("a.txt")
    monkeypatch.chdir("/")
    assert list(source) == EXPECTED[:4]


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda folder: Lines(folder / "missing.txt"), FileNotFoundError, "missing.txt"),
        (lambda folder: Lines(folder), IsADirectoryError, "Is a directory"),
        (lambda folder: Lines(), TypeError, "at least one path"),
        (lambda folder: Lines(5), TypeError, r"Lines\(5\) is not allowed"),
        (lambda folder: Lines(folder / "a.txt", encoding="utf-9"), LookupError, "utf-9"),
        (lambda folder: Lines(folder / "a.txt", encoding="rot13"), LookupError, "allowed: one of text"),
    ],
)
def test_files_that_cannot_be_read_are_refused_at_the_call(
    files: list[str], make: Callable[[Path], Lines], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        make(Path(files[0]).parent)


def test_a_path_may_be_one_of_bytes(files: list[str]) -> None:
    class InBytes:
        def __fspath__(self) -> bytes:
            return os.fsencode(files[0])

    source = Lines(cast("os.PathLike[str]", InBytes()))
    assert source.paths == (files[0],)
    assert list(source) == EXPECTED[:4]


def test_text_that_is_none_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes("Käse\n".encode("latin-1"))
    with pytest.raises(UnicodeDecodeError) as caught:
        list(Pipeline(Lines(path)))
    notes = [f"in {path}, after line 0", f"in source {Lines(path)!r}, after 0 items of epoch 0"]
    assert caught.value.__notes__ == notes
    assert list(Lines(path, encoding="latin-1")) == ["Käse"]


def test_a_missing_file_among_many_can_be_left_out(files: list[str]) -> None:
    pipeline = Pipeline([files[0], "missing.txt", files[2]]).flat_map(Lines, on_error="skip")
    with pipeline as stream:
        assert list(stream) == EXPECTED
        assert "missing.txt" in str(stream.errors[0].error)


# --- cache ------------------------------------------------------------------------------


async def test_later_epochs_come_from_the_cache_without_a_call() -> None:
    calls: list[int] = []

    def seen(number: int, rng: np.random.Generator) -> tuple[int, float]:
        calls.append(number)
        return number, rng.random()

    pipeline = Pipeline(range(20)).shuffle(20).map(seen, concurrency=2).cache()
    async with pipeline as stream:
        first, second = [[item async for item in stream] for _ in range(2)]
    assert first == second
    assert len(calls) == 20
    async with pipeline.repeat(3).shuffle(10) as stream:
        assert Counter([item async for item in stream]) == Counter(first * 3)
    assert len(calls) == 40


async def test_an_epoch_that_was_left_early_is_not_kept() -> None:
    made: list[list[int]] = []

    def source() -> Iterator[int]:
        mine: list[int] = []
        made.append(mine)
        for number in range(10):
            mine.append(number)
            yield number

    async with Pipeline(source).cache() as stream:
        async for item in stream:
            if item == 4:
                break
        for _ in range(2):
            assert [item async for item in stream] == list(range(10))
    assert len(made) == 2
    assert made[1] == list(range(10))


class Item:
    """What can be referred to weakly."""

    def __init__(self, number: int) -> None:
        self.number: int = number


async def test_a_closed_pipeline_keeps_no_items_of_a_cache() -> None:
    async with Pipeline(lambda: map(Item, range(3))).cache() as stream:
        items = [weakref.ref(item) async for item in stream]
        gc.collect()
        assert [item().number for item in items] == [0, 1, 2]
    gc.collect()
    assert [item() for item in items] == [None] * 3


async def test_what_can_be_read_once_may_be_repeated_under_a_cache() -> None:
    assert await collected(Pipeline(iter(range(5))).cache().repeat(3)) == [*range(5)] * 3
    queue = FIFOQueue[int](5)
    await queue.enqueue_many(range(5))
    await queue.close()
    assert await collected(Pipeline(queue).cache().repeat(2)) == [*range(5)] * 2


async def test_what_can_be_read_once_is_not_begun_twice() -> None:
    async with Pipeline(number for number in range(5)).cache() as stream:
        async for _ in stream:
            break
        with pytest.raises(ValueError, match="only once"):
            await anext(aiter(stream))
    pipeline = Pipeline(iter(range(5)))
    with pytest.raises(ValueError, match="only once"):
        await collected(pipeline.zip(pipeline))


@pytest.mark.parametrize("epoch", [0, 1, 2])
async def test_a_resumed_epoch_gives_what_the_earlier_life_gave(epoch: int) -> None:
    def made() -> Pipeline[Any]:
        return Pipeline(range(12)).shuffle(12).cache().shuffle(12)

    async with made() as stream:
        epochs = [[item async for item in stream] for _ in range(4)]
        state = stream.state_dict()
    async with made() as stream:
        stream.load_state_dict({**state, "epoch": epoch, "delivered": 5})
        assert [item async for item in stream] == epochs[epoch][5:]
        assert [item async for item in stream] == epochs[epoch + 1]


async def test_a_resumed_generator_is_kept_for_the_next_epoch() -> None:
    async with Pipeline(iter(range(6))).cache() as stream:
        stream.load_state_dict({**stream.state_dict(), "delivered": 4})
        assert [[item async for item in stream] for _ in range(2)] == [[4, 5], [*range(6)]]


# --- random numbers ---------------------------------------------------------------------


def three_drawn(number: int, rng: np.random.Generator) -> Iterator[tuple[int, int]]:
    for _ in range(3):
        yield number, int(rng.integers(1 << 30))


async def three_drawn_on_loop(number: int, rng: np.random.Generator) -> AsyncIterator[tuple[int, int]]:
    for pair in three_drawn(number, rng):
        yield pair


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fn", "lane"), [(three_drawn, "thread"), (three_drawn_on_loop, None), (three_drawn, "process")]
)
async def test_a_generator_draws_by_seed_epoch_and_index_alone(fn: Any, lane: str | None) -> None:
    async with Pipeline(range(5), seed=9).flat_map(fn, lane=lane, concurrency=2) as stream:
        epochs = [[item async for item in stream] for _ in range(2)]
    for epoch, items in enumerate(epochs):
        rngs = [np.random.default_rng((9, epoch, number)) for number in range(5)]
        assert items == [(number, int(rng.integers(1 << 30))) for number, rng in enumerate(rngs) for _ in range(3)]
