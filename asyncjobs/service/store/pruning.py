"""Remove jobs whose time is over, so many at a time, with all that belongs to them.

Files go last: the transaction that removes their jobs writes them down as trash.
"""

from __future__ import annotations

from asyncjobs.failpoint import point
from asyncjobs.service.store import spans
from asyncjobs.service.store.spans import Named
from asyncjobs.service.store.transaction import Transaction
from asyncjobs.state import JobState

BATCH = 200
"""So many jobs go in one transaction: a few milliseconds."""


def prune(tx: Transaction) -> int:
    """Remove at most `BATCH` of them; how many went."""
    rows = tx.all("expired", (tx.now, BATCH))
    if not rows:
        return 0
    tx.write_log()
    last_event = tx.next_event - 1
    ids = [(row[0],) for row in rows]
    for name in ("prune_calls", "prune_outcome", "prune_tags"):
        tx.run_many(name, ids)
    tx.run_many("throw_away", [(file,) for *_, file in rows if file is not None])
    tx.run_many("prune_job", ids)
    spans.narrow(tx, [Named(seq, name, function) for seq, _, _, name, function, _ in rows])
    tx.run("raise_counter", (_prune_events(tx, ids), "pruned_events"))
    tx.run("set_counter", (last_event, "last_event"))
    tx.run("set_counter", (tx.last_job, "last_job"))
    for _, _, state, *_ in rows:
        tx.count(JobState(state), None)
    point("prune.batch")
    return len(rows)


def _prune_events(tx: Transaction, ids: list[tuple[int]]) -> int:
    return sum(tx.run("prune_events", id).rowcount for id in ids)


def trash(tx: Transaction) -> list[str]:
    """Files to delete before `thrown_away`."""
    return [file for (file,) in tx.all("trash", (BATCH,))]


def thrown_away(tx: Transaction, files: list[str]) -> None:
    """These are deleted."""
    tx.run_many("thrown_away", [(file,) for file in files])
