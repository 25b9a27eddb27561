"""What an open pipeline works with, over all its epochs: threads, worker processes, the crew of each stage."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

from asyncjobs.lanes.base import Lane
from asyncjobs.lanes.daemon import DaemonThreads
from asyncjobs.lanes.process import ProcessLane
from asyncjobs.pipeline.account import Account
from asyncjobs.pipeline.crews import Crew, JobCrew, LoopCrew, ThreadCrew
from asyncjobs.pipeline.faults import Fault, Faults, OnError
from asyncjobs.pipeline.sources import Read
from asyncjobs.runner import Runner

logger: logging.Logger = logging.getLogger("asyncjobs")

GRACE = 0.2
"""Seconds that calls get to end when the pipeline closes."""


class Work(Protocol):
    """A stage that calls a function; each has a crew of its own."""

    @property
    def fn(self) -> Callable[..., Any]: ...
    @property
    def name(self) -> str: ...
    @property
    def lane(self) -> str: ...
    @property
    def concurrency(self) -> int: ...
    @property
    def on_error(self) -> OnError: ...


class Station(NamedTuple):
    """Where the items of one stage are worked on, in all epochs."""

    crew: Crew
    faults: Faults
    account: Account


class Workshop:
    """Opened and closed on one event loop.

    Args:
        work: the stages that call functions.
        seed: where all random numbers come from.
        runner: an open runner, whose lanes are used; None: one of our own, if any stage needs processes.
    """

    def __init__(self, work: Iterable[Work], seed: int, runner: Runner | None) -> None:
        self.seed: int = seed
        self._work = tuple(work)
        self._given = runner
        self._runner: Runner | None = None
        self._crews: dict[Work, Crew] = {}
        self._faults: dict[Work, Faults] = {stage: Faults(stage.name, stage.on_error) for stage in self._work}
        self._accounts: dict[Work, Account] = {stage: Account(stage.name, stage.concurrency) for stage in self._work}
        self._reading: set[Read] = set()
        self.threads: DaemonThreads

    async def open(self) -> None:
        """Start the runner; workers and threads start when they are first needed."""
        self.threads = DaemonThreads("asyncjobs-pipeline-", asyncio.get_running_loop())
        lanes = self._lanes()
        if self._given is None and lanes:
            self._runner = await Runner(processes=1, threads=1, lanes=lanes, watchdog=None).__aenter__()
            self._runner._tells_of_cancels = False

    def _lanes(self) -> Mapping[str, Lane]:
        stages = [stage for stage in self._work if stage.lane == "process"]
        return {self._lane_of(stage): ProcessLane(stage.concurrency) for stage in stages}

    def _lane_of(self, stage: Work) -> str:
        return stage.lane if self._given is not None else f"{stage.name} {self._work.index(stage)}"

    # --- what stages ask ----------------------------------------------------------------

    def station(self, stage: Work) -> Station:
        """Who calls the function of `stage`, and the books about it."""
        crew = self._crews.get(stage)
        if crew is None:
            crew = self._crews[stage] = self._new_crew(stage)
        return Station(crew, self._faults[stage], self._accounts[stage])

    def _new_crew(self, stage: Work) -> Crew:
        if stage.lane == "loop":
            return LoopCrew(stage.fn, stage.concurrency)
        if stage.lane == "thread":
            return ThreadCrew(stage.fn, stage.name, stage.concurrency, self.threads)
        runner = self._given or self._runner
        assert runner is not None
        return JobCrew(stage.fn, runner.options(lane=self._lane_of(stage), name=stage.name))

    def faults(self, stage: Work) -> Faults:
        """The account of the items of `stage` that failed, in all epochs."""
        return self._faults[stage]

    def read(self, make: Callable[[], Iterable[Any]], name: str) -> Read:
        """A thread that reads what ``make()`` returns."""
        reading = Read(make, name, self.threads)
        self._reading.add(reading)
        reading.end.add_done_callback(lambda _: self._reading.discard(reading))
        return reading

    # --- looking ------------------------------------------------------------------------

    def errors(self) -> list[Fault]:
        """The latest items that were left out, at most 100 of each stage."""
        return [fault for faults in self._faults.values() for fault in faults.kept]

    def accounts(self) -> list[Account]:
        """Of the stages whose calls are counted, first to last."""
        return [self._accounts[stage] for stage in self._work if stage in self._crews or self._accounts[stage].items]

    def skipped(self) -> int:
        """How many items were left out."""
        return sum(faults.count for faults in self._faults.values())

    # --- the end ------------------------------------------------------------------------

    async def aclose(self) -> None:
        """End all workers; a call that does not end within `GRACE` is left alone, and named in a warning."""
        for reading in self._reading:
            reading.hang_up()
        ends: dict[asyncio.Future[None], str] = {reading.end: reading.name for reading in self._reading}
        for stage, crew in self._crews.items():
            ends |= dict.fromkeys(crew.dismiss(), stage.name)
        self._crews.clear()
        self.threads.shutdown()
        if self._runner is not None:
            await self._runner.aclose(drain=0, grace=0)
        if ends:
            await asyncio.wait(ends, timeout=GRACE)
        if left := sorted({name for end, name in ends.items() if not end.done()}):
            logger.warning("the pipeline has ended, but a call still runs in %s; threads cannot be stopped", left)

    def abort(self) -> None:
        """The same from anywhere, and without waiting: whoever should have closed us did not."""
        for reading in tuple(self._reading):
            reading.hang_up()
        for crew in self._crews.values():
            crew.hang_up()
        self.threads.shutdown()
