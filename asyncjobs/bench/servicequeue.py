"""A durable queue as a client sees it, ours or a peer's: what the benchmark of the service asks of everybody."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asyncjobs.bench import tiny

FUNCTIONS: tuple[Callable[[int], Any], ...] = (tiny.echo, tiny.started)
"""What every queue can run."""
ECHO, STARTED = (fn.__name__ for fn in FUNCTIONS)
LOOK = 0.02
"""Seconds between two looks how many jobs have ended, the same for everybody."""
PAUSE = 0.05
"""Seconds of rest before a job whose way to its start is timed."""
PATIENCE = 240.0


class Client:
    """A queue whose workers run. Every call blocks.

    Args:
        pid: of the process that runs the jobs, or that has the workers as its children.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def submit(self, function: str, values: Sequence[int]) -> list[Any]:
        """Accepted, on disk, when it returns, in one transaction where the queue can do that; a handle for each."""
        raise NotImplementedError

    def ended(self) -> int:
        """How many jobs have their result on disk, of all that there ever were."""
        raise NotImplementedError

    def values(self, handles: Sequence[Any]) -> list[Any]:
        """The results, when they are there."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of the database, or of the service."""

    def submit_each(self, function: str, values: Sequence[int]) -> None:
        """One after the other, each accepted before the next is submitted."""
        for value in values:
            self.submit(function, [value])

    def submit_beside(self, function: str, values: Sequence[int], width: int) -> None:
        """So many at once, each accepted before another one takes its place: a thread for each."""
        with ThreadPoolExecutor(width) as threads:
            for _ in threads.map(lambda value: self.submit(function, [value]), values):
                pass

    def delays(self, count: int, between: Callable[[], None]) -> list[float]:
        """Seconds from the submit of a job until it starts, of `count` jobs, each alone.

        Args:
            between: called before each; what it takes is not counted.
        """
        found = []
        for number in range(count):
            time.sleep(PAUSE)
            between()
            began = time.monotonic()
            handles = self.submit(STARTED, [number])
            found.append(self.values(handles)[0] - began)
        return found

    def wait_for(self, count: int) -> None:
        """Until so many have ended.

        Raises:
            RuntimeError: it takes too long.
        """
        end = time.monotonic() + PATIENCE
        while (ended := self.ended()) < count:
            if time.monotonic() > end:
                raise RuntimeError(f"{ended} of {count} jobs have ended after {PATIENCE:g} s")
            time.sleep(LOOK)


@dataclass(frozen=True, slots=True)
class Queue:
    """Who takes part."""

    name: str
    library: str
    """What is imported; empty: asyncjobs."""
    version: str
    open: Callable[[Path], AbstractContextManager[Client]]
    """Starts its processes in a folder of its own, and ends them; called in a `flowlab.Room`."""
    is_ours: bool = False
