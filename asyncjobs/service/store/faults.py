"""What an error of SQLite means: a full disk, a broken one, or a fault in asyncjobs itself."""

from __future__ import annotations

import errno
import sqlite3

_PRIMARY = 0xFF
# The disk cannot be trusted after these: a failed fsync marks pages clean, so that a second one would succeed
# without having written anything.
_BROKEN = frozenset(
    {
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_NOMEM,
    }
)


def is_full(error: BaseException) -> bool:
    """Whether there was no space left; what was written before stands."""
    return isinstance(error, sqlite3.Error) and _code(error) == sqlite3.SQLITE_FULL


def is_out_of_space(error: OSError) -> bool:
    """The same of a file that we write ourselves."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def is_broken(error: BaseException) -> bool:
    """Whether the connection must not be used again."""
    return isinstance(error, sqlite3.Error) and _code(error) in _BROKEN


def is_damaged(error: BaseException) -> bool:
    """Whether the file itself is not what it has to be."""
    return isinstance(error, sqlite3.Error) and _code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & _PRIMARY
