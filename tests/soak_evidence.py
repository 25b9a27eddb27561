"""Hold what a soak has left behind against the promises: `judge`."""

from __future__ import annotations

import contextlib
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from soak_clients import AWAY, Story

from asyncjobs.service import envelope, outcome
from asyncjobs.service.store.checking import Evidence, check
from asyncjobs.service.store.history import read_calls, read_effects
from asyncjobs.service.store.rowchecks import Job
from asyncjobs.state import JobState

S = JobState


class Row(NamedTuple):
    """A job as the database has it in the end."""

    seq: int
    id: str
    state: JobState
    crashes: int
    max_crashes: int
    at_most_once: bool
    attempt: int
    schedule: str | None


def judge(story: Story, said: str) -> list[str]:
    """What was wrong. The service is gone.

    Args:
        said: all that it printed.
    """
    database, notes = story.state / "jobs.db", Path(story.notes)
    logs = [path.read_text() for path in (story.state / "logs").glob("service.log*")]
    key = (story.state / "key").read_bytes()

    def right(job: Job) -> bytes | None:
        order = story.ordered.get(story.replays.get(job.id, job.id))
        if order is None:
            return None
        return envelope.seal(key, job.id, outcome.encode_value(order.value, as_json=False))

    report = check(
        Evidence(
            database,
            calls=read_calls(_lines(story.folder / "history")),
            effects=read_effects(_lines(notes / "effects")),
            is_drained=True,
            oracle=right,
            bounds=dict.fromkeys(("submit", "cancel", "result"), AWAY + 15),
            stderr="\n".join([said, *logs]),
        )
    )
    rows = _rows(database)
    print(f"ended: {', '.join(f'{number} {state.name}' for state, number in _counted(rows).most_common())}")
    found = [str(violation) for violation in report.violations]
    found += _ends(story, rows)
    found += _fences(_lines(notes / "fences"))
    found += _checkpoints(_lines(notes / "marks"))
    found += _logs(story, rows)
    return found + [f"I12 left behind: {path}" for path in _litter(story.state, rows)]


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines(keepends=True) if path.exists() else []


def _rows(database: Path) -> list[Row]:
    columns = ", ".join(Row._fields)
    with contextlib.closing(sqlite3.connect(database)) as connection:
        found = connection.execute(f"SELECT {columns} FROM jobs ORDER BY seq").fetchall()
    return [Row(seq, id, S(state), *rest) for seq, id, state, *rest in found]


def _counted(rows: list[Row]) -> Counter[JobState]:
    return Counter(row.state for row in rows)


def _ends(story: Story, rows: list[Row]) -> Iterator[str]:
    """Each ended as its call says, or for a reason that is allowed."""
    by_order = {(order.options["name"], order.number): row for row in rows if (order := story.ordered.get(row.id))}
    for row in rows:
        order = story.ordered.get(story.replays.get(row.id, row.id))
        if order is None:
            if row.schedule is None:
                yield f"I2 {row.id} was submitted by nobody: {row}"
            elif row.state is not S.SUCCEEDED:
                yield f"{row.id} of a schedule ended as {row.state.name}"
            continue
        client = order.options["name"].rpartition("/")[0]
        parents = [by_order[f"{client}/{parent}", parent] for parent in order.parents]
        has_orphaned = any(parent.state is not S.SUCCEEDED for parent in parents)
        if has_orphaned != (row.state is S.CANCELLED) and row.id not in story.asked_to_stop:
            yield f"{row.id} ended as {row.state.name}, those before it as {[one.state.name for one in parents]}"
        if row.state is S.LOST and not (row.at_most_once or row.crashes > row.max_crashes):
            yield f"{row.id} is lost after {row.crashes} crashes; {row.max_crashes} were allowed"
        if row.state not in (order.end, S.LOST, S.CANCELLED):
            yield f"{row.id} ({order.fn.__name__}) ended as {row.state.name}, not {order.end.name}"


def _fences(lines: list[str]) -> Iterator[str]:
    """A number that no other start has, and that grows from attempt to attempt."""
    starts = sorted((job, int(attempt), int(fence)) for job, attempt, fence in map(str.split, lines))
    for fence, number in Counter(fence for _, _, fence in starts).items():
        if number > 1:
            yield f"I10 {number} starts had the fence {fence}"
    by_job: dict[str, list[int]] = defaultdict(list)
    for job, _, fence in starts:
        by_job[job].append(fence)
    yield from (f"I10 the fences of {job} were {fences}" for job, fences in by_job.items() if fences != sorted(fences))


def _checkpoints(lines: list[str]) -> Iterator[str]:
    """An attempt begins where the one before had been kept, or later: it may have died before it wrote that down."""
    kept: dict[str, int] = defaultdict(int)
    for job, attempt, what, step in map(str.split, lines):
        if what == "kept":
            kept[job] = max(kept[job], int(step))
        elif int(step) < kept[job]:
            yield f"{job}: attempt {attempt} began with step {step}, and {kept[job]} had been kept"


def _logs(story: Story, rows: list[Row]) -> Iterator[str]:
    """What a job printed last is in its log."""
    for row in rows:
        order = story.ordered.get(row.id)
        if order is None or order.fn.__name__ != "saying" or row.state is not S.SUCCEEDED:
            continue
        path = story.state / "logs" / "jobs" / row.id[-2:] / f"{row.id}.log"
        found = path.read_text() if path.exists() else ""
        if not found.endswith(f"\n{order.args[0]}\n"):
            yield f"the log of {row.id} ends with {found[-100:]!r}"


def _litter(state: Path, rows: list[Row]) -> Iterator[Path]:
    """Files that nobody needs any more."""
    with contextlib.closing(sqlite3.connect(state / "jobs.db")) as connection:
        wanted = {file for (file,) in connection.execute("SELECT file FROM outcomes WHERE file IS NOT NULL")}
    for path in (state / "results").rglob("*"):
        if path.is_file() and str(path.relative_to(state / "results")) not in wanted:
            yield path
    yield from (state / name for name in ("address.json", "jobs.db-wal", "socket") if (state / name).exists())
    yield from state.rglob("*.tmp")
