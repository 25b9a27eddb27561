"""What an open pipeline works with, over all its epochs: threads, worker processes, the crew of each stage."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple, Protocol

from asyncjobs.lanes.base import Lane
from asyncjobs.lanes.daemon import DaemonThreads
from asyncjobs.lanes.process import ProcessLane
from asyncjobs.pipeline.account import Account
from asyncjobs.pipeline.crews import Crew, JobCrew, LoopCrew, ThreadCrew
from asyncjobs.pipeline.faults import Fault, Faults, OnError
from asyncjobs.pipeline.feeds import Feed
from asyncjobs.pipeline.sent import Sent
from asyncjobs.pipeline.sources import Followed, Read
from asyncjobs.runner import Runner
from asyncjobs.submitter import Submitter

logger: logging.Logger = logging.getLogger("asyncjobs")

GRACE = 0.2
"""Seconds that calls get to end when the pipeline closes."""


class Work(Protocol):
    """A stage that calls a function of the user's."""

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
    @property
    def keeps_workers(self) -> bool:
        """Whether each of `concurrency` jobs lasts as long as somebody takes its items."""


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
        self._senders: dict[Work, Submitter] = {}
        self._reading: set[Read] = set()
        self._begun: set[object] = set()
        self.kept: dict[object, list[Any]] = {}
        """The items of each cache that has seen a whole epoch."""
        self.threads: DaemonThreads

    async def open(self) -> None:
        """Start the runner; workers and threads start when they are first needed.

        Raises:
            ValueError: a lane of the runner that was given has too few workers.
        """
        if self._given is not None:
            self._check_room(self._given)
        self.threads = DaemonThreads("asyncjobs-pipeline-", asyncio.get_running_loop())
        lanes = self._lanes()
        if self._given is None and lanes:
            self._runner = await Runner(processes=1, threads=1, lanes=lanes, watchdog=None).__aenter__()
            self._runner._tells_of_cancels = False

    def _lanes(self) -> Mapping[str, Lane]:
        stages = [stage for stage in self._work if stage.lane == "process"]
        return {self._lane_of(stage): ProcessLane(self._workers(stage)) for stage in stages}

    def _workers(self, stage: Work) -> int:
        """How many it needs. A generator keeps its worker, also one in a pipeline that is zipped with itself."""
        return stage.concurrency * (self._work.count(stage) if stage.keeps_workers else 1)

    def _check_room(self, runner: Runner) -> None:
        """Refuse generators that would wait for workers which others of this pipeline keep, for ever."""
        needed: Counter[str] = Counter()
        for stage in dict.fromkeys(self._work):
            if stage.keeps_workers and stage.lane not in ("loop", "thread"):
                needed[stage.lane] += self._workers(stage)
        for name in needed:
            calls = any(stage.lane == name and not stage.keeps_workers for stage in self._work)
            lane = runner._lanes.get(name)
            least = needed[name] + calls
            if lane is not None and lane.size() < least:
                raise ValueError(
                    f"lane {name!r} with {lane.size()} workers is not allowed; allowed: at least {least}, "
                    "for each generator of the pipeline keeps one as long as it gives items"
                )

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
        return JobCrew(stage.fn, self._runner_of_jobs.options(lane=self._lane_of(stage), name=stage.name))

    @property
    def _runner_of_jobs(self) -> Runner:
        runner = self._given or self._runner
        assert runner is not None
        return runner

    def faults(self, stage: Work) -> Faults:
        """The account of the items of `stage` that failed, in all epochs."""
        return self._faults[stage]

    def made(self, stage: Work, make: Callable[..., Any], *args: Any) -> Feed:
        """The items of ``make(*args)``, advanced in the lane of `stage`."""
        if stage.lane == "loop":
            return Followed(partial(make, *args))
        if stage.lane == "thread":
            return self._read(partial(make, *args), stage.name)
        return Sent(self._senders.get(stage) or self._new_sender(stage), make, *args)

    def _new_sender(self, stage: Work) -> Submitter:
        # A second attempt would send the same items again.
        jobs = self._runner_of_jobs.options(
            lane=self._lane_of(stage), name=stage.name, retries=0, lost="fail", max_result=None
        )
        self._senders[stage] = jobs
        return jobs

    def begin(self, stage: object) -> bool:
        """Whether it is begun for the first time."""
        is_first = stage not in self._begun
        self._begun.add(stage)
        return is_first

    def _read(self, make: Callable[[], Iterable[Any]], name: str) -> Read:
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
            reading.hang_up()  # also where the rest of an epoch could not be opened, and no feed closes it
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
