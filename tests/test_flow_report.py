"""What a pipeline's report says, figure by figure and of real runs with a known limit, and where a stall is."""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import re
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest
from browser import needs_browser, open_in_browser

from asyncjobs import ErrorBudget, FIFOQueue, Pipeline, PipelineReport, Runner, RunnerClosed
from asyncjobs.pipeline.account import Account, Consumer, Stopwatch
from asyncjobs.pipeline.report import ConsumerStats, StageStats, reported, verdict
from asyncjobs.testing.work import until

NOW = 100.0


def stage(name: str = "map(decode)", **changes: Any) -> StageStats:
    values: dict[str, Any] = {
        "name": name,
        "lane": "process",
        "concurrency": 4,
        "items": 100,
        "skipped": 0,
        "busy": 0.95,
        "starved": 0.0,
        "blocked": 0.0,
        "seconds": 38.0,
        "p50": 0.4,
        "p95": 0.5,
        "occupancy": 0.1,
        "turn": 0.0,
        "ordered": True,
        "computed": None,
    }
    return StageStats(**(values | changes))


def consumer(waited: float, processors: float = 0.3) -> ConsumerStats:
    return ConsumerStats(10.0, waited, processors)


# --- the verdict ------------------------------------------------------------------------

STARVED = stage("batch(stack)", busy=0.1, concurrency=1, seconds=1.0)


@pytest.mark.parametrize(
    ("found", "waited", "says"),
    [
        (stage(), 5.0, "map(decode) is the limit: 95% busy at concurrency 4; 8 would keep the consumer fed, if the "),
        (stage(), 5.0, "if the machine has the processors: at best the loop takes 5 s instead of 10 s."),
        (stage(), 9.0, "38 would keep the consumer fed, but there are 16 processors: at best the loop takes 1 s"),
        (stage(lane="loop"), 5.0, "8 would keep the consumer fed: at best the loop takes 5 s instead of 10 s."),
        (stage(lane="thread", computed=0.1), 5.0, "8 would keep the consumer fed: at best"),
        (stage(), 9.9, "map(decode) is the limit: 95% busy at concurrency 4; the consumer does little but wait"),
        (
            stage(is_tuned=True, is_settled=True),
            5.0,
            'at concurrency 4, and "auto" has found none that does better; at',
        ),
        (stage(is_tuned=True), 5.0, 'at concurrency 4, and "auto" is still looking for a better one; at best'),
        (stage(), 0.1, "The consumer is the limit"),
        (stage(busy=0.1), 5.0, "No stage is busy half of the time: the start of the workers is the limit, the way"),
        (stage("source rows", lane="source", busy=0.1, blocked=0.9), 5.0, "No stage is busy half of the time"),
        (
            stage("source frames", lane="source", concurrency=1, p50=0.02),
            5.0,
            "The source frames is the limit: it is read 95% of the time, 20 ms an item; at best the loop takes 5 s",
        ),
        (stage(busy=0.4, turn=5.1), 5.0, "map(decode) is held up by its order: on average 5.1 finished items wait"),
        (stage(busy=0.4, turn=5.1), 5.0, "only 40% busy; ordered=False hands out what is done first"),
        (stage(busy=0.1, starved=0.8, turn=5.1), 5.0, "No stage is busy half of the time"),
        (stage(busy=0.95, turn=2.0), 5.0, "map(decode) is the limit"),
        (stage(busy=0.6, turn=0.9), 5.0, "map(decode) is the limit"),
        (stage(busy=0.6, turn=5.1, ordered=False), 5.0, "map(decode) is the limit"),
    ],
)
def test_the_verdict_names_what_holds_the_consumer_up_and_what_would_help(
    found: StageStats, waited: float, says: str
) -> None:
    assert says in verdict([found, STARVED], consumer(waited), 16)


@pytest.mark.parametrize(
    ("lane", "computed", "processors", "usable", "is_named"),
    [
        ("thread", 0.25, 1.0, 2, True),
        ("thread", 0.95, 1.0, 2, False),  # alone in the interpreter
        ("thread", 0.25, 0.2, 2, False),  # it sleeps
        ("thread", 0.5, 3.9, 8, False),  # it gives the lock back: more threads than processors
        ("thread", 0.25, 1.0, 1, False),  # the machine has no more
        ("process", None, 1.0, 2, False),
    ],
)
def test_a_thread_stage_that_takes_turns_at_the_interpreter_lock_belongs_into_processes(
    lane: str, computed: float | None, processors: float, usable: int, is_named: bool
) -> None:
    text = verdict([stage(lane=lane, computed=computed)], consumer(5.0, processors), usable)
    assert ('lane="process" gives each call a processor' in text) == is_named
    assert text.startswith("map(decode) is the limit: 95% busy at concurrency 4")


# --- the arithmetic ---------------------------------------------------------------------


def took(waited: float, seconds: float) -> Consumer:
    return Consumer(waited, seconds)


def test_shares_are_of_the_consumers_time_and_what_runs_now_counts() -> None:
    account = Account("map(f)", 2, "thread", busy=9.0, items=3, hungry=Stopwatch(2.0), full=Stopwatch(7.0))
    (found,) = reported([(account, 3.0)], took(1.0, 10.0), NOW).stages
    assert (found.busy, found.starved, found.blocked) == pytest.approx((0.6, 0.2, 0.1))
    assert found.seconds == 12.0


def test_what_is_done_and_waits_for_its_turn_is_found_without_anybody_noting_it() -> None:
    account = Account("map(f)", 4, emptied_at=0.0, ordered=True)
    for ended_at in (3.0, 1.0, 2.0, 5.0):  # the first took longest: the next two wait for it
        account.passed(ended_at, 1.0)
    assert account.turn == (3.0 - 1.0) + (3.0 - 2.0)
    assert account.empty == 3.0
    account.emptied_at = 6.0
    account.passed(8.0, 1.0)
    assert account.empty == 5.0
    (found,) = reported([(account, 0.0)], took(1.0, 10.0), NOW).stages
    assert (found.turn, found.occupancy) == pytest.approx((0.3, 0.5))


def test_an_item_that_was_ready_before_the_buffer_was_found_empty_makes_nothing_empty() -> None:
    account = Account("map(f)", 1, emptied_at=4.0)
    account.passed(3.0, 1.0)
    assert account.empty == 0.0


def test_percentiles_are_of_the_latest_thousand_calls() -> None:
    account = Account("map(f)", 1)
    for seconds in [9.0] * 500 + [0.001] * 900 + [0.5] * 100:
        account.passed(0.0, seconds)
    (found,) = reported([(account, 0.0)], took(1.0, 10.0), NOW).stages
    assert (found.p50, found.p95) == (0.001, 0.5)


def test_a_stopwatch_counts_what_goes_on_and_blocks_that_overlap() -> None:
    watch = Stopwatch(1.0)
    began = perf_counter()
    with watch, watch:
        pass
    assert 1.0 <= watch.seconds(NOW) <= 1.0 + 2 * (perf_counter() - began)
    with watch:
        assert watch.seconds(perf_counter() + 5.0) >= 6.0
    assert watch.seconds(perf_counter() + 5.0) < 6.0


def test_a_wait_that_was_left_for_the_next_epoch_counts_once() -> None:
    taker = Consumer()
    taker.begins()
    with taker:
        taker.begins()
        with taker:
            pass
    assert taker.waits_since is None
    assert 0.0 < taker.waited(NOW) <= taker.seconds(NOW)


def test_a_consumers_wait_counts_while_it_goes_on() -> None:
    taker = Consumer()
    taker.begins()
    with taker:
        later = perf_counter() + 7.0
        assert taker.waited(later) >= 7.0
        assert taker.seconds(later) >= taker.waited(later)
    assert taker.seconds(later) < 7.0


# --- text and picture -------------------------------------------------------------------


def report_of(*stages: StageStats, waited: float = 5.0) -> PipelineReport:
    taker = consumer(waited)
    return PipelineReport(stages, taker, verdict(stages, taker, 16))


def test_the_text_is_a_table_with_the_verdict_below_it() -> None:
    text = str(report_of(stage(skipped=3, turn=1.25), STARVED))
    assert re.search(r"map\(decode\) +100 +3 +4 +95% +0% +0% +400 ms +500 ms +10% +1.2\n", text)
    assert text.splitlines()[-2] == "The consumer waited 50% of 10 s."
    assert text.splitlines()[-1].startswith("map(decode) is the limit")
    assert len({len(line) for line in text.splitlines()[:3]}) == 1


def test_the_picture_has_a_bar_for_each_stage_and_for_the_consumer() -> None:
    pytest.importorskip("plotly")
    figure = report_of(stage("map(<lambda>)", busy=0.5, starved=0.2, blocked=0.3), STARVED).figure()
    assert [(trace.name, trace.x[0]) for trace in figure.data] == [("busy", 0.5), ("starved", 0.2), ("blocked", 0.3)]
    assert [trace.x[-1] for trace in figure.data] == [0.5, 0.5, 0.0]
    assert figure.layout.yaxis.ticktext == ("map(&lt;lambda&gt;)", "batch(stack)", "the consumer")
    assert "400 ms (p50), 500 ms (p95)" in figure.data[0].customdata[0]
    assert "batch(stack)" not in figure.layout.title.text
    assert "is the limit" in figure.layout.title.text


def test_a_notebook_shows_the_picture_and_a_console_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    pio = pytest.importorskip("plotly.io")
    monkeypatch.setattr(pio.renderers, "default", "plotly_mimetype")
    report = report_of(stage())
    bundle = report._repr_mimebundle_()
    assert bundle["text/plain"] == str(report)
    assert len(bundle["application/vnd.plotly.v1+json"]["data"]) == 3


@pytest.mark.slow
def test_without_plotly_there_is_the_text() -> None:
    program = (
        "import sys; sys.modules['plotly'] = None\n"
        "from asyncjobs import Pipeline\n"
        "with Pipeline([1]) as items:\n    list(items)\n    print(items.report()._repr_mimebundle_())\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert ended.stdout.startswith("{'text/plain'")


@needs_browser
@pytest.mark.slow
def test_the_page_opens_in_a_browser(tmp_path: Path) -> None:
    report_of(stage(), STARVED).write_html(tmp_path / "report.html")
    shown = open_in_browser(tmp_path / "report.html", tmp_path)
    assert (shown.drawn, shown.complaints) == (1, [])


# --- real runs --------------------------------------------------------------------------


def double(number: int) -> int:
    return 2 * number


def takes_its_time(number: int) -> int:
    time.sleep(0.01)
    return number


async def takes_its_time_on_the_loop(number: int) -> int:
    await asyncio.sleep(0.01)
    return number


def computes(number: int) -> int:
    return sum(range(100_000)) + number


def fails_for_odd(number: int) -> int:
    if number % 2:
        raise ValueError(number)
    return number


def slow_numbers() -> Iterator[int]:
    number = 0
    while True:
        time.sleep(0.01)
        yield number
        number += 1


async def slow_numbers_on_the_loop() -> AsyncIterator[int]:
    for number in slow_numbers():
        await asyncio.sleep(0.01)
        yield number


def named(report: PipelineReport, name: str) -> StageStats:
    return next(stage for stage in report.stages if stage.name == name)


@pytest.mark.slow
@pytest.mark.parametrize(("lane", "items"), [("loop", 60), ("thread", 60), ("process", 200)])
def test_the_report_of_a_real_run_names_the_slow_stage(lane: str, items: int) -> None:
    slow: Callable[[int], Any] = takes_its_time_on_the_loop if lane == "loop" else takes_its_time
    with Pipeline(range(items)).map(double).map(slow, lane=lane).batch(4, collate=list) as stream:
        report = stream.report()
        assert (str(report), report.stages, report.consumer.share) == ("nothing has been taken yet", (), 0.0)
        for _ in stream:
            pass
    report = stream.report()
    assert f"map({slow.__name__}) is the limit" in report.verdict
    found = named(report, f"map({slow.__name__})")
    assert (found.items, found.concurrency, found.lane, found.skipped) == (items, 1, lane, 0)
    assert 0.009 < found.p50 <= found.p95
    assert found.occupancy < 0.5 < named(report, "map(double)").occupancy
    assert pickle.loads(pickle.dumps(report)) == report


@pytest.mark.parametrize("source", [slow_numbers, slow_numbers()])
def test_an_endless_slow_source_is_named_as_the_limit(source: Any) -> None:
    with Pipeline(source).map(double, concurrency=4).take(40) as stream:
        assert len(list(stream)) == 40
        report = stream.report()
    found = named(report, "source slow_numbers")
    assert report.verdict.startswith("The source slow_numbers is the limit: it is read")
    assert found.items >= 40
    assert found.p50 > 0.009
    assert found.busy + found.blocked == pytest.approx(1)


async def test_a_source_on_the_loop_is_named_too() -> None:
    async with Pipeline(slow_numbers_on_the_loop).map(double).take(30) as stream:
        assert len([number async for number in stream]) == 30
        assert "source slow_numbers_on_the_loop is the limit" in stream.report().verdict


def test_a_slow_generator_of_a_flat_map_is_named() -> None:
    def frames(_: int) -> Iterator[int]:
        return iter([takes_its_time(number) for number in range(5)])

    with Pipeline(range(10)).flat_map(frames) as stream:
        assert len(list(stream)) == 50
        report = stream.report()
    assert named(report, "flat_map(frames)").items == 50
    assert report.verdict.startswith("flat_map(frames) is the limit")


def test_a_list_needs_no_row_and_a_consumer_that_never_waits_is_the_limit() -> None:
    with Pipeline(range(50)).map(double) as stream:
        for _ in stream:
            time.sleep(0.01)
            report = stream.report()
    assert [stage.name for stage in report.stages] == ["map(double)"]
    assert report.consumer.seconds > 0.4
    assert report.verdict == "The consumer is the limit: more concurrency brings nothing."


def test_one_slow_item_that_holds_up_the_others_is_seen() -> None:
    def uneven(number: int) -> int:
        time.sleep(0.001 if number % 8 else 0.1)
        return number

    verdicts = {}
    for ordered in (True, False):
        with Pipeline(range(80)).map(uneven, concurrency=4, ordered=ordered) as stream:
            assert sorted(stream) == list(range(80))
            report = stream.report()
        verdicts[ordered] = report.verdict
        assert (report.stages[0].turn > 1.0) == ordered
    assert "held up by its order" in verdicts[True]
    assert "order" not in verdicts[False]


def test_threads_know_how_much_of_their_time_they_compute() -> None:
    shares = {}
    for fn in (computes, takes_its_time):
        with Pipeline(range(200)).map(fn, concurrency=4) as stream:
            list(stream)
            shares[fn] = stream.report().stages[0].computed
    assert shares[takes_its_time] < 0.5  # type: ignore[operator]
    # Four at once share one lock: together they compute for no longer than one of them could.
    assert 0.05 < shares[computes] < 0.7  # type: ignore[operator]


def test_what_was_left_out_is_counted() -> None:
    with Pipeline(range(10)).map(fails_for_odd, on_error=ErrorBudget(max=9)) as stream:
        assert list(stream) == [0, 2, 4, 6, 8]
        (found,) = stream.report().stages
    assert (found.items, found.skipped) == (10, 5)


# --- stalls -----------------------------------------------------------------------------

released = threading.Event()
LONGEST = 30.0
"""Seconds after which whatever hangs goes on, if nobody sees it."""


def hangs(item: tuple[int, str]) -> int:
    ends = time.monotonic() + LONGEST
    while item[0] == 3 and not os.path.exists(item[1]) and time.monotonic() < ends:
        time.sleep(0.01)
    return item[0]


async def hangs_on_the_loop(item: tuple[int, str]) -> int:
    if item[0] == 3:
        await _hangs_deep_inside(item[1])
    return item[0]


async def _hangs_deep_inside(path: str) -> None:
    ends = time.monotonic() + LONGEST
    while not os.path.exists(path) and time.monotonic() < ends:  # noqa: ASYNC240 - a file of no bytes
        await asyncio.sleep(0.01)


async def blocks_the_loop(item: tuple[int, str]) -> int:
    return hangs(item)


def keeps_the_lock(item: tuple[int, str]) -> int:
    return sum(range(10**8)) if item[0] == 3 else item[0]


class Log(logging.Handler):
    """The warnings; the first that has all of `parts` makes the file at `path`, for which the call waits."""

    def __init__(self, path: Path, *parts: str) -> None:
        super().__init__(logging.WARNING)
        self._path = path
        self._parts = parts
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        self.texts.append(text)
        if all(part in text for part in self._parts):
            self._path.touch()

    @property
    def told(self) -> str:
        return next((text for text in self.texts if all(part in text for part in self._parts)), "")

    def __enter__(self) -> Log:
        logging.getLogger("asyncjobs").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("asyncjobs").removeHandler(self)


HANGING = [
    pytest.param(hangs, "thread", "in hangs", id="thread"),
    pytest.param(hangs, "process", "in hangs", id="process"),
    pytest.param(hangs_on_the_loop, "loop", "in _hangs_deep_inside", id="coroutine"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("fn", "lane", "where"), [*HANGING, pytest.param(blocks_the_loop, "loop", "in hangs", id="b")])
def test_a_for_that_stalls_says_what_hangs_where(fn: Any, lane: str, where: str, tmp_path: Path) -> None:
    path = tmp_path / "released"
    pipeline = Pipeline([(number, str(path)) for number in range(8)], stall_timeout=0.3)
    with Log(path, where) as log, pipeline.map(fn, lane=lane, concurrency=2) as stream:
        assert list(stream) == list(range(8))
    assert f"map({fn.__name__})" in log.told
    assert re.search(r"the consumer of a pipeline has waited [\d.]+ s for an item", log.told)
    assert re.search(r"item 3, in its call for [\d.]+ m?s: \(3, ", log.told)
    assert "worker.py" not in log.told
    assert "crews.py" not in log.told
    assert log.texts[-1].startswith("the consumer of a pipeline goes on, after")


@pytest.mark.slow
@pytest.mark.parametrize(("fn", "lane", "where"), HANGING)
async def test_an_async_for_that_stalls_says_what_hangs_where(fn: Any, lane: str, where: str, tmp_path: Path) -> None:
    path = tmp_path / "released"
    pipeline = Pipeline([(number, str(path)) for number in range(8)], stall_timeout=0.3)
    with Log(path, where) as log:
        async with pipeline.map(fn, lane=lane, concurrency=2) as stream:
            assert [number async for number in stream] == list(range(8))
    assert re.search(r"item 3, in its call for [\d.]+ m?s: \(3, ", log.told)


@pytest.mark.slow
def test_a_worker_whose_call_keeps_the_interpreter_lock_says_where_it_is(tmp_path: Path) -> None:
    items = [(number, "") for number in range(5)]
    with Log(tmp_path / "unused", "in keeps_the_lock") as log:
        assert len(list(Pipeline(items, stall_timeout=0.2).map(keeps_the_lock, lane="process"))) == 5
    assert log.told


async def test_the_watch_of_an_epoch_that_was_left_does_not_disturb_the_next(tmp_path: Path) -> None:
    path = tmp_path / "released"
    items = [(number, str(path)) for number in range(5)]
    with Log(path, "in _hangs_deep_inside") as log:
        async with Pipeline(items, stall_timeout=0.2).map(hangs_on_the_loop) as stream:
            left = aiter(stream)
            assert await anext(left) == 0
            taking = asyncio.ensure_future(anext(left))
            await asyncio.sleep(0)
            second = aiter(stream)
            assert await anext(second) == 0
            [taken] = await asyncio.gather(taking, return_exceptions=True)
            assert taken == 1 or isinstance(taken, RunnerClosed)  # it may have been there already
            await left.aclose()
            assert [number async for number in second] == [1, 2, 3, 4]
    assert log.told


def test_a_source_that_hangs_is_shown_with_its_stack_again_and_again(tmp_path: Path) -> None:
    path = tmp_path / "released"

    def frames() -> Iterator[int]:
        yield 0
        yield hangs((3, str(path)))

    def release() -> None:
        try:
            asyncio.run(until(lambda: len(log.texts) >= 2, "two warnings"))
        finally:
            path.touch()

    with Log(tmp_path / "never", "never") as log, Pipeline(frames, stall_timeout=0.2) as stream:
        thread = threading.Thread(target=release)
        thread.start()
        assert list(stream) == [0, 3]
        thread.join()
    first, second = log.texts[:2]
    assert first != second
    for text in (first, second):
        assert "in frames" in text
        assert re.search(r"source frames: item 1 has been read for", text)
        assert re.search(r"The source frames is the limit", text)


async def test_a_queue_that_nobody_fills_is_a_stall() -> None:
    queue: FIFOQueue[int] = FIFOQueue(2)
    path = Path("unused")
    with Log(path, "never") as log:
        async with Pipeline(queue, stall_timeout=0.1) as stream:
            taking = asyncio.ensure_future(anext(aiter(stream)))
            while not log.texts:
                await asyncio.sleep(0.01)
            await queue.enqueue(5)
            assert await taking == 5
    assert re.search(r"source <FIFOQueue 'fifo_queue' open, 0 of 2>: item 0 has been read for", log.texts[0])


def test_what_is_in_hand_can_be_asked_for_and_stall_timeout_none_never_warns(tmp_path: Path) -> None:
    path = tmp_path / "released"
    items = [(number, str(path)) for number in range(40)]
    told = []

    def is_stuck(text: str) -> bool:
        return "in hangs" in text and "item 9, done" in text and "item 2, done" not in text

    def look(stream: Any) -> None:
        try:
            asyncio.run(until(lambda: is_stuck(stream.in_hand()), "items 4 to 9"))
            told.append(stream.in_hand())
        finally:
            path.touch()

    with (
        Log(tmp_path / "never", "never") as log,
        Pipeline(items, stall_timeout=None).map(hangs, concurrency=8) as stream,
    ):
        assert stream.in_hand() == "nothing is in hand"
        thread = threading.Thread(target=look, args=(stream,))
        thread.start()
        assert len(list(stream)) == 40
        thread.join()
    assert log.texts == []
    assert re.search(r"map\(hangs\): \d+ in hand\n  item 3, in its call", told[0])
    assert re.search(r"\n  and \d+ more", told[0])


@pytest.mark.slow
async def test_a_worker_that_was_asked_where_it_is_goes_on(runner: Runner, tmp_path: Path) -> None:
    path = tmp_path / "released"
    async with Pipeline([(3, str(path))] * 3, runner=runner).map(hangs, lane="process", concurrency=2) as stream:
        taking = asyncio.ensure_future(anext(aiter(stream)))
        while "in hangs" not in (text := await asyncio.to_thread(stream.in_hand)):
            await asyncio.sleep(0.01)
        again = await asyncio.to_thread(stream.in_hand)
        assert text.count("in hangs") <= 2
        assert 1 <= again.count("in hangs") <= 2
        path.touch()
        assert await taking == 3
    assert runner.stats().crashes == 0
