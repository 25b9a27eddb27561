"""The four ways to hand over work, without `await`: `submit`, `submit_nowait`, `run` and `map`.

The same `Submitter` decides lane and options as in async code; only the way to the loop is another.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from typing import Any, Literal, ParamSpec, TypeVar, overload

from asyncjobs.job import Job
from asyncjobs.mapping.run import MapRun
from asyncjobs.mapping.source import Source
from asyncjobs.submitter import Submitter
from asyncjobs.sync.doorway import Doorway
from asyncjobs.sync.maps import SyncMap

P = ParamSpec("P")
R = TypeVar("R")


class SyncSubmitter:
    """The four ways to hand over work from any thread, with one set of options.

    `SyncRunner` has the same methods; `SyncRunner.options` makes one of these.
    """

    def __init__(self, keeper: object, doorway: Doorway, submitter: Submitter) -> None:
        self._keeper = keeper
        """The runner: it lives as long as anybody may submit to it."""
        self._doorway = doorway
        self._plan = submitter._plan

    @overload
    def submit(self, fn: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> Job[R]: ...
    @overload
    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Job[R]: ...
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Job[Any]:
        """Hand over ``fn(*args, **kwargs)``, from any thread; blocks only while the lane's queue is full.

        Returns:
            The job, accepted and queued: ``job.result()`` blocks for the value, and in async code
            ``await job`` works on any event loop.

        Raises:
            NotSendable: for a process lane, an argument does not pickle.
            TypeError: `fn` is no function, or of a kind that the lane does not run.
            LaneStalled: too many of the lane's threads are abandoned.
            RunnerClosed: the runner is closed or closing.
            WouldDeadlock: it would have to wait for room, in the thread of the runner's own loop or inside a
                job whose end alone could make some.
            WrongLoop: called in a forked child.
        """
        return self._doorway.post(fn, self._plan(fn), args, kwargs, True)

    @overload
    def submit_nowait(self, fn: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> Job[R]: ...
    @overload
    def submit_nowait(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Job[R]: ...
    def submit_nowait(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Job[Any]:
        """As `submit`, and never waits.

        Raises:
            QueueFull: the lane's queue has no room; and whatever `submit` raises.
        """
        return self._doorway.post(fn, self._plan(fn), args, kwargs, False)

    @overload
    def run(self, fn: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def run(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    def run(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Submit and block for the value; interrupted (Ctrl-C), it cancels the job."""
        self._doorway.portal.check("run()")
        job = self.submit(fn, *args, **kwargs)
        try:
            job.exception()  # blocks; what the job itself raises is raised below
        except BaseException:
            job.cancel("whoever waited for it was interrupted")
            raise
        return job.result()

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
        """Call `fn` on each item, or on the items of several iterables side by side.

        The arguments are those of `Runner.map`. Sync iterables are advanced in the thread that
        asks for results, only as far as the look-ahead reaches, so generators and files are safe.

        Returns:
            An iterator; ``.collect()`` gives a list and is the fastest form. A loop that is left early
            cancels what is in flight; ``with`` waits for that.
        """
        source = Source(iterables)
        plan = self._plan(fn)
        run: MapRun[Any] = MapRun(self._doorway.intake, fn, plan, source, ordered, lookahead, on_error, progress=False)
        return SyncMap(self, self._doorway.portal, run, source, progress)
