"""What an opening finds running has lost its process: QUEUED again with one crash more, or LOST.

One that was asked to stop is CANCELLED: it has stopped. In steps, each complete in itself; a crash in between
leaves the rest for the next opening.
"""

from __future__ import annotations

from collections.abc import Iterator

from asyncjobs.failpoint import point
from asyncjobs.retry import MAX_DELAY
from asyncjobs.service.store import limits
from asyncjobs.service.store.ending import Attempt, Final, end
from asyncjobs.service.store.places import READY
from asyncjobs.service.store.transaction import Transaction
from asyncjobs.state import MOVES, JobState

STEP = 1_000


def begin(tx: Transaction) -> None:
    """Write down the legal moves and the number of this opening."""
    tx.run("forget_moves")
    tx.run_many(
        "add_move", [(int(state), int(after)) for state, moves in MOVES.items() for after in set(moves.values())]
    )
    tx.run("set_counter", (tx.epoch, "epoch"))
    tx.run("forget_future_starts", (tx.now,))
    tx.run("hasten_retries", (tx.now + MAX_DELAY, tx.now + MAX_DELAY))


def recover(tx: Transaction) -> bool:
    """Decide about at most `STEP` jobs; whether there may be more."""
    jobs = list(_unended(tx))
    for job in jobs:
        point("recover.row")
        _recover(tx, job)
    return len(jobs) >= STEP


def _unended(tx: Transaction) -> Iterator[Attempt]:
    for state in (JobState.RUNNING, JobState.STOPPING):
        for row in tx.all("unended_attempts", (int(state), 0, STEP)):
            yield Attempt.of(row)


def _recover(tx: Transaction, job: Attempt) -> None:
    counted = job._replace(crashes=job.crashes + 1)
    if job.state == JobState.STOPPING:
        end(tx, counted, Final(JobState.CANCELLED, job.stop or "asked to stop when the service died"))
    elif job.at_most_once and job.has_begun:
        end(tx, counted, Final(JobState.LOST, "the service died while it ran, and it may be started at most once"))
    elif counted.crashes > job.max_crashes:
        end(tx, counted, Final(JobState.LOST, f"the machinery under it died {counted.crashes} times"))
    else:
        when, number = ("while", job.number) if job.has_begun else ("before", job.number - 1)
        note = f"the service died {when} attempt {job.number} {'ran' if job.has_begun else 'began'}"
        values = (int(JobState.QUEUED), READY, number, job.failures, counted.crashes, None, note, job.seq)
        tx.run("put_back", values)
        tx.count(job.state, JobState.QUEUED)
        tx.log(job.seq, job.id, "recovered", JobState.QUEUED, job.number, note)
        if job.limit is not None:
            limits.relieve(tx, job.limit)
