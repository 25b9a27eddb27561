"""What a route is: where it lies, what it takes and gives, and the coroutine that answers. The table is in `routes`."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from asyncjobs.service.http.desk import EngineDesk, StoreDesk, Surroundings
from asyncjobs.service.http.feeds import Feeds
from asyncjobs.service.http.limits import Limits
from asyncjobs.service.http.message import Answer, Request, Stream
from asyncjobs.service.http.tally import Tally


class NoQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A route without parameters."""


@dataclass(frozen=True, slots=True)
class Desk:
    """All that a handler gets beside its request."""

    engine: EngineDesk
    store: StoreDesk
    service: Surroundings
    feeds: Feeds
    tally: Tally
    limits: Limits
    document: Callable[[], bytes]
    """The OpenAPI document."""


class Call(NamedTuple):
    """A request that has been decoded for its route."""

    request: Request
    parameters: dict[str, str]
    """Those of the path."""
    query: Any
    """An instance of the route's `query`."""
    body: Any
    """An instance of the route's `body`; the bytes where it has none of a single type."""


class Media(NamedTuple):
    """An answer that is no JSON struct."""

    type: str
    about: str


Handler = Callable[[Desk, Call], Awaitable[Answer | Stream]]

PARAMETERS: dict[str, str] = {
    "id": "[0-9a-hjkmnp-tv-z]{26}",
    "name": "[A-Za-z0-9][A-Za-z0-9._-]{0,99}",
}
"""What a part of a path may be. Paths are never decoded: what has a percent sign in it matches nothing."""


@dataclass(frozen=True)
class Route:
    """One line of the table, and one operation of the OpenAPI document."""

    method: str
    path: str
    handler: Handler
    answers: dict[int, Any]
    """What comes when it goes well, by status: a struct, a list of them, a `Media`, or None for no body."""
    errors: tuple[int, ...] = ()
    """What else its handler may answer, with an `ErrorView`; 400 and those of the gate may always come."""
    query: type[msgspec.Struct] = NoQuery
    body: type[msgspec.Struct] | tuple[type[msgspec.Struct], ...] | None = None
    """What it takes; of several types the handler finds the one that it is."""
    waits: bool = False
    """It may wait as long as the caller asks for."""

    @property
    def may_cancel(self) -> bool:
        """It changes nothing: it ends when its caller goes."""
        return self.method == "GET"

    @property
    def name(self) -> str:
        return self.handler.__name__

    @property
    def about(self) -> str:
        """The first line of the handler's docstring."""
        return (self.handler.__doc__ or "").partition("\n")[0]

    def pattern(self) -> re.Pattern[str]:
        """Matches its paths, as a whole."""
        return re.compile(re.sub(r"\{(\w+)\}", lambda found: f"(?P<{found[1]}>{PARAMETERS[found[1]]})", self.path))


class Table:
    """Finds the route of a request."""

    def __init__(self, routes: tuple[Route, ...]) -> None:
        self._fixed: dict[str, dict[str, Route]] = {}
        patterns: dict[str, tuple[re.Pattern[str], dict[str, Route]]] = {}
        for route in routes:
            if "{" in route.path:
                patterns.setdefault(route.path, (route.pattern(), {}))[1][route.method] = route
            else:
                self._fixed.setdefault(route.path, {})[route.method] = route
        self._patterns = tuple(patterns.values())

    def find(self, path: str) -> tuple[dict[str, Route], dict[str, str]]:
        """The routes at a path, by method, and what the path says; no routes: nothing lies there."""
        fixed = self._fixed.get(path)
        if fixed is not None:
            return fixed, {}
        for pattern, routes in self._patterns:
            found = pattern.fullmatch(path)
            if found is not None:
                return routes, found.groupdict()
        return {}, {}
