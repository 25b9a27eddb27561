"""The lane over a cluster, whichever engine it is: who gets which call, and what becomes of it.

Calls go to named workers, so that it is known what ran where when one dies: the engine never starts a call twice.
Invariants:
    A flight is a call from `start` until its answer, or until its worker is gone; its ticket is never used twice.
    The host hears of each end once: what was abandoned stays a flight, and its answer is thrown away.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import pickle
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

from asyncjobs.lanes.base import (
    Abandoned,
    Call,
    Capabilities,
    Done,
    Failed,
    Host,
    Lost,
    Outcome,
    Plan,
    Refused,
    Stopped,
    nobody,
)
from asyncjobs.lanes.clusteranswers import outcome_of
from asyncjobs.lanes.clusterdeaths import Deaths
from asyncjobs.lanes.clusterengine import Engine, Inquiry
from asyncjobs.lanes.clusterfaults import Comparison, gone, mismatch, needs_too_much, not_up
from asyncjobs.lanes.clusterflight import Flight
from asyncjobs.lanes.clustergoods import Goods
from asyncjobs.lanes.clusterstops import Stops
from asyncjobs.lanes.clustertokens import Tokens, raised
from asyncjobs.lanes.members import Member, Members, pace_of
from asyncjobs.options import check_count
from asyncjobs.resources import Amounts
from asyncjobs.station import (
    NOT_STARTED,
    PRINTED,
    PROGRESS,
    RAISED,
    REVOKED,
    STARTED,
    Answer,
    Facts,
)

logger: logging.Logger = logging.getLogger("asyncjobs")

CONNECT = 10.0
"""Seconds in which a cluster comes up, or is said not to."""


class ClusterLane:
    """Runs plain functions on the workers of `engine`; at most `size` at once, if that is given."""

    capabilities: Capabilities

    def __init__(self, engine: Engine, size: int | None = None) -> None:
        check_count("size", size, 1, or_none=True)
        self._engine = engine
        self.kind: str = engine.name.lower()
        self.capabilities = engine.capabilities
        self._limit = size
        self.name: str = self.kind
        self.changed: Callable[[], None] = nobody
        self.leaving: bool = False
        self.is_down: bool = True
        self.is_cold: bool = False
        self._members = Members()

    # --- the lane -----------------------------------------------------------------------

    def open(self, name: str, host: Host) -> None:
        """Get ready to connect."""
        self.name = name
        self._host = host
        self.is_down, self.is_cold = True, False
        self._members = Members()
        self._tickets = itertools.count(1)
        self._flights: dict[int, Flight] = {}
        self._newest: dict[Call, Flight] = {}
        """Of each call, the flight of the attempt that the host waits for."""
        self._full = False
        """Nobody could take the call that was next."""
        self._tokens = Tokens(self._engine, host)
        self._someone = asyncio.Event()
        self._problem: Exception | None = None
        self._goods = Goods(self._engine, host)
        self._stops = Stops(self._engine, host, self._members, self._abandon)
        self._deaths = Deaths(host.loop, self._lose, self._never_started)
        self._versions = Comparison(name)

    def places(self) -> Sequence[ClusterLane]:
        """The one place: this lane."""
        return (self,)

    def size(self) -> int:
        """How many calls may run at once: the threads of all workers; 0 as long as it is not connected."""
        threads = self._members.threads
        return threads if self._limit is None else min(threads, self._limit)

    def resize(self, size: int) -> None:
        """Let at most `size` calls run at once."""
        check_count("size", size, 1)
        self._limit = size
        self._look_again()

    def busy(self) -> int:
        """How many run, abandoned ones included."""
        return sum(min(member.count, member.threads) for member in self._members)

    def abandoned(self) -> int:
        """How many run that nobody waits for any more."""
        return sum(flight.ended for flight in self._flights.values())

    def check(self, plan: Plan) -> None:
        """Any function that can be pickled, unless it needs more than any worker has."""
        if plan.needs and len(self._members) and not self._members.can_ever(plan.needs):
            raise needs_too_much(self.name, self._engine.name, plan.needs, self._members)

    # --- the place ----------------------------------------------------------------------

    @property
    def hungry(self) -> bool:
        return not self.is_down and not self._full

    @property
    def idle(self) -> bool:
        """Whether a thread is free; short calls may go behind others."""
        return not self._full and self._members.has_idle(self._limit)

    def admits(self, call: Call) -> bool:
        self._full = self._members.choose(pace_of(call), self._limit, call.plan.needs) is None
        return not self._full

    def start(self, call: Call) -> None:
        """Send `call` to a worker that has room; it has started when its station says so."""
        pace = pace_of(call)
        if not self._engine.is_there():
            self._host.give_back([call])
            return
        member = self._members.choose(pace, self._limit, call.plan.needs)
        if member is None:
            self._has_no_place(call)
            return
        self._members.add(member, pace, call.plan.needs)
        flight = Flight(next(self._tickets), call, member, pace)
        self._flights[flight.ticket] = self._newest[call] = flight
        assert call.payload is not None
        self._tokens.watch(member, call.payload.passengers)
        self._goods.send(flight.ticket, call, member, self.failed)

    def _has_no_place(self, call: Call) -> None:
        """A thread is free, but not what the call needs besides."""
        if call.plan.needs and not self._members.can_ever(call.plan.needs):
            self._host.finished(
                call, Refused(needs_too_much(self.name, self._engine.name, call.plan.needs, self._members))
            )
            return
        self._full = True
        self._host.give_back([call])

    def flush(self) -> None:
        """Send what `start` collected."""
        self._goods.flush()

    def _look_again(self) -> None:
        self._full = False
        self.changed()

    # --- stopping -----------------------------------------------------------------------

    def stop(self, call: Call) -> None:
        flight = self._newest.get(call)
        if flight is not None and call.stop is not None:
            self._stops.begin(flight)

    def hurry(self, call: Call) -> None:
        flight = self._newest.get(call)
        if flight is not None:
            self._stops.hurry(flight)

    def _abandon(self, flight: Flight) -> None:
        """Nobody waits for it any more."""
        if not flight.is_over and not flight.ended:
            flight.ended = True
            self._newest.pop(flight.call, None)
            self._host.finished(flight.call, Abandoned(0.0))

    # --- what the engine tells (Listener) -----------------------------------------------

    def answered(self, ticket: int, answer: Answer) -> None:
        flight = self._flights.get(ticket)
        if flight is None:
            return
        if answer.kind == NOT_STARTED:
            # One whose worker is gone may have begun there: this is what another process in its place says.
            if self._members.get(flight.member.address) is flight.member:
                self._never_started([ticket])
            return
        if not flight.ended:
            flight.call.plan.measured(answer.seconds)
            self._started(flight)
        self._end(flight, None if flight.ended else outcome_of(flight.call, answer))

    def failed(self, ticket: int, error: BaseException) -> None:
        """The engine could not have it run."""
        flight = self._flights.get(ticket)
        if flight is not None:
            self._end(flight, Failed(error, 0.0))

    def _started(self, flight: Flight) -> None:
        if not flight.started and not flight.ended:
            flight.started = monotonic()
            self._host.started(flight.call)
            self.hurry(flight.call)  # it may have been asked once more meanwhile

    def _end(self, flight: Flight, outcome: Outcome | None) -> None:
        """The flight is over; the host is told, unless it was before."""
        del self._flights[flight.ticket]
        flight.is_over = True
        self._members.remove(flight.member, flight.pace, flight.call.plan.needs)
        self._goods.ended(flight.ticket)
        self._stops.over(flight)
        if not flight.ended:
            self._newest.pop(flight.call, None)
            if type(outcome) is Done:
                self._host.returned(flight.call, *outcome)
            elif outcome is not None:
                self._host.finished(flight.call, outcome)
        self._look_again()

    def _never_started(self, tickets: Sequence[int]) -> None:
        for flight in [self._flights[ticket] for ticket in tickets if ticket in self._flights]:
            call = flight.call
            self._engine.forget(flight.member.address, flight.ticket)
            if flight.ended or call.stop is not None:
                self._end(flight, Stopped(0.0, "never started"))
                continue
            flight.ended = True
            self._newest.pop(call, None)
            self._end(flight, None)
            self._host.give_back([call])

    def heard(self, station: str, said: Sequence[Sequence[Any]]) -> None:
        """What a station said."""
        for what, number, *rest in said:
            if what == REVOKED:
                self._never_started(number)
            elif what == RAISED:
                raised(number, rest[0])
            else:
                self._said_of(self._flights.get(number), what, rest)

    def _said_of(self, flight: Flight | None, what: str, rest: Sequence[Any]) -> None:
        if flight is None or flight.ended:
            return
        if what == STARTED:
            self._started(flight)
        elif what == PROGRESS:
            flight.call.report_progress(*pickle.loads(rest[0]))
        elif what == PRINTED:
            self._host.printed(rest[0], rest[1], flight.call)

    # --- workers come and go ------------------------------------------------------------

    def joined(self, address: str, threads: int, offers: Amounts, facts: Facts) -> None:
        """A worker is there: it is used if its versions are ours."""
        differing = self._versions.must_not_differ(facts.versions)
        if differing:
            self.refused(address, mismatch(self._engine.name, facts.host, differing))
            return
        self._members.join(Member(address, threads, offers, facts))
        self._someone.set()
        self._look_again()

    def refused(self, address: str, error: Exception) -> None:
        """A worker is there that cannot be used."""
        logger.warning("lane %r leaves out a worker: %s", self.name, error)
        self._problem = error
        self._someone.set()

    def left(self, address: str, cause: str, inquiry: Inquiry | None = None) -> None:
        """A worker is gone: what it had begun is lost, the rest goes to others."""
        member = self._members.leave(address)
        if member is None:
            return
        self._host.crashed(member.name, cause)
        theirs = [flight for flight in self._flights.values() if flight.member is member]
        self._never_started([flight.ticket for flight in theirs if self._goods.holds(flight.ticket)])
        self._deaths.judge([flight for flight in theirs if not flight.is_over], cause, inquiry)
        if not len(self._members):
            self._full = True  # until another comes
            if not self.is_down:
                logger.warning("lane %r has no workers any more; its jobs wait for another", self.name)

    def _lose(self, flight: Flight, cause: str) -> None:
        seconds = monotonic() - flight.started if flight.started else 0.0
        self._engine.forget(flight.member.address, flight.ticket)
        if not flight.ended:
            self._started(flight)
        if flight.killed:
            self._end(flight, Stopped(seconds, "killed"))
        else:
            self._end(flight, Lost(gone(self._engine.name, flight.member, flight.call, cause), seconds))

    def broke(self, cause: str) -> None:
        """The cluster is gone."""
        if self.is_down:
            return
        self.is_down = self.is_cold = True
        for member in self._members:
            self.left(member.address, cause)
        self._look_again()

    # --- coming up and going down -------------------------------------------------------

    async def restore(self) -> None:
        """Connect, within 10 s, or as many as the engine asks for; or fail what waits, with the reason."""
        self._someone.clear()
        self._problem = None
        self._members.clear()
        self._goods.close()
        patience, answers = self._engine.patience or CONNECT, False
        try:
            await self._engine.close()
            async with asyncio.timeout(patience):
                await self._engine.connect(self, self._host.runner_id)
                answers = True
                while not len(self._members):
                    if self._problem is not None:
                        raise self._problem
                    await self._someone.wait()
        except Exception as error:
            await self._engine.close()
            self.is_cold = True
            problem = not_up(self._engine, error, patience, answers=answers)
            logger.warning("lane %r: %s", self.name, problem.logged)
            self._host.refuse(problem)
            return
        self.is_down = self.is_cold = self._full = False

    async def aclose(self) -> None:
        """Let go of the cluster; what still runs there is not followed any more."""
        flights = list(self._flights.values())
        for flight in flights:
            if flight.call.stop is None and not flight.ended:
                self._lose(flight, "closed")
            elif flight.ticket in self._flights:
                self._end(flight, Stopped(0.0, "never started") if not flight.started else Abandoned(0.0))
        self.is_down = True
        self._members.clear()
        self._deaths.close()
        self._goods.close()
        await self._engine.close()

    def abort(self) -> None:
        """The same at once, without a loop."""
        self.is_down = True
        self._engine.abort()
