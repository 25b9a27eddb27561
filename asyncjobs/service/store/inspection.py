"""Look at a database before it is opened for writing, and refuse what would lose or hide jobs.

Changes no byte of the database and its log. What is always looked at takes milliseconds: what kind of file it
is, its header, its schema, its counters, and its mark (`mark`). What grows with the database is bounded: after a
clean end a digest up to 256 MiB (650 MB/s), after a crash SQLite's own check up to 64 MiB (90 MB/s); `check_all`
does it for any size.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from asyncjobs.service import private
from asyncjobs.service.errors import StateRefused
from asyncjobs.service.store import mark
from asyncjobs.service.store.faults import is_broken, is_damaged
from asyncjobs.service.store.migrating import VERSION
from asyncjobs.service.store.queries import SQL

CHECK_UP_TO: int = 64 * 2**20
"""Bytes of a database that SQLite checks as a whole after a crash."""

_MAGIC = b"SQLite format 3\x00"
_HEADER = 100
_TABLES = frozenset({"calls", "counters", "edges", "events", "jobs", "outcomes", "tags", "tallies"})
_PROBLEMS = 5


class Inspection(NamedTuple):
    """What was found; the database may be opened."""

    is_new: bool
    """There is none yet."""
    last_event: int = 0
    was_clean: bool = True
    """It was closed as it should be, and nothing has touched it since; False: after a crash, or not known."""


def inspect(database: Path) -> Inspection:
    """Whether `database` may be opened for writing. Blocks for up to a second.

    Raises:
        StateRefused: it may not; names the path, the reason and what to do. Nothing was changed.
        sqlite3.Error: the disk is full, or fails.
    """
    marked = mark.read(database)
    if not _look_at_files(database):
        _check_absence(database, marked)
        return Inspection(is_new=True)
    size = _check_header(database)
    has_log = _size_of(_beside(database, "-wal")) > 0
    was_clean = marked is not None and marked.has_digest and not has_log
    if marked is not None and was_clean:
        _check_digest(database, size, marked)
    with reading(database) as connection:
        last_event = _check_content(database, connection)
        if marked is not None:
            with _advising(database):
                mark.check(database, marked, last_event)
        if not was_clean and size <= CHECK_UP_TO:
            _refuse_if_damaged(database, _problems(connection))
    return Inspection(False, last_event, was_clean)


def check_all(database: Path) -> list[str]:
    """What SQLite finds wrong with all of a database that is at rest; empty: nothing. Reads all of it.

    Raises:
        StateRefused: it cannot even be opened.
    """
    if not _look_at_files(database):
        raise StateRefused(f"{database} does not exist")
    _check_header(database)
    with reading(database) as connection:
        return _problems(connection)


def advice(database: Path) -> str:
    """What to do about a damaged database."""
    return (
        f"It was left as it is. Put a backup in its place, or salvage what can be read: asyncjobs journal recover "
        f"--dir {database.parent}"
    )


def _look_at_files(database: Path) -> bool:
    """Whether the database exists; each file of it that does is a plain one of ours (F80, F97)."""
    found = private.check_absent_or_file(database)
    for suffix in ("-wal", "-shm", "-journal"):
        private.check_absent_or_file(_beside(database, suffix))
    return found


def _check_absence(database: Path, marked: mark.Marked | None) -> None:
    if _size_of(_beside(database, "-wal")) > 0 or (marked is not None and marked.last_event > 0):
        raise StateRefused(
            f"{database} is gone, but what belongs to it is there: it was moved or removed. Put it back; to begin "
            f"anew, move {mark.path_of(database)} and {_beside(database, '-wal')} away too"
        )


def _check_header(database: Path) -> int:
    """The size of the file; its first bytes are those of a database of ours, or of an older asyncjobs."""
    with open(private.open_private(database), "rb") as file:
        header = file.read(_HEADER)
        size = os.fstat(file.fileno()).st_size
    if size == 0:
        raise StateRefused(f"{database} is empty, and so lost what was in it. {advice(database)}")
    if header[: len(_MAGIC)] != _MAGIC:
        raise StateRefused(f"{database} is not a database (SQLite). {advice(database)}")
    if len(header) < _HEADER:
        raise StateRefused(f"{database} was cut off after {size} bytes. {advice(database)}")
    _check_version(database, int.from_bytes(header[60:64], "big"))
    return size


def _check_version(database: Path, version: int) -> None:
    if version > VERSION:
        raise StateRefused(
            f"{database} has version {version}, and this asyncjobs knows those up to {VERSION}: install the newer "
            "asyncjobs again, or serve another directory"
        )


def _check_digest(database: Path, size: int, marked: mark.Marked) -> None:
    if size != marked.size or mark.digest_of(database) != marked.digest:
        raise StateRefused(
            f"{database} was changed since the service ended ({size} bytes now, {marked.size} then). If that was you, "
            f"and you are sure of it, remove {mark.path_of(database)}. {advice(database)}"
        )


def _check_content(database: Path, connection: sqlite3.Connection) -> int:
    """The number of the last event; the tables are there, and the counters can be read."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    _check_version(database, version)
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if version == 0 or not tables >= _TABLES:
        raise StateRefused(f"{database} is not a database of asyncjobs: its tables are others. {advice(database)}")
    return int(connection.execute(SQL["last_event"]).fetchone()[0])


def _problems(connection: sqlite3.Connection) -> list[str]:
    found = [line for (line,) in connection.execute(f"PRAGMA integrity_check({_PROBLEMS})") if line != "ok"]
    orphans = connection.execute("PRAGMA foreign_key_check").fetchmany(_PROBLEMS)
    return found + [f"row {row} of {table} belongs to no row of {parent}" for table, row, parent, _ in orphans]


def _refuse_if_damaged(database: Path, problems: list[str]) -> None:
    if problems:
        raise StateRefused(f"{database} is damaged: {'; '.join(problems)}. {advice(database)}")


@contextmanager
def reading(database: Path) -> Iterator[sqlite3.Connection]:
    """A connection that cannot write.

    To read a log SQLite makes an index of it, which takes 32 KiB of the disk; without one nothing is made.
    """
    log = "" if _size_of(_beside(database, "-wal")) else "&immutable=1"
    uri = f"file:{quote(os.fspath(database))}?mode=ro{log}"
    made = [path for path in (_beside(database, "-shm"), _beside(database, "-wal")) if not path.exists()]
    try:
        with _advising(database), closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
            connection.execute("PRAGMA query_only = 1")
            yield connection
    finally:
        for path in made:
            path.unlink(missing_ok=True)


@contextmanager
def _advising(database: Path) -> Iterator[None]:
    """What SQLite says about a damaged database, as a refusal that says what to do."""
    try:
        yield
    except sqlite3.Error as error:
        if is_broken(error) and not is_damaged(error):
            raise  # the disk is full, or fails
        raise StateRefused(f"{database} is damaged: {error}. {advice(database)}") from None


def _beside(database: Path, suffix: str) -> Path:
    return database.with_name(database.name + suffix)


def _size_of(path: Path) -> int:
    try:
        return os.lstat(path).st_size
    except FileNotFoundError:
        return 0
