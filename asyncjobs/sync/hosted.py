"""A runner that lives on a loop of its own: how it opens, closes, and leaves when nobody closed it.

Each face of this package has one of these. A face may go; what it accepted stays here until it has ended.
"""

from __future__ import annotations

import asyncio
import threading
import warnings
from collections.abc import Coroutine
from contextvars import Context
from typing import Any

from asyncjobs.errors import RunnerClosed
from asyncjobs.job import Job
from asyncjobs.portal import Portal
from asyncjobs.runner import Runner
from asyncjobs.state import JobState
from asyncjobs.sync.doorway import Doorway
from asyncjobs.sync.leaving import check_not_over, has_left, leave_at_exit

EXIT_GRACE = 0.5
"""Seconds that jobs get to stop after the drain of an exit."""
LAST_WAIT = 2.0
"""Seconds that a loop is waited for that has been told to end."""


def cancel_if_waiting(job: Job[Any]) -> None:
    """Cancel `job` unless it runs. On its loop, where nothing can start meanwhile."""
    if job.state in (JobState.QUEUED, JobState.WAITING):
        job.cancel()


class HostedRunner:
    """An open `Runner`, its portal and the way in.

    Args:
        exit_drain: seconds that the exit of the interpreter waits for its jobs; None waits for all.
        is_silent: nobody is expected to close it.
    """

    def __init__(self, runner: Runner, exit_drain: float | None, *, is_silent: bool = False) -> None:
        check_not_over("what a new runner runs")
        self.runner: Runner = runner
        self.exit_drain: float | None = exit_drain
        self.is_silent: bool = is_silent
        self.portal: Portal = Portal("asyncjobs-loop")
        try:
            self.portal.call(runner.__aenter__)
        except BaseException:
            self.portal.close(LAST_WAIT)
            raise
        self.doorway: Doorway = Doorway(self.portal, runner._intake)
        self._works: set[asyncio.Task[None]] = set()
        self._starting = threading.Lock()
        self._finishing: set[asyncio.Task[None]] = set()
        self._has_ended = False
        leave_at_exit(self)

    @property
    def is_usable(self) -> bool:
        """Whether it takes jobs here and now: it is not closed, and belongs to this process."""
        return not (self.doorway.is_closed or self.portal.is_foreign)

    def close(self, drain: float | None, grace: float | None = None, *, was_interrupted: bool = False) -> list[str]:
        """Take no more and block until the jobs have ended; the names of those cancelled after `drain` seconds.

        Ctrl-C cuts the drain short, a second one (the first, if it `was_interrupted` before) everything.
        In a forked child it does nothing.
        """
        if self.portal.is_foreign:
            return []
        self.check_may_wait("close()")
        self.close_door()
        try:
            return self.portal.call(self._aclose, drain, grace)
        except RunnerClosed:  # by somebody else, meanwhile
            return []
        except KeyboardInterrupt:
            if not was_interrupted:
                self.close(0, grace, was_interrupted=True)
            raise
        finally:
            self._end()
            self.portal.close(LAST_WAIT)

    def check_may_wait(self, what: str) -> None:
        """Refuse to wait for the end of everything where that would prevent it; names `what` was called.

        Raises:
            WouldDeadlock: in the loop's own thread, or inside one of our own jobs.
        """
        self.portal.check(what)
        if self.runner._machinery is not None:
            self.runner._machinery.check_not_inside()

    def close_door(self) -> None:
        """Take no more jobs and no more work; what was accepted goes on."""
        with self._starting:
            self.doorway.close()

    def close_soon(self) -> None:
        """Take no more, and end once all jobs have ended; never blocks. The exit waits for that, as for a drain."""
        self.close_door()
        self.portal.post(self._begin_to_finish, None, None)

    def abandon(self) -> None:
        """End the jobs and everything at once; never blocks, and may be called in any thread."""
        self.close_door()
        self.portal.post(self._begin_to_finish, 0.0, 0.0)

    def leave(self, drain: float | None) -> None:
        """The interpreter exits, and nobody closed us: block until the jobs have ended, at most `drain` seconds."""
        if self.is_usable and not self.is_silent:
            warnings.warn(f"{self.runner!r} was never closed; use `with`, or close()", ResourceWarning, stacklevel=2)
        self.close(drain, None if drain is None else min(drain, EXIT_GRACE), was_interrupted=True)

    def _end(self) -> None:
        """Have the loop end what is left; after an orderly close nothing is."""
        self.portal.post(self._end_now)
        has_left(self)

    def cancel_waiting(self) -> None:
        """Cancel the jobs that do not run yet; never blocks."""
        self.portal.post(self._cancel_waiting)

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` on the loop; it must not raise. Never blocks.

        A close that waits for all jobs lets it end first: it may submit more. Any other cancels it.

        Raises:
            RunnerClosed: it will not run.
        """
        # Posted before whatever a close posts: it has begun when it is cancelled, and can say what became of it.
        with self._starting:
            if not self.doorway.is_closed and self.portal.post(self._begin, work):
                return
        work.close()
        raise RunnerClosed("the runner is closed; make a new one")

    # --- on the loop --------------------------------------------------------------------

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._works.add(task)
        task.add_done_callback(self._works.discard)

    async def _aclose(self, drain: float | None, grace: float | None) -> list[str]:
        while drain is None and self._works:
            await asyncio.wait(self._works)
        return await self.runner.aclose(drain=drain, grace=grace)

    def _end_now(self) -> None:
        self._has_ended = True
        self.doorway.empty()
        self.runner._end_now()

    def _cancel_waiting(self) -> None:
        for job in self.runner.jobs():
            cancel_if_waiting(job)

    def _begin_to_finish(self, drain: float | None, grace: float | None) -> None:
        if self._has_ended:  # the loop is about to end, and no task of ours would
            return
        # Not in the context of whoever asked: that may be one of the jobs which are waited for.
        task = asyncio.get_running_loop().create_task(self._finish(drain, grace), context=Context())
        self._finishing.add(task)

    async def _finish(self, drain: float | None, grace: float | None) -> None:
        try:
            await self._aclose(drain, grace)
        finally:
            has_left(self)
            self.portal.end_soon()
