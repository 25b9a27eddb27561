"""Queues that close, who fills them, and how all stop together: TensorFlow's input framework, on asyncio.

`lines` decides who is served when, `storage` in which order elements leave, `elements` what an element is, `batches`
what several of them make; `queues` is the face. `coordinator` stops many tasks, threads and jobs together (`roll` asks
who has ended), and `queuerunner` keeps a queue filled.
"""

from asyncjobs.errors import OutOfRangeError, QueueClosedError
from asyncjobs.flow.coordinator import Coordinator, SyncCoordinator
from asyncjobs.flow.queuerunner import QueueRunner, add_queue_runner, start_queue_runners
from asyncjobs.flow.queues import (
    FIFOQueue,
    PaddingFIFOQueue,
    PriorityQueue,
    Queue,
    QueueStats,
    RandomShuffleQueue,
)

__all__ = [
    "Coordinator",
    "FIFOQueue",
    "OutOfRangeError",
    "PaddingFIFOQueue",
    "PriorityQueue",
    "Queue",
    "QueueClosedError",
    "QueueRunner",
    "QueueStats",
    "RandomShuffleQueue",
    "SyncCoordinator",
    "add_queue_runner",
    "start_queue_runners",
]
