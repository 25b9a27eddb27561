"""Start the next jobs: highest priority first, then in the order of acceptance.

Reads only the few hundred rows that it may take. A job that may not start now, because its function is paused or
its limit reached, is put aside once, when it is met at the head of its lane.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from asyncjobs.service.records import Claim
from asyncjobs.service.store import limits, schedules
from asyncjobs.service.store.ending import Attempt, Final, end_all
from asyncjobs.service.store.limits import Rooms
from asyncjobs.service.store.outlook import look
from asyncjobs.service.store.places import LIMITED, PAUSED
from asyncjobs.service.store.transaction import Transaction
from asyncjobs.state import JobState

BATCH = 500
"""So many jobs are put aside, or come due, in one transaction at most; the next claim goes on."""


def claim(tx: Transaction, wants: Mapping[str, int]) -> list[Claim]:
    """At most so many jobs of each lane, started and counted."""
    now = look(tx.connection)
    if now.next_change is not None and now.next_change <= tx.now:
        wake(tx)
    paused = {scope for (scope,) in tx.all("pauses")} if now.has_pauses else set()
    if "all" in paused:
        return []
    rooms = Rooms(tx)
    claims: list[Claim] = []
    for lane, number in wants.items():
        if number > 0 and f"lane:{lane}" not in paused:
            claims += _claim_lane(tx, lane, number, paused, rooms, unparks=bool(now.has_parked))
    rooms.settle()
    return claims


def wake(tx: Transaction) -> None:
    """End what has waited too long, and make claimable what was waiting for its time."""
    _expire(tx)
    for seq, id, state, attempt in tx.all("due_jobs", (tx.now, BATCH)):
        tx.run("make_ready", (seq,))
        if state == JobState.WAITING:
            tx.count(JobState.WAITING, JobState.QUEUED)
            tx.log(seq, id, "queued", JobState.QUEUED, attempt)
    schedules.make_due(tx)
    limits.open_up(tx)


def _expire(tx: Transaction) -> None:
    ends: list[tuple[Attempt, Final]] = []
    for name, *row in tx.all("overdue_jobs", (tx.now, BATCH)):
        job = Attempt.of(row)
        note, outcome = tx.settings.too_late(job.id, name, job.number)
        ends.append((job, Final(JobState.TIMED_OUT, note, outcome, size=len(outcome))))
    end_all(tx, ends)


def unpark(tx: Transaction, paused: set[str], number: int) -> None:
    """Bring back what lay aside for a pause that is over, as many as may be wanted."""
    for function in tx.each("next_paused_function"):
        if f"function:{function}" not in paused:
            for (seq,) in tx.all("parked_by_pause", (function, number)):
                tx.run("park", (0, seq))


def _claim_lane(
    tx: Transaction, lane: str, number: int, paused: set[str], rooms: Rooms, *, unparks: bool
) -> list[Claim]:
    claims: list[Claim] = []
    parked = 0
    while len(claims) < number and parked < BATCH:
        wanted = number - len(claims)
        if unparks:
            unpark(tx, paused, wanted)
        rows = tx.all("ready_jobs", (lane, wanted))
        taken, aside = _take(tx, rows, paused, rooms)
        claims += taken
        parked += aside
        if not aside and len(rows) <= len(taken):
            break
    tx.count(JobState.QUEUED, JobState.RUNNING, len(claims))
    return claims


def _take(tx: Transaction, rows: Sequence[Any], paused: set[str], rooms: Rooms) -> tuple[list[Claim], int]:
    # What may start of these, and how many were put aside. Ends early where others are to be looked at first.
    claims: list[Claim] = []
    parked = 0
    relieved: str | None = None
    for row in rows:
        function, limit = row[3], row[13]
        if f"function:{function}" in paused:
            tx.run("park", (PAUSED, row[0]))
            parked += 1
            if limit is not None:  # it may have been let through in the place of another one
                relieved = limit
                break
        elif not rooms.take(limit, tx.next_event):
            tx.run("park", (LIMITED, row[0]))
            parked += 1
        else:
            claims.append(_start(tx, row))
    tx.run_many("start", [(claim.seq, claim.attempt, tx.epoch, claim.fence, tx.now) for claim in claims])
    if relieved is not None:
        limits.relieve(tx, relieved)
    return claims, parked


def _start(tx: Transaction, row: tuple[Any, ...]) -> Claim:
    (seq, id, name, function, payload, terms, lane, attempt, failures, crashes) = row[:10]
    submitted_at, due, after, _, at_most_once, deadline, checkpoint = row[10:]
    fence = tx.log(seq, id, "claimed", JobState.RUNNING, attempt + 1)
    return Claim(
        seq=seq,
        id=id,
        name=name,
        function=function,
        payload=payload,
        terms=terms,
        lane=lane,
        attempt=attempt + 1,
        epoch=tx.epoch,
        fence=fence,
        failures=failures,
        crashes=crashes,
        submitted_at=submitted_at,
        due=due,
        after=tuple(json.loads(after)) if after else (),
        checkpoint=checkpoint,
        at_most_once=bool(at_most_once),
        deadline=deadline,
    )


def begin(tx: Transaction, id: str, fence: int) -> bool:
    """Write down that an attempt starts now; False: it is not the one that runs."""
    return tx.run("begin", (tx.now, id, fence)).rowcount > 0
