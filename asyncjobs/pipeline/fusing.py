"""Which neighbouring stages make one trip to the same workers: `fused`. Pure: descriptions in, descriptions out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from asyncjobs.pipeline.stages import Map, Stage, Zip


def fused(stages: Iterable[Stage], is_remote: Callable[[str], bool]) -> tuple[Stage, ...]:
    """`stages`, where each row of maps and filters on one remote lane is a single `Map`.

    `is_remote` says of a lane's name whether items have to travel to it.
    """
    result: list[Stage] = []
    for stage in stages:
        if isinstance(stage, Zip):
            result.append(Zip(tuple(fused(others, is_remote) for others in stage.others)))
        elif isinstance(stage, Map) and result and _joins(result[-1], stage, is_remote):
            result[-1] = _joined(result[-1], stage)
        else:
            result.append(stage)
    return tuple(result)


def _joins(before: Stage, after: Map, is_remote: Callable[[str], bool]) -> bool:
    """Whether nobody could tell the difference, but by the time that it takes."""
    if not (isinstance(before, Map) and before.lane == after.lane and is_remote(after.lane)):
        return False
    # Who dies in a trip is judged by one `on_error`; a function of error and item needs the item, which is elsewhere.
    policy = before.steps[0].on_error
    # So many calls at once of each, and no more.
    if (before.concurrency, before.is_tuned) != (after.concurrency, after.is_tuned):
        return False
    if (
        before.timeout is not None
        or after.timeout is not None
        or before.ordered != after.ordered
        or after.steps[0].on_error != policy
        or callable(policy)
    ):
        return False
    # Which item it is of the second stage's is known there only if the first leaves none out.
    return not after.steps[0].is_seeded or all(step.keeps_all for step in before.steps)


def _joined(before: Stage, after: Map) -> Map:
    assert isinstance(before, Map)
    return replace(before, steps=before.steps + after.steps)
