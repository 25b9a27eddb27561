"""Find the job that a user means by the beginning of its id, or by its end."""

from __future__ import annotations

import re

from asyncjobs.cli.asking import Desk
from asyncjobs.cli.plain import line
from asyncjobs.service.errors import BadRequest, NoSuchJob
from asyncjobs.service.ids import DIGITS
from asyncjobs.service.protocol import JobView, ListAnswer
from asyncjobs.service.records import ID

LOOK = 1000
"""How many of the newest jobs are looked through."""
ASKED_FROM = 8
"""The service finds beginnings of so many digits among all jobs."""
SHORTEST = 4
"""Fewer digits are more likely a slip than a choice."""


def find_id(desk: Desk, text: str) -> str:
    """A whole id, from a whole one, from ``last``, from the beginning of one, or from the end of a young one.

    Raises:
        NoSuchJob: no job is called so.
        BadRequest: it stands for several, or is too short.
    """
    given = text.lower()
    if ID.fullmatch(given):
        return given
    if given == "last":
        return _only(text, desk.get("/v1/jobs", ListAnswer, limit=1).jobs)
    if re.fullmatch(f"[{DIGITS}]{{{SHORTEST},25}}", given) is None:
        some = f"or the first or last {SHORTEST} and more of them"
        raise BadRequest(f"{line(text, 40)!r} is no id: 26 digits and lower-case letters, {some}")
    if len(given) >= ASKED_FROM and (found := desk.get("/v1/jobs", ListAnswer, id=given, limit=9).jobs):
        return _only(text, found)
    jobs = desk.get("/v1/jobs", ListAnswer, limit=LOOK).jobs
    begun = [job for job in jobs if job.id.startswith(given)]
    return _only(text, begun or [job for job in jobs if job.id.endswith(given)])


def _only(text: str, found: list[JobView]) -> str:
    if not found:
        if text.lower() == "last":
            raise NoSuchJob("there are no jobs")
        raise NoSuchJob(f"no job has an id that begins with {line(text, 40)}, and no recent one an id that ends so")
    if len(found) > 1:
        some = ", ".join(job.id for job in found[:4]) + (", ..." if len(found) > 4 else "")
        raise BadRequest(f"several jobs have ids that begin or end so: {line(text, 40)}: {some}")
    return found[0].id


def suggestions(desk: Desk, incomplete: str) -> list[tuple[str, str]]:
    """For the shell's completion: (id, what it is) of the newest jobs that begin so."""
    jobs = desk.get("/v1/jobs", ListAnswer, limit=50).jobs
    return [(job.id, _label(job)) for job in jobs if job.id.startswith(incomplete)]


def _label(job: JobView) -> str:
    return f"{job.state} {line(job.name, 40)}"
