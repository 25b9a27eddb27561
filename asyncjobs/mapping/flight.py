"""The groups of one map that have been sent off: which is to be handed out next, and waiting for it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from asyncjobs.context import running
from asyncjobs.futures import resolve
from asyncjobs.job import Job
from asyncjobs.lanes.base import Call
from asyncjobs.mapping.group import Group


class Flight:
    """Groups in the order in which they were sent off; handed out in that order, or as they come."""

    def __init__(self, ordered: bool) -> None:
        self._ordered = ordered
        self._groups: deque[Group] = deque()
        self._ready: deque[Group] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self.items: int = 0
        """How many items were taken, and not handed out."""

    def __len__(self) -> int:
        return len(self._groups)

    def add(self, group: Group) -> None:
        """`group` has been sent off."""
        self._groups.append(group)
        if group.job is None:
            self._landed(group)
        else:
            group.job._listen(lambda _: self._landed(group))

    @contextmanager
    def once_more(self, group: Group) -> Iterator[None]:
        """Within it, `group` is under way again, before all others."""
        self._groups.appendleft(group)
        try:
            yield
        finally:
            self._groups.remove(group)

    def jobs(self) -> list[Job[Any]]:
        """Of all groups that nobody has come for."""
        return [group.job for group in (*self._groups, *self._ready) if group.job is not None]

    def _landed(self, group: Group) -> None:
        if not self._ordered:
            self._ready.append(group)
        self.wake()

    def wake(self) -> None:
        """Have whoever waits look again."""
        if self._waiter is not None:
            resolve(self._waiter)

    async def next(self, is_last: Callable[[], bool]) -> Group | None:
        """The next group to hand out; None if there is none under way, and `is_last()` says that none will come."""
        while (group := self._ripe()) is None:
            if not self._groups and is_last():
                return None
            await self._until_changed()
        self._groups.remove(group)
        self.items -= len(group.items)
        return group

    def _ripe(self) -> Group | None:
        """The oldest, or the first to have landed."""
        if not self._ordered:
            return self._ready.popleft() if self._ready else None
        oldest = self._groups[0] if self._groups else None
        return oldest if oldest is not None and (oldest.job is None or oldest.job.done()) else None

    async def _until_changed(self) -> None:
        waiter = self._waiter = asyncio.get_running_loop().create_future()
        oldest = self._groups[0].job if self._groups else None
        call = running.get()
        # Inside a job: waiting for the oldest may be a deadlock, and is then refused.
        is_nested = isinstance(call, Call) and oldest is not None
        forget = oldest._desk.waits(call, oldest, waiter) if is_nested else None  # type: ignore
        try:
            await waiter
        finally:
            if forget is not None:
                forget()
