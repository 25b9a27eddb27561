"""Tell subscribers what happens to jobs, without ever waiting for them.

A bounded bus of frozen events: a subscriber that does not keep up loses the oldest ones
and can see how many. Knows nothing of what the events mean.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import NamedTuple

from asyncjobs.state import JobState


class Progress(NamedTuple):
    """How far a job is."""

    done: float
    total: float | None = None
    note: str = ""

    @property
    def share(self) -> float | None:
        """0.0 to 1.0, or None without a total."""
        return self.done / self.total if self.total else None


class JobEvent(NamedTuple):
    """One thing that happened to one job, at `at` (UTC epoch seconds)."""

    job_id: str
    name: str
    lane: str
    state: JobState
    attempt: int
    at: float
    progress: Progress | None = None
    """Set on progress reports; the state did not change then."""


class Subscription:
    """An async iterator over events, from the moment of subscribing until it is closed.

    `dropped` counts the events that were lost because nobody took them in time.
    """

    def __init__(self, bus: EventBus, size: int) -> None:
        self._bus = bus
        self._events: deque[JobEvent] = deque(maxlen=size)
        self._waiter: asyncio.Future[None] | None = None
        self._closed = False
        self.dropped: int = 0

    def _offer(self, event: JobEvent) -> None:
        if len(self._events) == self._events.maxlen:
            self.dropped += 1
        self._events.append(event)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def close(self) -> None:
        """End the iteration after what has already arrived."""
        self._closed = True
        self._bus.unsubscribe(self)
        self._wake()

    def next_nowait(self) -> JobEvent | None:
        """The next event if one has arrived; from any thread."""
        try:
            return self._events.popleft()
        except IndexError:
            return None

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> JobEvent:
        while not self._events:
            if self._closed:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self._events.popleft()

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class EventBus:
    """Hands each event to every subscriber; costs one truth test while there is none."""

    def __init__(self) -> None:
        self.subscriptions: list[Subscription] = []

    def subscribe(self, size: int) -> Subscription:
        """A new subscription that holds at most `size` events."""
        subscription = Subscription(self, size)
        self.subscriptions.append(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Hand it nothing more."""
        if subscription in self.subscriptions:
            self.subscriptions.remove(subscription)

    def publish(self, event: JobEvent) -> None:
        """Hand `event` to every subscriber; never waits."""
        for subscription in self.subscriptions:
            subscription._offer(event)

    def close(self) -> None:
        """End every subscription."""
        for subscription in tuple(self.subscriptions):
            subscription.close()
