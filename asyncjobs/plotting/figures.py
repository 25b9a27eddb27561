"""Curves and frames as a figure: plain dictionaries that plotly and its page understand.

A `plotly` figure object costs 1.4 ms before it holds any data; numbers travel as base64 of their bytes, which both
sides of plotly understand since 6.0 and which costs a hundredth of their digits.
"""

from __future__ import annotations

import json
from array import array
from base64 import b64encode
from collections.abc import Iterable, Mapping
from typing import Any

from asyncjobs.plotting.curve import Curve
from asyncjobs.plotting.replay import Frame, Replay

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f6fc9", "#8c6d4f")
"""Okabe and Ito's, which people who see colours differently can tell apart, and two more (https://jfly.uni-koeln.de/color/)."""

GAP = 0.14
"""Share of the height between the two parts of a figure."""


def compose(replay: Replay, title: str, drawings: Mapping[str, str]) -> dict[str, str]:
    """Name and JSON of every figure: first what was logged and written, if anything was, then the `drawings`."""
    traces = [frame for frame in replay.frames.values() if frame.about["kind"] == "trace"]
    figures = {title: dumps(figure(replay.curves, traces, title))} if replay.curves or traces else {}
    return {**figures, **drawings}


def figure(curves: Mapping[str, Curve], frames: Iterable[Frame], title: str) -> dict[str, Any]:
    """Logged curves over their steps, and written traces below them, each part only if there is any."""
    traces = list(frames)
    both = bool(curves and traces)
    data = [_curve(name, one, _colour(n)) for n, (name, one) in enumerate(curves.items())]
    data += [_trace(frame, _colour(len(curves) + n), "2" if both else "") for n, frame in enumerate(traces)]
    return {"data": data, "layout": _layout(title, bool(curves), both)}


def dumps(figure: Mapping[str, Any]) -> str:
    """The figure as JSON without blanks; what is not a number is null, as JSON has no word for it."""
    return json.dumps(figure, separators=(",", ":"), allow_nan=False)


def _curve(name: str, curve: Curve, colour: str) -> dict[str, Any]:
    xs, ys = curve.points()
    # A single point has no line.
    mode = "lines" if len(xs) > 1 else "markers"
    return _line(name, mode, colour) | {"x": _numbers(xs, "f8"), "y": _numbers(ys, "f8")}


def _trace(frame: Frame, colour: str, axis: str) -> dict[str, Any]:
    line = _line(frame.about["name"], frame.about["mode"], colour)
    line |= {"x": _numbers(frame.x, frame.x_type), "y": _numbers(frame.y, frame.y_type)}
    return line | {"xaxis": f"x{axis}", "yaxis": f"y{axis}"}


def _line(name: str, mode: str, colour: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "name": name,
        "mode": mode,
        "line": {"color": colour, "width": 2},
        "marker": {"color": colour, "size": 6},
        "hovertemplate": "%{y:.6g} at %{x:,}",
    }


def _numbers(values: array[float] | bytes, type_: str) -> dict[str, str]:
    return {"dtype": type_, "bdata": b64encode(values).decode("ascii")}


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _layout(title: str, has_curves: bool, both: bool) -> dict[str, Any]:
    layout: dict[str, Any] = {
        "title": {
            "text": title,
            "x": 0,
            "xref": "paper",
            "xanchor": "left",
            "y": 0.98,
            "yanchor": "top",
            "yref": "container",
        },
        "font": {"family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", "size": 13},
        "margin": {"l": 64, "r": 24, "t": 84, "b": 48},
        "hovermode": "x unified" if has_curves else "closest",
        "showlegend": True,
        # At the left, for at the right the buttons come up.
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.01, "yanchor": "bottom"},
        "xaxis": _axis("step" if has_curves else ""),
        "yaxis": _axis(""),
        # Zoom and hidden traces survive an update as long as this stays the same.
        "uirevision": "asyncjobs",
    }
    if both:
        middle = (1 - GAP) / 2
        layout["yaxis"]["domain"] = [1 - middle, 1]
        layout["xaxis2"] = _axis("") | {"anchor": "y2"}
        layout["yaxis2"] = _axis("") | {"anchor": "x2", "domain": [0, middle]}
        layout["height"] = 760
    return layout


def _axis(title: str) -> dict[str, Any]:
    return {"title": {"text": title}, "zeroline": False, "automargin": True}
