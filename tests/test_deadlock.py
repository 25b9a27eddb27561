"""Which waits between jobs can never end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncjobs.engine.deadlock import LaneView, Wait, hopeless, why


def queued(waiter: str, target: str, lane: str = "a") -> Wait:
    return Wait(waiter, target, lane, target_is_queued=True)


def running(waiter: str, target: str, lane: str = "a") -> Wait:
    return Wait(waiter, target, lane, target_is_queued=False)


def room(waiter: str, lane: str = "a") -> Wait:
    return Wait(waiter, None, lane, target_is_queued=False)


def full(*holders: str) -> LaneView:
    return LaneView(set(holders), is_full=True)


def free(*holders: str) -> LaneView:
    return LaneView(set(holders), is_full=False)


def test_nobody_who_waits_is_stuck_without_waits() -> None:
    assert hopeless([], {"a": full("p")}) == []


def test_a_parent_that_waits_for_a_child_queued_behind_it_is_stuck() -> None:
    waits = [queued("parent", "child")]
    assert hopeless(waits, {"a": full("parent")}) == waits


def test_a_free_place_starts_the_child() -> None:
    assert hopeless([queued("parent", "child")], {"a": free("parent")}) == []


def test_a_neighbour_that_waits_for_nobody_will_make_room() -> None:
    assert hopeless([queued("parent", "child")], {"a": full("parent", "worker")}) == []


def test_all_parents_of_a_full_lane_are_stuck_together() -> None:
    waits = [queued("p1", "c1"), queued("p2", "c2")]
    assert hopeless(waits, {"a": full("p1", "p2")}) == waits


def test_a_wait_for_a_running_job_ends_with_it() -> None:
    assert hopeless([running("parent", "child", "b")], {"a": full("parent"), "b": full("child")}) == []


def test_a_circle_over_two_lanes_is_stuck() -> None:
    waits = [queued("p", "q1", "b"), queued("q", "p1", "a")]
    assert hopeless(waits, {"a": full("p"), "b": full("q")}) == waits


def test_a_circle_over_two_lanes_is_no_deadlock_if_one_has_a_place() -> None:
    waits = [queued("p", "q1", "b"), queued("q", "p1", "a")]
    assert hopeless(waits, {"a": full("p"), "b": free("q")}) == []


def test_who_waits_for_a_stuck_job_is_stuck_too() -> None:
    waits = [queued("parent", "child"), running("onlooker", "parent", "a")]
    assert hopeless(waits, {"a": full("parent"), "b": full("onlooker")}) == waits


def test_jobs_that_wait_for_each_other_while_both_run_are_stuck() -> None:
    waits = [running("p", "q"), running("q", "p")]
    assert hopeless(waits, {"a": free("p", "q")}) == waits


def test_a_job_that_waits_for_itself_is_stuck() -> None:
    assert hopeless([running("p", "p")], {"a": free("p")}) == [running("p", "p")]


def test_a_job_with_several_waits_is_stuck_only_if_all_are_hopeless() -> None:
    waits = [queued("p", "c"), running("p", "other", "b")]
    assert hopeless(waits, {"a": full("p"), "b": full("other")}) == []
    assert hopeless([queued("p", "c"), queued("p", "d")], {"a": full("p")}) == [queued("p", "c"), queued("p", "d")]


def test_waiting_for_room_in_a_full_lane_of_waiters_is_stuck() -> None:
    waits = [room("p"), room("q")]
    assert hopeless(waits, {"a": full("p", "q")}) == waits
    assert hopeless(waits, {"a": full("p", "q", "worker")}) == []


NAMES = "pqrstuv"
LANES = "ab"
waits_of = st.lists(
    st.builds(
        Wait,
        st.sampled_from(NAMES),
        st.none() | st.sampled_from(NAMES),
        st.sampled_from(LANES),
        st.booleans(),
        st.frozensets(st.sampled_from(NAMES), max_size=3),
    ),
    max_size=10,
)
lanes_of = st.fixed_dictionaries(
    {lane: st.builds(LaneView, st.sets(st.sampled_from(NAMES)), st.booleans()) for lane in LANES}
)


@pytest.mark.slow
@given(waits_of, lanes_of)
def test_a_simulation_that_lets_everything_happen_ends_exactly_the_other_waits(
    waits: list[Wait], lanes: dict[str, LaneView]
) -> None:
    """Jobs end as soon as nothing holds them; what never ends is what must be found."""
    ended = set(NAMES) - {wait.waiter for wait in waits}
    for _ in NAMES:
        for wait in waits:
            places_come_free = not lanes[wait.lane].is_full or bool(set(lanes[wait.lane].holders) & ended)
            limiter_comes_free = not wait.borrowers or bool(wait.borrowers & ended)
            needs_a_place = wait.target is None or wait.target_is_queued
            if (places_come_free and limiter_comes_free) if needs_a_place else wait.target in ended:
                ended.add(wait.waiter)
    assert hopeless(waits, lanes) == [wait for wait in waits if wait.waiter not in ended]


@pytest.mark.slow
@given(waits_of, lanes_of)
def test_one_more_place_never_makes_a_deadlock(waits: list[Wait], lanes: dict[str, LaneView]) -> None:
    before = hopeless(waits, lanes)
    roomier = lanes | {"a": lanes["a"]._replace(is_full=False)}
    assert set(hopeless(waits, roomier)) <= set(before)


@pytest.mark.slow
@given(waits_of, lanes_of, st.randoms())
def test_the_order_of_the_waits_does_not_matter(waits: list[Wait], lanes: dict[str, LaneView], random: object) -> None:
    shuffled = list(waits)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert set(hopeless(shuffled, lanes)) == set(hopeless(waits, lanes))


# --- limiters ---------------------------------------------------------------------------


def limited(waiter: str, target: str, *borrowers: str, lane: str = "a") -> Wait:
    return Wait(waiter, target, lane, target_is_queued=True, borrowers=frozenset(borrowers))


def test_a_parent_that_holds_the_limiter_its_child_needs_is_stuck_though_the_lane_has_places() -> None:
    waits = [limited("parent", "child", "parent")]
    assert hopeless(waits, {"a": free("parent")}) == waits


def test_somebody_else_who_holds_the_limiter_will_give_it_back() -> None:
    assert hopeless([limited("parent", "child", "parent", "other")], {"a": free("parent", "other")}) == []


def test_a_limiter_that_comes_free_is_of_no_use_without_a_place_in_the_lane() -> None:
    waits = [limited("parent", "child", "other")]
    assert hopeless(waits, {"a": full("parent")}) == waits


# --- the reason in words ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("waits", "lanes", "text"),
    [
        ([queued("p", "c")], {"a": full("p")}, "in lane 'a', whose places are all held by jobs that wait"),
        ([room("p")], {"a": full("p")}, "in lane 'a', whose places are all held by jobs that wait"),
        ([running("p", "p")], {"a": free("p")}, "which is itself"),
        ([running("q", "p"), running("p", "q")], {"a": free("p", "q")}, "which runs and waits itself"),
        ([limited("p", "c", "p")], {"a": free("p")}, "which needs a limiter whose places are all held"),
        ([limited("p", "c", "p")], {"a": full("p", "worker")}, "which needs a limiter whose places are all held"),
        ([limited("p", "c", "p")], {"a": full("p")}, "in lane 'a', whose places are all held by jobs that wait"),
    ],
    ids=["lane", "room", "itself", "circle", "limiter", "limiter in a full lane that frees itself", "both"],
)
def test_the_reason_is_true_for_each_kind_of_wait(waits: list[Wait], lanes: dict[str, LaneView], text: str) -> None:
    assert text in why(waits[-1], hopeless(waits, lanes), lanes)
