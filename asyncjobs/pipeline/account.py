"""Who waited for whom in a pipeline, and the sentence that says what holds it up: `Account`, `report`.

Pure: figures in, text out. Who measures are `mapped`, `stream` and `blocking`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

SATISFIED = 0.05
"""A consumer that waits for less than this share of its time is the limit itself."""
BUSY = 0.5
"""A stage that calls for less than this share of its time does not hold anybody up."""


@dataclass(slots=True)
class Account:
    """One stage that calls a function, over all epochs; seconds."""

    name: str
    concurrency: int
    items: int = 0
    """Items that have come out of it."""
    busy: float = 0.0
    """In calls, all of them together: at most `concurrency` times the time that went by."""
    hungry: float = 0.0
    """It had room for items, and waited for some."""
    full: float = 0.0
    """It had no room: it called, or waited for what is after it."""


class Shares(NamedTuple):
    """What a stage did with its time; they add up to 1 at most."""

    busy: float
    """It called its function. Near 1: it is the limit."""
    starved: float
    """It waited for items. Near 1: what is before it is slower."""
    blocked: float
    """It waited for room. Near 1: what is after it is slower."""


@dataclass(slots=True)
class Consumer:
    """Whoever takes the items; seconds."""

    waited: float = 0.0
    """For items."""
    seconds: float = 0.0
    """From the beginning of each epoch to the latest item of it."""

    def took(self, waited: float, seconds: float) -> None:
        """Items came after `waited` of the last `seconds`."""
        self.waited += waited
        self.seconds += seconds


def shares(account: Account, seconds: float) -> Shares:
    """Of `seconds` that went by. Calls run while the stage waits as well: that counts as busy."""
    busy = min(account.busy / (account.concurrency * seconds), 1)
    return Shares(busy, min(account.hungry / seconds, 1 - busy), max(min(account.full / seconds, 1) - busy, 0))


def report(accounts: Sequence[Account], consumer: Consumer) -> str:
    """A line for each stage, and what holds the consumer up."""
    if not consumer.seconds:
        return "nothing has been taken yet"
    width = max([len(account.name) for account in accounts] + [5])
    lines = [f"{'stage':{width}}    items  concurrency   busy  starved  blocked"]
    for account in accounts:
        busy, starved, blocked = shares(account, consumer.seconds)
        figures = f"{account.items:8} {account.concurrency:12} {busy:6.0%} {starved:8.0%} {blocked:8.0%}"
        lines.append(f"{account.name:{width}} {figures}")
    lines.append(f"The consumer waited {consumer.waited / consumer.seconds:.0%} of {consumer.seconds:.3g} s.")
    lines.append(_verdict(accounts, consumer))
    return "\n".join(lines)


def _verdict(accounts: Sequence[Account], consumer: Consumer) -> str:
    if consumer.waited < SATISFIED * consumer.seconds:
        return "The consumer is the limit: more concurrency brings nothing."
    limit = max(accounts, key=lambda account: shares(account, consumer.seconds).busy, default=None)
    busy = 0.0 if limit is None else shares(limit, consumer.seconds).busy
    if limit is None or busy < BUSY:
        return "The source is the limit, or the start of the workers: no stage is busy half of the time."
    found = f"{limit.name} is the limit: {busy:.0%} busy at concurrency {limit.concurrency}"
    works = consumer.seconds - consumer.waited
    if works < SATISFIED * consumer.seconds:
        return f"{found}; the consumer does little but wait, so the more the better."
    # So many calls at once take in the consumer's own time what all calls have taken.
    needed = max(ceil(limit.busy / works), limit.concurrency + 1)
    return f"{found}; {needed} would keep the consumer fed, if the machine has the processors."
