"""Counters and percentiles, and the account that a lane keeps."""

from __future__ import annotations

import asyncio
import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runner_jobs import LANES, STUBBORN, held

from asyncjobs import CancelToken, JobState, Retry, Runner
from asyncjobs.stats import Histogram, LaneStats, Ledger, Percentiles, percentiles, total

durations = st.floats(min_value=1e-7, max_value=1e9)
each_lane = pytest.mark.parametrize("lane", LANES)
NOTHING = Percentiles(0, 0.0, 0.0, 0.0, 0.0, 0.0)


# --- percentiles ------------------------------------------------------------------------


def test_percentiles_of_nothing_are_zeros() -> None:
    assert percentiles([]) == NOTHING == Histogram().summary()


def test_percentiles_of_a_hundred_values() -> None:
    found = percentiles(float(value) for value in range(101))
    assert found == Percentiles(101, 50.0, 50.0, 90.0, 99.0, 100.0)


@given(st.lists(durations, min_size=1))
def test_percentiles_are_values_in_order(values: list[float]) -> None:
    found = percentiles(values)
    assert {found.p50, found.p90, found.p99, found.max} <= set(values)
    assert min(values) <= found.p50 <= found.p90 <= found.p99 <= found.max == max(values)
    assert found.count == len(values)
    assert math.isclose(found.mean, math.fsum(values) / len(values), rel_tol=1e-9)


@pytest.mark.slow
@given(st.lists(durations, min_size=1, max_size=200), st.floats(0.01, 1.0))
def test_a_histogram_is_right_to_seven_percent(values: list[float], share: float) -> None:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    exact = sorted(values)[max(0, math.ceil(share * len(values) - 1e-9) - 1)]
    assert math.isclose(histogram.percentile(share), exact, rel_tol=0.07)
    assert (histogram.count, histogram.max) == (len(values), max(values))


@pytest.mark.parametrize("odd", [0.0, -1.0, 1e-300, 1e300, 5e-324])
def test_a_histogram_takes_any_duration(odd: float) -> None:
    histogram = Histogram()
    histogram.add(odd)
    assert histogram.count == 1
    assert math.isfinite(histogram.percentile(0.5))


def test_a_histogram_does_not_grow() -> None:
    histogram = Histogram()
    before = len(histogram._buckets)
    for power in range(-30, 30):
        histogram.add(2.0**power)
    assert len(histogram._buckets) == before


# --- the account of a lane --------------------------------------------------------------


def snapshot(ledger: Ledger, open_seconds: float = 10.0) -> LaneStats:
    return ledger.snapshot(places=2, busy=1, queued=3, queue_size=9, abandoned=0, open_seconds=open_seconds)


def test_a_ledger_counts_and_measures() -> None:
    ledger = Ledger("fit", "process", 100)
    ledger.submitted, ledger.retries, ledger.crashes = 4, 1, 2
    ledger.settled("fit-0", "a", "SUCCEEDED", 0.0, 1.0, 3.0, 2.0, 1.0)
    ledger.settled("fit-1", "b", "FAILED", 0.0, 3.0, 7.0, 4.0, 3.0)
    ledger.settled("", "c", "CANCELLED", 0.0, None, 8.0, 0.0, None)
    found = snapshot(ledger)
    assert (found.succeeded, found.failed, found.cancelled, found.timed_out, found.lost) == (1, 1, 1, 0, 0)
    assert (found.submitted, found.retries, found.crashes) == (4, 1, 2)
    assert (found.places, found.busy, found.queued, found.queue_size) == (2, 1, 3, 9)
    assert found.wait == percentiles([1.0, 3.0])
    assert found.run == percentiles([2.0, 4.0])
    assert found.busy_share == pytest.approx(6.0 / 20.0)


def test_a_job_that_never_started_has_no_wait_and_no_run() -> None:
    ledger = Ledger("fit", "process", 100)
    ledger.settled("", "c", "CANCELLED", 0.0, None, 8.0, 0.0, None)
    assert (snapshot(ledger).wait, snapshot(ledger).run) == (NOTHING, NOTHING)
    (span,) = ledger.spans(1000.0)
    assert (span.queued_at, span.started_at, span.ended_at) == (1000.0, None, 1008.0)


def test_spans_are_on_the_clock_of_people() -> None:
    ledger = Ledger("fit", "process", 100)
    ledger.settled("fit-0", "a", "SUCCEEDED", 1.0, 2.0, 5.0, 3.0, 2.0)
    (span,) = ledger.spans(1000.0)
    assert span == ("fit", "fit-0", "a", "SUCCEEDED", 1001.0, 1002.0, 1005.0, 3.0, 1002.0)


def test_a_start_at_the_very_zero_of_the_clock_is_a_start() -> None:
    ledger = Ledger("fit", "process", 100)
    ledger.settled("fit-0", "a", "SUCCEEDED", 0.0, 0.0, 1.0, 1.0, 0.0)
    (span,) = ledger.spans(1000.0)
    assert span.started_at == 1000.0


@given(history=st.integers(0, 20), jobs=st.integers(0, 60))
def test_counts_are_of_all_jobs_and_spans_of_the_latest(history: int, jobs: int) -> None:
    ledger = Ledger("fit", "process", history)
    for number in range(jobs):
        ledger.settled("fit-0", str(number), "SUCCEEDED", 0.0, 0.0, float(number), 0.0, 0.0)
    assert snapshot(ledger).succeeded == jobs
    latest = range(max(0, jobs - history), jobs)
    assert [span.name for span in ledger.spans(0.0)] == [str(number) for number in latest]


def test_the_busy_share_never_exceeds_one_and_is_zero_at_the_very_start() -> None:
    ledger = Ledger("fit", "process", 10)
    ledger.settled("fit-0", "a", "SUCCEEDED", 0.0, 0.0, 100.0, 100.0, 0.0)
    assert snapshot(ledger, 1.0).busy_share == 1.0
    assert snapshot(ledger, 0.0).busy_share == 0.0


def test_the_busy_share_counts_all_attempts_and_what_runs_now() -> None:
    ledger = Ledger("fit", "thread", 10)
    ledger.retried(1.0)
    ledger.retried(2.0)
    ledger.settled("thread", "a", "SUCCEEDED", 0.0, 0.5, 9.0, 3.0, 6.0)
    found = ledger.snapshot(
        places=2, busy=1, queued=0, queue_size=9, abandoned=0, open_seconds=10.0, running_seconds=4.0
    )
    assert found.retries == 2
    assert found.busy_share == pytest.approx((1.0 + 2.0 + 3.0 + 4.0) / 20.0)
    assert (found.wait.max, found.run.max) == (0.5, 3.0), "waited for the first start, ran its last attempt"


def test_a_job_that_ended_between_two_attempts_has_waited_but_no_attempt_ended_with_it() -> None:
    ledger = Ledger("fit", "thread", 10)
    ledger.retried(2.0)
    ledger.settled("", "a", "CANCELLED", 0.0, 1.0, 8.0, 0.0, None)
    assert (snapshot(ledger).wait.max, snapshot(ledger).run) == (1.0, NOTHING)
    (span,) = ledger.spans(1000.0)
    assert (span.started_at, span.attempt_at) == (1001.0, None)


def test_totals_add_the_lanes_up_and_order_the_spans_by_their_end() -> None:
    first, second = Ledger("fit", "process", 10), Ledger("plot", "thread", 10)
    first.submitted, second.submitted = 1, 2
    first.settled("fit-0", "a", "SUCCEEDED", 0.0, 0.0, 5.0, 5.0, 0.0)
    second.settled("plot-0", "b", "LOST", 0.0, 0.0, 3.0, 3.0, 0.0)
    lanes = [snapshot(first), snapshot(second)]
    found = total(lanes, open_seconds=9.0, loop_lag=NOTHING, spans=first.spans(0.0) + second.spans(0.0))
    assert (found.submitted, found.succeeded, found.lost) == (3, 1, 1)
    assert [span.name for span in found.spans] == ["b", "a"]
    assert list(found.lanes) == ["fit", "plot"]


# --- a real runner ----------------------------------------------------------------------


async def test_a_runner_counts_under_the_names_of_the_final_states() -> None:
    async def succeed() -> None: ...
    async def fail() -> None:
        raise OSError("no")

    async with Runner(history=3) as runner:
        for fn in (succeed, succeed, fail, succeed):
            await (await runner.submit(fn)).wait()
        job = await runner.submit(fail)
        await job.wait()
        job.exception()
        stats = runner.stats()
    assert (stats.submitted, stats.succeeded, stats.failed) == (5, 3, 2)
    assert stats.lanes["loop"].run.count == 3
    assert [span.state for span in stats.spans] == ["FAILED", "SUCCEEDED", "FAILED"]
    assert stats.lanes["thread"].submitted == 0


@pytest.mark.slow
@each_lane
async def test_the_busy_share_counts_what_runs_now(lane: str) -> None:
    async with Runner(processes=1, threads=1, coroutines=1) as runner:
        job, go = await held(runner, lane, 1)
        began = time.monotonic()
        before = runner.stats()
        assert before.lanes[lane].busy_share > 0.0
        await until_later(began + 0.2)
        after = runner.stats()
        grown = after.lanes[lane].busy_share * after.open_seconds - before.lanes[lane].busy_share * before.open_seconds
        assert grown == pytest.approx(after.open_seconds - before.open_seconds, abs=0.05)
        go.cancel()
        await job
        ended = runner.stats()
        assert ended.lanes[lane].busy_share * ended.open_seconds >= 0.2


@pytest.mark.slow
@each_lane
async def test_the_busy_share_counts_the_time_of_each_attempt(lane: str) -> None:
    async with Runner(processes=1, threads=1, coroutines=1) as runner:
        fails = runner.options(lane=lane, retries=Retry(2, backoff=0))
        job = await fails.submit({"loop": _afail_after, "thread": _fail_after, "process": _fail_after}[lane], 0.1)
        await job.wait()
        stats = runner.stats()
        share = stats.lanes[lane].busy_share * stats.open_seconds
        assert job.attempt == 3
        assert 0.29 <= share <= stats.open_seconds
        assert stats.lanes[lane].run.max < share / 2, "of the last attempt only"


@pytest.mark.slow
@each_lane
async def test_the_wait_of_a_job_that_was_tried_again_ends_with_its_first_start(lane: str) -> None:
    async with Runner(processes=1, threads=1, coroutines=1) as runner:
        fails = runner.options(lane=lane, retries=Retry(1, backoff=0.1))
        job = await fails.submit({"loop": _afail_after, "thread": _fail_after, "process": _fail_after}[lane], 0.0)
        await job.wait()
        (span,) = runner.stats().spans
        starts = [mark.at for mark in job.history if mark.state is JobState.RUNNING]
        assert [span.started_at, span.attempt_at] == pytest.approx(starts, abs=1e-6)
        assert span.attempt_at > span.started_at
        assert runner.stats().lanes[lane].wait.max == pytest.approx(starts[0] - job.history[0].at, abs=1e-6)


@pytest.mark.parametrize("lane", ["loop", "thread"])
async def test_an_abandoned_job_counts_the_time_until_it_was(lane: str) -> None:
    async with Runner(threads=1, coroutines=1) as runner:
        go = CancelToken()
        job = await runner.options(lane=lane, timeout=0.2, grace=0.1).submit(STUBBORN[lane], go)
        await job.wait()
        stats = runner.stats()
        (span,) = stats.spans
        assert stats.lanes[lane].abandoned == 1
        assert 0.29 <= span.seconds <= stats.open_seconds
        assert stats.lanes[lane].run.max == span.seconds
        assert stats.lanes[lane].busy_share == pytest.approx(span.seconds / stats.open_seconds, rel=0.01)
        go.cancel()
        while runner.stats().lanes[lane].abandoned:
            await asyncio.sleep(0)


async def test_a_job_that_was_cancelled_between_two_attempts_ran_nowhere_in_the_end() -> None:
    async with Runner() as runner:
        job = await runner.options(retries=Retry(1, backoff=300.0)).submit(_fail_after, 0.0)
        while job.state is not JobState.WAITING:
            await asyncio.sleep(0)
        job.cancel()
        (span,) = runner.stats().spans
        assert (span.worker, span.attempt_at) == ("", None)
        assert span.started_at is not None


def _fail_after(seconds: float) -> None:
    time.sleep(seconds)
    raise OSError("on purpose")


async def _afail_after(seconds: float) -> None:
    await asyncio.sleep(seconds)
    raise OSError("on purpose")


async def until_later(instant: float) -> None:
    """Real time has to pass here: it is what is measured."""
    while time.monotonic() < instant:
        await asyncio.sleep(0.01)
