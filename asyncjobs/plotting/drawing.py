"""`draw` in the background: a function that makes a figure, with its arguments as they were at the call."""

from __future__ import annotations

import json
import time
from importlib.util import find_spec
from typing import Any, NamedTuple

import cloudpickle


class Drawn(NamedTuple):
    """What came of one call."""

    seconds: float
    """Processor time that its thread spent on it."""
    figure: str | None
    """Plotly's JSON; None: it failed."""
    error: str | None


def pack(make: Any, args: tuple[Any, ...]) -> bytes:
    """The call as bytes.

    Raises:
        TypeError: it cannot be copied; names the function.
    """
    try:
        return bytes(cloudpickle.dumps((make, args)))
    except Exception as error:
        name = getattr(make, "__name__", repr(make))
        raise TypeError(f"draw({name}, …) needs a copy of the function and its arguments: {error}") from error


def draw(packed: bytes) -> str:
    """Make the figure, and return plotly's JSON of it. Runs in a thread or in a worker process.

    Raises:
        TypeError: the function returned something else than a plotly figure or a dictionary like one.
    """
    make, args = cloudpickle.loads(packed)
    figure = make(*args) if callable(make) else make
    if hasattr(figure, "to_json"):
        return str(figure.to_json())
    if isinstance(figure, dict) and "data" in figure:
        return _json(figure)
    raise TypeError(f"draw wants a function that returns a plotly figure, or a dict with 'data', not {figure!r:.80}")


def attempt(packed: bytes) -> Drawn:
    """`draw`, but nothing is raised: time that was spent in vain is spent as well."""
    began = time.thread_time()
    figure = error = None
    try:
        figure = draw(packed)
    except Exception as problem:  # the user's function may raise anything
        error = f"{type(problem).__name__}: {problem}"
    return Drawn(time.thread_time() - began, figure, error)


def _json(figure: dict[str, Any]) -> str:
    try:
        text = json.dumps(figure)
    except TypeError:  # there are arrays in it, or traces of plotly's
        if find_spec("plotly") is None:
            raise
        from plotly.io import to_json

        return str(to_json(figure, validate=False))
    # JSON has no word for what is not a number.
    return json.dumps(json.loads(text, parse_constant=lambda _: None))
