"""Hold the promises against the evidence: `check`, one function for every test and for the command line.

    I1  lost         accepted submits without a row              I8   value     told to the client and to the disk alike
    I2  unexpected   rows that nobody submitted                  I9   cancel    no success and no start after a cancel
    I3  duplicated   more than one row for a key                 I10  fence     only the last claim's end was taken
    I4  final        one final event, and none after it          I11  database  sound, and open once
    I5  path         only legal moves; no gap in the log         I12  leaks     nothing is left behind
    I6  attempts     as many as promised                         I13  bounds    every answer in time
    I7  overlap      no two attempts at once                     I14  log       no trace of an unhandled error

What there is no evidence of is not judged. The names are those of Jepsen's total-queue.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from asyncjobs.service.store import rowchecks
from asyncjobs.service.store.history import Call, Effect
from asyncjobs.service.store.rowchecks import Found, Job, Violation
from asyncjobs.state import JobState

ANSWER = 10.0
"""Seconds within which every call is answered (P6)."""
ALARMS: re.Pattern[str] = re.compile(r"Traceback \(most recent call last\)|never retrieved|never awaited|leaked")


@dataclass(frozen=True)
class Evidence:
    """What is known. None, or nothing: not looked at."""

    database: Path | None = None
    """At rest, or a backup."""
    calls: Sequence[Call] | None = None
    effects: Sequence[Effect] | None = None
    is_drained: bool = False
    """Everything that was accepted was to end."""
    is_pruned: bool = False
    """Rows may have gone because their time was over."""
    oracle: Callable[[Job], bytes | None] | None = None
    """The outcome that a success must have; None: any."""
    alive: frozenset[int] = frozenset()
    """Processes that still run."""
    leaks: Sequence[str] = ()
    """What a census found too many of (`asyncjobs.testing.leaks`)."""
    descriptors: int | None = None
    """How many descriptors of the service lead to the database."""
    bounds: Mapping[str, float] = field(default_factory=dict)
    """Seconds per kind of call; others have `ANSWER`."""
    stderr: str = ""
    is_allowed: re.Pattern[str] | None = None
    """Lines of `stderr` that may be there."""


class Report(NamedTuple):
    """What was found."""

    violations: list[Violation]
    recovered: frozenset[str]
    """Jobs whose submits were never answered, and that are there: allowed."""


def check(evidence: Evidence) -> Report:
    """Judge all that there is evidence of; an empty list: every promise was kept. Reads all of the database."""
    found = rowchecks.read(evidence.database) if evidence.database is not None else Found()
    violations = [*rowchecks.check(found, is_drained=evidence.is_drained)] if evidence.database is not None else []
    recovered: frozenset[str] = frozenset()
    if evidence.database is not None and evidence.calls is not None:
        violations += _accepted(evidence, found)
        violations += _told(evidence.calls, found)
        recovered = _recovered(evidence.calls, found)
    if evidence.calls is not None:
        violations += _keys(evidence.calls)
        violations += _in_time(evidence)
    if evidence.effects is not None:
        violations += _once(evidence.effects, found)
        violations += _apart(evidence.effects, evidence.alive)
        violations += _not_after_a_cancel(evidence.calls or (), evidence.effects)
    if evidence.oracle is not None:
        violations += _right(evidence.oracle, found)
    violations += _left_behind(evidence)
    return Report(violations, recovered)


def check_database(database: Path) -> list[Violation]:
    """What the database says by itself. Reads all of it.

    Raises:
        StateRefused: it cannot be opened.
    """
    return check(Evidence(database)).violations


def _submits(calls: Sequence[Call]) -> dict[str, str]:
    """Per job: ``ok`` if one of its submits was answered so, else ``unknown``; refused ones are left out."""
    told: dict[str, str] = {}
    for call in calls:
        if call.op == "submit" and call.job and call.kind != "fail":
            told[call.job] = "ok" if call.kind == "ok" or told.get(call.job) == "ok" else "unknown"
    return told


def _accepted(evidence: Evidence, found: Found) -> Iterator[Violation]:
    told = _submits(evidence.calls or ())
    lost = [id for id, kind in told.items() if kind == "ok" and id not in found.jobs]
    if not evidence.is_pruned:
        yield from (Violation("I1", id, "was accepted, and is not in the database") for id in lost)
    for id, job in found.jobs.items():
        if id not in told and not job.was_made_here:
            yield Violation("I2", id, "is in the database, and nobody submitted it")


def _recovered(calls: Sequence[Call], found: Found) -> frozenset[str]:
    return frozenset(id for id, kind in _submits(calls).items() if kind == "unknown" and id in found.jobs)


def _keys(calls: Sequence[Call]) -> Iterator[Violation]:
    told: dict[str, set[str]] = defaultdict(set)
    for call in calls:
        if call.op == "submit" and call.kind == "ok" and call.key is not None:
            told[call.key].add(call.job)
    for key, ids in told.items():
        if len(ids) > 1:
            yield Violation("I3", min(ids), f"key {key!r} was answered with {len(ids)} jobs: {', '.join(sorted(ids))}")


def _told(calls: Sequence[Call], found: Found) -> Iterator[Violation]:
    for call in calls:
        job = found.jobs.get(call.job)
        if job is None or call.kind != "ok":
            continue
        if call.op == "result" and call.value != job.told:
            yield Violation("I8", job.id, f"a client was told {call.value}, and the database has {job.told}")
        if call.op == "cancel" and call.value == "cancelled" and job.state != JobState.CANCELLED:
            yield Violation("I9", job.id, f"a client was told that it is cancelled, and it is {job.state.name}")


def _right(oracle: Callable[[Job], bytes | None], found: Found) -> Iterator[Violation]:
    for job in found.jobs.values():
        if job.state != JobState.SUCCEEDED:
            continue
        wanted = oracle(job)
        if wanted is not None and hashlib.sha256(wanted).hexdigest() != job.digest:
            yield Violation("I8", job.id, "its outcome is not what its call gives")


def _once(effects: Sequence[Effect], found: Found) -> Iterator[Violation]:
    starts = Counter(effect.job for effect in effects if effect.is_start)
    for id, number in starts.items():
        job = found.jobs.get(id)
        if job is not None and job.at_most_once and number > 1 + job.retries:
            yield Violation("I6", id, f"was to start at most {1 + job.retries} times, and started {number} times")
    for (id, attempt), number in Counter((e.job, e.attempt) for e in effects if e.is_start).items():
        if number > 1:
            yield Violation("I6", id, f"attempt {attempt} started {number} times")


class _Span(NamedTuple):
    start: int
    end: int | None
    attempt: int
    pid: int


def _apart(effects: Sequence[Effect], alive: frozenset[int]) -> Iterator[Violation]:
    """One that never ended was killed: it counts as over when the next one starts, unless its process is alive."""
    ends = {(e.job, e.attempt, e.pid): e.at for e in effects if not e.is_start}
    spans: dict[str, list[_Span]] = defaultdict(list)
    for e in effects:
        if e.is_start:
            spans[e.job].append(_Span(e.at, ends.get((e.job, e.attempt, e.pid)), e.attempt, e.pid))
    for id, one in spans.items():
        one.sort()
        for before, after in pairwise(one):
            if (before.end is None and before.pid in alive) or (before.end is not None and before.end > after.start):
                yield Violation("I7", id, f"attempt {after.attempt} started while attempt {before.attempt} ran")


def _not_after_a_cancel(calls: Sequence[Call], effects: Sequence[Effect]) -> Iterator[Violation]:
    told = {c.job: c.ended_at for c in calls if (c.op, c.kind, c.value) == ("cancel", "ok", "cancelled")}
    for effect in effects:
        at = told.get(effect.job)
        if effect.is_start and at is not None and effect.at > at * 1e9:
            yield Violation("I9", effect.job, f"attempt {effect.attempt} started after a client was told: cancelled")


def _in_time(evidence: Evidence) -> Iterator[Violation]:
    for call in evidence.calls or ():
        bound = evidence.bounds.get(call.op, ANSWER)
        if call.ended_at is not None and call.ended_at - call.began_at > bound:
            took = call.ended_at - call.began_at
            yield Violation("I13", call.job, f"{call.op} was answered after {took:.1f} s; {bound:g} s are promised")


def _left_behind(evidence: Evidence) -> Iterator[Violation]:
    if evidence.descriptors is not None and evidence.descriptors != 1:
        yield Violation("I11", "", f"{evidence.descriptors} descriptors lead to the database, not 1")
    for leak in evidence.leaks:
        yield Violation("I12", "", f"left behind: {leak}")
    for line in evidence.stderr.splitlines():
        if ALARMS.search(line) and not (evidence.is_allowed and evidence.is_allowed.search(line)):
            yield Violation("I14", "", f"in the log: {line[:200]}")
