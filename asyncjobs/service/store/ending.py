"""Give a job its final state, once, with everything that goes with it: `end`.

The children of a job learn of its end here too (`settle`): those of one that succeeded become claimable, the
others are CANCELLED with its name. So many at a time; what is left has its own transactions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

from asyncjobs.service.store import limits
from asyncjobs.service.store.transaction import Transaction
from asyncjobs.state import JobState

STATES = tuple(JobState)
"""By number: a third of what `JobState(number)` takes, which is asked for every job."""
CHILDREN = 500
"""So many jobs learn of the end of others in one transaction."""


class Attempt(NamedTuple):
    """What has to be known of a job to move it, as the statements ``attempt...`` give it."""

    seq: int
    id: str
    state: JobState
    number: int
    epoch: int
    failures: int
    crashes: int
    max_crashes: int
    at_most_once: bool
    keep: float | None
    stop: str | None
    limit: str | None
    is_tied: bool
    """Whether a checkpoint, a parent or a child goes with it."""
    has_begun: bool
    """Whether it may have started: of one that may start at most once, its worker has asked (`claiming.begin`)."""

    @classmethod
    def of(cls, row: Sequence[Any]) -> Attempt:
        """From a row of the database."""
        seq, id, state, *rest = row
        return cls(seq, id, STATES[state], *rest)


class Final(NamedTuple):
    """How a job ends."""

    state: JobState
    note: str = ""
    outcome: bytes = b""
    file: str | None = None
    """Where the outcome is, if it is not in the database."""
    size: int = 0
    """Bytes of the outcome, wherever it is; 0: there is none."""

    @property
    def where(self) -> tuple[bytes | None, str | None]:
        """The bytes, or the file."""
        return (None, self.file) if self.file is not None else (self.outcome, None)


def end(tx: Transaction, job: Attempt, final: Final) -> None:
    """Move `job` to its final state, and tell its children."""
    end_all(tx, [(job, final)])


def end_all(tx: Transaction, ends: Sequence[tuple[Attempt, Final]]) -> None:
    """Move them all, and tell their children."""
    _write(tx, ends)
    for job, final in ends:
        if job.is_tied:
            settle(tx, job.seq, job.id, final.state)


def settle(tx: Transaction, parent: int, id: str, state: JobState) -> None:
    """Tell the children of an ended job, and theirs if that ends them, until `CHILDREN` have been told."""
    waiting = deque([(parent, id, state)])
    budget = CHILDREN
    while waiting:
        seq, name, outcome = waiting.popleft()
        children = tx.all("open_children", (seq, max(budget, 0) + 1))
        if len(children) > budget:
            tx.run("tell_later", (seq,))
            tx.has_more = True
            children = children[: max(budget, 0)]
        budget -= len(children)
        for (child,) in children:
            tx.run("close_edge", (seq, child))
            if outcome == JobState.SUCCEEDED:
                tx.run("one_parent_less", (tx.now, child))
            else:
                waiting.extend(_doom(tx, child, name, outcome))


def settle_more(tx: Transaction) -> None:
    """Go on with one job whose children have not all been told."""
    row = tx.one("next_telling")
    if row is None:
        return
    parent, id, state = row
    tx.run("told", (parent,))
    settle(tx, parent, id, JobState(state))
    tx.has_more = tx.one("next_telling") is not None


def _doom(tx: Transaction, child: int, parent: str, state: JobState) -> list[tuple[int, str, JobState]]:
    job = Attempt.of(tx.one("attempt_by_seq", (child,)))
    if job.state.is_final:
        return []
    note = f"not started: job {parent}, which it comes after, ended {state.name}"
    _write(tx, [(job, Final(JobState.CANCELLED, note))])
    return [(child, job.id, JobState.CANCELLED)]


def _write(tx: Transaction, ends: Sequence[tuple[Attempt, Final]]) -> None:
    outcomes = [(job.seq, *final.where) for job, final in ends if final.size]
    if outcomes:
        tx.run_many("add_outcome", outcomes)
        tx.weight += sum(len(final.outcome) for _, final in ends)
    tx.run_many("end", [_row(tx, job, final) for job, final in ends])
    for job, final in ends:
        tx.count(job.state, final.state)
        tx.log(job.seq, job.id, final.state.name.lower(), final.state, job.number, final.note)
        tx.ends.append((job.id, final.state, final.note, job.number, final.outcome if final.file is None else None))
        if job.is_tied:
            tx.run("drop_checkpoint", (job.seq,))
            tx.run("drop_edges_to", (job.seq,))
    for name in {job.limit for job, _ in ends if job.limit is not None}:
        limits.relieve(tx, name)


def _row(tx: Transaction, job: Attempt, final: Final) -> tuple[Any, ...]:
    kept = job.keep if job.keep is not None else tx.settings.keep.get(final.state)
    expires_at = None if kept is None else tx.now + kept
    counts = (job.failures, job.crashes)
    return (job.seq, int(final.state), *counts, tx.now, expires_at, final.note, job.stop, final.size)
