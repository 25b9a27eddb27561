"""Handlers that go on: the events of a job or of all (server-sent events), the ends of all jobs (lines of JSON).

What has happened comes from the log, what happens from the feed. The feed is joined before the log is read, and
events carry numbers that only grow: so nothing is missed between the two, and nothing comes twice.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from typing import Annotated

import msgspec
from msgspec import Meta

from asyncjobs.service.errors import BadRequest
from asyncjobs.service.http import views
from asyncjobs.service.http.message import Answer, Stream
from asyncjobs.service.http.route import Call, Desk
from asyncjobs.service.protocol import LogMark, ProgressView
from asyncjobs.service.records import Event
from asyncjobs.service.work.news import Said

EVENT_STREAM = "text/event-stream"
LINES = "application/x-ndjson"
_PAGE = 500
_ALIVE = b": alive\n\n"

_encoder = msgspec.json.Encoder()


class EventsQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where to begin; the header Last-Event-ID says the same."""

    after: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None = None


async def job_events(desk: Desk, call: Call) -> Answer | Stream:
    """What has happened to a job and what happens to it, as server-sent events; ends with the job."""
    job = call.parameters["id"]
    row = await desk.store.row(job)
    return Stream(_events_of_job(desk, job, _begin(call) or 0, row.state.is_final), EVENT_STREAM)


async def all_events(desk: Desk, call: Call) -> Answer | Stream:
    """What happens to all jobs, as server-sent events: from now on, or from a number of the log on."""
    return Stream(_events_of_all(desk, _begin(call)), EVENT_STREAM)


def _begin(call: Call) -> int | None:
    last = call.request.headers.get(b"last-event-id")
    if last is None:
        asked: EventsQuery = call.query
        return asked.after
    if not last.isdigit() or len(last) > 18:
        raise BadRequest("Last-Event-ID: the number of an event")
    return int(last)


async def _events_of_job(desk: Desk, job: str, after: int, has_ended: bool) -> AsyncGenerator[bytes, None]:
    progress = desk.engine.progress_of(job)
    with desk.feeds.events(job) as feed, desk.engine.news.subscribe(job, feed.bell) as news:
        yield b": events of a job\n\n"
        feed.missed = True  # what came before
        while True:
            fresh = feed.take()
            if feed.missed:
                feed.missed = False
                async for page in _logged(desk, job, after):
                    after, has_ended = page[-1].seq, has_ended or _is_over(page)
                    yield _told(page)
                if progress is not None and not has_ended:  # where it is now comes behind how it got there
                    yield _progress(progress)
                    progress = None
                continue
            fresh = [event for event in fresh if event.seq > after]
            if said := news.take():
                yield _said(said)
            if fresh:
                after, has_ended = fresh[-1].seq, has_ended or _is_over(fresh)
                yield _told(fresh)
            elif has_ended or feed.is_over:
                return
            elif not said and not await feed.wait(desk.limits.heartbeat):
                yield _ALIVE


async def _events_of_all(desk: Desk, after: int | None) -> AsyncGenerator[bytes, None]:
    """From the number `after` of the log on; None: from now on."""
    with desk.feeds.events(None) as feed:
        yield b": events of all jobs\n\n"
        feed.missed = after is not None
        after = after or 0
        while True:
            fresh = [event for event in feed.take() if event.seq > after]
            if feed.missed:
                feed.missed = False
                async for page in _logged(desk, None, after):
                    after = page[-1].seq
                    yield _told(page)
            elif fresh:
                after = fresh[-1].seq
                yield _told(fresh)
            elif feed.is_over:
                return
            elif not await feed.wait(desk.limits.heartbeat):
                yield _ALIVE


async def _logged(desk: Desk, job: str | None, last: int) -> AsyncGenerator[list[Event], None]:
    while page := await desk.store.events(job, last, _PAGE):
        yield page
        last = page[-1].seq


def _is_over(events: Iterable[Event]) -> bool:
    return any(event.state.is_final for event in events)


def _told(events: list[Event]) -> bytes:
    return b"".join(map(_line, events))


def _line(event: Event) -> bytes:
    data = _encoder.encode(views.event(event))
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (event.seq, event.kind.encode(), data)


def _said(said: Iterable[Said]) -> bytes:
    parts = [_progress(one.progress) for one in said if one.progress is not None]
    parts += [b"event: log\ndata: %b\n\n" % _encoder.encode(LogMark(one.log)) for one in said if one.log is not None]
    return b"".join(parts)


def _progress(progress: ProgressView) -> bytes:
    return b"event: progress\ndata: %b\n\n" % _encoder.encode(progress)


async def ended(desk: Desk, call: Call) -> Answer | Stream:
    """All jobs that end from now on, a line of JSON each. The first line is ``{}``: from here on none is missed."""
    return Stream(_ended(desk), LINES)


async def _ended(desk: Desk) -> AsyncGenerator[bytes, None]:
    with desk.feeds.ended() as reader:
        yield b"{}\n"
        while True:
            lines = reader.take()
            if lines:
                yield lines
            elif reader.is_over:
                return
            elif not await reader.wait(desk.limits.heartbeat):
                yield b"\n"
