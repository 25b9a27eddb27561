"""Print what `tables` drew: in colour on a terminal, without on a pipe; and JSON."""

from __future__ import annotations

import io
import json
import sys
from typing import Any

from rich.console import Console, RenderableType

PIPE_WIDTH = 220
"""Columns where the output is no terminal: nothing is cut that a program downstream might want."""


def show(what: RenderableType) -> None:
    """Print it on standard output."""
    if sys.stdout.isatty():
        Console(highlight=False).print(what)
        return
    text = io.StringIO()
    Console(file=text, width=PIPE_WIDTH, highlight=False, color_system=None).print(what)
    for line in text.getvalue().splitlines():
        sys.stdout.write(line.rstrip() + "\n")


def width() -> int:
    """Columns that there are."""
    return Console().width if sys.stdout.isatty() else PIPE_WIDTH


def show_json(value: Any) -> None:
    """Print it as JSON, every character beyond ASCII escaped: harmless on a terminal as well."""
    sys.stdout.write(json.dumps(value, indent=2 if sys.stdout.isatty() else None) + "\n")


def say(text: str, style: str = "dim") -> None:
    """A line for people on standard error; scripts read standard output."""
    Console(stderr=True, highlight=False, markup=False, soft_wrap=True).print(text, style=style)
