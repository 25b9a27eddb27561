"""The handle that callers hold: `Job`.

Shows where a job is, waits for it from any loop, asks it to stop. Its moves are made by
the engine, through `Desk`; nothing here decides a state.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Generator
from concurrent import futures
from contextvars import copy_context
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeVar

from asyncjobs.context import running
from asyncjobs.errors import WorkerStartError, WrongLoop
from asyncjobs.events import Progress
from asyncjobs.futures import call_soon, resolve, slices
from asyncjobs.jobqueue import JobQueue
from asyncjobs.lanes.base import Call
from asyncjobs.lanes.output import Tail
from asyncjobs.options import check_seconds
from asyncjobs.state import Event, JobState, advance
from asyncjobs.token import StopReason, check_reason
from asyncjobs.wire.failure import safe_to_raise

R_co = TypeVar("R_co", covariant=True)
R = TypeVar("R")

logger: logging.Logger = logging.getLogger("asyncjobs")

_making = threading.Lock()

# Looking a member up in its enum costs as much as a small function: 3.11 does it in Python.
_QUEUED, _RUNNING, _STOPPING, _SUCCEEDED = JobState.QUEUED, JobState.RUNNING, JobState.STOPPING, JobState.SUCCEEDED
_FAIL, _TIME_OUT, _LOSE = Event.FAIL, Event.TIME_OUT, Event.LOSE

CancelAnswer = Literal["cancelled", "requested", "ended"]


class Mark(NamedTuple):
    """One entry of a job's history; `at` is UTC epoch seconds."""

    state: JobState
    at: float


class Desk(Protocol):
    """Whoever moves a job: the engine, as a job sees it."""

    queue: JobQueue
    loop: asyncio.AbstractEventLoop
    runner_id: str
    runner: Any
    epoch: float

    def on_loop(self) -> bool: ...
    def is_foreign(self) -> bool: ...
    def stopping(self, job: Job[Any], reason: StopReason) -> None: ...
    def hurry(self, job: Job[Any], grace: float) -> None: ...
    def progressed(self, job: Job[Any], progress: Progress) -> None: ...
    def waits(
        self, waiter: Call, job: Job[Any], future: asyncio.Future[None] | futures.Future[None]
    ) -> Callable[[], None]: ...


class Job(Generic[R_co]):
    """One submitted call.

    Await it, any number of times and from any event loop, for the value or the job's own
    exception. Cancelling one that awaits does not cancel the job.
    """

    __slots__ = (
        "__weakref__",
        "_call",
        "_desk",
        "_error",
        "_listeners",
        "_marks",
        "_progress",
        "_state",
        "_timers",
        "_unseen",
        "_value",
        "started_at",
    )

    def __init__(self, desk: Desk, call: Call, now: float) -> None:
        self._desk = desk
        self._call = call
        call.owner = self
        self._state = _QUEUED
        # State, instant, state, instant ...: flat, since a million queued jobs have one each.
        self._marks: tuple[Any, ...] = (_QUEUED, now)
        self._value: Any = None
        self._error: BaseException | None = None
        self._listeners: deque[Callable[[Job[Any]], object]] | None = None
        self._progress: Progress | None = None
        self._timers: list[Any] | None = None
        self._unseen: _Unseen | None = None
        self.started_at: float | None = None
        """When its first attempt started, on the clock of `time.monotonic`; None as long as none has."""

    # --- what it is ---------------------------------------------------------------------

    @property
    def id(self) -> str:
        """Unique over runners: the runner's six hex digits, a dash, a number."""
        return f"{self._desk.runner_id}-{self._call.number}"

    @property
    def name(self) -> str:
        """The option `name`, or the function's."""
        return self._call.plan.name

    @property
    def lane(self) -> str:
        """The name of the lane that runs it."""
        return self._call.plan.lane

    @property
    def state(self) -> JobState:
        """Where it is now."""
        return self._state

    @property
    def attempt(self) -> int:
        """1 until the first retry."""
        return self._call.attempt

    @property
    def priority(self) -> int:
        """Higher runs first."""
        return self._call.priority

    @property
    def progress(self) -> Progress | None:
        """The last that the job said of itself; None if it said nothing."""
        return self._progress

    @property
    def output(self) -> str:
        """What it printed, the last 64 KiB, if `output="capture"` was asked for."""
        output = self._call.output
        return str(output) if isinstance(output, Tail) else ""

    @property
    def history(self) -> list[Mark]:
        """Every state it was in, and since when."""
        epoch = self._desk.epoch
        return [Mark(*pair) for pair in zip(self._marks[::2], (at + epoch for at in self._marks[1::2]), strict=True)]

    @property
    def runner(self) -> Any:
        """The runner that it was submitted to."""
        return self._desk.runner

    def __repr__(self) -> str:
        return f"<Job {self.id} {self.name!r} {self._state.name} in lane {self.lane!r}>"

    # --- what became of it --------------------------------------------------------------

    def done(self) -> bool:
        """Whether it is in a final state."""
        return self._state >= _SUCCEEDED

    def result(self, timeout: float | None = None) -> R_co:
        """The value, or the job's own exception raised. In other threads than that of the runner's
        loop it blocks until the job has ended, for at most `timeout` seconds.

        Raises:
            asyncio.InvalidStateError: called on the runner's loop, and it has not ended; await it there.
            TimeoutError: it has not ended within `timeout`; it goes on.
            WouldDeadlock: called inside a job, and the wait could never end.
            WrongLoop: called in a forked child, and it had not ended before the fork.
        """
        error = self.exception(timeout)
        if error is not None:
            raise safe_to_raise(error)
        return self._value  # type: ignore[no-any-return]

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What it raised, or the `JobError` that says what became of it; None if it succeeded.

        Blocks, and raises, as `result` does.
        """
        if self._state < _SUCCEEDED:
            self._block(timeout)
        if self._unseen is not None:
            self._unseen.was_seen = True
        return self._error

    def _block(self, timeout: float | None) -> None:
        """Block this thread until the job has ended."""
        check_seconds("timeout", timeout, or_none=True)
        if self._is_orphaned():
            return
        if self._desk.on_loop():
            raise asyncio.InvalidStateError(
                f"{self!r} has not ended; await it: to block its own loop would be for ever"
            )
        if self._desk.is_foreign():
            raise WrongLoop(f"{self!r} belongs to the process that this one was forked from, and is waited for there")
        waiter = running.get()
        if isinstance(waiter, Call):
            _block_job(self, waiter, timeout)
            return
        ended = threading.Lock()
        ended.acquire()
        listener = lambda _: ended.release()  # noqa: E731
        self._listen(listener)
        if not any(ended.acquire(timeout=seconds) for seconds in slices(timeout)) and not self.done():
            _remove(self._listeners or deque(), listener)
            raise _too_late(self, timeout)

    def __await__(self) -> Generator[Any, None, R_co]:
        if self._state < _SUCCEEDED:
            yield from self._ended()
        return self._value if self._error is None else self.result()

    async def wait(self) -> None:
        """Wait until it has ended, whatever became of it; raises nothing of its own."""
        if self._state < _SUCCEEDED:
            await _Awaitable(self)

    def _is_orphaned(self) -> bool:
        """Whether the runner's loop was closed under the job: then we end it, as nobody else can."""
        if self._desk.loop.is_closed():
            self._desk.runner._forgotten()
        return self.done()

    def _ended(self) -> Generator[Any, None, None]:
        if self._is_orphaned():
            return
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        if loop is self._desk.loop:
            listener: Callable[[Job[Any]], object] = lambda _: resolve(future)  # noqa: E731
        elif self._desk.is_foreign():
            raise WrongLoop(f"{self!r} belongs to the process that this one was forked from, and is awaited there")
        else:
            listener = lambda _: call_soon(loop, resolve, future)  # noqa: E731
        self._listen(listener)
        waiter = running.get()
        forget = self._desk.waits(waiter, self, future) if isinstance(waiter, Call) else None
        try:
            yield from future
        finally:
            if forget is not None:
                forget()
            if not self.done() and self._listeners is not None:
                _remove(self._listeners, listener)

    def add_done_callback(self, callback: Callable[[Job[R_co]], object]) -> None:
        """Call `callback(job)` on the runner's loop when it has ended; soon, if it has.

        It runs with the context variables of whoever adds it: in a notebook it prints in that cell.
        What it raises is logged; it harms neither the job nor other callbacks. Once that loop is
        closed, callbacks run where the job is looked at.

        Raises:
            TypeError: `callback` is no function.
        """
        if not callable(callback):
            raise TypeError(f"callback={callback!r} is not allowed; allowed: a function of the job")

        context = copy_context()
        context.run(running.set, None)  # the loop is inside no job

        def guarded(job: Job[Any]) -> None:
            try:
                context.run(callback, job)
            # A callback that calls exit() must not end the runner's loop.
            except BaseException:
                logger.exception("a done callback of job %r raised", job.name)

        def soon(job: Job[Any]) -> None:
            if not call_soon(self._desk.loop, guarded, job):
                guarded(job)  # the loop is closed: here and now, or never

        self._listen(soon)

    def _listen(self, listener: Callable[[Job[Any]], object]) -> None:
        # From any thread. 1. We append. 2. We look whether the job has ended meanwhile.
        # 3. Whoever empties the deque, we or the settling loop, calls: popleft is atomic.
        if self._listeners is None:
            with _making:
                self._listeners = self._listeners if self._listeners is not None else deque()
        self._listeners.append(listener)
        if self._state >= _SUCCEEDED:
            self._tell()

    def _tell(self) -> None:
        listeners = self._listeners
        while listeners:
            try:
                listener = listeners.popleft()
            except IndexError:
                return
            listener(self)

    # --- asking it to stop --------------------------------------------------------------

    def cancel(self, reason: str = "cancelled", *, grace: float | None = None) -> CancelAnswer:
        """Ask the job to stop; never waits, and may be called from any thread.

        Once it is stopping, a shorter `grace` hurries it: the seconds count anew, and it ends at the
        sooner of both. A longer one changes nothing, and the first reason stands.

        Args:
            reason: shown in `JobCancelled` and by the job's token.
            grace: seconds until a process job is interrupted, or a thread abandoned; the
                job's option if not given.

        Returns:
            ``"cancelled"``: it had not started, and never will. ``"requested"``: it runs
            and has been told. ``"ended"``: it was over already.

        Raises:
            TypeError: `reason` is no string.
            ValueError: `grace` is less than 0, or no number.
        """
        check_reason(reason)
        check_seconds("grace", grace, or_none=True)
        if self.done() or self._is_orphaned():
            return "ended"
        self.ask(StopReason("cancel", reason), grace)
        return "cancelled" if self._state is JobState.CANCELLED else "requested"

    # --- the engine's side --------------------------------------------------------------

    def ask(self, reason: StopReason, grace: float | None) -> None:
        """Ask for its end, within `grace` seconds if any are given; from any thread."""
        if grace is not None:
            self._call.shorten(grace)
        if self._call.end(reason) or grace is None:
            return
        if self._desk.on_loop():
            self._desk.hurry(self, grace)
        else:
            call_soon(self._desk.loop, self._desk.hurry, self, grace)

    def on_stop(self, reason: StopReason) -> None:
        """Its token was raised, in any thread."""
        if self._desk.on_loop():
            self._desk.stopping(self, reason)
        else:
            call_soon(self._desk.loop, self._desk.stopping, self, reason)

    def report_progress(self, done: float, total: float | None, note: str) -> None:
        """The job said how far it is, in any thread."""
        self._progress = Progress(done, total, note)
        self._desk.progressed(self, self._progress)

    def move(self, event: Event, now: float) -> JobState:
        """Make one move; the state table has the last word."""
        self._state = state = advance(self._state, event)
        self._marks += (state, now)
        return state

    @property
    def attempt_at(self) -> float | None:
        """When the attempt started that runs now, on the same clock; None while it waits."""
        marks = self._marks
        if self._state is _RUNNING:
            return marks[-1]  # type: ignore[no-any-return]
        # A stop comes only to one that runs.
        return marks[-3] if self._state is _STOPPING else None

    def settle(self, event: Event, value: Any, error: BaseException | None, now: float) -> JobState:
        """Make the last move: the value or error stands before anybody can see the state."""
        self._value, self._error = value, error
        if error is not None and event in (_FAIL, _TIME_OUT, _LOSE):
            self._unseen = _Unseen(self.name, error)
        return self.move(event, now)


def _block_job(job: Job[Any], waiter: Call, timeout: float | None) -> None:
    """Block the thread of another job: the loop knows of it, where a deadlock is seen."""
    loop = job._desk.loop
    ended: futures.Future[None] = futures.Future()
    # It hears of the end in any case, even if the loop ends before it looks for a deadlock.
    job._listen(lambda _: resolve(ended))
    call_soon(loop, _watch, job, waiter, ended)
    try:
        ended.result(timeout)
    except futures.TimeoutError:
        if not job.done():
            raise _too_late(job, timeout) from None
    finally:
        # Not here: it could be resolved there in the same instant, and once is all it takes.
        call_soon(loop, resolve, ended)


def _watch(job: Job[Any], waiter: Call, ended: futures.Future[None]) -> None:
    """On the loop: until `ended` is done, `waiter` waits for `job`."""
    forget = job._desk.waits(waiter, job, ended)
    ended.add_done_callback(lambda _: forget())


class _Awaitable:
    __slots__ = ("_job",)

    def __init__(self, job: Job[Any]) -> None:
        self._job = job

    def __await__(self) -> Generator[Any, None, None]:
        return self._job._ended()


class _Unseen:
    """Goes with a failed job until somebody looks; says so if nobody ever did."""

    __slots__ = ("_error", "_name", "was_seen")

    def __init__(self, name: str, error: BaseException) -> None:
        self._name = name
        self._error = error
        self.was_seen = False

    def __del__(self) -> None:
        if not self.was_seen:
            error = self._error
            said = error.logged if isinstance(error, WorkerStartError) and error.logged else repr(error)
            logger.error("job %r failed and nobody looked at it: %s", self._name, said)


def _too_late(job: Job[Any], timeout: float | None) -> TimeoutError:
    return TimeoutError(f"job {job.name!r} has not ended within {timeout:g} s; it goes on")


def _remove(listeners: deque[Any], listener: object) -> None:
    try:
        listeners.remove(listener)
    except ValueError:
        return  # told meanwhile
