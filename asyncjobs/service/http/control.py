"""Handlers: the service itself. Pauses, schedules, statistics, health, stopping, the documents."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import sys
import time
from importlib import import_module

from asyncjobs import __version__
from asyncjobs.service.errors import BadRequest, NoSuchJob
from asyncjobs.service.http import views
from asyncjobs.service.http.intake import new_job
from asyncjobs.service.http.message import Answer
from asyncjobs.service.http.route import PARAMETERS, Call, Desk
from asyncjobs.service.protocol import (
    PYTHON,
    VERSION,
    Health,
    ScheduleRequest,
    ScopeRequest,
    StatsView,
    StopRequest,
)
from asyncjobs.service.records import Schedule

_PAGE = os.sysconf("SC_PAGE_SIZE")


async def pause(desk: Desk, call: Call) -> Answer:
    """Start no further jobs of a lane, a function or a schedule, or none at all; what runs goes on."""
    asked: ScopeRequest = call.body
    await desk.engine.pause(asked.scope)
    return Answer(204)


async def resume(desk: Desk, call: Call) -> Answer:
    """End a pause."""
    asked: ScopeRequest = call.body
    await desk.engine.resume(asked.scope)
    return Answer(204)


async def list_schedules(desk: Desk, call: Call) -> Answer:
    """The jobs that come again and again."""
    return Answer(200, views.encode_all(views.schedule(one) for one in await desk.store.schedules()))


async def put_schedule(desk: Desk, call: Call) -> Answer:
    """Make a schedule, or put another one in the place of the one with its name."""
    asked: ScheduleRequest = call.body
    if asked.job.key is not None or asked.job.delay is not None or asked.job.at is not None:
        raise BadRequest("job: a schedule's jobs have no key, delay or at of their own")
    if asked.job.terms.deadline is not None:  # an instant: every job but the first would come too late for it
        raise BadRequest("job: a schedule's jobs have no deadline of their own; timeout bounds each attempt")
    if re.fullmatch(PARAMETERS["name"], asked.name) is None:
        raise BadRequest("name: letters, digits, '.', '_' and '-', at most 100")
    job = new_job(asked.job, desk.service.key, time.time())
    desk.engine.check(job)  # or each of its jobs would fail
    await desk.store.put_schedule(Schedule(asked.name, asked.cron, asked.zone, job, 0.0))
    for one in await desk.store.schedules():
        if one.name == asked.name:
            return Answer(200, views.encode(views.schedule(one)))
    raise NoSuchJob(f"the schedule {asked.name} was removed meanwhile")


async def drop_schedule(desk: Desk, call: Call) -> Answer:
    """Remove a schedule; the jobs that it has made stay."""
    name = call.parameters["name"]
    if not await desk.store.drop_schedule(name):
        raise NoSuchJob(f"there is no schedule {name}")
    return Answer(204)


async def stats(desk: Desk, call: Call) -> Answer:
    """How much there is, and how much of it runs."""
    found = await desk.store.stats()
    service = desk.service
    view = StatsView(
        version=__version__,
        pid=os.getpid(),
        started_at=service.started_at,
        epoch=service.epoch,
        states={state.name: count for state, count in found.states.items()},
        paused=tuple(found.paused),
        processes=desk.engine.size(),
        busy=desk.engine.busy(),
        db_bytes=found.db_bytes,
        disk_free=found.free,
        rss=rss(),
        trouble=desk.engine.trouble(),
    )
    return Answer(200, views.encode(view))


async def health(desk: Desk, call: Call) -> Answer:
    """Whether it answers, and whether it is about to stop."""
    status = "stopping" if desk.service.is_stopping() else "ok"
    return Answer(200, views.encode(Health(status, __version__, VERSION, os.getpid(), desk.engine.trouble(), PYTHON)))


async def stop(desk: Desk, call: Call) -> Answer:
    """Stop the service; jobs that run may go on for `drain` seconds, and start again with the next service."""
    asked: StopRequest = call.body
    desk.service.stop(asked.drain)
    return Answer(202, views.encode(Health("stopping", __version__, VERSION, os.getpid())))


async def show_metrics(desk: Desk, call: Call) -> Answer:
    """Figures for Prometheus."""
    # Most services are never scraped: the first time pays for the library, and not each start.
    metrics = await asyncio.to_thread(import_module, "asyncjobs.service.http.metrics")
    body, media = await metrics.scrape(desk, rss())
    return Answer(200, body, media)


async def document(desk: Desk, call: Call) -> Answer:
    """This document."""
    return Answer(200, desk.document())


def rss() -> int:
    """Bytes of memory that this process has in use."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * _PAGE
    except FileNotFoundError:  # not Linux: the most that it ever had
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
