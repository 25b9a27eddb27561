"""A plot as one HTML page: in the reader's colours, with no button that sends it elsewhere."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from importlib.util import find_spec

from asyncjobs.page import FONT, escape

CDN = "https://cdn.plot.ly/plotly-{version}.min.js"


@cache
def plotly_js() -> str:
    """The installed plotly's own plotly.js, some 4.8 MB.

    Raises:
        ModuleNotFoundError: plotly is not installed.
    """
    return bundle().read_text(encoding="utf-8")


def bundle() -> Traversable:
    """Where plotly's plotly.js is.

    Raises:
        ModuleNotFoundError: plotly is not installed.
    """
    return resources.files("plotly").joinpath("package_data", "plotly.min.js")


def check_plotly(target: str) -> None:
    """Refuse a target that will show a page without having plotly.js; quick, for plotly is not imported.

    Raises:
        ModuleNotFoundError: plotly is not installed; says how to install it.
    """
    if find_spec("plotly") is None:
        raise ModuleNotFoundError(f"{target} needs plotly.js: pip install 'asyncjobs-runner[plot]'")


@cache
def source() -> tuple[str, str] | None:
    """Where the network has the same plotly.js, and the hash by which a browser knows it; None: not a release."""
    text = plotly_js()
    found = re.search(r"plotly\.js v(\S+)", text[:400])
    if found is None:
        return None
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return CDN.format(version=found.group(1)), f"sha256-{digest}"


@cache
def _linked() -> str:
    """A script element that loads it from there."""
    found = source()
    if found is None:
        return _inlined()
    address, integrity = found
    return f'<script src="{address}" integrity="{integrity}" crossorigin="anonymous"></script>'


@cache
def _inlined() -> str:
    return f"<script>{plotly_js()}</script>"


def page(title: str, figures: Mapping[str, str], *, inline: bool) -> str:
    """The page of some figures, each a name and its JSON; `inline` puts plotly.js into it, 4.8 MB."""
    # In a script, only this could end it.
    drawings = ",".join(figure.replace("</", "<\\/") for figure in figures.values())
    places = "\n".join(_PLACE.format(number=n, name=escape(name)) for n, name in enumerate(figures))
    head = _HEAD.format(title=escape(title), font=FONT) + (_inlined() if inline else _linked())
    body = f"{places}\n<script>\nconst figures = [{drawings}];{DRAW}</script>"
    return f"{head}\n</head>\n<body>\n{body}\n</body>\n</html>\n"


_PLACE = '<figure id="figure-{number}" aria-label="{name}"></figure>'

_HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ margin: 0; padding: 16px; font: 15px/1.5 {font}; background: #fff; color: #22303c; }}
figure {{ margin: 0 auto 24px; max-width: 1200px; min-height: 420px; }}
@media (prefers-color-scheme: dark) {{ body {{ background: #14181c; color: #dde4ea; }} }}
</style>
"""

LOOK = """
const dark = matchMedia("(prefers-color-scheme: dark)");
function themed(layout = {}) {
  const ink = dark.matches ? "#dde4ea" : "#22303c", rule = dark.matches ? "#2c343b" : "#e8ecef";
  const look = {...layout, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)"};
  look.font = {...layout.font, color: ink};
  look.modebar = {bgcolor: "rgba(0,0,0,0)", color: dark.matches ? "#6b7883" : "#a5b0b8", activecolor: ink};
  look.hoverlabel = {bgcolor: dark.matches ? "#22303c" : "#fff", font: {color: ink}};
  for (const axis of Object.keys(layout).filter(key => /^[xy]axis/.test(key)).concat(["xaxis", "yaxis"]))
    look[axis] = {...layout[axis], gridcolor: rule, linecolor: rule, zerolinecolor: rule};
  return look;
}
const config = {
  displaylogo: false, responsive: true, showSendToCloud: false, modeBarButtonsToRemove: ["lasso2d", "select2d"],
};
"""
"""Script that fits a layout to the reader's colours; the live page uses it as well."""

DRAW = f"""{LOOK}
function draw() {{
  figures.forEach((figure, n) => Plotly.react("figure-" + n, figure.data, themed(figure.layout), config));
}}
draw();
dark.addEventListener("change", draw);
"""
