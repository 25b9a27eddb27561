"""The jobs that a command line means: by their ids, or all that fit its filters (`Chosen`)."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Annotated

import typer

from asyncjobs.cli import tables
from asyncjobs.cli.asking import Desk, job_path
from asyncjobs.cli.finding import find_id, suggestions
from asyncjobs.cli.place import Where
from asyncjobs.service.errors import ServiceError
from asyncjobs.service.protocol import JobView, ListAnswer, StatsView

PAGE = 250
"""So many jobs are listed and changed at a time: about what the service puts into one transaction."""
_WHICH = "Which jobs"


def complete_id(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """What the shell may complete an id to; nothing where no service answers."""
    try:
        given = {one.name: ctx.params[one.name] for one in fields(Where) if ctx.params.get(one.name) is not None}
        return suggestions(Desk(Where(**given)), incomplete)
    except (ServiceError, typer.BadParameter):
        return []


def complete_state(incomplete: str) -> list[str]:
    """What the shell may complete a state to."""
    return [state for state in tables.STATES if state.startswith(incomplete.upper())]


Id = Annotated[
    str,
    typer.Argument(
        metavar="ID",
        help="The job's id, its beginning or end, or 'last' for the newest job.",
        autocompletion=complete_id,
    ),
]
States = Annotated[
    list[str] | None,
    typer.Option(help="Only these; may be repeated.", autocompletion=complete_state, rich_help_panel=_WHICH),
]
JobName = Annotated[str | None, typer.Option(help="Only jobs of this name.", rich_help_panel=_WHICH)]
Function = Annotated[
    str | None, typer.Option(metavar="MODULE:FUNCTION", help="Only jobs of this function.", rich_help_panel=_WHICH)
]
Tag = Annotated[str | None, typer.Option(help="Only jobs with this tag.", rich_help_panel=_WHICH)]
Schedule = Annotated[str | None, typer.Option(help="Only jobs that this schedule made.", rich_help_panel=_WHICH)]


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Jobs of a command that changes several (see `spread`)."""

    ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="ID", help="Ids, or their beginnings or ends.", autocompletion=complete_id),
    ] = None
    state: States = None
    job_name: JobName = None
    function: Function = None
    tag: Tag = None
    schedule: Schedule = None
    every: Annotated[
        bool, typer.Option("--all", help="All jobs; asks first, if not --yes.", rich_help_panel=_WHICH)
    ] = False
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.", rich_help_panel=_WHICH)] = False
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List them, and change nothing.", rich_help_panel=_WHICH)
    ] = False

    def check(self) -> None:
        """Refuse a command line that names no jobs, or names them in two ways.

        Raises:
            typer.BadParameter: says what is allowed.
        """
        if self.ids and (self._filters() or self.state or self.every):
            raise typer.BadParameter("ids, or filters such as --tag and --state: not both")
        if not (self.ids or self._filters() or self.state or self.every):
            raise typer.BadParameter("which jobs? Ids, filters such as --tag and --state, or --all")

    def states(self, allowed: Sequence[str], usual: Sequence[str]) -> tuple[str, ...]:
        """Those that are asked for; `usual` if none are.

        Raises:
            typer.BadParameter: one is not among `allowed`.
        """
        given = tuple(state.upper() for state in self.state or ())
        for state in given:
            if state not in allowed:
                raise typer.BadParameter(
                    f"{state!r} is not allowed; allowed: {', '.join(allowed)}", param_hint="--state"
                )
        return given or tuple(usual)

    def confirm(self, desk: Desk, verb: str, states: Sequence[str]) -> None:
        """Ask before all jobs are changed.

        Raises:
            typer.Abort: the answer was no.
            typer.BadParameter: there is nobody to ask.
        """
        if not self.every or self.yes or self.dry_run:
            return
        if not sys.stdin.isatty():
            raise typer.BadParameter("--all needs --yes where nobody can be asked")
        counts = desk.get("/v1/stats", StatsView).states
        most = sum(counts.get(state, 0) for state in states)
        within = " at most, those that fit the filters" if self._filters() else ""
        typer.confirm(f"{verb} {tables.counted(most)}{within}?", abort=True, err=True)

    def pages(self, desk: Desk, states: Sequence[str]) -> Iterator[list[JobView]]:
        """The jobs, newest first; those that are named, in whatever state they are."""
        if self.ids:
            named = [desk.get(job_path(find_id(desk, given)), JobView) for given in self.ids]
            yield from (named[start : start + PAGE] for start in range(0, len(named), PAGE))
            return
        before: int | None = None
        while True:
            page = desk.get("/v1/jobs", ListAnswer, state=states, before=before, limit=PAGE, **self._filters())
            if page.jobs:
                yield page.jobs
            before = page.next
            if before is None:
                return

    def _filters(self) -> dict[str, str]:
        asked = {"name": self.job_name, "function": self.function, "tag": self.tag, "schedule": self.schedule}
        return {name: value for name, value in asked.items() if value is not None}
