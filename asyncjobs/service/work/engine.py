"""Move jobs from the store to the workers and their ends back: `Engine`.

Nothing is asked again and again: the store tells of news, the runner of ends, one timer rings when something comes
due. No task per job: a claim becomes a call of the runner, its end an `Ending` in a list that is written down in
groups.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, Self

from asyncjobs.failpoint import point
from asyncjobs.job import Job
from asyncjobs.runner import Runner
from asyncjobs.service import outcome
from asyncjobs.service.allow import Allow
from asyncjobs.service.errors import ServiceError, ServiceGone
from asyncjobs.service.protocol import ProgressView
from asyncjobs.service.records import Accepted, CancelAnswer, Claim, Ending, Event, NewJob
from asyncjobs.service.store.store import Store
from asyncjobs.service.work import ending as rules
from asyncjobs.service.work.admission import Admission
from asyncjobs.service.work.attempt import Attempt
from asyncjobs.service.work.claims import Claims
from asyncjobs.service.work.desk import Desk
from asyncjobs.service.work.drafting import Drafter
from asyncjobs.service.work.news import News
from asyncjobs.service.work.orders import RETURNED
from asyncjobs.service.work.sweeping import tidy_on
from asyncjobs.service.work.writing import Writer
from asyncjobs.state import JobState
from asyncjobs.token import StopReason

logger: logging.Logger = logging.getLogger("asyncjobs.service")

TOLD = frozenset({"failed", "timed_out", "lost", "late_outcome_discarded"})
"""Kinds of events that the service's log has; all of them are in the store's."""

_SUCCEEDED = JobState.SUCCEEDED  # looking a member up in its enum costs as much as a small function

TEND_INTERVAL = 1.0
"""Seconds that a claimed job may wait for a worker before it goes back to the queue."""
PATIENCE = 0.01
"""Seconds that ends may wait for somebody else's commit if nobody waits for them: one of their own costs more."""
LONGEST_GRACE = 2.0
"""Seconds that an interrupted job has at most to clean up."""
LAST_WAIT = 2.5
"""Seconds beyond that until its end is on disk."""


class Engine:
    """Runs the jobs of one store on the process lanes of one runner; an async context manager.

    Args:
        store: open; told of each end before anybody else is.
        runner: open, with worker processes prepared by `performing.prepare`.
        key: what calls and outcomes are sealed with.
        allow: which functions may be run by name.
        folder: the state directory: logs and figures of jobs go there.
        desk: what jobs may ask, where the workers were told its number.
        lanes: the runner's lanes that jobs may name.
    """

    def __init__(
        self,
        store: Store,
        runner: Runner,
        *,
        key: bytes,
        allow: Allow,
        folder: Path,
        desk: Desk | None = None,
        lanes: Sequence[str] = ("process",),
    ) -> None:
        self.news: News = News()
        self.is_watched: Callable[[], bool] = lambda: True
        """Whether anybody waits for the ends of jobs."""
        self._store = store
        self._runner = runner
        self._key = key
        self._folder = folder
        self._allow = allow
        self._clock = store.settings.clock
        self._desk = desk or Desk(store)
        self._lanes = tuple(lanes)
        self._admission = Admission(self._lanes, allow, key)
        self._attempts: dict[str, Attempt] = {}
        self._stops: dict[str, tuple[str, float | None]] = {}
        """Asked for while the claim was on its way."""
        self._fetching = 0
        """How many groups of claims wait for the results of others."""
        self._random = Random()

    # --- life ---------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._quiet = asyncio.Event()
        self._claims = Claims(self._store, self._clock, self._lanes, self._workers_of, self._begin)
        self._drafter = Drafter(self._runner, self._key, self._folder, self.news, self._loop, self._allow.patterns)
        self._writer = Writer(self._store, self._patience, self._written)
        self._tending: asyncio.TimerHandle | None = None
        self._tasks = asyncio.TaskGroup()
        await self._tasks.__aenter__()
        self._desk.tasks = self._tasks
        self._workers = [
            self._tasks.create_task(work, name=name)
            for name, work in (
                ("asyncjobs-claims", self._claims.run()),
                ("asyncjobs-endings", self._writer.run()),
                ("asyncjobs-tidy", tidy_on(self._store, self._folder)),
            )
        ]
        self._store.listen(self._heard)
        self._claims.wake()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._claims.is_over = True
        if self._tending is not None:
            self._tending.cancel()
        for task in self._workers:
            task.cancel()
        if kind is asyncio.CancelledError:  # it may be the group that cancelled us, for one of its tasks failed
            await self._tasks.__aexit__(kind, error, trace)
        else:
            await self._tasks.__aexit__(None, None, None)

    # --- what callers ask ---------------------------------------------------------------

    async def submit(self, jobs: Sequence[NewJob]) -> list[Accepted]:
        """Take all of them, or none; once it returns they are on disk. What a worker is free for starts at once.

        Raises:
            BadRequest: a value is not allowed.
            NotAllowed: a function is on no list, or a call was not sealed with this service's key.
            ServiceGone: the service is stopping.
            KeyConflict, ServiceFull, StorageFull, StorageBroken: see `Store.submit`.
        """
        if self._claims.is_over:
            raise ServiceGone("the service is stopping")
        for job in jobs:
            self._admission.check_job(job)
        wants = self._claims.wants(jobs)
        if not wants:
            return await self._store.submit(jobs)
        with self._claims.reserved(wants):
            accepted, claims = await self._store.submit_and_claim(jobs, wants)
        self._claims.took(claims)
        # Whoever submitted hears of it first: it is at its next job while this one is on its way to a worker.
        self._loop.call_soon(self._begin, claims)
        return accepted

    def check(self, job: NewJob) -> None:
        """Whether it may run here, see `Admission.check_job`; of a schedule's jobs that is asked once, before."""
        self._admission.check_job(job)

    async def cancel(
        self, job: str, reason: str = "cancelled", grace: float | None = None
    ) -> tuple[CancelAnswer, JobState]:
        """End it if it has not started, ask it to stop if it runs.

        Raises:
            NoSuchJob: there is none of that id.
        """
        answer, state = await self._store.cancel(job, reason)
        if answer == "requested":
            attempt = self._attempts.get(job)
            if attempt is not None:
                attempt.stop(StopReason("cancel", reason), grace)
            else:
                self._stops[job] = (reason, grace)
        return answer, state

    async def pause(self, scope: str) -> None:
        """Start nothing more of it; see `Store.pause`."""
        self._admission.check_pause(scope)
        await self._store.pause(scope)
        self._give_back_waiting()

    async def resume(self, scope: str) -> None:
        """End that pause."""
        await self._store.resume(scope)
        self._claims.wake()

    def progress_of(self, job: str) -> ProgressView | None:
        """How far it is, if it runs and has said so."""
        attempt = self._attempts.get(job)
        return None if attempt is None else attempt.progress

    def busy(self) -> int:
        """How many workers run something."""
        return sum(self._runner._lanes[lane].busy() for lane in self._lanes)

    def trouble(self) -> str:
        """Why nothing is started, although jobs wait; empty: nothing is wrong."""
        return self._claims.trouble({lane for lane in self._lanes if self._runner._lanes[lane].busy()})

    def size(self) -> int:
        """How many workers there may be."""
        return sum(map(self._workers_of, self._lanes))

    def _workers_of(self, lane: str) -> int:
        return max(1, self._runner._lanes[lane].size())  # a cluster that is not connected has none yet

    async def drain(self, seconds: float) -> None:
        """Claim nothing more, let what runs end for so many seconds, then interrupt it; all ends are on disk."""
        self._claims.is_over = True
        self._give_back_waiting()
        if not await self._is_quiet_within(seconds):
            self.interrupt()
            await self._is_quiet_within(LONGEST_GRACE + LAST_WAIT)

    def interrupt(self) -> None:
        """End what runs, for it to be run again by the next start."""
        attempts = tuple(self._attempts.values())
        if attempts:
            logger.warning("%d jobs are interrupted: %s", len(attempts), ", ".join(sorted(self._attempts)[:20]))
        for attempt in attempts:
            attempt.is_interrupted = True
            attempt.stop(StopReason("shutdown", "the service is stopping"), min(attempt.terms.grace, LONGEST_GRACE))

    async def _is_quiet_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                while self._is_busy():
                    self._quiet.clear()
                    await self._quiet.wait()
        except TimeoutError:
            return False
        return True

    def _is_busy(self) -> bool:
        return self._writer.is_busy or self._fetching > 0 or self._claims.count > 0

    def _patience(self) -> float:
        # An end needs no commit of its own if nobody waits for it; a job in the queue may, for its result or its room.
        is_awaited = self._claims.is_over or self.is_watched() or self._store.has_queued
        return 0.0 if is_awaited else PATIENCE

    def _written(self) -> None:
        self._quiet.set()

    def _heard(self, events: Sequence[Event]) -> None:
        self._claims.wake()
        for event in events:
            if event.kind in TOLD:
                logger.warning("job %s: %s", event.kind, event.note, extra={"fields": _about(event)})
            if self._stops and event.state.is_final:
                self._stops.pop(event.id, None)

    # --- starting -----------------------------------------------------------------------

    def _begin(self, claims: Sequence[Claim]) -> None:
        """Hand them to the runner; those that need results of others first get them."""
        needy: list[tuple[Claim, bytes]] = []
        for claim in claims:
            if self._claims.is_over:
                self._give_back(claim)
                continue
            try:
                call = self._drafter.call_of(claim)
            except ServiceError as error:
                self._end(rules.refused(claim, error), claim)
                continue
            if claim.after and outcome.needs_results(call):
                needy.append((claim, call))
            else:
                self._start(claim, call, {})
        if needy:
            self._fetching += 1
            self._tasks.create_task(self._begin_needy(needy))
        if claims and self._tending is None:
            self._tending = self._loop.call_later(TEND_INTERVAL, self._tend)

    async def _begin_needy(self, needy: list[tuple[Claim, bytes]]) -> None:
        try:
            ids = sorted({parent for claim, _ in needy for parent in claim.after})
            found = await self._store.outcomes(ids)
            sealed = {one[0]: one[4] for one in found if one[1] is JobState.SUCCEEDED}
            for claim, call in needy:
                try:
                    results = self._drafter.results_of(claim, sealed)
                except ServiceError as error:
                    self._end(rules.refused(claim, error), claim)
                    continue
                self._start(claim, call, results)
        finally:
            self._fetching -= 1
            self._quiet.set()

    def _start(self, claim: Claim, call: bytes, results: dict[str, bytes]) -> None:
        stop = self._stops.pop(claim.id, None)
        try:
            terms = self._drafter.terms_of(claim)
            late = rules.too_late(claim, self._clock())
            if late is not None:
                self._end(late, claim)
                return
            attempt = self._drafter.attempt(claim, terms, call, results)
        # Whatever is wrong with one stored job, it ends, and the others go on.
        except Exception as error:
            self._end(rules.refused(claim, error), claim)
            return
        self._attempts[claim.id] = attempt
        attempt.job._listen(lambda job: self._has_ended(attempt, job))
        self._runner._intake.admit(attempt.job)
        point("task.sent")
        if stop is not None:
            attempt.stop(StopReason("cancel", stop[0]), stop[1])
        elif claim.deadline is not None and claim.id in self._attempts:
            seconds = claim.deadline - self._clock()
            attempt.deadline = self._loop.call_later(min(seconds, 1e9), self._deadline, attempt)

    def _deadline(self, attempt: Attempt) -> None:
        text = f"job {attempt.claim.name!r} did not end before its deadline"
        attempt.stop(StopReason("deadline", text), None)

    def _tend(self) -> None:
        """Those that waited for a worker all the time since the last look go back: others may be more urgent."""
        self._tending = None
        if self._claims.is_over or not self._attempts:
            return
        limit = time.monotonic() - TEND_INTERVAL if self.busy() >= self.size() else -math.inf  # else a worker starts
        for attempt in tuple(self._attempts.values()):
            if attempt.job._call.in_queue and attempt.job._marks[1] < limit:
                self._claims.windows[attempt.claim.lane].stalled()
                attempt.give_back()
        if any(attempt.job._call.in_queue for attempt in self._attempts.values()):
            self._tending = self._loop.call_later(TEND_INTERVAL, self._tend)

    def _give_back_waiting(self) -> None:
        for attempt in tuple(self._attempts.values()):
            attempt.give_back()

    # --- ends ---------------------------------------------------------------------------

    def _has_ended(self, attempt: Attempt, job: Job[Any]) -> None:
        """The runner is done with it."""
        claim = attempt.claim
        attempt.close()
        self._attempts.pop(claim.id, None)
        if job._state is _SUCCEEDED and job._value[:1] == RETURNED:  # the short way for what happens most
            self._claims.ran(claim.lane, job._call.seconds)
            body = job._value[1:]
            self._writer.end(
                Ending(claim.id, claim.attempt, claim.epoch, _SUCCEEDED, self._drafter.seal(claim.id, body))
            )
            self._claims.left(claim.lane)
            return
        error = job.exception()
        is_final = job._call.is_last and not attempt.is_interrupted
        report = rules.Report(job.state, job._value or b"", error, attempt.is_interrupted, is_final)
        if job.started_at is None and (attempt.gives_back or attempt.is_interrupted):
            self._give_back(claim)
        elif rules.has_no_place(report):
            self._claims.hold(claim.lane, error)
            self._give_back(claim)
        else:
            self._claims.ran(claim.lane, job._call.seconds)
            self._end(rules.ending(claim, attempt.terms, report, self._random.random(), self._clock()), claim)

    def _give_back(self, claim: Claim) -> None:
        self._writer.give_back(claim)
        self._claims.left(claim.lane)

    def _end(self, ended: Ending, claim: Claim) -> None:
        if ended.outcome:
            ended = ended._replace(outcome=self._drafter.seal(ended.id, ended.outcome))
        self._writer.end(ended)
        self._claims.left(claim.lane)


def _about(event: Event) -> dict[str, object]:
    return {"id": event.id, "state": event.state.name, "attempt": event.attempt, "epoch": event.epoch, "seq": event.seq}
