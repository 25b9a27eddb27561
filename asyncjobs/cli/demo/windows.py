"""Estimate densities on the process lane with ever more workers, and compare with one process.

The kernels are `asyncjobs.bench.density`'s; here they are only timed. The benchmark
proper, with medians and other libraries beside it, is ``asyncjobs bench parzen``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import asyncjobs
from asyncjobs import Runner
from asyncjobs.bench import density
from asyncjobs.stats import Stats

if TYPE_CHECKING:
    from numpy import float64
    from numpy.typing import NDArray

WIDTHS = 40
"""How many window widths between 1.0 and 1.2 are estimated in each run."""


class Timing(NamedTuple):
    """One run over all the widths."""

    workers: int
    """0: serial, in this very process."""
    seconds: float
    start_seconds: float
    """Until every worker had answered once: starting Python, importing numpy."""
    same: bool
    """Every estimate equals the serial one, to the last bit."""


class Estimates(NamedTuple):
    """Both estimators over the widths of the published table."""

    widths: list[float]
    published: list[float]
    right: list[float]


class Outcome(NamedTuple):
    """Everything the second half of the demo found."""

    timings: list[Timing]
    """Serial first."""
    estimates: Estimates
    stats: Stats
    """Of the last runner, the one with the most workers."""


def worker_counts(most: int) -> list[int]:
    """The numbers of workers to try: 2, 3, 4 and `most`, none above `most`.

    8 -> [2, 3, 4, 8]; 3 -> [2, 3]; 1 -> [1].
    """
    return sorted(count for count in {2, 3, 4, most} if count <= most)


def serial(samples: NDArray[float64], widths: list[float]) -> tuple[list[float], float]:
    """The estimates one after the other, and the seconds that took."""
    began = time.perf_counter()
    values = [density.parzen_estimate(samples, width) for width in widths]
    return values, time.perf_counter() - began


def measure(most: int, widths: list[float], tell: Callable[[Timing], None]) -> Outcome:
    """Estimate serially and with each number of workers; `tell` hears of each run as soon as it has ended."""
    samples = density.gaussian_samples()
    # Before there is a loop: nothing else should wait for it.
    expected, seconds = serial(samples, widths)
    first = Timing(0, seconds, 0.0, True)
    tell(first)
    outcome: Outcome = asyncjobs.run(_on_workers(most, samples, widths, expected, tell))
    return outcome._replace(timings=[first, *outcome.timings])


async def _on_workers(
    most: int,
    samples: NDArray[float64],
    widths: list[float],
    expected: list[float],
    tell: Callable[[Timing], None],
) -> Outcome:
    timings = []
    counts = worker_counts(most)
    for count in counts:
        async with Runner(processes=count) as runner:
            timings.append(await _timed(runner, count, samples, widths, expected))
            tell(timings[-1])
            if count == counts[-1]:
                estimates = await _both_estimators(runner, samples)
                stats = runner.stats()
    return Outcome(timings, estimates, stats)


async def _timed(
    runner: Runner, workers: int, samples: NDArray[float64], widths: list[float], expected: list[float]
) -> Timing:
    lane = runner.options(lane="process", name="parzen")
    began = time.perf_counter()
    # A new function has a window of one: so each of the idle workers gets one of these.
    await lane.map(partial(density.parzen_estimate, samples[:100]), widths[:workers]).collect()
    warm = time.perf_counter()
    values = await lane.map(partial(density.parzen_estimate, samples), widths).collect()
    return Timing(workers, time.perf_counter() - warm, warm - began, values == expected)


async def _both_estimators(runner: Runner, samples: NDArray[float64]) -> Estimates:
    widths = list(density.PUBLISHED)
    lane = runner.options(lane="process", name="table")
    published = await lane.map(partial(density.published_estimate, samples), widths).collect()
    right = await lane.map(partial(density.parzen_estimate, samples), widths).collect()
    return Estimates(widths, published, right)
