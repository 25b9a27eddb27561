"""Decide when a worker is used up: after so many jobs, or with so much memory.

Looks at the memory while a job runs, too: what is over the limit then is killed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from asyncjobs.lanes.body import Body
from asyncjobs.lanes.death import private_memory

RSS_INTERVAL = 0.25
"""Seconds between two looks at the memory of a worker that runs something."""


class Wear:
    """How used one slot's worker is."""

    def __init__(self, loop: asyncio.AbstractEventLoop, recycle_after: int | None, max_rss: int | None) -> None:
        self._loop = loop
        self._recycle_after = recycle_after
        self.max_rss = max_rss
        self.served: int = 0
        """Jobs that this worker has answered."""
        self._check: asyncio.TimerHandle | None = None

    def has_room(self, held: int) -> bool:
        """Whether another job may be sent beside the `held` ones before the worker is replaced."""
        return self._recycle_after is None or self.served + held < self._recycle_after

    def is_over(self, body: Body) -> bool:
        """Whether the worker is to be replaced now."""
        if self._recycle_after is not None and self.served >= self._recycle_after:
            return True
        return self.max_rss is not None and private_memory(body.pid) > self.max_rss

    def watch(self, body: Body, is_busy: Callable[[], bool], retire: Callable[[], None]) -> None:
        """Look at the memory from now on, for as long as the worker is busy."""
        if self.max_rss is not None and self._check is None:
            self._check = self._loop.call_later(RSS_INTERVAL, self._look, body, is_busy, retire)

    def _look(self, body: Body, is_busy: Callable[[], bool], retire: Callable[[], None]) -> None:
        self._check = None
        if self.max_rss is None or body.is_dead:
            return
        used = private_memory(body.pid)
        if used > self.max_rss and is_busy():
            body.kill(f"max_rss: {used / 2**20:.0f} MiB used, {self.max_rss / 2**20:.0f} MiB allowed")
        elif used > self.max_rss:
            retire()
        elif is_busy():
            self.watch(body, is_busy, retire)

    def renew(self) -> None:
        """The worker is gone, or another one has come."""
        self.served = 0
        if self._check is not None:
            self._check.cancel()
            self._check = None
