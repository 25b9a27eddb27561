"""How SQLite goes about each statement of the store: by an index, and without sorting, however many jobs there are."""

from __future__ import annotations

import ast
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

import asyncjobs.service.store
from asyncjobs.service.store.queries import SQL, text_of
from asyncjobs.service.store.reading import tallies
from asyncjobs.service.store.settings import StoreSettings
from asyncjobs.service.store.transaction import Numbers, Transaction
from asyncjobs.state import JobState

FOLDER = Path(asyncjobs.service.store.__file__).parent

# Tables with a few rows, lists that came as a parameter, and subqueries without a table.
SMALL = (
    "tallies",
    "counters",
    "pauses",
    "moves",
    "schedules",
    "asked",
    "json_each",
    "CONSTANT ROW",
    "new",
    "trash",
    "telling",
    "t",
)


# At an opening; the table holds the starts of one span per limit.
ONCE = ("forget_future_starts",)


@pytest.fixture(scope="module")
def database() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:")
    connection.executescript(text_of("schema.sql"))
    yield connection
    connection.close()


def plan_of(database: sqlite3.Connection, statement: str) -> list[str]:
    """The steps that SQLite takes."""
    names = dict.fromkeys(re.findall(r":(\w+)", statement))
    values = names or [None] * statement.count("?")
    return [detail for *_, detail in database.execute(f"EXPLAIN QUERY PLAN {statement}", values)]


@pytest.mark.parametrize("name", SQL)
def test_no_statement_reads_a_table_or_sorts(database: sqlite3.Connection, name: str) -> None:
    for step in plan_of(database, SQL[name]):
        assert "TEMP B-TREE" not in step, step
        if step.startswith("SCAN") and name not in ONCE:
            assert step.split()[1] in SMALL or step.removeprefix("SCAN ") in SMALL, step


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("ready_jobs", "jobs_ready"),
        ("due_jobs", "jobs_due"),
        ("horizon", "jobs_due"),
        ("horizon", "jobs_paused"),
        ("horizon", "jobs_ready"),
        ("horizon", "limits_opening"),
        ("next_ready_lane", "jobs_ready"),
        ("parked_by_limit", "jobs_limited"),
        ("parked_by_pause", "jobs_paused"),
        ("running_under", "jobs_limit_open"),
        ("unended_attempts", "jobs_state"),
        ("rows_in_state", "jobs_state"),
        ("job_by_key", "jobs_key"),
        ("expired", "jobs_expiry"),
        ("open_children", "edges_open"),
    ],
)
def test_a_statement_uses_the_index_that_was_made_for_it(database: sqlite3.Connection, name: str, index: str) -> None:
    assert any(index in step for step in plan_of(database, SQL[name]))


def test_many_rows_take_a_few_statements(database: sqlite3.Connection) -> None:
    seen: list[str] = []
    tx = Transaction(database, StoreSettings(FOLDER), Numbers(0, 0), epoch=1, now=0.0)
    for number in range(100):
        tx.log(number, "", "submitted", JobState.QUEUED, 0, f"note {number}")
    database.set_trace_callback(seen.append)
    tx.write_log()
    database.set_trace_callback(None)
    assert sum(statement.startswith("INSERT") for statement in seen) == 7
    written = database.execute("SELECT seq, job, note FROM events ORDER BY seq").fetchall()
    assert written == [(number + 1, number, f"note {number}") for number in range(100)]
    database.rollback()


def test_how_many_jobs_there_are_is_known_without_a_statement(database: sqlite3.Connection) -> None:
    seen: list[str] = []
    tx = Transaction(database, StoreSettings(FOLDER), Numbers(0, 0), epoch=1, now=0.0)
    database.set_trace_callback(seen.append)
    tx.count(None, JobState.QUEUED, 3)
    tx.count(JobState.QUEUED, JobState.RUNNING)
    known = tallies(tx)
    assert not seen
    assert (known[JobState.QUEUED], known[JobState.RUNNING]) == (2, 1)
    assert tx.finish().tallies == tuple(known.values())
    database.set_trace_callback(None)
    assert database.execute(SQL["tallies"]).fetchall() == [(number,) for number in known.values()]
    database.rollback()


def used_names() -> set[str]:
    """Every text in the code of the store that could be a statement's name."""
    trees = [ast.parse(path.read_text()) for path in FOLDER.glob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def test_every_statement_is_used() -> None:
    assert set(SQL) <= used_names()


def test_every_statement_that_is_used_exists() -> None:
    calls = re.compile(r'\b(?:tx\.(?:run|one|all|each|run_many)|_number|_each)\(\s*(?:connection, )?"(\w+)"')
    used = {name for path in FOLDER.glob("*.py") for name in calls.findall(path.read_text())}
    assert len(used) > 50
    assert used <= set(SQL)
