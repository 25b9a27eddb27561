"""Items that travel together, and the plan that says how."""

from __future__ import annotations

from typing import Any

from asyncjobs.job import Job
from asyncjobs.lanes.base import Plan
from asyncjobs.wire import codec


class Group:
    """Items that travel together."""

    __slots__ = ("error", "items", "job")

    def __init__(self, items: list[Any], job: Job[Any] | None, error: BaseException | None) -> None:
        self.items: list[Any] = items
        self.job: Job[Any] | None = job
        self.error: BaseException | None = error


def plan_for_map(plan: Plan, *, grouped: bool, starred: bool) -> Plan:
    """The plan of one map's calls: a function that travels by value is pickled once.

    If `grouped` its calls carry a list of items, each a tuple of arguments if `starred`.
    """
    map_plan = Plan(plan.fn, plan.name, plan.lane, plan.options, plan.is_coroutine)
    map_plan.by_name = plan.by_name
    map_plan.home, map_plan.encodes = plan.home, plan.encodes
    if plan.encodes and plan.by_name is None:
        map_plan.function = codec.encode_function(plan.fn)
    map_plan.chunked = grouped
    map_plan.starred = grouped and starred
    return map_plan
