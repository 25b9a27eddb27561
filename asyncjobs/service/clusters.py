"""What ``asyncjobs serve --lane`` says, as lanes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final

from asyncjobs.lanes.base import Lane
from asyncjobs.lanes.dask import DaskLane
from asyncjobs.lanes.ray import RayLane
from asyncjobs.service.errors import BadRequest

ENGINES: Final[dict[str, Callable[[str], Lane]]] = {"dask": DaskLane, "ray": RayLane}
_TAKEN = ("loop", "process", "thread")
_WANTED: Final = re.compile(r"(?P<name>[A-Za-z][\w-]{0,63})=(?P<engine>\w+):(?P<address>.+)")


def clusters_of(wanted: Iterable[str]) -> dict[str, Lane]:
    """The lanes by name.

    Raises:
        BadRequest: one of them is not ``NAME=ENGINE:ADDRESS``, or its engine is not installed.
    """
    lanes: dict[str, Lane] = {}
    for text in wanted:
        found = _WANTED.fullmatch(text)
        if found is None or found["engine"] not in ENGINES or found["name"] in (*_TAKEN, *lanes):
            raise BadRequest(f"--lane takes NAME=ENGINE:ADDRESS with a new name and one of {', '.join(ENGINES)}")
        try:
            lanes[found["name"]] = ENGINES[found["engine"]](found["address"])
        except ModuleNotFoundError as error:
            raise BadRequest(f"--lane {found['name']}: {error}") from None
    return lanes
