"""Remove jobs whose time is over, and the logs and figures of those that the store has no more."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from asyncjobs.service.errors import NoSuchJob, StorageFull
from asyncjobs.service.records import ID, Row
from asyncjobs.service.work import joblog

logger: logging.Logger = logging.getLogger("asyncjobs.service")

INTERVAL = 600.0


class Pruned(Protocol):
    """The store, as far as it is asked here."""

    async def prune(self) -> int: ...
    async def row(self, job: str, /) -> Row: ...


async def tidy_on(store: Pruned, folder: Path) -> None:
    """Prune the store now and every ten minutes, and sweep after it, until cancelled.

    Raises:
        StorageBroken: the disk has failed.
    """
    while True:
        try:
            if await prune(store):
                await sweep(store, folder / "logs" / "jobs", folder / "figures")
        except StorageFull:
            logger.warning("the disk is full: nothing is pruned for now")
        await asyncio.sleep(INTERVAL)


async def prune(store: Pruned) -> int:
    """How many jobs went, whose time was over."""
    pruned = 0
    while number := await store.prune():
        pruned += number
    return pruned


async def sweep(store: Pruned, logs: Path, figures: Path) -> int:
    """Of how many jobs something was removed. One question to the store for each that has left something."""
    gone = [job for job in await asyncio.to_thread(_found, logs, figures) if not await _has(store, job)]
    await asyncio.to_thread(_remove, gone, logs, figures)
    return len(gone)


async def _has(store: Pruned, job: str) -> bool:
    try:
        await store.row(job)
    except NoSuchJob:
        return False
    return True


def _found(logs: Path, figures: Path) -> list[str]:
    named = {path.name.partition(".")[0] for path in logs.glob("??/*.log*")} | {path.name for path in figures.glob("*")}
    return sorted(name for name in named if ID.fullmatch(name))


def _remove(jobs: Iterable[str], logs: Path, figures: Path) -> None:
    for job in jobs:
        joblog.remove(logs, job)
        shutil.rmtree(figures / job, ignore_errors=True)
