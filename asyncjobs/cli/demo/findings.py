"""Say what the demo found, in words and tables; the terminal and the page say the same.

Plain results in, text out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from asyncjobs.bench import density
from asyncjobs.bench.plotserver import ANSWER_SECONDS
from asyncjobs.cli.demo.descent import Run
from asyncjobs.cli.demo.windows import Estimates, Timing
from asyncjobs.page import Table
from asyncjobs.report import seconds_text


def counted(count: int, noun: str) -> str:
    """``1 core``, ``2 cores``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def called(run: Run) -> str:
    """What one training run is called in tables and pictures."""
    return {"blocking": "waiting for each upload", "background": "uploads in the background"}[run.name]


def workers(timing: Timing) -> str:
    """What one run is called in tables and pictures."""
    return "serial" if timing.workers == 0 else counted(timing.workers, "worker")


class Training(NamedTuple):
    """Both training runs, and what reached the plot server."""

    blocking: Run
    background: Run
    arrived: dict[str, int]
    """How many uploads of each run the server has."""

    @property
    def same(self) -> bool:
        """Both runs ended with exactly the same parameters."""
        return self.blocking.steps[-1] == self.background.steps[-1]

    @property
    def complete(self) -> bool:
        """Every upload that was sent arrived."""
        return all(self.arrived[run.name] == len(run.uploads) for run in (self.blocking, self.background))


def training_table(training: Training) -> Table:
    """Step rates, times and arrivals of both runs."""
    head = ("", "steps/s", "training", "last answer", "arrived")
    rows = [
        (
            called(run),
            f"{run.rate:,.0f}",
            seconds_text(run.trained),
            seconds_text(run.finished),
            f"{training.arrived[run.name]} of {len(run.uploads)}",
        )
        for run in (training.blocking, training.background)
    ]
    return Table(head, rows)


def training_text(training: Training) -> str:
    """The comparison in sentences."""
    last = training.background.steps[-1]
    ratio = training.background.rate / training.blocking.rate
    agree = (
        f"Both runs end with the same slope and intercept to the last bit (slope {last.slope:.12g})."
        if training.same
        else "THE PARAMETERS DIFFER: this should not happen, please report it."
    )
    lost = "Every upload arrived." if training.complete else "SOME UPLOADS ARE MISSING: please report it."
    return (
        f"The plot server takes {ANSWER_SECONDS:g} s to answer. With the uploads in the background the loop took "
        f"{ratio:,.0f} times as many steps per second. {agree} {lost}"
    )


def timing_table(timings: Sequence[Timing]) -> Table:
    """Times and speed-ups by number of workers."""
    serial = timings[0].seconds
    head = ("", "time", "speed-up", "workers' start", "same results")
    rows = [
        (
            workers(timing),
            f"{timing.seconds:.2f} s",
            f"{serial / timing.seconds:.2f}x",
            "-" if timing.workers == 0 else seconds_text(timing.start_seconds),
            "yes" if timing.same else "NO",
        )
        for timing in timings
    ]
    return Table(head, rows)


def timing_text(timings: Sequence[Timing], widths: int, cores: int) -> str:
    """The comparison in sentences."""
    fastest = min(timings, key=lambda timing: timing.seconds)
    agree = (
        "Every estimate equals the serial one to the last bit."
        if all(timing.same for timing in timings)
        else "SOME ESTIMATES DIFFER: this should not happen, please report it."
    )
    best = (
        "No number of workers was faster than serial."
        if fastest.workers == 0
        else f"Fastest: {workers(fastest)}, {timings[0].seconds / fastest.seconds:.2f} times as fast as serial."
    )
    return f"{widths} estimates from 10,000 samples each, on {counted(cores, 'usable core')}. {best} {agree}"


def estimate_table(found: Estimates) -> Table:
    """The published table, recomputed on the process lane, and the right estimate beside it."""
    rows = [
        (f"{width:.1f}", f"{published:.12g}", f"{right:.6f}", f"{right / density.TRUE_DENSITY - 1:+.1%}")
        for width, published, right in zip(found.widths, found.published, found.right, strict=True)
    ]
    return Table(("width", "published estimate", "right estimate", "off the true 0.15915 by"), rows)
