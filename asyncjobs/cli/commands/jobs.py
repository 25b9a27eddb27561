"""``asyncjobs jobs``, ``show``, ``logs`` and ``figures``: look at jobs."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from asyncjobs.cli import exits, plain, tables
from asyncjobs.cli.asking import Desk, job_path, loaded
from asyncjobs.cli.chosen import Function, Id, JobName, Schedule, States, Tag
from asyncjobs.cli.finding import find_id
from asyncjobs.cli.following import LogReader, patiently
from asyncjobs.cli.opening import Opened, open_outcome, result_json
from asyncjobs.cli.options import Json, desk, now
from asyncjobs.cli.place import Where
from asyncjobs.cli.showing import say, show, show_json, width
from asyncjobs.cli.spread import spread
from asyncjobs.service.errors import ServiceGone
from asyncjobs.service.protocol import EventView, FigureView, Health, JobView, ListAnswer

app: typer.Typer = typer.Typer()


@app.command()
@spread
def jobs(
    service: Where,
    state: States = None,
    job_name: JobName = None,
    function: Function = None,
    tag: Tag = None,
    lane: Annotated[str | None, typer.Option(help="Only jobs of this lane.")] = None,
    schedule: Schedule = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="Jobs on a page.")] = 20,
    before: Annotated[int | None, typer.Option(metavar="NUMBER", help="The next page: what the last one said.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All pages; with --json each on a line.")] = False,
    as_json: Json = False,
) -> None:
    """List jobs, the newest first."""
    asked_for = {
        "state": tuple(one.upper() for one in state or ()), "name": job_name, "function": function, "tag": tag,
        "lane": lane, "schedule": schedule, "limit": 1000 if every else limit,
    }  # fmt: skip
    with desk(service) as asked:
        while True:
            body = asked.get_raw("/v1/jobs", before=before, **asked_for)
            page = msgspec.json.decode(body, type=ListAnswer)
            if as_json:
                show_json(loaded(body))
            else:
                _show_page(page, every, bool(before))
                _say_trouble(asked, page.jobs)
            before = page.next
            if not every or before is None:
                return


def _say_trouble(asked: Desk, found: Sequence[JobView]) -> None:
    """Why they wait, if it is no matter of patience."""
    if any(job.state in ("QUEUED", "RUNNING") for job in found) and (trouble := asked.get("/health", Health).trouble):
        say(plain.line(trouble, 400), "bold red")


def _show_page(page: ListAnswer, every: bool, is_later: bool) -> None:
    if page.jobs:
        show(tables.jobs_table(page.jobs, now(), width()))
    elif not is_later:
        say("no jobs")
    if page.next is not None and not every:
        say(f"older ones: --before {page.next}, or --all")


@app.command(name="show")
@spread
def show_command(service: Where, job_id: Id, as_json: Json = False) -> None:
    """Show one job: what it is, what happened to it, and what it returned."""
    with desk(service) as asked:
        where = find_id(asked, job_id)
        body = asked.get_raw(job_path(where))
        job = msgspec.json.decode(body, type=JobView)
        is_over = job.state in tables.FINAL
        opened = open_outcome(asked, where) if is_over else Opened()
        events = _events(asked, job, is_over)
        if as_json:
            known = {"events": msgspec.to_builtins(events)} | (result_json(opened) if is_over else {})
            show_json(loaded(body) | known)
            return
        show(tables.job_grid(job, now()))
        _say_trouble(asked, [job])
        if (result := tables.result_lines(opened)) is not None:
            show(result)
        sys.stdout.write("\n")
        show(tables.events_table(events, now()))


def _events(asked: Desk, job: JobView, is_over: bool) -> list[EventView]:
    """What happened so far. The stream of a job that goes on does not end by itself, so it ends with what is known."""
    found: list[EventView] = []
    with contextlib.suppress(ServiceGone), asked.stream(job_path(job.id, "events"), patience=1.0) as stream:
        for news in stream.news():
            if news.kind in ("progress", "log"):
                continue
            found.append(msgspec.json.decode(news.text, type=EventView))
            if found[-1].state == job.state and (is_over or found[-1].attempt == job.attempt):
                return found
    return found


@app.command()
@spread
def logs(
    service: Where,
    job_id: Id,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object with the text instead.")] = False,
) -> None:
    """Print what a job printed. To a terminal with all control characters written out; to a pipe as it is."""
    if follow and as_json:
        raise typer.BadParameter("--json gives the log as it is now: not together with --follow")
    with desk(service) as asked:
        where = find_id(asked, job_id)
        if as_json:
            text = asked.get_raw(job_path(where, "log")).decode("utf-8", "backslashreplace")
            show_json({"id": where, "log": text})
            return
        reader = LogReader(asked, where, sys.stdout)
        try:
            _read(asked, reader, where, follow)
        except KeyboardInterrupt:
            raise typer.Exit(exits.DETACHED) from None


def _read(asked: Desk, reader: LogReader, where: str, follow: bool) -> None:
    if not follow:
        reader.read()
        return
    while True:
        with patiently(asked):
            reader.read(follow=True)
            if asked.get(job_path(where), JobView).state in tables.FINAL:
                return


@app.command()
@spread
def figures(
    service: Where,
    job_id: Id,
    to: Annotated[
        Path | None, typer.Option(help="Copy them into this folder, which is made if need be.", file_okay=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """List the files of the plots that a job has made, or fetch them."""
    with desk(service) as asked:
        where = find_id(asked, job_id)
        found = asked.get(job_path(where, "figures"), list[FigureView])
        if to is not None:
            _copy_figures(asked, where, found, to)
    if as_json:
        show_json(msgspec.to_builtins(found))
    elif found:
        show(tables.figures_table(found, now()))
    else:
        say("no figures")


def _copy_figures(asked: Desk, where: str, found: list[FigureView], to: Path) -> None:
    try:
        to.mkdir(parents=True, exist_ok=True)
        for one in found:
            # The service names no file that is more than a name.
            (to / Path(one.name).name).write_bytes(asked.get_raw(job_path(where, "figures", one.name)))
    except OSError as error:
        raise typer.BadParameter(f"{to} cannot be written: {error.strerror}", param_hint="--to") from None
