"""Write down what became of attempts; one that is not the last claim of its job changes nothing.

`resolve` decides purely; `finish` and `give_back` write.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

from asyncjobs.failpoint import has_flaw
from asyncjobs.service.records import Claim, Ending
from asyncjobs.service.store import limits
from asyncjobs.service.store.ending import Attempt, Final, end_all
from asyncjobs.service.store.places import LATER, READY
from asyncjobs.service.store.transaction import Transaction
from asyncjobs.state import JobState

RUNS = (JobState.RUNNING, JobState.STOPPING)


class Verdict(NamedTuple):
    """Where a job goes from an attempt."""

    state: JobState
    attempt: int
    failures: int
    crashes: int
    note: str


class Written(NamedTuple):
    """An ending whose outcome may have been written to a file already."""

    ending: Ending
    file: str | None
    size: int


def resolve(job: Attempt, ending: Ending) -> Verdict:
    """What the end of an attempt means for its job: another attempt, or the end of it.

    A job that was asked to stop never goes back to the queue.
    """
    note, state = ending.note, ending.state
    crashes = job.crashes + ending.has_crashed
    failures = job.failures + (not ending.has_crashed and state in _FAILURES)
    if ending.has_crashed and (state == JobState.LOST or not state.is_final):
        state, note = _after_crash(job, ending, crashes)
    if ending.is_interrupted and job.at_most_once and job.has_begun and job.state != JobState.STOPPING:
        state, note = JobState.LOST, f"{note}; it may be started at most once"
    if job.state == JobState.STOPPING and not state.is_final:
        state, note = JobState.CANCELLED, job.stop or note
    is_undone = state == JobState.QUEUED and not (job.has_begun and (ending.has_crashed or ending.is_interrupted))
    return Verdict(state, job.number - is_undone, failures, crashes, note)


_FAILURES = (JobState.WAITING, JobState.FAILED, JobState.TIMED_OUT)


def _after_crash(job: Attempt, ending: Ending, crashes: int) -> tuple[JobState, str]:
    if job.at_most_once and job.has_begun:
        return JobState.LOST, ending.note or "the machinery under it died, and it may be started at most once"
    if crashes > job.max_crashes:
        return JobState.LOST, ending.note or f"the machinery under it died {crashes} times"
    return JobState.QUEUED if ending.due is None else JobState.WAITING, ending.note


def finish(tx: Transaction, endings: Sequence[Written]) -> list[JobState | None]:
    """The state that each job has now; None: it was not the last claim's end, or the job is gone."""
    ids = json.dumps([written.ending.id for written in endings])
    jobs = {row[1]: Attempt.of(row) for row in tx.all("attempts", (ids,))}
    ends: list[tuple[Attempt, Final]] = []
    states = [_finish(tx, jobs, written, ends) for written in endings]
    end_all(tx, ends)
    return states


def _finish(
    tx: Transaction, jobs: dict[str, Attempt], written: Written, ends: list[tuple[Attempt, Final]]
) -> JobState | None:
    # Decides, and puts what is final into `ends`.
    ending = written.ending
    job = jobs.get(ending.id)
    if job is None:
        _discard(tx, written)
        return None
    if has_flaw("no_fence"):
        job = job._replace(number=ending.attempt, epoch=ending.epoch)
    is_over = job.state not in RUNS and not (has_flaw("final_overwrite") and job.state.is_final)
    if is_over or (job.number, job.epoch) != (ending.attempt, ending.epoch):
        note = f"{ending.state.name}, {ending.note}"
        tx.log(job.seq, job.id, "late_outcome_discarded", job.state, ending.attempt, note)
        _discard(tx, written)
        return None
    verdict = resolve(job, ending)
    jobs[ending.id] = job._replace(state=verdict.state)
    if verdict.state.is_final:
        if (verdict.failures, verdict.crashes) != (job.failures, job.crashes):
            job = job._replace(failures=verdict.failures, crashes=verdict.crashes)
        ends.append((job, Final(verdict.state, verdict.note, ending.outcome, written.file, written.size)))
    else:
        _discard(tx, written)
        _put_back(tx, job, verdict, ending)
    return verdict.state


def give_back(tx: Transaction, claims: Sequence[Claim]) -> None:
    """These never started: QUEUED again, as if they had not been claimed."""
    ends = [Ending(claim.id, claim.attempt, claim.epoch, JobState.QUEUED) for claim in claims]
    finish(tx, [Written(ending, None, 0) for ending in ends])


def _put_back(tx: Transaction, job: Attempt, verdict: Verdict, ending: Ending) -> None:
    due = ending.due
    place = LATER if due is not None and due > tx.now else READY
    state = JobState.WAITING if verdict.state == JobState.WAITING else JobState.QUEUED
    if state == JobState.WAITING:
        place = LATER  # even one that is due goes through QUEUED
        due = tx.now if due is None else due
    tx.run(
        "put_back", (int(state), place, verdict.attempt, verdict.failures, verdict.crashes, due, verdict.note, job.seq)
    )
    tx.count(job.state, state)
    kind = "interrupted" if ending.is_interrupted else state.name.lower()
    tx.log(job.seq, job.id, kind, state, job.number, verdict.note)
    if job.limit is not None:
        limits.relieve(tx, job.limit)


def _discard(tx: Transaction, written: Written) -> None:
    if written.file is not None:
        tx.removals.append(written.file)
