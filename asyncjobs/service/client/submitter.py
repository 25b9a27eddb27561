"""The ways to hand work to a service: `submit`, `submit_nowait`, `submit_many`, `run`, `map` and `schedule`.

The verbs of the runner, with its types: what a function takes and gives is checked where it is submitted.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any, Literal, ParamSpec, Protocol, TypeVar, overload

from asyncjobs.mapping.source import Source
from asyncjobs.options import UNSET
from asyncjobs.service.client.drafts import Plan, plan_for
from asyncjobs.service.client.intake import Intake
from asyncjobs.service.client.job import ServiceJob
from asyncjobs.service.client.mapping import ServiceMap
from asyncjobs.service.client.options import ServiceOptions
from asyncjobs.service.errors import ServiceError
from asyncjobs.service.protocol import ScheduleView

P = ParamSpec("P")
R = TypeVar("R")


class HasIntake(Protocol):
    """A client, as its submitters see it."""

    @property
    def _intake(self) -> Intake: ...


class ServiceSubmitter:
    """The ways to hand over work, with one set of options.

    `ServiceClient` has the same methods; `ServiceClient.options` makes one of these.
    """

    def __init__(self, client: HasIntake, options: ServiceOptions) -> None:
        self._client = client
        self._options = options
        # Plans by the function's id; the reference tells whether it is still that function.
        self._plans: dict[int, tuple[Any, Plan]] = {}

    @overload
    async def submit(self, fn: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> ServiceJob[R]: ...
    @overload
    async def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> ServiceJob[R]: ...
    async def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> ServiceJob[Any]:
        """Hand over ``fn(*args, **kwargs)``; returns once it is on the service's disk.

        A service that is started again meanwhile is waited for, `timeout` seconds of `connect`; while its
        queue is full, it waits for room. What is submitted at the same time shares a request. A job among the
        arguments stands for its result, and this one starts after it. Cancelled while the request is under
        way, the job may or may not be accepted.

        Raises:
            NotSendable: an argument, or the function, cannot travel; names it.
            TypeError: `fn` is no function that returns a value.
            NotAllowed: the service does not run it.
            KeyConflict: the option `key` stands for another call.
            ServiceGone, ServiceNotRunning: nobody answered in time; whether it was accepted is not known.
            StorageFull: the service's disk is full.
        """
        job: ServiceJob[Any] = self.submit_nowait(fn, *args, **kwargs)
        if job.accepting is not None:
            with suppress(ServiceError):  # which `accepted` raises
                await job.accepting  # cancelled here, it is not sent, unless it is under way
        return await job.accepted()

    @overload
    def submit_nowait(self, fn: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> ServiceJob[R]: ...
    @overload
    def submit_nowait(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> ServiceJob[R]: ...
    def submit_nowait(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> ServiceJob[Any]:
        """As `submit`, without waiting: ``await job.accepted()`` waits until it is on disk, as does the client's end.

        Raises:
            NotSendable, TypeError: as `submit`; what the service says against it comes when the job is awaited.
        """
        return self._client._intake.send(fn, self._plan(fn), args, kwargs)

    @overload
    async def submit_many(
        self, fn: Callable[..., Awaitable[R]], /, *iterables: Iterable[Any]
    ) -> list[ServiceJob[R]]: ...
    @overload
    async def submit_many(self, fn: Callable[..., R], /, *iterables: Iterable[Any]) -> list[ServiceJob[R]]: ...
    async def submit_many(self, fn: Callable[..., Any], /, *iterables: Iterable[Any]) -> list[ServiceJob[Any]]:
        """A job for each item, or for the items of several iterables side by side; returns once all are accepted.

        They go in as few requests as their size allows. If one is refused, those before it may be accepted.
        For more items than fit into memory there is `map`.

        Raises:
            whatever `submit` raises.
        """
        plan = self._plan(fn)
        intake = self._client._intake
        jobs = [intake.send(fn, plan, args, {}) for args in zip(*iterables, strict=False)]
        for job in jobs:
            await job.accepted()
        return jobs

    @overload
    async def run(self, fn: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    async def run(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    async def run(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Submit and wait for the value; cancelling the waiter cancels the job."""
        job: ServiceJob[Any] = self.submit_nowait(fn, *args, **kwargs)
        try:
            return await job
        except asyncio.CancelledError:
            self._client._intake.cancel_soon([job], "whoever waited for it was cancelled")
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
    ) -> ServiceMap[R]: ...
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
    ) -> ServiceMap[R]: ...
    def map(
        self,
        fn: Callable[..., Any],
        /,
        *iterables: Iterable[Any] | AsyncIterable[Any],
        ordered: bool = True,
        lookahead: int | None = None,
        on_error: Literal["raise", "skip", "return"] = "raise",
        progress: bool = False,
    ) -> ServiceMap[Any]:
        """A job for each item, or for the items of several iterables side by side, and their results.

        Args:
            iterables: sync or async, endless ones too; the shortest ends the map.
            ordered: results in the order of the items; else as they come.
            lookahead: the most items that are taken before the result of the first is handed out; 1,000 if
                not given.
            on_error: ``"raise"`` the first error and cancel the rest, ``"skip"`` items that fail, or
                ``"return"`` the exception in place of the value.
            progress: show a tqdm bar.

        Returns:
            An async iterator; ``await .collect()`` gives a list; ``async with`` awaits the clean-up.

        Raises:
            ValueError: a value that is not allowed, or the option `key`, which names one job.
        """
        source = Source(iterables)
        return ServiceMap(self._client._intake, fn, self._plan(fn), source, ordered, lookahead, on_error, progress)

    async def schedule(self, cron: str, fn: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> ScheduleView:
        """Have ``fn(*args, **kwargs)`` submitted again and again; one of the same name is replaced.

        Its name is the option `name`, or the function's. Times that were missed, as the service did not
        run, are made up for once.

        Args:
            cron: five fields, such as ``"0 3 * * *"`` for every night at three, in the option `zone` (UTC).

        Raises:
            BadRequest: it is no cron expression.
        """
        return await self._client._intake.schedule(cron, fn, self._plan(fn, comes_again=True), args, dict(kwargs))

    def _plan(self, fn: Callable[..., Any], *, comes_again: bool = False) -> Plan:
        zone = self._options.zone
        if zone is not UNSET and not comes_again:
            raise ValueError(
                f"zone={zone!r} is not allowed here: it is for schedule(); a job may start `at` an instant"
            )
        known = self._plans.get(id(fn))
        if known is not None and known[0]() is fn:
            return known[1]
        plan = plan_for(fn, self._options)
        try:
            key = id(fn)
            self._plans[key] = weakref.ref(fn, lambda _: self._plans.pop(key, None)), plan
        except TypeError:
            return plan  # no weak references to it: planned anew each time
        return plan
