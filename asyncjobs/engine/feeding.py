"""Feed the places of one lane from its queue: one consumer coroutine for each place.

A consumer brings its place up, and sleeps while there is nothing to take. It is not woken
for each call: whoever puts a call, or brings an answer, has the sleeping consumer `feed` at
once, in the same turn of the loop. That turn is most of what an idle call costs.
"""

from __future__ import annotations

import asyncio

from asyncjobs.engine.admission import Admission
from asyncjobs.jobqueue import JobQueue
from asyncjobs.lanes.base import Call, Lane, Place


class Feeder:
    """The consumers of one lane."""

    def __init__(self, lane: Lane, queue: JobQueue, gate: Admission) -> None:
        self._lane = lane
        self.queue: JobQueue = queue
        self._gate = gate
        self._consumers: dict[Place, asyncio.Task[None]] = {}
        self._tasks: asyncio.TaskGroup
        self.is_paused: bool = False

    def hire(self, tasks: asyncio.TaskGroup) -> None:
        """Start a consumer for each place that has none."""
        self._tasks = tasks
        for place in self._lane.places():
            if place not in self._consumers:
                work = Consumer(place, self).run()
                self._consumers[place] = tasks.create_task(work, name=f"asyncjobs-{place.name}")

    def dismiss(self, place: Place) -> None:
        """The consumer of `place` ends."""
        del self._consumers[place]

    def may_go(self, call: Call) -> bool:
        """Whether `call` holds all that it needs, if it needs anything; if not, it waits beside the queue."""
        return call.plan.is_plain or self._gate.admits(call, self._tasks)

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


class Consumer:
    """Takes calls from the queue for one place."""

    def __init__(self, place: Place, feeder: Feeder) -> None:
        self._place = place
        self._feeder = feeder
        self._queue = feeder.queue
        self._sleep: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._fault: BaseException | None = None
        """What went wrong while others called us; the coroutine raises it."""
        place.changed = self.wake

    async def run(self) -> None:
        """Feed the place until it leaves; the place is closed with its consumer."""
        place = self._place
        try:
            while not place.leaving or not place.idle:
                if place.is_down and not await self._raise_up():
                    continue
                self._feed()
                await self._rest()
        finally:
            self._queue.unlisten(self)
            self._feeder.dismiss(place)
            await place.aclose()

    async def _raise_up(self) -> bool:
        """Bring the place up, once something waits for it; False: look at it anew."""
        place, queue = self._place, self._queue
        if place.is_cold and (self._feeder.is_paused or queue.empty()):
            if not self._feeder.is_paused:
                queue.listen(self, reserve=True)
            await self._rest()
            return False
        await place.restore()
        if place.is_down and not place.leaving and not queue.empty():
            # It failed, and is tried again as long as calls wait: a restore that fails without
            # ever waiting would never let the loop have a turn.
            await asyncio.sleep(0)
        return not place.is_down

    async def _rest(self) -> None:
        """Sleep until the place goes down or leaves, or there is a reason to bring it up."""
        await self._sleep
        self._sleep = asyncio.get_running_loop().create_future()
        if self._fault is not None:
            raise self._fault

    # --- told by others, who must not suffer from a fault of ours: it goes to the coroutine -----

    def wake(self) -> None:
        """The place or the queue has changed: feed here and now; what takes time is for the coroutine."""
        try:
            if self._place.is_down or self._place.leaving:
                self._queue.unlisten(self)  # what comes meanwhile is for others
                self._rouse()
                return
            self._feed()
        except BaseException as error:
            self._break(error)

    def offer(self, call: Call) -> bool:
        """Start `call` here and now, if that can be: it need not go through the queue."""
        place = self._place
        try:
            if self._feeder.is_paused or not place.hungry:
                return False
            if self._feeder.may_go(call):
                call.place = place
                place.start(call)
                place.flush()
            if place.idle and place.hungry:
                self._queue.listen(self)
        except BaseException as error:
            self._break(error)
        return True

    def _rouse(self) -> None:
        if not self._sleep.done():
            self._sleep.set_result(None)

    def _break(self, error: BaseException) -> None:
        self._fault = self._fault or error
        self._rouse()

    def _feed(self) -> None:
        place, queue, feeder = self._place, self._queue, self._feeder
        started = False
        while not feeder.is_paused and place.hungry:
            is_idle = place.idle
            call = queue.take(None if is_idle else place.admits)
            if call is None:
                if is_idle:
                    queue.listen(self)
                break
            if feeder.may_go(call):
                call.place = place
                place.start(call)
                started = True
        if started:
            place.flush()
        if not queue.empty():
            queue.wake()  # what this place left, another may take
