"""`plot`: what a training loop sees of it all."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal

from asyncjobs.errors import PlotIncomplete, RunnerClosed
from asyncjobs.notebook import Run, find_notebook
from asyncjobs.options import check_count, check_seconds
from asyncjobs.plotting.curve import FEWEST
from asyncjobs.plotting.journal import Journal
from asyncjobs.plotting.notebook import CELL, LINGER_IN_NOTEBOOK, KernelEnd, is_shown_in_cells
from asyncjobs.plotting.pen import Pen
from asyncjobs.plotting.publisher import PlotStats, Publisher
from asyncjobs.plotting.rows import fed
from asyncjobs.plotting.sinks.base import Sink
from asyncjobs.plotting.sinks.web import shown
from asyncjobs.plotting.spool import HIDDEN, About, Spool, create, home, new_id
from asyncjobs.plotting.studio import studio
from asyncjobs.plotting.targets import absolute, file_of, for_rank, is_fleeting, open_sink
from asyncjobs.sync.leaving import has_left, leave_at_exit

logger: logging.Logger = logging.getLogger("asyncjobs")

LINGER = 5.0
"""Seconds that the end of a plot waits for its sinks."""
LONGEST_CLOSE = 3.0
"""Seconds that the end of a plot takes beside that: for what its sinks have open."""
LEAST_EVERY = 0.5
"""Seconds: two looks a second are the most that a training loop has to bear."""
RANKS = ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK")
"""Variables that tell a process of a distributed training its number."""


def plot(
    *targets: str | os.PathLike[str],
    title: str | None = None,
    every: float = 1.0,
    max_points: int = 2000,
    max_share: float = 0.02,
    inline: bool = False,
    linger: float | None = None,
    ranks: Literal["first", "all"] = "first",
    on_error: Literal["warn", "raise"] = "warn",
    spool: str | os.PathLike[str] | None = None,
) -> Plot:
    """A plot that a loop feeds without waiting for it; leave it with `with`, or call `close`.

    Args:
        targets: where it is to be seen: files (``loss.html``, ``.json``, ``.png``, ``.svg``, ``.pdf``), addresses
            (``https://…``, PUT, or POST with ``?method=POST``), a page that shows it as it grows (``live:``), or
            schemes of other packages. In a notebook also below the cell (``jupyter:``), by itself, and no other
            target is needed there.
        title: above the plot; by default the name of the first target.
        every: seconds between two editions, at least 0.5; more if `max_share` asks for it.
        max_points: shown of each curve; neighbours become their minimum and maximum.
        max_share: of one core, that plotting may take. After t seconds of work it rests t / max_share.
        inline: put plotly.js into HTML pages: 4.8 MB each, and they open without a network.
        linger: seconds that the end waits for sinks; by default 5, in a notebook's kernel 2. What has not arrived
            by then is kept, and sent by the next start or by ``asyncjobs plot resume``.
        on_error: a sink that fails is told of once, and tried again. With "raise" `flush` and `close` raise
            `PlotIncomplete` besides, instead of returning False; nothing else ever does.
        ranks: in a distributed training only the first process plots; "all" gives each its own files and folders.
        spool: folder for what has not been sent; by default beside the first file, or among the user's files.

    Raises:
        TypeError, ValueError: a target or an argument is none; names the value and what is allowed.
        OSError: a file or the spool cannot be written, or there is no browser to make an image.
        ModuleNotFoundError: a target needs a package that is missing; says how to install it.

    Example::

        with aj.plot("loss.html") as p:
            for step in range(1000):
                loss = train(step)
                p.log(step, loss=loss)
    """
    _check(every, max_points, max_share, linger)
    _check_choice("ranks", ranks, ("first", "all"))
    _check_choice("on_error", on_error, ("warn", "raise"))
    rank = _rank()
    named = [_named(target, rank if ranks == "all" else 0) for target in targets]
    if CELL not in named and is_shown_in_cells():
        named.append(CELL)
    if not named:
        raise ValueError("plot() needs a target, such as 'loss.html'")
    about = About(new_id(), title or _title(named[0]), named, inline, max_points, time.time())
    if rank > 0 and ranks == "first":
        return Plot(about, None, [], every, max_share, 0.0, False)
    sinks = [open_sink(target, inline=inline) for target in named]
    if linger is None:
        linger = LINGER if find_notebook() is None else LINGER_IN_NOTEBOOK
    opened = create(Path(spool) if spool is not None else _root(named), about)
    fed_sinks = [fed(sink, opened, n) for n, sink in enumerate(sinks)]
    return Plot(about, opened, fed_sinks, every, max_share, linger, on_error == "raise")


def _check(every: float, max_points: int, max_share: float, linger: float | None) -> None:
    check_seconds("every", every)
    check_seconds("linger", linger, or_none=True)
    check_count("max_points", max_points, FEWEST)
    if every < LEAST_EVERY:
        raise ValueError(f"every={every!r} is not allowed; allowed: {LEAST_EVERY} s and more")
    if not (isinstance(max_share, int | float) and 0.0 < max_share <= 1.0):
        raise ValueError(f"max_share={max_share!r} is not allowed; allowed: a number above 0, and at most 1")


def _check_choice(name: str, value: str, allowed: tuple[str, str]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}={value!r} is not allowed; allowed: {' and '.join(map(repr, allowed))}")


def _rank() -> int:
    """This process's number in a distributed training; 0 in any other."""
    return next((int(os.environ[name]) for name in RANKS if os.environ.get(name, "").isdigit()), 0)


def _named(target: str | os.PathLike[str], rank: int) -> str:
    """The target as any process on this machine would find it."""
    path = file_of(target)
    name = absolute(os.fspath(target)) if path is None else str(path.expanduser().absolute())
    return for_rank(name, rank) if rank else name


def _title(target: str) -> str:
    if is_fleeting(target):
        return "plot"
    path = file_of(target)
    return path.stem if path is not None else shown(target)


def _root(targets: Sequence[str]) -> Path:
    files = [path for path in map(file_of, targets) if path is not None]
    return files[0].parent / HIDDEN if files else home()


_open_plots: weakref.WeakSet[Plot] = weakref.WeakSet()
_kernel_end = KernelEnd(_open_plots)


def _close_those_before(new: Plot) -> None:
    """A cell that runs again opens its plots again: two would overwrite each other's files."""
    places = {target for target in new.targets if not is_fleeting(target)}
    for other in tuple(_open_plots):
        if not other.closed and (places & {*other.targets} or _is_again(other._run, new._run)):
            other._end(None)


def _is_again(before: Run | None, now: Run | None) -> bool:
    """Whether the same cell runs another time."""
    return before is not None and now is not None and before.cell == now.cell and before.request != now.request


def _close_sink(sink: Sink) -> None:
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
        """Whether it takes nothing: it was closed, or never plotted, as in other ranks than the first."""
        return self._publisher is None

    @property
    def stats(self) -> PlotStats:
        """What has become of what was handed over."""
        publisher = self._publisher
        if publisher is not None:
            self._stats = publisher.stats(self._dropped, time.monotonic() - self._began)
        return self._stats

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
        if publisher is None:
            return self._is_complete
        return self._or_raise(self._studio.portal.call(publisher.flush, timeout, self._raises and timeout is None))

    async def aflush(self, timeout: float | None = None) -> bool:
        """As `flush`, for coroutines of any loop."""
        check_seconds("timeout", timeout, or_none=True)
        publisher = self._publisher
        if publisher is None:
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
        with self._closing:
            if self._publisher is not None and not self._studio.portal.is_foreign:
                self._close(self._publisher, self._linger if timeout is None else timeout)

    def _close(self, publisher: Publisher, timeout: float) -> None:
        journal = self._journal
        self._fall_silent()
        self._is_over = True
        try:
            has_arrived = self._studio.portal.call(publisher.finish, timeout)
        except RunnerClosed:  # the exit has ended the loop
            has_arrived = False
        self._stats = publisher.stats(self._dropped, time.monotonic() - self._began)
        self._is_complete = has_arrived and not self._stats.undrawn
        self._publisher = None
        has_left(self)
        if journal is not None:
            journal.close()
        for sink in self._sinks:
            _close_sink(sink)
        if has_arrived:
            self._spool.remove()
        else:
            self._spool.close()
            print(
                f"asyncjobs: {self._what_is_missing()}", file=sys.stderr, flush=True
            )  # a kernel may be killed before it does

    def _or_raise(self, has_arrived: bool) -> bool:
        if self._raises and not has_arrived:
            stats = self.stats
            lacks_pictures_only = stats.undrawn and not stats.missing
            text = f"plot {self._title!r}: {stats.last_error}" if lacks_pictures_only else self._what_is_missing()
            raise PlotIncomplete(text)
        return has_arrived

    def _what_is_missing(self) -> str:
        stats = self.stats
        missing = ", ".join(stats.missing)
        why = f" ({stats.last_error})" if stats.last_error else ""
        return (
            f"plot {self._title!r} is not complete at {missing}{why}; the rest is in {self._spool.folder}: "
            f"the next start sends it, or `asyncjobs plot resume {self._spool.folder.parent}`"
        )

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
