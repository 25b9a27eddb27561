"""Count requests and connections: plain numbers, read when somebody asks for the metrics."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter

BOUNDS: tuple[float, ...] = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds, of the latency histogram; the last bucket has no bound."""


class Tally:
    """What the doors have seen since the start."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        """By route and status; the route of those that never got to one is empty."""
        self.seconds: dict[str, list[int]] = {}
        """By route: how many answers fell between two of `BOUNDS`."""
        self.sums: Counter[str] = Counter()
        """By route: seconds, all together."""
        self.connections: Counter[tuple[str, str]] = Counter()
        """Open now, by door and peer; all of a door under the empty peer."""

    def note(self, route: str, status: int, seconds: float) -> None:
        """One more answer."""
        self.requests[route, status] += 1
        buckets = self.seconds.get(route)
        if buckets is None:
            buckets = self.seconds[route] = [0] * (len(BOUNDS) + 1)
        buckets[bisect_left(BOUNDS, seconds)] += 1
        self.sums[route] += seconds  # type: ignore[assignment]  # Counter's values are declared as int
