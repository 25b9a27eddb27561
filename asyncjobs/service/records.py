"""The values that cross the borders inside the service: plain, frozen, with no behaviour.

Times are seconds since 1970 (`time.time`) where they are written down; the order of jobs comes
from sequence numbers, never from times.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from asyncjobs.state import JobState

ID: re.Pattern[str] = re.compile(r"[0-9a-hjkmnp-tv-z]{26}")
"""A job's id: 26 digits of Crockford's base 32, lower case; the caller makes it, so that a submit
may be repeated."""

Scope = str
"""What a pause is for: ``all``, ``lane:NAME`` or ``function:MODULE:NAME``."""

NEAR = "process"
"""The lane of worker processes on this machine; all others are clusters."""


class Limit(NamedTuple):
    """How many jobs of one name may run at once, and how many may start in a span of time.

    The last submitted job decides what holds for the name.
    """

    name: str
    running: int | None = None
    """The most that run at once; None: no bound."""
    starts: int | None = None
    """The most that start within `seconds`; None: no bound."""
    seconds: float = 1.0


class NewJob(NamedTuple):
    """A job as it is accepted. The store reads nothing but these fields."""

    id: str
    name: str
    function: str
    """``module:qualname``; empty where the function travels in the payload."""
    payload: bytes
    """The sealed call (`envelope`): opaque to the store."""
    digest: bytes
    """32 bytes that say whether two submits mean the same call with the same options."""
    terms: bytes = b"{}"
    """The options that only whoever runs it reads (JSON, `terms.Terms`): opaque to the store."""
    lane: str = NEAR
    key: str | None = None
    """Idempotency key: unique over all jobs that the store still has."""
    priority: int = 0
    due: float | None = None
    """Not before this instant of the wall clock; the store converts it once to its own, which does not jump."""
    after: tuple[str, ...] = ()
    """Ids of jobs that have to succeed first."""
    limit: Limit | None = None
    at_most_once: bool = False
    max_crashes: int = 3
    """How many times it may be started again after the machinery under it died."""
    keep: float | None = None
    """Seconds that it is kept after its end; None: the store's own rule per final state."""
    tags: tuple[str, ...] = ()
    schedule: str | None = None
    """The name of the schedule that made it."""
    deadline: float | None = None
    """When it ends by itself, wherever it waits; an instant as `due` is."""


class Accepted(NamedTuple):
    """The answer to one submitted job; it is on disk."""

    id: str
    """That of the job that stands for it: another one where its key was known."""
    state: JobState
    is_new: bool


class Claim(NamedTuple):
    """One attempt of a job, counted and on disk before it starts.

    `(attempt, epoch)` fences its end: only that of the last claim is taken.
    """

    seq: int
    id: str
    name: str
    function: str
    payload: bytes
    terms: bytes
    lane: str
    attempt: int
    """1 for the first; counts every start."""
    epoch: int
    """Which opening of the store claimed it."""
    fence: int
    """Grows with every claim of the whole store."""
    failures: int
    """Ended attempts that count towards `retries`."""
    crashes: int
    submitted_at: float
    due: float | None
    after: tuple[str, ...]
    checkpoint: bytes | None
    at_most_once: bool = False
    """It has to be written down that it starts, before it does (`Store.begin_job`)."""
    deadline: float | None = None
    """On the store's clock: it is stopped then."""


StoredEnd = tuple[str, JobState, str, int, bytes | None]
"""Id, state, note, attempt and the outcome's bytes (None: a large one), of a job that exists; the state may be one
that is not final."""


class Ending(NamedTuple):
    """What became of an attempt.

    `state` is final, or WAITING with `due` (on the store's clock) for another attempt that `retries` allow, or QUEUED
    where it never started.
    """

    id: str
    attempt: int
    epoch: int
    state: JobState
    outcome: bytes = b""
    """The sealed value or failure (`outcome`): opaque to the store."""
    note: str = ""
    """One line for people: type and text of an error, a reason."""
    due: float | None = None
    has_crashed: bool = False
    """The machinery under it died: `max_crashes` decides whether it is QUEUED again or LOST."""
    is_interrupted: bool = False
    """The service stopped it to end itself, as somebody asked: no crash, and QUEUED again if that is allowed."""


class Row(NamedTuple):
    """A job as lists and pages show it, without its payload and outcome."""

    seq: int
    id: str
    name: str
    function: str
    lane: str
    state: JobState
    priority: int
    attempt: int
    failures: int
    crashes: int
    submitted_at: float
    started_at: float | None
    ended_at: float | None
    due: float | None
    key: str | None
    after: tuple[str, ...]
    tags: tuple[str, ...]
    note: str
    stop: str | None
    """Why it is asked to stop; None if it is not."""
    size: int
    """Bytes of its outcome."""
    limit: str | None
    schedule: str | None


class Event(NamedTuple):
    """One line of the append-only log."""

    seq: int
    """Without gaps, over all jobs."""
    id: str
    kind: str
    """``submitted``, ``claimed``, ``waiting``, ``queued``, ``stopping``, a final state's name in lower case,
    ``late_outcome_discarded``, ``replayed``, ``recovered`` or ``interrupted``."""
    state: JobState
    attempt: int
    epoch: int
    at: float
    note: str


class Schedule(NamedTuple):
    """A job that comes again: `cron` in `zone` (cronsim), or every so many seconds."""

    name: str
    cron: str
    zone: str
    job: NewJob
    """The pattern; `id` and `digest` are made anew for each time."""
    next_at: float
    is_paused: bool = False


class Query(NamedTuple):
    """Which jobs a list is to show, newest first."""

    states: tuple[JobState, ...] = ()
    id: str | None = None
    """The beginning of an id."""
    name: str | None = None
    function: str | None = None
    lane: str | None = None
    tag: str | None = None
    schedule: str | None = None
    before: int | None = None
    """Only those with a smaller sequence number: the next page."""
    limit: int = 100


CancelAnswer = Literal["cancelled", "requested", "ended"]
