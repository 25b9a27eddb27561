"""Handlers: cancel or replay many jobs in one request. Each is for itself; together they share few transactions."""

from __future__ import annotations

import asyncio

from asyncjobs.service.errors import BadRequest, NoSuchJob, NotNow, ServiceFull, StorageFull
from asyncjobs.service.http import views
from asyncjobs.service.http.message import Answer
from asyncjobs.service.http.route import Call, Desk
from asyncjobs.service.protocol import (
    CancelledView,
    CancelsAnswer,
    CancelsRequest,
    ReplayedView,
    ReplaysAnswer,
    ReplaysRequest,
)


async def cancel_jobs(desk: Desk, call: Call) -> Answer:
    """Cancel several jobs, each as the request for one does; says of each what became of it."""
    asked: CancelsRequest = call.body
    # What is asked in one turn of the loop shares a transaction.
    found = await asyncio.gather(*[_cancelled(desk, job, asked) for job in asked.ids])
    return Answer(200, views.encode(CancelsAnswer(found)))


async def _cancelled(desk: Desk, job: str, asked: CancelsRequest) -> CancelledView:
    try:
        answer, state = await desk.engine.cancel(job, asked.reason, asked.grace)
    except NoSuchJob:
        return CancelledView(job, "unknown")
    return CancelledView(job, answer, views.STATES[state])


async def replay_jobs(desk: Desk, call: Call) -> Answer:
    """Run several jobs that did not succeed once more, as new jobs; says of each its new id, or why there is none."""
    asked: ReplaysRequest = call.body
    found = await asyncio.gather(*[_replayed(desk, job, asked) for job in asked.ids])
    return Answer(200, views.encode(ReplaysAnswer(found)))


async def _replayed(desk: Desk, job: str, asked: ReplaysRequest) -> ReplayedView:
    try:
        if asked.dry_run:
            await desk.store.check_replay(job, again=asked.again)
            return ReplayedView(job)
        accepted = await desk.store.replay(job, again=asked.again)
    except (NoSuchJob, NotNow, BadRequest, ServiceFull, StorageFull) as error:
        return ReplayedView(job, error=type(error).__name__, message=str(error))
    return ReplayedView(job, accepted.id)
