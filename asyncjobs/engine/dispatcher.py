"""One lane's queue, and the moves of the jobs in it.

The lane tells, as its `Host`, when calls start and how they end; here that becomes moves of
jobs. The one place where jobs settle is `_settle`.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import Iterator, Sequence
from concurrent import futures
from concurrent.futures import Executor
from random import Random
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

from asyncjobs.engine.admission import Admission
from asyncjobs.engine.feeding import Feeder
from asyncjobs.engine.verdict import Verdict, judge, next_attempt, no_delay, overrun, stopped_before_start
from asyncjobs.events import EventBus, JobEvent, Progress
from asyncjobs.job import Job
from asyncjobs.jobqueue import JobQueue
from asyncjobs.lanes.base import Abandoned, Call, Done, Lane, Outcome
from asyncjobs.memory import Memory
from asyncjobs.options import check_count
from asyncjobs.shared import Shares
from asyncjobs.state import Event, JobState
from asyncjobs.stats import LaneStats, Ledger, Span
from asyncjobs.token import StopReason

if TYPE_CHECKING:
    from asyncjobs.engine.engine import Engine

# Looking a member up in its enum costs as much as a small function: 3.11 does it in Python.
_RUNNING, _STOPPING, _WAITING, _QUEUED = JobState.RUNNING, JobState.STOPPING, JobState.WAITING, JobState.QUEUED
_START, _SUCCEED = Event.START, Event.SUCCEED

_RANDOM = Random()
"""For jitter. Our own: the program's may be seeded, and its numbers are not ours to draw."""


class Limits(NamedTuple):
    """How much a runner may hold."""

    queue_size: int
    """Jobs in each lane's queue."""
    queue_bytes: int | None
    """Bytes that these refer to."""
    history: int
    """Finished jobs that each lane remembers."""
    arena_bytes: int | None
    """Shared memory for large data."""


class Dispatcher:
    """Feeds one lane from one bounded queue and follows its jobs to their end."""

    def __init__(self, engine: Engine, name: str, lane: Lane, limits: Limits) -> None:
        self.engine = engine
        self.name = name
        self.lane = lane
        self.loop: asyncio.AbstractEventLoop = engine.loop
        self.runner: Any = engine.runner
        self.runner_id: str = engine.runner_id
        self.epoch: float = engine.epoch
        self.memory: Memory = engine.memory
        self.shares: Shares = engine.shares
        self.threads: Executor = engine.threads
        self.bus: EventBus = engine.bus
        self.queue: JobQueue = JobQueue(limits.queue_size, limits.queue_bytes)
        self.ledger: Ledger = Ledger(name, lane.kind, limits.history)
        # Lanes that count what their jobs hold have a supply; clusters have schedulers of their own for that.
        self._gate = Admission(self.queue, getattr(lane, "supply", None), self.loop)
        self._feeder = Feeder(lane, self.queue, self._gate)
        self._timers: dict[Job[Any], asyncio.TimerHandle] = {}
        self.is_deaf: bool = False
        """All jobs have been ended: what the lane still tells of its calls is about none of them."""

    def open(self) -> None:
        """Get the lane ready, and start a consumer for each of its places."""
        self.lane.open(self.name, self)
        self._feeder.hire(self.engine.tasks)

    # --- what a job asks (Desk) ---------------------------------------------------------

    def on_loop(self) -> bool:
        """Whether the caller is on the runner's loop."""
        return self.engine.on_loop()

    def is_foreign(self) -> bool:
        """Whether the caller is in a forked child, where nothing moves."""
        return self.engine.pid != os.getpid()

    def progressed(self, job: Job[Any], progress: Progress) -> None:
        """A job said how far it is, in any thread."""
        if self.bus.subscriptions:
            if self.on_loop():
                self.publish(job, progress)
            else:
                self.loop.call_soon_threadsafe(self.publish, job, progress)

    def waits(self, waiter: Call, job: Job[Any], future: asyncio.Future[None] | futures.Future[None]) -> Any:
        """A running job waits for `job`; the answer takes that back."""
        return self.engine.waits(waiter, job, self.name, future)

    def stopping(self, job: Job[Any], reason: StopReason) -> None:
        """The token of `job` was raised: end it if it does not run, tell its place if it does."""
        call = job._call
        # One that does not live yet is on its way from another thread: whoever takes it in looks.
        if job.done() or call.stop is not reason or call.number not in self.engine.live:
            return
        if job.state is _RUNNING:
            self._move(job, Event.STOP, monotonic())
            assert call.place is not None
            call.place.stop(call)
        elif job.state is _QUEUED and not call.in_queue and call.place is not None:
            call.place.stop(call)  # in a worker's window: only the worker knows whether it starts
        elif job.state is not _STOPPING:
            self._stop_timer(job)
            self.queue.withdraw(call)
            self._end(job, stopped_before_start(call, reason))

    def hurry(self, job: Job[Any], grace: float) -> None:
        """`job` was asked once more to stop, and has less time than before."""
        call = job._call
        call.shorten(grace)
        if job.state is _STOPPING and call.place is not None:
            call.place.hurry(call)

    # --- what the lane tells (Host) -----------------------------------------------------

    def started(self, call: Call) -> None:
        """`call` runs now: its time limit begins."""
        if self.is_deaf:
            return
        job: Job[Any] = call.owner  # type: ignore[assignment]
        now = monotonic()
        job.started_at = now if job.started_at is None else job.started_at
        job.move(_START, now)
        if self.bus.subscriptions:
            self.publish(job)
        timeout = call.plan.options.timeout
        if timeout is not None:
            self._timers[job] = self.loop.call_later(timeout, self._too_late, job, call.token, *overrun(call))
        if call._token is not None and call.stop is not None:  # asked to stop on its way there, and too late
            self._move(job, Event.STOP, now)

    def returned(self, call: Call, value: Any, seconds: float) -> None:
        """`call` has returned `value`: the short way for what happens most."""
        if call._token is None and call.plan.is_plain and not self.is_deaf:
            self._settle(call.owner, _SUCCEED, value, None, seconds)  # type: ignore[arg-type]
        else:
            self.finished(call, Done(value, seconds))

    def finished(self, call: Call, outcome: Outcome) -> None:
        """`call` has ended: settle its job, or try again."""
        if self.is_deaf:
            return
        job: Job[Any] = call.owner  # type: ignore[assignment]
        if type(outcome) is Abandoned:  # what still runs was not measured
            outcome = Abandoned(self._runs_for(job, monotonic()))
        verdict = judge(call, outcome)
        if not verdict.started:
            call.place = None
        self._stop_timer(job)
        self._gate.release(call)
        if verdict.error is not None:
            try:
                delay = next_attempt(call, verdict, _RANDOM.random())
            # The user's backoff function may raise anything, and the job has to end all the same.
            except BaseException as error:
                delay, verdict = None, no_delay(call, verdict, error)
            if delay is not None and not self.engine.is_cancelling:
                self._try_again(job, delay, verdict.seconds)
                return
        self._end(job, verdict)

    def give_back(self, calls: Sequence[Call]) -> None:
        """Calls that were sent and not started go back to where they stood."""
        if self.is_deaf:
            return
        for call in calls:
            call.place = None
            job: Job[Any] = call.owner  # type: ignore[assignment]
            if job.state is _RUNNING:  # as the first in a window, but its worker never claimed it
                self._stop_timer(job)
                if job.started_at == job.attempt_at:  # no attempt before this one has started it
                    job.started_at = None
                self._move(job, Event.GIVE_BACK, monotonic())
        if calls:
            self.queue.give_back(calls)

    def printed(self, stream: str, text: str, call: Call | None) -> None:
        """A worker printed something while `call` ran."""
        if call is not None and call.output is not None:
            call.output.write(stream, text)
        elif call is None or call.plan.options.output == "pass":
            self.engine.echo(stream, text, None if call is None else call.cell)

    def crashed(self, place: str, cause: str) -> None:
        """A worker died by itself."""
        self.ledger.crashes += 1

    def refuse(self, error: Exception) -> None:
        """Nothing that waits can run."""
        for waiting in self._gate.waiting():
            self._settle(waiting.owner, Event.FAIL, None, error, 0.0)  # type: ignore[arg-type]
        while (call := self.queue.take()) is not None:
            self._settle(call.owner, Event.FAIL, None, error, 0.0)  # type: ignore[arg-type]

    def _stop_timer(self, job: Job[Any]) -> None:
        timer = self._timers.pop(job, None)
        if timer is not None:
            timer.cancel()

    # --- moves --------------------------------------------------------------------------

    def begin_limits(self, job: Job[Any]) -> None:
        """Watch over the whole job, its waiting included; it may end at once."""
        options = job._call.plan.options
        if options.queue_timeout is not None:
            text = f"job {job.name!r} waited longer than its queue_timeout of {options.queue_timeout:g} s"
            self._limit(job, options.queue_timeout, "queue_timeout", text)
        if options.deadline is not None:
            text = f"job {job.name!r} did not end within its deadline of {options.deadline:g} s"
            self._limit(job, options.deadline, "deadline", text)
        if options.token is not None:
            self._on_end(job, options.token.add_callback(job._call.end))

    def _limit(self, job: Job[Any], seconds: float, kind: str, text: str) -> None:
        timer = self.loop.call_later(seconds, self._too_late, job, None, kind, text)
        self._on_end(job, timer.cancel)

    def _on_end(self, job: Job[Any], clean_up: Any) -> None:
        job._timers = [*(job._timers or ()), clean_up]

    def _too_late(self, job: Job[Any], token: Any, kind: str, text: str) -> None:
        if kind == "queue_timeout" and job.started_at is not None:
            return
        if token is not None:
            token.raise_for(StopReason(kind, text))
        else:
            job._call.end(StopReason(kind, text))

    def _try_again(self, job: Job[Any], delay: float, seconds: float) -> None:
        self.ledger.retried(seconds)
        self._move(job, Event.RETRY, monotonic())
        job._call.renew()
        # The loop's own heap of timers keeps the waiting ones in order of time.
        self._timers[job] = self.loop.call_later(delay, self._due, job)

    def _due(self, job: Job[Any]) -> None:
        del self._timers[job]
        if job.state is _WAITING:
            self._move(job, Event.DUE, monotonic())
            self.queue.give_back([job._call])

    def _move(self, job: Job[Any], event: Event, now: float) -> None:
        job.move(event, now)
        if self.bus.subscriptions:
            self.publish(job)

    def fail_now(self, job: Job[Any], error: Exception) -> None:
        """End a job, wherever it is: no lane will tell of it any more."""
        self._stop_timer(job)
        self.queue.withdraw(job._call)
        self._settle(job, Event.FAIL, None, error, 0.0)

    def _end(self, job: Job[Any], verdict: Verdict) -> None:
        self._settle(job, verdict.event, verdict.value, verdict.error, verdict.seconds)

    def _settle(self, job: Job[Any], event: Event, value: Any, error: BaseException | None, seconds: float) -> None:
        """The one exit: final state, value or error, account, listeners, last event."""
        now = monotonic()
        call = job._call
        plan, place = call.plan, call.place
        marks = job._marks
        attempt_at = marks[-1] if marks[-2] is _RUNNING else job.attempt_at
        state = job.settle(event, value, error, now)
        call.seconds = seconds
        # Nothing of the call is needed any more but its plan and number.
        call.fn, call.args, call.kwargs, call.payload, call.context, call.cell = None, (), None, None, None, None
        worker = "" if place is None or attempt_at is None else place.name
        self.ledger.settled(worker, plan.name, state._name_, marks[1], job.started_at, now, seconds, attempt_at)
        if not plan.is_plain:
            self._clean_up(job)
        self.engine.forget(job)
        if self.bus.subscriptions:
            self.publish(job)
        if job._listeners is not None:
            job._tell()
        # No cycle: a result goes, and its shared memory with it, when its last holder lets go.
        call.owner = weakref.proxy(job)

    def _clean_up(self, job: Job[Any]) -> None:
        for clean_up in job._timers or ():
            clean_up()
        job._timers = None
        self._gate.release(job._call)

    def publish(self, job: Job[Any], progress: Progress | None = None) -> None:
        """Tell the subscribers where `job` is now."""
        at = self.epoch + monotonic()
        event = JobEvent(job.id, job.name, self.name, job.state, job.attempt, at, progress)
        self.bus.publish(event)

    # --- the lane as its owner sees it --------------------------------------------------

    @property
    def is_paused(self) -> bool:
        """Whether nothing is started from the queue."""
        return self._feeder.is_paused

    def pause(self) -> None:
        """Start nothing more from the queue; what runs goes on."""
        self._feeder.pause()

    def resume(self) -> None:
        """Go on."""
        self._feeder.resume()

    def resize(self, size: int) -> None:
        """Let the lane run `size` calls at once; what runs is not disturbed."""
        check_count("size", size, 1)
        self.lane.resize(size)
        self._feeder.hire(self.engine.tasks)

    def stats(self, open_seconds: float) -> LaneStats:
        """The lane's figures now."""
        now = monotonic()
        lane = self.lane
        return self.ledger.snapshot(
            places=lane.size(),
            busy=lane.busy(),
            queued=self.queue.qsize(),
            queue_size=self.queue.maxsize,
            abandoned=lane.abandoned(),
            open_seconds=open_seconds,
            running_seconds=sum(self._runs_for(job, now) for job in self._running()),
        )

    def _runs_for(self, job: Job[Any], now: float) -> float:
        return 0.0 if (began := job.attempt_at) is None else now - began

    def _running(self) -> Iterator[Job[Any]]:
        """The jobs that run now: mostly the oldest of those that live, so the search is short."""
        left = self.lane.busy() - self.lane.abandoned()
        for job in self.engine.live.values():
            if left <= 0:
                return
            if job._desk is self and (job.state is _RUNNING or job.state is _STOPPING):
                left -= 1
                yield job

    def spans(self) -> list[Span]:
        """The latest finished jobs."""
        return self.ledger.spans(self.epoch)

    def close(self) -> None:
        """Stop the consumers; each closes its place."""
        self._feeder.close()
        self._gate.close()

    def abort(self) -> None:
        """End the places now, whatever they run, without a loop's help."""
        for place in self.lane.places():
            place.abort()
