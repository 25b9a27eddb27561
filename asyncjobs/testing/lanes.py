"""The contract of a lane as runnable checks: `check_lane`.

Each check opens a runner on a fresh lane of yours and puts it through one promise. Lanes
differ in what they can do; the checks ask `Lane.capabilities`, and `without` names promises
that a lane does not make (a foreign process pool carries neither tokens nor progress).
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Final

from asyncjobs.errors import JobCancelled, JobTimeout, RemoteError, RunnerClosed
from asyncjobs.events import Progress
from asyncjobs.job import Job
from asyncjobs.jobqueue import QueueFull
from asyncjobs.lanes.base import Lane
from asyncjobs.runner import Runner
from asyncjobs.state import JobState
from asyncjobs.submitter import Submitter
from asyncjobs.testing import work
from asyncjobs.testing.faults import PlainBase
from asyncjobs.testing.history import check_history
from asyncjobs.testing.work import FileGate, until
from asyncjobs.token import CancelToken

MakeLane = Callable[[], AbstractContextManager[Lane]]
"""Makes a lane that nobody has opened, with at least two places; what it needs is released at the end."""

LIMIT = 50.0
"""Seconds that one check may take."""
QUICK = 0.1
"""Seconds of grace and time limit in checks that wait for them to pass."""


class Bench:
    """One runner with one lane under test, and a folder for gates and notes."""

    def __init__(self, runner: Runner, lane: Lane, folder: str) -> None:
        self.runner = runner
        self.lane = lane
        self.folder = folder
        self.jobs: list[Job[Any]] = []

    def gate(self, name: str = "gate") -> FileGate:
        """A gate that this lane's jobs can reach."""
        return FileGate(self.folder, name)

    def path(self, name: str) -> str:
        """A file that this lane's jobs can reach."""
        return str(Path(self.folder, name))

    def verbs(self, **options: Any) -> Submitter:
        """`submit` and its relatives on the lane under test."""
        return self.runner.options(lane="tested", **options)

    def suited(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        """`plain`, or its twin for lanes that run coroutine functions."""
        return work.twin(plain) if self.lane.capabilities.coroutines else plain

    async def submit(self, plain: Callable[..., Any], *args: Any, **options: Any) -> Job[Any]:
        """Submit, and look at its history at the end of the check."""
        job = await self.verbs(**options).submit(self.suited(plain), *args)
        self.jobs.append(job)
        return job

    async def come_up(self) -> None:
        """Wait for a lane that connects by itself."""
        await until(lambda: all(place.is_cold or not place.is_down for place in self.lane.places()), "the lane's start")

    async def fill(self, gate: FileGate, **options: Any) -> list[Job[Any]]:
        """Hold every place of the lane at `gate`."""
        await self.come_up()
        size = self.lane.size()
        jobs = [await self.submit(work.hold, gate, index, **options) for index in range(size)]
        await gate.arrival(size)
        return jobs


@asynccontextmanager
async def bench(make_lane: MakeLane, **settings: Any) -> AsyncIterator[Bench]:
    """A runner on a fresh lane; afterwards every job has ended well-formed, and so has the lane."""
    with make_lane() as lane, tempfile.TemporaryDirectory() as folder:
        async with asyncio.timeout(LIMIT), Runner(lanes={"tested": lane}, watchdog=None, **settings) as runner:
            tested = Bench(runner, lane, folder)
            await tested.come_up()
            yield tested
            await until(lambda: lane.busy() == 0, f"{lane.busy()} busy places to come free")
            assert await runner.options(lane="tested").run(tested.suited(work.double), 21) == 42, "the lane is worn out"
        for job in tested.jobs:
            assert job.done(), f"{job!r} outlived its runner"
            check_history(job)


async def raised_by(job: Job[Any]) -> Exception:
    """What awaiting the job raises; it must raise something."""
    try:
        await job
    except Exception as error:
        return error
    raise AssertionError(f"{job!r} raised nothing")


# --- values and exceptions --------------------------------------------------------------


async def check_value_comes_back(make_lane: MakeLane) -> None:
    """A job's value is its function's, and many jobs keep theirs apart."""
    async with bench(make_lane) as tested:
        jobs = [await tested.submit(work.double, number) for number in range(100)]
        assert [await job for job in jobs] == [2 * number for number in range(100)]
        assert {job.state for job in jobs} == {JobState.SUCCEEDED}
        stats = tested.runner.stats().lanes["tested"]
        assert (stats.submitted, stats.succeeded, stats.queued) == (100, 100, 0)


async def check_exception_comes_back(make_lane: MakeLane) -> None:
    """What a function raises is what the await raises."""
    async with bench(make_lane) as tested:
        job = await tested.submit(work.raise_one, LookupError, "nothing there")
        error = await raised_by(job)
        assert type(error) is LookupError, type(error)
        assert error.args == ("nothing there",), error.args
        assert job.state is JobState.FAILED
        assert isinstance(job.exception(), LookupError)


STOPS = (StopIteration, StopAsyncIteration, asyncio.CancelledError)
ODD = (KeyboardInterrupt, SystemExit, GeneratorExit, PlainBase, *STOPS)


async def check_odd_exception_harms_nobody(make_lane: MakeLane) -> None:
    """BaseExceptions, StopIteration and an unasked CancelledError are failures with a name, no more."""
    async with bench(make_lane) as tested:
        for kind in ODD:
            job = await tested.submit(work.raise_one, kind, "odd")
            error = await raised_by(job)
            if tested.lane.capabilities.coroutines and kind is StopIteration:
                # The language turns it into a RuntimeError when it leaves a coroutine.
                assert type(error) is RuntimeError, error
            else:
                assert isinstance(error, RemoteError), error
                assert error.original is job.exception()
                assert type(error.original) is kind, f"{kind.__name__} came as {type(error.original).__name__}"
            assert job.state is JobState.FAILED, f"{kind.__name__} made the job {job.state.name}"


async def check_retry_until_it_works(make_lane: MakeLane) -> None:
    """A job that fails is tried again as often as its options say, and each attempt really runs."""
    async with bench(make_lane) as tested:
        job = await tested.submit(work.fail_until, tested.path("calls"), 3, retries=2)
        assert await job == 3
        assert job.attempt == 3
        assert tested.runner.stats().lanes["tested"].retries == 2
        given_up = await tested.submit(work.fail_until, tested.path("more"), 9, retries=1)
        await given_up.wait()
        assert isinstance(given_up.exception(), ConnectionError)
        assert len(work.lines(tested.path("more"))) == 2


# --- stopping ---------------------------------------------------------------------------


async def check_cancelled_in_queue_never_starts(make_lane: MakeLane) -> None:
    """A job that is cancelled while it waits is never called."""
    async with bench(make_lane) as tested:
        gate = tested.gate()
        held = await tested.fill(gate)
        job = await tested.submit(work.write_down, tested.path("ran"), "it did")
        assert job.cancel("changed my mind") == "cancelled"
        assert job.state is JobState.CANCELLED
        assert job.cancel() == "ended"
        gate.open()
        assert [await other for other in held] == list(range(len(held)))
        assert isinstance(job.exception(), JobCancelled)
        assert "changed my mind" in str(job.exception())
        assert work.lines(tested.path("ran")) == []


async def check_cancel_of_a_listener_stops_it(make_lane: MakeLane) -> None:
    """A running job that heeds its token ends soon after a cancel, long before its grace."""
    async with bench(make_lane) as tested:
        gate = tested.gate()
        job = await tested.submit(work.listen, gate, grace=LIMIT)
        await gate.arrival()
        assert job.cancel("enough") == "requested"
        await job.wait()
        assert [mark.state for mark in job.history][-2:] == [JobState.STOPPING, JobState.CANCELLED], job.history
        error = job.exception()
        assert isinstance(error, JobCancelled), error
        assert error.reason == "enough"


async def check_cancel_of_the_deaf_is_bounded(make_lane: MakeLane) -> None:
    """A running job that ignores its token is over after the grace; what still runs counts as busy."""
    async with bench(make_lane) as tested:
        gate = tested.gate()
        job, neighbour = await tested.submit(work.hold, gate), await tested.submit(work.hold, gate, 7)
        await gate.arrival(2)
        assert job.cancel("enough", grace=QUICK) == "requested"
        await job.wait()
        assert job.state is JobState.CANCELLED
        if tested.lane.capabilities.kills:
            assert tested.lane.abandoned() == 0
        else:
            assert tested.lane.abandoned() == 1
            assert tested.lane.busy() == 2
        gate.open()
        assert await neighbour == 7
        await until(lambda: tested.lane.abandoned() == 0, "the abandoned call to end")


async def check_a_second_cancel_may_be_more_impatient(make_lane: MakeLane) -> None:
    """A shorter grace hurries a job that is stopping, a longer one never slows it down."""
    async with bench(make_lane) as tested:
        gate = tested.gate()
        job = await tested.submit(work.hold, gate, grace=10 * LIMIT)
        await gate.arrival()
        for grace in (None, QUICK, 20 * LIMIT):
            assert job.cancel("enough", grace=grace) == "requested"
        await job.wait()
        assert job.state is JobState.CANCELLED
        gate.open()
        await until(lambda: tested.lane.abandoned() == 0, "the abandoned call to end")


async def check_time_limit_ends_the_job(make_lane: MakeLane) -> None:
    """A job past its limit is TIMED_OUT, and its neighbour goes on."""
    async with bench(make_lane) as tested:
        gate = tested.gate()
        neighbour = await tested.submit(work.hold, gate, 7)
        await gate.arrival()
        job = await tested.submit(work.hold, gate, timeout=QUICK, grace=QUICK)
        await job.wait()
        assert job.state is JobState.TIMED_OUT
        error = job.exception()
        assert isinstance(error, JobTimeout), error
        assert (error.limit, error.seconds) == ("timeout", QUICK)
        gate.open()
        assert await neighbour == 7


async def check_waiting_too_long_ends_the_job(make_lane: MakeLane) -> None:
    """`queue_timeout` ends a job that did not start; `deadline` ends one wherever it is."""
    async with bench(make_lane) as tested:
        gate = tested.gate()
        held = await tested.fill(gate)
        for limit in ("queue_timeout", "deadline"):
            job = await tested.submit(work.write_down, tested.path("ran"), limit, **{limit: QUICK})
            await job.wait()
            error = job.exception()
            assert job.state is JobState.TIMED_OUT
            assert isinstance(error, JobTimeout), error
            assert error.limit == limit
        gate.open()
        for other in held:
            await other
        assert work.lines(tested.path("ran")) == []


async def check_cancelled_waiter_leaves_the_job_alone(make_lane: MakeLane) -> None:
    """Cancelling who awaits a job does not cancel it; cancelling who called `run` does."""
    async with bench(make_lane) as tested:
        gate = tested.gate()
        job = await tested.submit(work.hold, gate, 5)
        await gate.arrival()
        waiter = asyncio.ensure_future(job)
        await asyncio.sleep(0)
        waiter.cancel()
        await asyncio.wait([waiter])
        assert waiter.cancelled()
        await until(lambda: job.state is JobState.RUNNING, "word that it runs")
        running = asyncio.ensure_future(tested.verbs(grace=QUICK).run(tested.suited(work.hold), gate))
        await gate.arrival(2)
        (inner,) = (other for other in tested.runner.jobs() if other is not job)
        running.cancel()
        await asyncio.wait([running])
        await inner.wait()
        assert inner.state is JobState.CANCELLED
        gate.open()
        assert await job == 5


# --- the queue --------------------------------------------------------------------------


async def check_higher_priority_starts_first(make_lane: MakeLane) -> None:
    """Higher priority first, first in first out among equals."""
    async with bench(make_lane) as tested:
        tested.runner.lane("tested").resize(1)
        gate = tested.gate()
        await tested.fill(gate)
        order = [("low", -1), ("first", 0), ("high", 5), ("second", 0), ("higher", 9), ("third", 0)]
        jobs = [await tested.submit(work.write_down, tested.path("log"), name, priority=at) for name, at in order]
        gate.open()
        for job in jobs:
            await job
        log = work.lines(tested.path("log"))
        assert log == ["higher", "high", "first", "second", "third", "low"], log


async def check_full_queue_makes_submit_wait(make_lane: MakeLane) -> None:
    """A full queue refuses `submit_nowait`, holds up `submit`, and frees a place when a job leaves it."""
    async with bench(make_lane, queue_size=2) as tested:
        gate = tested.gate()
        await tested.fill(gate)
        queued = [await tested.submit(work.double, number) for number in range(2)]
        try:
            tested.verbs().submit_nowait(tested.suited(work.double), 2)
        except QueueFull:
            pass
        else:
            raise AssertionError("the queue took more than its size")
        waiting = asyncio.ensure_future(tested.submit(work.double, 3))
        await asyncio.sleep(0)
        assert not waiting.done()
        queued[0].cancel()
        job = await waiting
        gate.open()
        assert await job == 6
        assert await queued[1] == 2


async def check_pause_starts_nothing(make_lane: MakeLane) -> None:
    """A paused lane starts nothing from its queue; a resumed one goes on."""
    async with bench(make_lane) as tested:
        lane = tested.runner.lane("tested")
        await (await tested.submit(work.double, 1))
        lane.pause()
        job = await tested.submit(work.double, 2)
        await asyncio.sleep(QUICK)
        assert job.state is JobState.QUEUED
        lane.resume()
        assert await job == 4


# --- what a job sees --------------------------------------------------------------------


async def check_job_knows_itself(make_lane: MakeLane) -> None:
    """`current_job()` names the job that runs."""
    async with bench(make_lane) as tested:
        job = await tested.submit(work.introduce, name="known")
        assert await job == (job.id, "known", 1, False)


async def check_progress_arrives(make_lane: MakeLane) -> None:
    """What a job says of its progress stands in `Job.progress`."""
    async with bench(make_lane) as tested:
        job = await tested.submit(work.advance, 3.0, 3.0, "all")
        await job
        assert job.progress == Progress(3.0, 3.0, "all")


async def check_context_variables_come_along(make_lane: MakeLane) -> None:
    """A job sees the context variables of its submit."""
    async with bench(make_lane) as tested:
        mark = work.shade.set("teal")
        try:
            job = await tested.submit(work.see_shade)
        finally:
            work.shade.reset(mark)
        assert await job == "teal"


async def check_token_argument_is_one_token(make_lane: MakeLane) -> None:
    """A token that is an argument can be raised out here and seen in there, and the other way round."""
    async with bench(make_lane) as tested:
        gate, token = tested.gate(), CancelToken()
        job = await tested.submit(work.await_token, token, gate)
        await gate.arrival()
        token.cancel("from outside")
        assert await job == "from outside"
        other = CancelToken()
        await (await tested.submit(work.raise_token, other, "from inside"))
        await other.stopped()
        assert other.reason == "from inside"


# --- the end ----------------------------------------------------------------------------


async def check_leaving_drains(make_lane: MakeLane) -> None:
    """Leaving the runner's block waits for everything submitted."""
    with make_lane() as lane:
        async with asyncio.timeout(LIMIT), Runner(lanes={"tested": lane}, watchdog=None) as runner:
            fn = work.twin(work.double) if lane.capabilities.coroutines else work.double
            jobs = [await runner.options(lane="tested").submit(fn, number) for number in range(50)]
        assert [job.result() for job in jobs] == [2 * number for number in range(50)]


async def check_closing_at_once_cancels(make_lane: MakeLane) -> None:
    """`aclose(drain=0)` cancels what runs and what waits, in bounded time; afterwards nothing is accepted."""
    with make_lane() as lane, tempfile.TemporaryDirectory() as folder:
        gate = FileGate(folder)
        async with asyncio.timeout(LIMIT), Runner(lanes={"tested": lane}, watchdog=None) as runner:
            tested = Bench(runner, lane, folder)
            held = await tested.fill(gate)
            await tested.submit(work.double, 1)
            unfinished = await runner.aclose(drain=0, grace=QUICK)
        assert len(unfinished) == len(held) + 1, unfinished
        for job in tested.jobs:
            check_history(job)
            assert job.state is JobState.CANCELLED, job
        try:
            await tested.submit(work.double, 1)
        except RunnerClosed:
            pass
        else:
            raise AssertionError("a closed runner took a job")
        gate.open()
        if not lane.capabilities.kills:
            await until(lambda: lane.busy() == 0, "the abandoned calls to end")


LANE_CHECKS: Final[dict[str, Callable[[MakeLane], Awaitable[None]]]] = {
    name.removeprefix("check_"): check
    for name, check in sorted(globals().items())
    if name.startswith("check_") and name != "check_history"
}
"""Every check by name, for a test parametrised over them."""


async def check_lane(make_lane: MakeLane, *, without: Collection[str] = ()) -> None:
    """Put a lane through every check; afterwards you know that the runner can rely on it.

    Args:
        make_lane: makes a fresh lane with at least two places, in a context that releases
            what it needs; ``lambda: nullcontext(ThreadLane(2))`` where that is nothing.
        without: names of promises that the lane does not make; see `LANE_CHECKS`.

    Raises:
        AssertionError: the first promise that does not hold, with the check's name as a note.
        ValueError: `without` names no check.
    """
    unknown = set(without) - set(LANE_CHECKS)
    if unknown:
        raise ValueError(f"without={sorted(unknown)} is not allowed; allowed: {', '.join(LANE_CHECKS)}")
    for name, check in LANE_CHECKS.items():
        if name in without:
            continue
        try:
            await check(make_lane)
        except BaseException as error:
            error.add_note(f"in the lane check {name!r}: {check.__doc__}")
            raise
