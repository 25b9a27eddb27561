"""Tell running code which job it is: `current_job()`.

Knows the job only through the small `Running` protocol, so that it works the same in the
loop, in a thread and in a worker process (which loads no asyncio).
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
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
        """Say how far the job is; shown as `Job.progress`. Cheap, never blocks the loop."""
        self._running.report_progress(done, total, note)

    def __repr__(self) -> str:
        return f"<JobContext {self.name!r} {self.id} attempt {self.attempt}>"


running: ContextVar[Running | None] = ContextVar("asyncjobs.running", default=None)
_resident: Callable[[], Running | None] | None = None


def resident(find: Callable[[], Running | None]) -> None:
    """In a worker process: `find` says what runs now, in whichever thread it is asked."""
    global _resident
    _resident = find


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
