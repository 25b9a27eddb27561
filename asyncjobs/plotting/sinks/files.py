"""Files on this machine: a page that a browser opens, or plotly's JSON."""

from __future__ import annotations

import os
import re
from pathlib import Path

from asyncjobs.plotting.edition import Edition
from asyncjobs.plotting.page import page


class PageFile:
    """An HTML page. Readers see the old one or the new one, never half of one."""

    def __init__(self, path: Path, *, inline: bool) -> None:
        self.target: str = str(path)
        self._path = writable(path)
        self._inline = inline

    def send(self, edition: Edition) -> None:
        replace(self._path, page(edition.title, edition.figures, inline=self._inline).encode())

    def close(self) -> None:
        """Nothing is open."""


class JsonFile:
    """Plotly's JSON, which ``plotly.io.read_json`` reads: one file for each figure.

    What was logged and written goes to the path itself, a drawn figure to ``loss-NAME.json`` beside it.
    """

    def __init__(self, path: Path) -> None:
        self.target: str = str(path)
        self._path = writable(path)

    def send(self, edition: Edition) -> None:
        for number, (name, figure) in enumerate(edition.figures.items()):
            replace(self._path if number == 0 else beside(self._path, name), figure.encode())

    def close(self) -> None:
        """Nothing is open."""


def beside(path: Path, name: str) -> Path:
    """``loss.png`` and the figure "my fit" make ``loss-my_fit.png``."""
    return path.with_name(f"{path.stem}-{re.sub(r'[^A-Za-z0-9._-]', '_', name)}{path.suffix}")


def writable(path: Path) -> Path:
    """The absolute path; its folder is made.

    Raises:
        OSError: nothing can be written there; names the path.
    """
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file in it")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise PermissionError(f"{path.parent} cannot be written to, so {path.name} cannot be made there")
    return path


def replace(path: Path, content: bytes) -> None:
    """Write the file under another name, and give it its own when it is whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
