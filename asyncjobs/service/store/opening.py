"""From a connection to a store that is ready: schema, legal moves, the number of this opening, recovery."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from typing import NamedTuple

from asyncjobs.failpoint import has_flaw
from asyncjobs.service.errors import StateRefused, StorageBroken, StorageFull
from asyncjobs.service.records import Event
from asyncjobs.service.store import recovering
from asyncjobs.service.store.connecting import lengthen_log
from asyncjobs.service.store.creating import create
from asyncjobs.service.store.faults import is_broken, is_damaged, is_full
from asyncjobs.service.store.inspection import inspect
from asyncjobs.service.store.mark import Mark
from asyncjobs.service.store.migrating import migrate
from asyncjobs.service.store.queries import SQL
from asyncjobs.service.store.settings import StoreSettings
from asyncjobs.service.store.transaction import Numbers, Transaction

_FULL = "the disk under {} is full; make room and start again"
_LEAST = 64 * 2**10
"""Bytes without which SQLite cannot so much as read a log."""


class Opened(NamedTuple):
    """What the first transaction starts from."""

    numbers: Numbers
    epoch: int
    recovered: tuple[Event, ...]
    has_more: bool
    """Whether children of ended jobs have yet to be told (`ending.settle_more`)."""


def look_first(settings: StoreSettings) -> Mark:
    """Look at the database before it is opened, or make it; its mark, ready to be written.

    Raises:
        StateRefused: it must not be opened; nothing was changed.
        StorageFull, StorageBroken: the disk does not serve.
    """
    try:
        return _look_first(settings)
    except StorageFull:
        if settings.ballast is None or not settings.ballast.release():
            raise
    return _look_first(settings)


def _look_first(settings: StoreSettings) -> Mark:
    path = settings.path
    try:
        found = inspect(path)
        if found.is_new:
            create(path)
        return Mark(path, found.last_event)
    except (sqlite3.Error, OSError) as error:
        # SQLite calls it an input/output error if there is no room for the index of the log.
        if is_full(error) or shutil.disk_usage(path.parent).free < _LEAST:
            raise StorageFull(_FULL.format(path)) from error
        if isinstance(error, sqlite3.Error):
            raise translated(error, settings) from error
        raise StorageBroken(f"{path} cannot be opened: {error}") from error


def make_ready(connection: sqlite3.Connection, settings: StoreSettings) -> Opened:
    """Blocks for as long as it takes; every step is complete in itself, so that it may be killed anywhere.

    Raises:
        StateRefused: the database cannot be used.
        StorageFull, StorageBroken: the disk does not serve.
    """
    try:
        return _make_ready(connection, settings)
    except sqlite3.Error as error:
        if not (is_full(error) and settings.ballast is not None and settings.ballast.release()):
            raise translated(error, settings) from error
    if connection.in_transaction:
        connection.rollback()
    try:
        return _make_ready(connection, settings)
    except sqlite3.Error as error:
        raise translated(error, settings) from error


def translated(error: sqlite3.Error, settings: StoreSettings) -> Exception:
    """What an error at the opening means for whoever starts the service."""
    if is_full(error):
        return StorageFull(_FULL.format(settings.path))
    if is_damaged(error):
        return StateRefused(
            f"{settings.path} is damaged ({error}); `asyncjobs journal recover` copies what can be read"
        )
    if is_broken(error):
        return StorageBroken(f"the disk under {settings.path} failed: {error}")
    return error


def _make_ready(connection: sqlite3.Connection, settings: StoreSettings) -> Opened:
    migrate(connection)
    _spoil(connection)
    lengthen_log(connection)
    tallies = tuple(jobs for (jobs,) in connection.execute(SQL["tallies"]))
    numbers = Numbers(_number(connection, "last_job"), _number(connection, "last_event"), tallies)
    epoch = _number(connection, "counter", "epoch") + 1
    recovered: list[Event] = []
    has_more = True
    first = recovering.begin
    while has_more:
        tx = Transaction(connection, settings, numbers, epoch, settings.clock())
        numbers, has_more = _commit(tx, first)
        recovered += tx.events
        first = _nothing
    is_told = connection.execute(SQL["next_telling"]).fetchone() is None
    return Opened(numbers, epoch, tuple(recovered), has_more=not is_told)


def _spoil(connection: sqlite3.Connection) -> None:
    # For the test of the checker: without its guards the database would refuse what a broken build does.
    if has_flaw("final_overwrite"):
        for trigger in ("jobs_final", "jobs_move"):
            connection.execute(f"DROP TRIGGER IF EXISTS {trigger}")
    if has_flaw("no_dedupe"):
        connection.execute("DROP INDEX IF EXISTS jobs_key")


def _commit(tx: Transaction, first: Callable[[Transaction], None]) -> tuple[Numbers, bool]:
    tx.connection.execute("BEGIN IMMEDIATE")
    first(tx)
    has_more = recovering.recover(tx)
    numbers = tx.finish()
    tx.connection.execute("COMMIT")
    return numbers, has_more


def _nothing(tx: Transaction) -> None:
    return None


def _number(connection: sqlite3.Connection, name: str, *values: str) -> int:
    return int(connection.execute(SQL[name], values).fetchone()[0])
