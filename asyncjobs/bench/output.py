"""Bring a benchmark's report to the reader: lines on the terminal, a file of figures, a page."""

from __future__ import annotations

import sys
from pathlib import Path

from asyncjobs.bench import page, peers, table
from asyncjobs.bench.result import Report


def progress(line: str) -> None:
    """Say on standard error what is being measured; on a terminal one line that is written over."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{line[:100]}", end="", file=sys.stderr, flush=True)


def check_writable(html_path: Path | None) -> None:
    """Find out before the measurements, not after, that the page cannot be drawn.

    Raises:
        ModuleNotFoundError: a page is wanted and plotly is not installed.
    """
    if html_path and not peers.installed("plotly"):
        raise ModuleNotFoundError('the page needs plotly: pip install "asyncjobs-runner[bench]"', name="plotly")


def check_drawable(image_path: Path | None) -> None:
    """The same for a picture in a file of its own.

    Raises:
        ModuleNotFoundError: a picture is wanted and kaleido, which draws it, is not installed.
    """
    if image_path and not peers.installed("kaleido"):
        raise ModuleNotFoundError('the picture needs kaleido: pip install "asyncjobs-runner[image]"', name="kaleido")


def publish(report: Report, json_path: Path | None, html_path: Path | None) -> None:
    """Print the report, and write the files for which there is a path; folders are made as needed."""
    progress("")
    if json_path:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        json_path.write_text(report.to_json(), encoding="utf-8")
    for line in table.lines(report):
        print(line)
    if json_path:
        print(f"figures: {json_path}")
    if html_path:
        page.write(report, html_path)
        print(f"page: {html_path}")
