"""Queues that close: TensorFlow's, on asyncio.

`lines` decides who is served when, `storage` in which order elements leave, `elements` what an element is, `batches`
what several of them make; `queues` is the face.
"""

from asyncjobs.errors import OutOfRangeError, QueueClosedError
from asyncjobs.flow.queues import (
    FIFOQueue,
    PaddingFIFOQueue,
    PriorityQueue,
    Queue,
    QueueStats,
    RandomShuffleQueue,
)

__all__ = [
    "FIFOQueue",
    "OutOfRangeError",
    "PaddingFIFOQueue",
    "PriorityQueue",
    "Queue",
    "QueueClosedError",
    "QueueStats",
    "RandomShuffleQueue",
]
