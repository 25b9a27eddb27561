"""Open the one connection with the settings that the promises need; copy the log over; close it."""

from __future__ import annotations

import os
import sqlite3
import sys
from pathlib import Path

from asyncjobs.failpoint import point

LOG_BYTES = 4 * 2**20
"""The usual length of the log beside the database."""

PRAGMAS = (
    # Nobody else opens it; and no shared-memory file lies beside it that could be lost or damaged.
    "locking_mode = EXCLUSIVE",
    "journal_mode = WAL",
    # A COMMIT returns when it is on disk; on macOS that takes more than an fsync.
    "synchronous = FULL",
    "fullfsync = ON",
    "checkpoint_fullfsync = ON",
    # By `checkpoint` only: SQLite itself would swallow the errors of it.
    "wal_autocheckpoint = 0",
    "journal_size_limit = 67108864",
    "foreign_keys = ON",
    "temp_store = MEMORY",
    "cache_size = -16000",
    "trusted_schema = OFF",
    "cell_size_check = ON",
)


def connect(path: Path) -> sqlite3.Connection:
    """The connection; the file is made, for its owner only, if there is none. For the calling thread."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    # Room for all statements, those for several rows once for each number of rows.
    connection = sqlite3.connect(path, isolation_level=None, cached_statements=512)
    try:
        for pragma in PRAGMAS:
            connection.execute(f"PRAGMA {pragma}").fetchall()
    except BaseException:
        connection.close()
        raise
    return connection


def lengthen_log(connection: sqlite3.Connection) -> None:
    """Let the log beside the database have its usual length from the start.

    To write over blocks that a file has takes a third of the time of a write that makes it longer: 0.15 ms and 0.4 ms
    for a commit of six pages on a virtual disk. What is written here is rolled back. Does nothing on a small disk.
    """
    path = connection.execute("PRAGMA database_list").fetchone()[2]
    system = os.statvfs(path)
    if system.f_bavail * system.f_frsize < LOG_BYTES * 64:
        return
    (pages,) = connection.execute("PRAGMA cache_size").fetchone()
    # What does not fit into the cache is written to the log before the end of its transaction.
    connection.execute("PRAGMA cache_size = 8")
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("INSERT INTO trash (file) VALUES (replace(hex(zeroblob(?)), '00', '....'))", (LOG_BYTES // 4,))
    connection.execute("ROLLBACK")
    connection.execute(f"PRAGMA cache_size = {pages}")


def checkpoint(connection: sqlite3.Connection, mode: str = "PASSIVE") -> None:
    """Copy the log beside the database into it. Blocks for two fsyncs and the copying."""
    point("checkpoint")
    connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchall()


def close(connection: sqlite3.Connection, *, is_sound: bool) -> None:
    """Close it, with the log copied over unless the disk has failed.

    After an error of the disk it is left to the next opening, where Python can say so (3.12).
    """
    if connection.in_transaction:
        connection.rollback()
    if not is_sound and sys.version_info >= (3, 12):
        connection.setconfig(sqlite3.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, True)
    connection.close()
