"""``asyncjobs journal check`` and ``recover``: for a database that no service may open. Not over HTTP: none runs."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from asyncjobs.cli import exits, plain
from asyncjobs.cli.options import Json, refusals_said
from asyncjobs.cli.place import Dir, Name, chosen
from asyncjobs.cli.showing import say, show_json
from asyncjobs.service.access import StateDir
from asyncjobs.service.errors import StateRefused
from asyncjobs.service.store import checking, inspection, salvage
from asyncjobs.service.store.lock import StateLock

app: typer.Typer = typer.Typer()
journal: typer.Typer = typer.Typer(
    help="A database that is refused: look at it, and save what can be read of it. The service has to be stopped.",
    no_args_is_help=True,
)
app.add_typer(journal, name="journal")


@journal.command()
def check(as_json: Json = False, path: Dir = None, name: Name = None) -> None:
    """Read all of the database, and say what is wrong with it; changes nothing. Exit code 65 if something is."""
    with refusals_said():
        state = StateDir.open(*chosen(path, name))
        with StateLock(state.lock, state.socket):
            if not state.database.exists():
                raise StateRefused(f"there is no {state.database}")
            problems = _problems(state.database)
    if as_json:
        show_json({"database": str(state.database), "problems": problems})
    else:
        for problem in problems:
            sys.stdout.write(plain.line(problem, 2000) + "\n")
        advice = f"try asyncjobs journal recover --dir {shlex.quote(str(state.path))}, or a backup"
        say(f"{state.database}: {advice if problems else 'sound'}")
    if problems:
        raise typer.Exit(exits.BAD_STATE)


def _problems(database: Path) -> list[str]:
    """What a start would refuse it for, and what only a look at all of it finds."""
    try:
        inspection.inspect(database)
        return [str(violation) for violation in checking.check_database(database)]
    except StateRefused as refused:
        return [str(refused)]


@journal.command()
def recover(
    is_sure: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
    path: Dir = None,
    name: Name = None,
) -> None:
    """Copy the database aside, and make a new one of all that can be read of it."""
    with refusals_said():
        state = StateDir.open(*chosen(path, name))
        with StateLock(state.lock, state.socket):
            if not is_sure:
                typer.confirm(f"Copy {state.database} aside, and make a new one of what can be read?", abort=True)
            found = salvage.salvage(state.database)
    if as_json:
        show_json({**asdict(found), "aside": str(found.aside)})
        return
    sys.stdout.write(f"{found.rows.get('jobs', 0):,} jobs and {found.rows.get('outcomes', 0):,} outcomes were saved\n")
    for table, places in found.unreadable.items():
        sys.stdout.write(f"{table}: {places:,} places could not be read\n")
    for note in found.notes:
        sys.stdout.write(plain.line(note, 2000) + "\n")
    say(f"the files as they were: {found.aside}")
