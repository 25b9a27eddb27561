"""How many jobs of one name may run at once, and how many may start in a span of time.

A claim that meets a job without room puts it aside, once; `relieve` brings back as many as there is room for,
whenever there may be more: a job of the name has ended or started, or a start has grown old enough.
"""

from __future__ import annotations

from typing import NamedTuple

from asyncjobs.service.errors import BadRequest
from asyncjobs.service.records import Limit
from asyncjobs.service.store.transaction import Transaction

BATCH = 500
"""So many jobs come back in one step at most; the claim that starts them takes the next."""

UNBOUNDED = 2**31


class _Room(NamedTuple):
    """What a limit allows now."""

    jobs: int
    has_rate: bool
    opens_at: float | None
    """When more may start, if it is the rate that allows none."""


class Rooms:
    """The limits that one claim has met, and what is left of each."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx
        self._left: dict[str, int] = {}
        self._rated: set[str] = set()

    def take(self, name: str | None, fence: int) -> bool:
        """Whether one more may start; it counts from now on."""
        if name is None:
            return True
        if name not in self._left:
            self._look(name)
        if self._left[name] <= 0:
            return False
        self._left[name] -= 1
        if name in self._rated:
            self._tx.run("add_start", (name, fence, self._tx.now))
        return True

    def _look(self, name: str) -> None:
        room = _room(self._tx, name)
        self._left[name] = room.jobs
        if room.has_rate:
            self._rated.add(name)

    def settle(self) -> None:
        """Bring back what there is room for under the limits that were met."""
        for name in self._left:
            relieve(self._tx, name)


def put(tx: Transaction, limit: Limit) -> None:
    """From now on this holds for its name.

    Raises:
        BadRequest: a number is not allowed.
    """
    _check(limit)
    rules = (limit.running, limit.starts, limit.seconds)
    if tx.one("limit", (limit.name,)) != rules:
        tx.run("put_limit", (limit.name, *rules))
        relieve(tx, limit.name)


def relieve(tx: Transaction, name: str) -> None:
    """Make claimable again what there is room for, of every lane."""
    room = _room(tx, name)
    lanes = tx.each("next_parked_lane", name) if room.jobs > 0 else []
    for lane in lanes:
        for (seq,) in tx.all("parked_by_limit", (name, lane, min(room.jobs, BATCH))):
            tx.run("park", (0, seq))
    # A span that begins anew is nobody's news: whoever waits for it asks `next_due`.
    is_waited_for = tx.one("next_parked_lane", (name, "")) is not None
    opens_at = room.opens_at if is_waited_for else None
    tx.run("set_opening", (opens_at, name, opens_at))


def open_up(tx: Transaction) -> None:
    """Relieve those whose time has come."""
    for (name,) in tx.all("opening_limits", (tx.now, BATCH)):
        relieve(tx, name)


def sweep(tx: Transaction, after: str) -> str:
    """Remove some of those whose jobs and starts are all over, of the names after `after`; where to go on."""
    names = tx.all("some_limits", (after, BATCH))
    for (name,) in names:
        _room(tx, name)  # forgets old starts
        if tx.one("is_limit_used", (name, name)) == (0,):
            tx.run("drop_limit", (name,))
    return str(names[-1][0]) if len(names) == BATCH else ""


def _room(tx: Transaction, name: str) -> _Room:
    row = tx.one("limit", (name,))
    if row is None:
        return _Room(UNBOUNDED, has_rate=False, opens_at=None)
    running, starts, seconds = row
    tx.run("forget_starts", (name, tx.now - seconds))
    room, opens_at = UNBOUNDED, None
    if running is not None:
        room = running - tx.one("running_under", (name,))[0]
    if starts is not None:
        number, oldest = tx.one("starts_under", (name,))
        if number >= starts:
            opens_at = oldest + seconds
        room = min(room, starts - number)
    return _Room(room, starts is not None, opens_at)


def _check(limit: Limit) -> None:
    if not limit.name:
        raise BadRequest("a limit needs a name")
    for what, number in (("running", limit.running), ("starts", limit.starts)):
        if number is not None and not 0 < number < UNBOUNDED:
            raise BadRequest(f"limit.{what}={number} is not allowed; allowed: from 1")
    if not 0.0 < limit.seconds <= 366 * 86_400.0:
        raise BadRequest(f"limit.seconds={limit.seconds} is not allowed; allowed: above 0, at most a year")
