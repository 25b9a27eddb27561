"""Handlers: submit, list, one job, its outcome, cancel and replay."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated

import msgspec
from msgspec import Meta

from asyncjobs.service.errors import BadRequest
from asyncjobs.service.http import views
from asyncjobs.service.http.intake import decode_jobs, new_job
from asyncjobs.service.http.message import Answer
from asyncjobs.service.http.route import Call, Desk
from asyncjobs.service.protocol import CancelRequest, CancelView, JobsAnswer, ListAnswer
from asyncjobs.service.records import NewJob, Query
from asyncjobs.state import JobState

Seq = Annotated[int, Meta(ge=1, le=2**63 - 1)]
IdStart = Annotated[str, Meta(pattern="^[0-9a-hjkmnp-tv-z]{8,26}$")]
Text = Annotated[str, Meta(min_length=1, max_length=500)]

_MOST_AT_ONCE = 100_000
_IN_ONE_TURN = 250


class ListQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which jobs; all that are given have to hold."""

    state: list[str] = []
    id: IdStart | None = None
    name: Text | None = None
    function: Text | None = None
    lane: Text | None = None
    tag: Text | None = None
    schedule: Text | None = None
    before: Seq | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100


async def submit(desk: Desk, call: Call) -> Answer:
    """Submit one job, or several in one transaction: all or none. They are on disk when this answers."""
    requests = decode_jobs(call.body)
    if not requests or len(requests) > _MOST_AT_ONCE:
        raise BadRequest(f"jobs: 1 to {_MOST_AT_ONCE}")
    now, key = time.time(), desk.service.key
    jobs: list[NewJob] = []
    for start in range(0, len(requests), _IN_ONE_TURN):
        if start:  # others are not kept waiting while a large batch is read
            await asyncio.sleep(0)
        jobs += [new_job(request, key, now) for request in requests[start : start + _IN_ONE_TURN]]
    accepted = await desk.engine.submit(jobs)
    return Answer(201, views.encode(JobsAnswer([views.accepted(answer) for answer in accepted])))


async def list_jobs(desk: Desk, call: Call) -> Answer:
    """Jobs, newest first; `next` is what to pass as `before` for the next page."""
    asked: ListQuery = call.query
    rows = await desk.store.rows(
        Query(
            states=tuple(_state(name) for name in asked.state),
            id=asked.id,
            name=asked.name,
            function=asked.function,
            lane=asked.lane,
            tag=asked.tag,
            schedule=asked.schedule,
            before=asked.before,
            limit=asked.limit,
        )
    )
    following = rows[-1].seq if len(rows) == asked.limit else None
    progress_of = desk.engine.progress_of
    return Answer(200, views.encode(ListAnswer([views.job(row, progress_of(row.id)) for row in rows], following)))


def _state(name: str) -> JobState:
    try:
        return JobState[name.upper()]
    except KeyError:
        raise BadRequest(f"state: one of {', '.join(views.STATES)}") from None


async def show_job(desk: Desk, call: Call) -> Answer:
    """One job."""
    row = await desk.store.row(call.parameters["id"])
    return Answer(200, views.encode(views.job(row, desk.engine.progress_of(row.id))))


async def cancel_job(desk: Desk, call: Call) -> Answer:
    """Cancel a job: one that waits is cancelled, one that runs is asked to stop, one that has ended stays so."""
    asked: CancelRequest = call.body
    answer, state = await desk.engine.cancel(call.parameters["id"], asked.reason, asked.grace)
    return Answer(200, views.encode(CancelView(answer, views.STATES[state])))


async def replay_job(desk: Desk, call: Call) -> Answer:
    """Run a job that did not succeed once more, as a new job."""
    return Answer(201, views.encode(views.accepted(await desk.store.replay(call.parameters["id"]))))
