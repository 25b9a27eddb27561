"""Fit a line by gradient descent, and upload a plot every few steps: blocking, then through the thread lane.

The two runs are the same loop but for the way an upload is made, so that what differs
in their times is the waiting.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from asyncjobs import Plot, Runner
from asyncjobs.bench.plotserver import PlotServer, Uploaded, upload
from asyncjobs.cli.demo.gapminder import Country, Standardised, log_income, standardise

if TYPE_CHECKING:
    from numpy import float64
    from numpy.typing import NDArray

STEPS = 200
EVERY = 10
"""A plot is uploaded after each so many steps."""
RATE = 0.012
"""Of learning: small enough that the line is seen to move from upload to upload."""


class Problem(NamedTuple):
    """Life expectancy on income, both standardised."""

    countries: list[Country]
    income: Standardised
    """Of the logarithm of income."""
    life: Standardised


class Step(NamedTuple):
    """Where the descent stands after a step."""

    number: int
    """From 1."""
    slope: float
    intercept: float
    loss: float
    """Mean squared error, in squared standard deviations of life expectancy."""


class Run(NamedTuple):
    """One training run; instants are seconds since it began."""

    name: str
    steps: list[Step]
    step_ends: list[float]
    uploads: list[tuple[float, float]]
    trained: float
    """When the last step was done."""
    finished: float
    """When the last upload had been answered, too."""

    @property
    def rate(self) -> float:
        """Training steps per second."""
        return len(self.steps) / self.trained


def prepare(countries: list[Country]) -> Problem:
    """Standardise both columns."""
    income = standardise([log_income(country) for country in countries])
    return Problem(countries, income, standardise([country.life for country in countries]))


def descend(problem: Problem, steps: int = STEPS) -> Iterator[Step]:
    """Take `steps` steps of gradient descent on the mean squared error, from slope 0 and intercept 0."""
    x, y = problem.income.values, problem.life.values
    slope = intercept = 0.0
    for number in range(1, steps + 1):
        error = slope * x + intercept - y
        slope -= RATE * 2 * float((error * x).mean())
        intercept -= RATE * 2 * float(error.mean())
        yield Step(number, slope, intercept, _loss(x, y, slope, intercept))


def _loss(x: NDArray[float64], y: NDArray[float64], slope: float, intercept: float) -> float:
    return float(((slope * x + intercept - y) ** 2).mean())


def plot(problem: Problem, step: Step) -> bytes:
    """The picture that is uploaded: data and line so far, as plotly's JSON."""
    from plotly import graph_objects

    x = problem.income.values
    figure = graph_objects.Figure(
        [
            graph_objects.Scatter(x=x, y=problem.life.values, mode="markers", name="countries"),
            graph_objects.Scatter(x=x, y=step.slope * x + step.intercept, mode="lines", name=f"step {step.number}"),
        ]
    )
    return str(figure.to_json()).encode()


def train_blocking(problem: Problem, server: PlotServer, steps: int = STEPS) -> Run:
    """Train, and wait for every upload where it is made."""
    began = time.perf_counter()
    taken, ends, uploads = [], [], []
    for step in descend(problem, steps):
        if step.number % EVERY == 0:
            uploads.append(upload(server.port, f"/blocking/{step.number}", plot(problem, step)))
        taken.append(step)
        ends.append(time.perf_counter())
    return _run("blocking", began, taken, ends, uploads)


async def train_in_background(
    problem: Problem, server: PlotServer, steps: int = STEPS, live: Plot | None = None
) -> Run:
    """Train, and leave every upload to the thread lane; the runner's end waits for those still under way.

    Each step is also handed to the plot `live`, if there is one.
    """
    began = time.perf_counter()
    taken, ends, jobs = [], [], []
    async with Runner() as runner:
        for step in descend(problem, steps):
            if step.number % EVERY == 0:
                jobs.append(await runner.submit(upload, server.port, f"/background/{step.number}", plot(problem, step)))
            if live is not None:
                show(live, problem, step)
            taken.append(step)
            ends.append(time.perf_counter())
    return _run("background", began, taken, ends, [await job for job in jobs])


def show(live: Plot, problem: Problem, step: Step) -> None:
    """Hand the loss and the line over; microseconds, whatever becomes of the plot."""
    x = problem.income.values
    live.log(step.number, loss=step.loss)
    live.write(x, step.slope * x + step.intercept, name="fit")


def _run(name: str, began: float, steps: list[Step], ends: list[float], uploads: list[Uploaded]) -> Run:
    """Turn instants of the clock into seconds since the run began."""
    sent = [(upload.started - began, upload.ended - began) for upload in uploads]
    step_ends = [end - began for end in ends]
    return Run(name, steps, step_ends, sent, step_ends[-1], max([step_ends[-1], *(end for _, end in sent)]))
