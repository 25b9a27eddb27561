"""Run the call of an ended job once more, as a job of its own: what has ended never changes."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from asyncjobs.service.errors import NoSuchJob, NotNow
from asyncjobs.service.ids import new_id
from asyncjobs.service.records import Accepted, Limit, NewJob
from asyncjobs.service.store.submitting import submit
from asyncjobs.service.store.transaction import Transaction
from asyncjobs.state import JobState

TAG = "replay:"
"""Before the id of the job that it repeats."""


def look(tx: Transaction, id: str, *, again: bool) -> tuple[Any, ...]:
    """What is needed of job `id` to run it once more; if not `again`, only one that was not yet.

    Raises:
        NoSuchJob: there is none of that id.
        NotNow: it has not ended, it succeeded, or it was run again before.
    """
    row: tuple[Any, ...] | None = tx.one("job_to_replay", (id,))
    if row is None:
        raise NoSuchJob(f"there is no job {id} (any more)")
    state = JobState(row[1])
    if state < JobState.FAILED:
        raise NotNow(f"job {id} is {state.name}; only one that ended, and did not succeed, is run again")
    if not again and (former := tx.one("job_with_tag", (TAG + id,))) is not None:
        raise NotNow(f"job {id} was run again before, as job {former[0]}")
    return row


def replay(tx: Transaction, id: str, *, again: bool = True) -> Accepted:
    """Submit the call of job `id` under a new id.

    Raises:
        NoSuchJob, NotNow: see `look`.
        BadRequest, ServiceFull: as `submit`.
    """
    row = look(tx, id, again=again)
    seq, state, attempt, name, function, lane, priority, after, at_most_once, max_crashes, keep = row[:11]
    tags, limit_name, digest, payload, terms = row[11:]
    new = new_id()
    kept = [tag for tag in (json.loads(tags) if tags else []) if not tag.startswith(TAG)]
    job = NewJob(
        id=new,
        name=name,
        function=function,
        payload=tx.settings.reseal(id, new, payload),
        digest=hashlib.sha256(digest + new.encode()).digest(),
        terms=terms,
        lane=lane,
        priority=priority,
        after=tuple(json.loads(after)) if after else (),
        limit=_limit(tx, limit_name),
        at_most_once=bool(at_most_once),
        max_crashes=max_crashes,
        keep=keep,
        tags=(*kept, f"{TAG}{id}"),
    )
    [accepted] = submit(tx, [job])
    tx.log(seq, id, "replayed", JobState(state), attempt, f"as job {new}")
    return accepted


def _limit(tx: Transaction, name: str | None) -> Limit | None:
    if name is None:
        return None
    row = tx.one("limit", (name,))
    return Limit(name) if row is None else Limit(name, *row)
