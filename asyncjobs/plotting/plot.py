"""`plot`: what a training loop sees of it all."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
import weakref
from collections.abc import Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
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
from asyncjobs.plotting.replay import Replay
from asyncjobs.plotting.rows import RowSink, fed
from asyncjobs.plotting.sinks.base import Sink
from asyncjobs.plotting.sinks.web import shown
from asyncjobs.plotting.spool import About, Spool, beside, create, home, new_id
from asyncjobs.plotting.studio import studio
from asyncjobs.plotting.targets import absolute, file_of, for_rank, has_room, is_fleeting, open_sink, with_run
from asyncjobs.plotting.telling import tell
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
            (``https://…``, PUT, or POST with ``?method=POST``), a page that shows it as it grows (``live:``), the run
            of a tracker (``mlflow:``, ``trackio:``, ``wandb:``), or schemes of other packages. In a notebook also
            below the cell (``jupyter:``), by itself, and no other target is needed there.
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
    _check_title(title)
    folder = None if spool is None else _checked_folder(spool)
    _check_choice("ranks", ranks, ("first", "all"))
    _check_choice("on_error", on_error, ("warn", "raise"))
    rank = _rank()
    named = [_named(target, rank if ranks == "all" else 0) for target in targets]
    if CELL not in named and is_shown_in_cells():
        named.append(CELL)
    if not named:
        raise ValueError("plot() needs a target, such as 'loss.html'")
    is_silent = rank > 0 and ranks == "first"
    if not is_silent:
        named = [*map(with_run, named)]
    about = About(new_id(), title or _title(named[0]), named, inline, max_points, time.time())
    if is_silent:
        return Plot(about, None, [], every, max_share, 0.0, False)
    if linger is None:
        linger = LINGER if find_notebook() is None else LINGER_IN_NOTEBOOK
    return Plot(about, *_opened(about, folder), every, max_share, linger, on_error == "raise")


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


def _check_title(title: str | None) -> None:
    if title is None:
        return
    if not isinstance(title, str):
        raise TypeError(f"title={title!r} is not allowed; allowed: text, or None")
    try:
        title.encode()
    except UnicodeEncodeError:
        raise ValueError(f"title={title!r} is not allowed; allowed: text that UTF-8 can hold") from None


def _checked_folder(spool: str | os.PathLike[str]) -> Path:
    """As this process finds it wherever it may go."""
    if not isinstance(spool, str | os.PathLike):
        raise TypeError(f"spool={spool!r} is not allowed; allowed: the path of a folder, or None")
    if "\0" in os.fspath(spool):
        raise ValueError(f"spool={spool!r} is not allowed; allowed: a path without the character \\0")
    return Path(spool).expanduser().absolute()


def _rank() -> int:
    """This process's number in a distributed training; 0 in any other."""
    given = [os.environ.get(name, "") for name in RANKS]
    return next((int(text) for text in given if text.isascii() and text.isdigit()), 0)


def _named(target: str | os.PathLike[str], rank: int) -> str:
    """The target as any process on this machine would find it."""
    path = file_of(target)
    name = absolute(os.fspath(target)) if path is None else str(path.expanduser().absolute())
    return for_rank(name, rank) if rank else name


def _title(target: str) -> str:
    if is_fleeting(target):
        return "plot"
    path = file_of(target)
    # A file's name may hold bytes that are no text.
    return path.stem.encode(errors="replace").decode() if path is not None else shown(target)


def _root(targets: Sequence[str]) -> Path:
    files = [path for path in map(file_of, targets) if path is not None]
    return beside(files[0]) if files else home()


def _opened(about: About, folder: Path | None) -> tuple[Spool, list[Sink]]:
    """The spool and the sinks; none of them if one cannot be had. What shows itself at once comes last."""
    numbered = [*enumerate(about.targets)]
    with ExitStack() as undo:
        sinks = {n: _opened_sink(target, about, undo) for n, target in numbered if not is_fleeting(target)}
        spool = create(folder or _root(about.targets), about)
        undo.callback(spool.remove)
        sinks |= {n: _opened_sink(target, about, undo) for n, target in numbered if is_fleeting(target)}
        undo.pop_all()
    return spool, [fed(sinks[n], spool, n) for n in sorted(sinks)]


def _opened_sink(target: str, about: About, undo: ExitStack) -> Sink | RowSink:
    sink = open_sink(target, inline=about.inline)
    undo.callback(_close_sink, sink)
    return sink


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


def _close_sink(sink: Sink | RowSink) -> None:
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
        try:
            has_arrived = self._studio.portal.call(publisher.finish, timeout)
        except RunnerClosed:  # the exit has ended the loop
            has_arrived = False
        self._stats = publisher.stats(self._dropped, time.monotonic() - self._began)
        self._is_complete = has_arrived and not self._stats.undrawn
        self._publisher = None
        has_left(self)
        if journal is not None:
            self._problem = journal.problem
            journal.close()
        for sink in self._sinks:
            _close_sink(sink)
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
