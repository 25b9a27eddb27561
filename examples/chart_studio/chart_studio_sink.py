"""A sink in a package of its own: plots on a server that speaks Chart Studio's REST API, version 2.

Such a server takes no arrays in a figure. They go to a grid first, of which the figure then names columns:
``xsrc="ann:7:1a2b3c"``. Whose server it is and who writes to it comes from the environment, never from the target.
"""

from __future__ import annotations

import base64
import json
import os
import urllib.error
import urllib.parse
import urllib.request
from array import array
from typing import Any

from asyncjobs.plotting.edition import Edition
from asyncjobs.plotting.sinks.base import Refused
from asyncjobs.plotting.sinks.web import FINAL, retry_after

VARIABLES = ("PLOTLY_API_DOMAIN", "PLOTLY_USERNAME", "PLOTLY_API_KEY")
TIMEOUT = 30.0
CODES = {"f8": "d", "f4": "f", "i1": "b", "u1": "B", "i2": "h", "u2": "H", "i4": "i", "u4": "I"}
"""What plotly calls a type of numbers, and what `array` does."""


class ChartStudio:
    """``chart-studio:loss`` is the plot "loss", and "loss-NAME" for each drawn figure.

    An edition is a new grid, to which the plot is pointed before the grid of the one before goes: whoever looks sees
    a whole one. Four requests in all, so it comes at most every 30 s.
    """

    every: float = 30.0

    def __init__(self, target: str) -> None:
        missing = [name for name in VARIABLES if not os.environ.get(name)]
        if missing:
            raise ValueError(f"{target} needs {', '.join(missing)} in the environment")
        domain, user, key = (os.environ[name] for name in VARIABLES)
        self.target: str = target
        self._name = target.partition(":")[2] or "plot"
        self._base = domain.rstrip("/") + "/v2/"
        self._headers = {
            "Authorization": "Basic " + base64.b64encode(f"{user}:{key}".encode()).decode(),
            "Content-Type": "application/json",
            "Plotly-Client-Platform": "python asyncjobs",
        }
        self._grids: dict[str, str] = {}
        """Of each plot the grid that it shows."""

    def send(self, edition: Edition) -> None:
        for number, (name, figure) in enumerate(edition.figures.items()):
            self._send(f"{self._name}-{name}" if number else self._name, json.loads(figure))

    def close(self) -> None:
        """Nothing is open."""

    def _send(self, name: str, figure: dict[str, Any]) -> None:
        columns = _taken_out(figure)
        grid = self._new_grid(name, columns) if columns else None
        body = {"figure": figure, "filename": name, "world_readable": False}
        plot = self._find_plot(name)
        if plot is None:
            self._ask("POST", "plots", body)
        else:
            self._ask("PUT", f"plots/{plot}", body)
        before = self._grids.pop(name, None)
        if grid is not None:
            self._grids[name] = grid
        if before is not None:
            self._ask("DELETE", f"grids/{before}")

    def _new_grid(self, name: str, columns: dict[str, tuple[dict[str, Any], str, list[Any]]]) -> str:
        data = {column: {"data": values, "order": n} for n, (column, (*_, values)) in enumerate(columns.items())}
        # No two grids have one name, whatever became of an earlier try.
        body = {"data": {"cols": data}, "filename": f"{name}-{os.urandom(4).hex()}", "world_readable": False}
        made = self._ask("POST", "grids", body)["file"]
        for column in made["cols"]:
            trace, attribute, _ = columns[column["name"]]
            trace[f"{attribute}src"] = f"{made['fid']}:{column['uid']}"
        return str(made["fid"])

    def _find_plot(self, name: str) -> str | None:
        try:
            return str(self._ask("GET", f"plots/lookup?path={urllib.parse.quote(name)}")["fid"])
        except Refused as refused:
            if isinstance(refused.__cause__, urllib.error.HTTPError) and refused.__cause__.code == 404:
                return None
            raise

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._base + path, content, self._headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            with error:
                wait = retry_after(error.headers.get("Retry-After"))
                text = f"{method} {path}: the server answered {error.code} {error.reason}"
                raise Refused(text, wait, is_final=error.code in FINAL) from error


def _taken_out(figure: dict[str, Any]) -> dict[str, tuple[dict[str, Any], str, list[Any]]]:
    """Take the arrays out of the figure's traces: for each column its trace, its attribute and its values."""
    columns = {}
    for number, trace in enumerate(figure["data"]):
        for attribute in [name for name, value in trace.items() if _is_array(value)]:
            values = _values(trace.pop(attribute))
            columns[f"{number} {trace.get('name', '')}, {attribute}"] = (trace, attribute, values)
    return columns


def _is_array(value: Any) -> bool:
    return isinstance(value, list) or (isinstance(value, dict) and "bdata" in value)


def _values(value: Any) -> list[Any]:
    if isinstance(value, list):
        return value
    return array(CODES[value["dtype"]], base64.b64decode(value["bdata"])).tolist()
