"""From a target to its sink: ``loss.html``, ``https://…``, or a scheme that another package brings."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path

from asyncjobs.plotting.notebook import open_cell
from asyncjobs.plotting.sinks.base import Sink
from asyncjobs.plotting.sinks.files import JsonFile, PageFile
from asyncjobs.plotting.sinks.web import WebAddress, shown

ENTRY_POINTS = "asyncjobs.sinks"
"""Other packages name a function of the target here that makes a sink; the entry's name is the scheme."""

FILES: Mapping[str, Callable[[Path, bool], Sink]] = {
    ".html": lambda path, inline: PageFile(path, inline=inline),
    ".json": lambda path, _: JsonFile(path),
}
SCHEMES: Mapping[str, Callable[[str], Sink]] = {"http": WebAddress, "https": WebAddress, "jupyter": open_cell}

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")  # of two letters and more: C: is a drive


def open_sink(target: str | os.PathLike[str], *, inline: bool = False) -> Sink:
    """The sink of a target.

    Raises:
        TypeError: it is neither text nor a path.
        ValueError: nobody knows its scheme or its suffix; names those that are known.
        OSError: the file cannot be written.
    """
    path = file_of(target)
    if path is not None:
        return _open_file(path, inline)
    text = os.fspath(target)
    scheme = text.partition(":")[0].lower()
    opener = SCHEMES.get(scheme) or _from_others(scheme)
    if opener is None:
        raise ValueError(f"no sink knows the scheme of {shown(text)!r}; known are {', '.join(_known_schemes())}")
    return opener(text)


def file_of(target: str | os.PathLike[str]) -> Path | None:
    """The path of a target that is a file on this machine; None: it is an address.

    Raises:
        TypeError: it is neither text nor a path.
    """
    if isinstance(target, os.PathLike):
        return Path(target)
    if not isinstance(target, str):
        raise TypeError(f"a target must be text or a path, not {target!r}")
    if target.startswith("file://"):
        return Path(target.removeprefix("file://"))
    return None if _SCHEME.match(target) else Path(target)


def _open_file(path: Path, inline: bool) -> Sink:
    opener = FILES.get(path.suffix.lower())
    if opener is None:
        raise ValueError(f"{str(path)!r} must end in {' or '.join(FILES)}, not {path.suffix!r}")
    return opener(path, inline)


def _from_others(scheme: str) -> Callable[[str], Sink] | None:
    for entry in metadata.entry_points(group=ENTRY_POINTS, name=scheme):
        opener: Callable[[str], Sink] = entry.load()
        return opener
    return None


def _known_schemes() -> list[str]:
    others = {entry.name for entry in metadata.entry_points(group=ENTRY_POINTS)}
    return sorted({"file", *SCHEMES, *others})
