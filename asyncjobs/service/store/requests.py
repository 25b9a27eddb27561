"""What is asked of the store's thread, and what comes back: work in a transaction (`Request`), or beside (`Errand`)."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from typing import Any, Generic, NamedTuple, TypeVar

from asyncjobs.service.records import Event, StoredEnd
from asyncjobs.service.store.faults import is_broken, is_full
from asyncjobs.service.store.outlook import Outlook
from asyncjobs.service.store.transaction import Transaction

R = TypeVar("R")
Work = Callable[[Transaction], R]
Together = Callable[[Transaction, Sequence[Any]], Sequence[Any]]


class Kind(NamedTuple):
    """What sort of request it is, for failpoints and for a full disk."""

    name: str
    writes: bool = True
    is_owed: bool = False
    """Must be written down, for it has happened: on a full disk the ballast is given for it."""
    makes_room: bool = False
    """Leaves more space than it takes, so that a full disk is no reason to refuse it."""

    @property
    def before(self) -> str:
        """Its failpoint before the commit."""
        return f"{self.name}.before_commit"

    @property
    def after(self) -> str:
        """Its failpoint after the commit."""
        return f"{self.name}.after_commit"

    @property
    def may_wait(self) -> bool:
        """It is not to use up the room that the ballast left."""
        return self.writes and not self.is_owed and not self.makes_room


@dataclass(eq=False)
class Request(Generic[R]):
    """Work that waits for its transaction, and the future of whoever asked."""

    kind: Kind
    work: Work[R]
    future: asyncio.Future[R] | None
    undo: Callable[[R], None] | None = None
    """Called on the loop with the result if nobody waits for it any more."""
    together: Together | None = None
    """Gives the results of several works of such requests, which come one after the other, in one go."""
    result: Any = field(default=None)
    error: BaseException | None = field(default=None)


@dataclass(eq=False)
class Errand(Generic[R]):
    """Work with the connection outside of transactions; it calls what it is given to let others have their turn."""

    work: Callable[[sqlite3.Connection, Callable[[], None]], R]
    future: asyncio.Future[R] | None
    undo: Callable[[R], None] | None = None
    result: Any = field(default=None)
    error: BaseException | None = field(default=None)


Item = Request[Any] | Errand[Any] | None
"""What is put to the thread; None: the last."""


class News(NamedTuple):
    """What one transaction leaves for the loop."""

    requests: Sequence[Request[Any]]
    events: Sequence[Event] = ()
    ends: Sequence[StoredEnd] = ()
    outlook: Outlook | None = None


def answer(request: Request[Any] | Errand[Any]) -> None:
    future = request.future
    if future is None:
        return
    if future.cancelled():
        if request.error is None and request.undo is not None and request.result is not None:
            request.undo(request.result)
    elif request.error is not None:
        future.set_exception(request.error)
    else:
        future.set_result(request.result)


def perform(tx: Transaction, group: Sequence[Request[Any]]) -> None:
    """Do their works; what one raises itself is its own, what the disk raises comes out."""
    wanted = [request for request in group if request.future is None or not request.future.cancelled()]
    for together, some in groupby(wanted, attrgetter("together")):
        requests = list(some)
        if together is None or len(requests) == 1 or not _performed_together(tx, together, requests):
            for request in requests:
                _perform_alone(tx, request)


def _performed_together(tx: Transaction, together: Together, requests: Sequence[Request[Any]]) -> bool:
    # False: one of them is refused; nothing has happened.
    mark = tx.mark()
    try:
        results = together(tx, [request.work for request in requests])
    except Exception as error:
        if is_full(error) or is_broken(error):
            raise
        tx.back_to(mark)
        return False
    tx.keep(mark)
    for request, result in zip(requests, results, strict=True):
        request.result, request.error = result, None
    return True


def _perform_alone(tx: Transaction, request: Request[Any]) -> None:
    mark = tx.mark()
    try:
        request.result, request.error = request.work(tx), None
    except Exception as error:
        if is_full(error) or is_broken(error):
            raise
        tx.back_to(mark)
        request.error = error
    else:
        tx.keep(mark)
