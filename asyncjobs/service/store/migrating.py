"""Lead a database to the schema of this version, in one transaction: all of it or nothing.

`PRAGMA user_version` says which version it has: 0 is an empty file. ``migrations/0002.sql`` leads from version 1 to 2.
"""

from __future__ import annotations

import sqlite3

from asyncjobs.failpoint import point
from asyncjobs.service.errors import StateRefused
from asyncjobs.service.store.queries import text_of

VERSION = 3
"""Of ``schema.sql``, which is what all migrations together lead to."""


def migrate(connection: sqlite3.Connection) -> int:
    """Bring it to `VERSION`; the version that it had.

    Raises:
        StateRefused: a newer asyncjobs wrote it, or it holds something else.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        raise StateRefused(
            f"the database has version {version}, this asyncjobs knows those up to {VERSION}: "
            "install the newer asyncjobs again, or serve another directory"
        )
    if version == VERSION:
        return VERSION
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if version == 0 and tables:
        raise StateRefused("the database holds tables that are not those of asyncjobs: serve another directory")
    connection.execute("BEGIN IMMEDIATE")
    for script in _scripts(version):
        for statement in _split(text_of(script)):
            connection.execute(statement)
        point("migrate.step")
    connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.execute("COMMIT")
    return int(version)


def _scripts(version: int) -> list[str]:
    if version == 0:
        return ["schema.sql"]
    return [f"migrations/{number:04}.sql" for number in range(version + 1, VERSION + 1)]


def _split(script: str) -> list[str]:
    # `executescript` would commit first. Triggers hold semicolons, so SQLite says where a statement ends.
    statements, lines = [], ""
    for line in script.splitlines(keepends=True):
        lines += line
        if sqlite3.complete_statement(lines):
            statements.append(lines)
            lines = ""
    return statements
