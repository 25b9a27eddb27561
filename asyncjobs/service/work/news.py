"""Pass on what running jobs say of themselves: progress, and how far their logs have grown.

Nobody is waited for. What a slow reader has not taken is overtaken by what is newer, and of very many jobs it is
told only that it missed some. Events that are on disk come from the store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from asyncjobs.service.protocol import ProgressView

MOST = 1000
"""Jobs of which one reader may have something untaken."""


class Said(NamedTuple):
    """What one job said since the last time."""

    id: str
    progress: ProgressView | None
    log: int | None
    """Where its log ends now: the offset of what will come next."""


class Subscription:
    """What is said from the moment on at which it began; for one reader."""

    def __init__(self, bell: asyncio.Event | None = None) -> None:
        self._said: dict[str, Said] = {}
        self._bell = bell or asyncio.Event()
        self.missed: int = 0
        """Words of jobs that were dropped because too many had not been taken; whoever reads sets it back."""

    def put(self, said: Said) -> None:
        """Called by `News`."""
        before = self._said.get(said.id)
        if before is None and len(self._said) >= MOST:
            self.missed += 1
        elif before is None:
            self._said[said.id] = said
        else:
            log = before.log if said.log is None else said.log
            self._said[said.id] = Said(said.id, said.progress or before.progress, log)
        self._bell.set()

    def take(self) -> list[Said]:
        """What has come, in the order in which the jobs first spoke; does not wait."""
        said = list(self._said.values())
        self._said.clear()
        self._bell.clear()
        return said

    async def wait(self) -> None:
        """Until there is something to take."""
        await self._bell.wait()

    def ring(self) -> None:
        """Wake the reader, without news."""
        self._bell.set()


class News:
    """Who wants to hear of which job. On the loop."""

    def __init__(self) -> None:
        self._of_job: dict[str, set[Subscription]] = {}
        self._of_all: set[Subscription] = set()

    @contextmanager
    def subscribe(self, job: str | None, bell: asyncio.Event | None = None) -> Iterator[Subscription]:
        """What the `job` says from now on, or all jobs; `bell` is one that rings for the reader's other news too."""
        subscription = Subscription(bell)
        some = self._of_all if job is None else self._of_job.setdefault(job, set())
        some.add(subscription)
        try:
            yield subscription
        finally:
            some.discard(subscription)
            if job is not None and not some:
                self._of_job.pop(job, None)

    def progressed(self, job: str, progress: ProgressView) -> None:
        """A job said how far it is."""
        self._put(Said(job, progress, None))

    def logged(self, job: str, end: int) -> None:
        """A job's log ends there now."""
        self._put(Said(job, None, end))

    def _put(self, said: Said) -> None:
        for subscription in (*self._of_all, *self._of_job.get(said.id, ())):
            subscription.put(said)
