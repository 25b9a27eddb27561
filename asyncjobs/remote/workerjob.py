"""The running job, as `current_job()` shows it in a worker: of a process lane, or of a cluster."""

from __future__ import annotations

from time import perf_counter
from typing import NoReturn, Protocol

from asyncjobs.token import CancelToken

PROGRESS_INTERVAL = 0.05
"""Seconds between two progress reports of one job; the last one always goes out."""


class Reporter(Protocol):
    """What the job needs of the worker that runs it."""

    def job_id(self, number: int) -> str:
        """As the runner writes it."""

    def report(self, ticket: int, progress: tuple[float, float | None, str]) -> None:
        """Send a progress report."""


class WorkerJob:
    """What `worker` runs as `ticket`; `number` is the job's."""

    runs_in = "process"

    def __init__(self, worker: Reporter, ticket: int, number: int, name: str, attempt: int) -> None:
        self._worker = worker
        self._number = number
        self._reported_at = 0.0
        self.ticket = ticket
        self.name: str = name
        self.attempt = attempt
        self.token: CancelToken = CancelToken()

    @property
    def id(self) -> str:
        return self._worker.job_id(self._number)

    @property
    def runner(self) -> NoReturn:
        raise RuntimeError(
            f"job {self.name!r} runs in a worker process, where there is no runner: "
            "return what is to be submitted and submit it from the loop"
        )

    def report_progress(self, done: float, total: float | None, note: str) -> None:
        now = perf_counter()
        if now - self._reported_at >= PROGRESS_INTERVAL or done == total:
            self._reported_at = now
            self._worker.report(self.ticket, (done, total, note))
