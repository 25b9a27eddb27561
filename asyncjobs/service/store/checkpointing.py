"""Keep what a running job wants to find again in its next attempt."""

from __future__ import annotations

from asyncjobs.service.store.ending import Attempt
from asyncjobs.service.store.finishing import RUNS
from asyncjobs.service.store.transaction import Transaction


def put(tx: Transaction, id: str, attempt: int, epoch: int, body: bytes) -> bool:
    """In the place of the one before; False: it is not the attempt that runs."""
    row = tx.one("attempt", (id,))
    if row is None:
        return False
    job = Attempt.of(row)
    if job.state not in RUNS or (job.number, job.epoch) != (attempt, epoch):
        return False
    tx.run("put_checkpoint", (job.seq, attempt, body))
    tx.weight += len(body)
    return True
