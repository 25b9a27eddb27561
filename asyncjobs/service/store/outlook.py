"""What a claim may find, as far as can be said without one: kept on the loop between transactions."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import NamedTuple

from asyncjobs.service.store.queries import SQL


class Horizon(NamedTuple):
    """What the statement of that name says: where to look closer, in one step."""

    next_due: float | None
    """When the next job comes due."""
    next_deadline: float | None
    """When the next job that waits has waited too long."""
    next_opening: float | None
    """When the next limit allows more."""
    next_schedule: float | None
    has_pauses: int
    has_parked: int
    """Whether jobs lie aside for a pause."""
    has_queued: int
    """Whether any job is QUEUED, claimable or not."""
    lane: str | None
    """The first that has a job to be claimed, by name."""
    last_lane: str | None

    @property
    def next_change(self) -> float | None:
        """When something becomes claimable, or ends, by itself."""
        times = (self.next_due, self.next_deadline, self.next_opening, self.next_schedule)
        return min((time for time in times if time is not None), default=None)


class Outlook(NamedTuple):
    """As of the last transaction."""

    next_due: float | None
    """When something becomes claimable, or ends, by itself; may be past."""
    lanes: frozenset[str]
    """Where something is claimable now, if it is not paused."""
    paused: frozenset[str]
    has_parked: bool
    """Whether jobs lie aside for a pause that is over; the next claims bring them back."""
    has_queued: bool
    """Whether any job is QUEUED: what one waits for may be the end of another."""

    def may_find(self, lane: str) -> bool:
        """Whether a claim for the lane may find something now."""
        if "all" in self.paused or f"lane:{lane}" in self.paused:
            return False
        return self.has_parked or lane in self.lanes


_NOTHING: frozenset[str] = frozenset()
EMPTY = Outlook(None, frozenset(), frozenset(), has_parked=False, has_queued=True)


def look(connection: sqlite3.Connection) -> Horizon:
    """One statement, and a step in an index for each of its fields."""
    return Horizon(*connection.execute(SQL["horizon"]).fetchone())


def look_ahead(connection: sqlite3.Connection) -> Outlook:
    """A few steps in indexes, however many jobs there are."""
    now = look(connection)
    paused = frozenset(scope for (scope,) in connection.execute(SQL["pauses"])) if now.has_pauses else _NOTHING
    has_parked = bool(now.has_parked) and any(
        f"function:{name}" not in paused for name in _each(connection, "next_paused_function")
    )
    lanes = _NOTHING if now.lane is None else frozenset((now.lane,))
    if now.lane != now.last_lane:
        lanes = frozenset(_each(connection, "next_ready_lane"))
    return Outlook(now.next_change, lanes, paused, has_parked, bool(now.has_queued))


def _each(connection: sqlite3.Connection, name: str) -> Iterator[str]:
    row = connection.execute(SQL[name], ("",)).fetchone()
    while row is not None:
        yield row[0]
        row = connection.execute(SQL[name], row).fetchone()
