"""What a claim may find, as far as can be said without one: kept on the loop between transactions."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import NamedTuple

from asyncjobs.service.store.queries import SQL


class Outlook(NamedTuple):
    """As of the last transaction."""

    next_due: float | None
    """When something becomes claimable by itself; may be past."""
    lanes: frozenset[str]
    """Where something is claimable now, if it is not paused."""
    paused: frozenset[str]
    has_parked: bool
    """Whether jobs lie aside for a pause that is over; the next claims bring them back."""

    def may_find(self, lane: str) -> bool:
        """Whether a claim for the lane may find something now."""
        if "all" in self.paused or f"lane:{lane}" in self.paused:
            return False
        return self.has_parked or lane in self.lanes


EMPTY = Outlook(None, frozenset(), frozenset(), has_parked=False)


def look_ahead(connection: sqlite3.Connection) -> Outlook:
    """A few steps in indexes, however many jobs there are."""
    times = [connection.execute(SQL[name]).fetchone()[0] for name in ("next_due", "next_opening", "next_schedule")]
    next_due = min((time for time in times if time is not None), default=None)
    paused = frozenset(scope for (scope,) in connection.execute(SQL["pauses"]))
    has_parked = any(f"function:{name}" not in paused for name in _each(connection, "next_paused_function"))
    return Outlook(next_due, frozenset(_each(connection, "next_ready_lane")), paused, has_parked)


def _each(connection: sqlite3.Connection, name: str) -> Iterator[str]:
    row = connection.execute(SQL[name], ("",)).fetchone()
    while row is not None:
        yield row[0]
        row = connection.execute(SQL[name], row).fetchone()
