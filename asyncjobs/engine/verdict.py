"""Decide what an attempt's outcome makes of its job.

Pure: outcome and reason for stopping in, event and error out. The dispatcher acts on it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from asyncjobs.errors import JobCancelled, JobError, JobTimeout
from asyncjobs.lanes.base import Abandoned, Call, Done, Failed, Lost, Outcome, Refused, Stopped
from asyncjobs.state import Event
from asyncjobs.token import StopReason
from asyncjobs.wire.failure import text_of, type_name

LOST_TRIES = 3
"""How often ``lost="retry"`` tries again where `retries` is 0."""

TIME_LIMITS = ("timeout", "queue_timeout", "deadline")


class Verdict(NamedTuple):
    """The event that ends the attempt, and the value or error that goes with it."""

    event: Event
    value: Any = None
    error: BaseException | None = None
    seconds: float = 0.0
    started: bool = True


def judge(call: Call, outcome: Outcome) -> Verdict:
    """What `outcome` makes of the job, given why it was asked to stop, if it was."""
    stop = call.stop
    if isinstance(outcome, Refused):
        return Verdict(Event.FAIL, error=outcome.error, started=False)
    if stop is not None and stop.kind in TIME_LIMITS:
        return Verdict(Event.TIME_OUT, error=out_of_time(call, stop), seconds=outcome.seconds)
    timeout = call.plan.options.timeout
    if stop is None and timeout is not None and outcome.seconds > timeout:
        # It held the interpreter lock, so that the timer could not come first.
        return Verdict(Event.TIME_OUT, error=out_of_time(call, overrun(call)), seconds=outcome.seconds)
    if isinstance(outcome, Done):
        return Verdict(Event.SUCCEED, value=outcome.value, seconds=outcome.seconds)
    if isinstance(outcome, Failed):
        return Verdict(Event.FAIL, error=outcome.error, seconds=outcome.seconds)
    if isinstance(outcome, Lost):
        return Verdict(Event.LOSE, error=outcome.error, seconds=outcome.seconds)
    return Verdict(Event.CANCEL, error=_cancelled(call, stop, outcome), seconds=outcome.seconds)


def stopped_before_start(call: Call, stop: StopReason) -> Verdict:
    """The end of a job that never ran, or waited for another attempt."""
    if stop.kind in TIME_LIMITS:
        return Verdict(Event.TIME_OUT, error=out_of_time(call, stop))
    return Verdict(Event.CANCEL, error=_cancelled(call, stop, None))


def overrun(call: Call) -> StopReason:
    """The reason to stop an attempt that runs longer than it may."""
    limit = call.plan.options.timeout
    text = f"job {call.name!r} ran longer than its timeout of {limit:g} s (attempt {call.attempt})"
    return StopReason("timeout", text)


def out_of_time(call: Call, stop: StopReason) -> JobTimeout:
    """The error for a limit that was passed."""
    error = JobTimeout(stop.text)
    error.limit = stop.kind
    error.seconds = getattr(call.plan.options, stop.kind) or 0.0
    return error


def _cancelled(call: Call, stop: StopReason | None, outcome: Stopped | Abandoned | None) -> JobCancelled:
    reason = stop.text if stop is not None else getattr(outcome, "reason", "")
    left = "; it could not be stopped and still runs" if isinstance(outcome, Abandoned) else ""
    error = JobCancelled(f"job {call.name!r} was cancelled: {reason or 'it stopped by itself'}{left}")
    error.reason = reason
    return error


def next_attempt(call: Call, verdict: Verdict, random: float) -> float | None:
    """Seconds until the job is tried again, or None if this was its last attempt.

    Raises whatever the user's backoff function does: see `no_delay`.
    """
    if verdict.error is None or call.is_last or not _is_retryable(call, verdict):
        return None
    retry = call.plan.options.retry
    if verdict.event is Event.LOSE:
        budget = replace(retry, max=retry.max or LOST_TRIES, on=Exception, give_up_on=())
        return budget.decide(call.attempt, verdict.error, random)
    return retry.decide(call.attempt, verdict.error, random)


def no_delay(call: Call, verdict: Verdict, error: BaseException) -> Verdict:
    """What becomes of a job whose backoff function gave no delay but `error`; its own error is the cause."""
    backoff = call.plan.options.retry.backoff
    failure = JobError(
        f"job {call.name!r} failed in attempt {call.attempt} and cannot be tried again, since its backoff function "
        f"{getattr(backoff, '__name__', type(backoff).__name__)!r} gave no delay: {type_name(error)}: {text_of(error)}"
    )
    failure.__cause__, failure.__context__ = verdict.error, error
    return verdict._replace(event=Event.FAIL, value=None, error=failure)


def _is_retryable(call: Call, verdict: Verdict) -> bool:
    if verdict.event is Event.LOSE:
        return call.plan.options.lost == "retry" and call.stop is None
    if verdict.event is Event.TIME_OUT:
        return call.stop is None or call.stop.kind == "timeout"
    return verdict.event is Event.FAIL and verdict.started and call.stop is None
