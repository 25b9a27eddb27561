"""The runner for scripts and notebooks: `SyncRunner`, the verbs of `Runner` without `await`.

No second engine: a `Runner` lives on a portal's loop, and each verb is a way there.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from queue import Empty, SimpleQueue
from time import monotonic
from types import TracebackType
from typing import Any, TypedDict, TypeVar, Unpack

from asyncjobs.errors import RunnerClosed
from asyncjobs.futures import take
from asyncjobs.job import Job
from asyncjobs.lanes.base import Lane
from asyncjobs.options import OptionFields, check_seconds
from asyncjobs.report import figures
from asyncjobs.runner import Runner
from asyncjobs.shared import Shared
from asyncjobs.stats import Stats
from asyncjobs.sync.hosted import HostedRunner
from asyncjobs.sync.steering import SyncLaneHandle, SyncSubscription
from asyncjobs.sync.submitter import SyncSubmitter
from asyncjobs.waiting import checked_jobs

T = TypeVar("T")
R = TypeVar("R")


class RunnerSettings(TypedDict, total=False):
    """The arguments of `Runner`, for faces that pass them on."""

    processes: int | None
    threads: int
    coroutines: int
    queue_size: int
    queue_bytes: int | None
    lanes: Mapping[str, Lane] | None
    options: OptionFields | None
    lane_options: Mapping[str, OptionFields] | None
    drain_timeout: float | None
    history: int
    arena_bytes: int | None
    watchdog: float | None


class SyncRunner(SyncSubmitter):
    """Runs jobs in the background of a script or a notebook; its methods may be called from any thread.

    It works from its making until `close`, or until the end of its ``with`` block, which waits for the
    jobs; if the block raises, they are cancelled. After Ctrl-C they get their grace; a second
    Ctrl-C ends them at once. A method that would block raises `WouldDeadlock` in the thread of the
    runner's own loop (in coroutine jobs and callbacks), and `WrongLoop` in a forked child.

    Args:
        exit_drain: seconds that the exit of the interpreter waits for jobs, if nobody closed us.
        settings: the arguments of `Runner`.

    Example::

        with SyncRunner(processes=4) as runner:
            jobs = [runner.submit(fit, part) for part in parts]
            print([job.result() for job in jobs])
    """

    def __init__(self, *, exit_drain: float = 5.0, **settings: Unpack[RunnerSettings]) -> None:
        check_seconds("exit_drain", exit_drain)
        self._hosted = hosted = HostedRunner(Runner(**settings), "SyncRunner", exit_drain)
        self._portal = hosted.portal
        self._runner = hosted.runner
        super().__init__(None, hosted.doorway, hosted.runner)

    def __repr__(self) -> str:
        return repr(self._hosted)

    @property
    def is_usable(self) -> bool:
        """Whether it takes jobs here and now: it is not closed, and belongs to this process."""
        return self._hosted.is_usable

    # --- life ---------------------------------------------------------------------------

    def __enter__(self) -> SyncRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hosted.leave_block(kind, self._runner._drain_timeout if kind is None else 0)

    def close(self, *, drain: float | None = None, grace: float | None = None) -> list[str]:
        """Take no more jobs, block until those there are have ended, and release everything.

        Args:
            drain: seconds to wait for jobs to end; None waits for all, 0 cancels at once.
            grace: overrides every job's grace between being asked and being stopped.

        Returns:
            The names of the jobs that had not ended after `drain` and were cancelled.

        Ctrl-C cuts the drain short, the jobs get their grace; a second one ends them at once. In a
        forked child it does nothing: what is here belongs to the parent.
        """
        check_seconds("drain", drain, or_none=True)
        check_seconds("grace", grace, or_none=True)
        return self._hosted.close(drain, grace)

    def __del__(self) -> None:
        hosted = getattr(self, "_hosted", None)
        if hosted is not None and hosted.is_usable:
            hosted.abandon()
            if not hosted.is_silent:  # last of all: a warning may be an error
                warnings.warn(f"{self!r} was never closed; use `with`, or close()", ResourceWarning, stacklevel=2)

    # --- jobs ---------------------------------------------------------------------------

    def options(self, **options: Unpack[OptionFields]) -> SyncSubmitter:
        """The same verbs with these options (see `JobOptions`) for every job.

        Example: ``runner.options(lane="process", timeout=30, retries=3).submit(fit, x)``

        Raises:
            TypeError: an unknown option.
            ValueError: a value that is not allowed, or an unknown lane.
        """
        return SyncSubmitter(self, self._doorway, self._runner.options(**options))

    def share(self, value: T) -> Shared[T]:
        """Put `value` into shared memory once, as `Runner.share` does; blocks for the copy.

        Raises:
            ArenaFull: there is no room for it.
            NotSendable: it does not pickle.
            RunnerClosed: the runner is closed.
        """
        return self._portal.do(self._runner.share, value)

    def jobs(self) -> list[Job[Any]]:
        """The jobs that have not ended, oldest first."""
        return self._look(self._runner.jobs)

    def as_completed(self, jobs: Iterable[Job[R]], timeout: float | None = None) -> Iterator[Job[R]]:
        """The jobs themselves, each as soon as it has ended; blocks between them.

        Raises:
            TimeoutError: `timeout` seconds after the first was asked for, some have not ended; they go on.
            TypeError: `jobs` are no jobs.
        """
        check_seconds("timeout", timeout, or_none=True)
        return self._each(checked_jobs(jobs), timeout)

    def _each(self, jobs: list[Job[R]], timeout: float | None) -> Iterator[Job[R]]:
        self._portal.check("as_completed()")
        ended: SimpleQueue[Job[Any]] = SimpleQueue()
        for job in jobs:
            job._listen(ended.put)
        until = None if timeout is None else monotonic() + timeout
        for position in range(len(jobs)):
            try:
                yield take(ended, None if until is None else until - monotonic())
            except Empty:
                raise TimeoutError(
                    f"{len(jobs) - position} of {len(jobs)} jobs have not ended within {timeout:g} s; they go on"
                ) from None

    def cancel_all(self, reason: str = "cancelled") -> int:
        """Ask every job to stop; how many there were."""
        return self._portal.do(self._runner.cancel_all, reason)

    def join(self) -> None:
        """Block until everything submitted so far has ended, however it ended."""
        self._portal.call(self._runner.join)

    def lane(self, name: str) -> SyncLaneHandle:
        """One lane, to `pause()`, `resume()` or `resize(n)` it."""
        return SyncLaneHandle(self._portal, self._runner.lane(name))

    # --- figures ------------------------------------------------------------------------

    def _look(self, what: Callable[[], T]) -> T:
        """What there is to see on the loop; or here, once that has ended and nothing moves any more."""
        try:
            return self._portal.do(what)
        except RunnerClosed:
            return what()

    def stats(self) -> Stats:
        """The figures of this moment."""
        return self._look(self._runner.stats)

    def report(self) -> dict[str, Any]:
        """The same as plotly figures by heading; `asyncjobs.report.write_html` makes a page of them."""
        return figures(self.stats())

    def events(self, size: int = 1024) -> SyncSubscription:
        """What happens to jobs from now on, as an iterator of `JobEvent` that blocks for the next.

        A subscriber that falls behind loses the oldest of `size` events; `dropped` counts.
        """
        return SyncSubscription(self._portal, self._portal.do(self._runner.events, size))
