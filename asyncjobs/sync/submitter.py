"""The four ways to hand over work, without `await`: `submit`, `submit_nowait`, `run` and `map`.

The same `Submitter` decides lane and options as in async code; only the way to the loop is another.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from typing import Any, Literal, ParamSpec, TypeVar, overload

from asyncjobs.intake import Intake
from asyncjobs.job import Job
from asyncjobs.jobqueue import QueueFull
from asyncjobs.lanes.base import Plan
from asyncjobs.mapping.run import MapRun
from asyncjobs.mapping.source import Source
from asyncjobs.portal import Portal
from asyncjobs.submitter import Submitter
from asyncjobs.sync.inbox import Inbox
from asyncjobs.sync.maps import SyncMap

P = ParamSpec("P")
R = TypeVar("R")


class Doorway:
    """The way of jobs from any thread into one open runner."""

    def __init__(self, portal: Portal, intake: Intake) -> None:
        self.portal: Portal = portal
        self.intake: Intake = intake
        self._inboxes = {name: Inbox(portal, one) for name, one in intake.engine.dispatchers.items()}

    def post(self, plan: Plan, args: tuple[Any, ...], kwargs: dict[str, Any], *, waits: bool) -> Job[Any]:
        """The job, accepted; `waits` says whether to block while the lane's queue is full."""
        if not plan.is_plain and plan.options.key is not None:
            # Which job lives under a key is known on the loop only.
            return self.portal.call(self._enter, self.portal.do(self.intake.make, plan, args, kwargs))
        job = self.intake.draft(plan, args, kwargs)
        if self._inboxes[plan.lane].post(job):
            return job
        if not waits:
            raise QueueFull(
                f"lane {plan.lane!r} has as many queued jobs as its queue may hold, so {job.name!r} was not accepted; "
                "submit() waits for room"
            )
        return self.portal.call(self._enter, job)

    async def _enter(self, job: Job[Any]) -> Job[Any]:
        if job._call.number:  # the living one with the same key
            return job
        return self.intake.admit(await self.intake.room_for(job))

    def close(self) -> None:
        """Take no more jobs; those that were accepted go on."""
        for inbox in self._inboxes.values():
            inbox.close()

    def empty(self) -> None:
        """On the loop: every job that was accepted is in its queue after this."""
        for inbox in self._inboxes.values():
            inbox.empty()


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
        return self._doorway.post(self._plan(fn), args, kwargs, waits=True)

    @overload
    def submit_nowait(self, fn: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> Job[R]: ...
    @overload
    def submit_nowait(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Job[R]: ...
    def submit_nowait(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Job[Any]:
        """As `submit`, and never waits.

        Raises:
            QueueFull: the lane's queue has no room; and whatever `submit` raises.
        """
        return self._doorway.post(self._plan(fn), args, kwargs, waits=False)

    @overload
    def run(self, fn: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def run(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    def run(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Submit and block for the value; interrupted (Ctrl-C), it cancels the job."""
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
        run: MapRun[Any] = MapRun(self._doorway.intake, plan, source, ordered, lookahead, on_error, progress=False)
        return SyncMap(self._keeper, self._doorway.portal, run, source, progress)
