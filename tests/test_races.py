"""Completion, cancel and time limits in the same tick, in every order that a seed draws (F35, F37, F38).

The loops are seeded and their time is virtual; a failure names its seed, and the same seed
fails again. `FakeLane` ends its calls in every way that a lane may, when chance says so.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from asyncjobs import Job, JobState, Retry, Runner, WorkerLost
from asyncjobs.lanes.base import (
    Abandoned,
    Call,
    Capabilities,
    Done,
    Failed,
    Host,
    Lost,
    Outcome,
    Plan,
    Refused,
    Stopped,
)
from asyncjobs.testing import ShuffledLoop, VirtualClockLoop, check_history

SEEDS = 500
MANY = 1000
NANOSECOND = 1e-9


def on_seed(seed: int, race: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Run `race` on a shuffled loop; what fails says with which seed."""
    random.seed(seed)
    try:
        with asyncio.Runner(loop_factory=lambda: ShuffledLoop(seed)) as loops:
            return loops.run(race())
    except BaseException as error:
        error.add_note(f"seed {seed}")
        raise


def settled_once(job: Job[Any]) -> None:
    """One final state, and whoever asks hears the same."""
    check_history(job)
    assert job.done()
    assert job.cancel() == "ended"
    if job.state is JobState.SUCCEEDED:
        assert job.exception() is None
    else:
        assert job.exception() is not None


# --- the loop lane ----------------------------------------------------------------------


async def complete_and_cancel() -> tuple[str, JobState]:
    """The awaited future resolves and the job is cancelled in one tick of the loop."""
    loop = asyncio.get_running_loop()
    fact: asyncio.Future[str] = loop.create_future()
    running = asyncio.Event()

    async def work() -> str:
        running.set()
        return await fact

    async with Runner(watchdog=None) as runner:
        job = await runner.submit(work)
        await running.wait()
        answers: list[str] = []
        loop.call_soon(lambda: fact.done() or fact.set_result("value"))
        loop.call_soon(lambda: answers.append(job.cancel("in the same tick")))
        await job.wait()
        while not answers:
            await asyncio.sleep(0)
    settled_once(job)
    assert job.state in (JobState.SUCCEEDED, JobState.CANCELLED)
    if answers == ["ended"]:
        assert job.state is JobState.SUCCEEDED
    assert answers != ["cancelled"], "it ran: nobody may be told that it never will"
    if job.state is JobState.SUCCEEDED:
        assert job.result() == "value"
    return answers[0], job.state


def test_completion_and_cancel_in_one_tick_have_one_winner_and_both_win_sometimes() -> None:
    seen = Counter(on_seed(seed, complete_and_cancel) for seed in range(SEEDS))
    assert {state for _, state in seen} == {JobState.SUCCEEDED, JobState.CANCELLED}, seen


async def complete_at_the_limit(difference: float) -> JobState:
    async def work() -> str:
        await asyncio.sleep(1.0 + difference)
        return "value"

    async with Runner(watchdog=None) as runner:
        job = await runner.options(timeout=1.0).submit(work)
        await job.wait()
    settled_once(job)
    assert job.state in (JobState.SUCCEEDED, JobState.TIMED_OUT)
    return job.state


@pytest.mark.slow
def test_completion_and_time_limit_in_one_tick_have_one_winner_and_both_win_sometimes() -> None:
    seen = Counter(on_seed(seed, lambda: complete_at_the_limit(0.0)) for seed in range(SEEDS))
    assert set(seen) == {JobState.SUCCEEDED, JobState.TIMED_OUT}, seen


@pytest.mark.parametrize(("nanoseconds", "expected"), [(-1, JobState.SUCCEEDED), (1, JobState.TIMED_OUT)])
def test_a_nanosecond_apart_the_earlier_one_wins(nanoseconds: int, expected: JobState) -> None:
    race = lambda: complete_at_the_limit(nanoseconds * NANOSECOND)  # noqa: E731
    assert {on_seed(seed, race) for seed in range(SEEDS // 5)} == {expected}


async def cancel_at_the_limit() -> tuple[str, JobState]:
    """A cancel, the attempt's limit and the deadline strike in one tick; the first reason counts."""
    loop = asyncio.get_running_loop()
    async with Runner(watchdog=None) as runner:
        job = await runner.options(timeout=1.0, deadline=1.0, retries=3).submit(asyncio.sleep, 60.0)
        loop.call_later(1.0, job.cancel, "by hand")
        await job.wait()
        assert loop.time() - started(loop) < 10.0
    settled_once(job)
    return type(job.exception()).__name__, job.state


def started(loop: asyncio.AbstractEventLoop) -> float:
    return 100_000.0 if isinstance(loop, VirtualClockLoop) else loop.time()


@pytest.mark.slow
def test_cancel_time_limit_and_deadline_in_one_tick_give_one_end() -> None:
    seen = Counter(on_seed(seed, cancel_at_the_limit) for seed in range(SEEDS))
    assert set(seen) <= {("JobCancelled", JobState.CANCELLED), ("JobTimeout", JobState.TIMED_OUT)}
    assert len(seen) == 2, seen


async def cancel_while_it_starts() -> tuple[str, JobState, int]:
    """A cancel comes in the tick in which a consumer takes the job."""
    calls: list[int] = []

    async def work() -> None:
        calls.append(1)
        await asyncio.sleep(1.0)

    async with Runner(watchdog=None) as runner:
        job = await runner.submit(work)
        answers: list[str] = []
        asyncio.get_running_loop().call_soon(lambda: answers.append(job.cancel()))
        await job.wait()
    settled_once(job)
    assert job.state is JobState.CANCELLED
    states = [mark.state for mark in job.history]
    assert (answers == ["cancelled"]) == (JobState.RUNNING not in states)
    if answers == ["cancelled"]:
        assert calls == [], "told that it never starts, and it did"
    return answers[0], job.state, len(calls)


@pytest.mark.slow
def test_a_cancel_while_a_job_starts_is_honest() -> None:
    seen = Counter(on_seed(seed, cancel_while_it_starts) for seed in range(SEEDS))
    assert {answer for answer, *_ in seen} == {"cancelled", "requested"}, seen


async def many_cancels() -> Counter[str]:
    answers: Counter[str] = Counter()
    async with Runner(watchdog=None) as runner:
        job = await runner.submit(asyncio.sleep, 0.5, "value")
        for _ in range(100):
            delay = random.Random(id(job)).choice((0.5, 0.5, 0.4999999))
            asyncio.get_running_loop().call_later(delay, lambda: answers.update([job.cancel()]))
        await job.wait()
        await asyncio.sleep(1.0)
    settled_once(job)
    return answers


def test_a_hundred_cancels_of_one_job_are_as_good_as_one() -> None:
    for seed in range(20):
        answers = on_seed(seed, many_cancels)
        assert sum(answers.values()) == 100
        assert set(answers) <= {"requested", "ended"}


async def cancel_a_retry_that_is_due() -> tuple[JobState, int]:
    """A job between two attempts is cancelled in the tick in which its next one is due (F43)."""
    calls: list[int] = []

    async def work() -> None:
        calls.append(1)
        raise OSError("not yet")

    async with Runner(watchdog=None) as runner:
        retry = Retry(1, backoff=5.0, jitter=0.0)
        job = await runner.options(retries=retry).submit(work)
        while job.state is not JobState.WAITING:
            await asyncio.sleep(0)
        asyncio.get_running_loop().call_later(5.0, job.cancel)
        await job.wait()
    settled_once(job)
    return job.state, len(calls)


@pytest.mark.slow
def test_a_retry_that_is_due_and_a_cancel_in_one_tick_have_one_winner() -> None:
    seen = Counter(on_seed(seed, cancel_a_retry_that_is_due) for seed in range(SEEDS))
    assert set(seen) <= {(JobState.CANCELLED, 1), (JobState.CANCELLED, 2), (JobState.FAILED, 2)}
    assert (JobState.CANCELLED, 1) in seen, seen


def test_an_hour_of_backoff_takes_no_time_and_a_cancel_ends_it_at_once() -> None:
    async def race() -> float:
        async def work() -> None:
            raise OSError("not yet")

        async with Runner(watchdog=None) as runner:
            job = await runner.options(retries=Retry(9, backoff=3600.0, jitter=0.0)).submit(work)
            asyncio.get_running_loop().call_later(4000.0, job.cancel)
            await job.wait()
            settled_once(job)
            assert job.attempt == 3, "it waited for its third attempt"
            return asyncio.get_running_loop().time()

    assert on_seed(1, race) == pytest.approx(100_000.0 + 4000.0)


# --- a lane in which anything may happen ------------------------------------------------


class FakeLane:
    """Starts, finishes, stops, loses and gives back its calls when a seeded chance says so."""

    kind = "fake"
    capabilities = Capabilities(kills=True)
    is_down = is_cold = leaving = False
    idle = True

    def __init__(self, chance: random.Random, size: int) -> None:
        self._chance = chance
        self._size = size
        self.name = "fake"
        self.changed: Callable[[], None] = lambda: None
        self._calls: dict[Call, int] = {}
        self._started: set[Call] = set()
        self.ran: Counter[int] = Counter()

    def open(self, name: str, host: Host) -> None:
        self._host = host

    def places(self) -> Sequence[FakeLane]:
        return (self,)

    def size(self) -> int:
        return self._size

    def busy(self) -> int:
        return len(self._calls)

    def abandoned(self) -> int:
        return 0

    def resize(self, size: int) -> None:
        self._size = size
        self.changed()

    def check(self, plan: Plan) -> None: ...

    @property
    def hungry(self) -> bool:
        return len(self._calls) < self._size

    def admits(self, call: Call) -> bool:
        return True

    def flush(self) -> None: ...

    async def restore(self) -> None: ...

    async def aclose(self) -> None:
        self.abort()

    def abort(self) -> None: ...

    def _later(self, action: Callable[..., None], *args: Any) -> None:
        # Whole tenths: so that much happens in the same tick.
        self._host.loop.call_later(self._chance.randint(0, 10) / 10, action, *args)

    def start(self, call: Call) -> None:
        self._calls[call] = call.attempt
        if self._chance.random() < 0.5:
            self._begin(call, call.attempt)
        else:
            self._later(self._begin, call, call.attempt)

    def _is_here(self, call: Call, attempt: int) -> bool:
        return self._calls.get(call) == attempt

    def _begin(self, call: Call, attempt: int) -> None:
        if not self._is_here(call, attempt) or call in self._started:
            return
        fate = self._chance.random()
        if fate < 0.15:
            self._leave(call)
            self._host.give_back([call])
        elif fate < 0.2:
            self._end(call, attempt, Refused(OSError("nobody to run it")))
        else:
            self._started.add(call)
            self.ran[call.number] += 1
            self._host.started(call)
            self._later(self._end, call, attempt, self._outcome(call))

    def _outcome(self, call: Call) -> Outcome:
        fate = self._chance.random()
        if fate < 0.6:
            return Done(call.args[0], 0.1)
        if fate < 0.8:
            return Failed(OSError("chance"), 0.1)
        return Lost(WorkerLost("chance"), 0.1)

    def stop(self, call: Call) -> None:
        assert call in self._calls, "told to stop what is not here"
        self._later(self._stopped, call, call.attempt)

    def hurry(self, call: Call) -> None:
        assert call in self._calls, "told to hurry what is not here"

    def _stopped(self, call: Call, attempt: int) -> None:
        how = self._chance.choice(("stopped", "killed", "never started"))
        self._end(call, attempt, Abandoned(0.1) if self._chance.random() < 0.2 else Stopped(0.1, how))

    def _end(self, call: Call, attempt: int, outcome: Outcome) -> None:
        if self._is_here(call, attempt):
            self._leave(call)
            self._host.finished(call, outcome)

    def _leave(self, call: Call) -> None:
        del self._calls[call]
        self._started.discard(call)
        self.changed()


async def storm(seed: int) -> Counter[JobState]:
    chance = random.Random(seed)
    lane = FakeLane(chance, chance.randint(1, 3))
    loop = asyncio.get_running_loop()
    jobs: list[Job[int]] = []
    told: dict[str, list[str]] = {}
    ended: Counter[str] = Counter()

    def cancel(job: Job[int]) -> None:
        told.setdefault(job.id, []).append(job.cancel("chance"))

    queue_size = chance.randint(1, 5)
    async with asyncio.timeout(3600), Runner(lanes={"fake": lane}, queue_size=queue_size, watchdog=None) as runner:
        runner._intake.breath_due = math.inf  # submit looks at the real clock now and then; a replay must not
        for number in range(15):
            options: dict[str, Any] = {name: chance.randint(0, 2) for name in ("priority", "retries")}
            options |= {name: chance.choice((None, 0.5, 1.0, 3.0)) for name in ("timeout", "queue_timeout", "deadline")}
            options["lost"] = chance.choice(("fail", "retry"))
            job = await runner.options(lane="fake", **options).submit(abs, number)
            job.add_done_callback(lambda job: ended.update([job.id]))
            jobs.append(job)
            if chance.random() < 0.4:
                loop.call_later(chance.randint(0, 20) / 10, cancel, job)
        if chance.random() < 0.3:
            await runner.aclose(drain=chance.choice((0, 1.0)), grace=0.5)
    await asyncio.sleep(60.0)
    for job in jobs:
        settled_once(job)
        assert ended[job.id] == 1, f"{job!r} ended {ended[job.id]} times"
        if "cancelled" in told.get(job.id, ()):
            assert job.state is JobState.CANCELLED
        if job.state is JobState.SUCCEEDED:
            assert job.result() == jobs.index(job)
            assert lane.ran[job._call.number] >= 1
    stats = runner.stats().lanes["fake"]
    counts = Counter(job.state for job in jobs)
    assert (stats.succeeded, stats.failed, stats.timed_out, stats.cancelled, stats.lost) == tuple(
        counts[state] for state in JobState if state.is_final
    )
    assert (stats.queued, stats.busy, runner.jobs()) == (0, 0, [])
    return counts


@pytest.mark.slow
def test_whatever_a_lane_does_every_job_ends_exactly_once() -> None:
    seen: Counter[JobState] = Counter()
    for seed in range(SEEDS):
        seen += on_seed(seed, lambda seed=seed: storm(seed))
    assert set(seen) == {state for state in JobState if state.is_final}, seen


@pytest.mark.slow
def test_whatever_a_lane_does_every_job_ends_exactly_once_over_many_seeds() -> None:
    for seed in range(SEEDS, MANY):
        on_seed(seed, lambda seed=seed: storm(seed))


@pytest.mark.parametrize("seed", range(20))
def test_the_same_seed_gives_the_same_run(seed: int) -> None:
    assert on_seed(seed, lambda: storm(seed)) == on_seed(seed, lambda: storm(seed))
