"""Remember beside the database how far it had come, so that what is lost from it does not go unnoticed.

SQLite reads a damaged or missing write-ahead log as a short one: commits that were answered for would be gone
without a word. So the number of the last committed event is kept in a file of its own, written after each
commit and never before. It is not synced: after a power failure it may be old, but never ahead of the database.

After a clean end it holds a digest of the whole database as well, if that is not too large: nothing may have
touched it until the next start.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

from asyncjobs.service import private
from asyncjobs.service.errors import StateRefused

DIGEST_UP_TO: int = 256 * 2**20
"""Bytes of a database that gets a digest: SHA-256 takes about 0.4 s for so many, at the end and at the start."""

_MAGIC = b"AJMARK1\n"
_RECORD = struct.Struct("<8sQQ32s")
_SUM = struct.Struct("<I")
_NO_DIGEST = bytes(32)


class Marked(NamedTuple):
    """What a mark says."""

    last_event: int
    size: int = 0
    """Of the database in bytes, where there is a digest."""
    digest: bytes = _NO_DIGEST

    @property
    def has_digest(self) -> bool:
        return self.digest != _NO_DIGEST


def path_of(database: Path) -> Path:
    """Where the mark of a database lies."""
    return database.with_name(f"{database.name}-mark")


def read(database: Path) -> Marked | None:
    """The mark of a database; None: it has none, or none that can be read.

    Raises:
        StateRefused: something else lies in its place.
    """
    try:
        content = private.read_private(path_of(database))
    except FileNotFoundError:
        return None
    with contextlib.suppress(struct.error):
        magic, last_event, size, digest = _RECORD.unpack_from(content)
        (checksum,) = _SUM.unpack_from(content, _RECORD.size)
        if magic == _MAGIC and checksum == zlib.crc32(content[: _RECORD.size]):
            return Marked(last_event, size, digest)
    return None


def digest_of(database: Path) -> bytes:
    """SHA-256 of a file. Reads all of it."""
    with open(private.open_private(database), "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


class Mark:
    """The mark of a database that is about to be written. Runs on the store's thread.

    Once it is made, on disk, a digest of the last clean end is void: make it before the first write.
    """

    def __init__(self, database: Path, last_event: int) -> None:
        self._database = database
        self._fd: int | None = private.open_private(path_of(database), os.O_RDWR | os.O_CREAT)
        try:
            self._write(self._fd, Marked(last_event))
            os.fsync(self._fd)
        except BaseException:
            os.close(self._fd)
            raise

    def set(self, last_event: int) -> None:
        """The transaction that wrote this event is on disk. Takes a microsecond or two; not synced.

        Raises:
            OSError: the disk failed.
        """
        if self._fd is None:
            return
        try:
            self._write(self._fd, Marked(last_event))
        except OSError as error:
            # Some file systems need a new block to overwrite an old one. A mark that is late says less, and
            # nothing wrong.
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise

    def close(self, last_event: int, *, is_clean: bool) -> None:
        """The connection is closed; `is_clean`: with nothing left in the log. Does nothing the second time."""
        fd, self._fd = self._fd, None
        if fd is None:
            return
        try:
            if is_clean and (size := os.stat(self._database).st_size) <= DIGEST_UP_TO:
                # The database is on disk before the digest of it can be: closing has synced it.
                self._write(fd, Marked(last_event, size, digest_of(self._database)))
                os.fsync(fd)
        finally:
            os.close(fd)

    def _write(self, fd: int, marked: Marked) -> None:
        record = _RECORD.pack(_MAGIC, *marked)
        # Within one page of one file: a process that is killed has written all of it, or nothing.
        os.pwrite(fd, record + _SUM.pack(zlib.crc32(record)), 0)


def check(database: Path, marked: Marked, last_event: int) -> None:
    """Raises StateRefused if the database has not come as far as its mark says."""
    if last_event < marked.last_event:
        raise StateRefused(
            f"{database} ends with event {last_event}, but {marked.last_event} were written: accepted jobs are missing "
            "(its -wal file was removed or damaged, or an older copy was put in its place)"
        )
