"""What the live page shows: the newest edition of every plot, and how it came of those before."""

from __future__ import annotations

import asyncio
import json
from collections import deque

from asyncjobs.plotting.edition import Edition

MOST_OVER = 8
"""Plots that have ended and are still shown."""


class Board:
    """All plots of a process, newest first. Its size is bounded by what it shows. Lives on one loop."""

    def __init__(self) -> None:
        self.revision: int = 0
        """Grows with every change."""
        self._pinned: dict[str, _Pinned] = {}
        self._change = asyncio.Event()

    def pin(self, edition: Edition, delta: str | None) -> None:
        """Show it; `delta` makes it of the one before, None: only the whole of it will do."""
        pinned = self._pinned.get(edition.plot)
        if pinned is None:
            self._pinned = {edition.plot: _Pinned(edition), **self._pinned}
        else:
            pinned.replace(edition, delta)
        self._changed()

    def end(self, plot: str) -> None:
        """It will not change any more."""
        if plot not in self._pinned:  # it never showed anything
            return
        self._pinned[plot].is_over = True
        over = [name for name, pinned in self._pinned.items() if pinned.is_over]
        for name in over[MOST_OVER:]:
            del self._pinned[name]
        self._changed()

    def news(self, seen: dict[str, int]) -> str:
        """JSON of what a reader lacks who has `seen` these numbers of these plots; `seen` is brought up to date.

        ``{"plots": [[id, has ended], …], "news": […]}``: the plots in the order in which they are shown, and of each
        ``{"plot": id, "n": number, "whole": …}``, or for the number that follows the last one ``"delta"`` instead.
        """
        texts = [text for name, pinned in self._pinned.items() for text in pinned.since(seen.get(name))]
        seen.clear()
        seen.update({name: pinned.number for name, pinned in self._pinned.items()})
        plots = json.dumps([[name, pinned.is_over] for name, pinned in self._pinned.items()])
        return f'{{"plots":{plots},"news":[{",".join(texts)}]}}'

    async def changed_since(self, revision: int) -> None:
        """Wait until there is a later one."""
        while self.revision <= revision:
            await self._change.wait()

    def _changed(self) -> None:
        self.revision += 1
        self._change.set()
        self._change = asyncio.Event()


class _Pinned:
    """One plot."""

    def __init__(self, edition: Edition) -> None:
        self.number: int = 1
        self.is_over: bool = False
        self._edition = edition
        # Invariant: the last one leads to `number`, each other to the number before the next one's.
        self._deltas: deque[str] = deque()
        self._length = 0

    def replace(self, edition: Edition, delta: str | None) -> None:
        self.number += 1
        self._edition = edition
        if delta is None:
            self._deltas.clear()
            self._length = 0
            return
        self._deltas.append(self._message("delta", delta))
        self._length += len(self._deltas[-1])
        # Whoever is further behind gets the whole, which is then no more to send than all the changes.
        while self._length > sum(map(len, edition.figures.values())):
            self._length -= len(self._deltas.popleft())

    def since(self, number: int | None) -> list[str]:
        """Messages that bring a reader up to date who has seen this number; None: nothing."""
        lacks = self.number if number is None else self.number - number
        if number is None or lacks > len(self._deltas):
            return [self._message("whole", self._edition.to_json())]
        return [self._deltas[place] for place in range(-lacks, 0)]

    def _message(self, kind: str, text: str) -> str:
        return f'{{"plot":{json.dumps(self._edition.plot)},"n":{self.number},"{kind}":{text}}}'
