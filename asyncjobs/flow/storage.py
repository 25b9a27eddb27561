"""The order in which a queue's elements leave it: first in first out, at random, by priority.

A store only keeps elements and knows whose turn it is. Who may put or take, and when, is for `lines`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from random import Random
from typing import Any, Protocol


class Store(Protocol):
    """What a queue keeps its elements in."""

    floor: int
    """So many have to stay behind as long as the queue is open."""
    is_whole: bool
    """A batch is taken in one piece, once it is all there."""

    def push(self, element: Any, /) -> object:
        """Add one element."""

    def pop(self) -> Any:
        """Take the element whose turn it is; only if there is one."""

    def unpop(self, elements: Sequence[Any]) -> None:
        """Put back what was popped last, in this order."""


class Fifo:
    """First in, first out."""

    floor: int = 0
    is_whole: bool = False

    def __init__(self) -> None:
        self._line: deque[Any] = deque()
        # The deque's own methods: a call of ours in between would cost as much as the rest of a dequeue.
        self.push: Callable[[Any], object] = self._line.append
        self.pop: Callable[[], Any] = self._line.popleft

    def unpop(self, elements: Sequence[Any]) -> None:
        self._line.extendleft(reversed(elements))


class Shuffle:
    """Any of them, each as likely as the others, while more than `floor` are there to choose from."""

    is_whole: bool = False

    def __init__(self, floor: int, seed: int | None) -> None:
        self.floor: int = floor
        self._bag: list[Any] = []
        self._draw = Random(seed).random
        self.push: Callable[[Any], object] = self._bag.append

    def pop(self) -> Any:
        bag = self._bag
        chosen = int(self._draw() * len(bag))
        bag[chosen], bag[-1] = bag[-1], bag[chosen]
        return bag.pop()

    def unpop(self, elements: Sequence[Any]) -> None:
        self._bag.extend(elements)


class Priority:
    """The lowest priority first, first in first out among equals."""

    floor: int = 0
    is_whole: bool = True

    def __init__(self, priority_of: Callable[[Any], int]) -> None:
        self._priority_of = priority_of
        self._heap: list[tuple[int, int, Any]] = []
        # Invariant: among equal priorities the smaller number came first. What is put back was before all others
        # of its priority, so it counts down from 0 while what comes new counts up.
        self._last = 0
        self._first = 0

    def push(self, element: Any) -> None:
        self._last += 1
        heappush(self._heap, (self._priority_of(element), self._last, element))

    def pop(self) -> Any:
        return heappop(self._heap)[2]

    def unpop(self, elements: Sequence[Any]) -> None:
        for element in reversed(elements):
            self._first -= 1
            heappush(self._heap, (self._priority_of(element), self._first, element))
