"""One state of a plot, ready to be sent: what every sink gets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Edition:
    """A plot as it was at one moment.

    Two editions of one plot are the same if their `number` is; a later one has a higher number. A receiver that
    hears of one twice can tell by `key`.
    """

    plot: str
    """The plot's id."""
    title: str
    number: int
    """From 1."""
    mark: tuple[int, ...]
    """The same for the same state of the plot, also in another process."""
    figures: Mapping[str, str]
    """Name and plotly JSON of each figure: first what was logged and written, then what was drawn.

    The first of these is called like the plot, and no other is.
    """

    @property
    def key(self) -> str:
        """An idempotency key."""
        return "-".join([self.plot, *map(str, self.mark)])

    def to_json(self) -> str:
        """``{"plot": id, "title": text, "number": n, "figures": {name: figure}}``, the figures as plotly has them."""
        figures = ",".join(f"{json.dumps(name)}:{figure}" for name, figure in self.figures.items())
        about = f'"plot":"{self.plot}","title":{json.dumps(self.title)},"number":{self.number}'
        return f'{{{about},"figures":{{{figures}}}}}'
