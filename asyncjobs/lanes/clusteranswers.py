"""Read what the answer of a cluster's worker means for its call."""

from __future__ import annotations

from typing import Any

from asyncjobs.errors import ResultNotSendable
from asyncjobs.lanes.base import Call, Done, Failed, Outcome, Stopped
from asyncjobs.lanes.outcomes import rebuilt
from asyncjobs.station import Answer
from asyncjobs.wire import codec, failure, frames


def outcome_of(call: Call, answer: Answer) -> Outcome:
    """What `answer` makes of `call`."""
    kind, seconds, cargo = answer
    if kind == frames.RETURNED:
        return _value(call, cargo, seconds)
    if kind == frames.RAISED:
        return Failed(failure.rebuild(codec.loads(cargo.stream)), seconds)
    return Stopped(seconds, "stopped", str(memoryview(cargo.stream), "utf-8"))


def _value(call: Call, cargo: Any, seconds: float) -> Outcome:
    try:
        return Done(rebuilt(cargo.stream, [memoryview(buffer) for buffer in cargo.buffers], call), seconds)
    except ResultNotSendable as error:
        return Failed(error, seconds)
