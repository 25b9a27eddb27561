"""Make what was salvaged of a database consistent: nothing is lost without a word, nothing runs that cannot.

Works on an open transaction of a new database whose rows came from a damaged one (`salvage`).
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator

from asyncjobs.state import MOVES, JobState

_ENDED = "state >= 4"
_CANNOT_RUN = "the database was damaged: its call was lost"
_PARENT_GONE = "the database was damaged: a job that it comes after was lost"


def mend(target: sqlite3.Connection, last_event: int) -> list[str]:
    """What was done, one line for each kind of it. `last_event`: the highest number that was ever given."""
    target.execute("DELETE FROM moves")
    target.executemany(
        "INSERT INTO moves (before, after) VALUES (?, ?)",
        [(int(state), int(after)) for state, moves in MOVES.items() for after in set(moves.values())],
    )
    _set_counters(target, last_event)
    notes = [note for step in _STEPS for note in step(target)]
    _count(target)
    return notes


def take_deadlines_from_terms(target: sqlite3.Connection) -> None:
    """For rows of a database before version 3, as its migration does; but terms may be damaged here."""
    target.execute(
        f"""
        UPDATE jobs SET deadline = (
            SELECT terms ->> '$.deadline' FROM (SELECT CAST(terms AS TEXT) AS terms FROM calls WHERE seq = jobs.seq)
            WHERE CASE WHEN json_valid(terms) THEN json_type(terms, '$.deadline') IN ('real', 'integer') END
        )
        WHERE NOT ({_ENDED})
        """
    )


def _set_counters(target: sqlite3.Connection, last_event: int) -> None:
    for name, table in (("last_event", "events"), ("last_job", "jobs")):
        (highest,) = target.execute(f"SELECT coalesce(max(seq), 0) FROM {table}").fetchone()
        _raise_counter(target, name, max(highest, last_event if name == "last_event" else 0))
    (epoch,) = target.execute(
        "SELECT coalesce(max(epoch), 0) FROM (SELECT epoch FROM jobs UNION SELECT epoch FROM events)"
    ).fetchone()
    _raise_counter(target, "epoch", epoch)
    (job,) = target.execute("SELECT coalesce(max(job), 0) FROM events").fetchone()
    _raise_counter(target, "last_job", job)


def _raise_counter(target: sqlite3.Connection, name: str, value: int) -> None:
    target.execute("INSERT OR IGNORE INTO counters (name, value) VALUES (?, 0)", (name,))
    target.execute("UPDATE counters SET value = max(value, ?) WHERE name = ?", (value, name))


def _drop_what_belongs_to_nothing(target: sqlite3.Connection) -> Iterator[str]:
    for table, column in (
        ("calls", "seq"),
        ("outcomes", "seq"),
        ("checkpoints", "seq"),
        ("tags", "seq"),
        ("telling", "parent"),
    ):
        gone = target.execute(f"DELETE FROM {table} WHERE {column} NOT IN (SELECT seq FROM jobs)").rowcount
        if gone:
            yield f"{gone} rows of {table} belong to jobs that cannot be read, and were left out"
    gone = target.execute("DELETE FROM events WHERE job NOT IN (SELECT seq FROM jobs)").rowcount
    if gone:
        yield f"{gone} events belong to jobs that cannot be read, or that were removed, and were left out"


def _end_what_cannot_run(target: sqlite3.Connection) -> Iterator[str]:
    lost = [
        seq
        for (seq,) in target.execute(f"SELECT seq FROM jobs WHERE NOT {_ENDED} AND seq NOT IN (SELECT seq FROM calls)")
    ]
    for seq in lost:
        _end(target, seq, JobState.LOST, _CANNOT_RUN)
    if lost:
        yield f"{len(lost)} jobs ended LOST: their calls cannot be read"


def _end_orphans(target: sqlite3.Connection) -> Iterator[str]:
    """A job that waits for one that is not there would wait for ever."""
    orphans = [
        seq
        for (seq,) in target.execute(
            f"SELECT seq FROM jobs WHERE NOT {_ENDED} AND parents > (SELECT count(*) FROM edges e JOIN jobs p "
            "ON p.seq = e.parent WHERE e.child = jobs.seq AND e.is_open = 1)"
        )
    ]
    for seq in orphans:
        _end(target, seq, JobState.CANCELLED, _PARENT_GONE)
    target.execute(
        "DELETE FROM edges WHERE parent NOT IN (SELECT seq FROM jobs) OR child NOT IN (SELECT seq FROM jobs)"
    )
    target.execute(f"DELETE FROM edges WHERE child IN (SELECT seq FROM jobs WHERE {_ENDED})")
    # Whoever came after one that has been ended here learns of it at the next opening.
    target.execute(
        "INSERT OR IGNORE INTO telling (parent) SELECT DISTINCT e.parent FROM edges e JOIN jobs p ON p.seq = e.parent "
        "WHERE e.is_open = 1 AND p.state >= 4"
    )
    if orphans:
        yield f"{len(orphans)} jobs were CANCELLED: jobs that they come after cannot be read"


def _end(target: sqlite3.Connection, seq: int, state: JobState, note: str) -> None:
    """The row as it is when a job ends; through RUNNING, where the table of moves has no way from where it is."""
    (before,) = target.execute("SELECT state FROM jobs WHERE seq = ?", (seq,)).fetchone()
    if state not in MOVES[JobState(before)].values():
        target.execute("UPDATE jobs SET state = 0, place = 0 WHERE seq = ? AND state = 2", (seq,))
        target.execute("UPDATE jobs SET state = 1, place = NULL WHERE seq = ?", (seq,))
    values = (int(state), time.time(), note, seq)
    target.execute("UPDATE jobs SET state = ?, place = NULL, ended_at = ?, note = ? WHERE seq = ?", values)
    target.execute("DELETE FROM checkpoints WHERE seq = ?", (seq,))


def _complete_the_log(target: sqlite3.Connection) -> Iterator[str]:
    """Every job has a first line, and its last one says where it is."""
    silent = target.execute(
        "SELECT seq, state, attempt, epoch, note FROM jobs WHERE state <> coalesce((SELECT state FROM events "
        "WHERE job = jobs.seq AND kind <> 'late_outcome_discarded' ORDER BY seq DESC LIMIT 1), -1)"
    ).fetchall()
    (number,) = target.execute("SELECT value FROM counters WHERE name = 'last_event'").fetchone()
    for seq, state, attempt, epoch, note in silent:
        number += 1
        kind = JobState(state).name.lower() if state >= 4 else "recovered"
        values = (number, seq, kind, state, attempt, epoch, time.time(), note or "the database was damaged")
        target.execute(
            "INSERT INTO events (seq, job, kind, state, attempt, epoch, at, note) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            values,
        )
    _raise_counter(target, "last_event", number)
    if silent:
        yield f"the log of {len(silent)} jobs ended too early, and got a last line"


def _count(target: sqlite3.Connection) -> None:
    """What is kept in step with the rows elsewhere."""
    target.execute("UPDATE tallies SET jobs = (SELECT count(*) FROM jobs WHERE jobs.state = tallies.state)")
    for field in ("name", "function"):
        target.execute(
            "INSERT INTO spans (field, value, first, last, jobs) "
            f"SELECT '{field}', {field}, min(seq), max(seq), count(*) FROM jobs GROUP BY {field}"
        )
    _raise_counter(target, "pruned_events", 0)
    target.execute(
        "UPDATE counters SET value = (SELECT value FROM counters WHERE name = 'last_event') - (SELECT count(*) FROM "
        "events) WHERE name = 'pruned_events'"
    )


_STEPS = (_drop_what_belongs_to_nothing, _end_what_cannot_run, _end_orphans, _complete_the_log)
