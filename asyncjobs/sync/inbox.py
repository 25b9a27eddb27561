"""Jobs on their way from any thread to the runner's loop: `Inbox`.

To submit is an append here and, unless the loop is about to look anyway, one wake-up. The room of the
lane's queue is counted here too, so nothing is accepted that would not fit.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

from asyncjobs.engine.dispatcher import Dispatcher
from asyncjobs.errors import RunnerClosed
from asyncjobs.job import Job
from asyncjobs.portal import Portal


class Inbox:
    """Where jobs of other threads wait until the loop puts them into one lane's queue."""

    def __init__(self, portal: Portal, dispatcher: Dispatcher) -> None:
        self._portal = portal
        self._engine = dispatcher.engine
        self._queue = dispatcher.queue
        self._lock = threading.Lock()
        self._posted: deque[Job[Any]] = deque()
        self._nbytes_in = self._nbytes_out = 0
        """Of all that ever came in, counted by those who post; and went on, counted by the loop."""
        self._will_look = False
        """The loop has been woken, and has not looked yet."""
        self._is_closed = False

    def post(self, job: Job[Any]) -> bool:
        """Accept `job`: from here on it has exactly one end. False: there is no room. From any thread.

        Raises:
            RunnerClosed: no more jobs are taken.
        """
        call = job._call
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
        if not self._portal.post(self.empty):
            self._is_closed = True
            raise self._refusal(job)
        return True

    def _refusal(self, job: Job[Any]) -> RunnerClosed:
        return self._engine.refusal(f"the runner is closed; job {job.name!r} was not accepted")

    def empty(self) -> None:
        """On the loop: put everything that was posted into the queue."""
        # First of all: what is posted from now on wakes us again, even if we take it with us.
        self._will_look = False
        posted, engine = self._posted, self._engine
        while posted:
            job = posted[0]
            nbytes = job._call.nbytes
            engine.take_in(job)
            # Only now: who posts meanwhile counts it twice rather than not at all.
            posted.popleft()
            self._nbytes_out += nbytes
            if not engine.is_open and not job.done():  # it broke down, or was closed from within
                job._call.plan.home.fail_now(job, self._refusal(job))

    def close(self) -> None:
        """Take no more; what was posted stays accepted. From any thread."""
        with self._lock:
            self._is_closed = True
