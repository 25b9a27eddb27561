"""``asyncjobs cancel`` and ``retry``: change jobs that are named, or all that fit some filters."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from typing import Annotated

import msgspec
import typer

from asyncjobs.cli import plain, tables
from asyncjobs.cli.asking import Desk, named
from asyncjobs.cli.chosen import Chosen
from asyncjobs.cli.options import Json, desk, now, seconds
from asyncjobs.cli.place import Where
from asyncjobs.cli.showing import say, show, show_json, width
from asyncjobs.cli.spread import spread
from asyncjobs.service.errors import NoSuchJob, NotNow
from asyncjobs.service.protocol import (
    CancelledView,
    CancelsAnswer,
    CancelsRequest,
    JobView,
    ReplayedView,
    ReplaysAnswer,
    ReplaysRequest,
)

app: typer.Typer = typer.Typer()

OPEN = ("QUEUED", "RUNNING", "WAITING")
FAILED = ("FAILED", "TIMED_OUT", "LOST")
"""The dead letters: what `retry` takes if no states are named."""
_DONE = {"cancelled": "cancelled", "requested": "asked to stop", "ended": "had ended already", "unknown": "gone"}


@app.command()
@spread
def cancel(
    service: Where,
    chosen: Chosen,
    reason: Annotated[str, typer.Option(help="What the job is told, and lists show.")] = "cancelled",
    grace: Annotated[
        float | None,
        typer.Option(parser=seconds, metavar="SPAN", help="Between asking it and stopping it. Default: the job's own."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Ask jobs to stop. One that has not begun is cancelled at once; one that runs is asked, then stopped.

    [dim]asyncjobs cancel --tag night --dry-run[/dim]
    """
    chosen.check()
    states = chosen.states((*OPEN, "STOPPING"), OPEN)
    counts: Counter[str] = Counter()
    with desk(service) as asked:
        chosen.confirm(asked, "cancel", states)
        for page in chosen.pages(asked, states):
            if chosen.dry_run:
                counts["would be asked to stop"] += _list([job for job in page if job.state in states], as_json)
                continue
            body = asked.post("/v1/cancels", CancelsRequest([job.id for job in page], reason, grace))
            for one in msgspec.json.decode(body, type=CancelsAnswer).jobs:
                _show_cancelled(one, as_json)
                counts[_DONE.get(one.answer, one.answer)] += 1
    _sum_up(chosen, counts)


def _show_cancelled(one: CancelledView, as_json: bool) -> None:
    if as_json:
        show_json(msgspec.to_builtins(one))
        return
    said = {"ended": f"has ended already: {one.state}", "requested": "is asked to stop", "unknown": "is gone"}
    sys.stdout.write(f"{one.id} {said.get(one.answer, plain.line(one.answer, 40))}\n")


@app.command()
@spread
def retry(
    service: Where,
    chosen: Chosen,
    again: Annotated[
        bool, typer.Option("--again", help="With filters: also those that were run again before.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Run jobs that failed again, as new jobs with the same call. Prints their ids.

    Filters take what FAILED, TIMED_OUT or was LOST, if no states are named, and was not run again yet.

    [dim]asyncjobs retry --tag night[/dim]
    """
    chosen.check()
    states = chosen.states((*FAILED, "CANCELLED"), FAILED)
    counts: Counter[str] = Counter()
    with desk(service) as asked:
        chosen.confirm(asked, "run again", states)
        for page in chosen.pages(asked, states):
            answers = _replay(asked, page, chosen, again or bool(chosen.ids))
            refused = [one for one in answers if one.error]
            taken = {one.of for one in answers if not one.error}
            if chosen.dry_run:
                counts["would be run again"] += _list([job for job in page if job.id in taken], as_json)
            else:
                counts["run again"] += _show_replayed(answers, as_json)
            counts["left out: run again before, or gone"] += _left_out(chosen, refused)
    _sum_up(chosen, counts)


def _replay(asked: Desk, page: Sequence[JobView], chosen: Chosen, again: bool) -> list[ReplayedView]:
    request = ReplaysRequest([job.id for job in page], again=again, dry_run=chosen.dry_run)
    return msgspec.json.decode(asked.post("/v1/replays", request), type=ReplaysAnswer).jobs


def _show_replayed(answers: Sequence[ReplayedView], as_json: bool) -> int:
    made = [one for one in answers if one.id is not None]
    for one in made:
        if as_json:
            show_json({"of": one.of, "id": one.id})
        else:
            sys.stdout.write(f"{one.id}\n")
    return len(made)


def _left_out(chosen: Chosen, refused: Sequence[ReplayedView]) -> int:
    # A job that was named has to be run; one that a filter found may have changed since.
    for one in refused:
        kind = named(one.error)
        if chosen.ids or not issubclass(kind, (NoSuchJob, NotNow)):
            raise kind(one.message)
    return len(refused)


def _list(page: Sequence[JobView], as_json: bool) -> int:
    if as_json:
        for job in page:
            show_json({"id": job.id, "state": job.state, "name": job.name})
    elif page:
        show(tables.jobs_table(page, now(), width()))
    return len(page)


def _sum_up(chosen: Chosen, counts: Counter[str]) -> None:
    if chosen.ids and not chosen.dry_run:  # each has its line
        return
    said = ", ".join(f"{number:,} {what}" for what, number in counts.items() if number)
    say(f"{tables.counted(sum(counts.values()))}: {said}" if said else "no jobs")
