"""The way of jobs from any thread into an open runner: `Doorway`, with an `Inbox` for each lane.

To submit is an append here and, unless the loop is about to look anyway, one wake-up. The room of the
lane's queue is counted here too, so nothing is accepted that would not fit.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from time import sleep
from typing import Any

from asyncjobs.engine.dispatcher import Dispatcher
from asyncjobs.errors import RunnerClosed
from asyncjobs.intake import Intake
from asyncjobs.job import Job
from asyncjobs.jobqueue import QueueFull
from asyncjobs.lanes.base import Plan
from asyncjobs.portal import Portal


class Inbox:
    """Where jobs of other threads wait until the loop puts them into one lane's queue."""

    def __init__(self, portal: Portal, dispatcher: Dispatcher) -> None:
        self._portal = portal
        self._engine = dispatcher.engine
        self._queue = dispatcher.queue
        # Reentrant, for a signal handler or a finalizer may submit in the midst of a submit. The loop never takes it:
        # whoever holds it may, in such a handler, wait for the loop.
        self._lock = threading.RLock()
        self._is_moving = False
        """Jobs go on into the queue, and are counted both here and there."""
        self._posted: deque[Job[Any]] = deque()
        self._nbytes_in = self._nbytes_out = 0
        """Of all that ever came in, counted by those who post; and went on, counted by the loop."""
        self._will_look = False
        """The loop has been woken, and has not looked yet."""
        self._is_closed = False

    def post(self, job: Job[Any]) -> bool:
        """Accept `job`: from here on it has exactly one end. False: there is hardly any room. From any thread.

        Raises:
            RunnerClosed: no more jobs are taken.
        """
        call = job._call
        try:
            with self._lock:
                if self._is_closed:
                    raise self._refusal(job)
                if not self._queue.may_enter(call, len(self._posted), self._nbytes_in - self._nbytes_out):
                    return False
                call.number = self._engine.next_number()
                if call.payload is not None:
                    self._nbytes_in += call.payload.nbytes
                self._posted.append(job)
                if self._will_look:
                    return True
                self._will_look = True
            is_open = self._portal.post(self.empty)
        except BaseException:
            # Ctrl-C may come after the note that the loop is woken and before it is: nobody else would wake it.
            self._portal.post(self.empty)
            raise
        # If the loop has ended meanwhile, it may have taken the job along: then that was accepted, and has ended.
        # Who finds it not over here has come before its last look.
        if (not is_open or self._portal.is_over) and not job.done():
            raise self._refusal(job)
        return True

    def post_if_room(self, job: Job[Any]) -> bool:
        """As `post`, and False only if the queue is full indeed, not while the loop counts some jobs twice."""
        while not self.post(job):
            if not self._is_moving or self._portal.is_here:
                return self.post(job)
            sleep(0)  # let the loop's thread get on with it: some microseconds
        return True

    def _refusal(self, job: Job[Any]) -> RunnerClosed:
        return self._engine.refusal(f"the runner is closed; job {job.name!r} was not accepted")

    def empty(self) -> None:
        """On the loop: put everything that was posted into the queue."""
        # First of all: what is posted from now on wakes us again, even if we take it with us.
        self._will_look = False
        posted, engine = self._posted, self._engine
        self._is_moving = True
        while posted:
            job = posted[0]
            nbytes = job._call.nbytes
            engine.take_in(job)
            # Only now: who posts meanwhile counts it twice rather than not at all.
            posted.popleft()
            self._nbytes_out += nbytes
            if not engine.is_open and not job.done():  # it broke down, or was closed from within
                job._call.plan.home.fail_now(job, self._refusal(job))
        self._is_moving = False

    def enter(self, job: Job[Any]) -> bool:
        """On the loop: accept `job` behind all that was posted. False: those took the room it waited for."""
        self.empty()
        if not self._queue.has_room(job._call):
            return False
        self._engine.accept(job)
        return True

    def close(self) -> None:
        """Take no more; what was posted stays accepted. From any thread."""
        with self._lock:
            self._is_closed = True

    def shut(self) -> None:
        """The same on the loop, which ends: who posts at this moment finds that out."""
        self._is_closed = True
        self.empty()


class Doorway:
    """The way of jobs from any thread into one open runner."""

    def __init__(self, portal: Portal, intake: Intake) -> None:
        self.portal: Portal = portal
        self.intake: Intake = intake
        self.is_closed: bool = False
        self._inboxes = {name: Inbox(portal, one) for name, one in intake.engine.dispatchers.items()}

    def post(
        self, fn: Callable[..., Any], plan: Plan, args: tuple[Any, ...], kwargs: dict[str, Any], waits: bool
    ) -> Job[Any]:
        """The job, accepted; `waits` says whether to block while the lane's queue is full."""
        if self.portal.is_foreign:
            self.portal.check_process("submit()")
        if not plan.is_plain and plan.options.key is not None:
            return self._post_keyed(fn, plan, args, kwargs, waits)
        job = self.intake.draft(fn, plan, args, kwargs)
        inbox = self._inboxes[plan.lane]
        if inbox.post(job):
            return job
        if waits:
            return self.portal.call(self._enter, job)
        if inbox.post_if_room(job):
            return job
        raise QueueFull(
            f"lane {plan.lane!r} has as many queued jobs as its queue may hold, so {job.name!r} was not accepted; "
            "submit() waits for room"
        )

    def _post_keyed(
        self, fn: Callable[..., Any], plan: Plan, args: tuple[Any, ...], kwargs: dict[str, Any], waits: bool
    ) -> Job[Any]:
        """Which job lives under a key is known on the loop only."""

        def enter_now() -> Job[Any]:
            return self.intake.admit(self.intake.make(fn, plan, args, kwargs))

        if self.portal.is_here:
            return enter_now()
        if not waits:
            return self.portal.do(enter_now)
        return self.portal.call(self._enter, self.portal.do(self.intake.make, fn, plan, args, kwargs))

    async def _enter(self, job: Job[Any]) -> Job[Any]:
        while not job._call.number:  # one that has its number lives, under the same key
            job = await self.intake.room_for(job)
            if job._call.number or self._inboxes[job.lane].enter(job):
                break
        return job

    def close(self) -> None:
        """Take no more jobs; those that were accepted go on. From any thread."""
        self.is_closed = True
        for inbox in self._inboxes.values():
            inbox.close()

    def shut(self) -> None:
        """On the loop, which ends: take no more, and leave nothing behind in here."""
        self.is_closed = True
        for inbox in self._inboxes.values():
            inbox.shut()

    def empty(self) -> None:
        """On the loop: every job that was accepted is in its queue after this."""
        for inbox in self._inboxes.values():
            inbox.empty()
