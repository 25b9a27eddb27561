"""A queue's verbs in a worker process: `RemoteQueue`. It knows a number, and asks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from asyncjobs.errors import OutOfRangeError
from asyncjobs.remote.hosted import arrive, ask
from asyncjobs.token import passenger


class RemoteQueue:
    """What a process job gets for a queue: the verbs of `SyncQueue`, which say what each does.

    They block, and end with the job: one that has to wait raises `JobStopped` once the job is asked to stop.

    Raises:
        RuntimeError: used outside of a job.
        NotSendable: an element does not pickle.
        LookupError: the queue no longer exists.
    """

    def __init__(self, number: int, kind: str, name: str, capacity: int) -> None:
        self._number = number
        self._kind = kind
        self.name: str = name
        """What it is called in errors, statistics and the names of tasks."""
        self.capacity: int = capacity
        """How many elements may be inside."""

    def enqueue(self, element: Any) -> None:
        """Put one element, waiting for room."""
        self._ask("enqueue", element)

    def enqueue_many(self, elements: Any) -> None:
        """Put several in their order, as room comes free; all of them travel at once."""
        is_batch = isinstance(elements, list | tuple | dict | str | bytes) or hasattr(elements, "dtype")
        self._ask("enqueue_many", elements if is_batch or not hasattr(elements, "__iter__") else list(elements))

    def dequeue(self) -> Any:
        """Take one element, waiting for it."""
        return self._ask("dequeue")

    def dequeue_many(self, count: int) -> Any:
        """Take `count` elements as one batch; it is made here."""
        return self._ask("dequeue_many", count)

    def dequeue_up_to(self, count: int) -> Any:
        """As `dequeue_many`, but of a closed queue take what is left."""
        return self._ask("dequeue_up_to", count)

    def __iter__(self) -> Iterator[Any]:
        """Each element, until the queue is closed and empty."""
        while True:
            try:
                element = self.dequeue()
            except OutOfRangeError:
                return
            yield element

    def close(self, cancel_pending_enqueues: bool = False) -> None:
        """Let nothing more in."""
        self._ask("close", cancel_pending_enqueues)

    def size(self) -> int:
        """How many elements are inside now."""
        size: int = self._ask("size")
        return size

    def is_closed(self) -> bool:
        """Whether a close has taken effect; elements may be left."""
        is_closed: bool = self._ask("is_closed")
        return is_closed

    def stats(self) -> Any:
        """The figures at this moment, as `QueueStats`."""
        return self._ask("stats")

    def _ask(self, verb: str, argument: Any = None) -> Any:
        return ask(self._number, f"{self._kind} {self.name!r}", verb, argument)

    def __reduce__(self) -> tuple[Any, ...]:
        passenger(self)
        return arrive, (self._number, type(self), ())  # it goes home, where it is itself

    def __repr__(self) -> str:
        return f"<RemoteQueue of {self._kind} {self.name!r}, capacity {self.capacity}>"
