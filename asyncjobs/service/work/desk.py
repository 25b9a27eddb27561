"""What running jobs may ask of the service: to keep a checkpoint, and to start. Lives on the loop, asked by number."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from asyncjobs.remote.hosted import Hosted
from asyncjobs.service.errors import BadRequest, NotNow, ServiceError, ServiceGone, StorageFull
from asyncjobs.service.work.performing import BEGIN, CHECKPOINT
from asyncjobs.service.work.writing import DISK_WAIT
from asyncjobs.token import travelling

STOPPING = "the service is stopping"
"""What a job hears that asks too late."""


class Keeper(Protocol):
    """The store, as far as it is asked here."""

    async def checkpoint_job(self, job: str, attempt: int, epoch: int, data: bytes, /) -> bool: ...
    async def begin_job(self, job: str, fence: int, /) -> bool: ...


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
        """Keep a checkpoint, or write down that a job starts."""
        work: dict[str, Callable[..., Awaitable[bool]]]
        work = {CHECKPOINT: self._keeper.checkpoint_job, BEGIN: self._begin}
        if verb not in work:
            raise BadRequest(f"a job asked for {verb!r}, which the service does not know")
        answer = _answer(work[verb], argument)
        try:
            return Asked(self.tasks.create_task(answer))
        except RuntimeError:  # the engine's group ends, as the disk has failed
            answer.close()
            raise ServiceGone(STOPPING) from None

    async def _begin(self, job: str, fence: int) -> bool:
        while True:
            try:
                return await self._keeper.begin_job(job, fence)
            except StorageFull:  # it is no fault of the job's: it starts as soon as there is room
                await asyncio.sleep(DISK_WAIT)


async def _answer(work: Callable[..., Awaitable[bool]], argument: tuple[Any, ...]) -> bool | ServiceError:
    # As a value: an error that a task raises would end all that the engine does. The work is called in here, for
    # the group may cancel this before its first step: a coroutine made outside would never be awaited then.
    try:
        return await work(*argument)
    except ServiceError as error:
        return error


class Asked:
    """One request on its way to the disk."""

    holds = False

    def __init__(self, future: asyncio.Task[bool | ServiceError]) -> None:
        self.future = future

    def outcome(self) -> None:
        """It is on disk."""
        if self.future.cancelled():  # with the engine's group
            raise ServiceGone(STOPPING)
        answer = self.future.result()
        if isinstance(answer, ServiceError):
            raise answer
        if not answer:
            raise NotNow("this attempt has been overtaken: another one of the same job was started")

    def withdraw(self) -> None:
        """The worker is gone: what it asked for is written all the same."""
