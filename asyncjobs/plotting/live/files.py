"""What the live page is made of, as it is served."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from functools import cache
from importlib import resources

from asyncjobs.plotting import page
from asyncjobs.plotting.live.request import File

FILES: Mapping[str, tuple[str, str]] = {
    "": ("page.html", "text/html; charset=utf-8"),
    "page.css": ("page.css", "text/css; charset=utf-8"),
    "page.js": ("page.js", "text/javascript; charset=utf-8"),
    "look.js": ("", "text/javascript; charset=utf-8"),
}
"""Name in the address, and the file here and its type."""
PLOTLY = "plotly.js"


@cache
def load(name: str) -> File:
    """One of `FILES`."""
    source, kind = FILES[name]
    text = resources.files(__package__).joinpath(source).read_bytes() if source else page.LOOK.encode()
    return File(text, {"Content-Type": kind})


@cache
def load_plotly() -> File:
    """The installed plotly's own plotly.js, packed: 1.4 MB, which a browser keeps.

    Raises:
        ModuleNotFoundError: plotly is not installed.
    """
    packed = gzip.compress(page.bundle().read_bytes(), mtime=0)
    headers = {
        "Content-Type": "text/javascript; charset=utf-8",
        "Content-Encoding": "gzip",  # there is no browser that does not take it
        "Cache-Control": "private, no-cache",  # kept, but asked for again: plotly may be a newer one the next time
        "ETag": f'"{hashlib.sha256(packed).hexdigest()[:32]}"',
    }
    return File(packed, headers)
