"""Feed the places of one lane from its queue: one consumer coroutine for each place.

A consumer takes calls while its place is hungry, and sleeps until the place changes or the
queue has something for it. It brings the place up before its first call and after a death.
"""

from __future__ import annotations

import asyncio
from functools import partial

from asyncjobs.engine.limiting import LimiterGate
from asyncjobs.jobqueue import JobQueue
from asyncjobs.lanes.base import Call, Lane, Place


class Feeder:
    """The consumers of one lane."""

    def __init__(self, lane: Lane, queue: JobQueue, gate: LimiterGate) -> None:
        self._lane = lane
        self._queue = queue
        self._gate = gate
        self._consumers: dict[Place, asyncio.Task[None]] = {}
        self._tasks: asyncio.TaskGroup
        self.is_paused: bool = False

    def hire(self, tasks: asyncio.TaskGroup) -> None:
        """Start a consumer for each place that has none."""
        self._tasks = tasks
        for place in self._lane.places():
            if place not in self._consumers:
                task = tasks.create_task(self._consume(place), name=f"asyncjobs-{place.name}")
                self._consumers[place] = task

    async def _consume(self, place: Place) -> None:
        """Feed one place until it leaves; the place is closed with its consumer."""
        try:
            while not place.leaving or not place.idle:
                if place.is_down and not await self._raise_up(place):
                    continue
                self._feed(place)
                await self._until_changed(place, listen=place.hungry and place.idle and not self.is_paused)
        finally:
            del self._consumers[place]
            await place.aclose()

    async def _raise_up(self, place: Place) -> bool:
        """Bring a place up, once something waits for it; False: look at it anew."""
        if place.is_cold and (self.is_paused or self._queue.empty()):
            await self._until_changed(place, listen=not self.is_paused, reserve=True)
            return False
        await place.restore()
        if place.is_down and not place.leaving and not self._queue.empty():
            await asyncio.sleep(0)
        return not place.is_down

    def _feed(self, place: Place) -> None:
        queue = self._queue
        while not self.is_paused and place.hungry:
            call = queue.take(None if place.idle else place.admits)
            if call is None:
                break
            if not call.plan.is_plain and call.plan.options.limiter is not None and not self._may_go(call):
                continue
            call.place = place
            place.start(call)
        place.flush()

    async def _until_changed(self, place: Place, *, listen: bool, reserve: bool = False) -> None:
        """Wait for the place to change, or (if it listens) for something to take."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        place.changed = partial(_resolve, waiter)
        if self._queue.qsize():
            self._queue.wake()  # what this place left, another may take
        if listen:
            self._queue.listen(waiter, reserve=reserve)
        await waiter

    def _may_go(self, call: Call) -> bool:
        return self._gate.admits(call, self._tasks)

    def pause(self) -> None:
        """Take nothing more from the queue; what runs goes on."""
        self.is_paused = True

    def resume(self) -> None:
        """Go on."""
        self.is_paused = False
        for place in self._lane.places():
            place.changed()

    def close(self) -> None:
        """Stop the consumers; each closes its place."""
        for task in self._consumers.values():
            task.cancel()


def _resolve(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
