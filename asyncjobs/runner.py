"""The public face: `Runner`, with `submit` and its relatives over lanes of any kind.

Turns a function and its arguments into a job and hands it to the engine. What happens then
is the engine's and the lanes' business.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import sys
import threading
import warnings
import weakref
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from time import monotonic
from types import TracebackType
from typing import Any, Literal, TypeVar, Unpack

import anyio

from asyncjobs.engine.dispatcher import Limits
from asyncjobs.engine.engine import Engine
from asyncjobs.errors import RunnerClosed
from asyncjobs.events import Subscription
from asyncjobs.intake import NOTHING_GIVEN, Intake, check_lane, check_lanes, options_of_lane
from asyncjobs.job import Job
from asyncjobs.lanes.base import Lane
from asyncjobs.lanes.loop import LoopLane
from asyncjobs.lanes.process import ProcessLane
from asyncjobs.lanes.thread import ThreadLane
from asyncjobs.options import OptionFields, check_count, check_mapping, check_seconds, is_number, make_options
from asyncjobs.report import figures
from asyncjobs.shared import Shared
from asyncjobs.spawning import is_starting
from asyncjobs.stats import Percentiles, Stats, total
from asyncjobs.steering import LaneHandle
from asyncjobs.submitter import Submitter
from asyncjobs.token import StopReason, check_reason
from asyncjobs.watchdog import Watchdog
from asyncjobs.wire import codec

T = TypeVar("T")

logger: logging.Logger = logging.getLogger("asyncjobs")

LAST_WAIT = 2.5
"""Seconds beyond the longest grace that a closing runner waits for stopped jobs."""

_open_runners: weakref.WeakSet[Runner] = weakref.WeakSet()
_lane_holders: weakref.WeakSet[Runner] = weakref.WeakSet()
"""Those whose lanes no other may open: they are open, or about to be."""
_claiming = threading.Lock()
"""Runners open in several threads: a set must not grow while one is read."""


def _begin_anew() -> None:
    """In a forked child: whoever held the lock is not here."""
    global _claiming
    _claiming = threading.Lock()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_begin_anew)


class Runner(Submitter):
    """Runs jobs: coroutines on the loop, blocking calls in threads, kernels in processes.

    Args:
        processes: worker processes; the usable processors if not given. They start when
            they are first needed.
        threads: threads of the thread lane.
        coroutines: coroutines that may run at once on the loop lane.
        queue_size: jobs that may wait in each lane's queue.
        queue_bytes: bytes that the jobs in each process lane's queue may refer to, arguments that
            are read only when a job starts included; no bound if not given.
        lanes: more lanes by name, such as ``{"gpu": ProcessLane(1, env={...})}``; under a
            built-in name (``loop``, ``thread``, ``process``) they replace it.
        options: default options of all jobs; `@job` and `options()` override them.
        lane_options: the same per lane, by name.
        drain_timeout: seconds that leaving ``async with`` waits for jobs; None waits for all.
        history: finished jobs that each lane remembers for `stats()` and `report()`.
        arena_bytes: shared memory that large arguments, results and shared objects may take in
            all; half of what is free when the runner opens, if not given.
        watchdog: seconds without an answer of the loop before a warning is logged; None: off.

    Example::

        async with Runner(processes=4) as runner:
            job = await runner.submit(fit, data)
            print(await job)
    """

    _tells_of_cancels = True
    """Whether jobs that a close cancels are worth a warning: old programs expect silence."""
    _tells_of_neglect = True
    """Whether it warns if nobody closes it; not where its owner, whom people know, does."""

    def __init__(
        self,
        *,
        processes: int | None = None,
        threads: int = 32,
        coroutines: int = 1000,
        queue_size: int = 1024,
        queue_bytes: int | None = None,
        lanes: Mapping[str, Lane] | None = None,
        options: OptionFields | None = None,
        lane_options: Mapping[str, OptionFields] | None = None,
        drain_timeout: float | None = None,
        history: int = 10_000,
        arena_bytes: int | None = None,
        watchdog: float | None = 0.25,
    ) -> None:
        for name, value, least in (("threads", threads, 1), ("coroutines", coroutines, 1), ("history", history, 0)):
            check_count(name, value, least)
        check_count("queue_size", queue_size, 1)
        for name, bound in (("processes", processes), ("queue_bytes", queue_bytes), ("arena_bytes", arena_bytes)):
            check_count(name, bound, 1, or_none=True)
        check_seconds("drain_timeout", drain_timeout, or_none=True)
        if watchdog is not None and not (is_number(watchdog) and watchdog > 0):
            raise ValueError(f"watchdog={watchdog!r} is not allowed; allowed: None, or seconds above 0")
        for name, mapping in (("lanes", lanes), ("options", options), ("lane_options", lane_options)):
            check_mapping(name, mapping)
        super().__init__(self, NOTHING_GIVEN)
        self._defaults = make_options(options or {})
        self._lanes: dict[str, Lane] = {
            "loop": LoopLane(coroutines),
            "thread": ThreadLane(threads),
            "process": ProcessLane(processes),
            **(lanes or {}),
        }
        check_lanes(self._lanes)
        self._lane_options = {
            name: options_of_lane(name, values, self._lanes) for name, values in (lane_options or {}).items()
        }
        if isinstance(self._defaults.lane, str):
            check_lane(self._defaults.lane, self._lanes)
        self._limits = Limits(queue_size, queue_bytes, history, arena_bytes)
        self._drain_timeout = drain_timeout
        self._watchdog_threshold = watchdog
        self._machinery: Engine | None = None
        self._door: Intake | None = None
        self._state: Literal["new", "open", "closing", "closed"] = "new"
        self._drain_when_cancelled = False
        self._ending = asyncio.Lock()
        self._unfinished: list[str] = []

    def __repr__(self) -> str:
        jobs = len(self._machinery.live) if self._machinery else 0
        is_broken = self._state == "open" and self._machinery is not None and self._machinery.broken is not None
        return f"<Runner {'broken' if is_broken else self._state} with {jobs} jobs, lanes {', '.join(self._lanes)}>"

    # --- life ---------------------------------------------------------------------------

    async def __aenter__(self) -> Runner:
        if self._state != "new":
            raise RunnerClosed(f"the runner is {self._state}; make a new one")
        self._claim_lanes()
        engine = Engine(self, self._lanes, self._limits)
        if self._watchdog_threshold is not None:
            engine.watchdog = Watchdog(engine.loop, self._watchdog_threshold, self._suspects, lambda: not engine.live)
        try:
            await engine.open()
        except BaseException:
            _lane_holders.discard(self)
            raise
        self._machinery = engine
        self._door = Intake(engine, self._lanes, self._defaults, self._lane_options)
        self._state = "open"
        with _claiming:
            _open_runners.add(self)
        return self

    def _claim_lanes(self) -> None:
        """A lane counts what it runs, and tells one host: it belongs to one open runner."""
        with _claiming:
            for other in _lane_holders:
                theirs = {} if other._state == "closed" else {id(lane): name for name, lane in other._lanes.items()}
                for name, lane in self._lanes.items():
                    if id(lane) in theirs:
                        raise ValueError(
                            f"lane {name!r} is lane {theirs[id(lane)]!r} of another open runner; make one of its own, "
                            "or close that runner first"
                        )
            _lane_holders.add(self)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        drains = kind is None or self._drain_when_cancelled
        await self.aclose(drain=self._drain_timeout if drains else 0)

    async def aclose(self, *, drain: float | None = None, grace: float | None = None) -> list[str]:
        """Take no more jobs, let those there are end, and release everything.

        Args:
            drain: seconds to wait for jobs to end; None waits for all, 0 cancels at once.
            grace: overrides every job's grace between being asked and being stopped.

        Returns:
            The names of the jobs that had not ended after `drain` and were cancelled.

        Cancelling this call cuts the drain short; the jobs are cancelled all the same. A
        second call waits for the first, or hurries it with a shorter `drain`.

        Raises:
            WouldDeadlock: called inside a job of this runner, whose end it would wait for.
        """
        check_seconds("drain", drain, or_none=True)
        check_seconds("grace", grace, or_none=True)
        if self._state in ("new", "closed"):
            self._state = "closed"
            return []
        engine = self._engine
        engine.check_loop()
        engine.check_not_inside()
        if self._state == "open" and drain != 0:
            engine.warn_of_paused_lanes()
        self._state = "closing"
        engine.is_open = False
        engine.wake_submitters()
        try:
            await _within(drain, engine.drained())
        finally:
            with _shield():
                async with self._ending:
                    await self._shut_down(engine, grace)
        return self._unfinished

    async def _shut_down(self, engine: Engine, grace: float | None) -> None:
        if self._state == "closed":  # by another call, while this one drained
            return
        jobs = tuple(engine.live.values())
        self._unfinished = [job.name for job in jobs]
        try:
            if jobs:
                await self._stop(engine, jobs, grace)
            await engine.close()
        finally:
            # Cancelled once more: whatever is left ends now.
            engine.abort()
            if engine.watchdog is not None:
                engine.watchdog.close()
            self._state = "closed"
            _open_runners.discard(self)

    async def _stop(self, engine: Engine, jobs: tuple[Job[Any], ...], grace: float | None) -> None:
        names = sorted({job.name for job in jobs})
        level = logging.WARNING if self._tells_of_cancels else logging.DEBUG
        logger.log(level, "the runner closes; %d jobs are cancelled: %s", len(jobs), ", ".join(names[:20]))
        engine.is_cancelling = True
        reason = StopReason("shutdown", "the runner is closing")
        for job in jobs:
            job.ask(reason, grace)
        longest = max(job._call.grace for job in jobs)
        await _within(longest + LAST_WAIT, engine.drained())

    def __del__(self) -> None:
        if getattr(self, "_machinery", None) is not None:
            self._forgotten()

    def _forgotten(self) -> None:
        """The loop is gone, or we are: say so if nobody closed us, end the jobs, let the workers go."""
        engine = self._machinery
        if engine is None or self._state == "closed" or engine.pid != os.getpid():  # a forked child's copy is inert
            return
        before, text = self._state, f"{self!r} was never closed; use `async with`"
        self._end_now()
        if before == "open" and self._tells_of_neglect:  # last of all: a warning may be an error
            warnings.warn(text, ResourceWarning, source=self, stacklevel=2)

    def _end_now(self) -> None:
        """End the jobs and let the workers go, without a loop's help."""
        engine = self._engine
        self._state = "closed"
        engine.abort()
        if engine.watchdog is not None:
            engine.watchdog.close()
        _open_runners.discard(self)

    @property
    def _engine(self) -> Engine:
        if self._machinery is None:
            raise RunnerClosed("the runner is not open; use `async with Runner() as runner:`")
        return self._machinery

    @property
    def _intake(self) -> Intake:
        if self._door is None:
            raise RunnerClosed(f"the runner is {self._state}; it takes jobs inside `async with Runner() as runner:`")
        return self._door

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that the runner lives on."""
        return self._engine.loop

    # --- jobs ---------------------------------------------------------------------------

    def options(self, **options: Unpack[OptionFields]) -> Submitter:
        """The same verbs with these options (see `JobOptions`) for every job.

        Example: ``await runner.options(lane="process", timeout=30, retries=3).submit(fit, x)``

        Raises:
            TypeError: an unknown option.
            ValueError: a value that is not allowed, or an unknown lane.
        """
        record = make_options(options)
        if isinstance(record.lane, str):
            check_lane(record.lane, self._lanes)
        return Submitter(self, record)

    def share(self, value: T) -> Shared[T]:
        """Put `value` into shared memory once; any number of jobs may take the handle as an argument.

        A job gets the object itself. In worker processes its large arrays are mapped, not copied,
        and read-only. Close the handle (it is a context manager) when no more jobs will take it.
        The same object gives the same handle until then. Copies once, here and now.

        Raises:
            ArenaFull: there is no room for it.
            NotSendable: it does not pickle.
            RunnerClosed: the runner is closed.
            WrongLoop: called from another event loop or thread.
        """
        engine = self._engine
        engine.check_open()
        return engine.shares.share(value, codec.encode_sent(value, "the shared object"))

    def jobs(self) -> list[Job[Any]]:
        """The jobs that have not ended, oldest first."""
        return list(self._engine.live.values())

    def cancel_all(self, reason: str = "cancelled") -> int:
        """Ask every job to stop; how many there were.

        Raises:
            WrongLoop: called from another event loop or thread.
        """
        check_reason(reason)
        engine = self._engine
        engine.check_loop()
        return engine.cancel_all(StopReason("cancel", reason))

    async def join(self) -> None:
        """Wait until everything submitted so far has ended, however it ended."""
        for job in self.jobs():
            await job.wait()

    def lane(self, name: str) -> LaneHandle:
        """One lane, to `pause()`, `resume()` or `resize(n)` it."""
        check_lane(name, self._lanes)
        return LaneHandle(self._engine, self._engine.dispatchers[name])

    # --- figures ------------------------------------------------------------------------

    def stats(self) -> Stats:
        """The figures of this moment."""
        engine = self._engine
        seconds = monotonic() - engine.opened_at
        dispatchers = engine.dispatchers.values()
        return total(
            [dispatcher.stats(seconds) for dispatcher in dispatchers],
            open_seconds=seconds,
            loop_lag=engine.watchdog.lags() if engine.watchdog else Percentiles(0, 0.0, 0.0, 0.0, 0.0, 0.0),
            memory=engine.memory.stats(engine.shares.count, engine.shares.nbytes),
            spans=[span for dispatcher in dispatchers for span in dispatcher.spans()],
        )

    def report(self) -> dict[str, Any]:
        """The same as plotly figures by heading; `asyncjobs.report.write_html` makes a page of them."""
        return figures(self.stats())

    def events(self, size: int = 1024) -> Subscription:
        """What happens to jobs from now on, as an async iterator of `JobEvent`.

        A subscriber that falls behind loses the oldest of `size` events; `dropped` counts.

        Raises:
            RunnerClosed: the runner is closed.
            WrongLoop: called from another event loop or thread.
        """
        check_count("size", size, 1)
        engine = self._engine
        engine.check_open()
        return engine.bus.subscribe(size)

    def _suspects(self) -> str | None:
        """For the watchdog: what may hold the loop up; None while we do so ourselves."""
        if is_starting():
            return None
        engine = self._engine
        on_loop, in_threads = None, []
        for lane in self._lanes.values():
            if isinstance(lane, LoopLane):
                on_loop = on_loop or lane.call_of(asyncio.current_task(engine.loop))
            if isinstance(lane, ThreadLane):
                in_threads += [call.name for call in lane.running()]
        if on_loop is not None:
            return f"job {on_loop.name!r} is running on it"
        return f"threads run {', '.join(sorted(set(in_threads)))}" if in_threads else "no job of ours is running on it"


@atexit.register
def _forget_all() -> None:
    for runner in _all_open():
        runner._forgotten()


def _all_open() -> tuple[Runner, ...]:
    with _claiming:
        return tuple(_open_runners)


def drain_when_cancelled(loop: asyncio.AbstractEventLoop, longest: float) -> None:
    """From now on the open runners of `loop` drain, even if their block ends by a cancel.

    For at most their `drain_timeout`, or `longest` seconds where they have none.
    """
    for runner in _all_open():
        if runner.loop is loop:
            runner._drain_when_cancelled = True
            runner._drain_timeout = longest if runner._drain_timeout is None else runner._drain_timeout


def _shield() -> AbstractContextManager[object]:
    """From a cancelled scope of anyio's around us: there is none before its backend is loaded, which takes 80 ms."""
    return anyio.CancelScope(shield=True) if "anyio._backends._asyncio" in sys.modules else nullcontext()


async def _within(seconds: float | None, waiting: Any) -> None:
    """Wait, at most `seconds`; running out of time is no error."""
    try:
        async with asyncio.timeout(seconds):
            await waiting
    except TimeoutError:
        return
