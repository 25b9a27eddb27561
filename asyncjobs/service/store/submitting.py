"""Accept jobs: all of a request or none, each once however often it is sent."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from asyncjobs.failpoint import has_flaw
from asyncjobs.service.errors import BadRequest, KeyConflict, ServiceError, ServiceFull
from asyncjobs.service.records import ID, Accepted, Claim, Limit, NewJob
from asyncjobs.service.store import limits, spans, starting
from asyncjobs.service.store.ending import settle
from asyncjobs.service.store.places import AFTER, LATER, READY
from asyncjobs.service.store.spans import Named
from asyncjobs.service.store.transaction import Transaction
from asyncjobs.state import JobState

_QUEUED, _RUNNING = int(JobState.QUEUED), int(JobState.RUNNING)
_STATE = -6
"""Where the columns of a row begin that a start changes."""


class Taken(NamedTuple):
    """What became of a submit."""

    accepted: list[Accepted]
    claims: list[Claim]
    """Of those that have started already."""


class _Known(NamedTuple):
    """A job that is in the database, or was met earlier in the same request."""

    seq: int
    state: JobState
    digest: bytes


class _Batch:
    """The rows of one request, before they are written."""

    def __init__(self, tx: Transaction) -> None:
        self.tx = tx
        self.by_id: dict[str, _Known] = {}
        self.by_key: dict[str, tuple[str, _Known]] = {}
        self.new: list[tuple[int, NewJob]] = []
        self.jobs: list[tuple[Any, ...]] = []
        self.claims: list[Claim] = []
        self.calls: list[tuple[Any, ...]] = []
        self.tags: list[tuple[str, int]] = []
        self.edges: list[tuple[int, int, int]] = []
        self.limits: dict[str, Limit] = {}
        self.doomed: dict[int, tuple[str, JobState]] = {}
        """Parents that have ended already, and not well."""

    def find(self, id: str) -> _Known | None:
        """The job of that id."""
        known = self.by_id.get(id)
        if known is None:
            row = self.tx.one("job_by_id", (id,))
            known = None if row is None else _Known(row[0], JobState(row[1]), row[2])
        return known

    def find_key(self, key: str) -> tuple[str, _Known] | None:
        """The job that the key stands for, with its id."""
        found = self.by_key.get(key)
        if found is None and not has_flaw("no_dedupe"):
            row = self.tx.one("job_by_key", (key,))
            found = None if row is None else (row[0], _Known(0, JobState(row[1]), row[2]))
        return found

    def accept(self, job: NewJob) -> Accepted:
        """One job: known already, or a new row."""
        known = self.find(job.id)
        if known is not None:
            _check_same(job, job.id, known)
            return Accepted(job.id, known.state, is_new=False)
        stands = None if job.key is None else self.find_key(job.key)
        if stands is not None:
            _check_same(job, *stands)
            return Accepted(stands[0], stands[1].state, is_new=False)
        return self.add(job)

    def add(self, job: NewJob) -> Accepted:
        """The rows of a new job."""
        tx = self.tx
        seq = tx.next_job()
        known = _Known(seq, JobState.QUEUED, job.digest)
        open_parents = self._add_edges(job, seq)
        self.by_id[job.id] = known
        if job.key is not None:
            self.by_key[job.key] = (job.id, known)
        self.new.append((seq, job))
        self.jobs.append(
            (
                *(seq, job.id, job.key, job.digest, job.name, job.function, job.lane),
                *(job.priority, job.due, open_parents),
                json.dumps(job.after) if job.after else None,
                *(int(job.at_most_once), job.max_crashes, tx.now, job.keep),
                json.dumps(job.tags) if job.tags else None,
                job.limit.name if job.limit else None,
                job.schedule,
                job.deadline,
                *(_QUEUED, _place(tx, job, open_parents), 0, 0, 0, None),
            )
        )
        if job.limit is not None:
            self.limits[job.limit.name] = job.limit
        self.calls.append((seq, job.payload, job.terms))
        if job.tags:
            self.tags.extend((tag, seq) for tag in dict.fromkeys(job.tags))
        tx.log(seq, job.id, "submitted", JobState.QUEUED, 0)
        return Accepted(job.id, JobState.QUEUED, True)

    def _add_edges(self, job: NewJob, seq: int) -> int:
        # How many parents have to succeed yet. One that did has its edge too: its outcome must stay as long.
        open_parents = 0
        for id in dict.fromkeys(job.after):
            parent = self.find(id)
            if parent is None:
                raise BadRequest(f"after={id!r} is not allowed: there is no such job (any more)")
            is_open = parent.state != JobState.SUCCEEDED
            open_parents += is_open
            self.edges.append((parent.seq, seq, int(is_open)))
            if is_open and parent.state.is_final:
                self.doomed[parent.seq] = (id, parent.state)
        return open_parents

    def start(self, room: Mapping[str, int]) -> None:
        """Let so many of each lane be RUNNING from the start."""
        left = dict(room)
        for at, (seq, job) in enumerate(self.new):
            if left.get(job.lane, 0) > 0:
                left[job.lane] -= 1
                claim = starting.start(self.tx, seq, job)
                at_once = None if job.at_most_once else self.tx.now
                self.jobs[at] = (*self.jobs[at][:_STATE], _RUNNING, None, 1, claim.epoch, claim.fence, at_once)
                self.claims.append(claim)

    def write(self) -> None:
        """Everything, in the order that references allow."""
        tx = self.tx
        for limit in self.limits.values():
            limits.put(tx, limit)
        tx.run_many("add_job", self.jobs)
        spans.widen(tx, [Named(row[0], row[4], row[5]) for row in self.jobs])
        tx.run_many("add_call", self.calls)
        if self.tags:
            tx.run_many("add_tag", self.tags)
        if self.edges:
            tx.run_many("add_edge", self.edges)
        tx.count(None, JobState.QUEUED, len(self.jobs) - len(self.claims))
        tx.count(None, JobState.RUNNING, len(self.claims))
        tx.weight += sum(len(payload) for _, payload, _ in self.calls)
        for parent, (id, state) in self.doomed.items():
            settle(tx, parent, id, state)


def submit(tx: Transaction, jobs: Sequence[NewJob], *, is_bounded: bool = True) -> list[Accepted]:
    """Take all of them; `is_bounded`: only as many as the queue's limit allows.

    Raises:
        BadRequest, KeyConflict, ServiceFull: nothing was taken.
    """
    return take(tx, jobs, {}, is_bounded=is_bounded).accepted


def take(tx: Transaction, jobs: Sequence[NewJob], room: Mapping[str, int], *, is_bounded: bool = True) -> Taken:
    """The same, and start so many of each lane (`starting.room_for`); none, if some of them are known already.

    Raises:
        BadRequest, KeyConflict, ServiceFull: nothing was taken.
    """
    for job in jobs:
        _check(job)
    mark = tx.mark()
    try:
        taken = _take(tx, jobs, room, is_bounded, _Batch.add)
    except (sqlite3.IntegrityError, ServiceFull):
        # Some are known already, or it is full and they may be: looking each up costs a third more.
        tx.back_to(mark)
        return _take(tx, jobs, {}, is_bounded, _Batch.accept)
    except ServiceError:
        tx.back_to(mark)
        raise
    tx.keep(mark)
    return taken


def _take(
    tx: Transaction,
    jobs: Sequence[NewJob],
    room: Mapping[str, int],
    is_bounded: bool,
    accept: Callable[[_Batch, NewJob], Accepted],
) -> Taken:
    batch = _Batch(tx)
    accepted = [accept(batch, job) for job in jobs]
    if batch.jobs:
        if is_bounded:
            _check_room(tx, len(batch.jobs))
        if room:
            batch.start(room)
        batch.write()
    if batch.doomed:
        accepted = [_as_it_is_now(tx, answer) for answer in accepted]
    return Taken(accepted, batch.claims)


def _place(tx: Transaction, job: NewJob, open_parents: int) -> int:
    if open_parents:
        return AFTER
    return LATER if job.due is not None and job.due > tx.now else READY


def _check(job: NewJob) -> None:
    if ID.fullmatch(job.id) is None:
        raise BadRequest(f"id={job.id!r} is not allowed; allowed: 26 digits of Crockford's base 32, lower case")


def _check_same(job: NewJob, id: str, known: _Known) -> None:
    if known.digest == job.digest:
        return
    what = f"the key {job.key!r} stands" if id != job.id else f"the id {id} stands"
    conflict = KeyConflict(f"{what} for another call already: job {id}")
    conflict.id = id
    raise conflict


def _check_room(tx: Transaction, fresh: int) -> None:
    if fresh > tx.settings.queue_limit:  # trying again would not help
        raise BadRequest(
            f"{fresh} jobs at once are not allowed; allowed: {tx.settings.queue_limit}, as many as may wait here"
        )
    waiting = tx.tally(JobState.QUEUED, JobState.WAITING)
    if waiting + fresh > tx.settings.queue_limit:
        raise ServiceFull(
            f"{waiting} jobs wait already, at most {tx.settings.queue_limit} may; {fresh} more were asked for"
        )


def _as_it_is_now(tx: Transaction, answer: Accepted) -> Accepted:
    state = tx.one("job_by_id", (answer.id,))[1]
    return answer._replace(state=JobState(state))
