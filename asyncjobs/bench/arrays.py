"""``asyncjobs bench arrays``: what it costs to give a job a large array, and to get one back.

Beside one copy in memory, which nobody can beat, and every peer that is installed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncjobs as aj
from asyncjobs.bench import carriers, measure, races, system
from asyncjobs.bench.measure import Clock, Goal, Measurement
from asyncjobs.bench.output import check_writable, progress, publish
from asyncjobs.bench.races import Task
from asyncjobs.bench.result import Report

MIB = 2**20
DECIDES = 64 * MIB
"""The size for which goals are set."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is done."""

    sizes: Sequence[int]
    rounds: int
    warm_up: int
    calls: int
    """One after the other in each round, for the largest arrays fewer."""
    burst: int
    """Jobs of 1 MiB at once."""
    soak: int
    """Jobs of 1 MiB while memory, descriptors and mappings are watched."""


FULL = Scale((64 * 1024, MIB, 16 * MIB, DECIDES, 512 * MIB), rounds=5, warm_up=4, calls=20, burst=200, soak=10_000)
QUICK = Scale((64 * 1024, DECIDES), rounds=1, warm_up=1, calls=1, burst=20, soak=200)


def main(json_path: Path | None = None, html_path: Path | None = None, quick: bool = False) -> None:
    """Measure everything, print it, and write the figures and the page where a path is given.

    About eight minutes on two cores, with `quick` half a minute; nothing else should run meanwhile.
    """
    check_writable(html_path)
    scale = QUICK if quick else FULL
    table = system.table()
    measurements = [*aj.run(_races(scale)), aj.run(_soak(scale.soak))]
    command = "asyncjobs bench arrays --quick" if quick else "asyncjobs bench arrays"
    publish(Report("asyncjobs bench arrays", command, table, measurements), json_path, html_path)


async def _races(scale: Scale) -> list[Measurement]:
    tasks = [one for nbytes in scale.sizes for one in (_one_way(nbytes, scale), _both_ways(nbytes, scale))]
    tasks += [_burst(scale), _shared(scale)]
    return [await races.run(task, scale.rounds, progress) for task in tasks]


def _clock(nbytes: int, scale: Scale) -> Clock:
    return measure.idle_latency(scale.calls, scale.warm_up) if nbytes <= DECIDES else measure.idle_latency(2, 1)


def size_text(nbytes: int) -> str:
    """``64 KiB``, ``512 MiB``."""
    return f"{nbytes // MIB} MiB" if nbytes >= MIB else f"{nbytes // 1024} KiB"


def _one_way(nbytes: int, scale: Scale) -> Task:
    goals = [
        Goal("argument of 64 MiB", carriers.OURS, carriers.COPY, 1.3, at_least=False),
        Goal("argument of 64 MiB", carriers.OURS, carriers.EXECUTOR, 1 / 15, at_least=False),
    ]
    return Task(
        title=f"An argument of {size_text(nbytes)}",
        unit="s",
        note="The median of idle calls of a function that takes a float64 array and returns its first number.",
        ours=[carriers.ours(nbytes, back=False)],
        theirs=carriers.theirs(nbytes, back=False),
        clock=_clock(nbytes, scale),
        goals=goals if nbytes == DECIDES else (),
        higher_is_better=False,
    )


def _both_ways(nbytes: int, scale: Scale) -> Task:
    goals = [
        Goal("64 MiB in and out", carriers.OURS, carriers.COPY, 1.3, at_least=False),
        Goal("64 MiB in and out", carriers.OURS, "joblib", 1 / 12, at_least=False),
    ]
    return Task(
        title=f"{size_text(nbytes)} in and out",
        unit="s",
        note="The same with a function that returns the array; the copy in memory is made twice.",
        ours=[carriers.ours(nbytes, back=True)],
        theirs=carriers.theirs(nbytes, back=True),
        clock=_clock(nbytes, scale),
        goals=goals if nbytes == DECIDES else (),
        higher_is_better=False,
    )


def _burst(scale: Scale) -> Task:
    return Task(
        title="1 MiB in and out, many jobs",
        unit=" jobs/s",
        note=f"{scale.burst} jobs submitted one after the other, then every result taken; {carriers.WORKERS} workers.",
        ours=[carriers.our_burst(MIB)],
        theirs=carriers.their_burst(MIB),
        clock=measure.rate(scale.burst, scale.burst, 0.1),
        goals=[Goal("1 MiB in and out, jobs per second", carriers.OURS, carriers.EXECUTOR, 8.0, at_least=True)],
        higher_is_better=True,
    )


def _shared(scale: Scale) -> Task:
    return Task(
        title="100 jobs that take one shared array of 64 MiB",
        unit="s",
        note="100 jobs of 2 ms each, with the handle of a shared array as argument, and without.",
        ours=[carriers.with_shared(DECIDES), carriers.without_shared()],
        theirs=[],
        clock=measure.idle_latency(max(3, scale.calls // 4), 2),
        goals=[Goal("the same shared array in 100 jobs", carriers.SHARED, carriers.NOT_SHARED, 1.05, at_least=False)],
        higher_is_better=False,
    )


async def _soak(jobs: int) -> Measurement:
    """Many jobs of 1 MiB: what this process holds afterwards, beyond what it held after the first of them."""
    progress(f"{jobs:,} jobs of 1 MiB")
    async with carriers.our_burst(MIB).open() as work:
        for _ in range(5 + jobs // 500):
            await work(100)
        before = _holdings()
        for _ in range(jobs // 100):
            await work(100)
        grown = [max(0, now - then) for now, then in zip(_holdings(), before, strict=True)]
    names = ("descriptors", "mappings", "memory in MiB")
    return Measurement(
        title=f"Growth over {jobs:,} jobs of 1 MiB in and out",
        unit="",
        higher_is_better=False,
        values={name: [float(value)] for name, value in zip(names, grown, strict=True)},
        ours=list(names),
        goals=[
            Goal(f"growth: {name}", name, "", limit, at_least=False)
            for name, limit in zip(names, (2, 2, 4), strict=True)
        ],
        note="A window of the memory file may be mapped late, which holds a descriptor. Linux only: open descriptors, "
        "lines of /proc/self/maps, anonymous and shared memory of this process.",
    )


def _holdings() -> tuple[int, int, int]:
    with open("/proc/self/maps", encoding="ascii", errors="replace") as maps:
        mappings = sum(1 for _ in maps)
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        fields = dict(line.split(":", 1) for line in status)
    kib = sum(int(fields[name].split()[0]) for name in ("RssAnon", "RssShmem"))
    return len(os.listdir("/proc/self/fd")), mappings, kib // 1024
