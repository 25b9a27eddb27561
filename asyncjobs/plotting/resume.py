"""Send what plots of dead processes have left in their spools."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from asyncjobs.plotting.drawing import attempt
from asyncjobs.plotting.edition import Edition
from asyncjobs.plotting.figures import compose, gather, numbers
from asyncjobs.plotting.notebook import CELL
from asyncjobs.plotting.private import is_mine
from asyncjobs.plotting.reading import Frame, paths
from asyncjobs.plotting.replay import Replay
from asyncjobs.plotting.rows import RowSink, fed
from asyncjobs.plotting.sinks.base import Sink
from asyncjobs.plotting.sinks.files import LocalFile
from asyncjobs.plotting.sinks.forms import Page
from asyncjobs.plotting.sinks.web import shown
from asyncjobs.plotting.spool import Spool, orphans
from asyncjobs.plotting.targets import is_fleeting, open_sink

logger: logging.Logger = logging.getLogger("asyncjobs")


class Outcome(NamedTuple):
    """What became of one target of one plot."""

    title: str
    target: str
    folder: Path
    error: str | None
    """None: it has everything."""


class Leftover(NamedTuple):
    """The rest of a plot whose process is gone."""

    title: str
    targets: list[str]
    created_at: float
    nbytes: int
    """That its files take."""
    folder: Path


_given_up: set[str] = set()
"""Ids of plots that an earlier plot of this process could not send: each is tried once."""
_told: set[Path] = set()
"""Where there are such, as was said."""


def resume(root: Path, *, replaced: Collection[str] = (), but: Collection[str] = ()) -> list[Outcome]:
    """Send the rest of every plot below `root`, or beside the files in it, whose process is gone; blocks.

    What has arrived everywhere is removed; what has not stays for the next time. Each target is tried once, except
    for those that a newer plot has `replaced`. Plots of the ids in `but` are left alone.
    """
    return [outcome for spool in orphans(root, but) for outcome in _send_rest(spool, replaced)]


def send_leftovers(root: Path, replaced: Collection[str], plot: str) -> list[str]:
    """As `resume`, for the plot of that id, which begins; what its user is told: here, for it may be over by then.

    In one process each is tried once, and the user hears once of what is left in `root`.
    """
    outcomes = resume(root, replaced=replaced, but={plot, *_given_up})
    sentences = [f"sent the rest of an earlier plot to {one.target}" for one in outcomes if one.error is None]
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    _given_up.update(outcome.folder.name for outcome in failed)
    if failed and root not in _told:
        _told.add(root)
        sentences.append(_what_is_left(root, failed))
    for sentence in sentences:
        logger.warning("%s", sentence)
    return sentences


def _what_is_left(root: Path, failed: Sequence[Outcome]) -> str:
    first, others = failed[0], len({outcome.folder for outcome in failed}) - 1
    return (
        f"an earlier plot {first.title!r} could not be sent to {first.target} either: {first.error}; "
        + (f"and so it is with {others} more. " if others else "")
        + f"`asyncjobs plot list {root}` shows what is left, `asyncjobs plot discard {root}` deletes it"
    )


def leftovers(root: Path) -> list[Leftover]:
    """What `resume` would send."""
    return [_looked_at(spool) for spool in orphans(root)]


def discard(root: Path) -> list[Leftover]:
    """Delete what `resume` would send; what that was."""
    return [_looked_at(spool, is_wanted=False) for spool in orphans(root)]


def _looked_at(spool: Spool, *, is_wanted: bool = True) -> Leftover:
    nbytes = sum(path.stat().st_size for path in spool.folder.iterdir())
    about = spool.about
    if not is_wanted:
        spool.remove()
    spool.close()
    return Leftover(about.title, [*map(shown, about.targets)], about.created_at, nbytes, spool.folder)


def _send_rest(spool: Spool, replaced: Collection[str]) -> list[Outcome]:
    wanted = [number for number in _reachable(spool.about.targets) if spool.about.targets[number] not in replaced]
    try:
        edition = _last_edition(spool)
    except Exception as problem:  # its files may be damaged in any way
        error = f"{type(problem).__name__}: {problem}"
        outcomes = [Outcome(spool.about.title, shown(spool.about.targets[n]), spool.folder, error) for n in wanted]
    else:
        outcomes = [_send(spool, number, edition) for number in wanted] if edition else []
    if all(outcome.error is None for outcome in outcomes):
        spool.remove()
    spool.close()
    return outcomes


def _reachable(targets: Sequence[str]) -> list[int]:
    """The numbers of those that can get the rest. A cell went with its kernel: it counts if there is nothing else."""
    return [n for n, target in enumerate(targets) if not is_fleeting(target) or [*targets] == [CELL]]


def _last_edition(spool: Spool) -> Edition | None:
    """What the plot would have sent last."""
    about = spool.about
    for path in paths(spool.folder):
        if not is_mine(os.stat(path)):
            raise PermissionError(f"somebody else could have written {path}")
    replay = Replay(spool.folder, about.max_points, is_settled=True)
    try:
        replay.refresh()
        mark = replay.mark()
        calls = [frame for frame in replay.frames.values() if frame.kind == "draw"]
        drawings = dict(filter(None, map(_drawn, calls)))
        figures = gather(about.title, compose(numbers(replay, about.title)), drawings)
        drawn = max((frame.serial for frame in calls), default=0)
        return Edition(about.plot, about.title, 1, (*mark, drawn), figures) if figures else None
    finally:
        replay.close()


def _drawn(call: Frame) -> tuple[str, str] | None:
    """A picture's name and JSON; None: it cannot be drawn, and would not be later."""
    drawn = attempt(call.x)
    if drawn.figure is None:
        logger.warning("drawing %r failed: %s", call.name, drawn.error)
        return None
    return call.name, drawn.figure


def _send(spool: Spool, number: int, edition: Edition) -> Outcome:
    target = spool.about.targets[number]
    error = None
    if target == CELL or spool.sent(number) != list(edition.mark):
        try:
            with closing(fed(_open(spool, target), spool, number, is_settled=True)) as sink:
                target = sink.target
                sink.send(edition)
            spool.note_sent(number, edition.mark)
        except Exception as problem:  # whatever a sink may raise, the others get theirs
            error = f"{type(problem).__name__}: {problem}"
    return Outcome(spool.about.title, shown(target), spool.folder, error)


def _open(spool: Spool, target: str) -> Sink | RowSink:
    """Instead of a cell, which saw a live view at best, a page beside the spool."""
    if target == CELL:
        path = spool.folder.parent / f"{spool.about.plot}.html"
        return LocalFile(path, Page(inline=spool.about.inline))
    return open_sink(target, inline=spool.about.inline)
