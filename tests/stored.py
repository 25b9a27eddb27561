"""Stores and jobs for tests: short ways to make them."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from asyncjobs.service.ids import new_id
from asyncjobs.service.records import Claim, Ending, NewJob
from asyncjobs.service.store.settings import StoreSettings
from asyncjobs.service.store.store import Store
from asyncjobs.state import JobState


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def opened(path: Path, **settings: Any) -> AsyncIterator[Store]:
    """A store in that file, closed at the end."""
    store = await Store.open(StoreSettings(path, **settings))
    try:
        yield store
    finally:
        await store.aclose()


def job(payload: bytes = b"call", **fields: Any) -> NewJob:
    """A job to submit; its digest says what its payload says."""
    fields.setdefault("id", new_id())
    fields.setdefault("name", "job")
    fields.setdefault("function", "service_jobs:job")
    return NewJob(payload=payload, digest=hashlib.sha256(payload).digest(), **fields)


def ended(claim: Claim, state: JobState = JobState.SUCCEEDED, outcome: bytes = b"value", **fields: Any) -> Ending:
    """How an attempt ended."""
    return Ending(claim.id, claim.attempt, claim.epoch, state, outcome, **fields)


async def submitted(store: Store, number: int = 1, **fields: Any) -> list[str]:
    """The ids of so many new jobs."""
    return [answer.id for answer in await store.submit([job(**fields) for _ in range(number)])]


async def claimed(store: Store, number: int = 1, lane: str = "process") -> list[Claim]:
    """So many attempts of the lane."""
    return await store.claim({lane: number})


async def path_of(store: Store, id: str) -> list[str]:
    """The kinds of a job's events."""
    return [event.kind for event in await store.events(id)]


def looked_at(path: Path, question: str) -> list[tuple[Any, ...]]:
    """What a closed database answers."""
    connection = sqlite3.connect(path)
    try:
        return connection.execute(question).fetchall()
    finally:
        connection.close()


def check_sound(path: Path) -> None:
    """What always holds in a closed database, as far as one can see without the story of its clients."""
    assert looked_at(path, "PRAGMA integrity_check") == [("ok",)]
    assert looked_at(path, "PRAGMA foreign_key_check") == []
    wrong = "SELECT * FROM tallies AS t WHERE jobs <> (SELECT count(*) FROM jobs WHERE state = t.state)"
    assert looked_at(path, wrong) == []
    for field in ("name", "function"):
        counted = f"SELECT {field}, count(*) FROM jobs GROUP BY {field} ORDER BY {field}"
        told = f"SELECT value, jobs FROM spans WHERE field = '{field}' ORDER BY value"
        assert looked_at(path, told) == looked_at(path, counted)
        outside = "seq NOT BETWEEN (SELECT first FROM spans WHERE {}) AND (SELECT last FROM spans WHERE {})"
        same = f"field = '{field}' AND value = jobs.{field}"
        assert looked_at(path, f"SELECT seq FROM jobs WHERE {outside.format(same, same)}") == []
    last = "max(coalesce((SELECT max(seq) FROM events), 0), (SELECT value FROM counters WHERE name = 'last_event'))"
    pruned = "(SELECT value FROM counters WHERE name = 'pruned_events')"
    assert looked_at(path, f"SELECT {last} - {pruned} - (SELECT count(*) FROM events)") == [(0,)]
