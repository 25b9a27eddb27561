"""Find jobs that wait for each other in a circle through full lanes.

Pure: a picture of who waits for what goes in, the waits that can never end come out.
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
    lane = lanes[wait.lane]
    return not lane.is_full or any(holder not in stuck for holder in lane.holders)
