"""Calls that wait beside the queue for more than a place: `Line`."""

from __future__ import annotations

from heapq import heapify, heappop, heappush

from asyncjobs.lanes.base import Call


def rank(call: Call) -> tuple[int, int]:
    """Smaller comes first: by priority, and first come among equals."""
    return -call.priority, call.number


class Line:
    """Calls of one lane that wait for the same, in the order in which they are to run."""

    def __init__(self) -> None:
        self._waiting: set[Call] = set()
        # Who has left stays in here until it is the first, or most have left. It has ended: it never comes back.
        self._order: list[tuple[int, int, Call]] = []

    def __contains__(self, call: Call) -> bool:
        return call in self._waiting

    def __len__(self) -> int:
        return len(self._waiting)

    def calls(self) -> list[Call]:
        """All that wait, the first in line first."""
        return [row[2] for row in sorted(self._order) if row[2] in self._waiting]

    def join(self, call: Call) -> None:
        """Stand in line, by priority and number."""
        self._waiting.add(call)
        heappush(self._order, (*rank(call), call))

    def leave(self, call: Call) -> None:
        """`call` has ended."""
        self._waiting.remove(call)
        if len(self._order) > 100 + 2 * len(self._waiting):
            self._order = [row for row in self._order if row[2] in self._waiting]
            heapify(self._order)

    def first(self) -> Call:
        """Who is first; somebody must wait."""
        while self._order[0][2] not in self._waiting:
            heappop(self._order)
        return self._order[0][2]

    def pop(self) -> Call:
        """Take out who is first; somebody must wait."""
        call = self.first()
        heappop(self._order)
        self._waiting.remove(call)
        return call
