"""What an open pipeline works with, over all its epochs: threads, worker processes, the crew of each stage."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from time import perf_counter
from typing import Any, NamedTuple, Protocol

from asyncjobs.lanes.base import Lane
from asyncjobs.lanes.daemon import DaemonThreads
from asyncjobs.lanes.process import ProcessLane
from asyncjobs.pipeline.account import Account, Consumer
from asyncjobs.pipeline.crews import Cell, Crew, JobCrew, LoopCrew, Ongoing, ThreadCrew
from asyncjobs.pipeline.faults import Fault, Faults, OnError
from asyncjobs.pipeline.report import PipelineReport, reported
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
    def ordered(self) -> bool: ...
    @property
    def on_error(self) -> OnError: ...


def _running(account: Account, calls: list[Ongoing], now: float) -> float:
    """Seconds that the calls, and the reading, have been running which have not ended."""
    reads = [since for reading in tuple(account.readings) if (since := reading.since) is not None]
    return sum(max(now - began_at, 0.0) for began_at in [*reads, *(call.began_at for call in calls)])


def _account_of(stage: Work) -> Account:
    return Account(stage.name, stage.concurrency, stage.lane, stage.ordered)


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
        self._accounts: dict[Work, Account] = {stage: _account_of(stage) for stage in self._work}
        self._sources: dict[object, Account] = {}
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
            computed = self._accounts[stage].computed = {}
            return ThreadCrew(stage.fn, stage.name, stage.concurrency, self.threads, computed)
        runner = self._given or self._runner
        assert runner is not None
        return JobCrew(stage.fn, runner.options(lane=self._lane_of(stage), name=stage.name))

    def faults(self, stage: Work) -> Faults:
        """The account of the items of `stage` that failed, in all epochs."""
        return self._faults[stage]

    def account(self, stage: Work) -> Account:
        """The books about `stage`."""
        return self._accounts[stage]

    def source(self, stage: object, name: str) -> Account:
        """The books about a source."""
        return self._sources.setdefault(stage, Account(name, 1, "source"))

    def read(self, make: Callable[[], Iterable[Any]], account: Account) -> Read:
        """A thread that reads what ``make()`` returns."""
        reading = Read(make, account, self.threads)
        self._reading.add(reading)
        reading.end.add_done_callback(lambda _: self._reading.discard(reading))
        return reading

    # --- looking ------------------------------------------------------------------------

    def errors(self) -> list[Fault]:
        """The latest items that were left out, at most 100 of each stage."""
        return [fault for faults in self._faults.values() for fault in faults.kept]

    def accounts(self) -> list[Account]:
        """Of the sources that take time, and the stages whose calls are counted, first to last."""
        known = [*tuple(self._sources.values()), *self._accounts.values()]
        return [account for account in known if account.items or account.readings or account.in_hand]

    def report(self, consumer: Consumer) -> PipelineReport:
        """Who has waited for whom so far; from any thread."""
        now = perf_counter()
        calls = {id(account): calls for account, _, calls in self.in_hand()}
        return reported(
            [(account, _running(account, calls.get(id(account), []), now)) for account in self.accounts()],
            consumer,
            now,
        )

    def in_hand(self) -> list[tuple[Account, list[Cell], list[Ongoing]]]:
        """For each stage with workers the items that it has taken and not handed out, oldest first, and its calls."""
        return [
            (account, [cell for cells in tuple(account.in_hand) for cell in cells()], crew.calls())
            for stage, crew in tuple(self._crews.items())
            for account in (self._accounts[stage],)
        ]

    def skipped(self) -> int:
        """How many items were left out."""
        return sum(faults.count for faults in self._faults.values())

    # --- the end ------------------------------------------------------------------------

    async def aclose(self) -> None:
        """End all workers; a call that does not end within `GRACE` is left alone, and named in a warning."""
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
