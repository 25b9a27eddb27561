"""Jobs that start with their submit: the same as one that claims after it, and a row that is written once."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import pytest
from stored import Clock, check_sound, claimed, ended, job, opened, submitted

from asyncjobs.service.records import Claim, Event, Limit, NewJob, Query, Row
from asyncjobs.service.store.queries import text_of
from asyncjobs.service.store.settings import StoreSettings
from asyncjobs.service.store.store import Store
from asyncjobs.service.store.submission import Submission
from asyncjobs.service.store.transaction import Numbers, Transaction
from asyncjobs.state import JobState

NOW = 1_000_000.0
LIMITED = Limit("a limit", running=1)
OURS = "service_jobs:job"

Before = Callable[[Store], Awaitable[object]]
Seen = tuple[list[Claim], list[Row], list[Event]]


async def nothing(store: Store) -> None:
    """An idle service."""


async def one_waits(store: Store) -> None:
    await submitted(store)


async def one_is_due_later(store: Store) -> None:
    await submitted(store, due=NOW + 5)


async def one_has_come_due(store: Store) -> None:
    await submitted(store, due=NOW + 0.5)


async def a_parent_has_succeeded(store: Store) -> None:
    await store.submit([PARENT])
    await store.finish([ended(claim) for claim in await claimed(store)])


async def one_lay_aside_for_a_pause(store: Store) -> None:
    await paused(f"function:{OURS}")(store)
    await submitted(store)
    await claimed(store)
    await store.resume(f"function:{OURS}")


def paused(scope: str) -> Before:
    async def pause(store: Store) -> None:
        await store.pause(scope)

    return pause


PARENT = job()
SHAPES: dict[str, tuple[Before, list[NewJob], Mapping[str, int]]] = {
    "one": (nothing, [job()], {"process": 1}),
    "more room than jobs": (nothing, [job(), job()], {"process": 9}),
    "more jobs than room": (nothing, [job(), job(), job()], {"process": 2}),
    "at most once": (nothing, [job(at_most_once=True)], {"process": 1}),
    "key and tags": (nothing, [job(key="a key", tags=("one", "two"))], {"process": 1}),
    "a lane without room": (nothing, [job(lane="gpu"), job()], {"process": 1}),
    "priorities": (nothing, [job(), job(priority=9), job(priority=5)], {"process": 2}),
    "one waits": (one_waits, [job()], {"process": 1}),
    "one waits, room for both": (one_waits, [job()], {"process": 2}),
    "one is due later": (one_is_due_later, [job()], {"process": 1}),
    "one has come due": (one_has_come_due, [job()], {"process": 1}),
    "one lay aside": (one_lay_aside_for_a_pause, [job()], {"process": 1}),
    "all paused": (paused("all"), [job()], {"process": 1}),
    "its lane is paused": (paused("lane:process"), [job()], {"process": 1}),
    "its function is paused": (paused(f"function:{OURS}"), [job()], {"process": 1}),
    "another function is paused": (paused("function:other:one"), [job()], {"process": 1}),
    "a limit": (nothing, [job(limit=LIMITED), job(limit=LIMITED)], {"process": 2}),
    "due later": (nothing, [job(due=NOW + 9)], {"process": 1}),
    "due before": (nothing, [job(due=NOW - 9)], {"process": 1}),
    "after another": (nothing, [PARENT, job(after=(PARENT.id,))], {"process": 2}),
    "after one that succeeded": (a_parent_has_succeeded, [job(after=(PARENT.id,))], {"process": 2}),
    "a deadline": (nothing, [job(deadline=NOW + 9)], {"process": 1}),
    "a deadline that has passed": (nothing, [job(deadline=NOW - 9)], {"process": 1}),
    "known already": (a_parent_has_succeeded, [PARENT, job()], {"process": 2}),
}


async def seen(path: Path, before: Before, start: Callable[[Store], Awaitable[list[Claim]]]) -> Seen:
    """What `start` claims in a store in which `before` has happened, and what the store has then."""
    clock = Clock(NOW)
    async with opened(path, clock=clock) as store:
        await before(store)
        clock.now += 1
        found = await start(store), await store.rows(Query()), await store.events(None, 0, 100)
    check_sound(path)
    return found


def without_ids(found: Seen, jobs: list[NewJob]) -> list[object]:
    """The same with the ids of jobs that others submitted left out: each store has its own."""
    ours = {one.id for one in (*jobs, PARENT)}
    claims, rows, events = found
    return [
        [claim if claim.id in ours else claim._replace(id="") for claim in claims],
        [row if row.id in ours else row._replace(id="") for row in rows],
        [event if event.id in ours else event._replace(id="") for event in events],
    ]


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_submit_that_starts_jobs_leaves_what_a_claim_after_it_would(tmp_path: Path, shape: str) -> None:
    before, jobs, wants = SHAPES[shape]

    async def at_once(store: Store) -> list[Claim]:
        return (await store.submit_and_claim(jobs, wants))[1]

    async def one_after_the_other(store: Store) -> list[Claim]:
        await store.submit(jobs)
        return await store.claim(wants)

    found = await seen(tmp_path / "one.db", before, at_once)
    expected = await seen(tmp_path / "two.db", before, one_after_the_other)
    assert without_ids(found, jobs) == without_ids(expected, jobs)


@pytest.mark.parametrize("room", [0, 1, 2])
def test_what_starts_with_its_submit_is_written_once(room: int) -> None:
    seen: list[str] = []
    database = sqlite3.connect(":memory:", isolation_level=None)
    database.executescript(text_of("schema.sql"))
    database.execute("BEGIN IMMEDIATE")
    tx = Transaction(database, StoreSettings(Path()), Numbers(0, 0), epoch=1, now=NOW)
    database.set_trace_callback(seen.append)
    _, claims = Submission([job(), job()], {"process": room} if room else {})(tx)
    database.set_trace_callback(None)
    assert len(claims) == room
    assert not [statement for statement in seen if "UPDATE jobs" in statement]
    states = [state for (state,) in database.execute("SELECT state FROM jobs ORDER BY seq")]
    assert states == [JobState.RUNNING] * room + [JobState.QUEUED] * (2 - room)
    database.close()
