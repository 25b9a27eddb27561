"""Ask a job to stop: one that has not started ends at once, one that runs is asked to."""

from __future__ import annotations

from asyncjobs.service.errors import NoSuchJob
from asyncjobs.service.records import CancelAnswer
from asyncjobs.service.store.ending import Attempt, Final, end
from asyncjobs.service.store.transaction import Transaction
from asyncjobs.state import JobState


def cancel(tx: Transaction, id: str, reason: str) -> tuple[CancelAnswer, JobState]:
    """What was done, and the job's state now.

    Raises:
        NoSuchJob: there is none of that id.
    """
    row = tx.one("attempt", (id,))
    if row is None:
        raise NoSuchJob(f"there is no job {id} (any more)")
    job = Attempt.of(row)
    if job.state.is_final:
        return "ended", job.state
    if job.state in (JobState.QUEUED, JobState.WAITING):
        end(tx, job._replace(stop=reason), Final(JobState.CANCELLED, reason))
        return "cancelled", JobState.CANCELLED
    if job.state == JobState.RUNNING:
        tx.run("ask_to_stop", (reason, job.seq))
        tx.count(JobState.RUNNING, JobState.STOPPING)
        tx.log(job.seq, job.id, "stopping", JobState.STOPPING, job.number, reason)
    return "requested", JobState.STOPPING
