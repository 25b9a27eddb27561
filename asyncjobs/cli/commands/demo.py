"""``asyncjobs demo``: see it work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from asyncjobs.cli.demo import prepare, run_demo

app: typer.Typer = typer.Typer()


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for report.html.", file_okay=False)] = Path("asyncjobs-demo"),
    workers: Annotated[
        int | None,
        typer.Option(min=1, max=256, help="The most worker processes to try. Default: 4, or one per usable core."),
    ] = None,
) -> None:
    """See it work: uploads in the background, a computation on all cores. Under a minute, no network."""
    try:
        report = prepare(out)
    except OSError as error:
        typer.echo(f"cannot write the report: {error}", err=True)
        raise typer.Exit(1) from None
    run_demo(report, Console(), workers=workers)
