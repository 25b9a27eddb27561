"""The public face: `Runner`, with `submit` and its relatives over lanes of any kind.

Turns a function and its arguments into a job and hands it to the engine. What happens then
is the engine's and the lanes' business.
"""

from __future__ import annotations

import asyncio
import atexit
import copy
import functools
import inspect
import logging
import os
import warnings
import weakref
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Mapping
from contextvars import copy_context
from time import monotonic
from types import TracebackType
from typing import Any, Literal, ParamSpec, TypeVar, Unpack, overload

import anyio

from asyncjobs.context import running
from asyncjobs.engine.dispatcher import Dispatcher
from asyncjobs.engine.engine import Engine
from asyncjobs.errors import RunnerClosed
from asyncjobs.events import Subscription
from asyncjobs.job import Job
from asyncjobs.lanes.base import Call, Lane, Plan
from asyncjobs.lanes.loop import LoopLane
from asyncjobs.lanes.process import ProcessLane
from asyncjobs.lanes.thread import ThreadLane
from asyncjobs.mapping import MapRun
from asyncjobs.options import JobOptions, OptionFields, is_count, is_number, make_options, options_of, settle
from asyncjobs.report import figures
from asyncjobs.spawning import is_starting
from asyncjobs.stats import Percentiles, Stats, total
from asyncjobs.token import StopReason
from asyncjobs.watchdog import Watchdog
from asyncjobs.wire import codec

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

logger: logging.Logger = logging.getLogger("asyncjobs")

BREATH = 0.001
"""Seconds of submitting after which `submit` gives the loop a turn: what was submitted starts
while more is, and a loop that computes between submits does not hold its own jobs up."""
LAST_WAIT = 2.5
"""Seconds beyond the longest grace that a closing runner waits for stopped jobs."""

_NONE = JobOptions()

_open_runners: weakref.WeakSet[Runner] = weakref.WeakSet()


class Submitter:
    """The four ways to hand over work, with one set of options.

    `Runner` has the same methods; `Runner.options` makes one of these.
    """

    def __init__(self, runner: Runner, options: JobOptions) -> None:
        self._runner = runner
        self._options = options
        # Plans by the function's id; the reference tells whether it is still that function.
        self._plans: dict[int, tuple[Any, Plan]] = {}

    @overload
    async def submit(self, fn: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> Job[R]: ...
    @overload
    async def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Job[R]: ...
    async def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Job[Any]:
        """Hand over ``fn(*args, **kwargs)``; waits while the lane's queue is full.

        Returns:
            The job, accepted and queued. Await it for the value.

        Raises:
            NotSendable: for a process lane, an argument does not pickle.
            TypeError: `fn` is no function, or of a kind that the lane does not run.
            LaneStalled: too many of the lane's threads are abandoned.
            RunnerClosed: the runner is closed or closing.
            WouldDeadlock: called inside a job, where room could only come from its own end.
            WrongLoop: called from another event loop or thread.
        """
        runner = self._runner
        job = runner._make(self._plan(fn), args, kwargs)
        if not job._call.number and job._desk.queue.full():
            job = await runner._wait_for_room(job)
        if not job._call.number:
            runner._engine.accept(job)
            if job._marks[1] > runner._breath_due:
                await asyncio.sleep(0)
                runner._breath_due = monotonic() + BREATH
        return job

    @overload
    def submit_nowait(self, fn: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> Job[R]: ...
    @overload
    def submit_nowait(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Job[R]: ...
    def submit_nowait(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Job[Any]:
        """As `submit`, without waiting.

        Raises:
            QueueFull: the lane's queue has no room; and whatever `submit` raises.
        """
        job = self._runner._make(self._plan(fn), args, kwargs)
        if not job._call.number:
            self._runner._engine.accept(job)
        return job

    @overload
    async def run(self, fn: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    async def run(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    async def run(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Submit and wait for the value; cancelling the waiter cancels the job."""
        job = await self.submit(fn, *args, **kwargs)
        try:
            return await job
        except asyncio.CancelledError:
            job.cancel("whoever waited for it was cancelled")
            raise

    @overload
    def map(
        self,
        fn: Callable[..., Awaitable[R]],
        /,
        *iterables: Iterable[Any] | AsyncIterable[Any],
        ordered: bool = True,
        lookahead: int | None = None,
        on_error: Literal["raise", "skip", "return"] = "raise",
        progress: bool = False,
    ) -> MapRun[R]: ...
    @overload
    def map(
        self,
        fn: Callable[..., R],
        /,
        *iterables: Iterable[Any] | AsyncIterable[Any],
        ordered: bool = True,
        lookahead: int | None = None,
        on_error: Literal["raise", "skip", "return"] = "raise",
        progress: bool = False,
    ) -> MapRun[R]: ...
    def map(
        self,
        fn: Callable[..., Any],
        /,
        *iterables: Iterable[Any] | AsyncIterable[Any],
        ordered: bool = True,
        lookahead: int | None = None,
        on_error: Literal["raise", "skip", "return"] = "raise",
        progress: bool = False,
    ) -> MapRun[Any]:
        """Call `fn` on each item, or on the items of several iterables side by side.

        Args:
            iterables: sync or async, endless ones too; the shortest ends the map. A sync
                one is advanced on the loop: one that blocks belongs into an async generator.
            ordered: results in the order of the items; else as they come.
            lookahead: the most items that are taken before the result of the first is
                handed out; chosen by the lane's size if not given.
            on_error: ``"raise"`` the first error and cancel the rest, ``"skip"`` items that
                fail, or ``"return"`` the exception in place of the value.
            progress: show a tqdm bar.

        Returns:
            An async iterator; ``await .collect()`` gives a list and is the fastest form;
            ``async with`` awaits the clean-up.

        On a process lane items of short functions travel in groups, still with one error
        per item; if a worker dies, only the item that ran is lost and the group's other
        items may run again. With any item option (`timeout`, `retries` ...) each item is a
        job of its own.
        """
        return MapRun(self, self._plan(fn), iterables, ordered, lookahead, on_error, progress)

    def _plan(self, fn: Callable[..., Any]) -> Plan:
        known = self._plans.get(id(fn))
        if known is not None and known[0]() is fn:
            return known[1]
        plan = self._runner._new_plan(fn, self._options)
        try:
            key = id(fn)
            self._plans[key] = weakref.ref(fn, lambda _: self._plans.pop(key, None)), plan
        except TypeError:
            return plan  # no weak references to it: planned anew each time
        return plan


class Runner(Submitter):
    """Runs jobs: coroutines on the loop, blocking calls in threads, kernels in processes.

    Args:
        processes: worker processes; the usable processors if not given. They start when
            they are first needed.
        threads: threads of the thread lane.
        coroutines: coroutines that may run at once on the loop lane.
        queue_size: jobs that may wait in each lane's queue.
        lanes: more lanes by name, such as ``{"gpu": ProcessLane(1, env={...})}``; under a
            built-in name (``loop``, ``thread``, ``process``) they replace it.
        options: default options of all jobs; `@job` and `options()` override them.
        lane_options: the same per lane, by name.
        drain_timeout: seconds that leaving ``async with`` waits for jobs; None waits for all.
        history: finished jobs that each lane remembers for `stats()` and `report()`.
        watchdog: seconds without an answer of the loop before a warning is logged; None: off.

    Example::

        async with Runner(processes=4) as runner:
            job = await runner.submit(fit, data)
            print(await job)
    """

    def __init__(
        self,
        *,
        processes: int | None = None,
        threads: int = 32,
        coroutines: int = 1000,
        queue_size: int = 1024,
        lanes: Mapping[str, Lane] | None = None,
        options: OptionFields | None = None,
        lane_options: Mapping[str, OptionFields] | None = None,
        drain_timeout: float | None = None,
        history: int = 10_000,
        watchdog: float | None = 0.25,
    ) -> None:
        for name, value, least in (
            ("processes", processes, 1),
            ("threads", threads, 1),
            ("coroutines", coroutines, 1),
            ("queue_size", queue_size, 1),
            ("history", history, 0),
        ):
            if not (is_count(value, least) or (value is None and name == "processes")):
                raise ValueError(f"{name}={value!r} is not allowed; allowed: a whole number from {least}")
        if drain_timeout is not None and not (is_number(drain_timeout) and drain_timeout >= 0):
            raise ValueError(f"drain_timeout={drain_timeout!r} is not allowed; allowed: None, or seconds from 0")
        if watchdog is not None and not (is_number(watchdog) and watchdog > 0):
            raise ValueError(f"watchdog={watchdog!r} is not allowed; allowed: None, or seconds above 0")
        super().__init__(self, _NONE)
        self._defaults = make_options(options or {})
        self._lanes: dict[str, Lane] = {
            "loop": LoopLane(coroutines),
            "thread": ThreadLane(threads),
            "process": ProcessLane(processes),
            **(lanes or {}),
        }
        for name, lane in self._lanes.items():
            if not (isinstance(name, str) and name):
                raise ValueError(f"lanes={{{name!r}: ...}} is not allowed; allowed: a name that is not empty")
            if not hasattr(lane, "capabilities"):
                raise TypeError(f"lanes={{{name!r}: {lane!r}}} is not allowed; allowed: a lane, such as ThreadLane(4)")
        self._lane_options = {name: make_options(values) for name, values in (lane_options or {}).items()}
        for name in self._lane_options:
            self._check_lane(name)
        if isinstance(self._defaults.lane, str):
            self._check_lane(self._defaults.lane)
        self._queue_size = queue_size
        self._drain_timeout = drain_timeout
        self._history = history
        self._watchdog_threshold = watchdog
        self._machinery: Engine | None = None
        self._state: Literal["new", "open", "closing", "closed"] = "new"
        self._drain_when_cancelled = False
        self._breath_due = 0.0
        self._ending = asyncio.Lock()
        self._unfinished: list[str] = []

    def __repr__(self) -> str:
        jobs = len(self._machinery.live) if self._machinery else 0
        return f"<Runner {self._state} with {jobs} jobs, lanes {', '.join(self._lanes)}>"

    # --- life ---------------------------------------------------------------------------

    async def __aenter__(self) -> Runner:
        if self._state != "new":
            raise RunnerClosed(f"the runner is {self._state}; make a new one")
        engine = Engine(self, self._lanes, self._queue_size, self._history)
        if self._watchdog_threshold is not None:
            engine.watchdog = Watchdog(
                engine.loop, self._watchdog_threshold, self._suspects, lambda: not engine.live
            )
        await engine.open()
        self._machinery = engine
        self._state = "open"
        _open_runners.add(self)
        return self

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
        """
        for name, seconds in (("drain", drain), ("grace", grace)):
            if seconds is not None and not (is_number(seconds) and seconds >= 0):
                raise ValueError(f"{name}={seconds!r} is not allowed; allowed: None, or seconds from 0")
        if self._state in ("new", "closed"):
            self._state = "closed"
            return []
        engine = self._engine
        engine.check_loop()
        self._state = "closing"
        engine.wake_submitters()
        try:
            await _within(drain, engine.drained())
        finally:
            with anyio.CancelScope(shield=True):
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
        logger.warning("the runner closes; %d jobs are cancelled: %s", len(jobs), ", ".join(names[:20]))
        engine.is_cancelling = True
        for job in jobs:
            job._call.grace = job._call.grace if grace is None else grace
        longest = max(job._call.grace for job in jobs)
        engine.cancel_all(StopReason("shutdown", "the runner is closing"))
        await _within(longest + LAST_WAIT, engine.drained())

    def __del__(self) -> None:
        if getattr(self, "_machinery", None) is not None:
            self._forgotten()

    def _forgotten(self) -> None:
        """The loop is gone, or we are: say so if nobody closed us, end the jobs, let the workers go."""
        engine = self._engine
        if self._state == "closed" or engine.pid != os.getpid():  # a forked child's copy is inert
            return
        if self._state == "open":
            warnings.warn(f"{self!r} was never closed; use `async with`", ResourceWarning, source=self, stacklevel=2)
        self._state = "closed"
        engine.abort()
        if engine.watchdog is not None:
            engine.watchdog.close()

    @property
    def _engine(self) -> Engine:
        if self._machinery is None:
            raise RunnerClosed("the runner is not open; use `async with Runner() as runner:`")
        return self._machinery

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
            self._check_lane(record.lane)
        return Submitter(self, record)

    def jobs(self) -> list[Job[Any]]:
        """The jobs that have not ended, oldest first."""
        return list(self._engine.live.values())

    def cancel_all(self, reason: str = "cancelled") -> int:
        """Ask every job to stop; how many there were."""
        return self._engine.cancel_all(StopReason("cancel", reason))

    async def join(self) -> None:
        """Wait until everything submitted so far has ended, however it ended."""
        for job in self.jobs():
            await job.wait()

    def lane(self, name: str) -> Dispatcher:
        """One lane, to `pause()`, `resume()` or `resize(n)` it."""
        self._check_lane(name)
        return self._engine.dispatchers[name]

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
            spans=[span for dispatcher in dispatchers for span in dispatcher.spans()],
        )

    def report(self) -> dict[str, Any]:
        """The same as plotly figures by heading; `asyncjobs.report.write_html` makes a page of them."""
        return figures(self.stats())

    def events(self, size: int = 1024) -> Subscription:
        """What happens to jobs from now on, as an async iterator of `JobEvent`.

        A subscriber that falls behind loses the oldest of `size` events; `dropped` counts.
        """
        if not is_count(size, 1):
            raise ValueError(f"size={size!r} is not allowed; allowed: a whole number from 1")
        return self._engine.bus.subscribe(size)

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

    # --- making jobs --------------------------------------------------------------------

    def _check_lane(self, name: str) -> None:
        if name not in self._lanes:
            raise ValueError(f"lane={name!r} is not allowed; allowed: {', '.join(sorted(self._lanes))}")

    def _new_plan(self, fn: Callable[..., Any], options: JobOptions) -> Plan:
        """Decide lane and options for `fn`: options() over @job over lane over runner."""
        if not callable(fn):
            raise TypeError(f"{fn!r} is not callable; submit takes a function and its arguments")
        is_coroutine = _is_coroutine_function(fn)
        own = options.over(options_of(fn) or _NONE)
        name = own.over(self._defaults).lane
        if not isinstance(name, str):
            name = "loop" if is_coroutine else "thread"
        self._check_lane(name)
        settled = settle(own.over(self._lane_options.get(name, _NONE)).over(self._defaults))
        plan = Plan(fn, settled.name or _name_of(fn), name, settled, is_coroutine)
        self._check_plan(plan, own)
        plan.home = self._engine.dispatchers[name]
        return plan

    def _check_plan(self, plan: Plan, options: JobOptions) -> None:
        capabilities = self._lanes[plan.lane].capabilities
        if plan.is_coroutine and not capabilities.coroutines:
            raise TypeError(
                f"{plan.name} is a coroutine function; lane {plan.lane!r} runs plain functions, 'loop' these"
            )
        if capabilities.coroutines and not plan.is_coroutine:
            raise TypeError(
                f"{plan.name} is a plain function and would block lane {plan.lane!r}; use 'thread' or 'process'"
            )
        refused = capabilities.unsupported & set(options.given())
        if refused:
            raise ValueError(f"lane {plan.lane!r} cannot honour the options {', '.join(sorted(refused))}")
        plan.encodes = capabilities.encodes
        if plan.encodes:
            plan.by_name = codec.importable(plan.fn)

    def _make(self, plan: Plan, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Job[Any]:
        """A job that is not yet in the queue, or the living one with the same key."""
        engine = self._machinery
        if engine is None or self._state != "open":
            raise RunnerClosed(f"the runner is {self._state}; it takes jobs inside `async with Runner() as runner:`")
        engine.check_loop()
        if not plan.is_plain and plan.options.key in engine.keys:
            return engine.keys[plan.options.key]
        plan.home.lane.check(plan)
        call = Call(plan)
        if plan.encodes:
            call.payload = self._payload(plan, args, kwargs)
        else:
            if plan.options.snapshot:
                args, kwargs = copy.deepcopy((args, kwargs))
            call.args = args
            call.kwargs = kwargs or None
            call.context = copy_context()
        return Job(plan.home, call, monotonic())

    def _payload(self, plan: Plan, args: tuple[Any, ...], kwargs: dict[str, Any]) -> codec.Payload:
        payload = codec.encode_arguments(plan.fn, args, kwargs)
        if plan.by_name is None:
            # Captured values may have changed since the last submit: pickled each time.
            function, tokens = codec.encode_function(plan.fn)
            payload = payload._replace(function=function, tokens=payload.tokens + tokens)
        return payload

    async def _wait_for_room(self, job: Job[Any]) -> Job[Any]:
        """The job, once there is room for it; or the one with its key that came meanwhile."""
        engine = self._engine
        dispatcher = engine.dispatchers[job.lane]
        waiter = running.get()
        while dispatcher.queue.full():
            future: asyncio.Future[None] = engine.loop.create_future()
            forget = engine.waits(waiter, None, job.lane, future) if isinstance(waiter, Call) else None
            try:
                await dispatcher.queue.room(future)
            finally:
                if forget is not None:
                    forget()
            if self._state != "open":
                raise RunnerClosed(f"the runner is {self._state}; job {job.name!r} was not accepted")
        return engine.keys.get(job._call.plan.options.key, job)


@atexit.register
def _forget_all() -> None:
    for runner in tuple(_open_runners):
        runner._forgotten()


def drain_when_cancelled(loop: asyncio.AbstractEventLoop, longest: float) -> None:
    """From now on the open runners of `loop` drain, even if their block ends by a cancel.

    For at most their `drain_timeout`, or `longest` seconds where they have none.
    """
    for runner in tuple(_open_runners):
        if runner.loop is loop:
            runner._drain_when_cancelled = True
            runner._drain_timeout = longest if runner._drain_timeout is None else runner._drain_timeout


async def _within(seconds: float | None, waiting: Any) -> None:
    """Wait, at most `seconds`; running out of time is no error."""
    try:
        async with asyncio.timeout(seconds):
            await waiting
    except TimeoutError:
        return


def _is_coroutine_function(fn: Any) -> bool:
    while isinstance(fn, functools.partial):
        fn = fn.func
    if inspect.isasyncgenfunction(fn):
        raise TypeError(f"{_name_of(fn)} is an async generator function; iterate over it inside a coroutine")
    call = getattr(type(fn), "__call__", None)  # noqa: B004 - the method itself is wanted
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(call)


def _name_of(fn: Any) -> str:
    while isinstance(fn, functools.partial):
        fn = fn.func
    return str(getattr(fn, "__name__", None) or type(fn).__name__)
