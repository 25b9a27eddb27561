"""Files on this machine."""

from __future__ import annotations

import os
from pathlib import Path

from asyncjobs.plotting.edition import Edition
from asyncjobs.plotting.sinks.forms import Form


class LocalFile:
    """A file, and others beside it if its form asks for them. Readers see the old one or the new one, never half.

    Of a symbolic link it is the file that the link names.
    """

    def __init__(self, path: Path, form: Form) -> None:
        self.target: str = str(path)
        self.every: float = form.every
        self._path = _writable(path)
        self._form = form

    def send(self, edition: Edition) -> None:
        for ending, content in self._form.contents(edition):
            _replace(self._path.with_stem(self._path.stem + ending), content)

    def close(self) -> None:
        self._form.close()


def _writable(path: Path) -> Path:
    """The absolute path; its folder is made.

    Raises:
        OSError: nothing can be written there; names the path.
    """
    path = path.absolute()
    real = _real(path)
    real.parent.mkdir(parents=True, exist_ok=True)
    if real.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file in it")
    if not os.access(real.parent, os.W_OK | os.X_OK):
        raise PermissionError(f"{real.parent} cannot be written to, so {real.name} cannot be made there")
    return path


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def _replace(path: Path, content: bytes) -> None:
    path = _real(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
