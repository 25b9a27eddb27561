"""What keeps a queue filled. Tests are named after the statements R1 to R12 that they hold."""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from flows import turns

from asyncjobs.flow import (
    Coordinator,
    FIFOQueue,
    OutOfRangeError,
    Queue,
    QueueClosedError,
    QueueRunner,
    add_queue_runner,
    start_queue_runners,
)


def fifo(capacity: int = 100, name: str = "fifo_queue") -> Queue[Any]:
    """An empty queue."""
    return FIFOQueue(capacity, name=name)


def counting(queue: Queue[Any], upto: int, error: Exception | None = None) -> Callable[[], Awaitable[None]]:
    """An operation that puts 0, 1, ... below `upto`, and then raises."""
    numbers = iter(range(upto))

    async def count() -> None:
        number = next(numbers, None)
        if number is None:
            raise error or OutOfRangeError("counted")
        await queue.enqueue(number)

    return count


async def failed() -> None:
    """An operation that does."""
    raise ValueError("of an operation")


async def test_R1_a_worker_repeats_each_operation_until_it_ends() -> None:
    queue = fifo()
    tasks = QueueRunner(queue, [counting(queue, 3)]).start()
    await asyncio.gather(*tasks)
    assert [element async for element in queue] == [0, 1, 2]
    assert [task.get_name() for task in tasks] == ["QueueRunnerThread-fifo_queue-count"]


@pytest.mark.parametrize(("queue", "ops"), [(None, [failed]), (fifo(), []), (fifo(), None), (fifo(), ())])
def test_R1_it_needs_a_queue_and_an_operation(queue: Any, ops: Any) -> None:
    with pytest.raises(ValueError, match="it needs a queue and operations"):
        QueueRunner(queue, ops)


def test_R1_operations_are_functions() -> None:
    with pytest.raises(TypeError, match=r"enqueue_ops\[1\]=5 is not allowed"):
        QueueRunner(fifo(), [failed, 5])  # type: ignore[list-item]


async def test_R1_a_plain_function_runs_in_a_thread_and_what_it_returns_is_awaited_on_the_loop() -> None:
    queue, seen, numbers = fifo(), set(), itertools.count()

    def load() -> Awaitable[None]:
        seen.add(threading.current_thread())
        number = next(numbers)
        if number == 5:
            raise StopIteration
        return queue.enqueue(number)

    await asyncio.gather(*QueueRunner(queue, [load], queue_closed_exception_types=(StopIteration,)).start())
    assert [element async for element in queue] == list(range(5))
    assert threading.current_thread() not in seen


async def test_R2_operations_end_at_their_own_times() -> None:
    queue = fifo()
    runner = QueueRunner(queue, [counting(queue, 3), counting(queue, 30)])
    await asyncio.gather(*runner.start())
    assert sorted([element async for element in queue]) == sorted([*range(3), *range(30)])
    assert runner.exceptions_raised == []


async def test_R2_the_exceptions_that_end_an_operation_cleanly_can_be_chosen() -> None:
    queue = fifo()
    runner = QueueRunner(queue, [counting(queue, 2, KeyError("end"))], queue_closed_exception_types=(KeyError,))
    await asyncio.gather(*runner.start())
    assert runner.exceptions_raised == []
    other = QueueRunner(fifo(), [counting(fifo(), 0)], queue_closed_exception_types=(KeyError,))
    with pytest.raises(OutOfRangeError):
        await asyncio.gather(*other.start())


@pytest.mark.parametrize("types", [(), [], [KeyError], KeyError, (5,), ("KeyError",), (KeyError, None), None])
def test_R2_they_are_a_tuple_of_exceptions(types: Any) -> None:
    with pytest.raises(TypeError, match="queue_closed_exception_types="):
        QueueRunner(fifo(), [failed], queue_closed_exception_types=types)


async def test_R3_a_chain_of_queues_closes_one_after_the_other() -> None:
    first, second = fifo(10), fifo(3)

    async def move() -> None:
        await second.enqueue(await first.dequeue())

    await first.enqueue_many(range(10))
    await first.close()
    coord = Coordinator()
    QueueRunner(second, [move, move]).start(coord)
    assert sorted([element async for element in second]) == list(range(10))
    with pytest.raises(OutOfRangeError):
        await second.dequeue()
    await coord.join()  # ends, though nobody asked to stop


async def test_R3_only_the_last_to_end_closes_the_queue_and_pending_enqueues_succeed() -> None:
    queue, hold = fifo(1), asyncio.Event()

    async def late() -> None:
        await hold.wait()
        raise OutOfRangeError("late")

    tasks = QueueRunner(queue, [counting(queue, 0), late]).start()
    await turns()
    assert tasks[0].done()
    assert not queue.is_closed()
    await queue.enqueue(1)
    pending = asyncio.create_task(queue.enqueue(2))
    await turns()
    hold.set()
    assert [element async for element in queue] == [1, 2]
    await asyncio.gather(pending, *tasks)


class Stubborn(FIFOQueue[Any]):
    """A queue that cannot be closed."""

    async def close(self, cancel_pending_enqueues: bool = False) -> None:
        raise OSError("cannot close")


async def test_R4_errors_of_the_close_itself_are_only_logged(caplog: pytest.LogCaptureFixture) -> None:
    queue, coord = Stubborn(9), Coordinator()
    with caplog.at_level(logging.INFO, "asyncjobs"):
        await asyncio.gather(*QueueRunner(queue, [counting(queue, 2)]).start())
        QueueRunner(queue, [counting(queue, 1)]).start(coord)
        coord.request_stop()
        await coord.join()
    assert caplog.text.count("closing fifo_queue failed") == 3


async def test_R5_without_a_coordinator_errors_are_kept_and_raised_by_the_task() -> None:
    queue = fifo()
    runner = QueueRunner(queue, [failed, counting(queue, 2)])
    tasks = runner.start()
    await asyncio.wait(tasks)
    assert [type(task.exception()) for task in tasks] == [ValueError, type(None)]
    assert runner.exceptions_raised == [tasks[0].exception()]
    again = runner.start()
    assert runner.exceptions_raised == []
    await asyncio.wait(again)
    assert [str(error) for error in runner.exceptions_raised if isinstance(error, ValueError)] == ["of an operation"]
    assert [task.exception() for task in again if task.exception() is None] == [None]


async def test_R5_the_queue_is_closed_also_if_the_last_to_end_fails() -> None:
    queue = fifo()
    tasks = QueueRunner(queue, [counting(queue, 2, ValueError("last"))]).start()
    assert [element async for element in queue] == [0, 1]
    await asyncio.wait(tasks)
    assert str(tasks[0].exception()) == "last"


async def test_R5_the_queue_is_closed_also_if_the_last_to_end_is_cancelled() -> None:
    queue = fifo(1)
    tasks = QueueRunner(queue, [counting(queue, 9)]).start()
    other = asyncio.create_task(queue.enqueue("other"))
    await turns()
    tasks[0].cancel()
    await asyncio.wait([*tasks, other])
    assert tasks[0].cancelled()
    assert isinstance(other.exception(), QueueClosedError)
    assert [element async for element in queue] == [0]


async def test_R6_with_a_coordinator_errors_are_reported_to_it() -> None:
    queue, coord = fifo(), Coordinator()
    runner = QueueRunner(queue, [failed, counting(queue, 5)])
    tasks = runner.start(coord)
    with pytest.raises(ValueError, match="of an operation"):
        await coord.join(stop_grace_period_secs=5)
    assert runner.exceptions_raised == []
    assert all(task.done() for task in tasks)
    assert queue.is_closed()


async def test_R7_a_stop_ends_producers_that_wait_for_room_without_an_error() -> None:
    queue, coord = fifo(2), Coordinator()
    tasks = QueueRunner(queue, [counting(queue, 1000)] * 3).start(coord)
    while not queue.stats().producers_waiting:
        await turns()
    coord.request_stop()
    await coord.join(stop_grace_period_secs=60)
    assert coord.exceptions == ()
    assert all(task.done() and task.exception() is None for task in tasks)
    assert len([element async for element in queue]) == 2


async def test_R8_if_a_stop_was_requested_no_operation_runs() -> None:
    queue, coord, calls = fifo(), Coordinator(), []

    async def op() -> None:
        calls.append(1)

    coord.request_stop()
    tasks = QueueRunner(queue, [op, lambda: calls.append(2)]).start(coord)
    await coord.join()
    assert calls == []
    assert len(tasks) == 3
    assert queue.is_closed()


async def test_R8_an_operation_that_never_waits_does_not_keep_the_loop_from_the_stop() -> None:
    coord = Coordinator()

    async def busy() -> None:
        return None

    QueueRunner(fifo(), [busy]).start(coord)
    await turns()
    coord.request_stop()
    await coord.join()


async def test_R9_while_any_runs_another_start_starts_nothing() -> None:
    queue, coord = fifo(1), Coordinator()
    runner = QueueRunner(queue, [counting(queue, 1000)] * 2)
    assert len(runner.start(coord)) == 3
    assert runner.start(coord) == []
    assert runner.start() == []
    coord.request_stop()
    await coord.join()


async def test_R10_when_all_have_ended_it_can_be_started_again() -> None:
    queue, calls = fifo(), []

    async def op() -> None:
        calls.append(1)
        raise OutOfRangeError("once")

    runner = QueueRunner(queue, [op])
    for _ in range(3):
        await asyncio.gather(*runner.start())
    assert len(calls) == 3


async def test_R11_tasks_are_registered_and_carry_names() -> None:
    queue, coord = fifo(name="pictures"), Coordinator()
    runner = QueueRunner(queue, [counting(queue, 1), failed])
    tasks = runner.start(coord)
    assert [task.get_name() for task in tasks] == [
        "QueueRunnerThread-pictures-count",
        "QueueRunnerThread-pictures-failed",
        "QueueRunnerThread-pictures-close_on_stop",
    ]
    assert list(coord._members) == tasks
    assert runner.name == "pictures"
    assert repr(runner) == "<QueueRunner of 'pictures', 2 of 2 operations running>"
    with pytest.raises(ValueError, match="of an operation"):
        await coord.join()


async def test_R12_collected_runners_are_started_together() -> None:
    coord, queues = Coordinator(), [fifo(), fifo()]
    for queue in queues:
        add_queue_runner(QueueRunner(queue, [counting(queue, 3)]))
    tasks = start_queue_runners(coord)
    assert len(tasks) == 4
    assert start_queue_runners(coord) == []
    await coord.join()
    for queue in queues:
        assert [element async for element in queue] == [0, 1, 2]


async def test_the_classic_program_trains_on_everything_and_stops() -> None:
    """Several producers, one consumer that takes batches, one coordinator: nobody is left, nothing is lost."""
    numbers = iter(range(100))
    queue, coord, seen = fifo(10), Coordinator(), []

    def read() -> Awaitable[None]:
        try:
            number = next(numbers)
        except StopIteration:
            raise OutOfRangeError("read") from None
        return queue.enqueue(number)

    QueueRunner(queue, [read] * 4).start(coord)
    with coord.stop_on_exception():
        while not coord.should_stop():
            seen.extend(await queue.dequeue_up_to(8))
    await coord.join()
    assert sorted(seen) == list(range(100))
