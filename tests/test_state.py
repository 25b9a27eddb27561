"""The state table: every cell, and every path through it."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncjobs.state import FINAL, MOVES, Event, IllegalMove, JobState, advance

S, E = JobState, Event

# Written out a second time on purpose: the table of the module is checked against it, cell by cell.
EXPECTED = {
    (S.QUEUED, E.START): S.RUNNING,
    (S.QUEUED, E.FAIL): S.FAILED,
    (S.QUEUED, E.TIME_OUT): S.TIMED_OUT,
    (S.QUEUED, E.CANCEL): S.CANCELLED,
    (S.RUNNING, E.STOP): S.STOPPING,
    (S.RUNNING, E.RETRY): S.WAITING,
    (S.RUNNING, E.GIVE_BACK): S.QUEUED,
    (S.RUNNING, E.SUCCEED): S.SUCCEEDED,
    (S.RUNNING, E.FAIL): S.FAILED,
    (S.RUNNING, E.TIME_OUT): S.TIMED_OUT,
    (S.RUNNING, E.CANCEL): S.CANCELLED,
    (S.RUNNING, E.LOSE): S.LOST,
    (S.WAITING, E.DUE): S.QUEUED,
    (S.WAITING, E.FAIL): S.FAILED,
    (S.WAITING, E.TIME_OUT): S.TIMED_OUT,
    (S.WAITING, E.CANCEL): S.CANCELLED,
    (S.STOPPING, E.RETRY): S.WAITING,
    (S.STOPPING, E.SUCCEED): S.SUCCEEDED,
    (S.STOPPING, E.FAIL): S.FAILED,
    (S.STOPPING, E.TIME_OUT): S.TIMED_OUT,
    (S.STOPPING, E.CANCEL): S.CANCELLED,
    (S.STOPPING, E.LOSE): S.LOST,
}
CELLS = [(state, event) for state in JobState for event in Event]


@pytest.mark.parametrize(("state", "event"), CELLS, ids=lambda value: value.name)
def test_cell_leads_where_it_should_or_nowhere(state: JobState, event: Event) -> None:
    expected = EXPECTED.get((state, event))
    if expected is not None:
        assert advance(state, event) is expected
        return
    with pytest.raises(IllegalMove, match=f"{event.name} while {state.name}; moves from there: "):
        advance(state, event)


def test_table_and_function_agree_on_every_cell() -> None:
    assert {(state, event): after for state, row in MOVES.items() for event, after in row.items()} == EXPECTED


def test_illegal_move_out_of_a_final_state_says_that_it_is_final() -> None:
    with pytest.raises(IllegalMove, match="START while SUCCEEDED; moves from there: none, it is final"):
        advance(S.SUCCEEDED, E.START)


def test_exactly_five_states_are_final_and_nothing_leads_out_of_them() -> None:
    assert {state.name for state in FINAL} == {"SUCCEEDED", "FAILED", "TIMED_OUT", "CANCELLED", "LOST"}
    assert all(state.is_final == (not MOVES[state]) == (state in FINAL) for state in JobState)


def test_every_state_can_be_reached_and_can_reach_an_end() -> None:
    reached = {S.QUEUED}
    while more := {after for state in reached for after in MOVES[state].values()} - reached:
        reached |= more
    assert reached == set(JobState)
    ending = set(FINAL)
    while more := {state for state in JobState if set(MOVES[state].values()) & ending} - ending:
        ending |= more
    assert ending == set(JobState)


def test_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        MOVES[S.QUEUED][E.LOSE] = S.LOST  # type: ignore[index]
    with pytest.raises(TypeError):
        MOVES[S.QUEUED] = {}  # type: ignore[index]


@pytest.mark.slow
@given(st.lists(st.sampled_from(Event)))
def test_whatever_happens_a_job_has_at_most_one_end(events: list[Event]) -> None:
    state, ends = JobState.QUEUED, 0
    for event in events:
        try:
            state = advance(state, event)
        except IllegalMove:
            continue
        ends += state.is_final
    assert ends == int(state.is_final)


@pytest.mark.slow
@given(st.lists(st.sampled_from(Event)))
def test_a_job_succeeds_or_is_lost_only_after_a_start(events: list[Event]) -> None:
    state, started = JobState.QUEUED, False
    for event in events:
        try:
            state = advance(state, event)
        except IllegalMove:
            continue
        started = started or event is E.START
    assert started or state not in (S.SUCCEEDED, S.LOST, S.RUNNING, S.STOPPING, S.WAITING)


@pytest.mark.parametrize("state", JobState, ids=lambda state: state.name)
def test_state_travels_as_itself(state: JobState) -> None:
    assert pickle.loads(pickle.dumps(state)) is state


def test_a_state_is_shown_by_its_name_and_kept_as_a_number() -> None:
    assert (f"{S.LOST}", str(S.LOST), f"{S.LOST:d}", S.LOST + 0) == ("LOST", "LOST", "8", 8)
