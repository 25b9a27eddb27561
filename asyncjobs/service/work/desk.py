"""What running jobs may ask of the service: to keep a checkpoint. Lives on the loop, asked by number."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from asyncjobs.remote.hosted import Hosted
from asyncjobs.service.errors import BadRequest, NotNow
from asyncjobs.service.work.performing import CHECKPOINT
from asyncjobs.token import travelling


class Keeper(Protocol):
    """The store, as far as it is asked here."""

    async def checkpoint_job(self, job: str, attempt: int, epoch: int, data: bytes, /) -> bool: ...


class Desk(Hosted):
    """Answers the jobs of one service."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self.tasks: asyncio.TaskGroup
        """Set by the engine, before any worker starts."""

    @property
    def number(self) -> int:
        """What workers name it by."""
        with travelling():
            self.__reduce__()
        return self._number

    def face(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """None: workers know the number from the start."""
        return int, ()

    def errand(self, verb: str, argument: Any) -> Asked:
        """Keep a checkpoint."""
        if verb != CHECKPOINT:
            raise BadRequest(f"a job asked for {verb!r}, which the service does not know")
        job, attempt, epoch, data = argument
        return Asked(self.tasks.create_task(self._keeper.checkpoint_job(job, attempt, epoch, data)))


class Asked:
    """One checkpoint on its way to the disk."""

    holds = False

    def __init__(self, future: asyncio.Task[bool]) -> None:
        self.future = future

    def outcome(self) -> None:
        """It is on disk."""
        if not self.future.result():
            raise NotNow("this attempt has been overtaken: another one of the same job was started")

    def withdraw(self) -> None:
        """The worker is gone: what it asked for is written all the same."""
