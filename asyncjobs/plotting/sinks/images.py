"""Images in files on this machine: PNG, SVG and PDF."""

from __future__ import annotations

from pathlib import Path

from asyncjobs.plotting.browser import Renderer, check_browser
from asyncjobs.plotting.edition import Edition
from asyncjobs.plotting.sinks.files import beside, replace, writable

EVERY = 5.0
"""Seconds from one image to the next: it takes a browser some tenths of a second of work."""


class ImageFile:
    """An image of each figure: the first at the path itself, a drawn one at ``loss-NAME.png`` beside it."""

    def __init__(self, path: Path) -> None:
        check_browser()
        self.target: str = str(path)
        self.every: float = EVERY
        self._path = writable(path)
        self._kind = path.suffix.lower().removeprefix(".")
        self._renderer = Renderer()

    def send(self, edition: Edition) -> None:
        for number, (name, figure) in enumerate(edition.figures.items()):
            replace(self._path if number == 0 else beside(self._path, name), self._renderer.render(figure, self._kind))

    def close(self) -> None:
        self._renderer.close()
