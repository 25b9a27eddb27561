"""Open a page in a real browser, if there is one, and say what it made of it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --enable-logging=stderr --virtual-time-budget=20000 --dump-dom"
)
CHROMIUM = next(filter(None, map(shutil.which, _NAMES)), None)

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium to open the page in")


class Shown(NamedTuple):
    """What the browser made of a page."""

    drawn: int
    """How many plotly figures it drew."""
    complaints: list[str]
    """Its console: errors of scripts, and requests that the page's own policy forbids."""


def open_in_browser(page: Path, folder: Path) -> Shown:
    """Open `page` without a window; the browser keeps its own files in `folder`."""
    assert CHROMIUM is not None
    # No name resolves: the browser's own calls home end here.
    offline = "--host-resolver-rules=MAP * ~NOTFOUND"
    command = [CHROMIUM, *_FLAGS.split(), offline, f"--user-data-dir={folder / 'profile'}", page.as_uri()]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=50)
    complaints = [line for line in ended.stderr.splitlines() if ":CONSOLE" in line]
    return Shown(ended.stdout.count("plotly-graph-div js-plotly-plot"), complaints)
