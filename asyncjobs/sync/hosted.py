"""A runner that lives on a loop of its own: how it opens, closes, and leaves when nobody closed it.

Each face of this package has one of these. A face may go; what it accepted stays here until it has ended.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import warnings
from collections.abc import Coroutine
from contextlib import suppress
from contextvars import Context
from typing import Any

from asyncjobs.errors import RunnerClosed
from asyncjobs.job import Job
from asyncjobs.lanes.thread import ThreadLane
from asyncjobs.portal import Portal
from asyncjobs.runner import Runner
from asyncjobs.state import JobState
from asyncjobs.sync.doorway import Doorway
from asyncjobs.sync.leaving import check_not_over, has_left, leave_at_exit

logger: logging.Logger = logging.getLogger("asyncjobs")

STARTS_NOTHING_AT_THE_EXIT = ((3, 12, 0), (3, 12, 1))
"""Versions of CPython that start no threads and processes once the script has ended, and not only after their hooks
(https://github.com/python/cpython/issues/113964)."""
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
        face: what its user calls it.
        exit_drain: seconds that the exit of the interpreter waits for its jobs; None waits for all.
        is_silent: nobody is expected to close it.
    """

    def __init__(self, runner: Runner, face: str, exit_drain: float | None, *, is_silent: bool = False) -> None:
        check_not_over("what a new runner runs")
        self.runner: Runner = runner
        self._face = face
        self.exit_drain: float | None = exit_drain
        self.is_silent: bool = is_silent
        self._works: set[asyncio.Task[None]] = set()
        self._finishing: asyncio.Task[None] | None = None
        # Reentrant, for a finalizer may close us in the midst of a start.
        self._starting = threading.RLock()
        self.portal: Portal = Portal("asyncjobs-loop")
        try:
            self.portal.call(self._open)
            self.doorway: Doorway = Doorway(self.portal, runner._intake)
            self.portal.at_end = self._end_all
            leave_at_exit(self)
        except BaseException:
            self.portal.at_end = self._end_unborn
            self.portal.close(LAST_WAIT)
            raise

    async def _open(self) -> None:
        await self.runner.__aenter__()
        if sys.version_info[:3] in STARTS_NOTHING_AT_THE_EXIT:  # one thread that is there can do all the work
            for lane in self.runner._lanes.values():
                if isinstance(lane, ThreadLane):
                    await lane.warm_up()

    def __repr__(self) -> str:
        return repr(self.runner).replace("<Runner", f"<{self._face}", 1)

    @property
    def is_usable(self) -> bool:
        """Whether it takes jobs here and now: it is not closed, and belongs to this process."""
        return not (self.doorway.is_closed or self.portal.is_foreign)

    # --- work beside the jobs -----------------------------------------------------------

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

    def cancel_waiting(self) -> None:
        """Cancel the jobs that do not run yet; never blocks."""
        self.portal.post(self._cancel_waiting)

    # --- the end ------------------------------------------------------------------------

    def check_may_wait(self, what: str) -> None:
        """Refuse to wait for the end of everything where that would prevent it; names `what` was called.

        Raises:
            WouldDeadlock: in the loop's own thread, or inside one of our own jobs.
        """
        self.portal.check(what)
        self.runner._engine.check_not_inside()

    def close_door(self) -> None:
        """Take no more jobs and no more work; what was accepted goes on. From any thread."""
        with self._starting:
            self.doorway.close()

    def close(self, drain: float | None, grace: float | None = None, *, was_interrupted: bool = False) -> list[str]:
        """Take no more and block until the jobs have ended; the names of those cancelled after `drain` seconds.

        Ctrl-C cuts the drain short, a second one (the first, if it `was_interrupted` before) everything.
        In a forked child it does nothing.

        Raises:
            WouldDeadlock: called in the loop's thread, or inside a job of this runner; it goes on as before.
        """
        if self.portal.is_foreign:
            return []
        self.check_may_wait("close()")
        return self._close(drain, grace, was_interrupted, None)

    def _close(
        self, drain: float | None, grace: float | None, was_interrupted: bool, patience: float | None
    ) -> list[str]:
        self.close_door()
        try:
            return self.portal.converse(lambda _: self._aclose(drain, grace), "close()", timeout=patience)
        except RunnerClosed:  # by somebody else, meanwhile
            return []
        except KeyboardInterrupt:
            if not was_interrupted:
                with suppress(KeyboardInterrupt):  # the second: one is enough to tell the tale
                    self._close(0, grace, True, patience)
            raise
        finally:
            self.portal.post(self._end_now)
            has_left(self)
            self.portal.close(LAST_WAIT)

    def leave_block(self, kind: type[BaseException] | None, drain: float | None) -> None:
        """A ``with`` block ends, by `kind`: close. After Ctrl-C cancel instead; a second one makes that quick."""
        if kind is not KeyboardInterrupt:
            self.close(drain)
            return
        with suppress(KeyboardInterrupt):  # the first one is on its way already
            self.close(0, was_interrupted=True)

    def close_soon(self) -> None:
        """Take no more, and end once all jobs have ended; never blocks. The exit waits for that, as for a drain."""
        self.close_door()
        self.portal.post(self._begin_to_finish, None, None)

    def cancel_soon(self) -> None:
        """Take no more, cancel every job at once, and end; never blocks."""
        self.close_door()
        self.portal.post(self._begin_to_finish, 0.0, 0.0)

    def abandon(self) -> None:
        """Nobody holds us any more: fail every job at once, and end; never blocks, and in any thread."""
        self.close_door()
        self.portal.post(self._end_now)
        has_left(self)
        self.portal.end_soon()

    def leave(self, drain: float | None) -> None:
        """The interpreter exits, and nobody closed us: block until the jobs have ended, at most `drain` seconds."""
        if self.portal.is_foreign:
            return
        text = f"{self!r} was never closed; use `with`, or close()"
        try:
            if not (self.doorway.is_closed or self.is_silent):
                warnings.warn(text, ResourceWarning, stacklevel=2)
        finally:  # a warning may be an error
            self._leave(drain)

    def _leave(self, drain: float | None) -> None:
        # A coroutine may hold the loop up for ever: nobody waits longer for its answer.
        patience = None if drain is None else drain + EXIT_GRACE + LAST_WAIT
        try:
            self._close(drain, None if drain is None else min(drain, EXIT_GRACE), True, patience)
        except TimeoutError:
            return
        except KeyboardInterrupt:
            logger.warning("%r was interrupted while the interpreter exits; jobs that had not ended are lost", self)
            raise

    # --- on the loop --------------------------------------------------------------------

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._works.add(task)
        task.add_done_callback(self._works.discard)

    def _cancel_waiting(self) -> None:
        for job in self.runner.jobs():
            cancel_if_waiting(job)

    async def _aclose(self, drain: float | None, grace: float | None) -> list[str]:
        self.doorway.empty()  # what was accepted is drained as well
        while drain is None and self._works:
            await asyncio.wait(self._works)
        return await self.runner.aclose(drain=drain, grace=grace)

    def _begin_to_finish(self, drain: float | None, grace: float | None) -> None:
        if self.portal.is_over:  # no task of ours would end
            return
        # Not in the context of whoever asked: that may be one of the jobs which are waited for.
        self._finishing = asyncio.get_running_loop().create_task(self._finish(drain, grace), context=Context())

    async def _finish(self, drain: float | None, grace: float | None) -> None:
        try:
            await self._aclose(drain, grace)
        finally:
            has_left(self)
            self.portal.end_soon()

    def _end_now(self) -> None:
        """End what is left; after an orderly close nothing is."""
        self.doorway.empty()
        self.runner._end_now()

    def _end_all(self) -> None:
        """The loop ends, whoever ended it."""
        self.doorway.shut()
        self.runner._end_now()
        has_left(self)

    def _end_unborn(self) -> None:
        with suppress(RunnerClosed):  # it had not even opened
            self.runner._end_now()
