"""The disk under the databases: its kind, and how long it takes until something is really on it."""

from __future__ import annotations

import os
import sqlite3
import statistics
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

BLOCK = 4096
WRITES = 100


class Synced:
    """A file that is appended to and synchronised, as a database's log is; a context manager."""

    def __init__(self, folder: Path) -> None:
        self._file = os.open(folder / "synced", os.O_RDWR | os.O_CREAT, 0o600)
        self.seconds: list[float] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)

    def write(self) -> None:
        """Append a block, and time fdatasync alone."""
        os.write(self._file, os.urandom(BLOCK))
        began = time.perf_counter()
        (os.fdatasync if hasattr(os, "fdatasync") else os.fsync)(self._file)
        self.seconds.append(time.perf_counter() - began)


def table() -> dict[str, str]:
    """What the report says of it."""
    with tempfile.TemporaryDirectory() as folder, Synced(Path(folder)) as synced:
        for _ in range(WRITES):
            synced.write()
        median = statistics.median(synced.seconds)
        return {
            "disk": f"{_kind(Path(folder))}, fdatasync {median * 1e3:.2f} ms before",
            "SQLite": sqlite3.sqlite_version,
        }


def _kind(folder: Path) -> str:
    """The file system's name, from the longest mount point above the folder."""
    mounts = Path("/proc/self/mounts")
    if not mounts.exists():
        return "unknown"
    here = str(folder.resolve())
    found = [line.split()[1:3] for line in mounts.read_text().splitlines()]
    above = [(len(point), kind) for point, kind in found if here == point or here.startswith(point.rstrip("/") + "/")]
    return max(above, default=(0, "unknown"))[1]
