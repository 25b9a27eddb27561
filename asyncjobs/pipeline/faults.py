"""What becomes of an item whose function raised: `on_error`, as a verdict on one fault after the other.

Pure: it decides and counts. Raising is for `mapped`.
"""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

KEPT = 100
"""Faults that are kept to be looked at; all are counted."""
SHOWN = 120
"""Characters of an item's repr."""


@dataclass(frozen=True, slots=True)
class ErrorBudget:
    """As `on_error`: items that fail are left out, as long as they are few.

    More than `max` of them raise an ExceptionGroup of those that were kept, at most 100; so does a share above
    `rate` of all items of the stage, once it has seen `after`. Counted over all epochs while the pipeline is open.

    Raises:
        ValueError: neither of them is given, or one is not allowed.

    Example: ``ErrorBudget(rate=0.01)`` takes 2 bad images among 200, and not 3.
    """

    max: int | None = None
    rate: float | None = None
    after: int = 100

    def __post_init__(self) -> None:
        if self.max is None and self.rate is None:
            raise ValueError("ErrorBudget() is not allowed: it needs max=, rate= or both")
        if self.max is not None and (isinstance(self.max, bool) or not isinstance(self.max, int) or self.max < 0):
            raise ValueError(f"max={self.max!r} is not allowed; allowed: None, or a whole number from 0")
        if self.rate is not None and not 0 <= self.rate <= 1:
            raise ValueError(f"rate={self.rate!r} is not allowed; allowed: None, or a share from 0 to 1")
        if isinstance(self.after, bool) or not isinstance(self.after, int) or self.after < 1:
            raise ValueError(f"after={self.after!r} is not allowed; allowed: a whole number from 1")

    def is_over(self, faults: int, items: int) -> bool:
        """Whether so many faults among so many items are too many."""
        if self.max is not None and faults > self.max:
            return True
        return self.rate is not None and items >= self.after and faults > self.rate * items


OnError = str | ErrorBudget | Callable[[Exception, Any], bool]
"""``"raise"``, ``"skip"``, a budget, or a function of error and item that says whether to go on without the item."""


@dataclass(frozen=True, slots=True)
class Fault:
    """An item that was left out."""

    stage: str
    """``map(decode)``."""
    epoch: int
    index: int
    """Which item of the stage's in that epoch, from 0."""
    item: str
    """Its repr, at most 120 characters."""
    error: Exception


class Faults:
    """The faults of one stage, and what its `on_error` says of them."""

    def __init__(self, stage: str, on_error: OnError) -> None:
        self.stage: str = stage
        self._on_error = on_error
        self.kept: deque[Fault] = deque(maxlen=KEPT)
        self.count: int = 0
        self.items: int = 0
        """Items that have come out of the stage, faults included."""

    @property
    def leaves_out(self) -> bool:
        """Whether there may be fewer items after the stage than before it."""
        return self._on_error != "raise"

    def problem(
        self, error: Exception, epoch: int, index: int, item: Any, text: str = "", stage: str = ""
    ) -> Exception | None:
        """What is to be raised for it; None: the item is left out, and counted.

        `text` stands for an item elsewhere, `stage` for a trip of several steps, any of which it may have been.
        """
        fault = Fault(stage or self.stage, epoch, index, text or shown(item), error)
        error.add_note(f"in stage {fault.stage}, item {index} of epoch {epoch}: {fault.item}")
        if self._on_error == "raise":
            return error
        if callable(self._on_error):
            try:
                if not self._on_error(error, item):
                    return error
            except Exception as raised:
                raised.__cause__ = error
                return raised
        _forget_items(error)
        self.kept.append(fault)
        self.count += 1
        if isinstance(self._on_error, ErrorBudget) and self._on_error.is_over(self.count, self.items):
            text = f"stage {self.stage} failed for {self.count} of {self.items} items, more than {self._on_error}"
            return ExceptionGroup(text, [fault.error for fault in self.kept])
        return None


def _forget_items(error: BaseException) -> None:
    """Keep the lines of its traceback, and not what the functions had in their hands."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        traceback.clear_frames(link.__traceback__)
        link = link.__cause__ or link.__context__


def shown(item: Any) -> str:
    """Its repr, clipped."""
    try:
        text = repr(item)
    # The user's __repr__ may raise anything at all.
    except BaseException:
        text = f"<{type(item).__name__} without a repr>"
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def checked(on_error: object) -> OnError:
    """`on_error` itself.

    Raises:
        ValueError: it is nothing of the kind.
    """
    if on_error in ("raise", "skip") or isinstance(on_error, ErrorBudget) or callable(on_error):
        return on_error
    raise ValueError(
        f"on_error={on_error!r} is not allowed; allowed: 'raise', 'skip', an ErrorBudget, or a function of error and "
        "item that says whether to go on"
    )
