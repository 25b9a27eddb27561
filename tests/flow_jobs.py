"""Jobs that use queues, importable by workers. They take what `SyncQueue` describes, in threads and in processes."""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from asyncjobs import OutOfRangeError, QueueClosedError, current_job

if TYPE_CHECKING:
    from asyncjobs import Coordinator, SyncQueue

_kept: list[Any] = []


def produce(queue: SyncQueue[Any], producer: int, count: int) -> None:
    for number in range(count):
        queue.enqueue((producer, number))


def consume(queue: SyncQueue[Any]) -> list[Any]:
    return list(queue)


def take(queue: SyncQueue[Any]) -> Any:
    return queue.dequeue()


def take_batch(queue: SyncQueue[Any], count: int) -> Any:
    return queue.dequeue_many(count)


def take_up_to(queue: SyncQueue[Any], count: int) -> Any:
    return queue.dequeue_up_to(count)


def put(queue: SyncQueue[Any], element: Any) -> None:
    queue.enqueue(element)


def put_many(queue: SyncQueue[Any], elements: Any) -> None:
    queue.enqueue_many(elements)


def put_generated(queue: SyncQueue[Any], count: int) -> None:
    queue.enqueue_many(number for number in range(count))


def put_lock(queue: SyncQueue[Any]) -> str:
    try:
        queue.enqueue({"inner": threading.Lock()})
    except TypeError as error:
        return f"{type(error).__name__}: {error}"
    return "went in"


def put_or_close(queue: SyncQueue[Any], elements: Any) -> None:
    try:
        queue.enqueue_many(elements)
    finally:
        queue.close(cancel_pending_enqueues=True)


def close_and_look(queue: SyncQueue[Any]) -> tuple[Any, ...]:
    queue.close()
    queue.close()
    return queue.is_closed(), queue.size(), queue.stats()


def refusals(queue: SyncQueue[Any]) -> tuple[Any, ...]:
    """What a closed queue with two elements says."""
    try:
        queue.enqueue_many([1, 2, 3])
    except QueueClosedError as error:
        left = error.left
    try:
        queue.dequeue_many(5)
    except OutOfRangeError as error:
        return left, error.requested, error.size, queue.dequeue_up_to(5).tolist(), list(queue)
    return ()


def deep(value: dict[str, list[SyncQueue[Any]]]) -> int:
    total: int = value["queues"][0].dequeue() + value["queues"][1].dequeue()
    return total


def same(value: Any) -> Any:
    return value


def keep(queue: SyncQueue[Any]) -> None:
    _kept.append(queue)


def use_kept() -> int:
    size: int = _kept[-1].size()
    return size


def use_at_start(queue: SyncQueue[Any]) -> None:
    queue.size()


def look_for_ever(queue: SyncQueue[Any]) -> None:
    current_job().progress(0, 1, "looking")
    while True:
        queue.size()


def pid() -> int:
    return os.getpid()


def tell_pid_and_take(pids: SyncQueue[Any], queue: SyncQueue[Any]) -> Any:
    pids.enqueue(os.getpid())
    return queue.dequeue()


def tell_pid_and_put(pids: SyncQueue[Any], queue: SyncQueue[Any], element: Any) -> None:
    pids.enqueue(os.getpid())
    queue.enqueue(element)


def insist(queue: SyncQueue[Any]) -> None:
    try:
        queue.enqueue(1)
    finally:
        queue.enqueue(2)


def work_until_stopped(coord: Coordinator, reports: SyncQueue[Any], fails: bool) -> bool:
    with coord.stop_on_exception():
        reports.enqueue("working")
        if fails:
            raise ValueError("enough")
        coord.token.wait()
    return coord.should_stop()


def report_the_end(coord: Coordinator) -> None:
    try:
        raise OutOfRangeError("no more files")
    except OutOfRangeError:
        coord.request_stop(sys.exc_info())


def take_in_threads(queue: SyncQueue[Any], count: int) -> list[Any]:
    taken: list[Any] = []
    threads = [threading.Thread(target=lambda: taken.extend(queue)) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return taken


def leave_a_thread_behind(queue: SyncQueue[Any]) -> None:
    threading.Thread(target=queue.dequeue, daemon=True).start()
    while queue.stats().consumers_waiting == 0:
        pass


def answer(requests: SyncQueue[Any]) -> None:
    for number, replies in requests:
        replies.enqueue(number * 2)


def read_arrays(queue: SyncQueue[Any], first: int, count: int, size: int) -> None:
    """Stands for a reader of files: each array says in all its places which it is."""
    for number in range(first, first + count):
        queue.enqueue((np.full(size, number, "float64"), number))


def check_arrays(queue: SyncQueue[Any]) -> list[int]:
    """The numbers of the arrays that came, each looked at in full."""
    numbers = []
    for array, number in queue:
        assert (array == number).all()
        array[:] = -1  # its own to write to
        numbers.append(number)
    return numbers


def double_arrays(source: SyncQueue[Any], target: SyncQueue[Any]) -> None:
    for array in source:
        target.enqueue(array * 2)
