"""``asyncjobs submit`` and ``run``: give the service a job; and wait for it."""

from __future__ import annotations

import sys
from typing import Annotated

import msgspec
import typer

from asyncjobs.cli import exits, plain, tables
from asyncjobs.cli.asking import Desk, Unanswered
from asyncjobs.cli.following import Follower, is_back
from asyncjobs.cli.opening import Opened, open_outcome, result_json
from asyncjobs.cli.options import Json, desk, now
from asyncjobs.cli.place import Where
from asyncjobs.cli.showing import say, show_json
from asyncjobs.cli.spread import spread
from asyncjobs.cli.wanted import Wanted
from asyncjobs.service.protocol import AcceptedAnswer, JobsAnswer, JobView

app: typer.Typer = typer.Typer()

AGAIN = 10.0
"""Seconds that a service may take to come back in the middle of a submit."""

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="The result only, no log and no progress.")]


@app.command()
@spread
def submit(
    service: Where,
    wanted: Wanted,
    as_json: Json = False,
) -> None:
    """Give the service a job, and leave. Prints its id, once it is on disk.

    [dim]asyncjobs submit study:fit --arg 0.01 --kwarg 'kind="ridge"' --retries 2[/dim]
    """
    with desk(service) as asked:
        accepted = _submit(asked, wanted)
        if as_json:
            show_json(msgspec.to_builtins(accepted))
        else:
            sys.stdout.write(f"{accepted.id}\n")
        if not accepted.is_new:
            say(f"it was known by its key, and is {accepted.state}")


@app.command()
@spread
def run(
    service: Where,
    wanted: Wanted,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Give the service a job, follow its log, and print its result.

    The exit code is the job's: 0 it succeeded, 1 it failed, 4 it was cancelled. Ctrl-C leaves, and the job goes on.
    """
    with desk(service) as asked:
        accepted = _submit(asked, wanted)
        job = _followed(asked, accepted.id, quiet, as_json)
        opened = open_outcome(asked, job.id)
        if as_json:
            show_json({"id": job.id, "state": job.state, "note": job.note} | result_json(opened))
        elif not _says_no_more(opened, job):
            _show_value(opened)
        if job.state != "SUCCEEDED":
            say(f"{job.state} {plain.line(job.note, 2000)}", "bold red")
            raise typer.Exit(exits.code_for(job.state))
        if not quiet and not as_json:
            say(f"{job.state} after {tables.took(job, now())}, {job.id}")


def _submit(asked: Desk, wanted: Wanted) -> AcceptedAnswer:
    request = wanted.request(asked)
    try:
        body = asked.post("/v1/jobs", request)
    except Unanswered:
        # Nobody knows whether it was accepted; the same request again, with its id, is the same job.
        if not is_back(asked, AGAIN):
            raise
        body = asked.post("/v1/jobs", request)
    return msgspec.json.decode(body, type=JobsAnswer).jobs[0]


def _followed(asked: Desk, job_id: str, quiet: bool, as_json: bool) -> JobView:
    try:
        return Follower(asked, job_id, sys.stderr if as_json else sys.stdout, quiet).follow()
    except KeyboardInterrupt:
        at = asked.door.option
        say(f"the job goes on: asyncjobs logs -f {job_id}{at}, or asyncjobs cancel {job_id}{at}")
        raise typer.Exit(exits.DETACHED) from None


def _says_no_more(opened: Opened, job: JobView) -> bool:
    """Whether the line about the job's end is all of its traceback: nothing of its own code was involved."""
    return opened.traceback.strip() == job.note.strip() != ""


def _show_value(opened: Opened) -> None:
    """What it returned: JSON for what JSON can say, else how Python shows it; nothing for None."""
    if opened.traceback:
        sys.stderr.write(plain.lines(opened.traceback).rstrip() + "\n")
    elif opened.text:
        sys.stdout.write(plain.lines(opened.text) + "\n")
    elif opened.value is not None:
        show_json(opened.value)
