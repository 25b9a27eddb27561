"""Send what plots of dead processes have left in their spools."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from asyncjobs.plotting.drawing import draw
from asyncjobs.plotting.edition import Edition
from asyncjobs.plotting.figures import compose
from asyncjobs.plotting.replay import Replay
from asyncjobs.plotting.sinks.web import shown
from asyncjobs.plotting.spool import Spool, orphans
from asyncjobs.plotting.targets import is_fleeting, open_sink


class Outcome(NamedTuple):
    """What became of one target of one plot."""

    title: str
    target: str
    folder: Path
    error: str | None
    """None: it has everything."""


def resume(root: Path, replaced: Collection[str] = ()) -> list[Outcome]:
    """Send the rest of every plot below `root` whose process is gone; blocks.

    What has arrived everywhere is removed; what has not stays for the next time. Each target is tried once, but for
    those that a newer plot has `replaced`.
    """
    return [outcome for spool in orphans(root) for outcome in _send_rest(spool, replaced)]


def _send_rest(spool: Spool, replaced: Collection[str]) -> list[Outcome]:
    wanted = [number for number, target in enumerate(spool.about.targets) if target not in replaced]
    try:
        edition = _last_edition(spool)
    except Exception as problem:  # a picture of the user's may not draw itself here
        error = f"{type(problem).__name__}: {problem}"
        outcomes = [Outcome(spool.about.title, shown(spool.about.targets[n]), spool.folder, error) for n in wanted]
    else:
        outcomes = [_send(spool, number, edition) for number in wanted] if edition else []
    if all(outcome.error is None for outcome in outcomes):
        spool.remove()
    spool.close()
    return outcomes


def _last_edition(spool: Spool) -> Edition | None:
    """What the plot would have sent last."""
    about = spool.about
    replay = Replay(spool.folder, about.max_points, is_settled=True)
    try:
        replay.refresh()
        mark = replay.mark()
        calls = {name: frame for name, frame in replay.frames.items() if frame.about["kind"] == "draw"}
        figures = compose(replay, about.title, {name: draw(frame.x) for name, frame in calls.items()})
        drawn = max((frame.serial for frame in calls.values()), default=0)
        return Edition(about.plot, about.title, 1, (*mark, drawn), figures) if figures else None
    finally:
        replay.close()


def _send(spool: Spool, number: int, edition: Edition) -> Outcome:
    target = spool.about.targets[number]
    error = None
    if spool.sent(number) != list(edition.mark) and not is_fleeting(target):
        try:
            sink = open_sink(target, inline=spool.about.inline)
            with closing(sink):
                sink.send(edition)
            spool.note_sent(number, edition.mark)
        except Exception as problem:  # whatever a sink may raise, the others get theirs
            error = f"{type(problem).__name__}: {problem}"
    return Outcome(spool.about.title, shown(target), spool.folder, error)
