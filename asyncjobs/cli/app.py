"""The command line's commands: read the options, call the one that does the work, set the exit code."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

import asyncjobs
from asyncjobs.bench import arrays as bench_arrays
from asyncjobs.bench import flow as bench_flow
from asyncjobs.bench import jobs as bench_jobs
from asyncjobs.bench import parzen as bench_parzen
from asyncjobs.bench import plotting as bench_plotting
from asyncjobs.bench import sync as bench_sync
from asyncjobs.cli import doctor as judge
from asyncjobs.cli import machine
from asyncjobs.cli.demo import prepare, run_demo
from asyncjobs.plotting.resume import Leftover, discard, leftovers, resume

app: typer.Typer = typer.Typer(
    help="Background jobs for Python: see it work, measure it, find out what is wrong.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
bench: typer.Typer = typer.Typer(
    help="Measure on this machine, beside the libraries that are installed.", no_args_is_help=True
)
plots: typer.Typer = typer.Typer(help="Background plots of programs that have ended.", no_args_is_help=True)
app.add_typer(bench, name="bench")
app.add_typer(plots, name="plot")

JsonPath = Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.", dir_okay=False)]
HtmlPath = Annotated[Path | None, typer.Option("--html", help="Write a page with plots to this file.", dir_okay=False)]
Quick = Annotated[bool, typer.Option("--quick", help="Fewer rounds: rougher figures in a fraction of the time.")]


SpoolPath = Annotated[
    Path,
    typer.Argument(
        help="A plot's spool, a folder of such, or the one where the plot's file is.", exists=True, file_okay=False
    ),
]


@app.callback(invoke_without_command=True)
def common(version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False) -> None:
    if version:
        typer.echo(f"asyncjobs {asyncjobs.__version__}")
        raise typer.Exit


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


@bench.command("jobs")
def jobs_command(json_path: JsonPath = None, html_path: HtmlPath = None, quick: Quick = False) -> None:
    """What a job costs: submitting, latency, maps, memory."""
    bench_jobs.main(json_path, html_path, quick)


@bench.command("arrays")
def arrays_command(json_path: JsonPath = None, html_path: HtmlPath = None, quick: Quick = False) -> None:
    """What a large array costs on its way to a job and back."""
    bench_arrays.main(json_path, html_path, quick)


@bench.command("parzen")
def parzen_command(json_path: JsonPath = None, html_path: HtmlPath = None, quick: Quick = False) -> None:
    """What worker processes gain: a density estimate in plain Python, serial and in parallel."""
    bench_parzen.main(json_path, html_path, quick)


@bench.command("sync")
def sync_command(json_path: JsonPath = None, html_path: HtmlPath = None, quick: Quick = False) -> None:
    """What scripts without await pay: handing over, waiting, the drop-in executors and Pool."""
    bench_sync.main(json_path, html_path, quick)


@bench.command("flow")
def flow_command(json_path: JsonPath = None, html_path: HtmlPath = None, quick: Quick = False) -> None:
    """Whether queues and pipelines keep a model fed: overlap, per item, large batches, memory, start and end."""
    bench_flow.main(json_path, html_path, quick)


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


@bench.command("plotting")
def plotting_command(json_path: JsonPath = None, html_path: HtmlPath = None, quick: Quick = False) -> None:
    """What a training loop pays for its plots."""
    bench_plotting.main(json_path, html_path, quick)


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """Print what a report of a problem should say, and warn of what will hurt."""
    facts = machine.gather()
    findings = judge.check(facts)
    if as_json:
        sys.stdout.write(judge.as_json(facts, findings) + "\n")
    else:
        judge.show(facts, findings, Console())
