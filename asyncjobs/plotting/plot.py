"""`Plot`: what a training loop sees of it all, and its end."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import weakref
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import replace
from types import TracebackType

from asyncjobs.errors import PlotIncomplete, RunnerClosed
from asyncjobs.notebook import Run, find_notebook
from asyncjobs.options import check_seconds
from asyncjobs.plotting.curve import FEWEST
from asyncjobs.plotting.journal import Journal
from asyncjobs.plotting.notebook import KernelEnd
from asyncjobs.plotting.pen import Pen
from asyncjobs.plotting.publisher import PlotStats, Publisher
from asyncjobs.plotting.replay import Replay
from asyncjobs.plotting.rows import RowSink
from asyncjobs.plotting.sinks.base import Sink
from asyncjobs.plotting.sinks.web import shown
from asyncjobs.plotting.spool import About, Spool
from asyncjobs.plotting.studio import studio
from asyncjobs.plotting.targets import has_room
from asyncjobs.plotting.telling import tell
from asyncjobs.sync.leaving import has_left, leave_at_exit

logger: logging.Logger = logging.getLogger("asyncjobs")

LONGEST_CLOSE = 3.0
"""Seconds that the end of a plot takes beside its `linger`: for what its sinks have open."""


_open_plots: weakref.WeakSet[Plot] = weakref.WeakSet()
_kernel_end = KernelEnd(_open_plots)


def _close_those_before(new: Plot) -> None:
    """A cell that runs again opens its plots again: two would overwrite each other's files."""
    places = {target for target in new.targets if not has_room(target)}
    for other in tuple(_open_plots):
        if not other.closed and (places & {*other.targets} or _is_again(other._run, new._run)):
            other._end(None)


def _is_again(before: Run | None, now: Run | None) -> bool:
    """Whether the same cell runs another time."""
    return before is not None and now is not None and before.cell == now.cell and before.request != now.request


def close_sink(sink: Sink | RowSink) -> None:
    """Close it, whatever it may raise."""
    try:
        sink.close()
    except Exception:  # whatever it may raise, the others are closed as well, and the spool is kept or removed
        logger.exception("the sink of %s could not be closed in order", sink.target)


class Plot(Pen):
    """What `plot` returns: `log`, `write` and `draw` hand over, the rest looks after what was handed over."""

    def __init__(
        self,
        about: About,
        spool: Spool | None,
        sinks: Sequence[Sink],
        every: float,
        max_share: float,
        linger: float,
        raises: bool,
    ) -> None:
        super().__init__(None if spool is None else Journal(spool.folder))
        self.exit_drain: float | None = linger
        self.targets: tuple[str, ...] = tuple(about.targets)
        self._linger = linger
        self._raises = raises
        self._title = about.title
        self._began = time.monotonic()
        self._closing = threading.RLock()
        self._publisher: Publisher | None = None
        self._is_complete = True
        self._problem: OSError | None = None
        """Why something that was accepted is not on the disk; known at the end."""
        self._stats = PlotStats()
        if spool is None or self._journal is None:
            return
        notebook = find_notebook()
        self._run = None if notebook is None else notebook.run()
        _close_those_before(self)
        _kernel_end.listen()
        self._spool = spool
        self._sinks = sinks
        self._studio = studio()
        # At the exit, whoever drains for the shortest time leaves first: the plots, whose loop it is.
        self._studio.exit_drain = max(self._studio.exit_drain or 0.0, linger + LONGEST_CLOSE)
        self._publisher = self._studio.portal.do(
            Publisher, spool, self._journal, sinks, self._studio.runner, every, max_share
        )
        self._studio.start(self._publisher.run())
        _open_plots.add(self)
        leave_at_exit(self)

    def __repr__(self) -> str:
        state = "closed" if self.closed else "open"
        return f"<Plot {self._title!r} to {', '.join(map(shown, self.targets))}, {state}>"

    @property
    def closed(self) -> bool:
        """Whether it takes nothing: it was closed, or never plotted here, as in other ranks than the first and in
        forked children."""
        return self._publisher is None or self._is_elsewhere

    @property
    def _is_elsewhere(self) -> bool:
        """Whether this is a forked child's copy of a plot that was open: it is the parent's to look after."""
        return self._publisher is not None and self._studio.portal.is_foreign

    @property
    def stats(self) -> PlotStats:
        """What has become of what was handed over."""
        publisher = self._publisher
        if publisher is not None and not self._is_elsewhere:
            self._stats = publisher.stats(self._dropped, time.monotonic() - self._began)
        return replace(self._stats, dropped=self._dropped)

    # --- waiting ------------------------------------------------------------------------

    def flush(self, timeout: float | None = None) -> bool:
        """Block until all that was handed over has arrived everywhere; False: not within `timeout` seconds.

        Raises:
            PlotIncomplete: with ``on_error="raise"``, instead of returning False; without a `timeout` at the first
                try that fails.
            WouldDeadlock: called in the thread of the plots' own loop.
        """
        check_seconds("timeout", timeout, or_none=True)
        publisher = self._publisher
        if publisher is None or self._is_elsewhere:
            return self._is_complete
        return self._or_raise(self._studio.portal.call(publisher.flush, timeout, self._raises and timeout is None))

    async def aflush(self, timeout: float | None = None) -> bool:
        """As `flush`, for coroutines of any loop."""
        check_seconds("timeout", timeout, or_none=True)
        publisher = self._publisher
        if publisher is None or self._is_elsewhere:
            return self._is_complete
        future = asyncio.run_coroutine_threadsafe(
            publisher.flush(timeout, self._raises and timeout is None), self._studio.portal.loop
        )
        return self._or_raise(await asyncio.wrap_future(future))

    def close(self, timeout: float | None = None) -> bool:
        """Take no more, block until all has arrived everywhere, at most `timeout` seconds (None: `linger`).

        What has not is kept, and a line on standard error says where. A second call does nothing.

        Returns:
            Whether all has arrived.

        Raises:
            PlotIncomplete: with ``on_error="raise"``, instead of returning False.
            WouldDeadlock: called in the thread of the plots' own loop.
        """
        check_seconds("timeout", timeout, or_none=True)
        was_open = not self.closed
        self._end(timeout)
        return self._or_raise(self._is_complete) if was_open else self._is_complete

    async def aclose(self, timeout: float | None = None) -> bool:
        """As `close`, for coroutines."""
        return await asyncio.to_thread(self.close, timeout)

    def _end(self, timeout: float | None) -> None:
        """`close`, for whoever cannot do anything about what is missing."""
        if self._is_elsewhere:  # a thread that is not here may hold the lock
            return
        with self._closing:
            if self._publisher is not None:
                self._close(self._publisher, self._linger if timeout is None else timeout)

    def _close(self, publisher: Publisher, timeout: float) -> None:
        journal = self._journal
        self._fall_silent()
        self._is_over = True
        has_arrived = False
        try:
            has_arrived = self._studio.portal.call(publisher.finish, timeout)
        except RunnerClosed:  # the exit has ended the loop
            pass
        finally:  # a Ctrl-C too ends it for good
            self._let_go(publisher, journal, has_arrived)

    def _let_go(self, publisher: Publisher, journal: Journal | None, has_arrived: bool) -> None:
        self._stats = publisher.stats(self._dropped, time.monotonic() - self._began)
        self._is_complete = has_arrived and not self._stats.undrawn
        self._publisher = None
        has_left(self)
        if journal is not None:
            self._problem = journal.problem
            journal.close()
        for sink in self._sinks:
            close_sink(sink)
        if has_arrived:
            self._spool.remove()
        else:
            self._spool.close()
            tell(self._what_is_missing())

    def _or_raise(self, has_arrived: bool) -> bool:
        if self._raises and not has_arrived:
            stats = self.stats
            lacks_pictures_only = stats.undrawn and not stats.missing
            text = f"plot {self._title!r}: {stats.last_error}" if lacks_pictures_only else self._what_is_missing()
            raise PlotIncomplete(text)
        return has_arrived

    def _what_is_missing(self) -> str:
        stats = self.stats
        missing = f" at {', '.join(stats.missing)}" if stats.missing else ": its newest state was not made in time"
        why = f" ({stats.last_error})" if stats.last_error else ""
        return (
            f"plot {self._title!r} is not complete{missing}{why}; the rest is in {self._spool.folder}: "
            f"the next start sends it, or `asyncjobs plot resume {self._spool.folder.parent}`{self._what_is_lost()}"
        )

    def _what_is_lost(self) -> str:
        """Of the rest that is kept: what was in memory only, for the disk was full."""
        if self._problem is None:
            return ""
        with suppress(OSError), closing(Replay(self._spool.folder, FEWEST, is_settled=True)) as kept:
            kept.refresh()
            lost = self._stats.logged - kept.rows
            return f". LOST are {lost:,} rows, and what else found no room there: {self._problem.strerror}"
        return f". LOST is what found no room there: {self._problem.strerror}"

    def leave(self, drain: float | None) -> None:
        """The interpreter exits, and nobody closed us: `close`, within `drain` seconds."""
        self._end(drain)

    def __enter__(self) -> Plot:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:  # which is worse news than what is missing
            self._end(None)

    async def __aenter__(self) -> Plot:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.__exit__, kind, error, trace)
