"""What a call must hold before it may have a place: its limiter, and the resources that it needs.

Who lacks one waits beside the queue, and stands in nobody's way. For resources there is one rule, so
that a call that needs much gets its turn though small ones keep coming: nobody takes of a resource
that a call before it waits for. What needs none of these goes past.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator

from asyncjobs.engine.limiting import LimiterGate
from asyncjobs.engine.line import Line, rank
from asyncjobs.jobqueue import JobQueue
from asyncjobs.lanes.base import Call
from asyncjobs.lanes.supply import Supply


class Admission:
    """Both gates of one lane. A call that lost its place unstarted keeps what it holds."""

    def __init__(self, queue: JobQueue, supply: Supply | None, loop: asyncio.AbstractEventLoop) -> None:
        self._limiters = LimiterGate(queue)
        self._resources = SupplyGate(queue, supply, loop)

    def admits(self, call: Call, tasks: asyncio.TaskGroup) -> bool:
        """Whether `call` holds all that it needs; if not, it is given back to the queue once it may ask again."""
        return self._limiters.admits(call, tasks) and self._resources.admits(call)

    def release(self, call: Call) -> None:
        """`call` has ended, or needs nothing for a while; harmless for one that holds nothing."""
        self._limiters.release(call)
        self._resources.release(call)

    def waiting(self) -> list[Call]:
        """The calls that wait for either."""
        return self._limiters.waiting() + self._resources.waiting()

    def close(self) -> None:
        """Ask for no more tokens."""
        self._limiters.close()


class SupplyGate:
    """Gives the lane's resources to calls, in order. Where the lane counts none, every call may go."""

    # A line for each set of names: calls of one line are stopped by the same, so that only the first
    # of each needs to be looked at, however many wait.

    def __init__(self, queue: JobQueue, supply: Supply | None, loop: asyncio.AbstractEventLoop) -> None:
        self._queue = queue
        self._supply = supply
        self._loop = loop
        self._lines: dict[frozenset[str], Line] = {}
        self._is_looking = False

    def admits(self, call: Call) -> bool:
        """Whether `call` holds what it needs; if not, it is given back to the queue once it does."""
        needs, supply = call.plan.needs, self._supply
        if needs is None or supply is None or supply.holds(call):
            return True
        if self._may_take(supply, call):
            supply.take(call)
            return True
        self._lines.setdefault(frozenset(needs), Line()).join(call)
        self._queue.park(call)
        return False

    def release(self, call: Call) -> None:
        """`call` has ended, or needs nothing for a while; harmless for one that holds nothing."""
        needs, supply = call.plan.needs, self._supply
        if needs is None or supply is None:
            return
        line = self._lines.get(frozenset(needs))
        if supply.holds(call):
            supply.put_back(call)
        elif line is not None and call in line:
            line.leave(call)
            self._queue.unpark(call)
        if self._lines and not self._is_looking:
            # Not now: whoever tells us of an end is not through with it.
            self._is_looking = True
            self._loop.call_soon(self._look)

    def waiting(self) -> list[Call]:
        """The calls that wait for resources."""
        return [call for line in self._lines.values() for call in line.calls()]

    def _look(self) -> None:
        """Give what is free to those that may have it."""
        self._is_looking = False
        supply = self._supply
        while supply is not None:
            self._lines = {names: line for names, line in self._lines.items() if line}
            lucky = next((line for line in self._lines.values() if self._may_take(supply, line.first())), None)
            if lucky is None:
                return
            call = lucky.pop()
            supply.take(call)
            # It may start, and even end, in here. Its room in the queue comes free after that.
            self._queue.give_back([call])
            self._queue.unpark(call)

    def _may_take(self, supply: Supply, call: Call) -> bool:
        needs = call.plan.needs or {}
        return supply.fits(needs) and not any(rank(first) < rank(call) for first in self._rivals(needs.keys()))

    def _rivals(self, names: Collection[str]) -> Iterator[Call]:
        """The first in each line that waits for any of `names`."""
        for waited_for, line in self._lines.items():
            if line and not waited_for.isdisjoint(names):
                yield line.first()
