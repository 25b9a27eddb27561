"""Have tasks, threads and jobs stop together, and learn why: `Coordinator`, and without await `SyncCoordinator`.

The flag is a `CancelToken`; reports are kept beside it, the first one is raised.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from time import monotonic
from types import TracebackType
from typing import Any, NamedTuple

from asyncjobs.errors import JobCancelled, JobStopped, OutOfRangeError, WouldDeadlock
from asyncjobs.flow.errand import Settled
from asyncjobs.flow.roll import Roll, check_member, is_caller, is_future, is_over, name_of, stack_of
from asyncjobs.futures import call_soon, slices
from asyncjobs.remote.coordinator import RemoteCoordinator
from asyncjobs.remote.hosted import Hosted
from asyncjobs.token import CancelToken
from asyncjobs.wire import failure

logger: logging.Logger = logging.getLogger("asyncjobs")

GRACE = 120.0
"""Seconds that `join` gives to what still runs after a stop was requested."""

_PASSING = (asyncio.CancelledError, KeyboardInterrupt, SystemExit, GeneratorExit, JobStopped)
"""Mean whoever runs the block, and nobody else."""

ExcInfo = tuple[type[BaseException] | None, BaseException | None, TracebackType | None]


class _Report(NamedTuple):
    error: BaseException
    traceback: TracebackType | None


class BaseCoordinator(Hosted):
    """What both coordinators do without waiting; every method may be called from any thread."""

    def __init__(
        self,
        clean_stop_exception_types: Sequence[type[BaseException]] = (OutOfRangeError,),
        *,
        parent: CancelToken | None = None,
    ) -> None:
        self._clean = _exception_types("clean_stop_exception_types", clean_stop_exception_types)
        self._parent = parent
        # Reentrant, for a signal handler may report in the midst of a report.
        self._lock = threading.RLock()
        self._members: dict[Any, None] = {}
        self._token = CancelToken(parent)
        self._exceptions: list[BaseException] = []
        self._first: _Report | None = None
        self._joined = False

    @property
    def token(self) -> CancelToken:
        """The flag itself, which may be an argument of a job in any lane; `clear_stop` makes a new one."""
        return self._token

    @property
    def joined(self) -> bool:
        """Whether `join` has ended since the last `clear_stop`."""
        return self._joined

    @property
    def exceptions(self) -> tuple[BaseException, ...]:
        """All errors that were reported, in their order, also those that came too late to be raised."""
        return tuple(self._exceptions)

    def should_stop(self) -> bool:
        """Whether a stop has been requested; one memory read."""
        return self._token.cancelled

    # --- reporting ----------------------------------------------------------------------

    def request_stop(self, exception: BaseException | ExcInfo | None = None) -> None:
        """Ask all to stop; with an exception, or a ``sys.exc_info()``, say why.

        One of `clean_stop_exception_types` counts as none. The first request decides: its exception is raised by
        `join`. Later ones are kept in `exceptions`, and noted on the first.

        Raises:
            TypeError: `exception` is nothing of the kind.
            BaseException: the exception itself after `join`, when nobody else would ever see it.
        """
        error = self._reported(exception)
        with self._lock:
            if error is not None and self._joined:
                raise error
            if error is not None and not self._knows(error):
                self._keep(error, is_first=not self._token.cancelled)
            self._token.cancel("a stop was requested" if error is None else f"{type(error).__name__}: {error}")

    def _reported(self, exception: BaseException | ExcInfo | None) -> BaseException | None:
        if isinstance(exception, tuple) and len(exception) == 3:
            _, error, found = exception
            if error is None:
                error = ValueError("request_stop() got the sys.exc_info() of no exception: call it in an except block")
            exception = error.with_traceback(found)
        if exception is not None and not isinstance(exception, BaseException):
            raise TypeError(f"exception={exception!r} is not allowed; allowed: None, an exception, or sys.exc_info()")
        return None if isinstance(exception, self._clean) else exception

    def _knows(self, error: BaseException) -> bool:
        return any(error is known for known in self._exceptions)

    def _keep(self, error: BaseException, *, is_first: bool) -> None:
        self._exceptions.append(error)
        if is_first:
            self._first = _Report(error, error.__traceback__)
        elif self._first is not None:
            self._first.error.add_note(f"later reported to the coordinator: {type(error).__name__}: {error}")
        else:
            logger.warning("reported to a coordinator that was already stopping: %r", error, exc_info=error)

    @contextmanager
    def stop_on_exception(self) -> Iterator[None]:
        """Report what the block raises, and go on behind it.

        A task's cancellation, Ctrl-C, `SystemExit` and a job's own stop pass through: they mean whoever runs it.
        """
        try:
            yield
        except _PASSING:
            raise
        except BaseException as error:
            self.request_stop(error)

    def raise_requested_exception(self) -> None:
        """Raise the exception that came with the stop, if one did."""
        if self._first is not None:
            # As it was when it came: each raise would add to it.
            raise self._first.error.with_traceback(self._first.traceback)

    def clear_stop(self) -> None:
        """Forget the stop, its exceptions and the join: for a second run. The stop of a `parent` remains."""
        with self._lock:
            self._joined = False
            self._first = None
            self._exceptions = []
            if self._token.cancelled:
                self._token = CancelToken(self._parent)

    # --- members ------------------------------------------------------------------------

    def register(self, member: Any) -> None:
        """Have `join` wait for it: a task, a future, a job, a thread, a process.

        If a task, a future or a job ends with an exception, that is reported. Register a task on its loop.

        Raises:
            TypeError: it is nothing of the kind.
        """
        check_member(member)
        with self._lock:
            if member in self._members:
                return
            self._members[member] = None
        if is_future(member):
            member.add_done_callback(self._has_ended)

    def _has_ended(self, member: Any) -> None:
        with self._lock:
            self._members.pop(member, None)
        error = None if getattr(member, "cancelled", _no)() else member.exception()
        if error is None or isinstance(error, JobCancelled) or self._knows(error):
            return
        try:
            self.request_stop(error)
        except BaseException:  # joined: it has nobody but the log
            logger.exception("%s failed after its coordinator's join", name_of(member))

    def _frozen(self, more: Iterable[Any] | None) -> list[Any]:
        """All that a join that begins now waits for."""
        for member in more or ():
            self.register(member)
        with self._lock:
            members = list(self._members)
        if any(is_caller(member) for member in members):
            raise WouldDeadlock("join() was called by one of those for whose end it waits")
        return members

    def _settle(self, members: list[Any], *, ignore_live_threads: bool) -> None:
        """The end of a join: raise what there is to raise."""
        for member in members:
            if is_future(member) and member.done():
                self._has_ended(member)  # a job tells so on its own loop, which may be behind
        stragglers = [member for member in members if not is_over(member)]
        told = f"Coordinator stopped with threads still running: {' '.join(map(name_of, stragglers))}"
        with self._lock:
            self._joined = True
            self._members.clear()
            first = self._first
        if first is not None and stragglers:
            first.error.add_note(told)
        self.raise_requested_exception()
        if stragglers and ignore_live_threads:
            logger.info(told)
        elif stragglers:
            error = RuntimeError(told)
            for stack in filter(None, map(stack_of, stragglers)):
                error.add_note(stack)
            raise error

    # --- loops --------------------------------------------------------------------------

    def _loop_in_thread(self, interval: float, call: Callable[[], object], name: str) -> threading.Thread:
        thread = threading.Thread(target=self._repeat, args=(self._token, interval, call), name=name, daemon=True)
        self.register(thread)
        thread.start()
        return thread

    def _repeat(self, token: CancelToken, interval: float, call: Callable[[], object]) -> None:
        with self.stop_on_exception():
            due = monotonic()
            while not token.cancelled and not (interval and token.wait(max(0.0, due - monotonic()))):
                due += interval
                call()

    # --- as an argument of a process job ------------------------------------------------

    def face(self) -> tuple[type[RemoteCoordinator], tuple[CancelToken]]:
        """As `Hosted` says."""
        return RemoteCoordinator, (self._token,)

    def errand(self, verb: str, argument: failure.Failure | None) -> Settled:
        """A process job requests the stop."""
        self.request_stop(None if argument is None else failure.rebuild(argument))
        return Settled()

    def __repr__(self) -> str:
        state = "stopping" if self.should_stop() else "running"
        return f"<{type(self).__name__} {'joined' if self._joined else state}, {len(self._members)} registered>"


class Coordinator(BaseCoordinator):
    """Has tasks, threads and jobs stop together: on an event loop.

    Each of them asks `should_stop()` now and then; whoever is done, or fails, calls `request_stop`. `join` waits
    until all have ended and raises the exception that was reported first.

    Args:
        clean_stop_exception_types: reporting one of these is a stop without an error. They replace the default, the
            end of a queue's data.
        parent: a token that stops this coordinator too.

    Example::

        coord = Coordinator()
        runner = QueueRunner(queue, [read] * 4)
        runner.start(coord)
        with coord.stop_on_exception():
            while not coord.should_stop():
                train(await queue.dequeue_many(32))      # the end of the data ends it
        coord.request_stop()
        await coord.join()
    """

    async def wait_for_stop(self, timeout: float | None = None) -> bool:
        """Wait until a stop is requested, at most `timeout` seconds; whether it was."""
        return await _stopped(self._token, timeout)

    async def join(
        self,
        tasks: Iterable[Any] | None = None,
        stop_grace_period_secs: float = GRACE,
        ignore_live_threads: bool = False,
    ) -> None:
        """Wait until all that are registered, and `tasks`, have ended.

        Without a limit, as long as no stop is requested; from then on at most `stop_grace_period_secs`. Who is
        registered meanwhile is not waited for, and afterwards nobody is registered.

        Raises:
            BaseException: the exception that was reported first, in any case only at the end.
            RuntimeError: some still run after the grace period; names them and, in its notes, says where they are.
                With `ignore_live_threads` it is only logged.
            WouldDeadlock: called by one of those for whose end it would wait.
        """
        grace = _seconds("stop_grace_period_secs", stop_grace_period_secs)
        members = self._frozen(tasks)
        loop = asyncio.get_running_loop()
        news, ended = asyncio.Event(), asyncio.Event()
        roll = Roll(members, lambda: call_soon(loop, _set, ended, news))
        forget = self._token.add_callback(lambda _: call_soon(loop, news.set))
        try:
            await news.wait()
            async with asyncio.timeout(grace):
                await ended.wait()
        except TimeoutError:
            pass
        finally:
            forget()
            roll.close()
        self._settle(members, ignore_live_threads=ignore_live_threads)

    def loop(
        self,
        interval: float | None,
        target: Callable[..., Any] | None = None,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
    ) -> asyncio.Task[None] | threading.Thread:
        """Call ``target(*args, **kwargs)`` every `interval` seconds until a stop is requested, from now on.

        The instants do not drift: after a call that took longer, the next ones follow at once until it has caught
        up. None or 0: one call after the other. A coroutine function is awaited, in a task; anything else runs in a
        daemon thread. Either is registered, what it raises is reported, and it is what you get.

        Raises:
            ValueError: there is no `target`, or `interval` is no number of seconds.
        """
        seconds, call = _looped(interval, target, args, kwargs)
        name = f"loop-{getattr(target, '__name__', 'target')}"
        if not inspect.iscoroutinefunction(target):
            return self._loop_in_thread(seconds, call, name)
        task = asyncio.get_running_loop().create_task(self._repeat_awaiting(self._token, seconds, call), name=name)
        self.register(task)
        return task

    async def _repeat_awaiting(self, token: CancelToken, interval: float, call: Callable[[], Any]) -> None:
        with self.stop_on_exception():
            due = monotonic()
            while not await _stopped(token, max(0.0, due - monotonic()) if interval else 0.0):
                due += interval
                await call()


class SyncCoordinator(BaseCoordinator):
    """The same for threads, and for whoever has no event loop: `wait_for_stop` and `join` block.

    It joins threads, processes, standard futures and jobs; tasks belong to a loop, and to a `Coordinator` there.
    """

    def wait_for_stop(self, timeout: float | None = None) -> bool:
        """Block until a stop is requested, at most `timeout` seconds; whether it was."""
        return any(self._token.wait(seconds) for seconds in slices(timeout))

    def register(self, member: Any) -> None:
        """As in `Coordinator`, but no tasks.

        Raises:
            TypeError: it is a task, or nothing that ends.
        """
        if isinstance(member, asyncio.Future):
            raise TypeError(f"{member!r} is not allowed; allowed: threads, processes, jobs. A Coordinator joins tasks")
        super().register(member)

    def join(
        self,
        threads: Iterable[Any] | None = None,
        stop_grace_period_secs: float = GRACE,
        ignore_live_threads: bool = False,
    ) -> None:
        """As `Coordinator.join`, blocking this thread."""
        grace = _seconds("stop_grace_period_secs", stop_grace_period_secs)
        members = self._frozen(threads)
        news, ended = threading.Event(), threading.Event()
        roll = Roll(members, lambda: _set(ended, news))
        forget = self._token.add_callback(lambda _: news.set())
        try:
            _blocked(news, None)
            _blocked(ended, grace)
        finally:
            forget()
            roll.close()
        self._settle(members, ignore_live_threads=ignore_live_threads)

    def loop(
        self,
        interval: float | None,
        target: Callable[..., Any] | None = None,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
    ) -> threading.Thread:
        """As `Coordinator.loop`, always in a thread.

        Raises:
            TypeError: `target` is a coroutine function.
            ValueError: there is no `target`, or `interval` is no number of seconds.
        """
        seconds, call = _looped(interval, target, args, kwargs)
        if inspect.iscoroutinefunction(target):
            raise TypeError(f"target={target!r} is not allowed; allowed: a plain function. A Coordinator awaits others")
        return self._loop_in_thread(seconds, call, f"loop-{getattr(target, '__name__', 'target')}")


async def _stopped(token: CancelToken, timeout: float | None) -> bool:
    if timeout == 0.0:
        await asyncio.sleep(0)  # the others' turn
    elif not token.cancelled:
        try:
            async with asyncio.timeout(timeout):
                await token.stopped()
        except TimeoutError:
            pass
    return token.cancelled


def _blocked(event: threading.Event, timeout: float | None) -> None:
    for seconds in slices(timeout):
        if event.wait(seconds):
            return


def _set(*events: asyncio.Event | threading.Event) -> None:
    for event in events:
        event.set()


def _looped(
    interval: float | None,
    target: Callable[..., Any] | None,
    args: Sequence[Any] | None,
    kwargs: Mapping[str, Any] | None,
) -> tuple[float, Callable[[], Any]]:
    if not callable(target):
        hint = "; args and kwargs are for a target" if args or kwargs else ""
        raise ValueError(f"target={target!r} is not allowed; allowed: a function{hint}")
    seconds = 0.0 if interval is None else _seconds("interval", interval)
    return seconds, partial(target, *(args or ()), **(kwargs or {}))


def _seconds(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ValueError(f"{name}={value!r} is not allowed; allowed: seconds, 0 or more")
    return float(value)


def _exception_types(name: str, types: Any) -> tuple[type[BaseException], ...]:
    if not isinstance(types, Sequence) or not all(isinstance(t, type) and issubclass(t, BaseException) for t in types):
        raise TypeError(f"{name}={types!r} is not allowed; allowed: a tuple of exception classes")
    return tuple(types)


def _no() -> bool:
    return False
