"""A runner that lives on a loop of its own: how it opens, closes, and leaves when nobody closed it.

Each face of this package has one of these. A face may go; what it accepted stays here until it has ended.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

import anyio

from asyncjobs.errors import RunnerClosed
from asyncjobs.job import Job
from asyncjobs.portal import Portal
from asyncjobs.runner import Runner
from asyncjobs.state import JobState
from asyncjobs.sync.doorway import Doorway
from asyncjobs.sync.leaving import has_left, leave_at_exit

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
        self.runner: Runner = runner
        self.exit_drain: float | None = exit_drain
        self.is_silent: bool = is_silent
        self._works: set[asyncio.Task[None]] = set()
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
        # Loads what a close needs. Loaded by the close itself, it would run code from strings, and then the
        # interpreter forgets that it was Ctrl-C that ended the script: the exit code would be 1.
        anyio.CancelScope()
        await self.runner.__aenter__()

    def __repr__(self) -> str:
        return repr(self.runner).replace("<Runner", "<SyncRunner", 1)

    @property
    def is_usable(self) -> bool:
        """Whether it takes jobs here and now: it is not closed, and belongs to this process."""
        return not (self.doorway.is_closed or self.portal.is_foreign)

    def close(self, drain: float | None, grace: float | None = None, *, was_interrupted: bool = False) -> list[str]:
        """Take no more and block until the jobs have ended; the names of those cancelled after `drain` seconds.

        Ctrl-C cuts the drain short, a second one (the first, if it `was_interrupted` before) everything.
        In a forked child it does nothing.

        Raises:
            WouldDeadlock: called in the loop's thread, or inside a job of this runner; it goes on as before.
        """
        if self.portal.is_foreign:
            return []
        self.portal.check("close()")
        self.runner._engine.check_not_inside()
        return self._close(drain, grace, was_interrupted, None)

    def _close(
        self, drain: float | None, grace: float | None, was_interrupted: bool, patience: float | None
    ) -> list[str]:
        self.doorway.close()
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
            self._end()
            self.portal.close(LAST_WAIT)

    def close_soon(self) -> None:
        """Take no more, and end once all jobs have ended; never blocks. The exit waits for that, as for a drain."""
        self.doorway.close()
        self.portal.post(self._begin_to_finish)

    def abandon(self) -> None:
        """End the jobs and everything at once; never blocks, and may be called in any thread."""
        self.doorway.close()
        self._end()
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
        with suppress(TimeoutError):
            self._close(drain, None if drain is None else min(drain, EXIT_GRACE), True, patience)

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
        """
        if not self.portal.post(self._begin, work):
            work.close()
            raise RunnerClosed("the runner is closed; make a new one")

    def _end_all(self) -> None:
        """On the loop, which ends, whoever ended it."""
        self.doorway.shut()
        self.runner._end_now()
        has_left(self)

    def _end_unborn(self) -> None:
        with suppress(RunnerClosed):  # it had not even opened
            self.runner._end_now()

    # --- on the loop --------------------------------------------------------------------

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._works.add(task)
        task.add_done_callback(self._works.discard)

    async def _aclose(self, drain: float | None, grace: float | None) -> list[str]:
        self.doorway.empty()  # what was accepted is drained as well
        while drain is None and self._works:
            await asyncio.wait(self._works)
        return await self.runner.aclose(drain=drain, grace=grace)

    def _end_now(self) -> None:
        self.doorway.empty()
        self.runner._end_now()

    def _cancel_waiting(self) -> None:
        for job in self.runner.jobs():
            cancel_if_waiting(job)

    def _begin_to_finish(self) -> None:
        self._finishing = asyncio.get_running_loop().create_task(self._finish())

    async def _finish(self) -> None:
        await self._aclose(None, None)
        has_left(self)
        self.portal.end_soon()
