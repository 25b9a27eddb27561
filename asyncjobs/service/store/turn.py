"""Gather what the loop asks of the store's thread: what one turn asks for travels together. `Turn`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from asyncjobs.service.store.requests import Item


class Turn:
    """What was asked for and is not with the thread yet: it shares a transaction.

    Args:
        send: hands it to the thread.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, send: Callable[[list[Item]], None]) -> None:
        self.items: list[Item] = []
        self._loop = loop
        self._send = send
        self._is_over = False
        """It goes with the end of this turn of the loop."""
        self._timer: asyncio.TimerHandle | None = None
        """When it goes at the latest, if only what has patience is in it."""

    def add(self, item: Item, patience: float = 0.0) -> None:
        """Have it sent at the end of this turn; with `patience` so many seconds later, or with what others ask for."""
        self.items.append(item)
        if self._is_over:
            return
        if not patience:
            self._is_over = True
            self._stop_timer()  # here and now: on uvloop it may be due before the end of this turn comes
            self._loop.call_soon(self._go)
        elif self._timer is None:
            self._timer = self._loop.call_later(patience, self._go)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _go(self) -> None:
        self._timer, self._is_over = None, False
        items, self.items = self.items, []
        self._send(items)
