"""Decide what the end of an attempt makes of its job.

Pure: what the runner says of it in, an `Ending` out. The engine seals the outcome; the store has the last word on
crashes.
"""

from __future__ import annotations

from typing import NamedTuple

from asyncjobs.errors import JobTimeout, ResourceExhausted, RunnerClosed, WorkerStartError
from asyncjobs.retry import MAX_DELAY
from asyncjobs.service import outcome
from asyncjobs.service.protocol import RetryTerms, Terms
from asyncjobs.service.records import Claim, Ending
from asyncjobs.service.work import orders
from asyncjobs.service.work.orders import Raised
from asyncjobs.state import JobState
from asyncjobs.wire import failure


class Report(NamedTuple):
    """What the runner says of an attempt."""

    state: JobState
    answer: bytes = b""
    """What the worker answered, if it did."""
    error: BaseException | None = None
    """Of the machinery: what a job raises comes in the answer."""
    is_interrupted: bool = False
    """It was stopped because the service stops."""
    is_final: bool = False
    """No attempt may follow: the job was asked to stop, or its deadline has passed."""


NEVER_RAN = (WorkerStartError, ResourceExhausted, RunnerClosed)
"""Errors of a machine that has no room for a worker now: no fault of the job's."""


def has_no_place(report: Report) -> bool:
    """Whether the attempt never began, for a reason that passes: the claim is to be given back."""
    return report.state is JobState.FAILED and isinstance(report.error, NEVER_RAN) and not report.is_final


def ending(claim: Claim, terms: Terms, report: Report, random: float, now: float) -> Ending:
    """What is to be written down; the outcome is not sealed yet.

    Args:
        random: a number drawn from [0, 1), for the jitter.
        now: on the store's clock.
    """
    state, error = report.state, report.error
    if state is JobState.SUCCEEDED:
        body, raised = orders.read(report.answer)
        if raised is None:
            return _final(claim, JobState.SUCCEEDED, body)
        return _failed(claim, terms, report, JobState.FAILED, body, raised, random, now)
    if report.is_interrupted:
        note = f"the service was stopped while attempt {claim.attempt} ran"
        return Ending(claim.id, claim.attempt, claim.epoch, JobState.QUEUED, note=note, is_interrupted=True)
    if error is None:
        return _final(claim, state, b"", "")
    failed = failure.capture(error)
    body, note = outcome.encode_failure(failed), orders.note_of(failed)
    if state is JobState.LOST:
        return _final(claim, state, body, note)._replace(has_crashed=True)
    if state is JobState.CANCELLED:
        return _final(claim, state, body, getattr(error, "reason", "") or note)
    raised = Raised(tuple(orders.names_of(type(error))), note)
    return _failed(claim, terms, report, state, body, raised, random, now)


def _failed(
    claim: Claim,
    terms: Terms,
    report: Report,
    state: JobState,
    body: bytes,
    raised: Raised,
    random: float,
    now: float,
) -> Ending:
    delay = None if report.is_final else next_delay(terms.retry, claim.failures + 1, raised.names, random)
    if delay is None:
        return _final(claim, state, body, raised.note)
    return Ending(claim.id, claim.attempt, claim.epoch, JobState.WAITING, note=raised.note, due=now + delay)


def _final(claim: Claim, state: JobState, body: bytes, note: str = "") -> Ending:
    return Ending(claim.id, claim.attempt, claim.epoch, state, body, note)


def next_delay(retry: RetryTerms, failures: int, names: tuple[str, ...], random: float) -> float | None:
    """Seconds until the next attempt; None: there is none.

    Args:
        failures: of the job so far, this one included.
        names: of the error's class and its bases.
    """
    if failures > retry.max or not set(names) & set(retry.on) or set(names) & set(retry.give_up_on):
        return None
    plain = min(retry.backoff * 2.0 ** min(failures - 1, 64), MAX_DELAY)
    return max(0.0, plain) * (1.0 - retry.jitter * random)


def too_late(claim: Claim, now: float) -> Ending | None:
    """The end of a job whose deadline passed between its claim and its start; None: it may start."""
    if claim.deadline is None or now < claim.deadline:
        return None
    note, body = overdue(claim.name, claim.attempt - 1)
    return _final(claim, JobState.TIMED_OUT, body, note)


def overdue(name: str, attempts: int) -> tuple[str, bytes]:
    """Note and outcome of a job that waited beyond its deadline, after so many attempts."""
    what = f"was waiting for attempt {attempts + 1}" if attempts else "had not started"
    error = JobTimeout(f"job {name!r} {what} when its deadline passed")
    error.limit = "deadline"
    failed = failure.capture(error)
    return orders.note_of(failed), outcome.encode_failure(failed)


def refused(claim: Claim, error: BaseException) -> Ending:
    """The end of a job that cannot be run as it was stored."""
    failed = failure.capture(error)
    return _final(claim, JobState.FAILED, outcome.encode_failure(failed), orders.note_of(failed))
