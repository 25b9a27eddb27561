"""What all lanes of one runner share: the living jobs, the keys, the events, the clock.

Owns the task group in which every consumer lives. Knows nothing of how calls run.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import threading
from collections.abc import Callable, Coroutine, Mapping
from time import monotonic, time
from typing import Any

from asyncjobs.context import running
from asyncjobs.echo import Echo
from asyncjobs.engine.crew import Crew
from asyncjobs.engine.deadlock import LaneView
from asyncjobs.engine.dispatcher import Dispatcher, Limits
from asyncjobs.engine.waitlist import HOLDING, Waited, Waitlist
from asyncjobs.errors import RunnerClosed, WouldDeadlock, WrongLoop
from asyncjobs.events import EventBus
from asyncjobs.futures import resolve
from asyncjobs.job import Job
from asyncjobs.lanes.base import Call, Lane, nobody
from asyncjobs.lanes.daemon import DaemonThreads
from asyncjobs.memory import Memory
from asyncjobs.notebook import LAST_DRAIN, LAST_GRACE, Cell, Notebook, find_notebook
from asyncjobs.shared import Shares
from asyncjobs.state import JobState
from asyncjobs.token import StopReason
from asyncjobs.watchdog import Watchdog

logger: logging.Logger = logging.getLogger("asyncjobs")


class Engine:
    """The machinery of one open runner."""

    def __init__(self, runner: Any, lanes: Mapping[str, Lane], limits: Limits) -> None:
        self.runner = runner
        self.runner_id: str = os.urandom(3).hex()
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self.opened_at: float = monotonic()
        self.epoch: float = time() - monotonic()
        self.bus: EventBus = EventBus()
        self.memory: Memory = Memory(limits.arena_bytes)
        self.shares: Shares = Shares(self.loop, self.memory)
        self.threads: DaemonThreads = DaemonThreads("asyncjobs-copy-", self.loop)
        """For copies that would hold the loop up."""
        self.live: dict[int, Job[Any]] = {}
        self.keys: dict[str | None, Job[Any]] = {}
        self.is_open: bool = True
        """Whether it takes jobs."""
        self.broken: RunnerClosed | None = None
        """Why no job can run any more, after a fault of the machinery."""
        self.is_cancelling: bool = False
        self.tasks: Crew
        self.watchdog: Watchdog | None = None
        self.next_number: Callable[[], int] = itertools.count(1).__next__
        """Safe from any thread."""
        self.pid: int = os.getpid()
        self._thread = threading.get_ident()
        self.notebook: Notebook | None = find_notebook()
        """Where output is to carry on to the cell that submitted."""
        self._stop_listening: Callable[[], object] = nobody
        self._echo = Echo(self.notebook)
        self._end = asyncio.Event()
        self._all_done: asyncio.Future[None] | None = None
        self.waitlist: Waitlist = Waitlist(self.loop, self.view)
        self._helpers: set[asyncio.Task[None]] = set()
        self.dispatchers: dict[str, Dispatcher] = {
            name: Dispatcher(self, name, lane, limits) for name, lane in lanes.items()
        }

    # --- life ---------------------------------------------------------------------------

    async def open(self) -> None:
        """Start the consumers. They live in a task of the engine's own, so that the runner
        may be closed from another task than the one that opened it."""
        if self.notebook is not None:
            self._stop_listening = self.notebook.on_shutdown(self._kernel_ends)
        ready = self.loop.create_future()
        self._owner = self.loop.create_task(self._own(ready), name=f"asyncjobs-{self.runner_id}")
        try:
            await ready
        except asyncio.CancelledError:  # nobody will close us
            self._owner.cancel()
            raise

    async def _own(self, ready: asyncio.Future[None]) -> None:
        try:
            async with Crew(self._broke) as self.tasks:
                for dispatcher in self.dispatchers.values():
                    dispatcher.open()
                resolve(ready)
                await self._end.wait()
                for dispatcher in self.dispatchers.values():
                    dispatcher.close()
                for helper in self._helpers:
                    helper.cancel()
        except BaseException as error:
            if self.loop.is_closed():  # we are garbage: nobody ended the loop's tasks
                return
            if not ready.done():
                # What a lane says of its settings, without the task group's wrapping.
                ready.set_exception(error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error)
                return
            self._broke(error)
            raise

    def _kernel_ends(self) -> None:
        # It may wait for its children until it is killed, so no exit hook would come in time.
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._close_for_good)

    def _close_for_good(self) -> None:
        self._closing = self.loop.create_task(self.runner.aclose(drain=LAST_DRAIN, grace=LAST_GRACE))

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` beside the consumers. It must not raise; it is cancelled when the runner closes.

        Raises:
            RunnerClosed: the runner broke down.
        """
        if self.broken is not None:
            work.close()
            raise self.refusal("")
        task = self.tasks.create_task(work)
        self._helpers.add(task)
        task.add_done_callback(self._helpers.discard)
        return task

    def _broke(self, error: BaseException) -> None:
        """A consumer failed: a fault of ours, or of a lane. No job may wait for ever because of it."""
        if isinstance(error, asyncio.CancelledError):  # the loop ends, and nobody closed the runner
            self.runner._forgotten()
            return
        if self.broken is not None:  # the same fault, as the task group hands it on
            return
        logger.critical("asyncjobs failed; all jobs of this runner end", exc_info=error)
        self.broken = broken = RunnerClosed(f"the runner broke down: {error!r}; make a new one")
        broken.__cause__ = error
        self.fail_all(lambda _: broken)
        self.wake_submitters()

    def refusal(self, text: str) -> RunnerClosed:
        """The error for a job that comes now: `text`, or that the runner broke down, and why."""
        if self.broken is None:
            return RunnerClosed(text)
        error = RunnerClosed(*self.broken.args)
        error.__cause__ = self.broken.__cause__
        return error

    async def close(self) -> None:
        """End the consumers and their places."""
        self._end.set()
        await asyncio.wait([self._owner])
        if not self._owner.cancelled():
            self._owner.exception()  # said already, in `_broke`
        self._stop_listening()
        self._echo.close()
        self.bus.close()
        self.shares.close_all()
        self.threads.shutdown()
        self.waitlist.close()

    def fail_all(self, error_for: Callable[[Job[Any]], Exception]) -> None:
        """End every living job, and take no more; the last resort, when nothing moves them any more."""
        self.is_open = False
        self.is_cancelling = True
        for dispatcher in self.dispatchers.values():
            dispatcher.is_deaf = True
        reason = StopReason("shutdown", "the runner has ended")
        for job in tuple(self.live.values()):
            is_held = job.state in HOLDING
            try:
                self.dispatchers[job.lane].fail_now(job, error_for(job))
            except Exception:  # what is wrong with one must not leave the others without an end
                logger.exception("job %r could not be ended", job.name)
            if is_held:  # its end stands; a thread that listens is to leave all the same
                job._call.end(reason)

    def abort(self) -> None:
        """End everything now, without a loop's help: workers are hung up, jobs fail."""
        for dispatcher in self.dispatchers.values():
            dispatcher.abort()
        self.threads.shutdown()
        self.fail_all(_closed_under)
        self.shares.close_all()

    def wake_submitters(self) -> None:
        """The runner takes no more: whoever waits for room has to hear of it."""
        for dispatcher in self.dispatchers.values():
            dispatcher.queue.wake_putters()

    def check_loop(self) -> None:
        """Refuse callers from elsewhere.

        Raises:
            WrongLoop: the caller is not on this runner's event loop (a forked child has none).
        """
        loop = asyncio._get_running_loop()
        if loop is self.loop:
            return
        where = "another event loop" if loop is not None else "a thread or process without its event loop"
        raise WrongLoop(
            f"the runner was called from {where}; from a thread use "
            "asyncio.run_coroutine_threadsafe(runner.run(fn, ...), runner.loop)"
        )

    @property
    def is_over(self) -> bool:
        """Whether its consumers have been told to end, or have ended by themselves."""
        return self._end.is_set() or self._owner.done()

    def check_open(self) -> None:
        """Refuse callers from elsewhere, and those who come after the end.

        Raises:
            RunnerClosed: the consumers are gone.
            WrongLoop: as `check_loop`.
        """
        if self.is_over:
            raise RunnerClosed("the runner is closed; make a new one")
        self.check_loop()

    def on_loop(self) -> bool:
        """Whether the caller is in the loop's thread; a forked child is not."""
        return threading.get_ident() == self._thread and os.getpid() == self.pid

    # --- the living ---------------------------------------------------------------------

    def accept(self, job: Job[Any]) -> None:
        """Take `job` in; from here on it has exactly one end.

        Raises:
            QueueFull: its lane's queue has no room.
        """
        call = job._call
        call.plan.home.queue.require_room(call)
        call.number = self.next_number()
        self.take_in(job)

    def take_in(self, job: Job[Any]) -> None:
        """As `accept`, for a job that has its number: there is room for it, or it was promised some."""
        call = job._call
        plan = call.plan
        desk = plan.home
        self.live[call.number] = job
        desk.ledger.submitted += 1
        if self.bus.subscriptions:
            desk.publish(job)
        if self.watchdog is not None and self.watchdog.is_parked:
            self.watchdog.wake()
        if not plan.is_plain:
            if plan.options.key is not None:
                self.keys[plan.options.key] = job
            desk.begin_limits(job)
        if call.stop is not None:  # somebody who has it already, or its token, asked before
            desk.stopping(job, call.stop)
            return
        # Last of all: it may start, and even end, in here.
        desk.queue.append(call)

    def forget(self, job: Job[Any]) -> None:
        """`job` has ended."""
        call = job._call
        del self.live[call.number]
        if not call.plan.is_plain and self.keys.get(call.plan.options.key) is job:
            del self.keys[call.plan.options.key]
        if not self.live and self._all_done is not None and not self._all_done.done():
            self._all_done.set_result(None)

    async def drained(self) -> None:
        """Wait until no job lives."""
        while self.live:
            if self._all_done is None or self._all_done.done():
                self._all_done = self.loop.create_future()
            await asyncio.wait([self._all_done])

    def warn_of_paused_lanes(self) -> None:
        """A drain begins: say what it will wait for until somebody resumes it."""
        paused = [dispatcher for dispatcher in self.dispatchers.values() if dispatcher.is_paused]
        waiting = {dispatcher.name: dispatcher.queue.qsize() for dispatcher in paused if dispatcher.queue.qsize()}
        if waiting:
            lanes = ", ".join(f"lane {name!r} is paused with {count} queued jobs" for name, count in waiting.items())
            logger.warning("the runner closes and waits for its jobs, but %s; resume it, or cancel the jobs", lanes)

    def cancel_all(self, reason: StopReason) -> int:
        """Ask every living job to stop; how many there were."""
        jobs = tuple(self.live.values())
        for job in jobs:
            job._call.end(reason)
        return len(jobs)

    def echo(self, stream: str, text: str, cell: Cell | None) -> None:
        """Pass on what a worker printed, in a notebook to `cell`."""
        self._echo.write(stream, text, cell)

    # --- who waits for whom -------------------------------------------------------------

    def waits(self, waiter: Call, job: Job[Any] | None, lane: str, future: Waited) -> Callable[[], None]:
        """A running job waits for `job`, or for room in `lane`; the answer takes that back."""
        return self.waitlist.add(waiter, job, lane, future)

    def view(self) -> dict[str, LaneView]:
        """Who holds the places of each lane."""
        holders: dict[str, list[Call]] = {name: [] for name in self.dispatchers}
        for job in self.live.values():
            if job.state in HOLDING:
                holders[job.lane].append(job._call)
        return {name: LaneView(held, len(held) >= self.dispatchers[name].lane.size()) for name, held in holders.items()}

    def check_not_inside(self) -> None:
        """Refuse to be closed by one of our own jobs, which would wait for its own end.

        Raises:
            WouldDeadlock: the caller runs in a job of this runner, or in a task that such a job started.
        """
        call = running.get()
        job = self.live.get(call.number) if isinstance(call, Call) else None
        if job is not None and job._call is call:
            raise WouldDeadlock(
                f"aclose() was called inside job {job.name!r} of this runner, and would wait for that job to end. "
                "Close the runner from outside its jobs: let the job return, or set an event for whoever opened it"
            )


def _closed_under(job: Job[Any]) -> RunnerClosed:
    """The error for a job that nobody will follow to its end."""
    if job.state in (JobState.RUNNING, JobState.STOPPING):
        return RunnerClosed(f"the runner was closed while job {job.name!r} was running")
    again = "run again" if job.state is JobState.WAITING else "run"
    return RunnerClosed(f"the runner was closed before job {job.name!r} could {again}")
