"""Read what can be read of a damaged database into a new one: ``asyncjobs journal recover``.

    1  copy the database, its log and its mark aside; nothing is ever done to the copies
    2  on one more copy: apply the sound part of the log (`replay`), mend the header and the schema (`firstpages`)
    3  read every table row by row, around what cannot be read, into a new database
    4  make the new one consistent (`mending`), and put it in the place of the old one

Only for who holds the lock. Blocks for as long as it takes: about 10 s for a million rows.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from asyncjobs.service import private
from asyncjobs.service.errors import StateRefused
from asyncjobs.service.store import creating, firstpages, mark, mending, replay

# `outcomes` before `jobs`: the schema lets nobody add an outcome to a job that has ended.
TABLES = (
    "outcomes", "calls", "checkpoints", "tags", "edges", "telling", "trash", "pauses", "limits", "starts", "schedules",
    "events", "jobs", "counters",
)  # fmt: skip
"""What is read, in the order in which it is written. `moves`, `tallies` and `spans` are made anew."""

_HIGHEST = 2**40
"""No table has had so many rows."""
_PATIENCE = 4_000
"""So many questions in a row that find nothing, some 2,000 rows; what is left of the table then is given up."""


@dataclass
class Salvaged:
    """What became of it."""

    aside: Path
    """The folder with the files as they were."""
    rows: dict[str, int] = field(default_factory=dict)
    """Per table: read and written again."""
    unreadable: dict[str, int] = field(default_factory=dict)
    """Per table: places (not rows) that could not be read, and rows that contradict the schema."""
    damaged_frames: int = 0
    """Pages of the log that were left out."""
    notes: list[str] = field(default_factory=list)
    """What was done to make the rest consistent, one line each."""


def salvage(database: Path) -> Salvaged:
    """Put a new database with all that can be read in the place of `database`.

    Raises:
        StateRefused: there is nothing, or nothing at all can be read; everything is as it was, but for the copies.
        OSError: the disk is full, or failed.
    """
    report = Salvaged(_copy_aside(database))
    source = report.aside / "work" / database.name
    fresh = database.with_name(f".{database.name}.recovered")
    try:
        _prepare(report, source)
        creating.build(fresh)
        marked = mark.read(database)
        _install(database, fresh, _rebuild(report, source, fresh, marked.last_event if marked else 0))
    finally:
        shutil.rmtree(source.parent)
        fresh.unlink(missing_ok=True)
    return report


def _rebuild(report: Salvaged, source: Path, fresh: Path, last_event: int) -> int:
    """Fill the new database from the copy; the number of its last event."""
    with closing(_open_for_filling(fresh)) as target:
        target.execute("BEGIN IMMEDIATE")
        _fill(report, source, target)
        if not report.rows.get("jobs"):
            raise _nothing(report)
        if "deadline" not in _columns(source, target, "jobs"):
            mending.take_deadlines_from_terms(target)
        report.notes += mending.mend(target, last_event)
        target.execute("COMMIT")
        (last_event,) = target.execute("SELECT value FROM counters WHERE name = 'last_event'").fetchone()
    return int(last_event)


def _nothing(report: Salvaged) -> StateRefused:
    return StateRefused(f"nothing can be read; the files are as they were, and copied to {report.aside}")


def _copy_aside(database: Path) -> Path:
    """The files as they are, in a new folder beside the database."""
    files = [database.with_name(database.name + suffix) for suffix in ("", "-wal", "-mark")]
    found = [path for path in files if private.check_absent_or_file(path)]
    if not found:
        raise StateRefused(f"there is no {database}, and nothing that belongs to it")
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    number, aside = 0, database.with_name(f"before-recover-{stamp}")
    while os.path.lexists(aside):
        number += 1
        aside = database.with_name(f"before-recover-{stamp}-{number}")
    for folder in (aside, aside / "work"):
        os.mkdir(folder, private.DIRECTORY_MODE)
    for path in found:
        _copy(path, aside / path.name)
    private.sync_directory(aside)
    return aside


def _copy(source: Path, target: Path) -> None:
    with open(private.open_private(source), "rb") as reading:
        fd = private.open_private(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        with open(fd, "wb") as writing:
            shutil.copyfileobj(reading, writing, 2**20)
            writing.flush()
            os.fsync(writing.fileno())


def _prepare(report: Salvaged, source: Path) -> None:
    """A copy to read from: with its log applied, and a first page that SQLite takes."""
    original = report.aside / source.name
    if original.exists():
        _copy(original, source)
    else:
        os.close(private.open_private(source, os.O_RDWR | os.O_CREAT | os.O_EXCL))
    log = report.aside / f"{source.name}-wal"
    if log.exists():
        report.damaged_frames = replay.replay(log.read_bytes(), source).damaged
        if report.damaged_frames:
            report.notes.append(f"{report.damaged_frames} pages of the log are damaged, and were left out")
    firstpages.fit_size(source)
    if not _is_readable(source):
        _mend_first_pages(report, source)


def _mend_first_pages(report: Salvaged, source: Path) -> None:
    """Put the header, or the header and the schema, of a new database there: they are the same in all of ours."""
    template = source.with_name("template.db")
    creating.build(template)
    for what, put in (("header", firstpages.put_header), ("schema", firstpages.put_schema)):
        put(template, source)
        firstpages.fit_size(source)
        if _is_readable(source):
            report.notes.append(f"the {what} was damaged, and that of a new database was put in its place")
            return
    raise _nothing(report)


def _is_readable(source: Path) -> bool:
    try:
        with closing(_open_for_reading(source)) as connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema")}
            return tables >= {"jobs", "events", "calls"}
    except sqlite3.Error:
        return False


def _open_for_reading(source: Path) -> sqlite3.Connection:
    # Immutable: no log, no locks; all is in the file by now.
    uri = f"file:{quote(os.fspath(source))}?mode=ro&immutable=1"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None)
    connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
    return connection


def _open_for_filling(fresh: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(fresh, isolation_level=None)
    connection.execute("PRAGMA journal_mode = DELETE")
    connection.execute("PRAGMA foreign_keys = OFF")
    return connection


def _fill(report: Salvaged, source: Path, target: sqlite3.Connection) -> None:
    for table in TABLES:
        names = _columns(source, target, table)
        if not names:  # of a later version
            continue
        verb = "REPLACE" if table == "counters" else "INSERT"
        insert = f"{verb} INTO {table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"
        reader = _Reader(source, table, names)
        kept = 0
        for row in reader.rows():
            try:
                target.execute(insert, row)
            except sqlite3.Error:  # a bit that was hit made it break a rule of the schema
                reader.unreadable += 1
            else:
                kept += 1
        report.rows[table] = kept
        if reader.unreadable:
            report.unreadable[table] = reader.unreadable


def _columns(source: Path, target: sqlite3.Connection, table: str) -> list[str]:
    """Those that both have: an older database has fewer."""
    with closing(_open_for_reading(source)) as connection:
        had = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
    return [row[1] for row in target.execute(f"PRAGMA table_info({table})") if row[1] in had]


class _Reader:
    """The rows of one table, around what cannot be read; one row in memory at a time.

    A table with row numbers goes on behind the last row that could be read, and a span whose first row fails is
    taken in halves. The others are read from both ends.
    """

    def __init__(self, source: Path, table: str, names: list[str]) -> None:
        self._connection = _open_for_reading(source)
        self._table = table
        self._columns = ", ".join(names)
        self.unreadable = 0
        self._failed = False

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Each row once."""
        with closing(self._connection):
            try:
                self._connection.execute(f"SELECT rowid FROM {self._table} LIMIT 0").fetchall()
            except sqlite3.Error:
                yield from self._from_both_ends()
            else:
                yield from self._in_spans()

    def _read(self, rest: str, values: tuple[int, ...] = ()) -> Iterator[tuple[Any, ...]]:
        """What can be read of an answer; `_failed` says whether there is more."""
        self._failed = False
        try:
            yield from self._connection.execute(f"SELECT {self._columns} FROM {self._table} {rest}", values)
        except (sqlite3.Error, OverflowError, MemoryError):
            self._failed = True

    def _in_spans(self) -> Iterator[tuple[Any, ...]]:
        spans, in_vain = [(1, _HIGHEST)], 0
        while spans:
            low, high = spans.pop()
            last = low - 1
            # The row number comes first in every such table.
            for row in self._read("WHERE rowid BETWEEN ? AND ? ORDER BY rowid", (low, high)):
                last = max(last, row[0])
                yield row
            in_vain = 0 if last >= low else in_vain + 1
            if not self._failed:
                continue
            if last >= low:
                spans.append((last + 1, high))
            elif low == high or in_vain > _PATIENCE:
                self.unreadable += 1
            else:
                middle = (low + high) // 2
                spans += [(middle + 1, high), (low, middle)]

    def _from_both_ends(self) -> Iterator[tuple[Any, ...]]:
        two = "," in self._columns
        seen: set[tuple[Any, ...]] = set()
        for order in (
            "ORDER BY 1, 2" if two else "ORDER BY 1",
            "ORDER BY 1 DESC, 2 DESC" if two else "ORDER BY 1 DESC",
        ):
            for row in self._read(order):
                if row not in seen:
                    seen.add(row)
                    yield row
            if not self._failed:
                return
        self.unreadable += 1


def _install(database: Path, fresh: Path, last_event: int) -> None:
    """The new database gets the name; the log and the mark of the old one, which are copied, go."""
    fd = private.open_private(fresh, os.O_RDWR)
    os.fsync(fd)
    os.close(fd)
    # The log first: beside the new database it would be taken for the new one's. Whoever is killed in between
    # finds a database without its log, which its mark tells from a whole one: recover again, from the copies.
    for suffix in ("-wal", "-shm"):
        path = database.with_name(database.name + suffix)
        if private.check_absent_or_file(path):
            os.unlink(path)
    private.sync_directory(database.parent)
    os.replace(fresh, database)
    mark.Mark(database, last_event).close(last_event, is_clean=True)
    private.sync_directory(database.parent)
