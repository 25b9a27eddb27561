"""How a call on a cluster is stopped: told to, then by force if the engine can, else nobody waits for it any more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from asyncjobs.lanes.base import Host
from asyncjobs.lanes.clusterengine import Engine
from asyncjobs.lanes.clusterflight import Flight
from asyncjobs.lanes.members import Member, Members
from asyncjobs.station import STOP

KILL: Final = 5.0
"""Seconds in which a worker that is ended by force is gone; after that nobody waits for its call."""


class Stops:
    """The calls of one lane that are to stop.

    Force ends a worker with all that it runs. So one with a call that does not stop is given nothing more, and is ended
    once all that it runs are such calls; until then those are abandoned.
    """

    def __init__(self, engine: Engine, host: Host, members: Members, abandon: Callable[[Flight], None]) -> None:
        self._engine = engine
        self._host = host
        self._members = members
        self._abandon = abandon

    def begin(self, flight: Flight) -> None:
        """Tell it, and let its grace run."""
        assert flight.call.stop is not None
        told = [(STOP, flight.ticket, *flight.call.stop)]
        self._engine.tell(flight.member.address, flight.member.facts.station, told)
        self._wait(flight)

    def hurry(self, flight: Flight) -> None:
        """It was asked once more: its grace may be shorter now."""
        if flight.timer is None or flight.killed:
            return
        if self._host.loop.time() + flight.call.grace < flight.timer.when():
            flight.timer.cancel()
            self._wait(flight)

    def over(self, flight: Flight) -> None:
        """Its answer has come, or its worker is gone."""
        if flight.timer is not None:
            flight.timer.cancel()
        if flight.killed:
            self._members.stuck(flight.member, -1)
        elif flight.member.stuck:
            self._end_if_alone(flight.member)

    def _wait(self, flight: Flight) -> None:
        flight.timer = self._host.loop.call_later(flight.call.grace, self._give_up, flight)

    def _give_up(self, flight: Flight) -> None:
        if flight.is_over or flight.ended:
            return
        if not self._engine.capabilities.kills:
            self._abandon(flight)
            return
        flight.killed = True
        self._members.stuck(flight.member, 1)
        if self._end_if_alone(flight.member):
            flight.timer = self._host.loop.call_later(KILL, self._abandon, flight)
        else:
            self._abandon(flight)

    def _end_if_alone(self, member: Member) -> bool:
        """End the worker, if nothing else can run there."""
        if member.stuck < min(member.count, member.threads) or self._members.get(member.address) is not member:
            return False
        self._engine.kill(member.address)
        return True
