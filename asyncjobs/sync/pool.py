"""`Pool`: `multiprocessing.Pool` on the process lane, drop-in.

The same constructor arguments and methods. What is better: a worker that is killed raises instead of
hanging, groups of items find their size by themselves, arrays travel at memory speed.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent import futures
from contextlib import aclosing, suppress
from functools import partial
from queue import Empty, SimpleQueue
from time import monotonic
from types import TracebackType
from typing import Any, Generic, NoReturn, TypeVar, cast

from asyncjobs.errors import RunnerClosed
from asyncjobs.job import Job
from asyncjobs.lanes.process import ProcessLane
from asyncjobs.mapping.run import MapRun
from asyncjobs.mapping.source import Source
from asyncjobs.options import check_count
from asyncjobs.runner import Runner
from asyncjobs.sync.executor import UNBOUNDED, start_method_of, whole
from asyncjobs.sync.hosted import HostedRunner
from asyncjobs.wire.failure import safe_to_raise

R = TypeVar("R")

logger: logging.Logger = logging.getLogger("asyncjobs")

AHEAD = 64
"""Lists of results that an `imap` may be ahead of whoever takes them out."""


class PoolTimeoutError(multiprocessing.TimeoutError, TimeoutError):
    """No result within the seconds that were given; the work goes on. Both of the old programs' kinds."""


class Pool:
    """A pool of worker processes for scripts that use `multiprocessing.Pool`.

    Args:
        processes: how many; the usable processors if not given. They start when needed.
        initializer: called with `initargs` in each worker before its first call.
        maxtasksperchild: a worker is replaced after so many calls (a group of a map's items is one).
        context: how workers start, ``forkserver`` (as without it) or ``spawn``; never ``fork``.

    `chunksize` is taken as a hint for the first group of a map; later ones hold about 16 ms of work.
    Callbacks run in the thread of the pool's own loop: let them be short. As in the original the end of
    a ``with`` block terminates.

    Raises:
        TypeError, ValueError: an argument that is not allowed.
    """

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        maxtasksperchild: int | None = None,
        context: object = None,
    ) -> None:
        lane = ProcessLane(
            _count("processes", processes),
            initializer=initializer,
            initargs=initargs,
            start_method=start_method_of(context),
            recycle_after=_count("maxtasksperchild", maxtasksperchild),
        )
        # Private in the original, and read by many a program all the same.
        self._processes = lane.size()
        runner = Runner(lanes={"process": lane}, queue_size=UNBOUNDED, watchdog=None, coroutines=1, threads=1)
        runner._tells_of_cancels = False
        # At an exit nobody waits for the workers of a pool.
        self._hosted = HostedRunner(runner, exit_drain=0.0)
        self._plan = runner.options(lane="process")._plan
        self._streams: weakref.WeakSet[_Stream] = weakref.WeakSet()
        """Those that `close` may have to lift; touched on the loop only."""

    # --- one call -----------------------------------------------------------------------

    def apply(self, func: Callable[..., R], args: Iterable[Any] = (), kwds: Mapping[str, Any] | None = None) -> R:
        """The value of ``func(*args, **kwds)``, called in a worker."""
        return self.apply_async(func, args, kwds).get()

    def apply_async(
        self,
        func: Callable[..., R],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] | None = None,
        callback: Callable[[R], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> AsyncResult[R]:
        """The same without waiting; `callback` gets the value, `error_callback` the exception.

        Raises:
            NotSendable: an argument does not pickle.
            ValueError: the pool does not run any more.
        """
        self._check_running()
        result: AsyncResult[R] = AsyncResult(self, callback, error_callback)
        job = self._hosted.doorway.post(func, self._plan(func), tuple(args), dict(kwds or {}), waits=False)
        job._listen(result._take)
        return result

    # --- many items ---------------------------------------------------------------------

    def map(self, func: Callable[..., R], iterable: Iterable[Any], chunksize: int | None = None) -> list[R]:
        """The results of `func` on each item, in their order."""
        return self.map_async(func, iterable, chunksize).get()

    def map_async(
        self,
        func: Callable[..., R],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callable[[list[R]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> AsyncResult[list[R]]:
        """The same without waiting. An item that raises does not stop the others; the first error is raised at the end.

        Raises:
            ValueError: the pool does not run any more.
        """
        return self._collect(self._run(func, iterable, chunksize), callback, error_callback)

    def starmap(
        self, func: Callable[..., R], iterable: Iterable[Iterable[Any]], chunksize: int | None = None
    ) -> list[R]:
        """As `map`; each item holds the arguments of one call."""
        return self.starmap_async(func, iterable, chunksize).get()

    def starmap_async(
        self,
        func: Callable[..., R],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callable[[list[R]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> AsyncResult[list[R]]:
        """As `map_async`; each item holds the arguments of one call."""
        return self._collect(self._run(func, iterable, chunksize, starred=True), callback, error_callback)

    def imap(self, func: Callable[..., R], iterable: Iterable[Any], chunksize: int = 1) -> IMapIterator[R]:
        """An iterator over the results, in the order of the items; an item that raises does not end it.

        The iterable is advanced in a thread, and only so far ahead of whoever takes results out.
        """
        return self._stream(func, iterable, chunksize, ordered=True)

    def imap_unordered(self, func: Callable[..., R], iterable: Iterable[Any], chunksize: int = 1) -> IMapIterator[R]:
        """The same, each result as soon as it is there."""
        return self._stream(func, iterable, chunksize, ordered=False)

    def _stream(
        self, func: Callable[..., R], iterable: Iterable[Any], chunksize: int, *, ordered: bool
    ) -> IMapIterator[R]:
        self._check_running()
        source = Source((iterable,))
        engine = self._hosted.doorway.intake.engine
        source.elsewhere = lambda pull: engine.loop.run_in_executor(engine.threads, pull)
        stream = _Stream()
        run = self._map_run(func, source, chunksize, ordered)
        # Before it starts: a close that comes right after finds it.
        self._hosted.portal.post(self._streams.add, stream)
        self._hosted.start(stream.pump(run))
        return IMapIterator(self, stream)

    def _run(
        self, func: Callable[..., R], iterable: Iterable[Any], chunksize: int | None, *, starred: bool = False
    ) -> MapRun[R]:
        self._check_running()
        if not isinstance(iterable, (tuple, range)):
            iterable = list(iterable)  # here, where it may raise, and as it is now
        return self._map_run(func, Source((iterable,), starred=starred), chunksize, ordered=True)

    def _map_run(self, func: Callable[..., R], source: Source, chunksize: int | None, ordered: bool) -> MapRun[R]:
        size = _count("chunksize", chunksize)
        run: MapRun[R] = MapRun(
            self._hosted.doorway.intake, func, self._plan(func), source, ordered, None, "return", progress=False
        )
        run.in_place_of = _Raised
        run.hint(size or 1)
        return run

    def _collect(
        self,
        run: MapRun[R],
        callback: Callable[[list[R]], object] | None,
        error_callback: Callable[[BaseException], object] | None,
    ) -> AsyncResult[list[R]]:
        result: AsyncResult[list[R]] = AsyncResult(self, callback, error_callback)
        self._hosted.start(result._gather(run))
        return result

    # --- the end ------------------------------------------------------------------------

    def close(self) -> None:
        """Take no more work; the workers leave when all is done."""
        if self._is_running:
            self._hosted.close_door()
            self._hosted.portal.post(self._lift)
            self._hosted.close_soon()

    def _lift(self) -> None:
        for stream in self._streams:
            stream.lift()

    def terminate(self) -> None:
        """End everything at once; what has no result yet gets an error that says so.

        In a callback it does not wait for the end; `join` does.
        """
        if self._hosted.portal.is_here:
            self._hosted.abandon()
        else:
            self._hosted.close(0, 0)

    def join(self) -> None:
        """Block until all work is done and the workers have left; after `close` or `terminate`.

        Raises:
            ValueError: the pool still takes work.
        """
        if self._is_running:
            raise ValueError("Pool is still running: call close() or terminate() first")
        self._hosted.close(None)

    @property
    def _is_running(self) -> bool:
        return self._hosted.is_usable

    def _check_running(self) -> None:
        self._hosted.portal.check_process("the pool")
        if not self._is_running:
            raise ValueError("Pool not running: it was closed or terminated")

    def __enter__(self) -> Pool:
        self._check_running()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.terminate()

    def __reduce__(self) -> NoReturn:
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")

    def __repr__(self) -> str:
        return f"<Pool {'running' if self._is_running else 'closed'}>"

    def __del__(self) -> None:
        hosted = getattr(self, "_hosted", None)
        if hosted is not None and hosted.is_usable:
            hosted.abandon()
            warnings.warn(f"unclosed running multiprocessing pool {self!r}", ResourceWarning, stacklevel=2)


class AsyncResult(Generic[R]):
    """What will come of an `apply_async` or `map_async`."""

    def __init__(
        self,
        pool: Pool,
        callback: Callable[[R], object] | None,
        error_callback: Callable[[BaseException], object] | None,
    ) -> None:
        for name, function in (("callback", callback), ("error_callback", error_callback)):
            if function is not None and not callable(function):
                raise TypeError(f"{name}={function!r} is not allowed; allowed: None, or a function")
        # Whoever keeps only the result keeps the pool, until there is one.
        self._pool: Pool | None = pool
        self._callback = callback
        self._error_callback = error_callback
        self._future: futures.Future[R] = futures.Future()

    def get(self, timeout: float | None = None) -> R:
        """The value, or the call's exception raised; blocks, at most `timeout` seconds.

        Raises:
            PoolTimeoutError: no result within `timeout`; it is a multiprocessing.TimeoutError.
            WouldDeadlock: called in a callback, and it is not ready.
        """
        self.wait(timeout)
        if not self.ready():
            raise PoolTimeoutError(f"no result within {timeout:g} s; the work goes on")
        return self._future.result()

    def wait(self, timeout: float | None = None) -> None:
        """Block until it is ready, at most `timeout` seconds; less than 0 is 0."""
        pool = self._pool
        if pool is not None:  # else it is ready, or about to be
            pool._hosted.portal.check("get() or wait() of a result")
        futures.wait([self._future], timeout)

    def ready(self) -> bool:
        """Whether the call has ended."""
        return self._future.done()

    def successful(self) -> bool:
        """Whether it ended without an exception.

        Raises:
            ValueError: it has not ended.
        """
        if not self.ready():
            raise ValueError(f"{self!r} not ready")
        return self._future.exception() is None

    def __repr__(self) -> str:
        return f"<AsyncResult {'ready' if self.ready() else 'not ready'}>"

    # --- on the loop --------------------------------------------------------------------

    def _take(self, job: Job[R]) -> None:
        error = job.exception()
        self._finish(None if error is not None else job.result(), error)

    async def _gather(self, run: MapRun[Any]) -> None:
        values: Any = None
        error: BaseException | None
        try:
            values = await run.collect()
            error = next((value.error for value in values if type(value) is _Raised), None)
        except asyncio.CancelledError:
            error = RunnerClosed("the pool was terminated before all items were done")
        # It belongs to whoever gets the result.
        except BaseException as problem:
            error = problem
        self._finish(values, error)

    def _finish(self, value: Any, error: BaseException | None) -> None:
        """Tell the callback, then whoever waits."""
        callback = (
            partial(self._callback or bool, value) if error is None else partial(self._error_callback or bool, error)
        )
        try:
            callback()
        # A callback that calls exit() must not end the loop.
        except BaseException:
            logger.exception("a callback of a pool's result raised")
        if error is None:
            self._future.set_result(cast(R, value))
        else:
            self._future.set_exception(safe_to_raise(error))
        self._pool = None


class _Raised:
    """In place of the value of an item whose call raised."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


class _Stream:
    """Results on their way from the loop to the thread that takes them out."""

    def __init__(self) -> None:
        self.arrived: SimpleQueue[list[Any] | BaseException | None] = SimpleQueue()
        self._room = asyncio.Semaphore(AHEAD)
        self._is_bounded = True
        self._is_wanted = True

    async def pump(self, run: MapRun[Any]) -> None:
        """Bring over the results of `run`, list by list; last of all None, or what ended it."""
        last: BaseException | None = None
        try:
            async with aclosing(run.batches()) as batches:
                async for batch in batches:
                    if self._is_wanted:
                        self.arrived.put(batch)
                    if self._is_bounded:
                        await self._room.acquire()
        except asyncio.CancelledError:
            last = RunnerClosed("the pool was terminated before all items were done")
        # It belongs to whoever iterates.
        except BaseException as error:
            last = error
        self.arrived.put(last)

    def taken(self) -> None:
        """One list was taken out."""
        self._room.release()

    def lift(self) -> None:
        """No bound any more: the pool closes and has to finish."""
        self._is_bounded = False
        self._room.release()

    def drop(self) -> None:
        """Nobody takes results out any more: the work goes on, but nothing is kept."""
        self._is_wanted = False
        self.lift()


class IMapIterator(Generic[R]):
    """Results of `imap`, each with a `next(timeout)` of its own; goes on after an item that raised.

    Several threads may take results out.
    """

    def __init__(self, pool: Pool, stream: _Stream) -> None:
        self._pool = pool  # it lives as long as anybody wants results
        self._stream = stream
        self._values: deque[Any] = deque()

    def __iter__(self) -> Iterator[R]:
        return self

    def __next__(self) -> R:
        return self.next()

    def next(self, timeout: float | None = None) -> R:
        """The next result, or the exception of its call raised; blocks, at most `timeout` seconds.

        Raises:
            PoolTimeoutError: no result within `timeout`; it is a multiprocessing.TimeoutError.
            StopIteration: there are no more.
        """
        until = None if timeout is None else monotonic() + timeout
        while True:
            if not self._values:
                self._await_more(until)
            with suppress(IndexError):  # another thread was faster
                value = self._values.popleft()
                break
        if type(value) is _Raised:
            raise safe_to_raise(value.error)
        return cast(R, value)

    def _await_more(self, until: float | None) -> None:
        portal = self._pool._hosted.portal
        portal.check("next()")
        try:
            arrived = self._stream.arrived.get(timeout=None if until is None else max(0.0, until - monotonic()))
        except Empty:
            raise PoolTimeoutError("no result within that time; the work goes on") from None
        if isinstance(arrived, list):
            self._values.extend(arrived)
            portal.post(self._stream.taken)
            return
        self._stream.arrived.put(None)  # for whoever asks next, maybe another thread that waits already
        if arrived is not None:
            raise safe_to_raise(arrived)
        raise StopIteration

    def __del__(self) -> None:
        self._pool._hosted.portal.post(self._stream.drop)


def _count(name: str, value: object) -> int | None:
    count: int | None = whole(value)
    check_count(name, count, 1, or_none=True)
    return count
