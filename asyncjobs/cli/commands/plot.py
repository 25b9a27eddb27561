"""``asyncjobs plot``: what plots of programs that have ended left behind."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from asyncjobs.plotting.resume import Leftover, discard, leftovers, resume

app: typer.Typer = typer.Typer()
plots: typer.Typer = typer.Typer(help="Background plots of programs that have ended.", no_args_is_help=True)
app.add_typer(plots, name="plot")

SpoolPath = Annotated[
    Path,
    typer.Argument(
        help="A plot's spool, a folder of such, or the one where the plot's file is.", exists=True, file_okay=False
    ),
]


@plots.command("resume")
def resume_command(folder: SpoolPath) -> None:
    """Send what plots of programs that have ended left unsent; exit code 1 if something is still left."""
    outcomes = resume(folder)
    for outcome in outcomes:
        left = f"NOT SENT, {outcome.error}; kept in {outcome.folder}" if outcome.error else "complete"
        typer.echo(f"{outcome.title} to {outcome.target}: {left}")
    if not outcomes:
        typer.echo(f"nothing is left to send below {folder}")
    if any(outcome.error for outcome in outcomes):
        raise typer.Exit(1)


@plots.command("list")
def list_command(folder: SpoolPath) -> None:
    """Show what plots of programs that have ended left unsent."""
    found = leftovers(folder)
    for one in found:
        typer.echo(_line(one))
    if not found:
        typer.echo(f"nothing is left to send below {folder}")


@plots.command("discard")
def discard_command(
    folder: SpoolPath,
    is_sure: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete what plots of programs that have ended left unsent."""
    found = leftovers(folder)
    for one in found:
        typer.echo(_line(one))
    if found and not is_sure:
        typer.confirm("Delete all of it?", abort=True)
    typer.echo(f"deleted {sum(len(discard(one.folder)) for one in found)}")


def _line(one: Leftover) -> str:
    since = time.strftime("%Y-%m-%d %H:%M", time.localtime(one.created_at))
    return f"{since}  {one.title} to {', '.join(one.targets)}: {one.nbytes / 1e6:.1f} MB in {one.folder}"
