"""`draw` in the background: a function that makes a figure, with its arguments as they were at the call."""

from __future__ import annotations

import json
from typing import Any

import cloudpickle


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
        # JSON has no word for what is not a number.
        return json.dumps(json.loads(json.dumps(figure), parse_constant=lambda _: None))
    raise TypeError(f"draw wants a function that returns a plotly figure, or a dict with 'data', not {figure!r:.80}")
