"""Whose items come next, where several iterables are open at once: `Cycle` in turn, `Race` as they come.

Pure: they hold and choose branches. Opening, taking and closing are for `spread`.
"""

from __future__ import annotations

import sys
from collections import deque
from dataclasses import dataclass
from typing import Any, Protocol

from asyncjobs.pipeline.feeds import Prefetched

WHOLE = sys.maxsize
"""As a block: all items of one, and then those of the next."""


@dataclass(frozen=True, slots=True, eq=False)
class Branch:
    """One item of a stage, and the items that are made of it."""

    index: int
    item: Any
    feed: Prefetched


class Turns(Protocol):
    """The order of some open branches."""

    def add(self, branch: Branch) -> None:
        """It has been opened, after the others."""

    def ready(self, is_over: bool) -> Branch | None:
        """The one whose turn it is, if items of it are there. With `is_over` no more are added."""

    def limit(self) -> int:
        """How many of its items may come now."""

    def gave(self, branch: Branch, count: int) -> None:
        """So many have come; it was `ready`."""

    def ended(self, branch: Branch) -> None:
        """It has no more; it was `ready`."""


class Cycle:
    """A block of items of each of `length` branches in turn, as tf.data has it.

    A branch that ends ends its turn, and the next one that was added takes its place when that comes round again.
    """

    def __init__(self, length: int, block: int) -> None:
        self._places: list[Branch | None] = [None] * length
        self._line: deque[Branch] = deque()
        self._block = block
        self._at = 0
        self._given = 0

    def add(self, branch: Branch) -> None:
        """It waits for a place."""
        self._line.append(branch)

    def ready(self, is_over: bool) -> Branch | None:
        """Of the place whose turn it is; those without a branch are passed over once none can come."""
        while (branch := self._seated()) is None and is_over and any(self._places):
            self._advance()
        return branch if branch is not None and branch.feed.is_ready else None

    def _seated(self) -> Branch | None:
        if self._places[self._at] is None and self._line:
            self._places[self._at] = self._line.popleft()
        return self._places[self._at]

    def limit(self) -> int:
        """The rest of the block."""
        return self._block - self._given

    def gave(self, branch: Branch, count: int) -> None:
        """After a block the next has its turn."""
        self._given += count
        if self._given == self._block:
            self._advance()

    def ended(self, branch: Branch) -> None:
        """Its place is empty."""
        self._places[self._at] = None
        self._advance()

    def _advance(self) -> None:
        self._at = (self._at + 1) % len(self._places)
        self._given = 0


class Race:
    """Whichever has items; of several, the one that has waited longest."""

    def __init__(self) -> None:
        self._line: deque[Branch] = deque()

    def add(self, branch: Branch) -> None:
        """It has waited least."""
        self._line.append(branch)

    def ready(self, is_over: bool) -> Branch | None:
        """The first that has items."""
        return next((branch for branch in self._line if branch.feed.is_ready), None)

    def limit(self) -> int:
        """All that are there."""
        return WHOLE

    def gave(self, branch: Branch, count: int) -> None:
        """The others first."""
        self.ended(branch)
        self.add(branch)

    def ended(self, branch: Branch) -> None:
        """It is gone."""
        self._line.remove(branch)
