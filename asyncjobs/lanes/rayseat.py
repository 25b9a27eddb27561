"""The actor behind a worker of `RayLane`: takes orders, carries them out one by one, and says what became of them."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from itertools import count
from queue import Empty, SimpleQueue
from time import monotonic, sleep
from typing import Any

from asyncjobs import station
from asyncjobs.station import NOT_STARTED, Answer, Cargo, Order

LINGER = 0.002
"""Seconds in which more answers may join the first, while there is more to do."""


class Seat:
    """Runs one call at a time, in a thread of its own; `listen` and `hear` are called beside it.

    What is said and the answers go out in one line: an answer never overtakes what its call has said.
    """

    def __init__(self) -> None:
        self._orders: SimpleQueue[tuple[Order, Sequence[Any]]] = SimpleQueue()
        self._lines: list[tuple[Any, ...]] = []
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()
        self._news = threading.Condition()

    def enrol(self, runner_id: str) -> tuple[Any, ...]:
        """Open a station, and begin to work."""
        facts = station.enrol(runner_id, self)
        threading.Thread(target=self._work, name="asyncjobs-seat", daemon=True).start()
        return tuple(facts)

    # --- work ---------------------------------------------------------------------------

    def take(self, orders: bytes, *goods: Cargo) -> None:
        """What is to be done next."""
        for order in pickle.loads(orders):
            self._orders.put((Order(*order), goods))

    def drain(self) -> None:
        """Give back what has not begun: the process is about to be ended."""
        try:
            while True:
                order, _ = self._orders.get_nowait()
                self._put("", order.ticket, Answer(NOT_STARTED, 0.0, Cargo(b"")))
        except Empty:
            return

    def _work(self) -> None:
        while True:
            order, goods = self._orders.get()
            self._put("", order.ticket, station.perform(order, goods))
            del order, goods

    def hear(self, name: str, told: Sequence[tuple[Any, ...]]) -> None:
        """What the runner says."""
        station.hear(name, told)

    # --- saying something (Voice) -------------------------------------------------------

    def say(self, name: str, said: list[tuple[Any, ...]]) -> None:
        """At the next `listen`."""
        self._put(name, *said)

    def later(self, seconds: float, callback: Callable[[], None]) -> None:
        """In the thread that listens: all that it does is to say something."""
        with self._news:
            heappush(self._due, (monotonic() + seconds, next(self._numbers), callback))
            self._news.notify()

    def _put(self, *line: Any) -> None:
        with self._news:
            self._lines.append(line)
            self._news.notify()

    def listen(self) -> bytes:
        """Wait until there is something to say: lines of a station's name and what it said, or "" with a ticket and
        its answer; pickled."""
        while True:
            with self._news:
                lines = self._taken()
                callback = self._next_due()
                if not lines and callback is None:
                    self._news.wait(self._due[0][0] - monotonic() if self._due else None)
            if lines:
                if callback is not None:
                    self.later(0.0, callback)
                if not self._orders.empty():  # short calls follow each other: their answers travel together
                    sleep(LINGER)
                    lines += self._taken()
                return pickle.dumps([tuple(line) for line in lines], 5)
            if callback is not None:
                callback()

    def _taken(self) -> list[tuple[Any, ...]]:
        lines, self._lines = self._lines, []
        return lines

    def _next_due(self) -> Callable[[], None] | None:
        if self._due and self._due[0][0] <= monotonic():
            return heappop(self._due)[2]
        return None
