"""A figure that stays in a saved notebook: of bounded size, and readable on any background."""

from __future__ import annotations

import html
import json
from array import array
from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any

from asyncjobs.plotting.curve import FEWEST, Curve
from asyncjobs.plotting.page import page

LARGEST = 300_000
"""Bytes of all figures of a plot; a notebook holds them twice, and is to stay below 1 MB."""
POINT_NBYTES = 22
"""Two numbers of 8 bytes, in base64."""
HEIGHT = 450
"""Pixels of a figure that does not say."""
BESIDE = 48
"""Pixels for a caption and some air."""

PLOTLY = "application/vnd.plotly.v1+json"

INK, RULE = "#7d8790", "rgba(125,135,144,0.25)"
"""Seen on white and on black: what is saved cannot tell what it will be read on."""

_CODES = {"f8": "d", "f4": "f", "i1": "b", "u1": "B", "i2": "h", "u2": "H", "i4": "i", "u4": "I"}


def bundle(name: str, figure: str, nbytes: int) -> dict[str, Any]:
    """The figure as a notebook keeps it: for front ends that know plotly's format, and as HTML for the others."""
    small = slim(figure, nbytes)
    if small is None:
        return {"text/plain": f"{name}: a figure of {len(figure):,} bytes, too large for a saved notebook"}
    page_of_it = frame(name, {name: _dumps(small)}, has_heading=False)
    return {PLOTLY: _inked(small), "text/html": page_of_it, "text/plain": name}


def slim(figure: str, nbytes: int) -> dict[str, Any] | None:
    """The figure in at most `nbytes` of JSON, with fewer points if need be; None: it is not points that it is made of.

    A curve that loses points keeps its first, its last, and its extremes.
    """
    found: dict[str, Any] = json.loads(figure)
    if len(figure) <= nbytes:
        return found
    traces = [trace for trace in found["data"] if _is_long(trace)]
    rest = len(figure) - sum(len(trace["x"]["bdata"]) + len(trace["y"]["bdata"]) for trace in traces)
    limit = (nbytes - rest) // (POINT_NBYTES * max(1, len(traces)))
    if limit < FEWEST:
        return None
    for trace in traces:
        curve = Curve(limit)
        curve.extend(_numbers(trace["x"]), _numbers(trace["y"]))
        trace["x"], trace["y"] = map(_encoded, curve.points())
    return found if len(_dumps(found)) <= nbytes else None


def frame(title: str, figures: Mapping[str, str], *, has_heading: bool = True) -> str:
    """The figures as a page of their own inside another one, which then need not know plotly."""
    document = html.escape(page(title, figures, inline=False, has_heading=has_heading), quote=True)
    heights = [json.loads(figure).get("layout", {}).get("height", HEIGHT) + BESIDE for figure in figures.values()]
    height = 40 + has_heading * BESIDE + sum(heights)
    look = f"width:100%;height:{height}px;border:0"
    return f'<iframe srcdoc="{document}" title="{html.escape(title)}" style="{look}"></iframe>'


def _is_long(trace: dict[str, Any]) -> bool:
    """Whether it is a line or a cloud of points, as numbers that we can read."""
    columns = (trace.get("x"), trace.get("y"))
    packed = all(isinstance(one, dict) and one.get("dtype") in _CODES and "shape" not in one for one in columns)
    return packed and trace.get("type", "scatter") in ("scatter", "scattergl")


def _numbers(packed: dict[str, str]) -> array[Any]:
    return array(_CODES[packed["dtype"]], b64decode(packed["bdata"]))


def _encoded(values: array[float]) -> dict[str, str]:
    return {"dtype": "f8", "bdata": b64encode(values).decode("ascii")}


def _inked(figure: dict[str, Any]) -> dict[str, Any]:
    layout = figure.get("layout", {})
    look = {"paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)"}
    axes = {name for name in layout if name.startswith(("xaxis", "yaxis"))} | {"xaxis", "yaxis"}
    inked = {name: layout.get(name, {}) | {"gridcolor": RULE, "linecolor": RULE} for name in axes}
    return figure | {"layout": layout | look | inked | {"font": layout.get("font", {}) | {"color": INK}}}


def _dumps(figure: dict[str, Any]) -> str:
    return json.dumps(figure, separators=(",", ":"))
