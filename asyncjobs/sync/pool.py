"""`Pool`: `multiprocessing.Pool` on the process lane, drop-in.

The same constructor arguments and methods. What is better: a worker that is killed raises instead of
hanging, groups of items find their size by themselves, arrays travel at memory speed.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, NoReturn, TypeVar

from asyncjobs.lanes.process import ProcessLane
from asyncjobs.mapping.run import MapRun
from asyncjobs.mapping.source import Source
from asyncjobs.options import check_count
from asyncjobs.runner import Runner
from asyncjobs.sync.executor import UNBOUNDED, start_method_of, whole
from asyncjobs.sync.hosted import HostedRunner
from asyncjobs.sync.results import AsyncResult, IMapIterator, Raised, Stream

R = TypeVar("R")


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
        self._hosted = HostedRunner(runner, "Pool", exit_drain=0.0)
        self._plan = runner.options(lane="process")._plan
        self._streams: weakref.WeakSet[Stream] = weakref.WeakSet()
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
        result: AsyncResult[R] = AsyncResult(self, self._hosted.portal, callback, error_callback)
        job = self._hosted.doorway.post(func, self._plan(func), tuple(args), dict(kwds or {}), waits=False)
        job._listen(result.take)
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
        stream = Stream()
        run = self._map_run(func, source, chunksize, ordered)
        run.in_place_of = Raised
        # Before it starts: a close that comes right after finds it.
        self._hosted.portal.post(self._streams.add, stream)
        self._hosted.start(stream.pump(run))
        return IMapIterator(self, self._hosted.portal, stream)

    def _run(
        self, func: Callable[..., R], iterable: Iterable[Any], chunksize: int | None, *, starred: bool = False
    ) -> MapRun[R]:
        self._check_running()
        if not isinstance(iterable, (tuple, range)):
            iterable = list(iterable)  # here, where it may raise, and as it is now
        # A sixteenth of each worker's share: large enough for tiny calls, small enough if they are not.
        first = max(1, len(iterable) // (16 * self._processes)) if chunksize is None else chunksize
        return self._map_run(func, Source((iterable,), starred=starred), first, ordered=True)

    def _map_run(self, func: Callable[..., R], source: Source, chunksize: int | None, ordered: bool) -> MapRun[R]:
        size = _count("chunksize", chunksize)
        run: MapRun[R] = MapRun(
            self._hosted.doorway.intake, func, self._plan(func), source, ordered, None, "return", progress=False
        )
        run.hint(size or 1)
        return run

    def _collect(
        self,
        run: MapRun[R],
        callback: Callable[[list[R]], object] | None,
        error_callback: Callable[[BaseException], object] | None,
    ) -> AsyncResult[list[R]]:
        result: AsyncResult[list[R]] = AsyncResult(self, self._hosted.portal, callback, error_callback)
        self._hosted.start(result.gather(run))
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
            self._hosted.cancel_soon()
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
            hosted.cancel_soon()
            warnings.warn(f"unclosed running multiprocessing pool {self!r}", ResourceWarning, stacklevel=2)


def _count(name: str, value: object) -> int | None:
    count: int | None = whole(value)
    check_count(name, count, 1, or_none=True)
    return count
