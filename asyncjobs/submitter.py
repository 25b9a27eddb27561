"""The four ways to hand over work: `submit`, `submit_nowait`, `run` and `map`.

Remembers what was decided for a function, so that it is decided once.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from typing import Any, Literal, ParamSpec, Protocol, TypeVar, overload

from asyncjobs.intake import Intake
from asyncjobs.job import Job
from asyncjobs.lanes.base import Plan
from asyncjobs.mapping.run import MapRun
from asyncjobs.mapping.source import Source
from asyncjobs.options import JobOptions

P = ParamSpec("P")
R = TypeVar("R")


class HasIntake(Protocol):
    """An open runner, as its submitters see it."""

    @property
    def _intake(self) -> Intake: ...


class Submitter:
    """The four ways to hand over work, with one set of options.

    `Runner` has the same methods; `Runner.options` makes one of these.
    """

    def __init__(self, runner: HasIntake, options: JobOptions) -> None:
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
        intake = self._runner._intake
        job = intake.make(fn, self._plan(fn), args, kwargs)
        if intake.must_wait(job):
            job = await intake.room_for(job)
        return intake.admit(job)

    @overload
    def submit_nowait(self, fn: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> Job[R]: ...
    @overload
    def submit_nowait(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Job[R]: ...
    def submit_nowait(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Job[Any]:
        """As `submit`, without waiting.

        Raises:
            QueueFull: the lane's queue has no room; and whatever `submit` raises.
        """
        intake = self._runner._intake
        return intake.admit(intake.make(fn, self._plan(fn), args, kwargs))

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

        Raises:
            ValueError: a value that is not allowed, or the option `key`, which names one job.
        """
        return MapRun(
            self._runner._intake, fn, self._plan(fn), Source(iterables), ordered, lookahead, on_error, progress
        )

    def _plan(self, fn: Callable[..., Any]) -> Plan:
        known = self._plans.get(id(fn))
        if known is not None and known[0]() is fn:
            return known[1]
        plan = self._runner._intake.plan(fn, self._options)
        try:
            key = id(fn)
            self._plans[key] = weakref.ref(fn, lambda _: self._plans.pop(key, None)), plan
        except TypeError:
            return plan  # no weak references to it: planned anew each time
        return plan
