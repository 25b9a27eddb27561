"""What asyncjobs takes when nobody races it: memory, import time, the processor time of an idle runner."""

from __future__ import annotations

from collections.abc import Callable

from asyncjobs.bench import probes
from asyncjobs.bench.measure import Goal, Measurement
from asyncjobs.bench.scale import Scale

_GROWTH = "growth of the parent"
_JOB = "one queued job"
_SHALLOW = "submit's p99 behind 1,000 jobs"
_IDLE = "runner and two warm workers"
_HEAVY = "heavy modules loaded"


def measure_all(scale: Scale, say: Callable[[str], None]) -> list[Measurement]:
    """Run every probe in turn; one that fails becomes a measurement without values."""
    say("imports")
    measurements = [_imports(scale.imports), _worker_import()]
    say(f"{scale.passed:,} items through map, memory")
    measurements.append(_map_memory(scale.passed))
    say(f"{scale.queued:,} queued jobs")
    measurements += _queued(scale.queued)
    say("an idle runner")
    measurements.append(_idle(scale.idle))
    return measurements


def _imports(rounds: int) -> Measurement:
    library = probes.library_import()
    values: dict[str, list[float]] = {probes.RUNNER_IMPORT: [], library: []}
    failures: dict[str, str] = {}
    try:
        values = probes.import_times([probes.RUNNER_IMPORT, library], rounds)
    except probes.ProbeFailed as error:
        failures[probes.RUNNER_IMPORT] = str(error)
    return Measurement(
        title="Import",
        unit="s",
        higher_is_better=False,
        values=values,
        ours=[probes.RUNNER_IMPORT],
        goals=[Goal("import", probes.RUNNER_IMPORT, library, 1.3, at_least=False)],
        failures=failures,
        note=f"{rounds} fresh interpreters for each statement, in turns; their own start is not counted.",
    )


def _worker_import() -> Measurement:
    modules = ", ".join(probes.HEAVY)
    return _single(
        "What a worker imports",
        _HEAVY,
        "",
        [Goal("import of asyncjobs.worker, heavy modules", _HEAVY, "", 0.0, at_least=False)],
        lambda: float(len(probes.heavy_modules_of_worker())),
        f"How many of {modules} the import of asyncjobs.worker loads.",
    )


def _map_memory(count: int) -> Measurement:
    return _single(
        f"Memory while {count:,} items pass through map",
        _GROWTH,
        "bytes",
        [Goal(f"{count:,} items through map", _GROWTH, "", 50e6, at_least=False, unit="bytes")],
        lambda: probes.map_memory(count),
        "The parent's peak less its size after 10,000 items, in a fresh process; results are not kept.",
    )


def _queued(count: int) -> list[Measurement]:
    deep = f"submit's p99 behind {count:,} jobs"
    figures: dict[str, float] = {}
    failures: dict[str, str] = {}
    try:
        figures.update(probes.queued(count))
    except probes.ProbeFailed as error:
        failures = dict.fromkeys((_JOB, deep, _SHALLOW), str(error))
    size = Measurement(
        title=f"Memory of {count:,} queued jobs",
        unit="bytes",
        higher_is_better=False,
        values={_JOB: [figures["nbytes"]] if figures else []},
        ours=[_JOB],
        goals=[Goal(f"each of {count:,} queued jobs", _JOB, "", 1000.0, at_least=False, unit="bytes")],
        failures=failures,
        note="Growth of the parent while the only worker is held by a long job, over the number of jobs.",
    )
    speed = Measurement(
        title=f"Submit behind 1,000 and behind {count:,} queued jobs",
        unit="s",
        higher_is_better=False,
        values={_SHALLOW: [figures["shallow"]], deep: [figures["deep"]]} if figures else {_SHALLOW: [], deep: []},
        ours=[_SHALLOW, deep],
        goals=[Goal("submit's p99", deep, _SHALLOW, 2.0, at_least=False)],
        failures=failures,
        note="The 99th percentile of 5,000 submits into a queue that holds so many already.",
    )
    return [size, speed]


def _idle(seconds: float) -> Measurement:
    return _single(
        "An idle runner",
        _IDLE,
        "share",
        # What rounds to 0.0 %.
        [Goal("idle runner, share of one core", _IDLE, "", 0.0005, at_least=False, unit="share")],
        lambda: probes.idle_share(seconds),
        f"Processor time of the runner and all its processes over {seconds:g} s after every lane has been used, "
        "read from outside.",
    )


def _single(title: str, name: str, unit: str, goals: list[Goal], probe: Callable[[], float], note: str) -> Measurement:
    values: list[float] = []
    failures: dict[str, str] = {}
    try:
        values.append(probe())
    except probes.ProbeFailed as error:
        failures[name] = str(error)
    return Measurement(
        title=title,
        unit=unit,
        higher_is_better=False,
        values={name: values},
        ours=[name],
        goals=goals,
        failures=failures,
        note=note,
    )
