"""Many jobs, F55 and F56 scaled down: fast to queue, small in memory, a map that does not grow."""

from __future__ import annotations

import gc
import operator
import time
import tracemalloc
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
import runner_jobs as jobs
from pauses import PauseClock

from asyncjobs import JobState, Runner

MANY = 20_000


@pytest.mark.slow
@pytest.mark.parametrize("lane", jobs.LANES)
async def test_f56_twenty_thousand_jobs_are_queued_in_seconds_and_each_costs_at_most_a_kilobyte(
    lane: str, clock: PauseClock
) -> None:
    async with Runner(queue_size=MANY, processes=1) as runner:
        runner.lane(lane).pause()
        submit, fn = runner.options(lane=lane).submit_nowait, jobs.ECHO[lane]
        submit(fn, 0).cancel()
        gc.collect()
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            made = [submit(fn, n) for n in range(1000)]
            used = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        assert used / 1000 <= 1000, f"{used / 1000:.0f} bytes per queued job"
        started = clock()
        made += [submit(fn, n) for n in range(1000, MANY)]
        assert clock() - started < 5
        started = clock()
        assert runner.cancel_all() == MANY
        assert clock() - started < 5
        assert {job.state for job in made} == {JobState.CANCELLED}
        runner.lane(lane).resume()
        await jobs.still_works(runner, lane)


async def test_f56_submit_costs_the_same_with_many_queued_as_with_few() -> None:
    async with Runner(queue_size=MANY) as runner:
        runner.lane("loop").pause()

        def cost() -> float:
            rounds = []
            for _ in range(20):
                started = time.perf_counter()
                made = [runner.submit_nowait(jobs.aecho) for _ in range(50)]
                rounds.append(time.perf_counter() - started)
                for job in made:
                    job.cancel()
            return sorted(rounds)[len(rounds) // 2]

        gc.disable()  # its pauses grow with the heap, whoever made the garbage
        try:
            few = cost()
            for _ in range(MANY - 100):
                runner.submit_nowait(jobs.aecho)
            many = cost()
        finally:
            gc.enable()
        assert many < 2.5 * few + 0.001, f"{few * 1e6 / 50:.1f} us with few, {many * 1e6 / 50:.1f} us with many"
        runner.cancel_all()


async def test_f56_twenty_thousand_jobs_all_run_and_the_history_stays_bounded() -> None:
    async with Runner(history=1000) as runner:
        for n in range(MANY):
            await runner.submit(jobs.aecho, n)
        await runner.join()
        stats = runner.stats()
        assert stats.succeeded == MANY
        assert len(stats.spans) == 1000
        assert runner.jobs() == []


@pytest.mark.slow
async def test_f56_jobs_with_many_priorities_and_keys_leave_nothing_behind() -> None:
    async with Runner(queue_size=5000) as runner:
        runner.lane("loop").pause()
        for n in range(4000):
            runner.options(priority=n % 500, key=f"key {n}").submit_nowait(jobs.aecho)
        runner.lane("loop").resume()
        await runner.join()
        engine: Any = runner._engine
        assert not engine.keys
        assert not engine.live
        assert len(engine.dispatchers["loop"].queue._buckets) <= 1


@pytest.mark.slow
async def test_a_long_map_does_not_grow_the_process() -> None:
    process = psutil.Process()

    def items(count: int) -> Iterator[int]:
        yield from range(count)

    async with Runner(processes=2) as runner:
        on_lane = runner.options(lane="process")
        total = 0
        async for value in on_lane.map(operator.neg, items(20_000)):
            total += value
        gc.collect()
        before = process.memory_info().rss
        async for value in on_lane.map(operator.neg, items(200_000)):
            total += value
        gc.collect()
        grown = process.memory_info().rss - before
    assert grown < 20e6, f"{grown / 1e6:.0f} MB"
    assert total == -sum(range(20_000)) - sum(range(200_000))


async def test_f55_a_fast_source_and_a_slow_consumer_stay_within_the_look_ahead() -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for n in range(10_000):
            taken += 1
            yield n

    async with Runner(threads=4) as runner:
        got = 0
        async with runner.map(jobs.echo, items(), lookahead=8) as values:
            async for value in values:
                assert value == got
                got += 1
                assert taken <= got + 8
                assert len(runner.jobs()) <= 8
                if got == 500:
                    break
        assert runner.jobs() == []


async def test_f55_submit_holds_back_whoever_is_too_fast() -> None:
    async with Runner(queue_size=10, threads=2) as runner:
        most = 0
        for n in range(500):
            await runner.submit(jobs.echo, n)
            most = max(most, runner.stats().lanes["thread"].queued)
        await runner.join()
        assert most <= 10
        assert runner.stats().succeeded == 500


async def test_events_of_many_jobs_do_not_pile_up() -> None:
    async with Runner() as runner:
        with runner.events(size=100) as events:
            for n in range(1000):
                await runner.submit(jobs.aecho, n)
            await runner.join()
            assert events.dropped == 3 * 1000 - 100
            assert (await anext(events)).state in (JobState.RUNNING, JobState.SUCCEEDED, JobState.QUEUED)
