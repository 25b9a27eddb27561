"""Figures that need a fresh interpreter: memory, imports, an idle runner."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from asyncjobs.bench import peers, processor_time

# What a worker must not load: each costs every worker its start-up time and its memory.
HEAVY = ("asyncio", "numpy", "sqlite3", "plotly", "anyio", "uvloop")

RUNNER_IMPORT = "from asyncjobs import Runner"

# Long enough for the slowest machine, short enough to be noticed.
_LIMIT = 900.0
_PACKAGE_PARENT = str(Path(__file__).resolve().parents[2])


class ProbeFailed(RuntimeError):
    """A fresh interpreter did not give its figure; the text is the end of its standard error."""


def library_import() -> str:
    """The imports that no runner can do without, as one statement."""
    loop = "uvloop, " if peers.installed("uvloop") else ""
    return f"import asyncio, {loop}anyio, concurrent.futures.process"


def import_times(statements: Sequence[str], rounds: int) -> dict[str, list[float]]:
    """Seconds that fresh interpreters need for each import statement, in turns; their own start is not counted.

    Byte code is kept in a folder of its own for the while: where nothing may be written
    beside the sources, every import would compile them anew, but not those of libraries.

    Raises:
        ProbeFailed: a statement does not work.
    """
    durations: dict[str, list[float]] = {statement: [] for statement in statements}
    with tempfile.TemporaryDirectory() as cache:
        # One round off the clock: it compiles, and reads from the disk.
        for number in range(rounds + 1):
            for statement in statements:
                seconds = _import_time(statement, cache)
                if number:
                    durations[statement].append(seconds)
    return durations


def _import_time(statement: str, cache: str) -> float:
    code = f"import time; start = time.perf_counter(); {statement}; print(time.perf_counter() - start)"
    return float(_python("-c", code, environment={"PYTHONPYCACHEPREFIX": cache, "PYTHONDONTWRITEBYTECODE": ""}))


def heavy_modules_of_worker() -> list[str]:
    """Which of `HEAVY` the import of `asyncjobs.worker` loads; none is right."""
    code = f"import json, sys, asyncjobs.worker; print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    found: list[str] = json.loads(_python("-c", code))
    return found


def map_memory(count: int) -> float:
    """Bytes by which the parent grows while `count` items pass through `map`."""
    return _figures("map-memory", count)["grown"]


def plotted(count: int) -> Mapping[str, float]:
    """`grown` in bytes and the points that are `shown` of a curve after `count` rows of three scalars."""
    return _figures("plotted", count)


def queued(count: int) -> Mapping[str, float]:
    """`nbytes` of each of `count` queued jobs; submit's p99 in seconds, `shallow` (10^3 before it) and `deep`."""
    return _figures("queued", count)


def idle_share(seconds: float) -> float:
    """Processor time over time of an idle runner and its workers, 0.0 to the number of cores.

    It is read from outside, so that reading it is not part of it.

    Raises:
        ProbeFailed: this system has no /proc.
    """
    if not processor_time.available():
        raise ProbeFailed("needs /proc to add up the processor time of a family of processes")
    with _started("idle", round(seconds) + 4) as process:
        time.sleep(1.0)
        used, since = processor_time.of_family(process.pid), time.monotonic()
        time.sleep(seconds)
        return (processor_time.of_family(process.pid) - used) / (time.monotonic() - since)


@contextmanager
def _started(name: str, number: int) -> Iterator[subprocess.Popen[str]]:
    """A probe that has printed its first line; it is waited for at the end."""
    command = [sys.executable, "-m", "asyncjobs.bench.probed", name, str(number)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=source_environment()) as process:
        if not process.stdout or not process.stdout.readline():
            raise ProbeFailed(f"the probe {name} ended with {process.wait()} before it was ready")
        yield process
        process.wait(_LIMIT)


def _figures(name: str, number: int) -> Mapping[str, float]:
    figures: Mapping[str, float] = json.loads(_python("-m", "asyncjobs.bench.probed", name, str(number)))
    return figures


def _python(*arguments: str, environment: Mapping[str, str] | None = None) -> str:
    command = [sys.executable, *arguments]
    variables = {**source_environment(), **(environment or {})}
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=variables, timeout=_LIMIT, check=False)
    except subprocess.TimeoutExpired as error:
        raise ProbeFailed(f"no figure after {_LIMIT:g} s: {' '.join(arguments)[:80]}") from error
    if done.returncode:
        raise ProbeFailed(f"exit code {done.returncode}: {done.stderr.strip()[-500:]}")
    return done.stdout.strip()


def source_environment() -> dict[str, str]:
    """This environment; the package is found also where it is run from its source folder."""
    paths = [_PACKAGE_PARENT, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
