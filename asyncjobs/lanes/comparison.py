"""What each lane can do, as a table for people: made of `Capabilities`, so that it cannot be wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from asyncjobs.lanes.base import Capabilities
from asyncjobs.lanes.dask import DaskEngine
from asyncjobs.lanes.executor import ExecutorLane
from asyncjobs.lanes.loop import LoopLane
from asyncjobs.lanes.process import ProcessLane
from asyncjobs.lanes.ray import RayEngine
from asyncjobs.lanes.thread import ThreadLane

LANES: Final[dict[str, Capabilities]] = {
    "loop": LoopLane.capabilities,
    "thread": ThreadLane.capabilities,
    "process": ProcessLane.capabilities,
    "executor": ExecutorLane.capabilities,
    "Dask": DaskEngine.capabilities,
    "Ray": RayEngine.capabilities,
}
"""By what the table calls them."""


def _yes(value: object) -> str:
    return "yes" if value else "no"


def _ends(lane: Capabilities) -> str:
    return f"with `{lane.kills_with}`" if lane.kills_with else _yes(lane.kills or lane.coroutines)


ROWS: Final[dict[str, Callable[[Capabilities], str]]] = {
    "takes": lambda lane: "coroutine functions" if lane.coroutines else "plain functions",
    "a job that does not listen can be ended": _ends,
    "when a job kills its process, it takes along": lambda lane: lane.falls_with_it,
    "arguments are pickled at submit": lambda lane: _yes(lane.encodes),
    "items of a map travel in groups": lambda lane: _yes(lane.groups),
    "`current_job()`, its token, progress": lambda lane: _yes(lane.knows_job),
    "context variables of the submitter": lambda lane: _yes(lane.context),
    "a token as an argument": lambda lane: _yes(lane.tokens),
    "a queue as an argument": lambda lane: _yes(lane.queues),
    "`runner.share`": lambda lane: lane.shares,
    "priorities count": lambda lane: lane.priorities,
    "`resources` that a job may ask for": lambda lane: lane.resources,
    "options that raise at submit": lambda lane: ", ".join(f"`{name}`" for name in lane.unsupported) or "none",
}


def table() -> str:
    """The table in Markdown."""
    lines = [["", *LANES], ["---"] * (len(LANES) + 1)]
    lines += [[label, *(cell(lane) for lane in LANES.values())] for label, cell in ROWS.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
