"""What an attempt's outcome makes of its job."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncjobs import JobCancelled, JobOptions, JobTimeout, Retry, WorkerLost
from asyncjobs.engine.verdict import LOST_TRIES, TIME_LIMITS, judge, next_attempt, out_of_time, stopped_before_start
from asyncjobs.lanes.base import Abandoned, Call, Done, Failed, Lost, Outcome, Plan, Refused, Stopped
from asyncjobs.options import settle
from asyncjobs.state import Event, JobState, advance
from asyncjobs.token import CancelToken, StopReason

KINDS = ("cancel", "shutdown", *TIME_LIMITS)
ERROR = ValueError("own")
OUTCOMES: dict[str, Outcome] = {
    "done": Done(42, 1.0),
    "failed": Failed(ERROR, 1.0),
    "stopped": Stopped(1.0, "stopped"),
    "killed": Stopped(1.0, "killed"),
    "abandoned": Abandoned(1.0),
    "lost": Lost(WorkerLost("died"), 1.0),
    "refused": Refused(OSError("no worker")),
}
E = Event
# By outcome: not asked to stop, asked by a cancel or shutdown, asked by a time limit.
EXPECTED = {
    "done": (E.SUCCEED, E.SUCCEED, E.TIME_OUT),
    "failed": (E.FAIL, E.FAIL, E.TIME_OUT),
    "stopped": (E.CANCEL, E.CANCEL, E.TIME_OUT),
    "killed": (E.CANCEL, E.CANCEL, E.TIME_OUT),
    "abandoned": (E.CANCEL, E.CANCEL, E.TIME_OUT),
    "lost": (E.LOSE, E.LOSE, E.TIME_OUT),
    "refused": (E.FAIL, E.FAIL, E.FAIL),
}


def make_call(stop: str | None = None, attempt: int = 1, **options: object) -> Call:
    settled = settle(JobOptions(**options))  # type: ignore[arg-type]
    call = Call(Plan("fit", "process", settled, is_coroutine=False))
    call.attempt = attempt
    if stop is not None:
        call._token = CancelToken()
        call._token.raise_for(StopReason(stop, "because"))
    return call


@pytest.mark.parametrize("stop", [None, *KINDS])
@pytest.mark.parametrize("outcome", OUTCOMES)
def test_every_outcome_under_every_stop_has_its_event(outcome: str, stop: str | None) -> None:
    unasked, asked, too_late = EXPECTED[outcome]
    expected = unasked if stop is None else too_late if stop in TIME_LIMITS else asked
    verdict = judge(make_call(stop), OUTCOMES[outcome])
    assert verdict.event is expected
    assert (verdict.error is None) == (expected is E.SUCCEED)
    assert (verdict.value == 42) == (expected is E.SUCCEED)


@pytest.mark.parametrize("stop", [None, *KINDS])
@pytest.mark.parametrize("outcome", OUTCOMES)
def test_every_verdict_is_a_legal_move_from_where_the_job_then_is(outcome: str, stop: str | None) -> None:
    verdict = judge(make_call(stop), OUTCOMES[outcome])
    state = JobState.QUEUED if not verdict.started else JobState.RUNNING if stop is None else JobState.STOPPING
    assert advance(state, verdict.event).is_final


def test_a_value_within_the_grace_after_a_cancel_is_a_success() -> None:
    verdict = judge(make_call("cancel"), Done("saved", 1.0))
    assert (verdict.event, verdict.value) == (E.SUCCEED, "saved")


def test_a_cancelled_job_gives_the_reason_and_says_if_it_still_runs() -> None:
    error = judge(make_call("cancel"), Abandoned(1.0)).error
    assert isinstance(error, JobCancelled)
    assert error.reason == "because"
    assert str(error) == "job 'fit' was cancelled: because; it could not be stopped and still runs"


def test_a_job_that_stops_by_itself_is_cancelled_with_its_own_words() -> None:
    error = judge(make_call(), Stopped(1.0, "stopped", "no more data")).error
    assert isinstance(error, JobCancelled)
    assert error.reason == "no more data"
    assert "it stopped by itself" in str(judge(make_call(), Stopped(1.0, "stopped")).error)


@pytest.mark.parametrize("kind", TIME_LIMITS)
def test_a_time_limit_is_named_with_its_seconds(kind: str) -> None:
    error = judge(make_call(kind, **{kind: 2.5}), Stopped(3.0, "killed")).error
    assert isinstance(error, JobTimeout)
    assert (error.limit, error.seconds, str(error)) == (kind, 2.5, "because")
    assert out_of_time(make_call(kind), StopReason(kind, "x")).seconds == 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_that_never_started_is_timed_out_or_cancelled(kind: str) -> None:
    verdict = stopped_before_start(make_call(kind), StopReason(kind, "because"))
    assert verdict.event is (E.TIME_OUT if kind in TIME_LIMITS else E.CANCEL)
    assert isinstance(verdict.error, JobTimeout if kind in TIME_LIMITS else JobCancelled)


# --- another attempt --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "stop", "options", "again"),
    [
        ("done", None, {"retries": 3}, False),
        ("failed", None, {}, False),
        ("failed", None, {"retries": 1}, True),
        ("failed", None, {"retries": Retry(1, on=OSError)}, False),
        ("failed", "cancel", {"retries": 3}, False),
        ("failed", "shutdown", {"retries": 3}, False),
        ("stopped", "cancel", {"retries": 3}, False),
        ("stopped", None, {"retries": 3}, False),
        ("killed", "timeout", {"retries": 3}, True),
        ("done", "timeout", {"retries": 3}, True),
        ("abandoned", "timeout", {"retries": 3}, True),
        ("killed", "deadline", {"retries": 3}, False),
        ("killed", "queue_timeout", {"retries": 3}, False),
        ("killed", "timeout", {"retries": Retry(3, on=OSError)}, True),
        ("killed", "timeout", {"retries": Retry(3, on=ValueError)}, False),
        ("refused", None, {"retries": 3}, False),
        ("lost", None, {"retries": 3}, False),
        ("lost", None, {"lost": "retry"}, True),
        ("lost", None, {"lost": "retry", "retries": Retry(1, on=KeyError)}, True),
        ("lost", None, {"lost": "retry", "retries": Retry(1, give_up_on=WorkerLost)}, True),
        ("lost", "cancel", {"lost": "retry"}, False),
    ],
)
def test_what_is_tried_again(outcome: str, stop: str | None, options: dict[str, object], again: bool) -> None:
    call = make_call(stop, **options)
    assert (next_attempt(call, judge(call, OUTCOMES[outcome]), 0.0) is not None) is again


@pytest.mark.parametrize(("options", "most"), [({}, LOST_TRIES), ({"retries": 1}, 1), ({"retries": 7}, 7)])
def test_lost_jobs_are_tried_again_from_the_budget_of_retries_or_three_times(
    options: dict[str, object], most: int
) -> None:
    tried = 0
    for attempt in range(1, 20):
        call = make_call(attempt=attempt, lost="retry", **options)
        tried += next_attempt(call, judge(call, OUTCOMES["lost"]), 0.0) is not None
    assert tried == most


@pytest.mark.slow
@given(st.sampled_from(sorted(OUTCOMES)), st.none() | st.sampled_from(KINDS), st.integers(1, 10), st.floats(0, 0.99))
def test_no_job_has_more_attempts_than_its_budget(outcome: str, stop: str | None, attempt: int, random: float) -> None:
    call = make_call(stop, attempt, retries=Retry(4, on=Exception), lost="retry")
    delay = next_attempt(call, judge(call, OUTCOMES[outcome]), random)
    assert delay is None or (attempt <= 4 and delay >= 0.0)
