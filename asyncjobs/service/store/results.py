"""Large outcomes as files beside the database: written and synced before the row that names them is.

One file per attempt, never written twice: an attempt whose end is not taken cannot touch the outcome that stands.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, cast

from asyncjobs.failpoint import point

LARGE = 256 * 2**10
"""Bytes above which an outcome is a file."""

_NEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC


class Results:
    """The folder; with None nothing is large. Everything here blocks on the disk."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def is_large(self, outcome: bytes) -> bool:
        """Whether it is to be a file."""
        return self._folder is not None and len(outcome) > LARGE

    def write(self, id: str, attempt: int, epoch: int, outcome: bytes) -> str:
        """Put it on disk; the name under which `read` finds it.

        Raises:
            OSError: with what was written removed.
        """
        name = f"{id[-2:]}/{id}.{epoch}.{attempt}"
        path = self._path(name)
        for folder in (path.parent.parent, path.parent):
            if not folder.is_dir():
                folder.mkdir(mode=0o700, exist_ok=True)
                _sync_folder(folder.parent)
        try:
            point("result.file")
            _write(path, outcome)
            _sync_folder(path.parent)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return name

    def read(self, name: str) -> bytes:
        """What was written under the name.

        Raises:
            OSError: somebody took it away.
        """
        with self.open(name) as stream:
            return stream.read()

    def open(self, name: str) -> BinaryIO:
        """The same, to be read piece by piece; whoever asked closes it."""
        file = os.open(self._path(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        return cast(BinaryIO, open(file, "rb", buffering=0))

    def remove(self, names: list[str]) -> None:
        """Delete what there is of them."""
        for name in names:
            self._path(name).unlink(missing_ok=True)

    def forget(self, ids: Iterable[str]) -> None:
        """Delete whatever there is for jobs that have no outcome."""
        if self._folder is None or not self._folder.is_dir():
            return
        for id in ids:
            for path in self._folder.glob(f"{id[-2:]}/{id}.*"):
                path.unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        assert self._folder is not None, "a store without a folder for results has no large ones"
        return self._folder / name


def _write(path: Path, outcome: bytes) -> None:
    with open(os.open(path, _NEW, 0o600), "wb", buffering=0) as stream:
        view = memoryview(outcome)
        while view:
            view = view[stream.write(view) :]
        os.fsync(stream.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
