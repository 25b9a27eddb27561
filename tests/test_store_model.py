"""The store against a plain model of it: whatever is asked for in whatever order, both say the same."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule
from stored import Clock, check_sound, ended, job

from asyncjobs.service.records import Claim, Limit, NewJob, Query
from asyncjobs.service.store.settings import StoreSettings
from asyncjobs.service.store.store import Store
from asyncjobs.state import JobState

R = TypeVar("R")
S = JobState

LANES = st.sampled_from(["a", "a", "b"])
FUNCTIONS = st.sampled_from(["m:f", "m:g"])
SCOPES = st.sampled_from(["all", "lane:a", "function:m:f", "function:m:g"])
KINDS = st.sampled_from(["succeeded", "succeeded", "failed", "retry", "crashed", "not started", "interrupted"])
LIMITS = st.sampled_from(
    [None, None, Limit("one", running=1), Limit("two", running=2), Limit("rate", starts=2, seconds=5.0)]
)


BACK = st.integers(0, 5)


class Order(NamedTuple):
    """What is asked of a job."""

    lane: str
    function: str
    priority: int
    delay: float | None
    after: list[int]
    """How many jobs ago those were accepted that it comes after."""
    limit: Limit | None
    max_crashes: int
    at_most_once: bool
    lasts: float | None
    """Seconds until its deadline."""


ORDERS = st.lists(
    st.builds(
        Order,
        lane=LANES,
        function=FUNCTIONS,
        priority=st.integers(-1, 1),
        delay=st.sampled_from([None, None, None, 0.0, 3.0]),
        after=st.one_of(st.just([]), st.just([]), st.lists(st.integers(1, 4), min_size=1, max_size=2)),
        limit=LIMITS,
        max_crashes=st.integers(0, 2),
        at_most_once=st.sampled_from([False, False, True]),
        lasts=st.sampled_from([None, None, None, None, 0.0, 3.0]),
    ),
    min_size=1,
    max_size=5,
)


@dataclass
class Model:
    """A job as it should be."""

    id: str
    seq: int
    lane: str
    function: str
    priority: int
    due: float | None
    parents: tuple[str, ...]
    limit: Limit | None
    max_crashes: int
    at_most_once: bool
    deadline: float | None
    state: JobState = S.QUEUED
    attempt: int = 0
    failures: int = 0
    crashes: int = 0
    fence: int = 0
    has_begun: bool = False
    children: list[str] = field(default_factory=list)


class StoreMachine(RuleBasedStateMachine):
    """Both, side by side."""

    claims = Bundle("claims")

    @initialize(orders=ORDERS)
    def begin(self, orders: list[Order]) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="store-"))
        self.runner = asyncio.Runner()
        self.clock = Clock()
        self.models: dict[str, Model] = {}
        self.paused: set[str] = set()
        self.starts: list[float] = []
        self.epoch = 0
        self.open()
        self.submit(orders=orders)

    def open(self) -> None:
        settings = StoreSettings(self.folder / "jobs.db", clock=self.clock)
        self.store = self.run(Store.open(settings))
        self.epoch += 1

    def run(self, work: Coroutine[Any, Any, R]) -> R:
        return self.runner.run(work)

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.run(self.store.aclose())
            self.runner.close()
            check_sound(self.folder / "jobs.db")
            shutil.rmtree(self.folder)

    # -- what clients do

    @rule(orders=ORDERS)
    def submit(self, orders: list[Order]) -> None:
        new = [self.add(order) for order in orders]
        expected = [(one.id, self.models[one.id].state, True) for one in new]
        assert self.run(self.store.submit(new)) == expected

    def add(self, order: Order) -> NewJob:
        """The job, of which the model knows from now on."""
        due = None if order.delay is None else self.clock.now + order.delay
        known = list(self.models)
        parents = tuple(known[-back] for back in order.after if back <= len(known))
        fields = order._asdict()
        del fields["delay"], fields["after"], fields["lasts"]
        fields["deadline"] = None if order.lasts is None else self.clock.now + order.lasts
        new = job(due=due, after=parents, **fields)
        model = Model(id=new.id, seq=len(known) + 1, due=due, parents=parents, **fields)
        self.models[new.id] = model
        for parent in set(parents):
            self.models[parent].children.append(new.id)
        states = [self.models[parent].state for parent in parents]
        if any(state.is_final and state != S.SUCCEEDED for state in states):
            self.end(model, S.CANCELLED)
        return new

    def recent(self, back: int) -> Model:
        """One of the last jobs."""
        return list(self.models.values())[-1 - back % len(self.models)]

    @rule(back=BACK)
    def submit_again(self, back: int) -> None:
        model = self.recent(back)
        [answer] = self.run(self.store.submit([job(id=model.id)]))
        assert answer == (model.id, model.state, False)

    @rule(back=BACK)
    def cancel(self, back: int) -> None:
        model = self.recent(back)
        before = model.state
        if before in (S.QUEUED, S.WAITING):
            self.end(model, S.CANCELLED)
        elif before == S.RUNNING:
            model.state = S.STOPPING
        answer = "ended" if before.is_final else "cancelled" if model.state == S.CANCELLED else "requested"
        assert self.run(self.store.cancel(model.id, "no")) == (answer, model.state)

    # -- what the engine does

    @rule(target=claims, lane=LANES, number=st.integers(1, 4))
    def claim(self, lane: str, number: int) -> Any:
        return multiple(*self.start(lane, number))

    def start(self, lane: str, number: int) -> list[Claim]:
        expected = self.expected(lane, number)
        claims = self.run(self.store.claim({lane: number}))
        assert [(claim.id, claim.attempt, claim.failures, claim.crashes) for claim in claims] == [
            (model.id, model.attempt, model.failures, model.crashes) for model in expected
        ]
        for claim, model in zip(claims, expected, strict=True):
            model.fence, model.has_begun = claim.fence, not model.at_most_once
        return claims

    @rule(claim=claims)
    def begin_one(self, claim: Claim) -> None:
        model = self.models[claim.id]
        is_current = model.state in (S.RUNNING, S.STOPPING) and claim.fence == model.fence
        model.has_begun = model.has_begun or is_current
        assert self.run(self.store.begin_job(claim.id, claim.fence)) == is_current

    def expected(self, lane: str, number: int) -> list[Model]:
        now = self.clock.now
        taken: list[Model] = []
        # A pause holds back starts, not times: what has come due is news no more.
        waiting = [model for model in self.models.values() if model.state in (S.QUEUED, S.WAITING)]
        overdue = [model for model in waiting if model.deadline is not None and model.deadline <= now]
        for model in overdue:  # all at once: none of them ends because another one does
            model.state = S.TIMED_OUT
        for model in overdue:
            self.end(model, S.TIMED_OUT)
        for model in self.models.values():
            if model.state == S.WAITING and model.due is not None and model.due <= now:
                model.state = S.QUEUED
        if self.paused & {"all", f"lane:{lane}"}:
            return []
        for model in sorted(self.models.values(), key=lambda model: (-model.priority, model.seq)):
            if len(taken) < number and model.lane == lane and self.may_start(model):
                model.state, model.attempt = S.RUNNING, model.attempt + 1
                if model.limit is not None and model.limit.starts:
                    self.starts.append(now)
                taken.append(model)
        return taken

    def may_start(self, model: Model) -> bool:
        if model.state != S.QUEUED or f"function:{model.function}" in self.paused:
            return False
        if model.due is not None and model.due > self.clock.now:
            return False
        if any(self.models[parent].state != S.SUCCEEDED for parent in model.parents):
            return False
        limit = model.limit
        if limit is None:
            return True
        running = sum(other.limit == limit and other.state in (S.RUNNING, S.STOPPING) for other in self.models.values())
        recent = sum(at > self.clock.now - limit.seconds for at in self.starts)
        return (limit.running is None or running < limit.running) and (limit.starts is None or recent < limit.starts)

    @rule(claim=claims, kind=KINDS, delay=st.sampled_from([0.0, 2.0]))
    def finish(self, claim: Claim, kind: str, delay: float) -> None:
        model = self.models[claim.id]
        due = self.clock.now + delay
        ending = {
            "succeeded": ended(claim),
            "failed": ended(claim, S.FAILED),
            "retry": ended(claim, S.WAITING, b"", due=due),
            "crashed": ended(claim, S.LOST, b"", has_crashed=True),
            "not started": ended(claim, S.QUEUED, b""),
            "interrupted": ended(claim, S.QUEUED, b"", is_interrupted=True),
        }[kind]
        is_current = model.state in (S.RUNNING, S.STOPPING) and (claim.attempt, claim.epoch) == (
            model.attempt,
            self.epoch,
        )
        if is_current:
            self.apply(model, kind, due)
        [state] = self.run(self.store.finish([ending]))
        assert state == (model.state if is_current else None)

    @rule(orders=ORDERS, lane=LANES, number=st.integers(1, 4), kinds=st.lists(KINDS, max_size=3))
    def work(self, orders: list[Order], lane: str, number: int, kinds: list[str]) -> None:
        # Rules are drawn apart from each other: alone they would seldom meet a job.
        self.submit(orders=orders)
        for claim, kind in zip(self.start(lane, number), kinds + ["succeeded"] * 4, strict=False):
            self.finish(claim=claim, kind=kind, delay=0.0)

    @rule(lane=LANES)
    def work_on(self, lane: str) -> None:
        self.work(orders=[], lane=lane, number=4, kinds=[])

    @rule(scope=SCOPES, orders=ORDERS)
    def work_around_a_pause(self, scope: str, orders: list[Order]) -> None:
        self.pause(scope=scope)
        self.work(orders=orders, lane="a", number=4, kinds=[])
        self.resume(scope=scope)
        self.work_on(lane="a")

    def apply(self, model: Model, kind: str, due: float) -> None:
        was_stopping = model.state == S.STOPPING
        if kind in ("failed", "retry"):
            model.failures += 1
        if kind == "crashed":
            self.crash(model)
        elif kind in ("succeeded", "failed"):
            self.end(model, S.SUCCEEDED if kind == "succeeded" else S.FAILED)
        elif was_stopping:
            # Started or not: the number of a final row is that of its last claim (I10).
            self.end(model, S.CANCELLED)
        elif kind == "interrupted" and model.at_most_once and model.has_begun:
            self.end(model, S.LOST)
        else:
            model.attempt -= kind == "not started" or (kind == "interrupted" and not model.has_begun)
            model.state, model.due = (S.WAITING, due) if kind == "retry" else (S.QUEUED, None)

    def crash(self, model: Model) -> None:
        was_stopping = model.state == S.STOPPING
        model.crashes += 1
        if (model.at_most_once and model.has_begun) or model.crashes > model.max_crashes:
            self.end(model, S.LOST)
        elif was_stopping:
            self.end(model, S.CANCELLED)
        else:
            model.attempt -= not model.has_begun
            model.state, model.due = S.QUEUED, None

    def end(self, model: Model, state: JobState) -> None:
        model.state = state
        for child in model.children:
            if state != S.SUCCEEDED and not self.models[child].state.is_final:
                self.end(self.models[child], S.CANCELLED)

    # -- what happens around them

    @rule(seconds=st.sampled_from([0.5, 2.0, 6.0]))
    def time_goes_by(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule(scope=SCOPES)
    def pause(self, scope: str) -> None:
        self.run(self.store.pause(scope))
        self.paused.add(scope)

    def resume(self, scope: str) -> None:
        self.run(self.store.resume(scope))
        self.paused.discard(scope)

    @rule()
    def resume_all(self) -> None:
        for scope in sorted(self.paused):
            self.resume(scope)

    @rule()
    def open_again(self) -> None:
        self.run(self.store.aclose())
        for model in list(self.models.values()):
            if model.state == S.RUNNING:
                self.crash(model)
            elif model.state == S.STOPPING:
                model.crashes += 1
                self.end(model, S.CANCELLED)
        self.open()

    @invariant()
    def both_say_the_same(self) -> None:
        if not hasattr(self, "models"):
            return
        rows = {row.id: row for row in self.run(self.store.rows(Query(limit=10_000)))}
        assert rows.keys() == self.models.keys()
        for model in self.models.values():
            row = rows[model.id]
            told = (row.seq, row.state, row.attempt, row.failures, row.crashes)
            assert told == (model.seq, model.state, model.attempt, model.failures, model.crashes), (row, model)

    @invariant()
    def whoever_waits_for_news_misses_nothing(self) -> None:
        # Where a claim would find something, the store says so: now, or from a time on that is past.
        if not hasattr(self, "models"):
            return
        for lane in ("a", "b"):
            if self.paused & {"all", f"lane:{lane}"}:
                continue
            found = [model for model in self.models.values() if model.lane == lane and self.may_start(model)]
            due = self.store.next_due()
            assert not found or self.store.waiting(lane) or (due is not None and due <= self.clock.now), found


# Without making a failure smaller: that takes longer than a test may.
COMMON = settings(suppress_health_check=list(HealthCheck), phases=(Phase.explicit, Phase.reuse, Phase.generate))
QUICK = settings(COMMON, max_examples=12, stateful_step_count=25)
LONG = settings(COMMON, max_examples=40, stateful_step_count=60)


def test_the_store_does_what_a_plain_model_does() -> None:
    StoreMachine.TestCase.settings = QUICK
    StoreMachine.TestCase().runTest()


@pytest.mark.slow
@pytest.mark.timeout(600)  # thousands of commits, each of which waits for a disk that others use too
def test_the_store_does_what_a_plain_model_does_for_longer() -> None:
    StoreMachine.TestCase.settings = LONG
    StoreMachine.TestCase().runTest()
