"""Take calls back from a worker, and make the one that runs end: the stop ladder.

The token first; at the grace an exception in the job; a second later the end of the process.
A call that waits in the worker's window is revoked instead, and never starts.
"""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable, Mapping

from asyncjobs.lanes.base import Call
from asyncjobs.lanes.body import Body
from asyncjobs.wire import codec, frames

KILL_AFTER_INTERRUPT = 1.0
"""Seconds between the exception in a job and the end of its process."""


class Stopping:
    """What has been asked of one worker and not been answered.

    `calls` are the slot's calls without an answer, by ticket. At most one REVOKE is
    unanswered at any time: without an answer (a job holds the interpreter lock) nothing is
    sent again until it comes or the worker is dead.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, calls: Mapping[int, Call]) -> None:
        self._loop = loop
        self._calls = calls
        self._revoking: list[int] = []
        self._to_revoke: set[int] = set()
        self._ladders: dict[int, tuple[asyncio.TimerHandle, asyncio.TimerHandle]] = {}
        """The steps that are to come, by ticket: the exception, and the end of the process."""
        self.killed_ticket: int = 0
        """The ticket that the worker was killed for, 0 if it was not."""

    def clear(self) -> None:
        """A new worker has been asked nothing."""
        self._revoking = []
        self._to_revoke.clear()
        self._ladders.clear()
        self.killed_ticket = 0

    def stop(self, call: Call, body: Body) -> None:
        """End `call` if it is the one that runs; take it back if it waits in the window."""
        ticket = next((ticket for ticket, candidate in self._calls.items() if candidate is call), None)
        if ticket is None:
            return
        if ticket == next(iter(self._calls)):
            self.climb(ticket, call, body)
        else:
            self.revoke([ticket], body)

    def revoke(self, tickets: list[int], body: Body) -> None:
        """Ask for calls back that the worker has not started."""
        self._to_revoke.update(tickets)
        if self._revoking:
            return
        self._revoking = sorted(ticket for ticket in self._to_revoke if ticket in self._calls)
        self._to_revoke.clear()
        if self._revoking:
            body.tell(frames.REVOKE, 0, pickle.dumps(self._revoking, 5))

    def revoked(self, answer: memoryview, give_back: Callable[[list[int]], None], body: Body) -> None:
        """The worker has answered: what it gave back goes back, what runs already is stopped."""
        asked, self._revoking = self._revoking, []
        give_back(codec.loads(answer))
        for ticket in asked:
            call = self._calls.get(ticket)
            if call is not None and call.stop is not None:
                self.climb(ticket, call, body)  # too late: it runs already
        if self._to_revoke:
            self.revoke([], body)

    def climb(self, ticket: int, call: Call, body: Body) -> None:
        """Stop the call that runs: step by step, as long as it has not ended."""
        if call.stop is None:
            return
        body.tell(frames.CANCEL, ticket, pickle.dumps(tuple(call.stop), 5))
        for ended in self._ladders.keys() - self._calls.keys():
            del self._ladders[ended]
        self._set_up(ticket, call, body)

    def hurry(self, call: Call, body: Body) -> None:
        """Climb sooner, if `call.grace` from now is sooner. One that still waits to be revoked has no ladder yet."""
        # Judged by the last step: without a grace the first is due at once, and uvloop's handle for that knows no time.
        end = self._loop.time() + call.grace + KILL_AFTER_INTERRUPT
        for ticket, steps in self._ladders.items():
            if self._calls.get(ticket) is call and end < steps[1].when():
                for step in steps:
                    step.cancel()
                self._set_up(ticket, call, body)
                return

    def _set_up(self, ticket: int, call: Call, body: Body) -> None:
        self._ladders[ticket] = (
            self._loop.call_later(call.grace, self._interrupt, ticket, body),
            self._loop.call_later(call.grace + KILL_AFTER_INTERRUPT, self._kill, ticket, body),
        )

    def _interrupt(self, ticket: int, body: Body) -> None:
        if ticket in self._calls:
            body.tell(frames.INTERRUPT, ticket)

    def _kill(self, ticket: int, body: Body) -> None:
        if ticket in self._calls:
            self.killed_ticket = ticket
            body.kill("stopped")
