"""Measure contestants side by side and judge the ratios between them.

A round measures every contestant once, so a machine that is busy for a while is
busy for all of them; ratios are taken inside each round and only then summed up.
It knows nothing of pools, tables or pages.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import NamedTuple

Work = Callable[[int], Awaitable[None]]
"""Do so many calls; return when the last has its result."""

Clock = Callable[[Work], Awaitable[float]]
"""Turn one opened contestant into one figure."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """One way to do the work; `open` starts its workers and ends them, both outside the clock."""

    name: str
    version: str
    open: Callable[[], AbstractAsyncContextManager[Work]]


class Spread(NamedTuple):
    """A figure measured several times; low and high are the quartiles (of few values: near min and max)."""

    median: float
    low: float
    high: float
    min: float
    max: float
    rounds: int


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure to reach: `ours` over `against` in the same round, or `ours` by itself if `against` is empty."""

    what: str
    ours: str
    against: str
    target: float
    at_least: bool
    """True: the target is a lower bound; False: an upper one."""
    unit: str = ""
    """The target's unit where nothing is compared: ``bytes``, ``share`` (of one core), ``s`` or none."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A goal and what was measured for it; `reached` is None if one side was not measured."""

    goal: Goal
    measured: Spread | None
    reached: bool | None


@dataclass(frozen=True, slots=True)
class Measurement:
    """One group of contestants on one task, the values in the order of the rounds."""

    title: str
    unit: str
    higher_is_better: bool
    values: Mapping[str, Sequence[float]]
    ours: Sequence[str]
    """Which of the names in `values` are asyncjobs."""
    goals: Sequence[Goal] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)
    """Contestants that raised, and what; they have no values from that round on."""
    beside: Mapping[str, str] = field(default_factory=dict)
    """Which of ours a peer is compared with; who is not named here, with the first of ours."""
    note: str = ""
    """How the figure was taken, for the reader of the page."""


def spread(values: Iterable[float]) -> Spread:
    """Sum up the values of all rounds.

    1, 2, 3, 4, 5 -> median 3, quartiles 2 and 4, min 1, max 5.

    Raises:
        ValueError: there are no values.
    """
    ordered = sorted(values)
    if not ordered:
        raise ValueError("a spread needs at least one value")
    if len(ordered) == 1:
        low = high = ordered[0]
    else:
        low, _, high = statistics.quantiles(ordered, n=4, method="inclusive")
    return Spread(statistics.median(ordered), low, high, ordered[0], ordered[-1], len(ordered))


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Ours over theirs, round by round; a round that one side lacks is left out.

    [10, 30] over [5, 10] -> [2.0, 3.0], whose median 2.5 is not the ratio of the medians.
    """
    return [our / their for our, their in zip(ours, theirs, strict=False) if their]


def percentile(values: Iterable[float], share: float) -> float:
    """The smallest value that `share` (0 to 1) of the values do not exceed.

    Raises:
        ValueError: there are no values.
    """
    ordered = sorted(values)
    if not ordered:
        raise ValueError("a percentile needs at least one value")
    # -(-a // b) rounds up: the 99th percentile of 100 values is the 99th, not the 100th.
    rank = int(-(-len(ordered) * share // 1))
    return ordered[min(max(rank, 1), len(ordered)) - 1]


def judge(measurement: Measurement) -> list[Verdict]:
    """Hold every goal of a measurement against its values, lost ones included."""
    return [_judge_one(goal, measurement.values) for goal in measurement.goals]


def _judge_one(goal: Goal, values: Mapping[str, Sequence[float]]) -> Verdict:
    found: Sequence[float] = values.get(goal.ours, ())
    if goal.against:
        found = ratios(found, values.get(goal.against, ()))
    if not found:
        return Verdict(goal, None, None)
    measured = spread(found)
    reached = measured.median >= goal.target if goal.at_least else measured.median <= goal.target
    return Verdict(goal, measured, reached)


def turns(contestants: Sequence[Contestant], rounds: int) -> list[list[Contestant]]:
    """The order of each round: it moves on by one, so that nobody always runs after the same neighbour."""
    count = len(contestants)
    return [[contestants[(start + place) % count] for place in range(count)] for start in range(rounds)]


class Race:
    """Takes contestants through their rounds and keeps the values."""

    def __init__(self, contestants: Sequence[Contestant], clock: Clock) -> None:
        self._contestants = contestants
        self._clock = clock
        self.values: dict[str, list[float]] = {one.name: [] for one in contestants}
        self.failures: dict[str, str] = {}
        self.versions: dict[str, str] = {one.name: one.version for one in contestants}

    async def run(self, rounds: int) -> AsyncIterator[str]:
        """Measure `rounds` times; yields a line for the reader before each figure is taken."""
        for number, order in enumerate(turns(self._contestants, rounds), start=1):
            for contestant in order:
                if contestant.name not in self.failures:
                    yield f"round {number} of {rounds}: {contestant.name}"
                    await self._measure(contestant)

    async def _measure(self, contestant: Contestant) -> None:
        try:
            async with contestant.open() as work:
                gc.collect()
                figure = await self._clock(work)
        except Exception as error:
            # A peer is foreign code: that it breaks is a result to show, not the end of the benchmark.
            self.failures[contestant.name] = f"{type(error).__name__}: {error}"
        else:
            self.values[contestant.name].append(figure)


def rate(count: int, warm_up: int, settle: float) -> Clock:
    """A clock for calls per second: `count` calls at once.

    Off the clock `warm_up` calls are made twice, `settle` seconds apart: workers that
    start on demand, one after the other, have all started then.
    """

    async def clock(work: Work) -> float:
        await work(warm_up)
        await asyncio.sleep(settle)
        await work(warm_up)
        start = time.perf_counter()
        await work(count)
        return count / (time.perf_counter() - start)

    return clock


def idle_latency(count: int, warm_up: int) -> Clock:
    """A clock for the median duration in seconds of `count` single calls, each made when the last has ended."""

    async def clock(work: Work) -> float:
        for _ in range(warm_up):
            await work(1)
        durations: list[float] = []
        for _ in range(count):
            start = time.perf_counter()
            await work(1)
            durations.append(time.perf_counter() - start)
        return statistics.median(durations)

    return clock
