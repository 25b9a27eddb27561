"""Copy a database that is in use, with all that belongs to it: the copy is a state directory to serve.

`start` and `finish` run on any thread, `copy_database` on the store's; writers wait for a few milliseconds at a
time. The key goes along, for without it no call and no outcome in the copy can be opened: the copy is as secret
as the original, and has the same modes. A log that grows meanwhile is copied as long as it was.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from asyncjobs.failpoint import point
from asyncjobs.service import private
from asyncjobs.service.errors import BadRequest, StorageBroken, StorageFull
from asyncjobs.service.store import inspection
from asyncjobs.service.store.faults import is_full

PAGES: int = 256
"""So many are copied (1 MiB) before others have their turn: about 7 ms."""
_PIECE = 2**20

Tell = Callable[[int], None]
"""Told of so many bytes more that are copied, on the thread that copies."""


class Source(NamedTuple):
    """What belongs to a database, and goes along."""

    state: Path
    """The state directory."""
    results: Path | None
    has_logs: bool
    """The logs of jobs and their figures, too."""


def start(target: Path) -> Path:
    """Make the folder that the copy grows in: `target` with ``.partial``; it gets its name by `finish`.

    Raises:
        BadRequest: `target` exists, is no absolute path, or its folder is missing.
        StateRefused: a folder of that name is there and is not ours.
    """
    if not target.is_absolute() or ".." in target.parts:
        raise BadRequest(f"a backup needs an absolute path, not {str(target)!r}")
    if os.path.lexists(target):
        raise BadRequest(f"{target} exists: a backup is a new folder")
    partial = target.with_name(f"{target.name}.partial")
    try:
        os.mkdir(partial, private.DIRECTORY_MODE)
    except FileExistsError:
        raise BadRequest(f"{partial} exists: another backup is being made, or one was broken off; remove it") from None
    except OSError as error:
        raise BadRequest(f"{partial} cannot be made: {error.strerror}") from None
    return partial


def copy_database(source: sqlite3.Connection, partial: Path, between: Callable[[], None], tell: Tell) -> None:
    """The database as it is at the end of this call. `between` is called after each `PAGES`, and may use `source`.

    Raises:
        StorageFull, StorageBroken: of the disk that the copy is made on. What `between` raises comes out as it is.
    """
    path = partial / "jobs.db"
    os.close(private.open_private(path, os.O_RDWR | os.O_CREAT | os.O_EXCL))
    turn = _Turn(between, tell, source.execute("PRAGMA page_size").fetchone()[0])
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as target:
            target.execute("PRAGMA journal_mode = OFF")
            target.execute("PRAGMA synchronous = OFF")  # `finish` syncs the whole file once
            source.backup(target, pages=PAGES, progress=turn)
    except sqlite3.Error as error:
        if turn.error is not None:
            raise turn.error from None
        raise _failed(partial, error) from error
    finally:
        turn.error = None  # it holds the frames of this call


def finish(partial: Path, target: Path, source: Source, tell: Tell) -> None:
    """Add what else belongs to it, check the copy, put it on disk, and give it its name.

    Raises:
        StorageFull, StorageBroken: of the disk that the copy is made on, or the copy is not sound.
        StateRefused: what is to be copied is not ours alone.
    """
    try:
        point("backup.finish")
        database = partial / "jobs.db"
        problems = inspection.check_all(database)
        if problems:
            raise StorageBroken(f"the copy {database} is damaged, and so may the database be: {'; '.join(problems)}")
        for name in _files_of(database):
            if source.results is not None:
                _copy_result(source.results, partial / "results", name, tell)
        for folder in ("logs/jobs", "figures") if source.has_logs else ():
            _copy_folder(source.state, partial, folder, tell)
        with contextlib.suppress(FileNotFoundError):
            private.write_private(partial / "key", private.read_private(source.state / "key"))
        for folder, _, files in os.walk(partial):
            for file in files:
                _sync(Path(folder) / file)
            private.sync_directory(Path(folder))
        os.rename(partial, target)
        private.sync_directory(target.parent)
    except OSError as error:
        if isinstance(error, StorageBroken | StorageFull):
            raise
        raise _failed(partial, error) from error


def abandon(partial: Path) -> None:
    """Remove what there is of a copy that will not be finished."""
    shutil.rmtree(partial, ignore_errors=True)


class _Turn:
    """Calls `between`, and keeps what it raises: `backup` would not tell it from an error of its own."""

    def __init__(self, between: Callable[[], None], tell: Tell, page: int) -> None:
        self._between = between
        self._tell = tell
        self._page = page
        self._copied = 0
        self.error: BaseException | None = None

    def __call__(self, status: int, remaining: int, total: int) -> None:
        copied = (total - remaining) * self._page
        self._tell(max(0, copied - self._copied))  # it begins anew where somebody writes in between
        self._copied = max(self._copied, copied)
        try:
            self._between()
        except BaseException as error:
            self.error = error
            raise


def _files_of(database: Path) -> list[str]:
    with closing(sqlite3.connect(f"file:{database}?mode=ro&immutable=1", uri=True)) as connection:
        return [name for (name,) in connection.execute("SELECT file FROM outcomes WHERE file IS NOT NULL")]


def _copy_result(results: Path, target: Path, name: str, tell: Tell) -> None:
    parts = PurePosixPath(name).parts
    if ".." in parts or os.path.isabs(name):
        raise StorageBroken(f"the database names {name!r} as the file of an outcome: it is damaged")
    try:
        with open(private.open_private(results / name), "rb") as source:
            folder = target
            private.make_directory(folder)
            for part in parts[:-1]:
                folder /= part
                private.make_directory(folder)
            with open(private.open_private(folder / parts[-1], os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as copy:
                _copy(source, copy, tell)
    except FileNotFoundError:
        return  # the job was pruned since the database was copied


def _copy_folder(state: Path, partial: Path, name: str, tell: Tell) -> None:
    """The plain files in a folder and below it; links are not followed, and not copied."""
    made = partial
    for part in PurePosixPath(name).parts:
        made /= part
        private.make_directory(made)
    for folder, folders, files in os.walk(state / name):
        below = partial / os.path.relpath(folder, state)
        for inner in folders:
            private.make_directory(below / inner)
        for file in files:
            _copy_file(Path(folder) / file, below / file, tell)


def _copy_file(source: Path, target: Path, tell: Tell) -> None:
    # A job may have made it, with a mode of its own: not `open_private`.
    try:
        fd = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENXIO, errno.EACCES):  # gone since, a link, a socket
            return
        raise
    with open(fd, "rb") as reading:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            with open(private.open_private(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as copy:
                _copy(reading, copy, tell)


def _copy(source: BinaryIO, target: BinaryIO, tell: Tell) -> None:
    """As many bytes as there are now: a log may grow as fast as it is copied."""
    left = os.fstat(source.fileno()).st_size
    while left > 0 and (piece := source.read(min(left, _PIECE))):
        target.write(piece)
        tell(len(piece))
        left -= len(piece)


def _sync(path: Path) -> None:
    fd = private.open_private(path, os.O_RDWR)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _failed(partial: Path, error: Exception) -> Exception:
    if is_full(error) or (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)):
        return StorageFull(f"the disk under {partial} is full: there is no backup")
    return StorageBroken(f"the backup {partial} could not be written: {error}")
