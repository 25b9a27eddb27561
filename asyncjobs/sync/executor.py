"""`ProcessPoolExecutor` and `ThreadPoolExecutor`: `concurrent.futures` on our lanes, drop-in.

The same constructor arguments and methods. What is better: a crash fails its own future and the executor
goes on, a running call can be cancelled, arrays travel at memory speed, functions need no name.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent import futures
from contextlib import closing
from functools import partial
from math import inf
from multiprocessing.context import BaseContext
from operator import index
from time import monotonic
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from asyncjobs.errors import RunnerClosed, WouldDeadlock, WrongLoop
from asyncjobs.futures import call_soon, wait_for_end
from asyncjobs.job import Job
from asyncjobs.lanes.base import Lane
from asyncjobs.lanes.process import ProcessLane
from asyncjobs.lanes.thread import ThreadLane
from asyncjobs.options import check_count, is_count
from asyncjobs.runner import Runner
from asyncjobs.spawning import START_METHODS
from asyncjobs.state import JobState
from asyncjobs.sync.hosted import HostedRunner, cancel_if_waiting
from asyncjobs.wire.failure import safe_to_raise

P = ParamSpec("P")
T = TypeVar("T")

logger: logging.Logger = logging.getLogger("asyncjobs")

UNBOUNDED = 2**62
"""The queue of the standard executors has no bound."""


class JobFuture(futures.Future[T]):
    """The standard future, of one job. A running call can be cancelled too: it is asked, and then made, to stop."""

    def __init__(self, job: Job[T]) -> None:
        super().__init__()
        self.job: Job[T] = job
        """For what a future does not tell: progress, attempts, captured output."""
        # Whoever takes it decides the end: us, by a cancel, or the job.
        self._end = threading.Lock()
        job._listen(self._ended)

    def running(self) -> bool:
        """Whether the call is being executed now."""
        return not self.done() and self.job.state in (JobState.RUNNING, JobState.STOPPING)

    def cancel(self) -> bool:
        """Cancel the call, running or not; False only if it has ended, or in a forked child."""
        if self.job._desk.is_foreign() or not self._end.acquire(blocking=False):
            return self.cancelled()
        super().cancel()
        self.set_running_or_notify_cancel()
        self.job.cancel()
        return True

    def result(self, timeout: float | None = None) -> T:
        """The value, or the call's own exception raised; blocks, at most `timeout` seconds.

        Raises:
            CancelledError: it was cancelled.
            TimeoutError: it has not ended within `timeout`.
            WouldDeadlock: called in the thread of the executor's own loop, as in a done callback.
            WrongLoop: called in a forked child, where it will never end.
        """
        self._wait(timeout)
        return super().result(0)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What the call raised, None if it returned; blocks and raises as `result` does."""
        self._wait(timeout)
        return super().exception(0)

    def add_done_callback(self, fn: Callable[[futures.Future[T]], object]) -> None:
        """Have ``fn(future)`` called when it has ended, in the thread of the executor's loop; at once, if it has."""
        super().add_done_callback(fn if self.done() else partial(_call_back, fn))

    def _wait(self, timeout: float | None) -> None:
        if self.done():
            return
        if self.job._desk.is_foreign():
            raise WrongLoop(f"the future of {self.job.name!r} belongs to the process that this one was forked from")
        if self.job._desk.on_loop():
            raise WouldDeadlock(
                f"the future of {self.job.name!r} was waited for in the thread that has to bring its result; "
                "in a done callback only look at futures that are done()"
            )
        wait_for_end(self, timeout)

    def _ended(self, job: Job[T]) -> None:
        if not self._end.acquire(blocking=False):
            job.exception()  # looked at: nobody else will
            return
        if job.state is JobState.CANCELLED:  # at a close, or through the job itself
            super().cancel()
            self.set_running_or_notify_cancel()
            return
        self.set_running_or_notify_cancel()
        error = job.exception()
        if error is None:
            self.set_result(job.result())
        else:
            # Before 3.12 no loop's future takes it: whoever awaits ours would wait for ever.
            self.set_exception(safe_to_raise(error) if isinstance(error, StopIteration) else error)

    def __repr__(self) -> str:
        return f"<JobFuture of {self.job!r}>"


class JobExecutor(futures.Executor):
    """What both executors share: a hosted runner with one lane."""

    def __init__(self, name: str, lane: Lane, max_workers: int) -> None:
        # Private in the standard ones, and read by many a program all the same.
        self._max_workers = max_workers
        runner = Runner(lanes={name: lane}, queue_size=UNBOUNDED, watchdog=None, coroutines=1, threads=1)
        self._hosted = HostedRunner(runner, type(self).__name__, exit_drain=None, is_silent=True)
        # Whatever a function's own @job says: that is the lane which was asked for.
        self._plan = runner.options(lane=name)._plan

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> JobFuture[T]:
        """Have ``fn(*args, **kwargs)`` executed; never blocks.

        Raises:
            NotSendable: for processes, an argument does not pickle.
            RunnerClosed: the executor is shut down; it is a RuntimeError.
            TypeError: `fn` is no plain function.
            WrongLoop: in a forked child.
        """
        if not self._hosted.is_usable:
            self._hosted.portal.check_process("submit()")
            raise RunnerClosed("cannot schedule new futures after shutdown")
        return JobFuture(self._hosted.doorway.post(fn, self._plan(fn), args, kwargs, False))

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """The results of `fn` on the items of the iterables side by side, in their order.

        Args:
            timeout: seconds from now until the last result.
            chunksize: items that make one call; for processes. Rarely needed here: `SyncRunner.map` chooses by itself.
            buffersize: how many calls may be submitted beyond what was taken out; without it all are, now.

        Raises:
            TimeoutError: by the iterator.
            TypeError: an argument that cannot be iterated over.
            ValueError: a value that is not allowed.
        """
        size = whole(chunksize) if self._sends_chunks else 1
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"chunksize must be >= 1: chunksize={chunksize!r} is not allowed")
        _check_buffersize(buffersize)
        until = inf if timeout is None else monotonic() + timeout
        rows: Iterator[Any] = zip(*iterables, strict=False)
        if size == 1:
            return self._results(fn, rows, until, buffersize)
        chunks = iter(lambda: list(itertools.islice(rows, size)), [])
        return _one_by_one(self._results(partial(_call_each, fn), zip(chunks), until, buffersize))

    _sends_chunks = False

    def _results(
        self, fn: Callable[..., T], rows: Iterator[tuple[Any, ...]], until: float, buffersize: int | None
    ) -> Generator[T, None, None]:
        waiting = deque(self.submit(fn, *row) for row in itertools.islice(rows, buffersize))
        return _taken_out(waiting, (lambda: self.submit(fn, *next(rows))) if buffersize else None, until)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more; with `wait`, block until all calls have ended and everything is released.

        Without, that happens in the background, and the exit of the interpreter waits for it.
        `cancel_futures` cancels the calls that do not run yet. Ctrl-C while it blocks cancels
        the others too, a second one ends them at once.

        Raises:
            WouldDeadlock: with `wait`, called in a done callback or in one of the executor's own calls.
        """
        hosted = self._hosted
        if hosted.portal.is_foreign:
            return
        if wait:
            hosted.check_may_wait("shutdown(wait=True)")
        hosted.close_door()
        if cancel_futures:
            hosted.cancel_waiting()
        if wait:
            hosted.close(None)
        else:
            hosted.close_soon()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Shut down and wait; after Ctrl-C the calls are cancelled instead."""
        self._hosted.leave_block(kind, None)

    def __del__(self) -> None:
        hosted = getattr(self, "_hosted", None)
        if hosted is not None and hosted.is_usable:
            hosted.close_soon()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {'open' if self._hosted.is_usable else 'shut down'}>"


class ProcessPoolExecutor(JobExecutor):
    """`concurrent.futures.ProcessPoolExecutor`, drop-in.

    Args:
        max_workers: worker processes; the usable processors if not given. They start when needed.
        mp_context: how they start, ``forkserver`` (as without it) or ``spawn``; never ``fork``.
        initializer: called with `initargs` in each worker before its first call.
        max_tasks_per_child: a worker is replaced after so many calls.

    A worker that dies fails the one call that it ran, with a `BrokenProcessPool`; its place is filled anew.
    An initializer that raises fails each call with a `BrokenProcessPool`, too.

    Raises:
        TypeError, ValueError: an argument that is not allowed.
    """

    _sends_chunks = True

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: BaseContext | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
    ) -> None:
        lane = ProcessLane(
            _checked_workers(max_workers),
            initializer=initializer,
            initargs=initargs,
            start_method=start_method_of(mp_context),
            recycle_after=_checked_tasks(max_tasks_per_child),
        )
        super().__init__("process", lane, lane.size())


class ThreadPoolExecutor(JobExecutor):
    """`concurrent.futures.ThreadPoolExecutor`, drop-in.

    Args:
        max_workers: threads; as many as the standard executor would have if not given, the processors and
            four, at most 32.
        thread_name_prefix: what the threads are called, before a number.
        initializer: called with `initargs` in each thread before its first call.

    A running call can be cancelled: its future ends at once, and `current_job().token` tells the call;
    the thread counts as abandoned until it returns.

    Raises:
        TypeError, ValueError: an argument that is not allowed.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
    ) -> None:
        size = _checked_workers(max_workers) or min(32, (_count_processors() or 1) + 4)
        prefix = thread_name_prefix or f"ThreadPoolExecutor-{next(_numbers)}"
        lane = ThreadLane(size, initializer=initializer, initargs=initargs, thread_name_prefix=prefix)
        super().__init__("thread", lane, size)


_numbers = itertools.count()
# What the standard executor of this interpreter counts: since 3.13 the usable ones.
_count_processors: Callable[[], int | None] = getattr(os, "process_cpu_count", os.cpu_count)


def start_method_of(context: object) -> str | None:
    """The start method that multiprocessing's context, or its name, stands for.

    Raises:
        TypeError: it is neither.
        ValueError: one that we do not use.
    """
    if context is None:
        return None
    if isinstance(context, str):
        method = context
    elif isinstance(context, BaseContext):
        method = context.get_start_method()
    else:
        raise TypeError(f"mp_context={context!r} is not allowed; allowed: None, or a context of multiprocessing")
    if method not in START_METHODS:
        raise ValueError(
            f"the start method {method!r} is not allowed; allowed: {', '.join(START_METHODS)}. A process with threads "
            "cannot be forked safely; what workers are to find goes through initializer=, or as arguments"
        )
    return method


def whole(value: Any) -> Any:
    """A whole number of any kind, numpy's too, as an int; anything else as it is."""
    return index(value) if hasattr(value, "__index__") and not isinstance(value, bool) else value


def _checked_workers(max_workers: object) -> int | None:
    size: int | None = whole(max_workers)
    if size is not None and not is_count(size, 1):
        raise ValueError(
            f"max_workers must be greater than 0: max_workers={max_workers!r} is not allowed; "
            "allowed: None, or a whole number from 1"
        )
    return size


def _checked_tasks(max_tasks_per_child: object) -> int | None:
    count = whole(max_tasks_per_child)
    # The standard executor's two kinds of errors.
    if count is not None and not isinstance(count, int):
        raise TypeError(f"max_tasks_per_child={count!r} is not allowed; allowed: None, or a whole number from 1")
    check_count("max_tasks_per_child", count, 1, or_none=True)
    return count


def _check_buffersize(buffersize: object) -> None:
    if buffersize is not None and not isinstance(buffersize, int):
        raise TypeError(f"buffersize={buffersize!r} is not allowed; allowed: None, or a whole number from 1")
    check_count("buffersize", buffersize, 1, or_none=True)


def _call_back(fn: Callable[[futures.Future[T]], object], future: futures.Future[T]) -> None:
    try:
        fn(future)
    # A callback that calls exit() must not end the loop that all calls need.
    except BaseException:
        logger.exception("a done callback of %r raised", future)


def _call_each(fn: Callable[..., T], rows: list[tuple[Any, ...]]) -> list[T]:
    """In the worker: one chunk of a map."""
    return [fn(*row) for row in rows]


def _one_by_one(chunks: Generator[list[T], None, None]) -> Generator[T, None, None]:
    """The results of chunks; closing it closes `chunks`."""
    with closing(chunks):
        for chunk in chunks:
            chunk.reverse()
            while chunk:  # nothing here keeps the result that it hands out
                yield chunk.pop()


def _taken_out(
    waiting: deque[JobFuture[T]], more: Callable[[], JobFuture[T]] | None, until: float
) -> Generator[T, None, None]:
    """The results one by one; whoever stops taking them cancels what does not run yet."""
    try:
        while waiting:
            if more is not None:
                try:
                    waiting.append(more())
                except StopIteration:
                    more = None
            # Nothing here keeps the result that it hands out.
            yield _value_of(waiting.popleft(), until)
    finally:
        for future in waiting:
            call_soon(future.job._desk.loop, cancel_if_waiting, future.job)


def _value_of(future: JobFuture[T], until: float) -> T:
    try:
        return future.result(None if until == inf else max(0.0, until - monotonic()))
    finally:
        del future
