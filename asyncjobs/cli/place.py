"""The options that say which service is meant. Needs nothing of the service's own libraries."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Dir = Annotated[
    Path | None,
    typer.Option(
        "--dir",
        envvar="ASYNCJOBS_DIR",
        file_okay=False,
        help="The service's state directory.",
        rich_help_panel="Service",
    ),
]
Name = Annotated[
    str,
    typer.Option("--name", help="The service's name, if it has no directory of its own.", rich_help_panel="Service"),
]
