"""Tell running code which job it is: `current_job()`.

Knows the job only through the small `Running` protocol, so that it works the same in the
loop, in a thread and in a worker process (which loads no asyncio).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextvars import ContextVar
from numbers import Integral, Real
from typing import Any, Protocol

from asyncjobs.token import CancelToken


class Running(Protocol):
    """What a lane knows of the job that it runs; `current_job()` shows it to the job."""

    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def attempt(self) -> int: ...
    @property
    def token(self) -> CancelToken: ...
    @property
    def runner(self) -> Any: ...
    def report_progress(self, done: float, total: float | None, note: str) -> None: ...


class Durable(Protocol):
    """What a job of the service has besides: the running job's attribute `durable`."""

    @property
    def fence(self) -> int: ...
    @property
    def figures(self) -> str: ...
    def checkpoint(self, state: Any) -> None: ...
    def restore(self, default: Any) -> Any: ...


class JobContext:
    """The running job, seen from inside: the same in every lane."""

    __slots__ = ("_running",)

    def __init__(self, running: Running) -> None:
        self._running = running

    @property
    def id(self) -> str:
        """The job's id, as `Job.id`."""
        return self._running.id

    @property
    def name(self) -> str:
        """The job's name, as `Job.name`."""
        return self._running.name

    @property
    def attempt(self) -> int:
        """1 in the first attempt, 2 in the first retry."""
        return self._running.attempt

    @property
    def token(self) -> CancelToken:
        """Says whether this job is asked to stop: `.cancelled`, `.check()`, `.wait(seconds)`."""
        return self._running.token

    @property
    def runner(self) -> Any:
        """The `Runner`, for jobs on the loop and in threads.

        Raises:
            RuntimeError: in a process, which has no runner: return what is to be
                submitted and submit it there.
        """
        return self._running.runner

    def progress(self, done: float, total: float | None = None, note: str = "") -> None:
        """Say how far the job is; shown as `Job.progress`. Cheap, never blocks the loop.

        Args:
            done: a finite number from 0. More than `total` is allowed: a total may be an estimate.
            total: a finite number from 0; None: not known.
            note: a few words.

        Raises:
            ValueError: a value that is not allowed; names it and what is.
        """
        amount = _amount("done", done)
        whole = None if total is None else _amount("total", total)
        if not isinstance(note, str):
            raise ValueError(f"note={note!r} is not allowed; allowed: text")
        self._running.report_progress(amount, whole, note)

    # --- for what must not be lost, or not happen twice ---------------------------------

    @property
    def fence(self) -> int:
        """A number that grows with every start of a job in the whole service, restarts included: who writes
        elsewhere refuses what comes with a smaller one. Outside the service it is the `attempt`."""
        durable = self._durable
        return self.attempt if durable is None else durable.fence

    def checkpoint(self, state: Any) -> None:
        """Keep `state` (anything that pickles) for a later attempt of this job, instead of what was kept before.

        Blocks until it is on disk, some milliseconds.

        Raises:
            NotSendable: it does not pickle.
            RuntimeError: the job does not run in the service (``asyncjobs serve``).
            StorageFull: the disk is full; what was kept before stands.
        """
        self._of_the_service("checkpoint").checkpoint(state)

    def restore(self, default: Any = None) -> Any:
        """What the last `checkpoint` of this job kept, in this attempt or an earlier one; `default` without one.

        Raises:
            RuntimeError: the job does not run in the service (``asyncjobs serve``).
        """
        return self._of_the_service("restore").restore(default)

    def commit_file(self, temporary: str | os.PathLike[str], final: str | os.PathLike[str]) -> None:
        """Give a finished file its final name, on disk and at once: others see all of it, or what was there before.

        Both paths have to be on one file system. Works in every lane; blocks.
        """
        descriptor = os.open(temporary, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, final)
        folder = os.open(os.path.dirname(os.path.abspath(final)), os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    @property
    def _durable(self) -> Durable | None:
        return getattr(self._running, "durable", None)

    def _of_the_service(self, what: str) -> Durable:
        durable = self._durable
        if durable is None:
            raise RuntimeError(
                f"{what}() works in jobs of the service only (`asyncjobs serve`, submitted by `asyncjobs.connect()`), "
                f"where jobs outlive a crash; job {self.name!r} runs in a runner of this program"
            )
        return durable

    def __repr__(self) -> str:
        return f"<JobContext {self.name!r} {self.id} attempt {self.attempt}>"


def _amount(name: str, value: object) -> float:
    """The number as plain Python's, whatever library it is of.

    Raises:
        ValueError: it is none that a bar could show.
    """
    if isinstance(value, Real) and not isinstance(value, bool):
        number = int(value) if isinstance(value, Integral) else float(value)
        if 0 <= number <= sys.float_info.max:  # false for what is not a number
            return number
    or_none = "None, or " if name == "total" else ""
    raise ValueError(f"{name}={value!r} is not allowed; allowed: {or_none}a finite number from 0")


running: ContextVar[Running | None] = ContextVar("asyncjobs.running", default=None)
_resident: Callable[[], Running | None] | None = None


def resident(find: Callable[[], Running | None]) -> Callable[[], Running | None] | None:
    """In a worker process: `find` says what runs now, in whichever thread it is asked. Returns what did before."""
    global _resident
    before, _resident = _resident, find
    return before


def figures_of_job() -> str | None:
    """The folder for the plots of the running job, which need not exist yet; None outside the service."""
    job = running.get() or (None if _resident is None else _resident())
    durable: Durable | None = getattr(job, "durable", None)
    return None if durable is None else durable.figures


def current_job() -> JobContext:
    """The job that this code runs in.

    Raises:
        RuntimeError: outside a job.
    """
    job = running.get()
    if job is None and _resident is not None:
        job = _resident()
    if job is None:
        raise RuntimeError("current_job() was called outside a job")
    return JobContext(job)
