"""One log file per job: what it printed, its beginning and its end.

Offsets count all bytes that were ever written; those in the middle of a very long log are gone. A log is
``AA/ID.log`` (AA: the last two digits of the id) for the first part, and ``AA/ID.log.OFFSET`` for the newest
parts of what came after, each named by where it begins.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

HEAD = 32 * 1024 * 1024
"""Bytes of the beginning that are kept."""
PART = 16 * 1024 * 1024
"""Bytes of each part after that; the newest two are kept."""
PARTS = 2


class Piece(NamedTuple):
    """Some of a log."""

    offset: int
    """Where it begins: later than was asked for, if what was there is gone."""
    data: bytes


def path_of(folder: Path, job: str) -> Path:
    """Where the log of a job begins; it may not be there."""
    return folder / job[-2:] / f"{job}.log"


def parts_of(path: Path) -> list[tuple[int, Path]]:
    """The parts of a log by the offsets at which they begin."""
    found = [(0, path)] if path.exists() else []
    for name in path.parent.glob(f"{path.name}.*"):
        start = name.name.rpartition(".")[2]
        if start.isdigit():
            found.append((int(start), name))
    return sorted(found)


def read(folder: Path, job: str, offset: int, limit: int) -> Piece:
    """At most `limit` bytes from `offset` on, or from the next that is still there. Empty: there are no more."""
    for start, path in parts_of(path_of(folder, job)):
        try:
            size = path.stat().st_size
            if offset < start + size:
                begin = max(offset, start)
                with open(path, "rb") as file:
                    return Piece(begin, os.pread(file.fileno(), limit, begin - start))
        except FileNotFoundError:  # it has just been overtaken
            continue
    return Piece(offset, b"")


def remove(folder: Path, job: str) -> None:
    """Remove all of a log."""
    for _, path in parts_of(path_of(folder, job)):
        path.unlink(missing_ok=True)


class JobLog:
    """The writing end. Opens its file at the first word; blocks as files do, some microseconds."""

    def __init__(self, folder: Path, job: str) -> None:
        self._path = path_of(folder, job)
        self._file = -1
        self._start = 0
        """Where the part that is being written begins."""
        self._size = 0
        """How long it is."""
        self._lost = 0
        self._is_open = False

    @property
    def end(self) -> int:
        """The offset of what will be written next."""
        return self._start + self._size

    def write(self, text: str) -> None:
        """Append it. What does not fit on the disk is lost, and the log says so once there is room."""
        data = memoryview(text.encode("utf-8", "backslashreplace"))
        try:
            if self._lost:
                self._append(memoryview(f"\n[asyncjobs: {self._lost} bytes found no room on the disk]\n".encode()))
                self._lost = 0
            self._append(data)
        except OSError:
            self._lost += len(data)

    def _append(self, data: memoryview) -> None:
        if not self._is_open:
            self._open()
        while data:
            room = (PART if self._start else HEAD) - self._size
            if room <= 0:
                self._next_part()
                continue
            written = os.write(self._file, data[:room])
            self._size += written
            data = data[written:]

    def _open(self) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        parts = parts_of(self._path)
        self._start, path = parts[-1] if parts else (0, self._path)
        self._file = _open(path)
        self._size = os.fstat(self._file).st_size
        self._is_open = True

    def _next_part(self) -> None:
        start = self._start + self._size
        file = _open(self._path.with_name(f"{self._path.name}.{start}"))
        os.close(self._file)
        self._file, self._start, self._size = file, start, 0
        for _, path in parts_of(self._path)[1:-PARTS]:
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the file; another write opens it again."""
        if self._is_open:
            os.close(self._file)
            self._is_open = False


def _open(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
