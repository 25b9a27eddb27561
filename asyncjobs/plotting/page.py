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


def page(title: str, figures: Mapping[str, str], *, inline: bool, has_heading: bool = True) -> str:
    """The page of some figures, each a name and its JSON; `inline` puts plotly.js into it, 4.8 MB.

    The figure that is called like the page has the page's heading for its title, if there is one.
    """
    # In a script, a comment or its end could begin with it; in JSON it stands in strings only.
    drawings = ",".join(figure.replace("<", "\\u003c") for figure in figures.values())
    headed = [*figures].index(title) if has_heading and title in figures else -1
    heading = f"<h1>{escape(title)}</h1>\n" if has_heading else ""
    places = "\n".join(_PLACE.format(number=n, name=escape(name)) for n, name in enumerate(figures))
    head = _HEAD.format(title=escape(title), font=FONT) + (_inlined() if inline else _linked())
    script = f"<script>\nconst figures = [{drawings}];\nconst HEADED = {headed};{DRAW}</script>"
    return f"{head}\n</head>\n<body>\n{_ABSENT}\n{heading}{places}\n{script}\n</body>\n</html>\n"


_PLACE = '<figure aria-label="{name}"><figcaption>{name}</figcaption><div id="figure-{number}"></div></figure>'

_ABSENT = """<p id="absent" hidden>The plots of this page are drawn by plotly.js, which could not be loaded: it comes
from the network. A page that is made with <code>inline=True</code> has it inside, and needs none.</p>"""

_HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --ink: #22303c; --soft: #5b6b78; --ground: #fff; }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: #dde4ea; --soft: #96a3ae; --ground: #14181c; }} }}
body {{ margin: 0; padding: 16px 20px 32px; font: 15px/1.5 {font}; background: var(--ground); color: var(--ink); }}
h1, figure, #absent {{ max-width: 1200px; margin: 0 auto; overflow-wrap: anywhere; }}
h1 {{ font-size: 20px; line-height: 1.3; font-weight: 620; margin-bottom: 8px; }}
figure {{ margin-bottom: 24px; }}
figcaption {{ color: var(--soft); }}
figure > div {{ min-height: 420px; }}
#absent:not([hidden]) {{ margin-bottom: 16px; }}
#absent:not([hidden]) ~ figure {{ display: none; }}
@media (max-width: 500px) {{ body {{ padding: 12px; }} }}
</style>
"""

LOOK = """
const BARE = {l: 64, r: 24, t: 24, b: 48}; // pixels around a figure that has a caption instead of a title
const MOST_ROWS = 16; // of a legend; it scrolls if it has more
const dark = matchMedia("(prefers-color-scheme: dark)");
function themed(layout = {}) {
  const ink = dark.matches ? "#dde4ea" : "#22303c", rule = dark.matches ? "#2c343b" : "#e8ecef";
  const look = {...layout, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)"};
  look.font = {family: getComputedStyle(document.body).fontFamily, ...layout.font, color: ink};
  look.modebar = {bgcolor: "rgba(0,0,0,0)", color: dark.matches ? "#6b7883" : "#a5b0b8", activecolor: ink};
  look.hoverlabel = {...layout.hoverlabel, bgcolor: dark.matches ? "#22303c" : "#fff", font: {color: ink}};
  for (const axis of Object.keys(layout).filter(key => /^[xy]axis/.test(key)).concat(["xaxis", "yaxis"]))
    look[axis] = {...layout[axis], gridcolor: rule, linecolor: rule, zerolinecolor: rule};
  return look;
}
// The figure of curves and traces below a heading that says its title: as high as its legend needs at that width.
function headed({data, layout = {}}, width) {
  const widths = data.map(trace => 48 + 7.5 * (trace.name ?? "").length), room = width - 44 - BARE.r;
  const sum = widths.reduce((one, other) => one + other, 0);
  const columns = Math.max(1, Math.floor(room / Math.max(...widths)));
  const rows = sum <= room ? 1 : Math.min(Math.ceil(data.length / columns), MOST_ROWS);
  const margin = {...BARE, l: 44, t: 32}, height = (layout.yaxis2 ? 740 : 400) + 20 * rows;
  return {...layout, title: undefined, margin, height};
}
const config = {
  displaylogo: false, responsive: true, showSendToCloud: false, modeBarButtonsToRemove: ["lasso2d", "select2d"],
};
"""
"""Script that fits a layout to the reader's colours; the live page uses it as well."""

DRAW = f"""{LOOK}
function draw() {{
  figures.forEach((figure, n) => {{
    const place = document.getElementById("figure-" + n), title = figure.layout?.title?.text ?? figure.layout?.title;
    const bare = {{...(title ? {{}} : {{margin: BARE}}), ...figure.layout}};
    const layout = n === HEADED ? headed(figure, place.clientWidth) : bare;
    place.previousElementSibling.hidden = n === HEADED || Boolean(title); // the caption
    Plotly.react(place, figure.data, themed(layout), config);
  }});
}}
if (window.Plotly) {{
  draw();
  dark.addEventListener("change", draw);
}} else document.getElementById("absent").hidden = false;
"""
