"""Large data between processes: right, private, and gone when nobody looks at it any more."""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import array_jobs as jobs
import numpy as np
import pytest
from doors import new_door
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

import asyncjobs as aj
from asyncjobs.lanes import freight
from asyncjobs.lanes.process import ProcessLane

MIB = 2**20
BIG = 300_000
"""Float64 values in a large array: some 2.3 MiB, copied by a thread; a third of it is copied on the loop."""


@pytest.fixture(params=["forkserver", "spawn"])
async def runner(request: pytest.FixtureRequest) -> AsyncIterator[aj.Runner]:
    lane = ProcessLane(2, start_method=request.param)
    async with aj.Runner(lanes={"process": lane}, arena_bytes=512 * MIB, options={"lane": "process"}) as opened:
        yield opened
        await opened.aclose(drain=0, grace=0.1)


def ramp(size: int = BIG, start: float = 0.0) -> np.ndarray[Any, Any]:
    return np.arange(start, start + size)


def count_mappings() -> int:
    return len(Path("/proc/self/maps").read_text().splitlines())


def memory_of(runner: aj.Runner) -> int:
    return runner._engine.memory.used


async def until(fact: Callable[[], bool], within: float = 10.0) -> None:
    """Wait for what no event tells of."""
    async with asyncio.timeout(within):
        while not fact():
            await asyncio.sleep(0.01)


# --- right, both ways -------------------------------------------------------------------


@pytest.mark.parametrize("size", [BIG // 3, BIG])
async def test_an_array_arrives_and_comes_back(runner: aj.Runner, size: int) -> None:
    sent = ramp(size)
    total, back = await runner.run(jobs.total, sent), await runner.run(jobs.same, sent)
    assert total == sent.sum()
    assert np.array_equal(back, sent)
    assert back.flags.writeable
    assert not np.shares_memory(back, sent)


async def test_a_job_that_writes_to_its_argument_changes_only_its_own_copy(runner: aj.Runner) -> None:
    sent = ramp()
    for _ in range(4):
        back = await runner.run(jobs.negated_in_place, sent)
        assert np.array_equal(back, -ramp()), "nothing of an earlier job's writing shows"
        assert np.array_equal(sent, ramp())
        del back


async def test_a_result_that_aliases_an_argument_is_right(runner: aj.Runner) -> None:
    sent = ramp()
    views = [await runner.run(jobs.every_second, sent) for _ in range(3)]
    await runner.map(jobs.negated_in_place, [ramp() for _ in range(10)]).collect()
    for view in views:
        assert np.array_equal(view, ramp()[::2])


@pytest.mark.slow
async def test_a_job_that_keeps_its_argument_has_right_data_after_a_thousand_others(runner: aj.Runner) -> None:
    one = aj.ProcessLane(1)
    async with aj.Runner(lanes={"process": one}, options={"lane": "process"}) as single:
        sums = [await single.run(jobs.keep, ramp(BIG // 3, start)) for start in range(5)]
        for start in range(0, 1000, 10):
            await asyncio.gather(*(_awaited(single, ramp(BIG // 30, start + i)) for i in range(10)))
        assert await single.run(jobs.kept_sums) == sums


async def _awaited(runner: aj.Runner, array: np.ndarray[Any, Any]) -> None:
    assert await runner.run(jobs.total, array) == array.sum()


@pytest.mark.slow
async def test_results_are_right_for_as_long_as_somebody_holds_them(runner: aj.Runner) -> None:
    held = [await runner.run(jobs.filled, BIG // 3, value) for value in range(20)]
    for value in range(20, 60):
        await runner.run(jobs.filled, BIG // 3, value)
    again = [await runner.run(jobs.same, array) for array in held]
    for value, (first, second) in enumerate(zip(held, again, strict=True)):
        assert np.array_equal(first, np.full(BIG // 3, float(value)))
        assert np.array_equal(second, first)


@pytest.mark.slow
async def test_results_outlive_their_worker_and_their_runner() -> None:
    async with aj.Runner(processes=1, options={"lane": "process"}) as runner:
        first = await runner.run(jobs.filled, BIG, 1)
        pid = await runner.run(jobs.pid)
        os.kill(pid, signal.SIGKILL)
        second = await runner.run(jobs.filled, BIG, 2)
    gc.collect()
    assert first.sum() == BIG
    assert second.sum() == 2 * BIG


async def test_large_data_of_other_kinds_and_deep_inside_others_arrives(runner: aj.Runner) -> None:
    nested = {
        "bytes": bytes(range(256)) * 1000,
        "bytearray": bytearray(b"x" * 100_000),
        "text": "ä" * 100_000,
        "list": [ramp(20_000), {"deep": jobs.Record(ramp(10_000), "name")}],
        "numbers": list(range(50_000)),
    }
    back = await runner.run(jobs.same, nested)
    assert jobs.equal(back, nested)
    assert type(back["bytearray"]) is bytearray


async def test_the_same_array_twice_is_one_array_over_there(runner: aj.Runner) -> None:
    sent = ramp()
    assert await runner.run(jobs.are_one, sent, sent)
    one, other = await runner.run(jobs.twice, sent)
    assert one is other


dtypes = st.sampled_from(["f8", "f4", "i1", "u2", ">i4", "c16", "?", "M8[s]", "S7", "U3", "f8,i4", "O"])


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray[Any, Any]:
    kind = np.dtype(draw(dtypes))
    shape = draw(npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=60))
    count = int(np.prod(shape))
    numbers = np.random.default_rng(draw(st.integers(0, 1000))).integers(0, 100, count)
    flat = numbers.astype("i8").astype("M8[s]") if kind.kind == "M" else np.zeros(count, kind)
    if kind.names:
        flat["f0"], flat["f1"] = numbers, numbers[::-1]
    elif kind.kind != "M":
        flat[...] = numbers.astype(kind)
    array = flat.reshape(shape)
    if draw(st.booleans()):
        array = np.asfortranarray(array)
    if draw(st.booleans()):
        array = np.repeat(array[..., None], draw(st.sampled_from([2, 40])), axis=-1) if array.size else array
    if array.ndim and draw(st.booleans()):
        array = array[:: draw(st.sampled_from([-1, 1, 2]))]
    if draw(st.booleans()):
        array = array.T
    array.flags.writeable = draw(st.booleans()) and array.flags.writeable
    return array


trees = st.recursive(
    arrays(), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)


@pytest.fixture(scope="module")
def loop_and_runner() -> Any:
    loop = asyncio.new_event_loop()
    opened = loop.run_until_complete(aj.Runner(processes=2, options={"lane": "process"}).__aenter__())
    yield loop, opened
    loop.run_until_complete(opened.aclose())
    loop.close()


@pytest.mark.slow
@pytest.mark.may_leak("the runner stays open for the whole module")
@given(tree=trees)
@settings(max_examples=120, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
def test_arrays_of_every_kind_in_any_structure_arrive_equal_after_a_storm(loop_and_runner: Any, tree: Any) -> None:
    loop, opened = loop_and_runner

    async def storm() -> Any:
        first = await opened.submit(jobs.same, tree)
        others = [await opened.submit(jobs.negated_in_place, ramp(20_000, n)) for n in range(4)]
        back = await first
        for other in others:
            await other
        return back

    # Not `tree` itself: numpy's own pickling turns the byte order of what is not contiguous.
    assert jobs.equal(loop.run_until_complete(storm()), pickle.loads(pickle.dumps(tree, 5)))


# --- memory goes round, and comes back --------------------------------------------------


def mapping_count() -> int:
    """How many pieces of memory this process has mapped."""
    return len(Path("/proc/self/maps").read_text().splitlines())


@pytest.mark.slow
async def test_memory_does_not_grow_over_many_jobs(runner: aj.Runner) -> None:
    async with new_door() as door:  # both workers are up, and have carried some
        both = [await runner.submit(jobs.same_at, ramp(BIG // 3), door.path) for _ in range(2)]
        assert len({await door.arrival() for _ in both}) == 2
        door.open(2)
        for job in both:
            await job
    await asyncio.gather(*(runner.run(jobs.same, ramp(BIG // 3)) for _ in range(20)))
    descriptors, mappings = len(os.listdir("/proc/self/fd")), count_mappings()
    for _ in range(300):
        await runner.run(jobs.same, ramp(BIG // 3))
    assert memory_of(runner) <= 32 * ramp(BIG // 3).nbytes, "as many as there were at once, and a few more"
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 2  # a window of the file may be mapped late
    assert count_mappings() <= mappings + 2


async def test_the_figures_show_what_the_arenas_hold_and_do() -> None:
    async with aj.Runner(processes=1, arena_bytes=64 * MIB, options={"lane": "process"}) as runner:
        assert runner.stats().memory == (64 * MIB, *[0] * 8)
        for _ in range(5):
            await runner.run(jobs.same, ramp(BIG // 3))
        held = await runner.run(jobs.same, ramp(BIG // 3))
        with runner.share(ramp()):
            figures = runner.stats().memory
            assert (figures.shared, figures.shared_nbytes >= ramp().nbytes) == (1, True)
        assert 2 <= figures.segments <= 4
        assert figures.recycled >= 6
        assert held.nbytes <= figures.in_use <= figures.nbytes <= figures.cap
        assert figures.inlined == 0


async def test_idle_memory_is_given_back(runner: aj.Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freight, "IDLE", 0.05)
    for _ in range(3):
        await runner.run(jobs.same, ramp())
    assert memory_of(runner) > 0
    await until(lambda: memory_of(runner) == 0)
    assert runner.stats().memory.retired > 0
    assert await runner.run(jobs.total, ramp()) == ramp().sum()


async def test_what_can_never_fit_is_refused_at_submit_with_the_figures() -> None:
    async with aj.Runner(processes=1, arena_bytes=4 * MIB, options={"lane": "process"}) as runner:
        with pytest.raises(aj.ArenaFull, match=r"total need .* arena_bytes allows 4194304") as caught:
            await runner.submit(jobs.total, ramp(MIB))
        assert (caught.value.need >= 8 * MIB, caught.value.used, caught.value.cap) == (True, 0, 4 * MIB)
        with pytest.raises(aj.ArenaFull, match="the result of filled"):
            await runner.run(jobs.filled, MIB, 1)
        with pytest.raises(aj.ArenaFull, match="shared objects"):
            runner.share(ramp(MIB))
        assert await runner.run(jobs.total, ramp(1000)) == ramp(1000).sum()


async def test_a_job_waits_for_room_and_the_cap_holds() -> None:
    async with aj.Runner(processes=2, arena_bytes=4 * MIB, options={"lane": "process"}) as runner:
        work = [await runner.submit(jobs.total, ramp(BIG, n)) for n in range(12)]
        most = 0
        for n, job in enumerate(work):
            assert await job == ramp(BIG, n).sum()
            most = max(most, memory_of(runner))
        assert 0 < most <= 4 * MIB


async def test_arguments_that_jobs_keep_for_ever_stop_nobody() -> None:
    async with aj.Runner(processes=1, arena_bytes=4 * MIB, options={"lane": "process"}) as runner:
        async with asyncio.timeout(30):
            sums = [await runner.run(jobs.keep, ramp(BIG // 3, n)) for n in range(12)]
        assert await runner.run(jobs.kept_sums) == sums
        assert memory_of(runner) <= 4 * MIB


async def test_results_that_are_held_for_ever_stop_nobody() -> None:
    async with aj.Runner(processes=1, arena_bytes=4 * MIB, options={"lane": "process"}) as runner:
        async with asyncio.timeout(30):
            held = [await runner.run(jobs.filled, BIG // 3, n) for n in range(12)]
        assert [array[-1] for array in held] == list(range(12))
        assert memory_of(runner) <= 4 * MIB


async def test_queue_bytes_bounds_what_queued_jobs_refer_to() -> None:
    async with aj.Runner(processes=1, queue_bytes=3 * MIB, options={"lane": "process"}) as runner:
        runner.lane("process").pause()
        array = np.zeros(MIB // 8)
        jobs_ = [runner.submit_nowait(jobs.total, array) for _ in range(2)]
        with pytest.raises(aj.QueueFull, match="queue_bytes is 3145728"):
            runner.submit_nowait(jobs.total, np.zeros(2 * MIB // 8))
        waiting = asyncio.create_task(runner.submit(jobs.total, np.zeros(2 * MIB // 8)))
        await asyncio.sleep(0)
        assert not waiting.done()
        runner.lane("process").resume()
        for job in [*jobs_, await waiting]:
            assert await job == 0.0


@pytest.mark.slow
async def test_arguments_of_calls_that_were_taken_back_leave_nothing(runner: aj.Runner) -> None:
    for _ in range(5):
        await runner.run(jobs.nap, 0.0, ramp(BIG // 30))  # so that more than one goes into a window
    naps = [await runner.submit(jobs.nap, 0.05 if n % 7 == 0 else 0.0, ramp(BIG // 30)) for n in range(60)]
    for nap in naps:
        await nap
    await until(lambda: runner.stats().memory.in_use == 0)


# --- faults -----------------------------------------------------------------------------


@pytest.mark.slow
async def test_the_memory_of_a_killed_worker_comes_back(runner: aj.Runner) -> None:
    async with new_door() as door:
        for _ in range(4):
            job = await runner.submit(jobs.take_and_wait, ramp(), door.path)
            os.kill(await door.arrival(), signal.SIGKILL)
            with pytest.raises(aj.WorkerLost):
                await job
    await until(lambda: memory_of(runner) == 0)


async def _pid_of(runner: aj.Runner) -> int:
    lane: Any = runner._lanes["process"]
    async with asyncio.timeout(10):
        while True:
            for slot in lane._slots:
                if slot.count and slot.pid:
                    return int(slot.pid)
            await asyncio.sleep(0.01)


@pytest.mark.slow
async def test_a_worker_that_dies_while_its_arguments_are_copied_harms_nobody(runner: aj.Runner) -> None:
    await runner.map(jobs.pid, range(4)).collect()
    for _ in range(5):
        job = await runner.submit(jobs.total, ramp(4 * MIB))
        os.kill(await _pid_of(runner), signal.SIGKILL)
        assert job.done() or await job.wait() is None
        assert job.state in (aj.JobState.SUCCEEDED, aj.JobState.LOST)
    assert await runner.run(jobs.total, ramp()) == ramp().sum()


async def test_without_memory_files_unlinked_files_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    async with aj.Runner(processes=1, options={"lane": "process"}) as runner:
        assert np.array_equal(await runner.run(jobs.same, ramp()), ramp())


# --- shared objects ---------------------------------------------------------------------


async def test_a_job_gets_the_shared_object_itself_mapped_once_and_read_only(runner: aj.Runner) -> None:
    with runner.share(ramp()) as handle:
        used = memory_of(runner)
        seen = [await runner.run(jobs.address_and_sum, handle) for _ in range(6)]
        assert {total for _, _, total in seen} == {ramp().sum()}
        assert len({(pid, address) for pid, address, _ in seen}) == len({pid for pid, _, _ in seen})
        assert memory_of(runner) == used
        with pytest.raises(ValueError, match="read-only"):
            await runner.run(jobs.negated_in_place, handle)
        assert await runner.run(jobs.deep_total, {"in": [handle]}) == ramp().sum()
        assert await runner.options(lane="thread").run(jobs.total, handle) == ramp().sum()
    await until(lambda: memory_of(runner) == 0)


async def test_the_same_object_gives_the_same_handle_until_it_is_closed(runner: aj.Runner) -> None:
    array = ramp()
    handle = runner.share(array)
    assert runner.share(array) is handle
    assert runner.share(ramp()) is not handle
    handle.close()
    handle.close()
    assert runner.share(array) is not handle
    with pytest.raises((aj.NotSendable, ValueError), match="closed"):
        await runner.submit(jobs.total, handle)


async def test_jobs_that_were_queued_with_a_handle_are_not_harmed_by_its_close(runner: aj.Runner) -> None:
    runner.lane("process").pause()
    handle = runner.share(ramp())
    queued = [await runner.submit(jobs.keep, handle) for _ in range(4)]
    handle.close()
    del handle
    gc.collect()
    others = [runner.share(ramp(BIG, n)) for n in range(3)]
    runner.lane("process").resume()
    for job in queued:
        assert await job == ramp().sum()
    assert [await runner.run(jobs.total, other) for other in others] == [ramp(BIG, n).sum() for n in range(3)]
    sums = [total for _ in range(8) for total in await runner.run(jobs.kept_sums)]
    assert set(sums) == {ramp().sum()}, "what jobs keep of a shared object stays right after its close"


async def test_a_shared_object_of_another_runner_is_refused(runner: aj.Runner) -> None:
    async with aj.Runner(processes=1) as other:
        handle = other.share(ramp())
        with pytest.raises(ValueError, match="another runner"):
            await runner.submit(jobs.total, handle)


async def test_a_map_sends_what_its_function_captured_once_per_worker(runner: aj.Runner) -> None:
    table = ramp(MIB)
    used = []

    def look_up(index: int) -> float:
        return float(table[index])

    async for value in runner.map(look_up, range(2000)):
        used.append(memory_of(runner))
        assert value == len(used) - 1
    assert max(used) <= 2 * table.nbytes + MIB


async def test_large_initializer_arguments_arrive_in_every_worker() -> None:
    lane = ProcessLane(2, initializer=jobs.keep, initargs=(ramp(),))
    async with aj.Runner(lanes={"process": lane}, options={"lane": "process"}) as runner:
        assert await runner.map(jobs.kept_sums_of, range(6)).collect() == [[ramp().sum()]] * 6


async def test_a_result_above_max_result_is_refused_by_all_its_bytes(runner: aj.Runner) -> None:
    with pytest.raises(aj.ResultTooLarge) as caught:
        await runner.options(max_result=MIB).run(jobs.filled, BIG, 1)
    assert caught.value.nbytes >= BIG * 8
