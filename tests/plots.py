"""For tests of plots: what a page or a JSON file shows, as numbers."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from asyncjobs.plotting import figures, studio

_TYPES = {"f8": "d", "f4": "f", "i1": "b", "u1": "B", "i2": "h", "u2": "H", "i4": "i", "u4": "I"}


def numbers(column: Any) -> list[float]:
    """A column of a figure, which plotly writes as base64."""
    if isinstance(column, list):
        return column
    return array(_TYPES[column["dtype"]], base64.b64decode(column["bdata"])).tolist()


def traces(figure: Any) -> dict[str, tuple[list[float], list[float]]]:
    """Name, x and y of each trace."""
    figure = json.loads(figure) if isinstance(figure, str | bytes) else figure
    return {trace["name"]: (numbers(trace["x"]), numbers(trace["y"])) for trace in figure["data"]}


def figures_of(page: Path) -> list[Any]:
    """The figures in an HTML page."""
    found = re.search(r"^const figures = (\[.*\]);$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    return list(json.loads(found.group(1)))


def shown(path: Path) -> dict[str, tuple[list[float], list[float]]]:
    """What a plot's JSON file shows."""
    return traces(path.read_text(encoding="utf-8"))


MEETING = threading.Barrier(2)


def meet() -> dict[str, Any]:
    """A picture that says whether another one is drawn at the same time; half a second is long enough for that."""
    try:
        MEETING.wait(0.5)
    except threading.BrokenBarrierError:
        return {"data": [{"name": "alone", "x": [], "y": []}]}
    return {"data": [{"name": "met another", "x": [], "y": []}]}


def compute(seconds: float) -> dict[str, Any]:
    """A picture that takes its thread so much processor time."""
    began = time.thread_time()
    while time.thread_time() - began < seconds:
        pass
    return {"data": []}


IS_WORKER = True
"""A test sets it False in its own process."""


def compose_without_memory(known: figures.Numbers) -> dict[str, str]:
    """As `figures.compose`, which fails in a worker."""
    if IS_WORKER:
        raise MemoryError("the worker has none left")
    return figures.compose(known)


def end_studio() -> None:
    """As the exit of the interpreter does, but at once."""
    if studio._studio is not None:
        studio._studio.close(0)


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own below `folder`, with room for so much: "256k"."""
    disk = folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system can be mounted by root only")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def wait_until(is_so: Callable[[], object], what: str, within: float = 30.0) -> None:
    """Block until `is_so`; look again and again, for what is waited for tells nobody."""
    end = time.monotonic() + within
    while not is_so():
        assert time.monotonic() < end, f"not within {within:g} s: {what}"
        time.sleep(0.02)
