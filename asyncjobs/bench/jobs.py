"""``asyncjobs bench jobs``: what a job costs, beside every peer that is installed.

Each row of the table of goals is one measurement; what is missed is shown like the rest.
"""

from __future__ import annotations

from pathlib import Path

import asyncjobs as aj
from asyncjobs.bench import footprint, races, system
from asyncjobs.bench.measure import Measurement
from asyncjobs.bench.output import check_writable, progress, publish
from asyncjobs.bench.result import Report
from asyncjobs.bench.scale import FULL, QUICK, Scale


def main(json_path: Path | None = None, html_path: Path | None = None, quick: bool = False) -> None:
    """Measure everything, print it, and write the figures and the page where a path is given.

    About five minutes on two cores, with `quick` under one; nothing else should run meanwhile.
    """
    check_writable(html_path)
    scale = QUICK if quick else FULL
    # Before the measurements, which themselves put a load on the machine.
    table = system.table()
    measurements = aj.run(_races(scale)) + footprint.measure_all(scale, progress)
    command = "asyncjobs bench jobs --quick" if quick else "asyncjobs bench jobs"
    publish(Report("asyncjobs bench jobs", command, table, measurements), json_path, html_path)


async def _races(scale: Scale) -> list[Measurement]:
    return [await races.run(task, scale.rounds, progress) for task in races.tasks(scale)]
