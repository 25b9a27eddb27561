"""Which running jobs wait for what, and a look now and then whether any waits for ever: `Waitlist`.

What a deadlock is, `deadlock` knows; here the picture is drawn for it, and one wait refused.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from concurrent import futures
from typing import Any

from asyncjobs.engine.deadlock import LaneView, Wait, hopeless, why
from asyncjobs.errors import WouldDeadlock
from asyncjobs.job import Job
from asyncjobs.lanes.base import Call
from asyncjobs.state import JobState

Waited = asyncio.Future[Any] | futures.Future[Any]

HOLDING = frozenset({JobState.RUNNING, JobState.STOPPING})
"""The states in which a job has a place of its lane."""

DEADLOCK_INTERVAL = 0.25
"""Seconds between two looks at who waits for whom, while any job waits for another."""


class Waitlist:
    """The waits of one runner's jobs; `view()` tells who holds the places of each lane."""

    def __init__(self, loop: asyncio.AbstractEventLoop, view: Callable[[], Mapping[str, LaneView]]) -> None:
        self._loop = loop
        self._thread = threading.get_ident()
        self._view = view
        self._rows: dict[int, tuple[Call, Job[Any] | None, str, Waited]] = {}
        self._number = 0
        self._check: asyncio.TimerHandle | None = None

    def add(self, waiter: Call, job: Job[Any] | None, lane: str, future: Waited) -> Callable[[], None]:
        """`waiter` waits for `job`, or for room in `lane`; the answer takes that back."""
        self._number += 1
        number = self._number
        self._rows[number] = (waiter, job, lane, future)
        if self._check is None and threading.get_ident() == self._thread:
            self._check = self._loop.call_later(DEADLOCK_INTERVAL, self.look)
        return lambda: self._rows.pop(number, None) and None

    def look(self) -> None:
        """Refuse one wait that would never end, if there is any; and look again as long as anybody waits."""
        self._check = None
        if not self._rows:
            return
        rows = tuple(self._rows.values())
        waits = [_wait(waiter, job, lane) for waiter, job, lane, _ in rows]
        lanes = self._view()
        doomed = hopeless(waits, lanes)
        # One is enough to break a circle: the newest, which could have known.
        if doomed:
            _refuse(*rows[waits.index(doomed[-1])], why(doomed[-1], doomed, lanes))
        self._check = self._loop.call_later(DEADLOCK_INTERVAL, self.look)

    def close(self) -> None:
        """Look no more."""
        if self._check is not None:
            self._check.cancel()


def _wait(waiter: Call, job: Job[Any] | None, lane: str) -> Wait:
    """One row of the picture. Calls stand for their jobs: an abandoned one's may be gone."""
    if job is None:
        return Wait(waiter, None, lane, target_is_queued=False)
    if job.state in HOLDING:
        return Wait(waiter, job._call, lane, target_is_queued=False)
    return Wait(waiter, job._call, lane, target_is_queued=True, borrowers=_borrowers(job._call))


def _borrowers(call: Call) -> frozenset[object]:
    """Who holds the limiter that `call` waits for; nobody, if it waits for none."""
    limiter = call.plan.options.limiter
    if limiter is None or limiter.available_tokens > 0:
        return frozenset()
    borrowers = frozenset(limiter.statistics().borrowers)
    return frozenset() if call in borrowers else borrowers


def _refuse(
    waiter: Call,
    job: Job[Any] | None,
    lane: str,
    future: Waited,
    reason: str,
) -> None:
    what = f"job {job.name!r}" if job is not None else "room in the queue"
    if not future.done():
        future.set_exception(WouldDeadlock(f"job {waiter.name!r} waits for {what}, {reason}"))
