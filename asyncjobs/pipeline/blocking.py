"""An open pipeline for a thread without an event loop: `SyncStream`, on a loop in a background thread.

Items are handed over through a deque and a condition, several for one change of threads. To ask the loop for each
would cost more than a hundred microseconds.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from asyncjobs.errors import RunnerClosed
from asyncjobs.futures import SLICE
from asyncjobs.pipeline.bells import Bell, Window, background
from asyncjobs.pipeline.faults import Fault
from asyncjobs.pipeline.position import Place
from asyncjobs.pipeline.report import PipelineReport
from asyncjobs.pipeline.stages import Stage
from asyncjobs.pipeline.stream import Stream
from asyncjobs.portal import Portal
from asyncjobs.sync.leaving import check_not_over, has_left, leave_at_exit
from asyncjobs.wire.failure import safe_to_raise

T = TypeVar("T")

logger: logging.Logger = logging.getLogger("asyncjobs")

AHEAD = 2
"""Items that wait for the thread, or more if it takes them in no time."""
LAST_WAIT = 2.0
"""Seconds that a loop is waited for that has been told to end."""


class SyncStream(Generic[T]):
    """An open pipeline: each ``for`` over it is the next epoch, with the same workers.

    One at a time, and from one thread at a time; to begin another ends the one before.
    """

    def __init__(self, stages: Sequence[Stage], seed: int, stall_timeout: float | None = None) -> None:
        self._stages = stages
        self._seed = seed
        self._stall_timeout = stall_timeout
        self._hosted: _Hosted | None = None

    def __enter__(self) -> Self:
        self._hosted = _Hosted(Stream(self._stages, self._seed, None, self._stall_timeout))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End everything: threads, worker processes, the loop. A second call does nothing."""
        if self._hosted is not None:
            self._hosted.close()

    def __del__(self) -> None:
        hosted = getattr(self, "_hosted", None)
        if hosted is not None and not hosted.is_closed:
            hosted.end_soon()
            warnings.warn(_never_closed(self), ResourceWarning, source=self, stacklevel=2)

    def __iter__(self) -> Iterator[T]:
        """The items of the next epoch; a ``break`` ends it.

        Raises:
            RunnerClosed: the pipeline is closed, or is meanwhile; or another loop over it has begun.
            WrongLoop: in a forked child of the process that opened it.
        """
        hosted = self._open
        handover = HandOver(hosted)
        hosted.portal.do(handover.begin)
        try:
            yield from handover
        finally:
            if hosted.portal.is_here:  # the garbage collector came by there
                handover.end_soon()
            elif not (hosted.is_closed or hosted.portal.is_foreign):
                hosted.portal.call(handover.aclose)

    @property
    def _open(self) -> _Hosted:
        if self._hosted is None or self._hosted.is_closed:
            raise RunnerClosed(f"{self!r}: open it with `with`")
        return self._hosted

    @property
    def _stream(self) -> Stream[Any]:
        """For what can be asked of a closed one too."""
        return self._hosted.stream if self._hosted is not None else self._open.stream

    @property
    def epoch(self) -> int:
        """The number of the epoch that the next loop begins."""
        return self._stream.epoch

    def state_dict(self) -> dict[str, Any]:
        """As `Stream.state_dict`; in the thread that takes the items."""
        return self._stream.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As `Stream.load_state_dict`, between two loops."""
        self._stream.load_state_dict(state)

    @property
    def errors(self) -> list[Fault]:
        """The latest items that were left out because they failed, at most 100 of each stage."""
        return self._stream.errors

    @property
    def skipped(self) -> int:
        """How many items were left out because they failed."""
        return self._stream.skipped

    def report(self) -> PipelineReport:
        """As `Stream.report`."""
        return self._stream.report()

    def in_hand(self) -> str:
        """As `Stream.in_hand`; from any thread."""
        return self._stream.in_hand()

    def __repr__(self) -> str:
        if self._hosted is None:
            return f"<SyncStream of {len(self._stages)} stages, closed>"
        state = "closed" if self._hosted.is_closed else "open"
        return f"<SyncStream of {len(self._stages)} stages, {state}, epoch {self.epoch} is next>"


def _never_closed(stream: object) -> str:
    return f"{stream!r} was never closed; use `with`, or `for` over the pipeline itself"


class _Hosted:
    """A stream and the loop that it lives on, until it is closed or the interpreter exits."""

    exit_drain: float | None = 0.0

    def __init__(self, stream: Stream[Any]) -> None:
        check_not_over("what a pipeline fetches")
        self.stream: Stream[Any] = stream
        self.is_closed: bool = False
        self.portal: Portal = Portal("asyncjobs-pipeline-loop")
        try:
            self.portal.call(stream.__aenter__)
        except BaseException:
            self.portal.close(LAST_WAIT)
            raise
        leave_at_exit(self)

    def close(self) -> None:
        if self.is_closed:
            return
        if self.portal.is_here or self.portal.is_foreign:
            self.end_soon()  # nobody could wait: a stage on the loop or the garbage collector asks, or a forked child
            return
        self.is_closed = True
        has_left(self)
        try:
            self.portal.call(self.stream.aclose)
        finally:
            self.portal.close(LAST_WAIT)

    def end_soon(self) -> None:
        """Close without waiting, from anywhere."""
        self.is_closed = True
        has_left(self)
        self.portal.post(self._end)

    def _end(self) -> None:
        closing = asyncio.get_running_loop().create_task(self.stream.aclose())
        closing.add_done_callback(lambda _: self.portal.end_soon())

    def leave(self, drain: float | None) -> None:
        """The interpreter exits, and nobody has closed it."""
        self.close()
        if self.portal.is_foreign:
            return
        warnings.warn(_never_closed(self.stream), ResourceWarning, stacklevel=2)


class HandOver:
    """The items of one epoch, on their way from the loop to one thread."""

    def __init__(self, hosted: _Hosted) -> None:
        self._stream = hosted.stream
        self._portal = hosted.portal
        self._items: deque[Any] = deque()
        self._window = Window(AHEAD)
        self._news = threading.Condition()
        self._error: BaseException | None = None
        self._is_over = False
        self._place: Place
        self._room: Bell
        self._pump: asyncio.Task[None]

    # --- on the loop --------------------------------------------------------------------

    def begin(self) -> None:
        """Start."""
        self._room = Bell(asyncio.get_running_loop())
        self._pump = background(self._run())

    async def aclose(self) -> None:
        """Stop, and end the epoch."""
        is_left = not self._pump.done()
        self._pump.cancel()
        await asyncio.wait([self._pump])
        if is_left and not isinstance(self._error, RunnerClosed | None):
            logger.warning("the pipeline raised when it was left", exc_info=self._error)

    def end_soon(self) -> None:
        """The same without waiting."""
        self._pump.cancel()

    async def _run(self) -> None:
        try:
            async with self._stream.next_epoch() as passage:
                self._place = passage.place
                while items := await passage.take(await self._free()):
                    with self._news:
                        self._items.extend(items)
                        self._news.notify()
        except asyncio.CancelledError:
            self._error = RunnerClosed("the pipeline was closed meanwhile")
        # Everything: the thread would wait for ever.
        except BaseException as error:
            self._error = safe_to_raise(error)
        with self._news:
            self._is_over = True
            self._news.notify()

    async def _free(self) -> int:
        while (free := self._window.size - len(self._items)) <= 0:
            await self._room.wait()
        return free

    # --- in the thread ------------------------------------------------------------------

    def __iter__(self) -> Iterator[Any]:
        items = self._items
        count = 0
        self._stream.consumer.begins()
        while self._wait():
            while items:
                item = items.popleft()
                count += 1
                if len(items) in (0, self._window.size // 2):
                    self._window.passed(count)
                    count = 0
                    self._room.ring()
                    self._stream.consumer.goes_on()
                self._place.delivered += 1
                yield item
                del item
        if self._error is not None:
            raise self._error
        self._place.is_ended = True

    def _wait(self) -> bool:
        """Until there are items; False: there are no more."""
        watch = self._stream.watch
        self._portal.check_process("a loop over a pipeline")
        with self._stream.consumer:
            while not self._items and not self._is_over:
                with self._news:
                    if not self._items and not self._is_over:
                        # The main thread alone hears a Ctrl-C, and only between two waits if it came just before one.
                        self._news.wait(min(SLICE, watch.patience))
                watch.look()
        return bool(self._items)
