"""Curves and frames as a figure: plain dictionaries that plotly and its page understand.

A `plotly` figure object costs 1.4 ms before it holds any data; numbers travel as base64 of their bytes, which both
sides of plotly understand since 6.0 and which costs a hundredth of their digits.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any, NamedTuple

from asyncjobs.plotting.curve import Curve
from asyncjobs.plotting.reading import Frame
from asyncjobs.plotting.replay import Replay

DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
SYMBOLS = ("circle", "diamond", "square", "cross", "x")
"""Of lines and points: another one for each round of the colours."""

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f6fc9", "#8c6d4f")
"""Okabe and Ito's, which people who see colours differently can tell apart, and two more (https://jfly.uni-koeln.de/color/)."""

MOST_IN_SVG = 5000
"""Points."""

GAP = 0.14
"""Share of the height between the two parts of a figure."""

HOVER, HOVER_ALONE = "%{y:.6~g}", "%{y:.6~g} at %{x:,.6~f}"
"""What is said of the point below the pointer: of a curve without its x, which stands above all of them."""

LEGEND = 900
"""Pixels that a legend has in an image; pages make their own room for it, see `page.LOOK`."""
ROW, ENTRY, LETTER = 20, 48, 7.5
"""Pixels of a legend: the height of a row, the width of an entry and of a letter in it."""
FEW_ROWS, MOST_ROWS = 3, 24
"""Of a legend: for so many a figure of usual height has room, and more would leave the reader none for the curves."""

_MARKUP = re.compile(r"<(?=[^<>]*>)|&(?=#?\w+;)")
"""What plotly would take for the beginning of a tag or of a name of a character."""


class Line(NamedTuple):
    """One curve or trace: two columns of numbers as bytes, and the types of these."""

    name: str
    mode: str
    x: bytes
    x_type: str
    y: bytes
    y_type: str


class Numbers(NamedTuple):
    """What was logged and written, before it is text. Any process can make the text."""

    title: str
    curves: tuple[Line, ...]
    """Over their steps."""
    traces: tuple[Line, ...]

    @property
    def nbytes(self) -> int:
        return sum(len(line.x) + len(line.y) for line in self.curves + self.traces)


def numbers(replay: Replay, title: str) -> Numbers:
    """All that is known by now."""
    curves = tuple(_curve(name, one) for name, one in replay.curves.items())
    traces = tuple(_trace(frame) for frame in replay.frames.values() if frame.kind == "trace")
    return Numbers(title, curves, traces)


def compose(known: Numbers) -> dict[str, str]:
    """Name and JSON of the figure with the curves and, below them, the traces; nothing if there are none."""
    lines = known.curves + known.traces
    if not lines:
        return {}
    both = bool(known.curves and known.traces)
    axes = [""] * len(known.curves) + ["2" if both else ""] * len(known.traces)
    hover = HOVER if known.curves else HOVER_ALONE
    data = [_scatter(line, n, axis, hover) for n, (line, axis) in enumerate(zip(lines, axes, strict=True))]
    layout = dumps(_layout(known, both))
    return {known.title: f'{{"data":[{",".join(data)}],"layout":{layout}}}'}


def gather(title: str, composed: Mapping[str, str], drawn: Mapping[str, str]) -> dict[str, str]:
    """All figures of a plot: that of its curves and traces, which is called like the plot, and what was drawn."""
    figures = dict(composed)
    for name, figure in drawn.items():
        while name == title or name in figures:
            name += " (drawn)"
        figures[name] = figure
    return figures


def plain(text: str) -> str:
    """The text for plotly, which takes some of it for HTML: what it would is escaped, the rest stays as it is."""
    return _MARKUP.sub(lambda found: "&lt;" if found[0] == "<" else "&amp;", text)


def dumps(figure: Mapping[str, Any]) -> str:
    """The figure as JSON without blanks; what is not a number is null, as JSON has no word for it."""
    return json.dumps(figure, separators=(",", ":"), allow_nan=False)


def _curve(name: str, curve: Curve) -> Line:
    xs, ys = curve.points()
    # A single point has no line.
    return Line(name, "lines" if len(xs) > 1 else "markers", xs.tobytes(), "f8", ys.tobytes(), "f8")


def _trace(frame: Frame) -> Line:
    return Line(frame.name, frame.how, frame.x, frame.x_type, frame.y, frame.y_type)


def _scatter(line: Line, number: int, axis: str, hover: str) -> str:
    turn, place = divmod(number, len(COLOURS))
    colour = COLOURS[place]
    head = {
        # A browser draws more than some thousand points only with its graphics processor.
        "type": "scatter" if len(line.y) // int(line.y_type[1]) <= MOST_IN_SVG else "scattergl",
        "name": plain(line.name),
        "mode": line.mode,
        "line": {"color": colour, "width": 2, "dash": DASHES[turn % len(DASHES)]},
        "marker": {"color": colour, "size": 6, "symbol": SYMBOLS[turn % len(SYMBOLS)]},
        "hovertemplate": hover,
        "xaxis": f"x{axis}",
        "yaxis": f"y{axis}",
    }
    # Base64 needs no look at every character, as other text in JSON does.
    return f'{dumps(head)[:-1]},"x":{_numbers(line.x, line.x_type)},"y":{_numbers(line.y, line.y_type)}}}'


def _numbers(values: bytes, type_: str) -> str:
    return f'{{"dtype":"{type_}","bdata":"{b64encode(values).decode("ascii")}"}}'


def _layout(known: Numbers, both: bool) -> dict[str, Any]:
    rows = _legend_rows([line.name for line in known.curves + known.traces])
    layout: dict[str, Any] = {
        "title": {
            "text": plain(known.title),
            "x": 0,
            "xref": "paper",
            "xanchor": "left",
            "y": 0.98,
            "yanchor": "top",
            "yref": "container",
        },
        "font": {"family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", "size": 13},
        "margin": {"l": 64, "r": 24, "t": 62 + ROW * rows, "b": 52},
        "hovermode": "x unified" if known.curves else "closest",
        "hoverlabel": {"namelength": -1},
        "showlegend": True,
        # At the left, for at the right the buttons come up.
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.01, "yanchor": "bottom"},
        "xaxis": _axis("step" if known.curves else "") | {"hoverformat": ",.6~f"},
        "yaxis": _axis(""),
        # Zoom and hidden traces survive an update as long as this stays the same.
        "uirevision": "asyncjobs",
    }
    if both:
        middle = (1 - GAP) / 2
        layout["yaxis"]["domain"] = [1 - middle, 1]
        layout["xaxis2"] = _axis("") | {"anchor": "y2", "hoverformat": ",.6~f"}
        layout["yaxis2"] = _axis("") | {"anchor": "x2", "domain": [0, middle]}
    if both or rows > FEW_ROWS:
        layout["height"] = (760 if both else 600) + ROW * max(0, rows - FEW_ROWS)
    return layout


def _legend_rows(names: Sequence[str]) -> int:
    """About how many the legend has in a figure as wide as `LEGEND`: it is drawn in columns unless one row does."""
    widths = [ENTRY + LETTER * len(name) for name in names]
    columns = max(1, int(LEGEND / max(widths)))
    return 1 if sum(widths) <= LEGEND else min(ceil(len(names) / columns), MOST_ROWS)


def _axis(title: str) -> dict[str, Any]:
    return {"title": {"text": title, "standoff": 8}, "zeroline": False, "automargin": True}
