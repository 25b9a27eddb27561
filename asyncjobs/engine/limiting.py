"""Let a call through its limiter, or have it wait beside the queue until it may.

A call without its limiter must not hold a place, nor stand in the way of others. It still
counts as queued: its room in the queue is taken until it goes. One task for each limiter
asks for the next token, and gives it to whichever call is then the first in line.
"""

from __future__ import annotations

import asyncio
from typing import Any

import anyio

from asyncjobs.engine.line import Line
from asyncjobs.jobqueue import JobQueue
from asyncjobs.lanes.base import Call


class LimiterGate:
    """Knows which calls of one lane hold the limiter of their options, and which wait for it."""

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue
        self._lines: dict[Any, Line] = {}
        self._asking: dict[Line, asyncio.Task[None]] = {}
        """For each line, the task that waits for the next token."""
        self._tokens: dict[Call, object] = {}
        """Under which name each call's token was taken: the limiter knows its borrowers by that."""

    def admits(self, call: Call, tasks: asyncio.TaskGroup) -> bool:
        """Whether `call` holds its limiter; if not, it is given back to the queue once it does."""
        limiter = call.plan.options.limiter
        if limiter is None or call in self._tokens:
            return True
        line = self._lines.get(limiter)
        if line is None and _takes_token(limiter, call):
            self._tokens[call] = call
            return True
        if line is None:
            line = self._lines[limiter] = Line()
            self._asking[line] = tasks.create_task(self._ask(limiter, line))
        line.join(call)
        self._queue.park(call)
        return False

    async def _ask(self, limiter: Any, line: Line) -> None:
        """Take a token for whoever is first when it comes, as long as anybody waits."""
        while line:
            token = object()
            # Waiting for one that is free would cost two turns of the loop for each call.
            if not _takes_token(limiter, token):
                await limiter.acquire_on_behalf_of(token)
            if not line:  # the last one left while the token was on its way
                limiter.release_on_behalf_of(token)
                return
            call = line.pop()
            self._tokens[call] = token
            if not line:
                del self._lines[limiter], self._asking[line]  # whoever comes next begins a new line
            # It may start, and even end, in here. Its room in the queue comes free after that.
            self._queue.give_back([call])
            self._queue.unpark(call)

    def release(self, call: Call) -> None:
        """`call` has ended, or needs its limiter no more; harmless for one that has none."""
        limiter = call.plan.options.limiter
        if limiter is None:
            return
        token = self._tokens.pop(call, None)
        if token is not None:
            limiter.release_on_behalf_of(token)
            return
        line = self._lines.get(limiter)
        if line is not None and call in line:
            line.leave(call)
            if not line:  # nobody waits here: others may have the next token
                del self._lines[limiter]
                self._asking.pop(line).cancel()
            self._queue.unpark(call)

    def waiting(self) -> list[Call]:
        """The calls that wait for their limiter."""
        return [call for line in self._lines.values() for call in line.calls()]

    def close(self) -> None:
        """Ask for no more tokens."""
        for task in self._asking.values():
            task.cancel()


def _takes_token(limiter: Any, borrower: object) -> bool:
    try:
        limiter.acquire_on_behalf_of_nowait(borrower)
    except anyio.WouldBlock:
        return False
    return True
