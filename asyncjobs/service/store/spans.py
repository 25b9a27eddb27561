"""Know from which job to which those of a name, or of a function, reach: lists by them need not look at others.

One row for each name, changed once in a request, where an index would have an entry for every job.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from asyncjobs.service.store.transaction import Transaction


class Named(NamedTuple):
    """What has to be known of a job here."""

    seq: int
    name: str
    function: str


def widen(tx: Transaction, jobs: Iterable[Named]) -> None:
    """These are new, in the order of their numbers."""
    spans: dict[tuple[str, str], tuple[int, int, int]] = {}
    for seq, *labels in jobs:
        for key in zip(("name", "function"), labels, strict=True):
            first, _, number = spans.get(key, (seq, seq, 0))
            spans[key] = (first, seq, number + 1)
    tx.run_many("widen_span", [(*key, *span) for key, span in spans.items()])


def narrow(tx: Transaction, jobs: Iterable[Named]) -> None:
    """These are gone. Where a span begins is not looked up again: it may say too much, never too little."""
    gone: Counter[tuple[str, str]] = Counter()
    for _, name, function in jobs:
        gone.update((("name", name), ("function", function)))
    tx.run_many("narrow_span", [(number, *key) for key, number in gone.items()])
    tx.run_many("drop_span", gone)


def span(tx: Transaction, name: str | None, function: str | None) -> tuple[int, int] | None:
    """Numbers between which all jobs of that name and function lie (None: any); None: there are none."""
    first, last = 0, tx.last_job
    for field, value in (("name", name), ("function", function)):
        if value is not None:
            found = tx.one("span", (field, value))
            if found is None:
                return None
            first, last = max(first, found[0]), min(last, found[1])
    return first, last
