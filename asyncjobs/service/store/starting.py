"""Start jobs in the step that accepts them, where nothing stands before them.

They never wait, so no index has to say for a moment that they do, and no claim has to find them: a job that is
submitted to an idle service is one row written once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from asyncjobs.service.records import Claim, NewJob
from asyncjobs.service.store.outlook import look
from asyncjobs.service.store.transaction import Transaction
from asyncjobs.state import JobState


def room_for(tx: Transaction, jobs: Sequence[NewJob], wants: Mapping[str, int]) -> Mapping[str, int]:
    """How many of each lane may start as they are accepted, the first ones; none: a claim has to look what is next."""
    if not wants or any(_has_to_wait(job) or job.priority != jobs[0].priority for job in jobs):
        return {}
    now = look(tx.connection)
    is_due = now.next_change is not None and now.next_change <= tx.now
    return {} if is_due or now.lane is not None or now.has_pauses or now.has_parked else wants


def _has_to_wait(job: NewJob) -> bool:
    # It may have to, and a claim knows.
    return bool(job.after) or job.limit is not None or job.due is not None or job.deadline is not None


def start(tx: Transaction, seq: int, job: NewJob) -> Claim:
    """The first attempt of a new job."""
    return Claim(
        seq=seq,
        id=job.id,
        name=job.name,
        function=job.function,
        payload=job.payload,
        terms=job.terms,
        lane=job.lane,
        attempt=1,
        epoch=tx.epoch,
        fence=tx.log(seq, job.id, "claimed", JobState.RUNNING, 1),
        failures=0,
        crashes=0,
        submitted_at=tx.now,
        due=None,
        after=(),
        checkpoint=None,
        at_most_once=job.at_most_once,
    )
