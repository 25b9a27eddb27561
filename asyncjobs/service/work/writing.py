"""Write ends of attempts down in groups: while one group is on its way to the disk, the next one gathers. `Writer`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from asyncjobs.failpoint import point
from asyncjobs.service.errors import StorageFull
from asyncjobs.service.records import Claim, Ending
from asyncjobs.state import JobState

logger: logging.Logger = logging.getLogger("asyncjobs.service")

DISK_WAIT = 1.0
"""Seconds until a full disk is tried again."""


class Ledger(Protocol):
    """The store, as far as it is asked here."""

    async def finish(self, ends: Sequence[Ending], patience: float = 0.0) -> list[JobState | None]: ...
    async def give_back(self, claims: Sequence[Claim]) -> None: ...


class Writer:
    """Endings on their way to the store.

    Args:
        patience: seconds that they may wait now, for a commit that somebody else needs.
        on_written: called when none are left.
    """

    def __init__(self, store: Ledger, patience: Callable[[], float], on_written: Callable[[], None]) -> None:
        self._store = store
        self._patience = patience
        self._on_written = on_written
        self._endings: list[Ending] = []
        self._back: list[Claim] = []
        self._bell = asyncio.Event()
        self.is_busy: bool = False
        """Something is not on disk yet."""

    def end(self, ended: Ending) -> None:
        """Write it down; its outcome is sealed."""
        self._endings.append(ended)
        self._ring()

    def give_back(self, claim: Claim) -> None:
        """It never started."""
        self._back.append(claim)
        self._ring()

    def _ring(self) -> None:
        self.is_busy = True
        self._bell.set()

    async def run(self) -> None:
        """Write what comes, until cancelled. What a full disk does not take is kept and tried again.

        Raises:
            StorageBroken: the disk has failed.
        """
        while True:
            await self._bell.wait()
            self._bell.clear()
            while self._endings or self._back:
                point("result.received")
                await self._write()
            self.is_busy = False
            self._on_written()

    async def _write(self) -> None:
        endings, self._endings = self._endings, []
        back, self._back = self._back, []
        try:
            if back:
                await self._store.give_back(back)
                back = []
            if endings:
                await self._store.finish(endings, self._patience())
                endings = []
        except StorageFull:
            logger.error("the disk is full: %d ends wait in memory", len(endings))
            await asyncio.sleep(DISK_WAIT)
        finally:
            self._endings[:0] = endings
            self._back[:0] = back
