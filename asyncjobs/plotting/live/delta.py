"""What changed between two editions of a plot: the ends of its curves, or whole figures."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from bisect import bisect_left
from collections.abc import Mapping
from typing import Any, TypeAlias

from asyncjobs.plotting.figures import dumps

Figure: TypeAlias = dict[str, Any]

_NBYTES = {"f8": 8, "f4": 4, "i4": 4, "u4": 4, "i2": 2, "u2": 2, "i1": 1, "u1": 1}
"""Of one number of each type that plotly.js knows."""
_COLUMNS = ("x", "y")


def parse(text: str) -> Figure:
    """A figure of plotly's JSON."""
    figure: Figure = json.loads(text)
    return figure


def delta(before: Mapping[str, Figure], after: Mapping[str, Figure]) -> str | None:
    """JSON that makes the figures `after` of those `before`; None: they are not the same ones.

    ``{name: {"ends": [[trace, kept, x, y], …]}}`` for a figure of which some traces keep their first `kept` points and
    go on with the columns `x` and `y`, and ``{name: {"whole": figure}}`` for one that has changed otherwise.
    """
    if list(before) != list(after):
        return None
    return dumps({name: _change(before[name], figure) for name, figure in after.items() if before[name] != figure})


def _change(before: Figure, after: Figure) -> dict[str, Any]:
    if {**before, "data": None} != {**after, "data": None} or len(before["data"]) != len(after["data"]):
        return {"whole": after}
    ends = []
    for number, (old, new) in enumerate(zip(before["data"], after["data"], strict=True)):
        if old == new:
            continue
        if not _differ_in_columns_only(old, new):
            return {"whole": after}
        ends.append([number, *_end(old, new)])
    return {"ends": ends}


def _differ_in_columns_only(old: Figure, new: Figure) -> bool:
    nothing = dict.fromkeys(_COLUMNS)
    return {**old, **nothing} == {**new, **nothing} and all(_have_one_type(old.get(c), new.get(c)) for c in _COLUMNS)


def _have_one_type(old: Any, new: Any) -> bool:
    """Whether both are columns of bytes, of numbers of one size."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return False
    return old.keys() == new.keys() == {"dtype", "bdata"} and old["dtype"] == new["dtype"] and new["dtype"] in _NBYTES


def _end(old: Figure, new: Figure) -> tuple[int, Any, Any]:
    """How many points both begin with, and the columns of those that follow."""
    kept = min(_kept(old[column], new[column]) for column in _COLUMNS)
    return kept, _rest(new["x"], kept), _rest(new["y"], kept)


def _kept(old: Mapping[str, str], new: Mapping[str, str]) -> int:
    return _common(b64decode(old["bdata"]), b64decode(new["bdata"])) // _NBYTES[new["dtype"]]


def _common(old: bytes, new: bytes) -> int:
    """How many bytes both begin with; looks at halves, as a comparison of slices costs next to nothing."""
    if new.startswith(old):
        return len(old)
    lengths = range(1, min(len(old), len(new)) + 1)
    return bisect_left(lengths, True, key=lambda length: old[:length] != new[:length])


def _rest(column: Mapping[str, str], kept: int) -> dict[str, str]:
    rest = b64decode(column["bdata"])[kept * _NBYTES[column["dtype"]] :]
    return {"dtype": column["dtype"], "bdata": b64encode(rest).decode("ascii")}
