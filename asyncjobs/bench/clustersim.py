"""``asyncjobs bench clusters --simulate``: from where on the runner's one loop is the limit, and no longer the workers.

A thousand workers are played on a virtual clock; what the runner and its lane compute for them is real, and takes its
processor time on that clock. So it is no matter how busy this machine is, nor how many processors it has.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import tracemalloc
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import asyncjobs as aj
from asyncjobs.bench import density, system
from asyncjobs.bench.output import check_drawable, check_writable, progress
from asyncjobs.page import Table, write_html
from asyncjobs.report import dress
from asyncjobs.testing.loops import ChargedLoop
from asyncjobs.testing.simulated import SimulatedLane

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

WORKERS: Final = 1000
WAY: Final = 0.0005
"""Seconds to a worker in the same hall, with its scheduler between."""
CLIENT: Final = 0.0001
"""Seconds that the engine's own client may compute on our loop for each message."""
ITEMS: Final = 100
"""Items of a map for each worker and wave, at most; as many as last a second."""

Play = Callable[[SimulatedLane, int], Coroutine[Any, Any, float]]


class Way(NamedTuple):
    """One way to hand work over."""

    name: str
    play: Play
    cost: float
    """Of the engine's client, for each message."""
    colour: str


@dataclass(frozen=True, slots=True)
class Point:
    """One simulated run."""

    way: str
    seconds: float
    """The mean time of a job, or of an item."""
    rate: float
    """Jobs or items in a second, from the first submit to the last result."""
    busy: float
    """Which share of the workers' time was used."""


@dataclass(frozen=True, slots=True)
class Simulation:
    """What was found."""

    system: Mapping[str, str]
    points: Sequence[Point]
    nbytes: float
    """Memory of the program for each job in flight."""


def main(
    json_path: Path | None = None, html_path: Path | None = None, image_path: Path | None = None, quick: bool = False
) -> Simulation:
    """Simulate, print, and write the figures, the page and the picture where a path is given; about a minute."""
    check_writable(html_path or image_path)
    check_drawable(image_path)
    times = (0.001, 0.1, 10.0) if quick else (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
    found = simulate(times, waves=3 if quick else 10, shape=measured(40 if quick else 200))
    progress("")
    for line in lines(found):
        print(line)
    if json_path:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        json_path.write_text(json.dumps(asdict(found), indent=2) + "\n", encoding="utf-8")
    if html_path:
        write_html({"Simulation": [picture(found), table(found)]}, html_path, title="asyncjobs bench clusters")
    if image_path:
        picture(found).write_image(image_path, width=900, height=430)
    return found


# --- what is played ---------------------------------------------------------------------


def measured(count: int) -> list[float]:
    """How long so many real jobs take in a worker process, each over the mean."""

    async def run() -> list[float]:
        async with aj.Runner(processes=1) as runner:
            seconds = await runner.options(lane="process").map(timed, density.benchmark_widths(count)).collect()
        return [one * len(seconds) / sum(seconds) for one in seconds]

    progress("measuring")
    return aj.run(run())


def timed(width: float) -> float:
    """The seconds of one Parzen estimate in plain Python."""
    samples = density.gaussian_samples(1000)
    began = perf_counter()
    density.published_estimate(samples, width)
    return perf_counter() - began


async def single(lane: SimulatedLane, count: int) -> float:
    """Each call is submitted by itself, as fast as the queue takes them; how long it took."""
    loop = asyncio.get_running_loop()
    async with aj.Runner(lanes={"cluster": lane}, watchdog=None) as runner:
        cluster, began = runner.options(lane="cluster"), loop.time()
        for number in range(count):
            await cluster.submit(nothing, number)
        await runner.join()
        return loop.time() - began


async def mapped(lane: SimulatedLane, count: int) -> float:
    """All items in one map; how long it took."""
    loop = asyncio.get_running_loop()
    async with aj.Runner(lanes={"cluster": lane}, watchdog=None) as runner:
        began = loop.time()
        await runner.options(lane="cluster").map(nothing, range(count), ordered=False).collect()
        return loop.time() - began


def nothing(number: int) -> None:
    """What the workers would do."""


SINGLE: Final = Way("jobs of their own", single, 0.0, "#d9822b")
WITH_CLIENT: Final = Way("jobs, a client that computes 0.1 ms a message", single, CLIENT, "#a3564b")
MAPPED: Final = Way("items of a map", mapped, 0.0, "#3b7dd8")
WAYS: Final = (SINGLE, WITH_CLIENT, MAPPED)


def simulate(times: Sequence[float], waves: int, shape: Sequence[float], workers: int = WORKERS) -> Simulation:
    """A run for each mean time and each way; `waves` jobs for each worker, or more items of a map."""
    points = []
    for seconds in times:
        for way in WAYS:
            progress(f"{workers} workers, {seconds:g} s, {way.name}")
            each = max(1, min(ITEMS, round(1 / seconds) // waves)) if way is MAPPED else 1
            points.append(point(way, seconds, workers, workers * waves * each, shape))
    progress("memory")
    return Simulation(system.table(), points, memory(workers))


def point(way: Way, seconds: float, workers: int, count: int, shape: Sequence[float]) -> Point:
    """One run on a clock of its own."""
    draw = random.Random(7)
    lane = SimulatedLane(workers, lambda: seconds * draw.choice(shape), way=WAY, cost=way.cost)
    gc.collect()
    with asyncio.Runner(loop_factory=ChargedLoop) as loops:
        took = loops.run(way.play(lane, count))
    rate = count / took
    return Point(way.name, seconds, rate, rate * seconds / workers)


def memory(workers: int) -> float:
    """Bytes for each job in flight: as many run as there are workers, nine times as many wait."""

    async def play() -> float:
        lane = SimulatedLane(workers, lambda: 1e6)
        count = 10 * workers
        async with aj.Runner(lanes={"cluster": lane}, watchdog=None, queue_size=count) as runner:
            cluster = runner.options(lane="cluster")
            first = await cluster.submit(nothing, 0)  # what is made once, is
            gc.collect()
            tracemalloc.start()
            jobs = [await cluster.submit(nothing, number) for number in range(count)]
            gc.collect()
            used = tracemalloc.get_traced_memory()[0]
            tracemalloc.stop()
            runner.cancel_all()
            await runner.join()
            assert first.done()
            return used / len(jobs)

    with asyncio.Runner(loop_factory=ChargedLoop) as loops:
        return loops.run(play())


# --- showing it -------------------------------------------------------------------------


def limit(found: Simulation, way: Way) -> float:
    """The most in a second, however short they are."""
    return max(one.rate for one in found.points if one.way == way.name)


def lines(found: Simulation) -> list[str]:
    """For the terminal."""
    shown = [f"{one.seconds:7g} s  {one.rate:12,.0f} /s  {one.busy:5.0%} busy  {one.way}" for one in found.points]
    limits = [f"at most {limit(found, way):,.0f} /s as {way.name}" for way in WAYS]
    return [f"{WORKERS:,} simulated workers", *shown, *limits, f"{found.nbytes:,.0f} bytes for each job in flight"]


def table(found: Simulation) -> Table:
    """For the page."""
    rows = [(f"{one.seconds:g} s", one.way, f"{one.rate:,.0f}", f"{one.busy:.0%}") for one in found.points]
    return Table(("mean time", "handed over as", "in a second", "workers busy"), rows)


def picture(found: Simulation) -> Figure:
    """How many in a second over how long each takes, beside what the workers could do."""
    from plotly import graph_objects

    figure = graph_objects.Figure()
    times = sorted({one.seconds for one in found.points})
    could = [WORKERS / seconds for seconds in times]
    figure.add_scatter(x=times, y=could, name=f"{WORKERS:,} workers could", line={"color": "#9aa3ab", "dash": "dot"})
    for way in reversed(WAYS):
        rates = [one.rate for one in found.points if one.way == way.name]
        figure.add_scatter(x=times, y=rates, name=way.name, line={"color": way.colour, "width": 3})
    ticks = [f"{seconds:g}" for seconds in times]
    figure.update_xaxes(type="log", title="seconds that each takes", tickvals=times, ticktext=ticks)
    figure.update_yaxes(type="log", title="in a second", dtick=1)
    caption = "Where a line leaves the dotted one, the loop is the limit, and workers wait for work."
    dress(figure, f"{WORKERS:,} simulated workers", caption)
    legend = {"orientation": "v", "x": 0.98, "xanchor": "right", "y": 0.98, "yanchor": "top"}
    return figure.update_layout(legend=legend)
