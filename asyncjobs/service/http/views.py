"""The store's records as the structs that travel. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from asyncjobs.service.protocol import AcceptedAnswer, EventView, JobView, ProgressView, ScheduleView
from asyncjobs.service.records import Accepted, Event, Row, Schedule
from asyncjobs.state import JobState

STATES: tuple[str, ...] = tuple(state.name for state in JobState)

_encoder = msgspec.json.Encoder()


def encode(value: msgspec.Struct) -> bytes:
    """As JSON."""
    return _encoder.encode(value)


def encode_all(values: Iterable[msgspec.Struct]) -> bytes:
    """As a JSON array."""
    return _encoder.encode(list(values))


def accepted(answer: Accepted) -> AcceptedAnswer:
    return AcceptedAnswer(answer.id, STATES[answer.state], answer.is_new)


def job(row: Row, progress: ProgressView | None = None) -> JobView:
    return JobView(**{**row._asdict(), "state": STATES[row.state], "progress": progress})


def event(found: Event) -> EventView:
    return EventView(found.seq, found.id, found.kind, STATES[found.state], found.attempt, found.at, found.note)


def schedule(found: Schedule) -> ScheduleView:
    return ScheduleView(found.name, found.cron, found.zone, found.job.function, found.next_at, found.is_paused)
