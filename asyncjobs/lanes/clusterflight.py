"""One call at one worker of a cluster: `Flight`."""

from __future__ import annotations

import asyncio

from asyncjobs.lanes.base import Call
from asyncjobs.lanes.members import Member


class Flight:
    """One call at one worker, from `start` until its answer, or until its worker is gone."""

    __slots__ = ("attempt", "call", "ended", "is_over", "killed", "member", "pace", "started", "ticket", "timer")

    def __init__(self, ticket: int, call: Call, member: Member, pace: float) -> None:
        self.ticket: int = ticket
        self.call: Call = call
        self.attempt: int = call.attempt
        self.member: Member = member
        self.pace: float = pace
        self.started: float = 0.0
        """When we heard of its start, 0 until then."""
        self.ended: bool = False
        """The host was told, though no answer has come."""
        self.is_over: bool = False
        """Its answer has come, or its worker is gone."""
        self.killed: bool = False
        """It did not stop in its grace: its worker is ended by force, as soon as that harms nobody else."""
        self.timer: asyncio.TimerHandle | None = None
        """Its grace runs."""
