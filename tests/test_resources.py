"""Jobs that say what they need: they start when all of it is free, in order, and devices are theirs alone."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import jobs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jobs import import_from

import asyncjobs as aj
from asyncjobs import Job, JobState, ProcessLane, QueueFull, Runner
from asyncjobs.engine.admission import SupplyGate
from asyncjobs.jobqueue import JobQueue
from asyncjobs.lanes.base import Call, Plan
from asyncjobs.lanes.supply import Supply
from asyncjobs.options import settle
from asyncjobs.processors import usable_processors
from asyncjobs.resources import amounts, text
from asyncjobs.testing import work
from asyncjobs.testing.work import FileGate, until

VISIBLE = "CUDA_VISIBLE_DEVICES"
GIB = 2**30


@asynccontextmanager
async def counting(workers: int = 4, **resources: float | str) -> AsyncIterator[Runner]:
    """A runner whose process lane has so much."""
    async with Runner(lanes={"process": ProcessLane(workers, resources=resources)}) as runner:
        yield runner


async def submit(runner: Runner, fn: Any, *args: Any, needs: dict[str, Any] | None = None, **options: Any) -> Job[Any]:
    return await runner.options(lane="process", resources=needs, **options).submit(fn, *args)


def supply_of(runner: Runner) -> Supply:
    lane = runner._engine.dispatchers["process"].lane
    assert isinstance(lane, ProcessLane)
    return lane.supply


def seen(gate: FileGate | None = None) -> tuple[str | None, int]:
    """In a worker: the devices that it sees, and which process it is."""
    if gate is not None:
        work.hold(gate)
    return os.environ.get(VISIBLE), os.getpid()


# --- what may be said -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"cpu": 2, "gpu": 1}, {"cpu": 2, "gpu": 1}),
        ({"memory": "2GiB"}, {"memory": 2 * GIB}),
        ({"memory": "1.5 KiB", "disk": "3GB"}, {"memory": 1536, "disk": 3_000_000_000}),
        ({"memory": "7B", "licence": 0}, {"memory": 7}),
        ({"memory": "1kB"}, {"memory": 1000}),
        ({}, {}),
    ],
)
def test_amounts_are_numbers_in_the_end(given: dict[str, Any], found: dict[str, float]) -> None:
    assert dict(amounts(given)) == found


@pytest.mark.parametrize("size", ["2KB", "2gib", "GiB", "-1GiB", "1e3B", "2 GiB ", "2"])
def test_a_size_of_no_known_unit_is_refused(size: str) -> None:
    with pytest.raises(ValueError, match="sizes such as '2GiB'"):
        amounts({"memory": size})


def test_amounts_read_as_people_write_them() -> None:
    assert text(amounts({"cpu": 1.5, "gpu": 2, "memory": 3 * GIB})) == "cpu=1.5, gpu=2, memory=3GiB"
    assert text({"memory": 0}) == "memory=0B"


def test_what_nobody_says_the_machine_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VISIBLE, raising=False)
    total = ProcessLane(1).supply.total
    assert total["cpu"] == usable_processors()
    assert 0 < total["memory"] <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert total["gpu"] == 0
    monkeypatch.setenv(VISIBLE, "3,GPU-8932f937,-1,4")
    assert ProcessLane(1).supply.total["gpu"] == 2, "CUDA looks at none behind the first that is wrong"
    assert ProcessLane(1, env={VISIBLE: "5"}).supply.total["gpu"] == 1, "its workers see the lane's own"
    assert ProcessLane(1, resources={"gpu": 0, "cpu": 64}).supply.total["gpu"] == 0
    with pytest.raises(ValueError, match="at most the 2 of CUDA_VISIBLE_DEVICES"):
        ProcessLane(1, resources={"gpu": 3})
    with pytest.raises(ValueError, match="resources="):
        ProcessLane(1, resources={"gpu": "many"})


async def test_more_than_there_is_at_all_is_refused_at_submit() -> None:
    async with counting(gpu=2, memory="4GiB") as runner:
        with pytest.raises(
            ValueError, match=r"fit needs gpu=3, memory=5GiB, and lane 'process' has gpu=2, memory=4GiB"
        ):
            await submit(runner, seen, needs={"gpu": 3, "memory": "5GiB", "cpu": 1}, name="fit")
        with pytest.raises(ValueError, match=r"needs licence=1, .* has licence=0 .*ProcessLane\(resources=\{'licence'"):
            await submit(runner, seen, needs={"licence": 1})
        with pytest.raises(ValueError, match=r"gpu=0\.5, and a device goes to one job at a time"):
            await submit(runner, seen, needs={"gpu": 0.5})
        assert runner.stats().lanes["process"].submitted == 0


async def test_lanes_that_count_nothing_refuse() -> None:
    with ThreadPoolExecutor(1) as pool:
        async with Runner(lanes={"pool": aj.ExecutorLane(pool)}) as runner:
            for lane, fn in (("thread", work.double), ("loop", work.double_async), ("pool", work.double)):
                with pytest.raises(ValueError, match="resources"):
                    await runner.options(lane=lane, resources={"gpu": 1}).submit(fn, 1)


# --- who starts when --------------------------------------------------------------------


async def test_a_job_starts_when_all_that_it_needs_is_free(tmp_path: Path) -> None:
    first, second = FileGate(str(tmp_path), "first"), FileGate(str(tmp_path), "second")
    async with counting(cpu=4, memory="4GiB") as runner:
        one = await submit(runner, work.hold, first, 1, needs={"cpu": 2, "memory": "1GiB"})
        two = await submit(runner, work.hold, second, 2, needs={"cpu": 2, "memory": "1GiB"})
        await first.arrival()
        await second.arrival()
        waits = await submit(runner, work.double, 3, needs={"cpu": 1, "memory": "1GiB"})
        plain = await submit(runner, work.double, 4)
        assert await plain == 8, "what needs nothing is not held up"
        assert waits.state is JobState.QUEUED
        assert runner.stats().lanes["process"].queued == 1
        assert supply_of(runner).free["cpu"] == 0
        first.open()
        assert [await waits, await one] == [6, 1]
        second.open()
        assert await two == 2
        assert supply_of(runner).free == supply_of(runner).total


async def test_who_needs_much_gets_its_turn_though_small_ones_keep_coming(tmp_path: Path) -> None:
    gates = [FileGate(str(tmp_path), str(number)) for number in range(2)]
    log = str(tmp_path / "log")
    async with counting(cpu=2, disk=1) as runner:
        held = [await submit(runner, work.hold, gate, needs={"cpu": 1}) for gate in gates]
        for gate in gates:
            await gate.arrival()
        big = await submit(runner, work.write_down, log, "big", needs={"cpu": 2})
        small = [await submit(runner, work.write_down, log, f"small {n}", needs={"cpu": 1}) for n in range(3)]
        other = await submit(runner, work.write_down, log, "other", needs={"disk": 1})
        await other
        gates[0].open()  # room for each of the small ones, and none of them takes it
        await held[0]
        await (await submit(runner, work.double, 1, needs={"disk": 1}))
        assert work.lines(log) == ["other"]
        gates[1].open()
        await aj.gather([big, *small, *held])
        assert work.lines(log)[:2] == ["other", "big"]


async def test_higher_priority_goes_before_who_waits_longer(tmp_path: Path) -> None:
    gate, log = FileGate(str(tmp_path)), str(tmp_path / "log")
    async with counting(cpu=1) as runner:
        await submit(runner, work.hold, gate, needs={"cpu": 1})
        await gate.arrival()
        order = [("low", -1), ("first", 0), ("high", 5), ("second", 0)]
        waiting = [
            await submit(runner, work.write_down, log, name, needs={"cpu": 1}, priority=at) for name, at in order
        ]
        gate.open()
        await aj.gather(waiting)
        assert work.lines(log) == ["high", "first", "second", "low"]


async def test_those_that_wait_are_bounded_by_the_queue_and_leave_it_when_they_are_cancelled(tmp_path: Path) -> None:
    gate = FileGate(str(tmp_path))
    async with Runner(lanes={"process": ProcessLane(2, resources={"cpu": 1})}, queue_size=3) as runner:
        needy = runner.options(lane="process", resources={"cpu": 1})
        holder = await needy.submit(work.hold, gate, 7)
        await gate.arrival()
        waiting = [await needy.submit(work.double, number) for number in range(3)]
        with pytest.raises(QueueFull):
            needy.submit_nowait(work.double, 3)
        assert waiting[0].cancel() == "cancelled"
        last = needy.submit_nowait(work.double, 4)
        gate.open()
        assert [await holder, await waiting[1], await waiting[2], await last] == [7, 2, 4, 8]
        assert waiting[0].state is JobState.CANCELLED


async def test_what_a_job_held_is_free_however_it_ended(tmp_path: Path) -> None:
    async with counting(cpu=1) as runner:
        needs = {"cpu": 1}
        failed = await submit(runner, work.raise_one, KeyError, "x", needs=needs)
        killed = await submit(runner, jobs.kill_itself, needs=needs)
        gate = FileGate(str(tmp_path))
        stopped = await submit(runner, work.hold, gate, needs=needs, grace=0.0, timeout=0.05)
        for job in (failed, killed, stopped):
            await job.wait()
        assert [failed.state, killed.state, stopped.state] == [JobState.FAILED, JobState.LOST, JobState.TIMED_OUT]
        again = await submit(runner, work.fail_until, str(tmp_path / "calls"), 3, needs=needs, retries=2)
        assert await again == 3
        assert supply_of(runner).free == supply_of(runner).total


async def test_a_job_that_waits_for_its_next_attempt_holds_nothing(tmp_path: Path) -> None:
    async with counting(cpu=1) as runner:
        retry = aj.Retry(1, backoff=lambda attempt: 3600.0)
        job = await submit(runner, work.raise_one, KeyError, "x", needs={"cpu": 1}, retries=retry)
        await until(lambda: job.state is JobState.WAITING, "the first attempt")
        assert await (await submit(runner, work.double, 2, needs={"cpu": 1})) == 4
        job.cancel()


async def test_items_of_a_map_need_as_much_each(tmp_path: Path) -> None:
    async with counting(workers=2, cpu=1) as runner:
        values = await runner.options(lane="process", resources={"cpu": 1}).map(jobs.pid, range(6)).collect()
        assert len(values) == 6
        assert runner.stats().lanes["process"].submitted == 6


async def test_jobs_that_hold_a_limiter_too_need_both(tmp_path: Path) -> None:
    gate = FileGate(str(tmp_path))
    async with counting(cpu=2) as runner:
        limiter = anyio.CapacityLimiter(1)
        held = await submit(runner, work.hold, gate, 1, needs={"cpu": 1}, limiter=limiter)
        await gate.arrival()
        waits = await submit(runner, work.double, 2, needs={"cpu": 1}, limiter=limiter)
        free = await submit(runner, work.double, 3, needs={"cpu": 1})
        assert await free == 6
        assert waits.state is JobState.QUEUED
        gate.open()
        assert [await held, await waits] == [1, 4]
        assert limiter.borrowed_tokens == 0


# --- devices ----------------------------------------------------------------------------


async def test_each_job_sees_devices_of_its_own_before_anything_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VISIBLE, "2,5,7")
    gate = FileGate(str(tmp_path))
    (tmp_path / "looks_at_import.py").write_text(f"import os\nSEEN = os.environ.get({VISIBLE!r})\n")
    lane = ProcessLane(3, initializer=import_from, initargs=(str(tmp_path), "looks_at_import"))
    async with Runner(lanes={"process": lane}) as runner:
        held = [await submit(runner, seen, gate, needs={"gpu": 1}) for _ in range(3)]
        await gate.arrival(3)
        waits = await submit(runner, at_import, needs={"gpu": 2})
        gate.open()
        devices, pids = zip(*[await job for job in held], strict=True)
        assert sorted(devices) == ["2", "5", "7"]
        assert len(set(pids)) == 3
        assert await waits in ("2,5", "2,7", "5,7")


def at_import() -> str | None:
    """What a module saw that reads the environment when it is imported, as torch does."""
    found: str | None = sys.modules["looks_at_import"].SEEN
    return found


async def test_workers_keep_their_devices() -> None:
    async with counting(workers=2, gpu=2) as runner:
        first = [await (await submit(runner, seen, needs={"gpu": 1})) for _ in range(4)]
        assert len(set(first)) == 1, "an idle worker with a free device is the best"
        assert first[0][0] in ("0", "1")
        pair = await (await submit(runner, seen, needs={"gpu": 2}))
        assert pair[0] == "0,1"
        singles = [await (await submit(runner, seen, needs={"gpu": 1})) for _ in range(3)]
        assert singles[0] == first[0], "the pair had a worker of its own"
        assert len(set(singles)) == 1
        assert await (await submit(runner, seen, needs={"gpu": 2})) == pair


async def test_a_worker_with_another_device_is_replaced() -> None:
    async with counting(workers=1, gpu=2) as runner:
        single = await (await submit(runner, seen, needs={"gpu": 1}))
        pair = await (await submit(runner, seen, needs={"gpu": 2}))
        assert (single[0], pair[0]) == ("0", "0,1")
        assert single[1] != pair[1]
        killed = await submit(runner, jobs.kill_itself, needs={"gpu": 2})
        await killed.wait()
        assert (await (await submit(runner, seen)))[0] == "0,1", "its successor has the same"


async def test_a_job_that_is_cancelled_while_its_worker_is_made_never_starts(tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    async with counting(workers=1, gpu=1) as runner:
        await (await submit(runner, work.double, 1))
        slot = runner._engine.dispatchers["process"].lane.places()[0]
        job = await submit(runner, work.write_down, log, "it did", needs={"gpu": 1})
        while slot.fitting.call is None:
            await asyncio.sleep(0)
        job.cancel()
        await job.wait()
        assert job.state is JobState.CANCELLED
        assert (await (await submit(runner, seen, needs={"gpu": 1})))[0] == "0"
        assert work.lines(log) == []


async def test_a_lane_that_shrinks_gives_back_who_waits_for_a_fresh_worker() -> None:
    async with counting(workers=2, gpu=2) as runner:
        await aj.gather([await submit(runner, jobs.pid) for _ in range(2)])
        lane = runner._engine.dispatchers["process"].lane
        held = [await submit(runner, seen, needs={"gpu": 1}) for _ in range(2)]
        while sum(slot.fitting.call is not None for slot in lane.places()) < 2:
            await asyncio.sleep(0)
        runner.lane("process").resize(1)
        assert sorted([(await job)[0] for job in held]) == ["0", "1"]


# --- the rule, in the small -------------------------------------------------------------

NAMES = ("cpu", "gpu", "disk")


class Trial:
    """A gate without a runner: calls come, start when they may, and end."""

    def __init__(self, totals: dict[str, float]) -> None:
        self.loop = asyncio.get_running_loop()
        self.queue = JobQueue()
        self.supply = Supply(totals, None)
        self.gate = SupplyGate(self.queue, self.supply, self.loop)
        self.running: list[Call] = []
        self.waiting: list[Call] = []
        self.number = 0

    def come(self, needs: dict[str, float], priority: int) -> None:
        self.number += 1
        options = aj.JobOptions(resources=needs, priority=priority)
        call = Call(Plan("job", "process", settle(options), is_coroutine=False))
        call.number = self.number
        self.waiting.append(call)
        self.queue.append(call)
        self.feed()

    def feed(self) -> None:
        while (call := self.queue.take()) is not None:
            if self.gate.admits(call):
                self.start(call)

    def start(self, call: Call) -> None:
        ahead = [other for other in self.waiting if (-other.priority, other.number) < (-call.priority, call.number)]
        wanted = {name for other in ahead for name in other.plan.needs or ()}
        assert wanted.isdisjoint(call.plan.needs or ()), "it went before somebody who waits for the same"
        self.waiting.remove(call)
        self.running.append(call)
        used = {name: sum((other.plan.needs or {}).get(name, 0) for other in self.running) for name in NAMES}
        assert all(used[name] <= self.supply.total[name] for name in NAMES), used
        devices = [device for other in self.running for device in self.supply.devices_of(other)]
        assert len(set(devices)) == len(devices) == used["gpu"]

    async def end(self, at: int) -> None:
        call = self.running.pop(at % len(self.running))
        self.gate.release(call)
        await asyncio.sleep(0)
        self.feed()

    async def give_up(self, at: int) -> None:
        call = self.waiting.pop(at % len(self.waiting))
        self.gate.release(call)
        await asyncio.sleep(0)
        self.feed()


needs_of_one = st.fixed_dictionaries(
    {}, optional={"cpu": st.integers(1, 4), "gpu": st.integers(1, 2), "disk": st.integers(1, 1)}
).filter(bool)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("come"), needs_of_one, st.integers(0, 1)),
        st.tuples(st.just("end"), st.integers(0, 9)),
        st.tuples(st.just("give_up"), st.integers(0, 9)),
    ),
    max_size=40,
)


@settings(max_examples=100, deadline=None)
@given(steps)
def test_no_more_than_there_is_and_nobody_passes_who_waits_for_the_same(trace: list[tuple[Any, ...]]) -> None:
    async def play() -> None:
        trial = Trial({"cpu": 4, "gpu": 2, "disk": 1})
        for verb, *args in trace:
            if verb == "come":
                trial.come(*args)
            elif verb == "end" and trial.running:
                await trial.end(*args)
            elif verb == "give_up" and trial.waiting:
                await trial.give_up(*args)
        while trial.running:
            await trial.end(0)
        assert not trial.waiting, "everybody had a turn"
        assert trial.supply.free == trial.supply.total
        assert trial.queue.qsize() == 0
        assert not trial.gate._lines

    asyncio.run(play())
