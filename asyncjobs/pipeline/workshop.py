"""What an open pipeline works with, over all its epochs: threads, worker processes, the crew of each stage."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple, Protocol

from asyncjobs.lanes.base import Lane
from asyncjobs.lanes.daemon import DaemonThreads
from asyncjobs.lanes.process import ProcessLane
from asyncjobs.options import OptionFields
from asyncjobs.pipeline.account import Account, Consumer
from asyncjobs.pipeline.crews import GRACE, Cell, Crew, LoopCrew, Ongoing, ThreadCrew
from asyncjobs.pipeline.faults import Fault, Faults, OnError
from asyncjobs.pipeline.feeds import Feed
from asyncjobs.pipeline.jobcrew import JobCrew
from asyncjobs.pipeline.report import PipelineReport, reported
from asyncjobs.pipeline.sent import Sent
from asyncjobs.pipeline.sources import Followed, Read
from asyncjobs.pipeline.steps import Step, call_of
from asyncjobs.pipeline.tuner import Tuned
from asyncjobs.pipeline.tuning import Dial
from asyncjobs.processors import usable_processors
from asyncjobs.runner import Runner
from asyncjobs.submitter import Submitter

logger: logging.Logger = logging.getLogger("asyncjobs")

MOST_CALLS = {"loop": 64, "thread": 32}
"""Calls at once that ``concurrency="auto"`` tries; in processes as many as there are processors."""
NEAR = (*MOST_CALLS, "process")
"""Lanes of this machine; those that users bring may be clusters."""


class Judged(Protocol):
    """A function whose errors are counted and judged."""

    @property
    def name(self) -> str: ...
    @property
    def on_error(self) -> OnError: ...


class Work(Protocol):
    """A stage that calls functions of the user's."""

    @property
    def name(self) -> str: ...
    @property
    def lane(self) -> str: ...
    @property
    def concurrency(self) -> int: ...
    @property
    def judged(self) -> Sequence[Judged]: ...
    @property
    def keeps_workers(self) -> bool:
        """Whether each of `concurrency` jobs lasts as long as somebody takes its items."""

    def account(self) -> Account:
        """New books about it."""


class Calls(Work, Protocol):
    """One whose items a crew works on."""

    @property
    def steps(self) -> Sequence[Step]: ...
    @property
    def timeout(self) -> float | None: ...


def _running(account: Account, calls: list[Ongoing], now: float) -> float:
    """Seconds that the calls, and the reading, have been running which have not ended."""
    reads = [since for reading in tuple(account.readings) if (since := reading.since) is not None]
    return sum(max(now - began_at, 0.0) for began_at in [*reads, *(call.began_at for call in calls)])


class Station(NamedTuple):
    """Where the items of one stage are worked on, in all epochs."""

    crew: Crew
    faults: Sequence[Faults]
    """Of each step."""
    account: Account
    steps: Sequence[Step]


def goes_far(lane: str, runner: Runner | None) -> bool:
    """Whether items have to travel to a lane of that name, given or not a runner."""
    if runner is None or lane in ("loop", "thread"):
        return lane == "process"
    return runner._lanes[lane].capabilities.encodes


def _check_way(stage: Work, runner: Runner) -> None:
    """Refuse generators where their items have no way home."""
    lane = runner._lanes.get(stage.lane)
    if lane is not None and not lane.capabilities.queues:
        raise ValueError(
            f"{stage.name} in lane {stage.lane!r} ({lane.kind}) is not allowed, for jobs there cannot send items while "
            f"they run; allowed: lane 'thread' or 'process', or map(fn, lane={stage.lane!r}) whose fn returns lists"
        )


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
        self._tuned: dict[Work, Tuned] = {}
        judged = [one for stage in self._work for one in stage.judged]
        self._faults: dict[Judged, Faults] = {one: Faults(one.name, one.on_error) for one in judged}
        self._accounts: dict[Work, Account] = {}
        self._senders: dict[Work, Submitter] = {}
        self._reading: set[Read] = set()
        self.kept: dict[object, list[Any]] = {}
        """The items of each cache that has seen a whole epoch."""
        self.threads: DaemonThreads

    async def open(self) -> None:
        """Start the runner; workers and threads start when they are first needed.

        Raises:
            ValueError: a lane of the runner that was given has too few workers for generators, or cannot have them.
        """
        if self._given is not None:
            self._check_room(self._given)
        self.threads = DaemonThreads("asyncjobs-pipeline-", asyncio.get_running_loop())
        lanes = self._lanes()
        if self._given is None and lanes:
            self._runner = await Runner(processes=1, threads=1, lanes=lanes, watchdog=None).__aenter__()
            self._runner._tells_of_cancels = self._runner._tells_of_neglect = False

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
                _check_way(stage, runner)
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

    def station(self, stage: Calls) -> Station:
        """Who calls the functions of `stage`, and the books about them."""
        crew = self._crews.get(stage)
        if crew is None:
            crew = self._crews[stage] = self._new_crew(stage)
        return Station(crew, [self._faults[step] for step in stage.steps], self.account(stage), stage.steps)

    def _new_crew(self, stage: Calls) -> Crew:
        call = call_of(stage.steps)
        if stage.lane == "loop":
            return LoopCrew(call, stage.name, stage.concurrency, stage.timeout)
        if stage.lane == "thread":
            computed = self.account(stage).computed = {}
            return ThreadCrew(call, stage.name, stage.concurrency, self.threads, computed)
        options: OptionFields = {"lane": self._lane_of(stage), "name": stage.name}
        if stage.timeout is not None:  # then each item is a job of its own
            options["timeout"], options["grace"] = stage.timeout, 0.0
        jobs = self._runner_of_jobs.options(**options)
        is_seeded = any(step.is_seeded for step in stage.steps)
        own = None if self._runner is None else self._runner.lane(self._lane_of(stage))
        return JobCrew(call, jobs, is_seeded, stage.concurrency, own)

    def tuned(self) -> list[Tuned]:
        """The stages whose concurrency is to be found out, as far as they have begun."""
        for stage, crew in self._crews.items():
            account = self.account(stage)
            if not account.is_tuned:
                continue
            if stage not in self._tuned:
                dial = Dial(self._most(stage), account.concurrency, is_far=stage.lane not in NEAR)
                self._tuned[stage] = Tuned(crew, account, dial)
            self._tuned[stage].dial.allow(self._most(stage))
        return list(self._tuned.values())

    def _most(self, stage: Work) -> int:
        """Calls at once that make sense."""
        if self._given is not None and stage.lane not in MOST_CALLS:
            return max(1, self._given._lanes[stage.lane].size())
        return MOST_CALLS.get(stage.lane) or usable_processors()

    @property
    def _runner_of_jobs(self) -> Runner:
        runner = self._given or self._runner
        assert runner is not None
        return runner

    def faults(self, judged: Judged) -> Faults:
        """The account of the items that failed there, in all epochs."""
        return self._faults[judged]

    def account(self, stage: Work) -> Account:
        """The books about `stage`, a source for instance."""
        account = self._accounts.get(stage)
        if account is None:
            account = self._accounts[stage] = stage.account()
        return account

    def made(self, stage: Work, make: Callable[..., Any], *args: Any) -> Feed:
        """The items of ``make(*args)``, advanced in the lane of `stage`."""
        account = self.account(stage)
        if stage.lane == "loop":
            return Followed(partial(make, *args), account)
        if stage.lane == "thread":
            return self._read(partial(make, *args), account)
        return Sent(self._senders.get(stage) or self._new_sender(stage), account, make, *args)

    def _new_sender(self, stage: Work) -> Submitter:
        # A second attempt would send the same items again.
        jobs = self._runner_of_jobs.options(
            lane=self._lane_of(stage), name=stage.name, retries=0, lost="fail", max_result=None
        )
        self._senders[stage] = jobs
        return jobs

    def _read(self, make: Callable[[], Iterable[Any]], account: Account) -> Read:
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
        places = {stage: place for place, stage in enumerate(self._work)}  # sources that a thread reads have none
        accounts = [
            (account.lane != "source", places.get(stage, 0), account) for stage, account in self._accounts.items()
        ]
        known = [account for *_, account in sorted(accounts, key=lambda row: row[:2])]
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
        for reading in self._reading:
            reading.hang_up()  # also where the rest of an epoch could not be opened, and no feed closes it
        ends: dict[asyncio.Future[None], str] = {reading.end: reading.name for reading in self._reading}
        for stage, crew in self._crews.items():
            ends |= dict.fromkeys(crew.dismiss(), stage.name)
        self._crews.clear()
        self.kept.clear()
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
