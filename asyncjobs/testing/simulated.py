"""A cluster that is only played: `SimulatedLane`. The runner and the lane are real, the workers are numbers.

On a `ChargedLoop` a thousand workers are simulated in seconds, and what the runner's loop computes takes its time.
"""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from asyncjobs.lanes.base import Capabilities
from asyncjobs.lanes.cluster import ClusterLane
from asyncjobs.lanes.clusterengine import Listener, Sending
from asyncjobs.options import check_count, check_seconds
from asyncjobs.station import CHUNK, Answer, Cargo, Facts, versions
from asyncjobs.testing.loops import ChargedLoop
from asyncjobs.wire import frames


class SimulatedLane(ClusterLane):
    """A lane over `workers` that do nothing, as long as `service` says.

    Args:
        workers: how many there are; each runs one call at a time.
        service: gives the seconds that the next call takes, or the next item of a group.
        way: seconds from here to a worker, and back again.
        cost: seconds that the engine's own client computes on the loop for each message, there or back; a
            `ChargedLoop` takes them into account.

    Every call returns None. Nothing fails here.

    Example::

        with asyncio.Runner(loop_factory=ChargedLoop) as loops:
            loops.run(main(SimulatedLane(1000, lambda: 0.1)))
    """

    def __init__(self, workers: int, service: Callable[[], float], *, way: float = 0.0005, cost: float = 0.0) -> None:
        check_count("workers", workers, 1)
        check_seconds("way", way)
        check_seconds("cost", cost)
        super().__init__(SimulatedEngine(workers, service, way, cost))


class SimulatedEngine:
    """Knows when each worker will be free."""

    name = "Simulated"
    package = "test"
    doubt = shortage = ""
    patience: float | None = None
    address = "nowhere"
    capabilities: Capabilities = Capabilities(encodes=True, groups=True)

    def __init__(self, workers: int, service: Callable[[], float], way: float, cost: float) -> None:
        self._workers = workers
        self._service = service
        self._way = way
        self._cost = cost
        self._free_at: dict[str, float] = {}
        self._listener: Listener
        self._loop: asyncio.AbstractEventLoop

    async def connect(self, listener: Listener, runner_id: str) -> None:
        """Everybody is there."""
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        for number in range(self._workers):
            self._free_at[f"worker-{number}"] = 0.0
            listener.joined(f"worker-{number}", 1, {}, Facts(f"station-{number}", number, "nowhere", versions()))

    def is_there(self) -> bool:
        """Always."""
        return True

    def send(self, address: str, sendings: Sequence[Sending]) -> None:
        """They arrive, wait until those before them have ended, and are answered; answers of one time together."""
        answers: dict[float, list[tuple[int, float, bytes]]] = {}
        with self._elsewhere():
            for sending in sendings:
                count = _items(sending)
                seconds = sum(self._service() for _ in range(count or 1))
                begins = max(self._loop.time() + self._way, self._free_at[address])
                self._free_at[address] = ends = begins + seconds
                answers.setdefault(ends, []).append((sending.order.ticket, seconds, _value(count)))
        self._spend()
        for ends, group in answers.items():
            self._loop.call_at(ends + self._way, self._answered, group)

    def _elsewhere(self) -> AbstractContextManager[None]:
        return self._loop.free_of_charge() if isinstance(self._loop, ChargedLoop) else nullcontext()

    def _spend(self) -> None:
        if isinstance(self._loop, ChargedLoop):
            self._loop.spend(self._cost)

    def _answered(self, group: list[tuple[int, float, bytes]]) -> None:
        self._spend()
        for ticket, seconds, value in group:
            self._listener.answered(ticket, Answer(frames.RETURNED, seconds, Cargo(value)))

    def tell(self, address: str, station: str, told: Sequence[tuple[Any, ...]]) -> None:
        """Nobody listens."""

    def forget(self, address: str, ticket: int) -> None:
        """Nothing to forget."""

    def kill(self, address: str) -> None:
        """Nobody to kill."""

    async def put(self, cargo: Cargo, address: str | None) -> Any:
        """Nothing is kept."""

    def keeps(self, stored: Any) -> bool:
        """Nobody misses it."""
        return True

    async def close(self) -> None:
        """Nothing to close."""

    def abort(self) -> None:
        """The same."""


def _items(sending: Sending) -> int:
    """How many items the call has, 0 if it is no group."""
    order = sending.order
    if not order.flags & CHUNK or not isinstance(order.arguments, Cargo):
        return 0
    return len(order.arguments.load()[0])


def _value(count: int) -> bytes:
    return pickle.dumps(([None] * count, {}) if count else None, 5)
