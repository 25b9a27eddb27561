"""Check what a job says of its own past against the state table: `check_history`."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from asyncjobs.job import Job
from asyncjobs.state import FINAL, MOVES, JobState


def check_history(job: Job[Any]) -> None:
    """Fail unless the job's history is a path of the state table with at most one, last, final state.

    A job that has ended must have exactly one, and its value or error must go with it.

    Raises:
        AssertionError: says what is wrong and shows the whole history.
    """
    marks = job.history
    states = [mark.state for mark in marks]
    path = " -> ".join(state.name for state in states)
    assert states, f"{job!r} has no history"
    assert states[0] is JobState.QUEUED, f"the history begins with {states[0].name}: {path}"
    for before, after in pairwise(states):
        assert after in MOVES[before].values(), f"no move leads from {before.name} to {after.name}: {path}"
    for earlier, later in pairwise(marks):
        assert earlier.at <= later.at, f"time runs backwards: {marks}"
    assert states[-1] is job.state, f"the job is {job.state.name}, its history ends otherwise: {path}"
    ends = [state for state in states if state in FINAL]
    assert len(ends) == int(job.done()), f"{len(ends)} final states: {path}"
    assert job.attempt == 1 + states.count(JobState.WAITING) or not job.done(), f"attempt {job.attempt}: {path}"
    if job.done():
        has_error = job.exception() is not None
        assert has_error == (job.state is not JobState.SUCCEEDED), f"{job.state.name} with {job.exception()!r}"
