"""Ask the store for jobs when there is room for them, and only when something may be found: `Claims`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

from asyncjobs.errors import WorkerStartError
from asyncjobs.service.errors import StorageFull
from asyncjobs.service.records import Claim, NewJob
from asyncjobs.service.work.window import Window
from asyncjobs.service.work.writing import DISK_WAIT

logger: logging.Logger = logging.getLogger("asyncjobs.service")

LONGEST_TIMER = 30.0
"""Seconds: the loop's timers stand still while the machine sleeps, what is due does not."""
SHORTEST_TIMER = 0.001
_DISK = ""
"""Among troubles, whose other kinds are the names of lanes."""


class Queue(Protocol):
    """The store, as far as it is asked here."""

    async def claim(self, wants: Mapping[str, int]) -> list[Claim]: ...
    def waiting(self, lane: str) -> bool: ...
    def next_due(self) -> float | None: ...


class Claims:
    """How many jobs of each lane are claimed, and when there are more to be had.

    Args:
        clock: the store's.
        workers: how many a lane has.
        begin: called with what was claimed.
    """

    def __init__(
        self,
        store: Queue,
        clock: Callable[[], float],
        lanes: Sequence[str],
        workers: Callable[[str], int],
        begin: Callable[[Sequence[Claim]], None],
    ) -> None:
        self._store = store
        self._clock = clock
        self._workers = workers
        self._begin = begin
        self._loop = asyncio.get_running_loop()
        self._bell = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._awaited: float | None = None
        """What came due next when the timer was set."""
        self._troubles: dict[str, str] = {}
        """Of what kind, and what is to be said of it."""
        self.windows: dict[str, Window] = {lane: Window() for lane in lanes}
        self.is_over: bool = False
        """Nothing more is to be claimed."""

    def wake(self) -> None:
        """Something may have become claimable, or comes due at another time: look, if the store agrees."""
        if self._is_waiting() or self._store.next_due() != self._awaited:
            self._bell.set()

    @property
    def count(self) -> int:
        """How many are claimed, or are being claimed."""
        return sum(window.claimed for window in self.windows.values())

    def took(self, claims: Sequence[Claim]) -> None:
        """These are claimed now."""
        for claim in claims:
            self.windows[claim.lane].claimed += 1

    def left(self, lane: str) -> None:
        """One is claimed no more."""
        self.windows[lane].claimed -= 1
        if self._is_waiting() or self._is_due():
            self._bell.set()

    def _is_waiting(self) -> bool:
        return any(map(self._store.waiting, self.windows))

    def _is_due(self) -> bool:
        due = self._store.next_due()
        return due is not None and due <= self._clock()

    def hold(self, lane: str, error: object) -> None:
        """No worker of that lane could be started: claim nothing for it for a while."""
        if self.windows[lane].hold(self._loop.time()):
            why = error.logged if isinstance(error, WorkerStartError) and error.logged else error
            self._in_trouble(lane, f"no worker could be started, jobs of lane {lane!r} wait: {why}")

    def ran(self, lane: str, seconds: float) -> None:
        """A worker ran a job of the lane."""
        self.windows[lane].measured(seconds)
        self._out_of_trouble(lane)

    def trouble(self, busy: Container[str]) -> str:
        """Why nothing is started, although jobs wait; empty: nothing is wrong, as far as is known.

        Args:
            busy: lanes where some worker runs a job, so that there are workers.
        """
        return "; ".join(text for kind, text in self._troubles.items() if kind not in busy)

    def _in_trouble(self, kind: str, what: str) -> None:
        if kind not in self._troubles:  # said once, however often it is tried
            logger.error("%s", what)
        self._troubles[kind] = what

    def _out_of_trouble(self, kind: str) -> None:
        if self._troubles.pop(kind, None) is not None:
            logger.info("jobs are started again")

    def wants(self, jobs: Sequence[NewJob]) -> dict[str, int]:
        """For how many of these there is room now, by lane."""
        wants = self._room({job.lane for job in jobs})
        return {lane: min(number, len(jobs)) for lane, number in wants.items()}

    def _room(self, lanes: Iterable[str]) -> dict[str, int]:
        if self.is_over:
            return {}
        now = self._loop.time()
        room = {lane: self.windows[lane].room(self._workers(lane), now) for lane in lanes}
        return {lane: number for lane, number in room.items() if number}

    @contextmanager
    def reserved(self, wants: Mapping[str, int]) -> Iterator[None]:
        """Room that a submit counts on; what it leaves is for others that came meanwhile."""
        self._count(wants, 1)
        try:
            yield
        finally:
            self._count(wants, -1)
            if self._is_waiting():
                self._bell.set()

    def _count(self, wants: Mapping[str, int], sign: int) -> None:
        for lane, number in wants.items():
            self.windows[lane].claimed += sign * number

    async def run(self) -> None:
        """Claim as long as there is room and something to be found, until cancelled.

        Raises:
            StorageBroken: the disk has failed.
        """
        try:
            while True:
                await self._bell.wait()
                self._bell.clear()
                self._set_timer(at_least=await self._claim())
        finally:
            self._stop_timer()

    async def _claim(self) -> float:
        # Seconds for which there is no use in trying again.
        is_due = self._is_due()
        wants = self._room(self.windows)
        wants = {lane: number for lane, number in wants.items() if is_due or self._store.waiting(lane)}
        if self.is_over or not (wants or is_due):
            return SHORTEST_TIMER
        try:
            # What is due is dealt with where nothing is wanted, too: it may be a deadline.
            self._count(wants, 1)
            try:
                claims = await self._store.claim(wants)
            finally:
                self._count(wants, -1)
        except StorageFull as error:
            self._in_trouble(_DISK, f"nothing new is started, jobs wait: {error}")
            self._loop.call_later(DISK_WAIT, self._bell.set)
            return DISK_WAIT
        self._out_of_trouble(_DISK)
        if claims:
            self.took(claims)
            self._begin(claims)
            self._bell.set()
        return SHORTEST_TIMER

    def _set_timer(self, at_least: float) -> None:
        self._stop_timer()
        if self.is_over:
            return
        now, due = self._loop.time(), self._store.next_due()
        self._awaited = due
        waits = [] if due is None else [due - self._clock()]
        waits += [window.held_until - now for window in self.windows.values() if window.held_until > now]
        if waits:
            self._timer = self._loop.call_later(min(max(min(waits), at_least), LONGEST_TIMER), self._bell.set)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
