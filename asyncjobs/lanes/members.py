"""The workers of a cluster that a lane knows, and which of them may take a call.

A worker thread is given one call at a time, and short ones ahead, so that it does not wait for the way there and back.
When the worker dies with its host, nobody can say which of those had begun: so they are few.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from asyncjobs.lanes.base import Call
from asyncjobs.resources import Amounts
from asyncjobs.station import Facts

AHEAD_SECONDS = 0.05
"""A worker thread may have about so much work ahead of it, all of it in short calls."""
AHEAD_CALLS = 128
"""The most calls that it may have."""


class Member:
    """One worker process."""

    __slots__ = ("address", "facts", "free", "long", "offers", "seconds", "short", "stuck", "threads")

    def __init__(self, address: str, threads: int, offers: Amounts, facts: Facts) -> None:
        self.address: str = address
        self.threads: int = threads
        self.facts: Facts = facts
        self.offers: Amounts = offers
        """Resources that the engine says it has."""
        self.free: dict[str, float] = dict(offers)
        """Those of them that none of our calls holds."""
        self.long: int = 0
        """Calls with a thread of their own."""
        self.short: int = 0
        """Calls that follow each other."""
        self.seconds: float = 0.0
        """What those will take together."""
        self.stuck: int = 0
        """Calls that do not stop: as long as there are any, it is given nothing more."""

    @property
    def count(self) -> int:
        """Calls without an answer."""
        return self.long + self.short

    @property
    def name(self) -> str:
        """For people: where it runs."""
        return f"{self.facts.host}-{self.facts.pid}"

    def may_follow(self, pace: float) -> bool:
        """Whether a call of so many seconds may go behind others."""
        left = self.threads - self.long
        return not self.stuck and self.short < left * AHEAD_CALLS and self.seconds + pace <= left * AHEAD_SECONDS

    def has(self, needs: Amounts) -> bool:
        """Whether so much is free now."""
        return all(self.free.get(name, 0.0) >= amount for name, amount in needs.items())

    def add(self, pace: float) -> None:
        """It is given a call that takes so many seconds; 0: nobody knows."""
        if pace:
            self.short += 1
            self.seconds += pace
        else:
            self.long += 1

    def remove(self, pace: float) -> None:
        """That one has ended."""
        if not pace:
            self.long -= 1
        elif self.short > 1:
            self.short -= 1
            self.seconds = max(0.0, self.seconds - pace)
        else:
            self.short, self.seconds = 0, 0.0


def pace_of(call: Call) -> float:
    """How long `call` takes if it is a short one, else 0. One that holds resources waits for nobody."""
    pace = None if call.plan.needs else call.plan.pace
    return 0.0 if pace is None or pace > AHEAD_SECONDS else max(pace, 1e-6)


class Members:
    """All of them."""

    def __init__(self) -> None:
        self._members: dict[str, Member] = {}
        self._idle: dict[Member, None] = {}
        """Those with a free thread."""
        self._ring: deque[Member] = deque()
        self.threads: int = 0
        """Of all of them."""
        self.count: int = 0
        """Calls without an answer."""

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Member]:
        return iter(tuple(self._members.values()))

    def get(self, address: str) -> Member | None:
        """The one at that address."""
        return self._members.get(address)

    def join(self, member: Member) -> None:
        """There is one more."""
        self._members[member.address] = member
        self._ring.append(member)
        self._idle[member] = None
        self.threads += member.threads

    def leave(self, address: str) -> Member | None:
        """That one is gone."""
        member = self._members.pop(address, None)
        if member is not None:
            self._ring.remove(member)
            self._idle.pop(member, None)
            self.threads -= member.threads
            self.count -= member.count
        return member

    def clear(self) -> None:
        """All of them are."""
        for address in tuple(self._members):
            self.leave(address)

    def has_idle(self, limit: int | None) -> bool:
        """Whether a thread is free that may take any call, with at most `limit` calls in all."""
        return bool(self._idle) and (limit is None or self.count < limit)

    def choose(self, pace: float, limit: int | None, needs: Amounts | None = None) -> Member | None:
        """Who may take a call of that pace, and those needs, now."""
        if self.has_idle(limit):
            return next((member for member in self._idle if needs is None or member.has(needs)), None)
        if not pace or (limit is not None and limit <= self.threads):
            return None
        for _ in range(len(self._ring)):
            member = self._ring[0]
            self._ring.rotate(-1)
            if member.may_follow(pace):
                return member
        return None

    def can_ever(self, needs: Amounts) -> bool:
        """Whether any of them has so much at all."""
        return any(all(member.offers.get(name, 0.0) >= needs[name] for name in needs) for member in self)

    def add(self, member: Member, pace: float, needs: Amounts | None = None) -> None:
        """`member` is given a call."""
        member.add(pace)
        for name, amount in (needs or {}).items():
            member.free[name] -= amount
        self.count += 1
        self._idle.pop(member, None)
        self._look_at(member)  # at the end: the others first

    def remove(self, member: Member, pace: float, needs: Amounts | None = None) -> None:
        """It has answered one."""
        for name, amount in (needs or {}).items():
            member.free[name] += amount
        if self._members.get(member.address) is member:
            member.remove(pace)
            self.count -= 1
            self._look_at(member)

    def stuck(self, member: Member, by: int) -> None:
        """So many more of its calls do not stop."""
        member.stuck += by
        self._idle.pop(member, None)
        if self._members.get(member.address) is member:
            self._look_at(member)

    def _look_at(self, member: Member) -> None:
        """Whether it may take any call."""
        if member.count < member.threads and not member.stuck:
            self._idle[member] = None
