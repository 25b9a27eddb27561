"""Keep jobs from starting for a while: all, those of a lane, of a function, of a schedule.

One row, however many jobs it is about: a claim puts them aside when it meets them.
"""

from __future__ import annotations

from asyncjobs.service.errors import BadRequest
from asyncjobs.service.records import Scope
from asyncjobs.service.store import claiming
from asyncjobs.service.store.transaction import Transaction

KINDS = ("lane:", "function:", "schedule:")


def pause(tx: Transaction, scope: Scope) -> None:
    """From the next claim on; what runs goes on.

    Raises:
        BadRequest: there is no such scope.
    """
    _check(scope)
    if scope.startswith("function:") and ":" not in scope.removeprefix("function:"):
        raise BadRequest(f"scope={scope!r} is not allowed: no function is called so; allowed: function:MODULE:NAME")
    tx.run("pause", (scope,))


def resume(tx: Transaction, scope: Scope) -> None:
    """End a pause; nothing if there is none."""
    _check(scope)
    tx.run("resume", (scope,))
    claiming.unpark(tx, set(pauses(tx)), claiming.BATCH)


def pauses(tx: Transaction) -> tuple[str, ...]:
    """What is paused now."""
    return tuple(scope for (scope,) in tx.all("pauses"))


def _check(scope: Scope) -> None:
    if scope != "all" and not any(scope.startswith(kind) and scope != kind for kind in KINDS):
        raise BadRequest(
            f"scope={scope!r} is not allowed; allowed: all, lane:NAME, function:MODULE:NAME, schedule:NAME"
        )
