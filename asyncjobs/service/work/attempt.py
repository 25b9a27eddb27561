"""One attempt on its way through the runner: what it prints, how far it is, when it has to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from asyncjobs.job import Job
from asyncjobs.service.protocol import ProgressView, Terms
from asyncjobs.service.records import Claim
from asyncjobs.service.work.joblog import JobLog
from asyncjobs.service.work.news import News
from asyncjobs.token import StopReason

LOG_INTERVAL = 0.05
"""Seconds that what a job prints may wait for more."""
LOG_AT_ONCE = 64 * 1024
"""Characters that do not wait."""


class Attempt:
    """A claim that is being carried out. It is the `Output` of its call."""

    __slots__ = (
        "_flushing",
        "_length",
        "_log",
        "_loop",
        "_news",
        "_printed",
        "claim",
        "deadline",
        "gives_back",
        "is_interrupted",
        "job",
        "progress",
        "terms",
    )

    def __init__(
        self, claim: Claim, terms: Terms, open_log: Callable[[str], JobLog], news: News, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.claim: Claim = claim
        self.terms: Terms = terms
        self.job: Job[Any]
        self.progress: ProgressView | None = None
        self.is_interrupted: bool = False
        """It is stopped because the service stops."""
        self.gives_back: bool = False
        """If it has not started, it goes back to the queue."""
        self.deadline: asyncio.TimerHandle | None = None
        self._log: JobLog | Callable[[str], JobLog] = open_log
        self._news = news
        self._loop = loop
        self._printed: list[str] = []
        self._length = 0
        self._flushing: asyncio.TimerHandle | None = None

    # --- what it says -------------------------------------------------------------------

    def write(self, stream: str, text: str) -> None:
        """It printed something."""
        self._printed.append(text)
        self._length += len(text)
        if self._length >= LOG_AT_ONCE:
            self.flush()
        elif self._flushing is None:
            self._flushing = self._loop.call_later(LOG_INTERVAL, self.flush)

    def report(self, done: float, total: float | None, note: str) -> None:
        """It said how far it is."""
        self.progress = ProgressView(done, total, note)
        self._news.progressed(self.claim.id, self.progress)

    def flush(self) -> None:
        """Write what it printed into its log."""
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        if not self._printed:
            return
        log = self._log if isinstance(self._log, JobLog) else self._log(self.claim.id)
        if log is not self._log and self.claim.attempt > 1:
            log.write(f"[asyncjobs: attempt {self.claim.attempt}]\n")
        self._log = log
        text, self._printed, self._length = "".join(self._printed), [], 0
        log.write(text)
        self._news.logged(self.claim.id, log.end)

    # --- its end ------------------------------------------------------------------------

    def stop(self, reason: StopReason, grace: float | None) -> None:
        """Ask it to stop; no other attempt follows."""
        self.job.ask(reason, grace)

    def give_back(self) -> None:
        """Take it back from the runner, unless a worker has it already."""
        if self.job._call.in_queue:
            self.gives_back = True
            self.job.ask(StopReason("cancel", "given back"), 0.0)

    def close(self) -> None:
        """It has ended: let go of its file and its timer."""
        if self.deadline is not None:
            self.deadline.cancel()
        if self._printed:
            self.flush()
        if isinstance(self._log, JobLog):
            self._log.close()
