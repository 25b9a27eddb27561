"""What cluster tests run on the workers, which import this file by its name."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any, ClassVar
from weakref import WeakSet

import numpy as np

from asyncjobs.testing.work import FileGate, hold, note


def die(path: str) -> None:
    """Leave a line, and kill this very process."""
    note(path, str(os.getpid()))
    os.kill(os.getpid(), signal.SIGKILL)


def die_once(path: str) -> int:
    """The same, but only the first time."""
    if not os.path.exists(path):
        die(path)
    return 7


def pid_then_hold(path: str, gate: FileGate) -> int:
    """Say where it runs, and wait at the gate."""
    note(path, str(os.getpid()))
    return hold(gate, os.getpid())


def raise_it(error: BaseException) -> None:
    """Raise it, behind another one."""
    try:
        raise KeyError("before")
    except KeyError:
        raise error  # noqa: B904


def endless(depth: int = 0) -> int:
    """Never come back."""
    return endless(depth + 1)


def say(text: str) -> str:
    """Print it on both streams."""
    print(text)
    print(text.upper(), file=sys.stderr)
    return text


def total(array: Any) -> tuple[float, bool, int]:
    """The sum, whether the array may be written to, and where it was added up."""
    return float(array.sum()), bool(array.flags.writeable), os.getpid()


def same_object(first: Any, second: Any) -> bool:
    """Whether both arguments are one object here."""
    return first is second


class Ballast:
    """Something to share; a worker knows how many it holds."""

    held: ClassVar[WeakSet[Ballast]] = WeakSet()

    def __init__(self) -> None:
        self.weight = np.ones(100_000)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self.held.add(self)


def weigh(ballast: Ballast) -> float:
    """All of it."""
    return float(ballast.weight.sum())


def held() -> int:
    """How much of it this worker still holds."""
    return len(Ballast.held)


def where() -> int:
    """The worker's own process id."""
    return os.getpid()


def halves(count: int) -> Any:
    """So many numbers."""
    return np.full(count, 0.5)


def ready(dask_worker: Any) -> int:
    """How many tasks wait in that worker for a thread."""
    return len(dask_worker.state.ready)


def wrong() -> None:
    """Raise."""
    raise ValueError("wrong")


def hold_if(gate: FileGate | None, path: str, text: str = "") -> int:
    """Leave a line, and wait at the gate if there is one."""
    note(path, text or str(os.getpid()))
    return os.getpid() if gate is None else hold(gate, os.getpid())
