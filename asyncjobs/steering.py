"""One lane of an open runner, as its user steers it: `LaneHandle`.

Refuses whoever calls from elsewhere or too late. What steering does is the engine's business.
"""

from __future__ import annotations

from asyncjobs.engine.dispatcher import Dispatcher
from asyncjobs.engine.engine import Engine


class LaneHandle:
    """Pauses, resumes and resizes one lane; made by `Runner.lane`.

    Each of its methods raises `WrongLoop` when it is called from another event loop or thread,
    and `RunnerClosed` after the runner was closed.
    """

    def __init__(self, engine: Engine, dispatcher: Dispatcher) -> None:
        self._engine = engine
        self._dispatcher = dispatcher

    @property
    def name(self) -> str:
        """The name that the runner knows the lane by."""
        return self._dispatcher.name

    def pause(self) -> None:
        """Start nothing more from the queue; what runs goes on."""
        self._engine.check_open()
        self._dispatcher.pause()

    def resume(self) -> None:
        """Start again what waits."""
        self._engine.check_open()
        self._dispatcher.resume()

    def resize(self, size: int) -> None:
        """Let the lane run `size` calls at once; what runs is not disturbed."""
        self._engine.check_open()
        self._dispatcher.resize(size)

    def __repr__(self) -> str:
        dispatcher = self._dispatcher
        state = "closed" if self._engine.is_over else "paused" if dispatcher.is_paused else "open"
        lane = dispatcher.lane
        places = f"{lane.busy()} of {lane.size()} places busy"
        return f"<LaneHandle {self.name!r} {state}: {places}, {dispatcher.queue.qsize()} queued>"
