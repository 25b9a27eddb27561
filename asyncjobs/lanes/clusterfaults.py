"""What to say of a cluster that cannot be used, a worker that is gone, versions that differ. No credentials in it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable

from asyncjobs.errors import WorkerLost, WorkerStartError
from asyncjobs.lanes.base import Call
from asyncjobs.lanes.clusterengine import Engine
from asyncjobs.lanes.members import Member
from asyncjobs.resources import Amounts, text
from asyncjobs.station import versions
from asyncjobs.wire.failure import text_of, type_name

logger: logging.Logger = logging.getLogger("asyncjobs")

EXACTLY = ("asyncjobs",)
"""Whose versions have to be the same here and there; Python's up to the second number."""


def not_up(engine: Engine, error: Exception, seconds: float) -> WorkerStartError:
    """The error for a cluster that could not be connected to within so many seconds."""
    where = f"the {engine.name} cluster at {engine.address}"
    if isinstance(error, WorkerStartError):
        problem = WorkerStartError(f"{where} cannot be used: {error}")
    elif isinstance(error, (TimeoutError, OSError)):
        or_else = f", or {engine.doubt}" if engine.doubt else ""
        problem = WorkerStartError(f"{where} did not come up within {seconds:g} s, or has no workers{or_else}")
    else:
        problem = WorkerStartError(f"{where} did not come up: {type_name(error)}: {text_of(error)}")
    problem.__cause__ = error
    return problem


def gone(engine: str, member: Member, call: Call, cause: str) -> WorkerLost:
    """The error for a call whose worker is there no more."""
    error = WorkerLost(
        f"worker {member.name} of the {engine} cluster is gone ({cause}) while it had {call.name!r}, "
        f"attempt {call.attempt}"
    )
    error.lane, error.attempt, error.cause, error.pid = call.plan.lane, call.attempt, cause, member.facts.pid
    error.item = sys.maxsize  # nobody can say which item of a group ran
    return error


def needs_too_much(lane: str, engine: str, needs: Amounts, members: Iterable[Member]) -> ValueError:
    """The error for a call that no worker could ever take."""
    offers = "; ".join(sorted({text(member.offers) or "none" for member in members}))
    return ValueError(
        f"resources={dict(needs)!r} is more than any worker of lane {lane!r} ({engine}) offers: {offers}. "
        "Ask for less, or start workers that have them"
    )


def must_not_differ(theirs: dict[str, str]) -> dict[str, tuple[str, str]]:
    """The versions here and there that may not differ, and do; of the others it is only warned."""
    ours = versions()
    found = {name: (ours[name], theirs[name]) for name in EXACTLY if theirs[name] != ours[name]}
    if ours["Python"].split(".")[:2] != theirs["Python"].split(".")[:2]:
        found["Python"] = ours["Python"], theirs["Python"]
    for name in sorted(ours.keys() & theirs.keys() - {"Python", *EXACTLY}):
        if ours[name] != theirs[name]:
            logger.warning("a worker of the cluster has %s %s, this program %s", name, theirs[name], ours[name])
    return found


def mismatch(engine: str, host: str, differing: dict[str, tuple[str, str]]) -> WorkerStartError:
    """The error for a worker whose versions differ."""
    parts = "; ".join(f"{name} {ours} here, {theirs} there" for name, (ours, theirs) in sorted(differing.items()))
    return WorkerStartError(
        f"versions differ at the {engine} worker on {host}: {parts}. Install the same on both sides"
    )
