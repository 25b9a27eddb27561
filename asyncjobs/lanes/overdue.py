"""Notice that the first call in a worker's window keeps the others waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from asyncjobs.lanes.base import Call

OVERDUE = 0.005
"""Seconds with one call, after which those behind it should go elsewhere."""


class Overdue:
    """Looks now and then, while several calls are in the window; says so with `on_overdue`."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, calls: Mapping[int, Call], on_overdue: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._calls = calls
        self._on_overdue = on_overdue
        self._check: asyncio.TimerHandle | None = None

    def watch(self) -> None:
        """Look in a while, if anything waits behind the first call."""
        if len(self._calls) > 1 and self._check is None:
            self._check = self._loop.call_later(OVERDUE, self._look, next(iter(self._calls)))

    def _look(self, first: int) -> None:
        self._check = None
        if len(self._calls) > 1 and next(iter(self._calls)) == first:
            self._on_overdue()
        self.watch()

    def stop(self) -> None:
        """Look no more."""
        if self._check is not None:
            self._check.cancel()
            self._check = None
