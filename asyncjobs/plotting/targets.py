"""From a target to its sink: ``loss.html``, ``https://…``, or a scheme that another package brings."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Callable, Mapping
from functools import partial
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote_to_bytes

from asyncjobs.plotting.live.sink import LivePage
from asyncjobs.plotting.notebook import open_cell
from asyncjobs.plotting.rows import RowSink
from asyncjobs.plotting.sinks.base import Sink
from asyncjobs.plotting.sinks.files import LocalFile
from asyncjobs.plotting.sinks.forms import form_of
from asyncjobs.plotting.sinks.mlflow import MLflow, with_mlflow_run
from asyncjobs.plotting.sinks.remote import open_remote
from asyncjobs.plotting.sinks.tensorboard import TensorBoard
from asyncjobs.plotting.sinks.trackio import Trackio, with_trackio_run
from asyncjobs.plotting.sinks.wandb import WandB, with_wandb_run
from asyncjobs.plotting.sinks.web import WebAddress, shown

ENTRY_POINTS = "asyncjobs.sinks"
"""Other packages name a function of the target here that makes a sink; the entry's name is the scheme."""

SCHEMES: Mapping[str, Callable[[str], Sink | RowSink]] = {
    "http": WebAddress,
    "https": WebAddress,
    "jupyter": open_cell,
    "live": LivePage,
    "mlflow": MLflow,
    "tensorboard": TensorBoard,
    "trackio": Trackio,
    "wandb": WandB,
}
FLEETING = frozenset({"jupyter", "live"})
"""Schemes of what is seen only while the program runs: several plots may go there, and nothing can be sent later."""
FOLDERS = ("tensorboard:",)
"""Schemes that a folder on this machine follows."""
RUNS: Mapping[str, Callable[[str], str]] = {
    "mlflow": with_mlflow_run,
    "trackio": with_trackio_run,
    "wandb": with_wandb_run,
}
"""Schemes of what belongs to a run, and the functions that name the run in a target: by default the active one."""

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")  # of two letters and more: C: is a drive


def open_sink(target: str | os.PathLike[str], *, inline: bool = False) -> Sink | RowSink:
    """The sink of a target.

    Raises:
        TypeError: it is neither text nor a path.
        ValueError: nobody knows its scheme or its suffix; names those that are known.
        OSError: the file cannot be written, or what it needs is not on this machine.
        ModuleNotFoundError: a package is missing; says how to install it.
    """
    path = file_of(target)
    if path is not None:
        return LocalFile(path, form_of(str(path), inline=inline))
    text = os.fspath(target)
    scheme = _scheme(text)
    opener = SCHEMES.get(scheme) or _from_others(scheme)
    sink = opener(text) if opener is not None else open_remote(text, inline=inline)
    if sink is None:
        file = "" if "://" in text else f". Or do you mean the file './{text}'?"
        raise ValueError(
            f"no sink knows the scheme of {shown(text)!r}; known are {', '.join(_known_schemes())}, and those of "
            f"fsspec (s3://, gs://, sftp://, …) where it is installed: pip install 'asyncjobs-runner[remote]'{file}"
        )
    return sink


def file_of(target: str | os.PathLike[str]) -> Path | None:
    """The path of a target that is a file on this machine; None: it is an address.

    Raises:
        TypeError: it is neither text nor a path.
        ValueError: no path is like that.
    """
    if not isinstance(target, str | os.PathLike):
        raise TypeError(f"a target must be text or a path, not {target!r}")
    if "\0" in os.fspath(target):
        raise ValueError(f"{target!r} is not allowed; allowed: a path without the character \\0")
    if isinstance(target, os.PathLike):
        return Path(target)
    if target[:5].lower() == "file:":  # file:a, file:/a, file:///a, file://localhost/a
        quoted = re.sub(r"^//(localhost(?=/))?", "", target[5:])
        return Path(os.fsdecode(unquote_to_bytes(quoted)))
    return None if _SCHEME.match(target) else Path(target)


def is_fleeting(target: str) -> bool:
    """Whether the target is of such a scheme."""
    return _scheme(target) in FLEETING


def has_room(target: str) -> bool:
    """Whether several plots may go there without one overwriting another."""
    return _scheme(target) in FLEETING or _scheme(target) in RUNS


def with_run(target: str) -> str:
    """The target with the run that it belongs to, if it is of that kind, so that a later process finds it.

    Raises:
        ValueError: no run is active in this program, or the one that it names is not there.
        ModuleNotFoundError: the package is missing; says how to install it.
    """
    name_run = RUNS.get(_scheme(target))
    return target if name_run is None else name_run(target)


def absolute(address: str) -> str:
    """The address as any process on this machine would understand it."""
    scheme, separator, rest = address.partition(":")
    if rest and scheme + separator in FOLDERS:
        return scheme + separator + str(Path(rest).expanduser().absolute())
    return address


def for_rank(target: str, rank: int) -> str:
    """Where process `rank` of a distributed training goes instead: ``loss.rank3.html``, ``tensorboard:runs/rank3``.

    What is posted goes to the same address, for it says which plot it is of; and so does what needs no place.
    """
    scheme, separator, rest = target.partition(":")
    if rest and scheme + separator in FOLDERS:
        return f"{target.rstrip('/')}/rank{rank}"
    place, mark, query = target.partition("?")
    stem, suffix = posixpath.splitext(place)
    if _SCHEME.match(place) and "://" not in place:
        return target
    if not suffix or "method=post" in query.lower():
        return target
    return f"{stem}.rank{rank}{suffix}{mark}{query}"


def _scheme(target: str) -> str:
    return target.partition(":")[0].lower()


def _from_others(scheme: str) -> Callable[[str], Sink | RowSink] | None:
    for entry in metadata.entry_points(group=ENTRY_POINTS, name=scheme):
        return partial(_opened, entry)
    return None


def _opened(entry: metadata.EntryPoint, target: str) -> Sink | RowSink:
    sink = entry.load()(target)
    if not isinstance(sink, Sink | RowSink):
        raise TypeError(f"{entry.value}, which {entry.name}: belongs to, made {sink!r:.60}, and no sink")
    return sink


def _known_schemes() -> list[str]:
    others = {entry.name for entry in metadata.entry_points(group=ENTRY_POINTS)}
    return sorted({"file", *SCHEMES, *others})
