"""Let a call through its limiter, or have it wait beside the queue until it may.

A call without its limiter must not hold a place, nor stand in the way of others: a task of
its own waits for it, and puts the call back where it stood.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from asyncjobs.lanes.base import Call


class LimiterGate:
    """Knows which calls hold the limiter of their options, and which wait for it."""

    def __init__(self, give_back: Callable[[list[Call]], None]) -> None:
        self._give_back = give_back
        self._waiting: dict[Call, asyncio.Task[None]] = {}
        self._holding: set[Call] = set()

    def admits(self, call: Call, tasks: asyncio.TaskGroup) -> bool:
        """Whether `call` holds its limiter; if not, it is given back once it does."""
        if call in self._holding:
            return True
        limiter = call.plan.options.limiter
        if not limiter.available_tokens or limiter.statistics().tasks_waiting:
            self._waiting[call] = tasks.create_task(self._wait(call))
            return False
        limiter.acquire_on_behalf_of_nowait(call)
        self._holding.add(call)
        return True

    async def _wait(self, call: Call) -> None:
        try:
            await call.plan.options.limiter.acquire_on_behalf_of(call)
        finally:
            self._waiting.pop(call, None)
        self._holding.add(call)
        self._give_back([call])

    def release(self, call: Call) -> None:
        """`call` has ended, or needs its limiter no more; harmless for one that has none."""
        waiting = self._waiting.pop(call, None)
        if waiting is not None:
            waiting.cancel()
        if call in self._holding:
            self._holding.discard(call)
            call.plan.options.limiter.release_on_behalf_of(call)

    def close(self) -> None:
        """Stop the waiting tasks."""
        for task in tuple(self._waiting.values()):
            task.cancel()
