"""Items that travel together, and the plan that says how."""

from __future__ import annotations

from typing import Any

from asyncjobs.job import Job
from asyncjobs.lanes.base import Plan


class Group:
    """Items that travel together."""

    __slots__ = ("error", "items", "job")

    def __init__(self, items: list[Any], job: Job[Any] | None, error: BaseException | None) -> None:
        self.items: list[Any] = items
        self.job: Job[Any] | None = job
        self.error: BaseException | None = error


def grouped(plan: Plan, *, starred: bool) -> Plan:
    """The plan whose calls carry a list of items, each a tuple of arguments if `starred`."""
    group_plan = Plan(plan.fn, plan.name, plan.lane, plan.options, plan.is_coroutine)
    group_plan.by_name = plan.by_name
    group_plan.home, group_plan.encodes = plan.home, plan.encodes
    group_plan.chunked = True
    group_plan.starred = starred
    return group_plan
