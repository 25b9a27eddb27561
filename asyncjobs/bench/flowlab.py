"""An interpreter for each library that takes part in a benchmark, kept to the end; and the rounds.

So that one library's threads, locks and memory are not another's, that `fork` is safe for who uses it, and that a
contestant that hangs can be ended.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol, Self, TypeVar

from asyncjobs.bench import measure, probes, processor_time
from asyncjobs.bench.measure import Goal, Measurement

R = TypeVar("R")

LIMIT = 300.0
"""Seconds for one figure."""
LEAVING = 20.0
"""Seconds for an interpreter to end."""
_QUIET = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "2",
    "TF_NUM_INTEROP_THREADS": "2",
    "CUDA_VISIBLE_DEVICES": "",
}
"""One thread for each library that computes, for there are two cores."""

Figures = dict[str, float]
"""Name to figure, of one contestant in one round."""


class Entrant(Protocol):
    """Who takes part in a race."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def library(self) -> str: ...


class NoFigure(RuntimeError):
    """A contestant broke, or took too long; the text says which."""


class Room:
    """An interpreter of its own; `limit` seconds for one call."""

    def __init__(self, limit: float | None = None) -> None:
        self._limit = limit or LIMIT
        self._process = subprocess.Popen(
            [sys.executable, "-m", "asyncjobs.bench.flowroom"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=probes.source_environment() | _QUIET,
        )
        self._reader = ThreadPoolExecutor(1)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._calls, self._results = self._process.stdin, self._process.stdout

    def call(self, fn: Callable[..., Any], *args: Any) -> Any:
        """``fn(*args)`` in there.

        Raises:
            NoFigure: it raised something, took longer than the limit, or ended the interpreter.
        """
        pickle.dump((fn, args), self._calls)
        self._calls.flush()
        try:
            result, failure = self._reader.submit(pickle.load, self._results).result(self._limit)
        except TimeoutError:
            raise NoFigure(f"no figure after {self._limit:g} s") from None
        except (EOFError, pickle.UnpicklingError):
            raise NoFigure(f"its interpreter ended with code {self._process.wait(self._limit)}") from None
        if failure:
            raise NoFigure(failure)
        return result

    def close(self) -> None:
        """End it with all its processes, also in the midst of a call."""
        family = processor_time.family(self._process.pid)
        self._calls.close()
        try:
            self._process.wait(LEAVING)
        except subprocess.TimeoutExpired:
            for pid in family:
                _kill(pid)
            self._process.wait()
        self._reader.shutdown()
        self._results.close()


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # it has ended by itself, which is all that is wanted


@dataclass(slots=True)
class Results:
    """What came out of a race: for each contestant the figures of each round."""

    figures: dict[str, list[Figures]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def of(self, figure: str) -> dict[str, list[float]]:
        """One figure of everybody."""
        return {name: [one[figure] for one in rounds if figure in one] for name, rounds in self.figures.items()}

    def best(self, figure: str, among: Collection[str] = ()) -> str:
        """Whose median is lowest, of all or `among` these; empty if nobody has one."""
        medians = {
            name: measure.spread(values).median
            for name, values in self.of(figure).items()
            if values and (not among or name in among)
        }
        return min(medians, key=lambda name: medians[name], default="")


class Lab:
    """The rooms, one for each library: whose turn it is not waits in there, and uses no processor.

    Args:
        say: gets a line before each figure is taken.
        limit: seconds for one figure; `LIMIT` if not given.
    """

    def __init__(self, say: Callable[[str], None], limit: float | None = None) -> None:
        self._say = say
        self._limit = limit
        self._rooms: dict[str, Room] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for name in tuple(self._rooms):
            self._leave(name)

    def call(self, title: str, fn: Callable[..., R], *args: Any) -> R:
        """``fn(*args)`` in an interpreter of its own.

        Raises:
            NoFigure: it raised something, or took too long.
        """
        self._say(title)
        result: R = self._room(title).call(fn, *args)
        self._leave(title)
        return result

    def race(
        self,
        title: str,
        feeders: Sequence[Entrant],
        rounds: int,
        take: Callable[..., Figures],
        *args: Any,
        is_fresh: bool = False,
    ) -> Results:
        """Call ``take(feeder, *args)`` for everybody, round by round, in turns.

        `is_fresh`: in a new interpreter each time, for what happens only once in each.
        """
        results = Results({one.name: [] for one in feeders}, versions={one.name: one.version for one in feeders})
        for number in range(rounds):
            for place in range(len(feeders)):
                feeder = feeders[(number + place) % len(feeders)]
                if feeder.name not in results.failures:
                    self._say(f"{title}, round {number + 1} of {rounds}: {feeder.name}")
                    if is_fresh:
                        self._leave(feeder.library)
                    self._one(feeder, results, take, *args)
        return results

    def _one(self, feeder: Entrant, results: Results, take: Callable[..., Figures], *args: Any) -> None:
        room = self._room(feeder.library)
        try:
            figures = room.call(take, feeder, *args)
        # A peer is foreign code: that it breaks is a result to show, not the end of the benchmark.
        except NoFigure as error:
            results.failures[feeder.name] = str(error)
            self._leave(feeder.library)
        else:
            results.figures[feeder.name].append(figures)

    def _room(self, library: str) -> Room:
        if library not in self._rooms:
            self._rooms[library] = Room(self._limit)
        return self._rooms[library]

    def _leave(self, library: str) -> None:
        if library in self._rooms:
            self._rooms.pop(library).close()


def measurement(
    results: Results,
    figure: str,
    title: str,
    unit: str,
    note: str,
    ours: Sequence[str],
    goals: Sequence[Goal] = (),
    *,
    higher_is_better: bool,
    beside: Mapping[str, str] | None = None,
) -> Measurement:
    """One figure of everybody, as the other benchmarks show theirs."""
    return Measurement(
        title=title,
        unit=unit,
        higher_is_better=higher_is_better,
        values=results.of(figure),
        ours=ours,
        goals=goals,
        versions=results.versions,
        failures=results.failures,
        beside=beside or {},
        note=note,
    )
