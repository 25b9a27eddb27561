"""The options that say which service is meant. Needs nothing of the service's own libraries."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

_PANEL = "Service"

Dir = Annotated[
    Path | None,
    typer.Option(
        "--dir",
        envvar="ASYNCJOBS_DIR",
        file_okay=False,
        help="The service's state directory.",
        rich_help_panel=_PANEL,
    ),
]
Name = Annotated[
    str,
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
    name: Name = "default"
    url: Url = None
    token_file: TokenFile = None
