"""Items that travel together: which may, and the plan that says how."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from asyncjobs.errors import NotSendable, WorkerLost
from asyncjobs.job import Job
from asyncjobs.lanes.base import Lane, Plan
from asyncjobs.options import DEFAULTS, settle
from asyncjobs.wire import codec

T = TypeVar("T")

ITEM_OPTIONS = ("timeout", "queue_timeout", "deadline", "lost", "limiter", "max_result", "retry", "output", "resources")
"""With any of these each item is a job of its own."""


class Group:
    """Items that travel together."""

    __slots__ = ("error", "first", "items", "job")

    def __init__(self, first: int, items: list[Any], job: Job[Any] | None, error: BaseException | None) -> None:
        self.first: int = first
        """The index of the first item among all of the map's."""
        self.items: list[Any] = items
        self.job: Job[Any] | None = job
        self.error: BaseException | None = error


def goes_in_groups(plan: Plan, lane: Lane) -> bool:
    """Whether several items may share a call: none has a time limit or the like of its own."""
    plain = settle(DEFAULTS)
    return lane.capabilities.groups and all(
        getattr(plan.options, name) == getattr(plain, name) for name in ITEM_OPTIONS
    )


def item_error(fn: Callable[..., Any], item: Any, index: int, error: NotSendable) -> NotSendable:
    """The same error in the words of a caller who gave us items, and no lists of arguments."""
    cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
    problem = codec.item_not_sendable(fn, item, index, cause)
    problem.__cause__ = cause
    return problem


def plan_for_map(fn: Callable[..., Any], plan: Plan, *, grouped: bool, starred: bool) -> Plan:
    """The plan of one map's calls: a function that travels by value is pickled once.

    If `grouped` its calls carry a list of items, each a tuple of arguments if `starred`.
    """
    map_plan = Plan(plan.name, plan.lane, plan.options, plan.is_coroutine)
    map_plan.by_name = plan.by_name
    map_plan.home, map_plan.encodes = plan.home, plan.encodes
    if plan.encodes and plan.by_name is None:
        map_plan.function = codec.encode_function(fn)
    map_plan.chunked = grouped
    map_plan.starred = grouped and starred
    return map_plan


def apart(items: list[T], error: BaseException) -> list[tuple[list[T], bool]]:
    """What to do with a group that ended badly: parts, and whether `error` is theirs; the others are to run again."""
    if not isinstance(error, WorkerLost) or error.item >= len(items):
        return [([item], False) for item in items]
    at = error.item
    parts = [(items[:at], False), (items[at : at + 1], True), (items[at + 1 :], False)]
    return [(part, is_its) for part, is_its in parts if part]
