"""Find jobs that wait for each other in a circle, through full lanes and limiters too.

Pure: a picture of who waits for what goes in, the waits that can never end come out, and
for each of them the reason in words.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple


class Wait(NamedTuple):
    """A running job that waits for another job, or for room in a lane's queue."""

    waiter: object
    target: object | None
    """None: it waits for room in the queue of `lane`."""
    lane: str
    """The lane of the target."""
    target_is_queued: bool
    borrowers: frozenset[object] = frozenset()
    """Who holds the limiter that the queued target needs; empty if it needs none, or may have a place."""


class LaneView(NamedTuple):
    """One lane at this moment."""

    holders: Collection[object]
    """The jobs that hold its places."""
    is_full: bool
    """Whether every place is held: otherwise a queued job will start."""


def hopeless(waits: Collection[Wait], lanes: Mapping[str, LaneView]) -> list[Wait]:
    """The waits that no job can end, in the order given.

    Assumes first that every waiter is stuck, then frees those with a wait that something
    can still end, and whoever depends on them, until nothing changes. What remains is
    stuck. A job with several waits is stuck only if all of them are hopeless.
    """
    stuck = {wait.waiter for wait in waits}
    while True:
        freed = {wait.waiter for wait in waits if wait.waiter in stuck and _can_end(wait, stuck, lanes)}
        if not freed:
            return [wait for wait in waits if wait.waiter in stuck]
        stuck -= freed


def _can_end(wait: Wait, stuck: set[object], lanes: Mapping[str, LaneView]) -> bool:
    if wait.target is not None and not wait.target_is_queued:
        return wait.target not in stuck
    return _lane_frees(wait, stuck, lanes) and _limiter_frees(wait, stuck)


def _lane_frees(wait: Wait, stuck: Collection[object], lanes: Mapping[str, LaneView]) -> bool:
    lane = lanes[wait.lane]
    return not lane.is_full or any(holder not in stuck for holder in lane.holders)


def _limiter_frees(wait: Wait, stuck: Collection[object]) -> bool:
    return not wait.borrowers or any(borrower not in stuck for borrower in wait.borrowers)


def why(wait: Wait, doomed: Collection[Wait], lanes: Mapping[str, LaneView]) -> str:
    """The rest of the sentence "job A waits for X": why it does so in vain, and what to do."""
    stuck = {other.waiter for other in doomed}
    if wait.target is not None and wait.target is wait.waiter:
        return "which is itself: it would have to end before it ends. Leave this wait out"
    if wait.target is not None and not wait.target_is_queued:
        return (
            "which runs and waits itself, for jobs that cannot end before others that wait. "
            "Let one of them return without waiting, and put what comes after into a job of its own"
        )
    if _lane_frees(wait, stuck, lanes):
        return (
            "which needs a limiter whose places are all held by jobs that wait like this one. "
            "Give the limiter more places, or submit the child without it"
        )
    return (
        f"in lane {wait.lane!r}, whose places are all held by jobs that wait like this one. "
        "Give the lane more places, or put the child in another lane"
    )
