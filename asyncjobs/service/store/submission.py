"""A submit, as it waits for its transaction; several that share one are written together (`submit_together`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from asyncjobs.service.records import Accepted, Claim, NewJob
from asyncjobs.service.store import claiming, starting, submitting
from asyncjobs.service.store.transaction import Transaction

Answer = tuple[list[Accepted], list[Claim]]


@dataclass(frozen=True, slots=True)
class Submission:
    """Jobs to be taken, and how many of each lane may start at once."""

    jobs: Sequence[NewJob]
    wants: Mapping[str, int]

    def __call__(self, tx: Transaction) -> Answer:
        return _taken(tx, self.jobs, self.wants)


def submit_together(tx: Transaction, submissions: Sequence[Submission]) -> list[Answer]:
    """All of them as if they were one, which costs a few statements instead of a dozen for each; their claims are the
    first one's that wants any.

    Raises:
        ServiceError: of one of them, nobody knows which: each has to be tried alone.
    """
    wants: Counter[str] = Counter()
    for submission in submissions:
        wants.update(submission.wants)
    taken, claims = _taken(tx, [job for submission in submissions for job in submission.jobs], wants)
    accepted = iter(taken)
    answers: list[Answer] = []
    for submission in submissions:
        begun, claims = (claims, []) if submission.wants else ([], claims)
        answers.append(([next(accepted) for _ in submission.jobs], begun))
    return answers


def _taken(tx: Transaction, jobs: Sequence[NewJob], wants: Mapping[str, int]) -> Answer:
    accepted, claims = submitting.take(tx, jobs, starting.room_for(tx, jobs, wants))
    return accepted, claims or (claiming.claim(tx, wants) if wants else [])
