"""A job of the service for callers without a loop: `SyncServiceJob`, which blocks where `ServiceJob` awaits."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator
from typing import Any, Generic, TypeVar, cast

from asyncjobs.job import CancelAnswer
from asyncjobs.options import check_seconds
from asyncjobs.portal import Portal
from asyncjobs.service.client.job import ServiceJob
from asyncjobs.service.outcome import StandsForResult
from asyncjobs.service.protocol import EventView, JobView, ProgressView
from asyncjobs.state import JobState
from asyncjobs.wire.failure import safe_to_raise

R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")

_END: Any = object()


class SyncServiceJob(StandsForResult, Generic[R_co]):
    """A job that a service accepted; its methods may be called from any thread.

    Those that ask the service block, and raise `ServiceGone` when it is away for too long. Among the
    arguments of another job it stands for its result.
    """

    __slots__ = ("__weakref__", "_job", "_portal")

    def __init__(self, portal: Portal, job: ServiceJob[R_co]) -> None:
        self._portal = portal
        self._job = job

    @property
    def id(self) -> str:
        """26 digits; with it any program of yours can attach to the job."""
        return self._job.id

    @property
    def name(self) -> str:
        """The option `name`, or the function's."""
        return self._job.name

    @property
    def is_new(self) -> bool:
        """Whether the submit made it; False: it was there under its `key`."""
        return self._job.is_new

    @property
    def state(self) -> JobState:
        """Where it is now; asks the service, unless the job has ended."""
        if not self._job.done():
            self.refresh()
        return self._job.state

    @property
    def progress(self) -> ProgressView | None:
        """The last that it said of itself; asks the service."""
        return self.refresh().progress

    @property
    def later(self) -> R_co:
        """The job itself, for type checkers the value that it will have: to be an argument of another job."""
        return cast(R_co, self)

    def __repr__(self) -> str:
        return repr(self._job).replace("<ServiceJob", "<SyncServiceJob", 1)

    def __reduce__(self) -> tuple[Any, ...]:
        return self._job.__reduce__()

    def refresh(self) -> JobView:
        """What the service says of it now."""
        return self._portal.call(self._job.refresh)

    def accepted(self) -> SyncServiceJob[R_co]:
        """The job itself, once it is on the service's disk; only after `submit_nowait` is there a wait."""
        self._portal.call(self._job.accepted)
        return self

    def done(self) -> bool:
        """Whether it has ended; asks the service as long as it has not."""
        return self.state.is_final

    def wait(self, timeout: float | None = None) -> bool:
        """Block until it has ended, for at most `timeout` seconds; whether it has."""
        try:
            self._blocking(self._job.wait, "wait()", timeout)
        except TimeoutError:
            return self._job.done()
        return True

    def result(self, timeout: float | None = None) -> R_co:
        """The value, or the job's own exception raised; blocks until it has ended.

        Raises:
            TimeoutError: it has not ended within `timeout` seconds; it goes on.
            NoSuchJob: the service has forgotten it.
            ServiceGone: the service is away, and did not come back in time. The job stands: ask again.
        """
        error = self.exception(timeout)
        if error is not None:
            raise safe_to_raise(error)
        return self._job.result()

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What it raised, or the `JobError` that says what became of it; None if it succeeded. Blocks as `result`."""
        try:
            return self._blocking(self._job.outcome, "result()", timeout)
        except TimeoutError:
            if timeout is None:
                raise
            raise TimeoutError(f"{self!r} has not ended within {timeout:g} s; it goes on") from None

    def _blocking(self, work: Callable[[], Awaitable[T]], what: str, timeout: float | None) -> T:
        check_seconds("timeout", timeout, or_none=True)
        return self._portal.converse(lambda _: work(), what, timeout)

    def cancel(self, reason: str = "cancelled", *, grace: float | None = None) -> CancelAnswer:
        """Ask it to stop; see `ServiceJob.cancel`."""
        return self._portal.call(self._job.cancel, reason, grace=grace)

    def replay(self) -> SyncServiceJob[R_co]:
        """Run the same call again, as a new job; see `ServiceJob.replay`."""
        return SyncServiceJob(self._portal, self._portal.call(self._job.replay))

    def logs(self, *, follow: bool = True, offset: int = 0) -> Iterator[str]:
        """What it printed and logged, line by line; see `ServiceJob.logs`."""
        return each(self._portal, self._job.logs(follow=follow, offset=offset), "logs()")

    def events(self, *, after: int = 0) -> Iterator[EventView | ProgressView]:
        """What happened and happens to it, up to its end; see `ServiceJob.events`."""
        return each(self._portal, self._job.events(after=after), "events()")

    def figures(self) -> list[str]:
        """The names of the files that `plot` has made in it, so far."""
        return self._portal.call(self._job.figures)

    def figure(self, name: str) -> bytes:
        """One of those files, as it is now; see `ServiceJob.figure`."""
        return self._portal.call(self._job.figure, name)


def each(portal: Portal, items: AsyncGenerator[T, None], what: str) -> Generator[T, None, None]:
    """The same items for a plain ``for``, which blocks for the next."""
    try:
        while (item := portal.converse(lambda _: anext(items, _END), what)) is not _END:
            yield item
    finally:
        portal.call(items.aclose)
