"""Put plotly figures, tables and text on one HTML page that opens without any network.

It knows nothing of runners and draws nothing itself: the figures come from the caller,
and plotly.js from the plotly package that made them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
"""Fonts of the reader's own machine: a web font would ask the network."""
INK = "#22303c"
RULE = "#e8ecef"
"""The colour of thin lines."""


class Table(NamedTuple):
    """Rows of text under a heading row; the first column is a label, the others are figures."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


class Code(NamedTuple):
    """A piece of a program, shown as it is."""

    text: str


Part: TypeAlias = "Figure | Table | Code | str"
"""A plotly figure, a table, a program, or paragraphs of plain text with blank lines between."""


def write_html(
    figures: Mapping[str, Part | Sequence[Part]],
    path: str | os.PathLike[str],
    *,
    title: str = "asyncjobs report",
    intro: str = "",
) -> None:
    """Write the page; with figures it is about 5 MB, for plotly.js is inside.

    Each entry is a heading and what stands below it: one part or a list of them. A figure's
    own title gives way to the heading; its ``layout.meta["caption"]`` becomes the paragraph
    above it. All text is escaped. Folders are made as needed.
    """
    drawings: list[str] = []
    sections: list[str] = []
    for heading, content in figures.items():
        parts = content if _is_several(content) else [content]
        body = "\n".join(_part(part, drawings) for part in parts)
        sections.append(f"<section>\n<h2>{escape(heading)}</h2>\n{body}\n</section>")
    page = _PAGE.format(title=escape(title), policy=_POLICY, style=_STYLE, intro=_text(intro), body="\n".join(sections))
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with open(path, "w", encoding="utf-8") as target:
        target.write(page)


def escape(text: str) -> str:
    """The text for use inside HTML, attributes included.

    `html.escape` does the same, but its module brings a table of 2,000 names along, and
    every program that runs jobs imports this one. For the same reason there is no pathlib here.
    """
    for character, name in (("&", "amp"), ("<", "lt"), (">", "gt"), ('"', "quot"), ("'", "#x27")):
        text = text.replace(character, f"&{name};")
    return text


def _is_several(content: Part | Sequence[Part]) -> bool:
    return isinstance(content, Sequence) and not isinstance(content, str | Table | Code)


def _part(part: Part, drawings: list[str]) -> str:
    if isinstance(part, str):
        return _text(part)
    if isinstance(part, Table):
        return _table(part)
    if isinstance(part, Code):
        return f"<pre>{escape(part.text.strip())}</pre>"
    return _drawing(part, drawings)


def _text(text: str) -> str:
    paragraphs = re.split(r"\n\s*\n", text.strip())
    return "\n".join(f"<p>{escape(paragraph)}</p>" for paragraph in paragraphs if paragraph)


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table.head)
    rows = ("".join(f"<td>{escape(cell)}</td>" for cell in row) for row in table.rows)
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    return f'<div class="table"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'


def _drawing(figure: Figure, drawings: list[str]) -> str:
    """The figure as HTML; `drawings` collects the ids, so that only the page's first brings plotly.js."""
    meta = figure.layout.meta
    caption = meta.get("caption", "") if isinstance(meta, Mapping) else ""
    # A copy: the caller's figure keeps its title.
    bare = type(figure)(figure).update_layout(title=None, margin_t=44)
    anchor = f"figure-{len(drawings) + 1}"
    drawing = bare.to_html(include_plotlyjs=not drawings, full_html=False, div_id=anchor, config=_CONFIG)
    drawings.append(anchor)
    return f"{_text(caption)}\n<figure>{drawing}</figure>"


_CONFIG = {"displaylogo": False, "responsive": True, "modeBarButtonsToRemove": ["lasso2d", "select2d"]}

# The browser itself refuses any request: the page holds all it needs. Plotly's WebGL traces compile code,
# so eval stays allowed; saving a picture goes through data and blob addresses.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:; worker-src blob:"
)

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<header>
<h1>{title}</h1>
{intro}
</header>
{body}
</main>
</body>
</html>
"""

_STYLE = f"""
:root {{ color-scheme: light; }}
body {{ margin: 0; background: #f5f7f8; color: {INK}; font: 16px/1.6 {FONT}; }}
main {{ max-width: 1040px; margin: 0 auto; padding: 48px 24px 72px; }}
h1 {{ font-size: 34px; line-height: 1.2; font-weight: 650; letter-spacing: -0.01em; margin: 0 0 16px; }}
h2 {{ font-size: 21px; line-height: 1.3; font-weight: 620; margin: 0 0 8px; }}
p {{ max-width: 76ch; margin: 0 0 12px; }}
header p {{ font-size: 17px; }}
section {{ background: #fff; border: 1px solid #e2e7ea; border-radius: 10px; }}
section {{ padding: 26px 30px 18px; margin-top: 26px; }}
pre {{ background: #f5f7f8; border-radius: 6px; padding: 14px 18px; margin: 6px 0 14px; overflow-x: auto; }}
pre {{ font: 14px/1.55 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }}
figure {{ margin: 6px 0 0; }}
.table {{ overflow-x: auto; margin: 10px 0 16px; }}
table {{ border-collapse: collapse; font-size: 15px; font-variant-numeric: tabular-nums; }}
th, td {{ padding: 6px 14px; border-bottom: 1px solid {RULE}; text-align: right; white-space: nowrap; }}
th {{ font-weight: 600; color: #586873; border-bottom-color: #c5ced4; }}
th:first-child, td:first-child {{ text-align: left; padding-left: 0; }}
@media print {{ body {{ background: #fff; }} section {{ border: 0; padding: 0; break-inside: avoid; }} }}
"""
