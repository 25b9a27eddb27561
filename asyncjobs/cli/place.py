"""The options that say which service is meant. Needs nothing of the service's own libraries."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from asyncjobs.service.access import VARIABLE

_PANEL = "Service"

Dir = Annotated[
    Path | None,
    typer.Option(
        "--dir",
        file_okay=False,
        help=f"The service's state directory; what the variable {VARIABLE} says if neither this nor --name is given.",
        rich_help_panel=_PANEL,
    ),
]
Name = Annotated[
    str | None,
    typer.Option("--name", help="The service's name, if it has no directory of its own.", rich_help_panel=_PANEL),
]
Url = Annotated[
    str | None,
    typer.Option(
        metavar="http://HOST:PORT",
        help="Where it listens on TCP, instead of a directory. Its token: --token-file, or ASYNCJOBS_TOKEN.",
        rich_help_panel=_PANEL,
    ),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(dir_okay=False, help="The file with the token for --url.", rich_help_panel=_PANEL),
]


@dataclass(frozen=True, kw_only=True)
class Where:
    """The service that a command line means (see `spread`)."""

    path: Dir = None
    name: Name = None
    url: Url = None
    token_file: TokenFile = None


def chosen(path: Path | None, name: str | None) -> tuple[Path | None, str]:
    """The directory, if one is meant, and the name of the service.

    What was typed counts, not the variable: ``asyncjobs stop --name other`` must not stop the one that it names.

    Raises:
        typer.BadParameter: both were typed.
    """
    if path is not None and name is not None:
        raise typer.BadParameter("--dir or --name: not both")
    if path is None and name is None and (folder := os.environ.get(VARIABLE)):
        path = Path(folder)
    return path, "default" if name is None else name


def option_for(path: Path | None, name: str) -> str:
    """What a command needs to mean the same service: ``" --dir PATH"``, ``" --name NAME"``, or nothing."""
    if path is not None:
        return f" --dir {shlex.quote(str(path))}"
    return "" if name == "default" else f" --name {name}"
