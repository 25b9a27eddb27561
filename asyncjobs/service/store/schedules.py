"""Jobs that come again, by the calendar or every so many seconds.

Times that were missed, while the service was down or the schedule paused, run once. `next_time` is pure: a time that
the clocks skip in spring comes right after the gap, one that they show twice in autumn comes once.
"""

from __future__ import annotations

import hashlib
import math
from datetime import datetime
from zoneinfo import ZoneInfo

import msgspec
from cronsim import CronSim, CronSimError

from asyncjobs.service.errors import BadRequest
from asyncjobs.service.ids import new_id
from asyncjobs.service.records import NewJob, Schedule
from asyncjobs.service.store.submitting import submit
from asyncjobs.service.store.transaction import Transaction

EVERY = "every "
"""``every 30``: each 30 seconds, instead of a cron expression."""
BATCH = 100


def next_time(cron: str, zone: str, after: float) -> float:
    """The first instant later than `after`.

    Raises:
        BadRequest: it is no cron expression, it never comes, or there is no such zone.
    """
    if cron.startswith(EVERY):
        return after + _interval(cron)
    try:
        place = ZoneInfo(zone)
    except (KeyError, ValueError, OSError):
        raise BadRequest(f"zone={zone!r} is not allowed; allowed: names as 'Europe/Berlin'") from None
    try:
        return next(CronSim(cron, datetime.fromtimestamp(after, place))).timestamp()
    except CronSimError as error:
        raise BadRequest(f"cron={cron!r} is not allowed: {error}") from None
    except StopIteration:
        raise BadRequest(f"cron={cron!r} never comes") from None


def put(tx: Transaction, schedule: Schedule) -> None:
    """Have it from now on; one of that name is replaced. A `next_at` of 0 means its next time.

    Raises:
        BadRequest: see `next_time`; or its job has a key, a time or parents of its own.
    """
    job = schedule.job
    if job.key is not None or job.due is not None or job.after:
        raise BadRequest("a schedule's job may have no key, no time and no parents of its own")
    first = next_time(schedule.cron, schedule.zone, tx.now)
    next_at = schedule.next_at or first
    pattern = msgspec.msgpack.encode(job)
    tx.run("put_schedule", (schedule.name, schedule.cron, schedule.zone, next_at, pattern))


def all_of(tx: Transaction) -> list[Schedule]:
    """By name."""
    return [
        Schedule(name, cron, zone, msgspec.msgpack.decode(job, type=NewJob), next_at, bool(is_paused))
        for name, cron, zone, job, next_at, is_paused in tx.all("schedules")
    ]


def drop(tx: Transaction, name: str) -> bool:
    """Have it no more; its jobs stay. False: there was none."""
    tx.run("resume", (f"schedule:{name}",))
    return tx.run("drop_schedule", (name,)).rowcount > 0


def make_due(tx: Transaction) -> None:
    """Submit a job for each schedule whose time has come."""
    for name, cron, zone, pattern, _ in tx.all("due_schedules", (tx.now, BATCH)):
        job = made(tx, msgspec.msgpack.decode(pattern, type=NewJob), name)
        submit(tx, [job], is_bounded=False)
        tx.run("reschedule", (next_time(cron, zone, tx.now), name))


def made(tx: Transaction, pattern: NewJob, schedule: str) -> NewJob:
    """A job of its own for this time."""
    id = new_id()
    digest = hashlib.sha256(pattern.digest + id.encode()).digest()
    payload = tx.settings.reseal(pattern.id, id, pattern.payload)
    return pattern._replace(id=id, digest=digest, payload=payload, schedule=schedule)


def _interval(cron: str) -> float:
    try:
        seconds = float(cron.removeprefix(EVERY))
    except ValueError:
        seconds = math.nan
    if not 1.0 <= seconds <= 366 * 86_400.0:
        raise BadRequest(f"cron={cron!r} is not allowed; allowed: every SECONDS, from 1 to a year")
    return seconds
