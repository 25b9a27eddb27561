"""``asyncjobs bench parzen``: a hundred Parzen estimates in pure Python, serial and on more and more workers."""

from __future__ import annotations

import platform
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import asyncjobs as aj
from asyncjobs.bench import density, measure, peers, system
from asyncjobs.bench.measure import Contestant, Goal, Measurement, Race, Work
from asyncjobs.bench.output import check_writable, progress, publish
from asyncjobs.bench.result import Report

if TYPE_CHECKING:
    from numpy import float64
    from numpy.typing import NDArray

SERIAL = "serial"


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is done."""

    rounds: int
    widths: int
    samples: int
    workers: Sequence[int]


_FULL = Scale(rounds=3, widths=100, samples=10_000, workers=(2, 3, 4, 5, 6))
_QUICK = Scale(rounds=3, widths=40, samples=2_000, workers=(2, 3))


def main(json_path: Path | None = None, html_path: Path | None = None, quick: bool = False) -> None:
    """Measure, print, and write the figures and the page where a path is given.

    About three minutes on two cores, with `quick` some ten seconds. Needs numpy.
    """
    check_writable(html_path)
    scale = _QUICK if quick else _FULL
    table = system.table()
    measurement = aj.run(_race(scale))
    command = "asyncjobs bench parzen --quick" if quick else "asyncjobs bench parzen"
    publish(Report("asyncjobs bench parzen", command, table, [measurement]), json_path, html_path)


async def _race(scale: Scale) -> Measurement:
    kernel = Kernel(scale)
    race = Race(contestants(kernel, scale), measure.rate(scale.widths, 2 * max(scale.workers), 0.1))
    async for line in race.run(scale.rounds):
        progress(f"Parzen, {line}")
    return Measurement(
        title="Parzen-window density estimation",
        unit=" widths/s",
        higher_is_better=True,
        values=race.values,
        ours=[ours_name(workers) for workers in scale.workers],
        goals=goals(scale.workers),
        versions=race.versions,
        failures=race.failures,
        beside={pool_name(workers): ours_name(workers) for workers in scale.workers},
        note=f"{scale.widths} window widths from 1.0 to 1.2 over {scale.samples:,} samples in the plane, one job for "
        "each width; the kernel is pure Python. More workers than cores cannot be faster, only fairer.",
    )


def ours_name(workers: int) -> str:
    """How asyncjobs with so many workers is called in the figures."""
    return f"asyncjobs, {workers} workers"


def pool_name(workers: int) -> str:
    """How multiprocessing.Pool with so many workers is called in the figures."""
    return f"Pool.apply_async, {workers} workers"


def goals(workers: Sequence[int]) -> list[Goal]:
    """Two workers against one, and every number of workers against the same number in a Pool."""
    serial = Goal("Parzen, 2 workers", ours_name(2), SERIAL, 1.85, at_least=True)
    return [serial] + [
        Goal(f"Parzen, {count} workers", ours_name(count), pool_name(count), 1.0, at_least=True) for count in workers
    ]


class Kernel:
    """The same estimates for every contestant, and the serial run's answers to check them by."""

    def __init__(self, scale: Scale) -> None:
        self.samples: NDArray[float64] = density.gaussian_samples(scale.samples)
        self._widths = density.benchmark_widths(scale.widths)
        self._answers: dict[float, float] = {}

    def widths(self, count: int) -> list[float]:
        """The first `count` widths, or all."""
        return self._widths[:count]

    def check(self, estimates: Sequence[float]) -> None:
        """Every contestant must find what the first one found.

        Raises:
            RuntimeError: an estimate differs.
        """
        for width, estimate in zip(self._widths, estimates, strict=False):
            if self._answers.setdefault(width, estimate) != estimate:
                raise RuntimeError(f"width {width}: {estimate} instead of {self._answers[width]}")


def contestants(kernel: Kernel, scale: Scale) -> list[Contestant]:
    """Serial first, then asyncjobs and Pool side by side for each number of workers."""
    python = f"Python {platform.python_version()}"
    found = [Contestant(SERIAL, python, partial(_serial, kernel))]
    for workers in scale.workers:
        found.append(Contestant(ours_name(workers), aj.__version__, partial(_ours, kernel, workers)))
        found.append(Contestant(pool_name(workers), python, partial(_pool, kernel, workers)))
    return found


@asynccontextmanager
async def _serial(kernel: Kernel) -> AsyncIterator[Work]:
    async def work(count: int) -> None:
        kernel.check([density.published_estimate(kernel.samples, width) for width in kernel.widths(count)])

    yield work


@asynccontextmanager
async def _ours(kernel: Kernel, workers: int) -> AsyncIterator[Work]:
    async with aj.Runner(processes=workers) as runner:
        process = runner.options(lane="process")

        async def work(count: int) -> None:
            jobs = [
                await process.submit(density.published_estimate, kernel.samples, width)
                for width in kernel.widths(count)
            ]
            kernel.check([await job for job in jobs])

        yield work


@asynccontextmanager
async def _pool(kernel: Kernel, workers: int) -> AsyncIterator[Work]:
    with peers.context().Pool(workers) as pool:

        async def work(count: int) -> None:
            results = [
                pool.apply_async(density.published_estimate, (kernel.samples, width)) for width in kernel.widths(count)
            ]
            kernel.check([result.get() for result in results])

        yield work
        pool.close()
        pool.join()
