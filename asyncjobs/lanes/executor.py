"""A lane over any `concurrent.futures.Executor`: MPI, subinterpreters.

The executor's own queue stays short: at most `size` calls are in flight. What the executor
cannot do (kill a running call, say) this lane cannot do either, and says so.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError as FutureCancelled
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from time import monotonic
from types import MappingProxyType
from typing import Any

from asyncjobs.errors import JobStopped, WorkerLost
from asyncjobs.lanes.base import (
    IN_THIS_PROCESS,
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
    nobody,
)
from asyncjobs.options import check_count

_ELSEWHERE = MappingProxyType(
    {name: f"the executor is handed your bare function; {advice}" for name, advice in IN_THIS_PROCESS.items()}
)


class ExecutorLane:
    """Runs plain functions in `executor`, at most `size` in flight.

    Args:
        executor: any `concurrent.futures.Executor`; it stays yours to shut down.
        size: calls in flight; the executor's own ``_max_workers`` if it has one, else the
            number of processors.
    """

    kind = "executor"
    capabilities: Capabilities = Capabilities(
        knows_job=False,
        tokens=False,
        queues=False,
        falls_with_it="as the executor says",
        unsupported=_ELSEWHERE,
    )

    def __init__(self, executor: Executor, size: int | None = None) -> None:
        if not isinstance(executor, Executor):
            raise TypeError(f"executor={executor!r} is not allowed; allowed: a concurrent.futures.Executor")
        check_count("size", size, 1, or_none=True)
        self._executor = executor
        self._size = size or getattr(executor, "_max_workers", None) or os.cpu_count() or 1
        self.name: str = "executor"
        self.changed: Callable[[], None] = nobody
        self.is_down = self.is_cold = self.leaving = False
        self._running: dict[Call, Future[Any]] = {}
        self._abandoned: set[Call] = set()

    # --- the lane -----------------------------------------------------------------------

    def open(self, name: str, host: Host) -> None:
        """Get ready."""
        self.name = name
        self._host = host

    def places(self) -> Sequence[ExecutorLane]:
        """The one place: this lane."""
        return (self,)

    def size(self) -> int:
        """How many calls may be in flight."""
        return self._size

    def resize(self, size: int) -> None:
        """Change how many may be in flight."""
        check_count("size", size, 1)
        self._size = size
        self.changed()

    def busy(self) -> int:
        """How many are in flight, abandoned ones included."""
        return len(self._running)

    def abandoned(self) -> int:
        """How many are in flight that nobody waits for any more."""
        return len(self._abandoned)

    def check(self, plan: Plan) -> None:
        """Plain functions of any kind are welcome."""

    async def aclose(self) -> None:
        """Let go of what is in flight."""
        self.abort()

    # --- the place ----------------------------------------------------------------------

    @property
    def hungry(self) -> bool:
        return len(self._running) < self._size

    @property
    def idle(self) -> bool:
        return True

    def admits(self, call: Call) -> bool:
        return True

    def start(self, call: Call) -> None:
        """Submit the call to the executor."""
        try:
            future = self._executor.submit(call.fn, *call.args, **(call.kwargs or {}))
        except Exception as error:
            self._host.finished(call, Refused(error))
            return
        self._running[call] = future
        self._host.started(call)
        started = monotonic()
        # Not `wrap_future`: it cannot carry a StopIteration, and its cancel reaches into
        # the executor.
        future.add_done_callback(lambda future: self._hear(call, future, started))

    def flush(self) -> None:
        """The executor starts by itself."""

    def _hear(self, call: Call, future: Future[Any], started: float) -> None:
        """In whichever thread the executor says it."""
        seconds = monotonic() - started
        loop: asyncio.AbstractEventLoop = self._host.loop
        try:
            loop.call_soon_threadsafe(self._ended, call, _outcome(call, future, seconds))
        except RuntimeError:
            if not loop.is_closed():  # a closed loop: nobody is left to tell
                raise

    def _ended(self, call: Call, outcome: Outcome) -> None:
        self._running.pop(call, None)
        if call in self._abandoned:
            self._abandoned.discard(call)
        else:
            self._host.finished(call, outcome)
        self.changed()

    def stop(self, call: Call) -> None:
        future = self._running.get(call)
        if future is not None and not future.cancel():
            self._host.loop.call_later(call.grace, self._abandon, call, call.attempt)

    def hurry(self, call: Call) -> None:
        self.stop(call)  # the earlier of the two timers abandons it, the later finds nothing

    def _abandon(self, call: Call, attempt: int) -> None:
        if call in self._running and call.attempt == attempt and call not in self._abandoned:
            self._abandoned.add(call)
            self._host.finished(call, Abandoned(0.0))

    def abort(self) -> None:
        """Let go of what is in flight; the executor stays as it is."""
        for future in self._running.values():
            future.cancel()

    async def restore(self) -> None:
        """Never down."""


def _outcome(call: Call, future: Future[Any], seconds: float) -> Outcome:
    try:
        return Done(future.result(), seconds)
    except FutureCancelled as error:
        return Stopped(seconds, "never started") if call.stop is not None else Failed(error, seconds)
    except JobStopped as error:
        return Stopped(seconds, "stopped", error.reason)
    except BrokenProcessPool as error:
        lost = WorkerLost(f"the executor's worker died while {call.name!r} was in flight: {error}")
        lost.__cause__ = error
        return Lost(lost, seconds)
    except BaseException as error:
        return Failed(error, seconds)
