"""Make a new database: whole and on disk before it has its name.

A service that is killed meanwhile leaves nothing that the next one could take for a database that lost its jobs.
"""

from __future__ import annotations

import os
from pathlib import Path

from asyncjobs.service import private
from asyncjobs.service.store.connecting import close, connect
from asyncjobs.service.store.migrating import migrate

_PARTS = ("", "-wal", "-shm", "-journal")


def create(database: Path) -> None:
    """An empty database, 0600 from birth. Blocks for a few fsyncs. Only for who holds the lock.

    Raises:
        StateRefused: something that is not ours lies in the way.
    """
    fresh = database.with_name(f".{database.name}.new")
    build(fresh)
    os.replace(fresh, database)
    private.sync_directory(database.parent)


def build(fresh: Path) -> None:
    """An empty database at `fresh`, on disk, in the place of what a killed process left of one there."""
    for part in _PARTS:
        left = fresh.with_name(fresh.name + part)
        if private.check_absent_or_file(left):
            os.unlink(left)
    os.close(private.open_private(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL))
    connection = connect(fresh)
    try:
        migrate(connection)
        # Closing would copy the log over as well, but swallow an error of it: the database would get its name, and
        # all that it is to hold would lie in a log that has another.
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    finally:
        close(connection, is_sound=True)
