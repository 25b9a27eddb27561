"""Pass on what the store tells after each commit: to streams of events, to the stream of ends, to who waits for one.

Nobody is waited for. A stream whose reader is slow loses its place here and reads the log from where it was
(`Subscription.missed`); one of ends is sent away, since what it missed can be asked for.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import msgspec

from asyncjobs.service.http.desk import StoreDesk
from asyncjobs.service.http.limits import Limits
from asyncjobs.service.http.views import STATES
from asyncjobs.service.protocol import Ended
from asyncjobs.service.records import Event, StoredEnd

EVENTS_KEPT = 1000
"""For one stream; beyond that it reads the log."""
LARGE = 256 * 1024
"""Outcomes that are larger do not come along."""

_encoder = msgspec.json.Encoder()


class Subscription:
    """The events of one job, or of all, from the moment on at which it began."""

    __slots__ = ("_events", "bell", "is_over", "missed")

    def __init__(self) -> None:
        self._events: deque[Event] = deque()
        self.bell: asyncio.Event = asyncio.Event()
        """Rings when there is something to take."""
        self.missed: bool = False
        """Events came that are not here: read the log. Whoever does sets it back, before."""
        self.is_over: bool = False
        """The service stops."""

    def put(self, event: Event) -> None:
        if len(self._events) < EVENTS_KEPT:
            self._events.append(event)
        else:
            self._events.clear()
            self.missed = True
        self.bell.set()

    def end(self) -> None:
        self.is_over = True
        self.bell.set()

    def take(self) -> list[Event]:
        """What has come since the last time; does not wait."""
        events = list(self._events)
        self._events.clear()
        self.bell.clear()
        return events

    async def wait(self, seconds: float) -> bool:
        """Until there is something to take; False: nothing came for so long."""
        return await _rings(self.bell, seconds)


class EndedReader:
    """Lines about jobs that end, for one caller."""

    __slots__ = ("_bell", "_limit", "_lines", "_nbytes", "is_over")

    def __init__(self, limit: int) -> None:
        self._lines: list[bytes] = []
        self._nbytes = 0
        self._limit = limit
        self._bell = asyncio.Event()
        self.is_over: bool = False

    def put(self, lines: bytes) -> None:
        self._lines.append(lines)
        self._nbytes += len(lines)
        if self._nbytes > self._limit:  # it does not read; what it misses it can ask for
            self._lines.clear()
            self.is_over = True
        self._bell.set()

    def end(self) -> None:
        self.is_over = True
        self._bell.set()

    def take(self) -> bytes:
        lines = b"".join(self._lines)
        self._lines.clear()
        self._nbytes = 0
        self._bell.clear()
        return lines

    async def wait(self, seconds: float) -> bool:
        """Until there is something to take; False: nothing came for so long."""
        return await _rings(self._bell, seconds)


class Feeds:
    """See the module. On the loop; the store calls it after each commit."""

    def __init__(self, store: StoreDesk, limits: Limits) -> None:
        self._store = store
        self._limits = limits
        self._of_job: dict[str, set[Subscription]] = {}
        self._of_all: set[Subscription] = set()
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}
        self._readers: set[EndedReader] = set()
        self._is_closed = False

    def start(self) -> None:
        self._store.listen(self._heard)
        self._store.listen_to_ends(self._have_ended)

    def close(self) -> None:
        """End all streams, and let go who waits."""
        self._is_closed = True
        for subscription in (*self._of_all, *(one for some in self._of_job.values() for one in some)):
            subscription.end()
        for reader in self._readers:
            reader.end()
        for future in {future for futures in self._waiting.values() for future in futures}:
            _resolve(future)

    def _heard(self, events: Sequence[Event]) -> None:
        if not (self._of_all or self._of_job or self._waiting):
            return
        for event in events:
            for subscription in self._of_all:
                subscription.put(event)
            for subscription in self._of_job.get(event.id, ()):
                subscription.put(event)
            if event.state.is_final:
                for future in self._waiting.pop(event.id, ()):
                    _resolve(future)

    def _have_ended(self, ends: Sequence[StoredEnd]) -> None:
        # Encoded once, whoever reads it.
        if not self._readers:
            return
        lines = b"".join([_encoder.encode(ended(one)) + b"\n" for one in ends])
        for reader in self._readers:
            reader.put(lines)

    def is_watched(self) -> bool:
        """Whether somebody would hear of an end at once."""
        return bool(self._waiting or self._readers or self._of_all or self._of_job)

    @property
    def waiting(self) -> int:
        """Jobs for whose end somebody waits."""
        return len(self._waiting)

    @property
    def readers(self) -> int:
        """Streams that are open."""
        return len(self._readers) + len(self._of_all) + sum(map(len, self._of_job.values()))

    # --- events -------------------------------------------------------------------------

    @contextmanager
    def events(self, job: str | None) -> Iterator[Subscription]:
        """What happens to the `job` from now on, or to all."""
        subscription = Subscription()
        if self._is_closed:
            subscription.end()
        some = self._of_all if job is None else self._of_job.setdefault(job, set())
        some.add(subscription)
        try:
            yield subscription
        finally:
            some.discard(subscription)
            if job is not None and not some:
                self._of_job.pop(job, None)

    # --- ends ---------------------------------------------------------------------------

    @contextmanager
    def end_of_any(self, ids: Iterable[str]) -> Iterator[asyncio.Future[None]]:
        """Done when one of the jobs ends from now on, or the service does."""
        jobs = tuple(ids)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._is_closed:
            _resolve(future)
        for job in jobs:
            self._waiting.setdefault(job, set()).add(future)
        try:
            yield future
        finally:
            for job in jobs:
                some = self._waiting.get(job)
                if some is not None:
                    some.discard(future)
                    if not some:
                        del self._waiting[job]

    @contextmanager
    def ended(self) -> Iterator[EndedReader]:
        """Lines about all jobs that end from now on."""
        reader = EndedReader(self._limits.behind)
        if self._is_closed:
            reader.end()
        self._readers.add(reader)
        try:
            yield reader
        finally:
            self._readers.discard(reader)


def ended(found: StoredEnd) -> Ended:
    """What is told of a job that has ended."""
    job, state, note, attempt, outcome = found
    return Ended(job, STATES[state], note, attempt, None if outcome is not None and len(outcome) > LARGE else outcome)


async def _rings(bell: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await bell.wait()
    except TimeoutError:
        return False
    return True


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
