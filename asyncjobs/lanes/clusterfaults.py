"""What to say of a cluster that cannot be used, a worker that is gone, versions that differ. No credentials in it."""

from __future__ import annotations

import logging
import re
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


def public(address: str) -> str:
    """An address without what stands before its last @: a name, a password."""
    return re.sub(r"^(.*?//)?.*@", r"\1", address)


def not_up(engine: Engine, error: Exception, seconds: float, *, answers: bool) -> WorkerStartError:
    """The error for a cluster that could not be used within so many seconds; perhaps somebody `answers` there."""
    if isinstance(error, WorkerStartError):
        why = f"cannot be used: {error}"
    elif answers and isinstance(error, TimeoutError):
        or_else = f". {engine.shortage}" if engine.shortage else ""
        why = f"has no workers: none came within {seconds:g} s{or_else}"
    elif isinstance(error, TimeoutError):
        or_else = f", or {engine.doubt}" if engine.doubt else ""
        why = f"did not come up within {seconds:g} s: nobody answers there{or_else}"
    elif isinstance(error, OSError):
        why = f"did not come up: {error.strerror or 'nobody answers there'}"
    else:
        why = f"did not come up: {type_name(error)}: {text_of(error)}"
    clean = re.sub(r"\S+@", "", why)  # an address that is refused is quoted
    problem = WorkerStartError(f"the {engine.name} cluster at {engine.address} {clean}")
    problem.__cause__ = error if clean == why else None
    problem.logged = _without_address(str(problem), engine.address)
    return problem


def _without_address(text: str, address: str) -> str:
    """`text` for a log: it may go further than the error itself."""
    place = address.rpartition("://")[2]
    text = text.replace(f" at {address}", "")
    for part in (address, place, place.rpartition(":")[0]):
        text = text.replace(part, "...") if part else text
    return text


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


class Comparison:
    """Compares the versions of a cluster's workers with ours, and warns of each difference once."""

    def __init__(self, lane: str) -> None:
        self._lane = lane
        self._told: set[tuple[str, str]] = set()

    def must_not_differ(self, theirs: dict[str, str]) -> dict[str, tuple[str, str]]:
        """The versions here and there that may not differ, and do; of the others it is only warned."""
        ours = versions()
        found = {name: (ours[name], theirs[name]) for name in EXACTLY if theirs[name] != ours[name]}
        if ours["Python"].split(".")[:2] != theirs["Python"].split(".")[:2]:
            found["Python"] = ours["Python"], theirs["Python"]
        for name in sorted(ours.keys() & theirs.keys() - {"Python", *EXACTLY}):
            if ours[name] != theirs[name] and (name, theirs[name]) not in self._told:
                self._told.add((name, theirs[name]))
                text = "lane %r: workers of the cluster have %s %s, this program %s"
                logger.warning(text, self._lane, name, theirs[name], ours[name])
        return found


def mismatch(engine: str, host: str, differing: dict[str, tuple[str, str]]) -> WorkerStartError:
    """The error for a worker whose versions differ."""
    parts = "; ".join(f"{name} {ours} here, {theirs} there" for name, (ours, theirs) in sorted(differing.items()))
    return WorkerStartError(
        f"versions differ at the {engine} worker on {host}: {parts}. Install the same on both sides"
    )
