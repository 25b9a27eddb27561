"""Open a page in a real browser, if there is one, and say what it made of it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_QUIET = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
_DUMP = "--headless --enable-logging=stderr --virtual-time-budget=20000 --dump-dom"
_OFFLINE = "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"
"""No name resolves: the browser's own calls home end here."""
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
    command = [
        CHROMIUM,
        *_QUIET.split(),
        *_DUMP.split(),
        _OFFLINE,
        f"--user-data-dir={folder / 'profile'}",
        page.as_uri(),
    ]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    complaints = [line for line in ended.stderr.splitlines() if ":CONSOLE" in line]
    return Shown(ended.stdout.count("plotly-graph-div js-plotly-plot"), complaints)


@contextmanager
def browsing() -> Iterator[Browser]:
    """The browser for tests that do something in it, or wait for something."""
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=[*_QUIET.split(), _OFFLINE])
        yield started
        started.close()
