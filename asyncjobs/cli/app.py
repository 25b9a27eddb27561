"""The command line: its commands by name, each loaded when it is called."""

from __future__ import annotations

from typing import Annotated

import typer

import asyncjobs
from asyncjobs.cli.lazy import LazyGroup, announce

app: typer.Typer = typer.Typer(
    cls=LazyGroup,
    help="Background jobs for Python: see it work, measure it, find out what is wrong; and a service for jobs that "
    "outlive the program.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

HERE = "This machine"
JOBS = "Jobs of the service"
SERVICE = "The service"

announce(app, HERE, "asyncjobs.cli.commands.demo", {"demo": "See it work. Under a minute, no network."})
announce(app, HERE, "asyncjobs.cli.commands.doctor", {"doctor": "Warn of what will hurt, and say what to do."})
announce(app, HERE, "asyncjobs.cli.commands.bench", {"bench": "Measure, beside the libraries that are installed."})
announce(app, HERE, "asyncjobs.cli.commands.plot", {"plot": "Background plots of programs that have ended."})
announce(
    app, JOBS, "asyncjobs.cli.commands.submit",
    {"submit": "Give the service a job, and leave.", "run": "Give it a job, follow its log, print its result."},
)  # fmt: skip
announce(
    app, JOBS, "asyncjobs.cli.commands.jobs",
    {
        "jobs": "List jobs, with filters and pages.",
        "show": "One job: its history and its result.",
        "logs": "What a job printed; -f follows it.",
        "figures": "The plots that a job has made.",
    },
)  # fmt: skip
announce(
    app, JOBS, "asyncjobs.cli.commands.several",
    {
        "cancel": "Ask jobs to stop: some, or all of a tag, a state, a name.",
        "retry": "Run jobs that failed again, the same way.",
    },
)  # fmt: skip
announce(app, SERVICE, "asyncjobs.cli.service", {"serve": "Run the service, in this terminal or under systemd."})
announce(
    app, SERVICE, "asyncjobs.cli.commands.steer",
    {
        "stats": "How it is: jobs by state, workers, disk.",
        "pause": "Start no more jobs, of all or of one kind.",
        "resume": "Undo a pause.",
        "schedule": "Let a job come again by a cron expression.",
        "schedules": "List what comes again, or remove one.",
        "backup": "Copy all that it keeps, while it runs.",
        "stop": "Let it end, after the jobs that run.",
    },
)  # fmt: skip
announce(
    app, SERVICE, "asyncjobs.cli.commands.journal", {"journal": "A database that is refused: look at it, save it."}
)


@app.callback(invoke_without_command=True)
def common(version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False) -> None:
    if version:
        typer.echo(f"asyncjobs {asyncjobs.__version__}")
        raise typer.Exit
