"""Queues that close, who fills them, and how all stop together: TensorFlow's input framework, on asyncio.

`lines` decides who is served when, `storage` in which order elements leave, `elements` what an element is, `batches`
what several of them make; `base` is the face, of which `queues` has the four kinds, `blocking` that for threads, and
`errand` what process jobs ask. `coordinator` stops tasks, threads and jobs together (`roll` asks who has ended),
`queuerunner` keeps a queue filled.
"""

from asyncjobs.errors import OutOfRangeError, QueueClosedError
from asyncjobs.flow.base import Queue, QueueStats
from asyncjobs.flow.blocking import SyncQueue
from asyncjobs.flow.coordinator import Coordinator, SyncCoordinator
from asyncjobs.flow.queuerunner import QueueRunner, add_queue_runner, start_queue_runners
from asyncjobs.flow.queues import FIFOQueue, PaddingFIFOQueue, PriorityQueue, RandomShuffleQueue

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
    "SyncQueue",
    "add_queue_runner",
    "start_queue_runners",
]
