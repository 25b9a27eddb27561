"""Answer questions: one job, a page of jobs, outcomes, events. Changes nothing.

A page whose filter has no index is read in stretches, each a request of its own, so that a list over millions
of rows keeps nobody waiting.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from asyncjobs.service.errors import NoSuchJob
from asyncjobs.service.records import Event, Query, Row
from asyncjobs.service.store import spans
from asyncjobs.service.store.transaction import Transaction
from asyncjobs.state import JobState

STRETCH = 20_000
"""So many rows one request compares: some 10 ms."""
SIFTED = 1_000
"""So many rows one request reads and looks at."""
END = 2**62
"""Above every sequence number."""


class StoredOutcome(NamedTuple):
    """What `outcomes` finds of a job; `state` may be one that is not final."""

    id: str
    state: JobState
    note: str
    attempt: int
    size: int
    body: bytes
    file: str | None


class Page(NamedTuple):
    """Rows that were found in one stretch, newest first."""

    rows: list[Row]
    before: int | None
    """Where the next stretch begins, if that is not enough yet; None: there are no older jobs."""


def row(tx: Transaction, id: str) -> Row:
    """The job of that id.

    Raises:
        NoSuchJob: there is none.
    """
    found = tx.one("row", (id,))
    if found is None:
        raise NoSuchJob(f"there is no job {id} (any more)")
    return _row(found)


def stretch(tx: Transaction, query: Query) -> Page:
    """One stretch of the jobs that `query` asks for, from `query.before` downwards, at most `query.limit`."""
    before = END if query.before is None else query.before
    if query.id is not None:
        # Above every digit of an id lies "~".
        found = tx.all("rows_with_id", (query.id, f"{query.id}~", before, SIFTED))
        return _sift(query, sorted(found, key=_descending))
    if query.tag is not None:
        return _sift(query, tx.all("rows_with_tag", (query.tag, before, SIFTED)))
    if query.schedule is not None:
        return _sift(query, tx.all("rows_of_schedule", (query.schedule, before, SIFTED)))
    if query.name is None and query.function is None and query.lane is None:
        return Page(_newest(tx, query, before), None)
    return _compare(tx, query, before)


def _newest(tx: Transaction, query: Query, before: int) -> list[Row]:
    # From an index, no row too many.
    if not query.states:
        return [_row(values) for values in tx.all("rows_from", (before, query.limit))]
    parts = [tx.all("rows_in_state", (int(state), before, query.limit)) for state in set(query.states)]
    newest = sorted((values for part in parts for values in part), key=_descending)
    return [_row(values) for values in newest[: query.limit]]


def _descending(values: Sequence[int]) -> int:
    return -values[0]


def _sift(query: Query, found: list[Any]) -> Page:
    rows = [row for row in map(_row, found) if _matches(row, query)][: query.limit]
    return Page(rows, found[-1][0] if len(found) >= SIFTED else None)


def _compare(tx: Transaction, query: Query, before: int) -> Page:
    span = spans.span(tx, query.name, query.function)
    if span is None:
        return Page([], None)
    first, last = span
    before = min(before, last + 1)
    found = tx.one("stretch_end", (before, STRETCH - 1))
    end = 0 if found is None else found[0]
    values = {
        "before": before,
        "end": max(end, first),
        "name": query.name,
        "function": query.function,
        "lane": query.lane,
        "states": json.dumps([int(state) for state in query.states]) if query.states else None,
        "limit": query.limit,
    }
    rows = [_row(row) for row in tx.all("rows_between", values)]
    return Page(rows, end if end > first else None)


def _matches(row: Row, query: Query) -> bool:
    return (
        (not query.states or row.state in query.states)
        and (query.id is None or row.id.startswith(query.id))
        and (query.name is None or row.name == query.name)
        and (query.function is None or row.function == query.function)
        and (query.lane is None or row.lane == query.lane)
        and (query.tag is None or query.tag in row.tags)
        and (query.schedule is None or row.schedule == query.schedule)
    )


def _row(values: Sequence[Any]) -> Row:
    row = Row(*values)
    return row._replace(state=JobState(row.state), after=_strings(values[15]), tags=_strings(values[16]))


def _strings(text: str | None) -> tuple[str, ...]:
    return tuple(json.loads(text)) if text else ()


def outcomes(tx: Transaction, ids: Sequence[str]) -> list[StoredOutcome]:
    """Of those that exist, in the order asked for."""
    found = (tx.one("outcome", (id,)) for id in ids)
    return [
        StoredOutcome(id, JobState(state), note, attempt, size, body or b"", file)
        for id, state, note, attempt, size, body, file in (row for row in found if row is not None)
    ]


def events(tx: Transaction, id: str | None, after: int, limit: int) -> list[Event]:
    """The log after number `after`: of one job, or of all.

    Raises:
        NoSuchJob: there is none of that id.
    """
    tx.write_log()
    if id is None:
        return [
            Event(seq, job, kind, JobState(state), attempt, epoch, at, note)
            for seq, job, kind, state, attempt, epoch, at, note in tx.all("events", (after, limit))
        ]
    job = tx.one("job_by_id", (id,))
    if job is None:
        raise NoSuchJob(f"there is no job {id} (any more)")
    return [
        Event(seq, id, kind, JobState(state), attempt, epoch, at, note)
        for seq, kind, state, attempt, epoch, at, note in tx.all("events_of", (job[0], after, limit))
    ]


def tallies(tx: Transaction) -> dict[JobState, int]:
    """How many jobs are in each state."""
    return {state: tx.tally(state) for state in JobState}
