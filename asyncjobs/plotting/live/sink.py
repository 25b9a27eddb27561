"""The sink of `live:`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from weakref import WeakKeyDictionary

from asyncjobs.errors import RunnerClosed
from asyncjobs.notebook import find_notebook
from asyncjobs.plotting.edition import Edition
from asyncjobs.plotting.live.delta import Figure, delta, parse
from asyncjobs.plotting.live.request import HOST
from asyncjobs.plotting.live.site import Site
from asyncjobs.plotting.page import check_plotly
from asyncjobs.plotting.studio import studio
from asyncjobs.plotting.telling import tell
from asyncjobs.sync.hosted import HostedRunner

_TARGET = re.compile(r"live:(?://(?:127\.0\.0\.1|localhost)(?::(\d{1,5}))?/?)?")

_sites: WeakKeyDictionary[HostedRunner, Site] = WeakKeyDictionary()


class LivePage:
    """The page that all plots of this process share. Its address is written to standard error.

    Raises:
        ValueError: the target is neither ``live:`` nor ``live://127.0.0.1:PORT``.
        OSError: the port cannot be had.
        ModuleNotFoundError: plotly is not installed, which brings plotly.js.
    """

    def __init__(self, target: str) -> None:
        port = _port(target)
        check_plotly(target)
        host = studio()
        self.target: str = f"live://{HOST}:{port}" if port else "live:"
        self._site = _sites.setdefault(host, Site(host))
        self._texts: Mapping[str, str] = {}
        self._figures: Mapping[str, Figure] = {}
        self._plot: str | None = None
        address, is_new = self._site.open(port)
        if is_new or find_notebook() is not None:  # there each cell has its own output
            tell(f"the live page is at {address}")

    def send(self, edition: Edition) -> None:
        # A large drawing is not taken apart again as long as it is the same.
        known = {name: self._figures[name] for name, text in edition.figures.items() if self._texts.get(name) == text}
        figures = {name: known.get(name) or parse(text) for name, text in edition.figures.items()}
        self._site.pin(edition, delta(self._figures, figures))
        self._plot, self._texts, self._figures = edition.plot, edition.figures, figures

    def close(self) -> None:
        """Say that the plot has ended, and block until all pages have the last of it, at most a second."""
        if self._plot is not None:
            with suppress(RunnerClosed):  # the exit has ended all connections
                self._site.end(self._plot)


def _port(target: str) -> int:
    """0: any."""
    found = _TARGET.fullmatch(target)
    port = int(found[1] or 0) if found else -1
    if not 0 <= port <= 65535:
        raise ValueError(
            f"{target!r} is no live page; allowed: 'live:', or 'live://127.0.0.1:PORT' with a port up to 65535. Other "
            "machines do not see it; ssh -L brings the port to yours"
        )
    return port
