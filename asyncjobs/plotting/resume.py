"""Send what plots of dead processes have left in their spools."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from asyncjobs.plotting.drawing import draw
from asyncjobs.plotting.edition import Edition
from asyncjobs.plotting.figures import compose
from asyncjobs.plotting.replay import Replay
from asyncjobs.plotting.rows import fed
from asyncjobs.plotting.spool import Spool, orphans
from asyncjobs.plotting.targets import open_sink


class Outcome(NamedTuple):
    """What became of one target of one plot."""

    title: str
    target: str
    folder: Path
    error: str | None
    """None: it has everything."""


def resume(root: Path) -> list[Outcome]:
    """Send the rest of every plot below `root` whose process is gone; blocks.

    What has arrived everywhere is removed; what has not stays for the next time. Each target is tried once.
    """
    return [outcome for spool in orphans(root) for outcome in _send_rest(spool)]


def _send_rest(spool: Spool) -> list[Outcome]:
    try:
        edition = _last_edition(spool)
    except Exception as problem:  # a picture of the user's may not draw itself here
        error = f"{type(problem).__name__}: {problem}"
        outcomes = [Outcome(spool.about.title, target, spool.folder, error) for target in spool.about.targets]
    else:
        outcomes = [_send(spool, number, edition) for number in range(len(spool.about.targets))] if edition else []
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
    if spool.sent(number) != list(edition.mark):
        try:
            sink = fed(open_sink(target, inline=spool.about.inline), spool, number, is_settled=True)
            target = sink.target
            with closing(sink):
                sink.send(edition)
            spool.note_sent(number, edition.mark)
        except Exception as problem:  # whatever a sink may raise, the others get theirs
            error = f"{type(problem).__name__}: {problem}"
    return Outcome(spool.about.title, target, spool.folder, error)
