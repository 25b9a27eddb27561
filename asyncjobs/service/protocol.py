"""What travels over HTTP: the JSON bodies, as msgspec structs; both sides decode with them.

Unknown fields are refused in requests and ignored in answers: an older client may talk to a newer
service. Bytes travel as base 64.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import msgspec
from msgspec import Meta

MEDIA_TYPE: str = "application/json"
VERSION: int = 1
"""Of this protocol; in the path: ``/v1/...``."""


LARGEST_BODY: int = 64 * 2**20
"""Bytes of a request."""
LARGEST_CALL: int = 47 * 2**20
"""Bytes of a sealed call; base 64 makes four of three, and there is the rest of the request."""
PYTHON: str = f"{sys.version_info[0]}.{sys.version_info[1]}"
"""Ours. A function by value is made of what one version of Python runs, and breaks another."""
LONGEST_LABEL, LONGEST_LINE = 200, 500
"""Characters."""
LATEST: float = 1e11
"""Seconds since 1970, some three thousand years."""
LONGEST_SPAN: float = 3.2e9
"""Seconds: a hundred years."""

Span = Annotated[float, Meta(ge=0, le=LONGEST_SPAN)]
"""Seconds."""
Instant = Annotated[float, Meta(ge=0, le=LATEST)]
"""Seconds since 1970."""
Label = Annotated[str, Meta(min_length=1, max_length=LONGEST_LABEL)]
Line = Annotated[str, Meta(max_length=LONGEST_LINE)]
Id = Annotated[str, Meta(pattern="^[0-9a-hjkmnp-tv-z]{26}$", min_length=26, max_length=26)]
Ids = Annotated[list[Id], Meta(min_length=1, max_length=1000)]
Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Some = Annotated[int, Meta(ge=1, le=2**31 - 1)]


class RetryTerms(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`asyncjobs.Retry` without classes or functions: errors are told by their type's name.

    ``builtins.OSError`` in `on` means its subclasses too: the worker reports the names of all bases.
    """

    max: Count = 0
    backoff: Span = 0.1
    jitter: Annotated[float, Meta(ge=0, le=1)] = 0.5
    on: tuple[Label, ...] = ("builtins.Exception",)
    give_up_on: tuple[Label, ...] = ()


class LimitTerms(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`records.Limit`."""

    name: Label
    running: Some | None = None
    starts: Some | None = None
    seconds: Annotated[float, Meta(gt=0, le=LONGEST_SPAN)] = 1.0


class Terms(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The options that only whoever runs the job reads."""

    timeout: Annotated[float, Meta(gt=0, le=LONGEST_SPAN)] | None = None
    deadline: Instant | None = None
    """Unix seconds, not a span."""
    grace: Span = 2.0
    retry: RetryTerms = RetryTerms()
    max_result: Annotated[int, Meta(ge=1, le=2**63 - 1)] | None = None


class JobRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One job to submit: `payload` (a sealed pickled call) or `args` and `kwargs` as JSON."""

    id: Annotated[str, Meta(pattern="^([0-9a-hjkmnp-tv-z]{26})?$", max_length=26)] = ""
    """Made by the caller, so that the request may be repeated; the service makes one if empty."""
    function: Line = ""
    """``module:qualname``; empty where the payload brings the function by value."""
    payload: bytes = b""
    args: list[Any] | None = None
    kwargs: dict[str, Any] | None = None
    name: Line = ""
    lane: Label = "process"
    key: Label | None = None
    priority: Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)] = 0
    delay: Span | None = None
    at: Instant | None = None
    """Unix seconds."""
    after: Annotated[tuple[Id, ...], Meta(max_length=10_000)] = ()
    limit: LimitTerms | None = None
    at_most_once: bool = False
    max_crashes: Count = 3
    keep: Span | None = None
    tags: Annotated[tuple[Label, ...], Meta(max_length=100)] = ()
    terms: Terms = Terms()


class JobsRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Several jobs in one transaction: all or none."""

    jobs: list[JobRequest]


class AcceptedAnswer(msgspec.Struct, frozen=True):
    id: str
    state: str
    is_new: bool


class JobsAnswer(msgspec.Struct, frozen=True):
    """201: all are on disk, in the order of the request."""

    jobs: list[AcceptedAnswer]


class ProgressView(msgspec.Struct, frozen=True):
    done: float
    total: float | None
    note: str


class LogMark(msgspec.Struct, frozen=True):
    """A job's log has grown: `end` is the offset of what will come next."""

    end: int


class FigureView(msgspec.Struct, frozen=True):
    """A file of a figure."""

    name: str
    size: int
    changed_at: float


class JobView(msgspec.Struct, frozen=True, kw_only=True):
    """A job as lists and pages show it (`records.Row`); states by name, ``QUEUED`` and so on."""

    id: str
    seq: int
    name: str
    function: str
    lane: str
    state: str
    priority: int
    attempt: int
    failures: int
    crashes: int
    submitted_at: float
    started_at: float | None = None
    ended_at: float | None = None
    due: float | None = None
    key: str | None = None
    after: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    note: str = ""
    stop: str | None = None
    size: int = 0
    limit: str | None = None
    schedule: str | None = None
    progress: ProgressView | None = None


class ListAnswer(msgspec.Struct, frozen=True):
    jobs: list[JobView]
    next: int | None
    """What to pass as `before` for the next page; None: this was the last."""


class EventView(msgspec.Struct, frozen=True):
    """One event of a job's stream; `seq` is its ``id:`` line, for Last-Event-ID."""

    seq: int
    id: str
    kind: str
    state: str
    attempt: int
    at: float
    note: str = ""


class Ended(msgspec.Struct, frozen=True):
    """A job that has its final state, with its outcome (sealed bytes, see `outcome`)."""

    id: str
    state: str
    note: str
    attempt: int
    outcome: bytes | None
    """None: too large to come along; ask for ``/v1/jobs/ID/outcome``."""


class OutcomesRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which of these have ended? Waits at most `wait` seconds until one has."""

    ids: Annotated[list[Id], Meta(max_length=10_000)]
    wait: Annotated[float, Meta(ge=0)] = 0.0


class OutcomesAnswer(msgspec.Struct, frozen=True):
    ended: list[Ended]
    unknown: list[str]


class ResultView(msgspec.Struct, frozen=True):
    """What became of a job, for people and other languages."""

    state: str
    note: str = ""
    value: Any = None
    """What it returned, where it was submitted as JSON and JSON can say it."""
    repr: str | None = None
    """What there is instead."""


class CancelRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    reason: Line = "cancelled"
    grace: Span | None = None


class CancelView(msgspec.Struct, frozen=True):
    answer: str
    """``cancelled``, ``requested`` or ``ended``."""
    state: str


class CancelsRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Cancel all of these."""

    ids: Ids
    reason: Line = "cancelled"
    grace: Span | None = None


class CancelledView(msgspec.Struct, frozen=True):
    id: str
    answer: str
    """As in `CancelView`, or ``unknown``."""
    state: str | None = None


class CancelsAnswer(msgspec.Struct, frozen=True):
    jobs: list[CancelledView]


class ReplaysRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Run all of these once more, as new jobs."""

    ids: Ids
    again: bool = False
    """Those too that were run again before."""
    dry_run: bool = False
    """Say which it would be, and change nothing."""


class ReplayedView(msgspec.Struct, frozen=True, omit_defaults=True):
    of: str
    id: str | None = None
    """The new job's."""
    error: str = ""
    """The class of `service.errors`, where there is no new job."""
    message: str = ""


class ReplaysAnswer(msgspec.Struct, frozen=True):
    jobs: list[ReplayedView]


class ScopeRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to pause or resume: ``all``, ``lane:NAME``, ``function:MODULE:NAME``, ``schedule:NAME``."""

    scope: Annotated[str, Meta(min_length=1, max_length=600)] = "all"


class ScheduleRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: Annotated[str, Meta(pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$", max_length=100)]
    cron: Label
    job: JobRequest
    zone: Label = "UTC"


class ScheduleView(msgspec.Struct, frozen=True):
    name: str
    cron: str
    zone: str
    function: str
    next_at: float
    is_paused: bool


class StopRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    drain: Span | None = None
    """Seconds that running jobs may go on; None: the service's own limit."""


class BackupRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    path: Annotated[str, Meta(min_length=1, max_length=4096)]
    logs: bool = True
    """The logs and figures of jobs, too."""


class BackupView(msgspec.Struct, frozen=True):
    """One line of the answer to a backup: how far it is. The last one is `done`, or has an `error`."""

    nbytes: int
    """Copied so far."""
    done: bool = False
    error: str = ""
    """The class of `service.errors`."""
    message: str = ""


class StatsView(msgspec.Struct, frozen=True, kw_only=True):
    """`asyncjobs stats`."""

    version: str
    pid: int
    started_at: float
    epoch: int
    states: dict[str, int]
    paused: tuple[str, ...]
    processes: int
    busy: int
    db_bytes: int
    disk_free: int
    rss: int
    trouble: str = ""
    """Why nothing is started, although jobs wait."""


class Health(msgspec.Struct, frozen=True):
    status: str
    """``ok`` or ``stopping``."""
    version: str
    protocol: int
    pid: int
    trouble: str = ""
    """Why nothing is started, although jobs wait."""
    python: str = ""
    """Its `PYTHON`."""


class ErrorView(msgspec.Struct, frozen=True):
    """The body of every answer from 400 on."""

    error: str
    """The class of `service.errors`."""
    message: str
    retry_after: float | None = None
    id: str | None = None
