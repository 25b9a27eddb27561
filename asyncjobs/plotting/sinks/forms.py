"""What can be in a file: an edition as a page, as plotly's JSON, or as images."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import PurePath
from typing import Protocol

from asyncjobs.plotting.browser import Renderer, check_browser
from asyncjobs.plotting.edition import Edition
from asyncjobs.plotting.page import check_plotly, page

IMAGES = ("png", "svg", "pdf")
IMAGES_EVERY = 5.0
"""Seconds from one image to the next: each takes a browser some tenths of a second of work."""


LONGEST_NAME = 48
"""Letters of a figure's name in that of its file; each may take four bytes, of which file systems allow 255."""


class Form(Protocol):
    """How an edition becomes what is in files."""

    every: float
    """Seconds from one edition to the next, at least."""

    def contents(self, edition: Edition) -> Iterator[tuple[str, bytes]]:
        """For each file how its stem ends, and all that is in it; that of the file itself ends in nothing."""

    def close(self) -> None:
        """Let go of what is open."""


class Page:
    """An HTML page with all figures."""

    every: float = 0.0

    def __init__(self, *, inline: bool) -> None:
        self._inline = inline

    def contents(self, edition: Edition) -> Iterator[tuple[str, bytes]]:
        yield "", page(edition.title, edition.figures, inline=self._inline).encode()

    def close(self) -> None:
        """Nothing is open."""


class Json:
    """Plotly's JSON, which ``plotly.io.read_json`` reads, of each figure.

    What was logged and written is in the file itself, a drawn figure always in ``loss-NAME.json`` beside it.
    """

    every: float = 0.0

    def contents(self, edition: Edition) -> Iterator[tuple[str, bytes]]:
        for ending, figure in _figures(edition):
            yield ending, figure.encode()

    def close(self) -> None:
        """Nothing is open."""


class Image:
    """An image of each figure, of one of the kinds in `IMAGES`. The files are those of `Json`.

    Raises:
        ModuleNotFoundError, FileNotFoundError: kaleido or its browser is missing.
    """

    every: float = IMAGES_EVERY

    def __init__(self, kind: str) -> None:
        check_browser()
        self._kind = kind
        self._renderer = Renderer()

    def contents(self, edition: Edition) -> Iterator[tuple[str, bytes]]:
        for ending, figure in _figures(edition):
            yield ending, self._renderer.render(figure, self._kind)

    def close(self) -> None:
        self._renderer.close()


def _figures(edition: Edition) -> Iterator[tuple[str, str]]:
    """``loss.png`` and the drawn figure "my fit" make ``loss-my fit.png``."""
    for name, figure in edition.figures.items():
        yield "" if name == edition.title else f"-{_file_name(name)}", figure


def _file_name(name: str) -> str:
    """What every file system takes; a name that is none, or too long for one, gets a few letters that no other has."""
    allowed = re.sub(r"[^\w .-]", "_", name)[:LONGEST_NAME]
    if allowed == name:
        return name
    return f"{allowed}-{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:8]}"


def form_of(name: str, *, inline: bool) -> Form:
    """The form that the name of a file asks for.

    Raises:
        ValueError: it asks for none; names those that there are.
        ModuleNotFoundError, FileNotFoundError: what a page or an image needs is missing.
    """
    suffix = PurePath(name).suffix
    kind = suffix.lower().removeprefix(".")
    if kind in ("html", *IMAGES):
        check_plotly(name)
    if kind == "html":
        return Page(inline=inline)
    if kind == "json":
        return Json()
    if kind in IMAGES:
        return Image(kind)
    known = ", ".join(f".{one}" for one in ("html", "json", *IMAGES))
    raise ValueError(f"{name!r} must end in one of {known}, not {suffix!r}")
