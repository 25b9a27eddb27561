"""One lane and one subscription of an open runner, from any thread."""

from __future__ import annotations

from asyncjobs.errors import RunnerClosed
from asyncjobs.events import JobEvent, Subscription
from asyncjobs.portal import Portal
from asyncjobs.steering import LaneHandle


class SyncLaneHandle:
    """Pauses, resumes and resizes one lane; made by `SyncRunner.lane`.

    Each of its methods raises `RunnerClosed` after the runner was closed.
    """

    def __init__(self, portal: Portal, handle: LaneHandle) -> None:
        self._portal = portal
        self._handle = handle

    @property
    def name(self) -> str:
        """The name that the runner knows the lane by."""
        return self._handle.name

    def pause(self) -> None:
        """Start nothing more from the queue; what runs goes on."""
        self._portal.do(self._handle.pause)

    def resume(self) -> None:
        """Start again what waits."""
        self._portal.do(self._handle.resume)

    def resize(self, size: int) -> None:
        """Let the lane run `size` calls at once; what runs is not disturbed."""
        self._portal.do(self._handle.resize, size)

    def __repr__(self) -> str:
        return repr(self._handle).replace("<LaneHandle", "<SyncLaneHandle", 1)


class SyncSubscription:
    """An iterator over events, from the moment of subscribing until it is closed; made by `SyncRunner.events`."""

    def __init__(self, portal: Portal, subscription: Subscription) -> None:
        self._portal = portal
        self._subscription = subscription

    @property
    def dropped(self) -> int:
        """How many events were lost because nobody took them in time."""
        return self._subscription.dropped

    def close(self) -> None:
        """End the iteration after what has already arrived."""
        self._portal.post(self._subscription.close)

    def __iter__(self) -> SyncSubscription:
        return self

    def __next__(self) -> JobEvent:
        event = self._subscription.next_nowait()
        if event is None:
            try:
                event = self._portal.call(self._next)
            except RunnerClosed:  # what has arrived before is still ours
                event = self._subscription.next_nowait()
        if event is None:
            raise StopIteration
        return event

    async def _next(self) -> JobEvent | None:
        return await anext(self._subscription, None)

    def __enter__(self) -> SyncSubscription:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
