"""The ways to hand work to a service without `await`: the verbs of `ServiceSubmitter`, which block."""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from typing import Any, Literal, ParamSpec, TypeVar, overload

from asyncjobs.mapping.source import Source
from asyncjobs.portal import Portal
from asyncjobs.service.client.mapping import ServiceMap
from asyncjobs.service.client.submitter import ServiceSubmitter
from asyncjobs.service.client.syncjob import SyncServiceJob
from asyncjobs.service.protocol import ScheduleView
from asyncjobs.sync.maps import SyncMap

P = ParamSpec("P")
R = TypeVar("R")


class SyncServiceSubmitter:
    """The ways to hand over work from any thread, with one set of options.

    `SyncServiceClient` has the same methods; `SyncServiceClient.options` makes one of these.
    """

    def __init__(self, submitter: ServiceSubmitter, portal: Callable[[], Portal]) -> None:
        self._submitter = submitter
        self._way = portal

    @overload
    def submit(self, fn: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> SyncServiceJob[R]: ...
    @overload
    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> SyncServiceJob[R]: ...
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> SyncServiceJob[Any]:
        """Hand over ``fn(*args, **kwargs)``; blocks until it is on disk. See `ServiceSubmitter.submit`."""
        portal = self._way()
        return SyncServiceJob(
            portal, portal.converse(lambda _: self._submitter.submit(fn, *args, **kwargs), "submit()")
        )

    @overload
    def submit_nowait(
        self, fn: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> SyncServiceJob[R]: ...
    @overload
    def submit_nowait(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> SyncServiceJob[R]: ...
    def submit_nowait(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> SyncServiceJob[Any]:
        """As `submit`, without waiting for the disk: `SyncServiceJob.accepted` does, as does the client's end."""
        portal = self._way()
        return SyncServiceJob(portal, portal.do(lambda: self._submitter.submit_nowait(fn, *args, **kwargs)))

    @overload
    def submit_many(self, fn: Callable[..., Awaitable[R]], /, *iterables: Iterable[Any]) -> list[SyncServiceJob[R]]: ...
    @overload
    def submit_many(self, fn: Callable[..., R], /, *iterables: Iterable[Any]) -> list[SyncServiceJob[R]]: ...
    def submit_many(self, fn: Callable[..., Any], /, *iterables: Iterable[Any]) -> list[SyncServiceJob[Any]]:
        """A job for each item, or for the items of several iterables side by side; blocks until all are accepted."""
        portal = self._way()
        rows = list(zip(*iterables, strict=False))  # in this thread: they may be generators of the caller
        columns = tuple(zip(*rows, strict=True)) if rows else ((),)
        jobs = portal.call(self._submitter.submit_many, fn, *columns)
        return [SyncServiceJob(portal, job) for job in jobs]

    @overload
    def run(self, fn: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def run(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    def run(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Submit and block for the value; interrupted (Ctrl-C), it cancels the job."""
        return self._way().converse(lambda _: self._submitter.run(fn, *args, **kwargs), "run()")

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
    ) -> SyncMap[R]: ...
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
    ) -> SyncMap[R]: ...
    def map(
        self,
        fn: Callable[..., Any],
        /,
        *iterables: Iterable[Any] | AsyncIterable[Any],
        ordered: bool = True,
        lookahead: int | None = None,
        on_error: Literal["raise", "skip", "return"] = "raise",
        progress: bool = False,
    ) -> SyncMap[Any]:
        """A job for each item, and their results as an iterator; the arguments are those of `ServiceSubmitter.map`.

        Sync iterables are advanced in the thread that asks for results, only as far as the look-ahead reaches.
        """
        source = Source(iterables)
        submitter = self._submitter
        intake = submitter._client._intake
        run: ServiceMap[Any] = ServiceMap(
            intake, fn, submitter._plan(fn), source, ordered, lookahead, on_error, progress=False
        )
        return SyncMap(self, self._way(), run, source, progress)

    def schedule(self, cron: str, fn: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> ScheduleView:
        """Have it submitted again and again; see `ServiceSubmitter.schedule`."""
        return self._way().converse(lambda _: self._submitter.schedule(cron, fn, *args, **kwargs), "schedule()")
