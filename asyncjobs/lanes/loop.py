"""The lane for coroutines: each call is a task on the runner's own loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from inspect import CORO_CREATED, getcoroutinestate
from time import monotonic
from typing import Any

from asyncjobs.context import running
from asyncjobs.errors import JobStopped
from asyncjobs.lanes.base import (
    IN_THIS_PROCESS,
    Abandoned,
    Call,
    Capabilities,
    Failed,
    Host,
    Outcome,
    Plan,
    Stopped,
    nobody,
)
from asyncjobs.options import check_count


class LoopLane:
    """Runs coroutine functions; at most `size` at once.

    A stop is the token and the task's cancellation together, at once. A coroutine that
    swallows its cancellation is abandoned after the grace: it counts as busy while it runs.

    A call has started when its task makes its first step, a turn of the loop after it was fed:
    a task that is cancelled before that never calls the function.
    """

    kind = "loop"
    capabilities: Capabilities = Capabilities(
        coroutines=True, context=True, falls_with_it="the program", unsupported=IN_THIS_PROCESS
    )

    def __init__(self, size: int = 1000) -> None:
        check_count("size", size, 1)
        self._size = size
        self.name: str = "loop"
        self.changed: Callable[[], None] = nobody
        self.hungry: bool = True
        self.idle = True
        self.is_down = self.is_cold = self.leaving = False
        self._looks_soon = False
        self._tasks: dict[Call, asyncio.Task[None]] = {}
        self._abandoned: set[Call] = set()

    # --- the lane -----------------------------------------------------------------------

    def open(self, name: str, host: Host) -> None:
        """Get ready."""
        self.name = name
        self._host = host

    def places(self) -> Sequence[LoopLane]:
        """The one place: this lane."""
        return (self,)

    def size(self) -> int:
        """How many coroutines may run at once."""
        return self._size

    def resize(self, size: int) -> None:
        """Change how many may run at once; takes effect as they end."""
        check_count("size", size, 1)
        self._size = size
        self._look_around()

    def busy(self) -> int:
        """How many run now."""
        return len(self._tasks)

    def abandoned(self) -> int:
        """How many swallowed their cancellation and run on."""
        return len(self._abandoned)

    def check(self, plan: Plan) -> None:
        """Coroutine functions of any kind are welcome."""

    def call_of(self, task: asyncio.Task[object] | None) -> Call | None:
        """The call that `task` runs; for the watchdog."""
        for call, candidate in tuple(self._tasks.items()):
            if candidate is task:
                return call
        return None

    async def aclose(self) -> None:
        """Cancel what is left. Waits for nothing: what swallows this is abandoned."""
        for call, task in tuple(self._tasks.items()):
            if _has_begun(task):
                task.cancel()
            else:
                self._drop(call, task, "the lane was closed")
        if self._tasks:
            await asyncio.sleep(0)
        for task in self._tasks.values():
            # Whoever closes the loop cancels what is registered, and would wait for ever.
            asyncio._unregister_task(task)

    # --- the place ----------------------------------------------------------------------

    def admits(self, call: Call) -> bool:
        return True

    def start(self, call: Call) -> None:
        """Make a task of the call, in the context that was captured at submit."""
        context = call.context
        if context is not None and call.plan.options.retry.max:
            context = context.copy()
        task = self._tasks[call] = self._host.loop.create_task(self._run(call), context=context)
        task.add_done_callback(self._never_began)
        self.hungry = len(self._tasks) < self._size

    def flush(self) -> None:
        """Tasks start by themselves."""

    async def _run(self, call: Call) -> None:
        self._tasks[call].remove_done_callback(self._never_began)
        self._host.started(call)
        running.set(call)
        outcome: Outcome | None = None
        value: Any = None
        started = monotonic()
        try:
            value = await (call.fn(*call.args, **call.kwargs) if call.kwargs else call.fn(*call.args))
        # Everything, SystemExit too: nothing that a job raises may end the loop.
        except BaseException as error:
            outcome = self._raised(call, error, monotonic() - started)
        seconds = monotonic() - started
        del self._tasks[call]
        if self._abandoned and call in self._abandoned:
            self._abandoned.discard(call)
        elif outcome is not None:
            self._host.finished(call, outcome)
        else:
            self._host.returned(call, value, seconds)
        if not self.hungry:
            self._look_soon()

    def _look_soon(self) -> None:
        """Many may end in one turn of the loop: look once for all of them."""
        if not self._looks_soon:
            self._looks_soon = True
            self._host.loop.call_soon(self._look_around)

    def _look_around(self) -> None:
        self._looks_soon = False
        self.hungry = len(self._tasks) < self._size
        self.changed()

    def _raised(self, call: Call, error: BaseException, seconds: float) -> Outcome:
        if isinstance(error, JobStopped):
            return Stopped(seconds, "stopped", error.reason)
        return Stopped(seconds, "stopped") if call.stop is not None and is_stop(error) else Failed(error, seconds)

    def stop(self, call: Call) -> None:
        task = self._tasks.get(call)
        if task is None:
            return
        if not _has_begun(task):
            self._drop(call, task)
            return
        task.cancel(call.token.reason)
        self._host.loop.call_later(call.grace, self._abandon, call, call.attempt)

    def _drop(self, call: Call, task: asyncio.Task[None], reason: str = "") -> None:
        """End a call whose task has not made its first step: it will not call the function."""
        task.remove_done_callback(self._never_began)
        task.cancel()
        del self._tasks[call]
        self._host.finished(call, Stopped(0.0, "never started", reason))
        if not self.hungry:
            self._look_soon()

    def _never_began(self, task: asyncio.Task[None]) -> None:
        """Somebody else cancelled the task before its first step: none of its lines ran."""
        call = self.call_of(task)
        if call is not None:
            self._drop(call, task, "its task was cancelled by somebody else before it began")

    def hurry(self, call: Call) -> None:
        # Not cancelled once more: that would break its clean-up off. Of two timers the later finds nothing.
        if call in self._tasks:
            self._host.loop.call_later(call.grace, self._abandon, call, call.attempt)

    def _abandon(self, call: Call, attempt: int) -> None:
        if call in self._tasks and call.attempt == attempt and call not in self._abandoned:
            self._abandoned.add(call)
            self._host.finished(call, Abandoned(0.0))

    def abort(self) -> None:
        """Tasks belong to the loop; there is nothing to hang up."""

    async def restore(self) -> None:
        """Never down."""


def _has_begun(task: asyncio.Task[None]) -> bool:
    """Whether the task has made its first step: cancelled before that, it runs none of its lines."""
    return getcoroutinestate(task.get_coro()) != CORO_CREATED  # type: ignore[arg-type]


def is_stop(error: BaseException) -> bool:
    """Whether `error` is nothing but the answer to a stop, task groups' bundles included."""
    if isinstance(error, BaseExceptionGroup):
        return all(is_stop(member) for member in error.exceptions)
    return isinstance(error, (JobStopped, asyncio.CancelledError))
