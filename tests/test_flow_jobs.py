"""Queues as arguments of jobs: the same verbs, bound, order and promises in threads and in other processes."""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import signal
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import flow_jobs as work
import numpy as np
import psutil
import pytest
from flows import drained, filled, standing, waiting

import asyncjobs as aj
from asyncjobs import FIFOQueue, Runner, SyncQueue
from asyncjobs.flow import PaddingFIFOQueue, Queue
from asyncjobs.remote.asking import Asking
from asyncjobs.remote.queue import RemoteQueue
from asyncjobs.wire import frames

LANES = ("thread", "process")
MIB = 1 << 17
"""Numbers of eight bytes in 1 MiB."""


@pytest.fixture
async def one() -> AsyncIterator[Runner]:
    """A runner with one process, so that all its jobs meet the same worker."""
    async with Runner(processes=1, threads=2) as opened:
        yield opened
        await opened.aclose(drain=0, grace=0.1)


def lane(runner: Runner, name: str, **options: Any) -> Any:
    """Submits to that lane."""
    return runner.options(lane=name, **options)


# --- the classic program ----------------------------------------------------------------


async def classic(runner: Runner, kind: str, producers: int, consumers: int, each: int) -> None:
    """Everything arrives once, and each consumer sees what a producer put in the producer's order."""
    queue = FIFOQueue[Any](20)
    submit = lane(runner, kind).submit
    making = [await submit(work.produce, queue, producer, each) for producer in range(producers)]
    taking = [await submit(work.consume, queue) for _ in range(consumers)]
    await asyncio.gather(*making)
    await queue.close()
    taken = [await job for job in taking]
    everything = [element for part in taken for element in part]
    assert sorted(everything) == [(producer, number) for producer in range(producers) for number in range(each)]
    for part in taken:
        for producer in range(producers):
            numbers = [number for who, number in part if who == producer]
            assert numbers == sorted(numbers)


@pytest.mark.slow
async def test_ten_processes_get_from_and_put_to_one_queue() -> None:
    async with Runner(processes=10) as runner:
        await classic(runner, "process", 5, 5, 100)


@pytest.mark.parametrize("kind", LANES)
async def test_producers_and_consumers_share_one_queue(kind: str) -> None:
    async with Runner(processes=3, threads=3) as runner:
        await classic(runner, kind, 2, 1, 100)


@pytest.mark.parametrize("kind", LANES)
async def test_no_more_than_its_capacity_is_inside_and_jobs_wait(runner: Runner, kind: str) -> None:
    queue = FIFOQueue[Any](3)
    jobs = [await lane(runner, kind).submit(work.produce, queue, producer, 10) for producer in range(2)]
    await standing(queue, producers=2)
    assert queue.size() == queue.stats().enqueued == 3
    taken = [await queue.dequeue() for _ in range(20)]
    await asyncio.gather(*jobs)
    assert len(set(taken)) == 20


@pytest.mark.slow
@pytest.mark.parametrize("kind", LANES)
async def test_jobs_and_coroutines_are_served_in_the_order_of_arrival(runner: Runner, kind: str) -> None:
    queue = FIFOQueue[int](5)
    first = await lane(runner, kind).submit(work.take, queue)
    await standing(queue, consumers=1)
    second = await waiting(queue.dequeue())
    third = await lane(runner, kind).submit(work.take, queue)
    await standing(queue, consumers=3)
    await queue.enqueue_many([1, 2, 3])
    assert (await first, await second, await third) == (1, 2, 3)


# --- verbs ------------------------------------------------------------------------------


def test_both_faces_have_the_same_verbs() -> None:
    def verbs(kind: type) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")}

    assert verbs(RemoteQueue) == verbs(SyncQueue)


@pytest.mark.parametrize("kind", LANES)
async def test_batches_are_made_in_the_job(one: Runner, kind: str) -> None:
    queue = await filled(FIFOQueue[Any](10), *(np.full((2, 3), number) for number in range(4)))
    run = lane(one, kind).run
    assert (await run(work.take_batch, queue, 3)).tolist() == np.stack([np.full((2, 3), n) for n in range(3)]).tolist()
    assert await run(work.take_batch, queue, 0) == []
    padding = await filled(PaddingFIFOQueue(9, [(None,), ()], names=["words", "weight"]))
    await run(work.put_many, padding, [{"words": [1], "weight": 2.0}, {"words": [3, 4], "weight": 5.0}])
    batch = await run(work.take_batch, padding, 2)
    assert (batch["words"].tolist(), batch["weight"].tolist()) == ([[1, 0], [3, 4]], [2.0, 5.0])


@pytest.mark.parametrize("kind", LANES)
async def test_a_batch_that_cannot_be_made_goes_back(one: Runner, kind: str) -> None:
    queue = await filled(FIFOQueue[Any](10), np.zeros(2), np.zeros(3))
    with pytest.raises(ValueError, match="elements 0 and 1 of the batch differ"):
        await lane(one, kind).run(work.take_batch, queue, 2)
    assert [len(element) for element in await drained(queue)] == [2, 3]


@pytest.mark.parametrize("kind", LANES)
async def test_a_job_closes_and_looks(one: Runner, kind: str) -> None:
    queue = await filled(FIFOQueue[int](10), 1, 2)
    is_closed, size, stats = await lane(one, kind).run(work.close_and_look, queue)
    assert (is_closed, size, stats.is_closed, stats.enqueued, stats.capacity) == (True, 2, True, 2, 10)


@pytest.mark.slow
@pytest.mark.parametrize("kind", LANES)
async def test_the_end_of_the_data_reaches_jobs_as_itself(one: Runner, kind: str) -> None:
    queue = await filled(FIFOQueue[int](10), 1, 2)
    await queue.close()
    assert await lane(one, kind).run(work.refusals, queue) == (3, 5, 2, [1, 2], [])
    with pytest.raises(aj.OutOfRangeError):
        await lane(one, kind).run(work.take, queue)
    with pytest.raises(aj.QueueClosedError):
        await lane(one, kind).run(work.put, queue, 1)


@pytest.mark.parametrize("kind", LANES)
async def test_elements_are_checked_at_the_call_of_the_job(one: Runner, kind: str) -> None:
    queue = FIFOQueue[Any](10, shapes=[(2,)], dtypes=["float32"])
    with pytest.raises(ValueError, match=r"Expected \[2\], got \[3\]"):
        await lane(one, kind).run(work.put, queue, [1.0, 2.0, 3.0])
    with pytest.raises(TypeError, match="an iterable"):
        await lane(one, kind).run(work.put_many, queue, "text")
    with pytest.raises(ValueError, match="count=-1"):
        await lane(one, kind).run(work.take_up_to, queue, -1)


async def test_what_is_generated_travels_as_a_list(one: Runner) -> None:
    queue = FIFOQueue[int](5)
    await lane(one, "process").run(work.put_generated, queue, 5)
    assert await drained(queue) == [0, 1, 2, 3, 4]


async def test_a_queue_may_be_deep_inside_an_argument_and_comes_home_as_itself(one: Runner) -> None:
    queue = await filled(FIFOQueue[int](5), 1, 2)
    assert await lane(one, "process").run(work.deep, {"queues": [queue, queue]}) == 3
    assert await lane(one, "process").run(work.same, [queue]) == [queue]
    assert await one.run(len, [queue]) == 1


async def test_a_queue_may_be_an_element_so_that_answers_find_their_way(one: Runner) -> None:
    requests, replies = FIFOQueue[Any](5), FIFOQueue[int](5)
    job = await lane(one, "process").submit(work.answer, requests)
    await requests.enqueue((21, replies))
    assert await replies.dequeue() == 42
    await requests.close()
    await job


async def test_a_keyword_and_a_queue_handed_on_by_its_blocking_face(one: Runner) -> None:
    queue = await filled(FIFOQueue[int](5), 1, 2)
    assert await one.run(work.take, queue=queue.argument) == 1
    assert await lane(one, "process").run(work.take, SyncQueue(queue)) == 2


async def test_coroutine_jobs_get_the_queue_itself(one: Runner) -> None:
    async def take(queue: Queue[int]) -> int:
        return await queue.dequeue()

    assert await one.run(take, await filled(FIFOQueue[int](5), 7)) == 7


async def test_threads_of_a_foreign_executor_get_the_blocking_face() -> None:
    queue = await filled(FIFOQueue[int](5), 7)
    with ThreadPoolExecutor(1) as executor:
        async with Runner(lanes={"own": aj.ExecutorLane(executor)}) as runner:
            assert await runner.options(lane="own").run(work.take, queue.argument) == 7


@pytest.mark.slow
async def test_several_threads_of_one_process_job_may_ask_at_once(one: Runner) -> None:
    queue = FIFOQueue[int](5)
    job = await lane(one, "process").submit(work.take_in_threads, queue, 4)
    await queue.enqueue_many(range(200))
    await queue.close()
    assert sorted(await job) == list(range(200))


def test_a_program_without_a_loop_of_its_own_passes_queues_too() -> None:
    queue = FIFOQueue[Any](20)
    with aj.SyncRunner(processes=1, threads=1) as runner:
        consumer = runner.options(lane="process").submit(work.consume, queue.argument)
        runner.run(work.produce, queue.argument, 0, 30)
        runner.run(work.close_and_look, queue.argument)
        assert consumer.result() == [(0, number) for number in range(30)]


# --- arrays -----------------------------------------------------------------------------


async def test_arrays_travel_through_shared_memory_both_ways(one: Runner) -> None:
    source, target = FIFOQueue[Any](4), FIFOQueue[Any](4)
    job = await lane(one, "process").submit(work.double_arrays, source, target)
    random = np.random.default_rng(1)
    for _ in range(10):
        array = random.normal(size=MIB)
        await source.enqueue(array)
        assert (await target.dequeue() == 2 * array).all()
    await source.close()
    await job
    memory = one.stats().memory
    assert memory.inlined == 0
    assert memory.recycled >= 10


async def test_a_large_array_is_copied_beside_the_loop(one: Runner) -> None:
    queue = await filled(FIFOQueue[Any](4), np.arange(4 * MIB))
    assert (await lane(one, "process").run(work.take, queue) == np.arange(4 * MIB)).all()


@pytest.mark.slow
async def test_a_training_set_far_larger_than_its_memory_streams_through() -> None:
    cap, each = 48 << 20, 64
    async with Runner(processes=4, arena_bytes=cap) as runner:
        queue = FIFOQueue[Any](4)
        submit = lane(runner, "process").submit
        readers = [await submit(work.read_arrays, queue, first, each, MIB) for first in (0, each)]
        consumers = [await submit(work.check_arrays, queue) for _ in range(2)]
        await asyncio.gather(*readers)
        await queue.close()
        numbers = [number for job in consumers for number in await job]
        memory = runner.stats().memory
    assert sorted(numbers) == list(range(2 * each))  # 128 MiB
    assert memory.inlined == 0
    assert memory.nbytes <= cap
    assert memory.segments <= 40  # a few for each end: what was there went round
    assert memory.recycled > 2 * each


async def test_without_room_in_shared_memory_elements_travel_all_the_same() -> None:
    async with Runner(processes=1, arena_bytes=3 << 20) as runner:
        source, target = FIFOQueue[Any](9), FIFOQueue[Any](9)
        await source.enqueue_many([np.full(MIB, number, "f8") for number in range(6)])
        await source.close()
        await lane(runner, "process").run(work.double_arrays, source, target)
        assert [element[0] for element in await drained(target)] == [0, 2, 4, 6, 8, 10]
        assert runner.stats().memory.inlined > 0


# --- ends -------------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_worker_killed_while_it_waits_takes_nothing_along(runner: Runner) -> None:
    queue, pids = FIFOQueue[int](5), FIFOQueue[int](1)
    doomed = await lane(runner, "process").submit(work.tell_pid_and_take, pids, queue)
    pid = await pids.dequeue()
    await standing(queue, consumers=1)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(aj.WorkerLost):
        await doomed
    assert queue.stats().consumers_waiting == 0
    await queue.enqueue(1)
    assert await lane(runner, "process").run(work.take, queue) == 1


async def test_a_producer_killed_while_it_waits_puts_nothing_later(runner: Runner) -> None:
    queue, pids = await filled(FIFOQueue[int](1), 1), FIFOQueue[int](1)
    doomed = await lane(runner, "process").submit(work.tell_pid_and_put, pids, queue, 2)
    pid = await pids.dequeue()
    await standing(queue, producers=1)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(aj.WorkerLost):
        await doomed
    assert await queue.dequeue() == 1
    assert queue.size() == 0


async def test_what_a_worker_was_served_and_never_got_goes_back_to_the_front(runner: Runner) -> None:
    queue, pids = FIFOQueue[int](5), FIFOQueue[int](1)
    doomed = await lane(runner, "process").submit(work.tell_pid_and_take, pids, queue)
    pid = await pids.dequeue()
    await standing(queue, consumers=1)
    os.kill(pid, signal.SIGSTOP)
    while psutil.Process(pid).status() != psutil.STATUS_STOPPED:
        await asyncio.sleep(0.001)
    await queue.enqueue_many([1, 2])
    await standing(queue)
    assert queue.size() == 1  # the first has been handed over, to one who cannot take it
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(aj.WorkerLost):
        await doomed
    assert await drained(queue) == [1, 2]


@pytest.mark.slow
@pytest.mark.parametrize("kind", LANES)
@pytest.mark.parametrize("how", ["cancel", "timeout"])
async def test_a_stop_ends_a_wait_at_once_and_nothing_is_lost(runner: Runner, kind: str, how: str) -> None:
    queue = FIFOQueue[int](2)
    limit = {"timeout": 1.5} if how == "timeout" else {}
    await lane(runner, kind).run(work.pid)  # what the worker has to import is there
    started = asyncio.get_running_loop().time()
    job = await lane(runner, kind, grace=60, **limit).submit(work.take_batch, queue, 3)
    await queue.enqueue_many([1, 2])
    if how == "cancel":
        await standing(queue, consumers=1)
        job.cancel("enough")
    with pytest.raises(aj.JobTimeout if how == "timeout" else aj.JobCancelled):
        await job
    assert asyncio.get_running_loop().time() - started < 50  # within the grace: the job left by itself
    await standing(queue)
    assert await drained(queue) == [1, 2]


@pytest.mark.parametrize("kind", LANES)
async def test_a_job_that_stops_may_still_close(runner: Runner, kind: str) -> None:
    queue = FIFOQueue[int](2)
    job = await lane(runner, kind, grace=60).submit(work.put_or_close, queue, [1, 2, 3])
    await standing(queue, producers=1)
    job.cancel()
    with pytest.raises(aj.JobCancelled):
        await job
    assert queue.is_closed()
    assert await drained(queue) == [1, 2]


def test_a_stop_between_the_request_and_the_wait_is_heard() -> None:
    """A worker's end alone: the token is raised while the request goes out, which asked to wait."""
    sent, job = [], WorkerLike()

    def send(kind: int, number: int, body: bytes) -> None:
        sent.append(kind)
        job.token.cancel("enough")

    with pytest.raises(aj.JobStopped, match="enough"):
        Asking(WithoutMemory(), send, lambda: job).ask(1, "a queue", "dequeue", None)  # type: ignore[arg-type]
    assert sent == [frames.ASK, frames.WITHDRAWN]


class WorkerLike:
    """The running job."""

    def __init__(self) -> None:
        self.token = aj.CancelToken()


class WithoutMemory:
    """Nothing large travels."""

    has_ended = False
    cap = 1 << 20


@pytest.mark.parametrize("kind", LANES)
async def test_a_job_that_stops_is_not_let_wait_again(runner: Runner, kind: str) -> None:
    queue = await filled(FIFOQueue[int](1), 0)
    job = await lane(runner, kind, grace=60).submit(work.insist, queue)
    await standing(queue, producers=1)
    job.cancel()
    with pytest.raises(aj.JobCancelled):
        await job
    assert await drained(queue) == [0]


async def test_the_exception_of_the_stop_ladder_breaks_no_channel(one: Runner) -> None:
    queue = FIFOQueue[int](2)
    pid = await lane(one, "process").run(work.pid)
    for _ in range(5):
        job = await lane(one, "process", grace=0.05).submit(work.look_for_ever, queue)
        while job.progress is None:
            await asyncio.sleep(0.001)
        job.cancel()
        with pytest.raises(aj.JobCancelled):
            await job
    assert await lane(one, "process").run(work.pid) == pid


async def test_a_thread_that_a_job_left_behind_takes_nothing(one: Runner) -> None:
    queue = FIFOQueue[int](2)
    await lane(one, "process").run(work.leave_a_thread_behind, queue)
    await queue.enqueue(1)
    await standing(queue)
    while not queue.size():  # taken for the thread, and given back
        await asyncio.sleep(0.001)
    assert await drained(queue) == [1]


# --- the coordinator --------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", LANES)
async def test_jobs_stop_together_and_say_why(runner: Runner, kind: str) -> None:
    coord, reports = aj.Coordinator(), FIFOQueue[str](2)
    submit = lane(runner, kind).submit
    patient = await submit(work.work_until_stopped, coord, reports, False)
    await reports.dequeue()
    failing = await submit(work.work_until_stopped, coord, reports, True)
    with pytest.raises(ValueError, match="enough"):
        await coord.join([patient, failing])
    assert (await patient, await failing) == (True, True)


@pytest.mark.parametrize("kind", LANES)
async def test_the_end_of_the_data_is_a_clean_stop_from_jobs_too(one: Runner, kind: str) -> None:
    coord = aj.Coordinator()
    await lane(one, kind).run(work.report_the_end, coord)
    assert coord.should_stop()
    await coord.join()
    assert await lane(one, kind).run(work.same, [coord]) == [coord]


# --- misuse -----------------------------------------------------------------------------


@pytest.mark.slow
async def test_what_does_not_pickle_is_refused_at_the_call(one: Runner) -> None:
    queue = FIFOQueue[Any](2)
    told = await lane(one, "process").run(work.put_lock, queue)
    assert told.startswith("NotSendable: what is given to enqueue() of FIFOQueue 'fifo_queue'")
    await queue.enqueue(threading.Lock())
    with pytest.raises(aj.NotSendable, match="what was taken"):
        await lane(one, "process").run(work.take, queue)
    assert queue.size() == 1


@pytest.mark.slow
async def test_outside_of_a_job_a_face_says_so() -> None:
    queue = FIFOQueue[int](2)
    with pytest.raises(TypeError, match="a FIFOQueue travels only as an argument or result of a job"):
        pickle.dumps(queue)
    lanes = {"process": aj.ProcessLane(1, initializer=work.use_at_start, initargs=(queue,))}
    async with Runner(lanes=lanes) as runner:
        with pytest.raises(aj.WorkerStartError, match="was used outside of a job"):
            await runner.options(lane="process").run(work.pid)


@pytest.mark.slow
async def test_a_queue_that_is_gone_is_missed_by_name(one: Runner) -> None:
    queue = FIFOQueue[int](2)
    await lane(one, "process").run(work.keep, queue)
    assert await lane(one, "process").run(work.use_kept) == 0
    del queue
    gc.collect()
    with pytest.raises(LookupError, match="no longer exists"):
        await lane(one, "process").run(work.use_kept)


@pytest.mark.parametrize("kind", LANES)
async def test_a_queue_of_another_loop_is_refused_at_submit(one: Runner, kind: str) -> None:
    queue, held = FIFOQueue[int](2), threading.Event()

    def elsewhere() -> None:
        async def use() -> None:
            SyncQueue(queue)
            held.set()
            await asyncio.sleep(60)

        other = asyncio.new_event_loop()
        loops.append(other)
        task = other.create_task(use())
        tasks.append(task)
        with pytest.raises(asyncio.CancelledError):
            other.run_until_complete(task)
        other.close()

    loops: list[asyncio.AbstractEventLoop] = []
    tasks: list[asyncio.Task[None]] = []
    thread = threading.Thread(target=elsewhere)
    thread.start()
    await asyncio.to_thread(held.wait)
    with pytest.raises(aj.WrongLoop, match="belongs to another event loop"):
        await lane(one, kind).submit(work.take, queue)
    loops[0].call_soon_threadsafe(tasks[0].cancel)
    await asyncio.to_thread(thread.join)


async def test_a_thread_job_left_by_its_loop_is_told(one: Runner) -> None:
    loop = asyncio.new_event_loop()
    face = SyncQueue(FIFOQueue[int](2), loop)
    loop.close()
    with pytest.raises(aj.RunnerClosed, match="has ended"):
        await asyncio.to_thread(face.dequeue)
