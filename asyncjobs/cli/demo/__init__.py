"""``asyncjobs demo``: train, upload, estimate, and leave a page behind that shows what happened.

Two halves: a training loop whose plot uploads no longer hold it up, and a computation
spread over worker processes. No network beyond this machine, under a minute.
"""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

import asyncjobs
from asyncjobs.bench import density
from asyncjobs.bench.plotserver import PlotServer
from asyncjobs.cli.demo import descent, findings, gapminder, windows
from asyncjobs.cli.demo.findings import Training
from asyncjobs.cli.demo.story import write_story
from asyncjobs.cli.demo.windows import Outcome
from asyncjobs.page import Table
from asyncjobs.processors import usable_processors


def prepare(out: Path) -> Path:
    """Make the folder and the empty page in it: what cannot be written should show before anything runs.

    Raises:
        OSError: it cannot.
    """
    out.mkdir(parents=True, exist_ok=True)
    report = out / "report.html"
    report.touch()
    return report


def run_demo(report: Path, console: Console, *, workers: int | None = None, widths: int = windows.WIDTHS) -> None:
    """Run both halves, print what they show, and write the page `report`.

    `workers` is the largest number of processes to try, by default 4 or one per usable core.
    """
    began = time.perf_counter()
    console.rule("[bold]1. Training that does not wait for its uploads")
    problem = descent.prepare(gapminder.read())
    live = report.with_name("loss.html")
    training = train(problem, live, console)
    console.rule("[bold]2. Densities on worker processes")
    outcome = estimate(workers or max(4, usable_processors()), widths, console)
    write_story(report, problem, training, outcome, widths)
    console.rule(f"[bold]done in {time.perf_counter() - began:.0f} s")
    after = f"{live.name} beside it is the page that asyncjobs.plot kept up to date while the second training ran."
    console.print(Text(f"Now open {report} in a browser: it shows what happened when. {after}"))


def train(problem: descent.Problem, live: Path, console: Console) -> Training:
    """The first half: the same training twice, with the uploads inline and in the thread lane.

    The page `live` follows the second.
    """
    console.print(
        f"Gradient descent: life expectancy on income, {len(problem.countries)} countries, {descent.STEPS} steps, a "
        f"plot uploaded after every {descent.EVERY}.",
        highlight=False,
    )
    # The first figure of a process loads much of plotly; neither run should pay for it.
    descent.plot(problem, next(descent.descend(problem)))
    with PlotServer() as server, console.status("training, waiting for each upload") as status:
        blocking = descent.train_blocking(problem, server)
        status.update("training, uploads in the background")
        with asyncjobs.plot(live, title="Gradient descent, plotted by asyncjobs.plot", inline=True) as plot:
            plot.write(problem.income.values, problem.life.values, name="countries", mode="markers")
            background = asyncjobs.run(descent.train_in_background(problem, server, live=plot))
        arrived = {run.name: len(server.arrived(f"/{run.name}/")) for run in (blocking, background)}
    training = Training(blocking, background, arrived)
    print_table(findings.training_table(training), console)
    console.print(Text(findings.training_text(training)))
    return training


def estimate(most: int, widths: int, console: Console) -> Outcome:
    """The second half: the same estimates serially and with ever more workers."""
    console.print(
        f"Parzen windows in plain Python: 10,000 samples, {widths} widths, serial and on the process lane.",
        highlight=False,
    )
    with console.status("estimating, serial") as status:

        def tell(timing: windows.Timing) -> None:
            status.update(f"estimating; {timing.seconds:.1f} s with {timing.workers or 1} at work")

        outcome = windows.measure(most, density.benchmark_widths(widths), tell)
    print_table(findings.timing_table(outcome.timings), console)
    console.print(Text(findings.timing_text(outcome.timings, widths, usable_processors())))
    return outcome


def print_table(table: Table, console: Console) -> None:
    """A page's table on the terminal."""
    grid = Grid(box=None, padding=(0, 2), header_style="dim")
    for index, cell in enumerate(table.head):
        grid.add_column(Text(cell), justify="left" if index == 0 else "right", no_wrap=True)
    for row in table.rows:
        grid.add_row(*(Text(cell) for cell in row))
    console.print(grid)
