"""What a `Pool` hands out: `AsyncResult` of one call or list, `IMapIterator` over many results.

Both wait in the caller's thread for what happens on the loop, and keep their pool until it has.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import aclosing, suppress
from functools import partial
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any, Generic, TypeVar, cast

from asyncjobs.errors import RunnerClosed
from asyncjobs.futures import take, wait_for_end
from asyncjobs.job import Job
from asyncjobs.mapping.run import MapRun
from asyncjobs.portal import Portal
from asyncjobs.wire.failure import safe_to_raise

R = TypeVar("R")

logger: logging.Logger = logging.getLogger("asyncjobs")

AHEAD = 64
"""Lists of results that an `imap` may be ahead of whoever takes them out."""


class PoolTimeoutError(multiprocessing.TimeoutError, TimeoutError):
    """No result within the seconds that were given; the work goes on. Both of the old programs' kinds."""


class AsyncResult(Generic[R]):
    """What will come of an `apply_async` or `map_async`."""

    def __init__(
        self,
        pool: object,
        portal: Portal,
        callback: Callable[[R], object] | None,
        error_callback: Callable[[BaseException], object] | None,
    ) -> None:
        for name, function in (("callback", callback), ("error_callback", error_callback)):
            if function is not None and not callable(function):
                raise TypeError(f"{name}={function!r} is not allowed; allowed: None, or a function")
        # Whoever keeps only the result keeps the pool, until there is one.
        self._pool: object = pool
        self._portal = portal
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
        if not self.ready():
            self._portal.check("get() or wait() of a result")
            wait_for_end(self._future, timeout)

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

    def take(self, job: Job[R]) -> None:
        error = job.exception()
        self._finish(None if error is not None else job.result(), error)

    async def gather(self, run: MapRun[Any]) -> None:
        values: Any = None
        error: BaseException | None
        raised: list[BaseException] = []
        run.in_place_of = raised.append
        try:
            values = await run.collect()
            error = raised[0] if raised else None
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


class Raised:
    """In place of the value of an item whose call raised."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error: BaseException = error


class Stream:
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

    def __init__(self, pool: object, portal: Portal, stream: Stream) -> None:
        self._pool = pool  # it lives as long as anybody wants results
        self._portal = portal
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
        if type(value) is Raised:
            raise safe_to_raise(value.error)
        return cast(R, value)

    def _await_more(self, until: float | None) -> None:
        self._portal.check("next()")
        try:
            arrived = take(self._stream.arrived, None if until is None else until - monotonic())
        except Empty:
            raise PoolTimeoutError("no result within that time; the work goes on") from None
        if isinstance(arrived, list):
            self._values.extend(arrived)
            self._portal.post(self._stream.taken)
            return
        self._stream.arrived.put(None)  # for whoever asks next, maybe another thread that waits already
        if arrived is not None:
            raise safe_to_raise(arrived)
        raise StopIteration

    def __del__(self) -> None:
        self._portal.post(self._stream.drop)
