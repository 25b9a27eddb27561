"""What a database of jobs must say by itself, whoever used it: read it, and check it against its own log.

Part of `checking`; holds the log in memory, some 300 bytes an event.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from asyncjobs.service import private
from asyncjobs.service.store import inspection
from asyncjobs.state import MOVES, JobState

REPLAYED = "replay:"
"""Begins the tag of a job that was made from another one's call."""
# They say something about a job without moving it.
_REMARKS = frozenset({"late_outcome_discarded", "replayed"})
_OWN_ENDS = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.TIMED_OUT})
_RUNS = frozenset({JobState.RUNNING, JobState.STOPPING})
_LINES = 20


class Violation(NamedTuple):
    """A promise that was not kept."""

    rule: str
    """``I1`` to ``I14``."""
    job: str
    """Its id; empty where it is about no job."""
    what: str

    def __str__(self) -> str:
        return f"{self.rule} {self.job + ' ' if self.job else ''}{self.what}"


class Line(NamedTuple):
    """One event of a job."""

    seq: int
    kind: str
    state: JobState
    attempt: int
    epoch: int


@dataclass
class Job:
    """One row, with what belongs to it."""

    id: str
    seq: int
    key: str | None
    state: JobState
    attempt: int
    epoch: int
    fence: int
    failures: int
    crashes: int
    max_crashes: int
    at_most_once: bool
    retries: int
    was_made_here: bool
    """By a schedule, or as a replay: nobody submitted it."""
    payload: str
    """SHA-256 of its sealed call, in hexadecimal."""
    digest: str
    """SHA-256 of its outcome, in hexadecimal; that of nothing where it has none."""
    lines: list[Line] = field(default_factory=list)

    @property
    def told(self) -> str:
        """What a client that asks for the result is told, for `history`."""
        return f"{self.state.name} {self.digest}"


@dataclass
class Found:
    """All of a database."""

    jobs: dict[str, Job] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    """What SQLite finds wrong with the file."""
    gap: int = 0
    """Events that are missing, not counting those that went with their jobs."""
    tallies: dict[JobState, int] = field(default_factory=dict)
    strays: int = 0
    """Events of jobs that are not there."""


def read(database: Path) -> Found:
    """All of a database that is at rest.

    Raises:
        StateRefused: it cannot be opened.
    """
    found = Found(problems=inspection.check_all(database))
    if found.problems:
        return found
    with inspection.reading(database) as connection:
        by_seq = {job.seq: job for job in _jobs(connection, database.parent / "results")}
        found.jobs = {job.id: job for job in by_seq.values()}
        events = 0
        for job, *line in connection.execute("SELECT job, seq, kind, state, attempt, epoch FROM events ORDER BY seq"):
            events += 1
            if job in by_seq:
                seq, kind, state, attempt, epoch = line
                by_seq[job].lines.append(Line(seq, kind, JobState(state), attempt, epoch))
            else:
                found.strays += 1
        counters = dict(connection.execute("SELECT name, value FROM counters"))
        (last,) = connection.execute("SELECT coalesce(max(seq), 0) FROM events").fetchone()
        found.gap = max(last, counters["last_event"]) - counters["pruned_events"] - events
        found.tallies = {JobState(state): jobs for state, jobs in connection.execute("SELECT state, jobs FROM tallies")}
    return found


_ROWS = """
SELECT j.id, j.seq, j.key, j.state, j.attempt, j.epoch, j.fence, j.failures, j.crashes, j.max_crashes, j.at_most_once,
    j.tags, j.schedule, c.terms, c.payload, o.body, o.file
FROM jobs j LEFT JOIN calls c ON c.seq = j.seq LEFT JOIN outcomes o ON o.seq = j.seq ORDER BY j.seq
"""


def _jobs(connection: sqlite3.Connection, results: Path) -> Iterator[Job]:
    for *row, tags, schedule, terms, payload, body, file in connection.execute(_ROWS):
        id, seq, key, state, attempt, epoch, fence, failures, crashes, max_crashes, at_most_once = row
        is_replay = any(tag.startswith(REPLAYED) for tag in json.loads(tags or "[]"))
        yield Job(
            *(id, seq, key, JobState(state), attempt, epoch, fence, failures, crashes, max_crashes, bool(at_most_once)),
            retries=_retries(terms),
            was_made_here=schedule is not None or is_replay,
            payload=hashlib.sha256(payload or b"").hexdigest(),
            digest=_digest_of_file(results / file) if file is not None else hashlib.sha256(body or b"").hexdigest(),
        )


def _retries(terms: bytes | None) -> int:
    with contextlib.suppress(ValueError, TypeError, AttributeError):
        found: Any = json.loads(terms or b"{}").get("retry", {}).get("max", 0)
        return int(found)
    return 0


def _digest_of_file(path: Path) -> str:
    try:
        with open(private.open_private(path), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return "missing"


def check(found: Found, *, is_drained: bool) -> Iterator[Violation]:
    """I3 to I6, I10 and I11, as far as the database tells."""
    yield from (Violation("I11", "", problem) for problem in found.problems)
    if found.gap:
        yield Violation("I5", "", f"{found.gap} events are missing from the log")
    if found.strays:
        yield Violation("I5", "", f"{found.strays} events belong to jobs that are not there")
    counted = Counter(job.state for job in found.jobs.values())
    for state, number in found.tallies.items():
        if counted[state] != number:
            yield Violation("I11", "", f"{number} jobs are said to be {state.name}, and {counted[state]} are")
    for key, number in Counter(job.key for job in found.jobs.values() if job.key is not None).items():
        if number > 1:
            yield Violation("I3", "", f"{number} jobs have the key {key!r}")
    for job in found.jobs.values():
        for rule in (_final, _path, _attempts, _fence):
            yield from rule(job)
        if is_drained and not job.state.is_final:
            yield Violation("I4", job.id, f"has not ended: it is {job.state.name}")


def _final(job: Job) -> Iterator[Violation]:
    ends = [number for number, line in enumerate(job.lines) if line.state.is_final and line.kind not in _REMARKS]
    if len(ends) != job.state.is_final:
        yield Violation("I4", job.id, f"is {job.state.name}, and has {len(ends)} final events")
    if ends and any(line.kind not in _REMARKS for line in job.lines[ends[0] + 1 :]):
        yield Violation("I4", job.id, f"something happened after its end: {_story(job)}")
    if job.digest == "missing":
        yield Violation("I8", job.id, "the file of its outcome is missing")


def _path(job: Job) -> Iterator[Violation]:
    moves = [line for line in job.lines if line.kind not in _REMARKS]
    if not moves or moves[0].kind != "submitted" or moves[0].state != JobState.QUEUED:
        yield Violation("I5", job.id, f"does not begin with its submit: {_story(job)}")
        return
    for before, after in pairwise(moves):
        if after.state not in MOVES[before.state].values():
            yield Violation("I5", job.id, f"went from {before.state.name} to {after.state.name}: {_story(job)}")
            return
    if moves[-1].state != job.state:
        yield Violation("I5", job.id, f"is {job.state.name}, and its log says {moves[-1].state.name}")


def _attempts(job: Job) -> Iterator[Violation]:
    stops = sum(line.kind == "interrupted" for line in job.lines)
    allowed = 1 + job.retries + job.max_crashes + stops
    highest = max((line.attempt for line in job.lines if line.kind == "claimed"), default=0)
    if highest > allowed:
        yield Violation("I6", job.id, f"was started {highest} times, and {allowed} are allowed")
    if job.at_most_once and highest > 1 + job.retries:  # what has failed by itself has not crashed
        yield Violation("I6", job.id, f"was to start at most {1 + job.retries} times, and had {highest} attempts")
    if job.crashes > job.max_crashes + 1:
        yield Violation("I6", job.id, f"{job.crashes} crashes, and {job.max_crashes} are allowed")


def _fence(job: Job) -> Iterator[Violation]:
    """An end of its own comes from the last claim; the row says which that was."""
    claim: Line | None = None
    before = JobState.QUEUED
    for line in job.lines:
        if line.kind == "claimed":
            claim = line
        elif line.state in _OWN_ENDS and line.kind not in _REMARKS and before in _RUNS:
            if claim is None or (line.attempt, line.epoch) != (claim.attempt, claim.epoch):
                yield Violation("I10", job.id, f"was ended by an attempt that was not the last: {_story(job)}")
            elif claim.seq != job.fence:
                yield Violation("I10", job.id, f"its fence is {job.fence}, its last claim was {claim.seq}")
        if line.kind not in _REMARKS:
            before = line.state


def _story(job: Job) -> str:
    told = " ".join(f"{line.kind}({line.attempt}/{line.epoch})" for line in job.lines[-_LINES:])
    return told or "nothing was written down"
