"""The lane for blocking calls: daemon threads, through `run_in_executor`.

A thread cannot be stopped. A call that goes on after its grace is abandoned: it counts as
busy for as long as it runs, and another thread takes its place, up to `max_abandoned`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from functools import partial
from inspect import isawaitable
from time import monotonic
from typing import Any

from asyncjobs.context import running
from asyncjobs.errors import JobStopped, LaneStalled, ResourceExhausted, WorkerStartError
from asyncjobs.lanes.base import (
    IN_THIS_PROCESS,
    Abandoned,
    Call,
    Capabilities,
    Done,
    Failed,
    Host,
    Outcome,
    Plan,
    Refused,
    Stopped,
    nobody,
)
from asyncjobs.lanes.daemon import DaemonThreads
from asyncjobs.options import check_count, check_initializer
from asyncjobs.wire.answers import returned_awaitable


class ThreadLane:
    """Runs plain functions in threads; at most `size` at once, abandoned ones not counted.

    Args:
        size: threads that may run calls at once.
        max_abandoned: how many abandoned threads are replaced; with more than that the lane
            refuses jobs with `LaneStalled`. `size` if not given.
        initializer: called with `initargs` in each thread before its first job. A job that finds
            no prepared thread because it raises fails with `WorkerStartError`.
        thread_name_prefix: what the threads are called, before a number; after the lane if not given.
    """

    kind = "thread"
    capabilities: Capabilities = Capabilities(context=True, falls_with_it="the program", unsupported=IN_THIS_PROCESS)

    def __init__(
        self,
        size: int = 32,
        *,
        max_abandoned: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        thread_name_prefix: str = "",
    ) -> None:
        check_count("size", size, 1)
        check_count("max_abandoned", max_abandoned, 0, or_none=True)
        check_initializer(initializer, initargs)
        self._prefix = thread_name_prefix
        self._invoke = _invoke if initializer is None else _Prepared(initializer, tuple(initargs))
        self._size = size
        self._max_abandoned = size if max_abandoned is None else max_abandoned
        self.name: str = "thread"
        self.changed: Callable[[], None] = nobody
        self.is_down = self.is_cold = self.leaving = False
        self._running: set[Call] = set()
        self._abandoned: set[Call] = set()
        self._starved = False

    # --- the lane -----------------------------------------------------------------------

    def open(self, name: str, host: Host) -> None:
        """Get ready; threads start with the first calls."""
        self.name = name
        self._host = host
        prefix = f"{self._prefix}_" if self._prefix else f"asyncjobs-{name}-"
        self._threads = DaemonThreads(prefix, host.loop)

    def places(self) -> Sequence[ThreadLane]:
        """The one place: this lane."""
        return (self,)

    def size(self) -> int:
        """How many calls may run at once."""
        return self._size

    def resize(self, size: int) -> None:
        """Change how many may run at once; takes effect as they end."""
        check_count("size", size, 1)
        self._size = size
        self.changed()

    def busy(self) -> int:
        """How many threads run a call, abandoned ones included."""
        return len(self._running) + len(self._abandoned)

    def abandoned(self) -> int:
        """How many run a call that nobody waits for any more."""
        return len(self._abandoned)

    def check(self, plan: Plan) -> None:
        """Refuse work while too many threads are abandoned."""
        if len(self._abandoned) > self._max_abandoned:
            names = ", ".join(sorted({call.name for call in self._abandoned}))
            raise LaneStalled(
                f"lane {self.name!r} has {len(self._abandoned)} abandoned threads, more than "
                f"max_abandoned={self._max_abandoned}; they still run: {names}. Run such work in a process"
            )

    def running(self) -> list[Call]:
        """The calls that hold a thread now; for the watchdog."""
        return [*self._running, *self._abandoned]

    async def warm_up(self) -> None:
        """Start a thread before one is needed."""
        await self._host.loop.run_in_executor(self._threads, bool)

    async def aclose(self) -> None:
        """End the idle threads."""
        self.abort()

    # --- the place ----------------------------------------------------------------------

    @property
    def hungry(self) -> bool:
        if self._starved:
            return False
        free = self._size - len(self._running)
        return free > 0 and free > len(self._abandoned) - self._max_abandoned

    @property
    def idle(self) -> bool:
        return True

    def admits(self, call: Call) -> bool:
        return True

    def start(self, call: Call) -> None:
        """Offload the call to a thread."""
        try:
            future = self._host.loop.run_in_executor(self._threads, self._invoke, call)
        except RuntimeError as error:
            self._no_thread(call, error)
            return
        self._running.add(call)
        self._host.started(call)
        future.add_done_callback(partial(self._ended, call))

    def flush(self) -> None:
        """Threads start by themselves."""

    def _no_thread(self, call: Call, error: RuntimeError) -> None:
        if self._running:
            self._starved = True  # until a thread comes free
            self._host.give_back([call])
            return
        problem = ResourceExhausted(f"no thread could be started for {call.name!r}: {error}")
        problem.resource = "threads"
        self._host.finished(call, Refused(problem))

    def _ended(self, call: Call, future: asyncio.Future[Outcome]) -> None:
        self._starved = False
        if call in self._abandoned:
            self._abandoned.discard(call)
        else:
            self._running.discard(call)
            outcome = future.result()
            if type(outcome) is Done:
                self._host.returned(call, *outcome)
            else:
                self._host.finished(call, outcome)
        self.changed()

    def stop(self, call: Call) -> None:
        if call in self._running:
            self._host.loop.call_later(call.grace, self._abandon, call, call.attempt)

    def hurry(self, call: Call) -> None:
        self.stop(call)  # the earlier of the two timers abandons it, the later finds nothing

    def _abandon(self, call: Call, attempt: int) -> None:
        if call in self._running and call.attempt == attempt:
            self._running.discard(call)
            self._abandoned.add(call)
            self._host.finished(call, Abandoned(0.0))
            self.changed()

    def abort(self) -> None:
        """End the idle threads; busy ones are daemons and hold nothing up."""
        self._threads.shutdown(wait=False)

    async def restore(self) -> None:
        """Never down."""


class _Prepared:
    """`_invoke`, in threads that an initializer has prepared."""

    def __init__(self, initializer: Callable[..., object], initargs: tuple[Any, ...]) -> None:
        self._initializer = initializer
        self._initargs = initargs
        self._here = threading.local()

    def __call__(self, call: Call) -> Outcome:
        if not hasattr(self._here, "is_ready"):
            try:
                self._initializer(*self._initargs)
            # Everything: it must not end the thread, and the call's future must not wait for ever.
            except BaseException as error:
                name = getattr(self._initializer, "__name__", self._initializer)
                problem = WorkerStartError(f"the initializer {name} raised {type(error).__name__}: {error}")
                problem.__cause__ = error
                return Refused(problem)
            self._here.is_ready = True
        return _invoke(call)


def _invoke(call: Call) -> Outcome:
    """In the thread: run the call in its context. The outcome is a value, whatever happens."""
    context = call.context
    if context is None:
        return _run(call)
    if call.plan.options.retry.max:
        context = context.copy()
    return context.run(_run, call)


def _run(call: Call) -> Outcome:
    mark = running.set(call)
    started = monotonic()
    try:
        value = call.fn(*call.args, **(call.kwargs or {}))
        seconds = monotonic() - started
        return Done(value, seconds) if not isawaitable(value) else Failed(returned_awaitable(call.name, value), seconds)
    except JobStopped as error:
        return Stopped(monotonic() - started, "stopped", error.reason)
    # Everything: an exception must not end the thread, nor meet a Future that refuses it.
    except BaseException as error:
        return Failed(error, monotonic() - started)
    finally:
        running.reset(mark)
