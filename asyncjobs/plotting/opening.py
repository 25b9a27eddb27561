"""`plot`: from what a caller names to an open plot, or to an error that names what is wrong."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

from asyncjobs.context import figures_of_job
from asyncjobs.notebook import find_notebook
from asyncjobs.options import check_count, check_seconds
from asyncjobs.plotting.curve import FEWEST
from asyncjobs.plotting.notebook import CELL, LINGER_IN_NOTEBOOK, is_shown_in_cells
from asyncjobs.plotting.plot import Plot, close_sink
from asyncjobs.plotting.rows import RowSink, fed
from asyncjobs.plotting.sinks.base import Sink
from asyncjobs.plotting.sinks.web import shown
from asyncjobs.plotting.spool import About, Spool, beside, create, home, new_id
from asyncjobs.plotting.targets import absolute, file_of, for_rank, is_fleeting, open_sink, with_run

LINGER = 5.0
"""Seconds that the end of a plot waits for its sinks."""
LEAST_EVERY = 0.5
"""Seconds: two looks a second are the most that a training loop has to bear."""
DEFAULT_IN_SERVICE = "plot.html"
"""Where a plot without a target goes in a job of the service; relative targets lie in the job's own folder there."""
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
            below the cell (``jupyter:``), by itself, and no other target is needed there. In a job of the service
            (``asyncjobs serve``) relative files lie in the job's own folder, where who attaches to it finds them.
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
    folder_of_job = _folder_of_job()
    if not targets and folder_of_job is not None:
        targets = (DEFAULT_IN_SERVICE,)
    named = [_named(target, rank if ranks == "all" else 0, folder_of_job or Path()) for target in targets]
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


def _folder_of_job() -> Path | None:
    """In a job of the service: its folder, where whoever attaches to the job finds its plots."""
    name = figures_of_job()
    if name is None:
        return None
    folder = Path(name)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _named(target: str | os.PathLike[str], rank: int, folder: Path) -> str:
    """The target as any process on this machine would find it."""
    path = file_of(target)
    name = absolute(os.fspath(target)) if path is None else str((folder / path.expanduser()).absolute())
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
    undo.callback(close_sink, sink)
    return sink
