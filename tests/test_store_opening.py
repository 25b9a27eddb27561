"""A store that is opened again: what ran is decided, what waited waits, an older database is led to today's schema."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import statistics
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest
from pauses import PauseClock
from stored import Clock, check_sound, claimed, ended, job, looked_at, opened, path_of, submitted

import asyncjobs
from asyncjobs.service.errors import StateRefused
from asyncjobs.service.records import Query
from asyncjobs.service.store.checking import check_database
from asyncjobs.service.store.migrating import VERSION
from asyncjobs.service.store.settings import StoreSettings
from asyncjobs.service.store.store import Store
from asyncjobs.state import MOVES, JobState

SCHEMAS = Path(__file__).with_name("schemas")


def run_killed(path: Path, script: str, failpoints: str) -> str:
    """What a program with a store prints before a failpoint kills it."""
    preamble = """
        import asyncio, sys
        from pathlib import Path
        from stored import *
        async def main(store):
    """
    text = textwrap.dedent(preamble) + textwrap.indent(textwrap.dedent(script), "    ")
    text += textwrap.dedent("""
        async def opening():
            async with opened(Path(sys.argv[1])) as store:
                await main(store)
        asyncio.run(opening())
    """)
    folders = f"{Path(asyncjobs.__file__).parents[1]}:{Path(__file__).parent}"
    done = subprocess.run(
        [sys.executable, "-c", text, str(path)],
        env={"PYTHONPATH": folders, "ASYNCJOBS_FAILPOINTS": failpoints, "PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == -9, done.stderr
    return done.stdout


async def test_what_ran_is_queued_again_at_once_with_one_crash_more(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    async with opened(path) as store:
        [id] = await submitted(store)
        [waits] = await submitted(store, priority=-1)
        [old] = await claimed(store)
        epoch = store.epoch
    async with opened(path) as store:
        assert store.epoch == epoch + 1
        assert [(event.id, event.kind, event.state) for event in store.recovered] == [
            (id, "recovered", JobState.QUEUED)
        ]
        assert store.waiting("process")
        new, other = await claimed(store, 2)
        assert (new.id, new.attempt, new.crashes, new.failures) == (id, 2, 1, 0)
        assert (other.id, other.attempt, new.fence > old.fence) == (waits, 1, True)
        assert await store.finish([ended(old)]) == [None]
    check_sound(path)


async def test_F70_the_end_of_an_attempt_of_a_former_opening_is_fenced_off(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    async with opened(path) as store:
        await submitted(store)
        await store.give_back(await claimed(store))
        [old] = await claimed(store)
    async with opened(path) as store:
        await store.give_back(await claimed(store))
        [new] = await claimed(store)
        assert (old.attempt, new.attempt) == (1, 2)
        assert await store.finish([ended(new._replace(epoch=old.epoch))]) == [None]
        assert await store.finish([ended(new)]) == [JobState.SUCCEEDED]


async def test_P3_deaths_of_the_service_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    async with opened(path) as store:
        [id] = await submitted(store, max_crashes=2)
        await claimed(store)
    for _ in range(2):
        async with opened(path) as store:
            assert len(await claimed(store)) == 1
    async with opened(path) as store:
        assert [event.state for event in store.recovered] == [JobState.LOST]
        row = await store.row(id)
        assert (row.state, row.attempt, row.crashes) == (JobState.LOST, 3, 3)
    check_sound(path)


async def test_P3_what_may_start_once_is_lost_and_what_was_stopping_has_stopped(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    async with opened(path) as store:
        [once] = await submitted(store, at_most_once=True)
        [child] = await submitted(store, after=(once,))
        [stopping] = await submitted(store)
        for claim in await claimed(store, 2):
            await store.begin_job(claim.id, claim.fence)
        await store.cancel(stopping, "enough")
    async with opened(path) as store:
        states = [(await store.row(id)).state for id in (once, child, stopping)]
        assert states == [JobState.LOST, JobState.CANCELLED, JobState.CANCELLED]
        assert (await store.outcome(stopping))[1] == "enough"
    check_sound(path)


async def test_P3_what_may_start_once_and_had_not_begun_is_queued_again_at_the_opening(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    async with opened(path) as store:
        [id] = await submitted(store, at_most_once=True)
        await claimed(store)
    async with opened(path) as store:
        [event] = store.recovered
        assert (event.kind, event.note) == ("recovered", "the service died before attempt 1 began")
        [claim] = await claimed(store)
        assert (claim.id, claim.attempt, claim.crashes) == (id, 1, 1)
        assert await store.begin_job(id, claim.fence)
    async with opened(path) as store:
        assert (await store.row(id)).state is JobState.LOST
    check_sound(path)
    assert check_database(path) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("failpoints", "rows"),
    [("submit.before_commit=kill@2", 1), ("submit.after_commit=kill@2", 2), ("notify.before=kill@2", 2)],
)
def test_F68_a_kill_around_the_commit_of_a_submit(tmp_path: Path, failpoints: str, rows: int) -> None:
    path = tmp_path / "jobs.db"
    script = """
        for number in range(5):
            await store.submit([job(key=str(number))])
            print(number, flush=True)
    """
    assert run_killed(path, script, failpoints) == "0\n"
    assert len(looked_at(path, "SELECT * FROM jobs")) == rows
    check_sound(path)


@pytest.mark.slow
@pytest.mark.parametrize(("failpoints", "crashes"), [("claim.before_commit=kill", 0), ("claim.after_commit=kill", 1)])
async def test_F69_a_kill_around_the_commit_of_a_claim(tmp_path: Path, failpoints: str, crashes: int) -> None:
    path = tmp_path / "jobs.db"
    run_killed(path, "await submitted(store)\nawait claimed(store)", failpoints)
    async with opened(path) as store:
        assert [(claim.crashes, claim.attempt) for claim in await claimed(store)] == [(crashes, crashes + 1)]
    check_sound(path)


@pytest.mark.slow
@pytest.mark.parametrize("failpoints", ["result.before_commit=kill", "result.after_commit=kill"])
async def test_F71_a_kill_around_the_commit_of_a_result_leaves_one_outcome(tmp_path: Path, failpoints: str) -> None:
    path = tmp_path / "jobs.db"
    run_killed(
        path, "await submitted(store)\n[claim] = await claimed(store)\nawait store.finish([ended(claim)])", failpoints
    )
    async with opened(path) as store:
        [row] = await store.rows(Query())
        assert row.state == (JobState.QUEUED if "before" in failpoints else JobState.SUCCEEDED)
        await store.finish([ended(claim) for claim in await claimed(store)])
        assert (await path_of(store, row.id)).count("succeeded") == 1
    check_sound(path)


@pytest.mark.slow
def test_F73_a_kill_in_the_first_opening_and_in_each_recovery(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    run_killed(path, "pass", "migrate.step=kill")
    run_killed(path, "await submitted(store, 3)\nawait claimed(store, 3)", "claim.after_commit=kill")
    for number in (1, 2, 3):
        run_killed(path, "pass", f"recover.row=kill@{number}")
        assert looked_at(path, "SELECT crashes FROM jobs") == [(0,)] * 3
    run_killed(path, "await claimed(store, 3)", "claim.after_commit=kill")
    assert looked_at(path, "SELECT crashes FROM jobs") == [(1,)] * 3
    check_sound(path)


@pytest.mark.slow
async def test_F73_a_kill_while_pruning_leaves_no_half_of_a_job(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    script = """
        await submitted(store, 3, keep=0.0, tags=("a",))
        await store.finish([ended(claim) for claim in await claimed(store, 3)])
        await store.prune()
    """
    run_killed(path, script, "prune.batch=kill")
    assert len(looked_at(path, "SELECT * FROM jobs")) == 3
    check_sound(path)
    async with opened(path) as store:
        assert await store.prune() == 3
        await submitted(store)
        assert [event.seq for event in await store.events(None)] == [10]
    check_sound(path)


@pytest.mark.slow
async def test_fifty_openings_in_a_row_leave_everything_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    async with opened(path) as store:
        await submitted(store, 5)
    for _ in range(50):
        async with opened(path) as store:
            assert store.recovered == ()
    assert looked_at(path, "SELECT count(*), max(seq) FROM events") == [(5, 5)]
    assert looked_at(path, "SELECT value FROM counters WHERE name = 'epoch'") == [(51,)]
    check_sound(path)


def version_1(path: Path) -> None:
    """A database as the first version left it."""
    connection = sqlite3.connect(path)
    for script in ("version1.sql", "version1_rows.sql"):
        connection.executescript((SCHEMAS / script).read_text())
    connection.close()
    path.chmod(0o600)


def shape_of(path: Path) -> list[tuple[str, str, list[str]]]:
    """The schema without comments and spaces."""
    rows = looked_at(path, "SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name")
    return [
        (kind, name, " ".join(line.split("--")[0] for line in sql.splitlines()).split()) for kind, name, sql in rows
    ]


async def test_F78_a_database_of_the_first_version_is_upgraded_with_its_jobs(tmp_path: Path) -> None:
    old, new = tmp_path / "old.db", tmp_path / "new.db"
    version_1(old)
    async with opened(old) as store:
        assert [row.state for row in await store.rows(Query())] == [
            JobState.QUEUED,
            JobState.QUEUED,
            JobState.SUCCEEDED,
        ]
        assert [event.id for event in store.recovered] == [f"{3:026}"]
        claims = await claimed(store, 5)
        assert [claim.attempt for claim in claims] == [1, 2]
        await store.finish([ended(claim) for claim in claims])
    check_sound(old)
    async with opened(new):
        pass
    assert shape_of(old) == shape_of(new)
    assert looked_at(old, "PRAGMA user_version") == [(VERSION,)]


async def test_F78_a_deadline_that_only_the_terms_had_holds_after_the_upgrade(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    version_1(path)
    connection = sqlite3.connect(path)
    for seq, deadline in ((1, 1.0), (2, 1.0), (3, 9e9)):
        connection.execute("UPDATE calls SET terms = ? WHERE seq = ?", (b'{"deadline": %f}' % deadline, seq))
    connection.commit()
    connection.close()
    async with opened(path) as store:
        [claim] = await claimed(store, 5)
        assert (claim.id, claim.deadline) == (f"{3:026}", 9e9)
        states = [row.state for row in await store.rows(Query())]
        assert states == [JobState.RUNNING, JobState.TIMED_OUT, JobState.SUCCEEDED]
    check_sound(path)


@pytest.mark.slow
async def test_F78_a_migration_that_was_killed_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    version_1(path)
    run_killed(path, "pass", "migrate.step=kill")
    assert looked_at(path, "PRAGMA user_version") == [(1,)]
    async with opened(path) as store:
        assert len(await claimed(store, 5)) == 2


async def test_F78_a_database_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    async with opened(path):
        pass
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    connection.close()
    with pytest.raises(StateRefused, match="newer"):
        await Store.open(StoreSettings(path))


async def test_the_database_knows_exactly_the_moves_of_the_table(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    async with opened(path) as store:
        await submitted(store)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA ignore_check_constraints = ON")
    legal = {(before, after) for before in JobState for after in JobState if is_legal(connection, before, after)}
    connection.close()
    assert legal == {(before, after) for before, moves in MOVES.items() for after in moves.values()}


def is_legal(connection: sqlite3.Connection, before: JobState, after: JobState) -> bool:
    """Whether the database lets a job go from one state to the other."""
    connection.execute("BEGIN")
    try:
        kept = connection.execute("SELECT before, after FROM moves").fetchall()
        connection.execute("INSERT OR IGNORE INTO moves VALUES (0, ?)", (int(before),))  # to get there at all
        connection.execute("UPDATE jobs SET state = ?", (int(before),))
        connection.execute("DELETE FROM moves")
        connection.executemany("INSERT INTO moves VALUES (?, ?)", kept)
        connection.execute("UPDATE jobs SET state = ?", (int(after),))
        return after != before
    except sqlite3.IntegrityError:
        return False
    finally:
        connection.execute("ROLLBACK")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE jobs SET note = 'other' WHERE state >= 4",
        "UPDATE outcomes SET body = x'00'",
        "INSERT OR REPLACE INTO outcomes (seq, body) VALUES (1, x'00')",
        "UPDATE events SET note = 'other'",
        "DELETE FROM events",
        "DELETE FROM jobs WHERE state < 4",
    ],
)
async def test_P2_what_is_written_stands(tmp_path: Path, statement: str) -> None:
    path = tmp_path / "jobs.db"
    async with opened(path) as store:
        await submitted(store, 2)
        await store.finish([ended(claim) for claim in await claimed(store)])
    connection = sqlite3.connect(path)
    with pytest.raises(sqlite3.IntegrityError):
        connection.execute(statement)
    connection.close()


async def test_F98_every_file_is_its_owners_from_birth(tmp_path: Path) -> None:
    async with opened(tmp_path / "jobs.db") as store:
        await submitted(store)
        modes = {name: os.stat(tmp_path / name).st_mode & 0o777 for name in os.listdir(tmp_path)}
        assert modes == dict.fromkeys(("jobs.db", "jobs.db-wal", "jobs.db-mark"), 0o600)


async def test_F81_a_wall_clock_that_was_set_back_delays_a_retry_by_an_hour_at_most(tmp_path: Path) -> None:
    path, clock = tmp_path / "jobs.db", Clock()
    async with opened(path, clock=clock) as store:
        await submitted(store)
        [claim] = await claimed(store)
        await store.finish([ended(claim, JobState.WAITING, due=clock.now + 5)])
        [later] = await submitted(store, due=clock.now + 50)
    clock.now -= 365 * 86_400
    async with opened(path, clock=clock) as store:
        clock.now += 3_600
        assert [found.id for found in await claimed(store, 2)] == [claim.id]
        assert (await store.row(later)).due == 1_000_050


@pytest.mark.slow
@pytest.mark.parametrize("place", ["submit.before_commit", "submit.after_commit", "notify.before"])
async def test_F82_a_key_that_is_sent_again_after_a_kill_is_one_row(tmp_path: Path, place: str) -> None:
    path = tmp_path / "jobs.db"
    script = """
        for number in range(5):
            [answer] = await store.submit([job(str(number).encode(), key=str(number))])
            print(answer.id, flush=True)
    """
    told = run_killed(path, script, f"{place}=kill@3").split()
    async with opened(path) as store:
        answers = [(await store.submit([job(str(number).encode(), key=str(number))]))[0] for number in range(5)]
    assert [answer.id for answer in answers][:2] == told
    assert [answer.is_new for answer in answers] == [False, False, place == "submit.before_commit", True, True]
    check_sound(path)


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2, 3])
async def test_F73_a_kill_while_the_log_is_copied_loses_nothing(tmp_path: Path, number: int) -> None:
    path = tmp_path / "jobs.db"
    script = """
        while True:
            print(*(await submitted(store, 500, payload=bytes(2_000))), flush=True)
    """
    told = run_killed(path, script, f"checkpoint=kill@{number}").split()
    async with opened(path) as store:
        stats = await store.stats()
        assert stats.states[JobState.QUEUED] >= len(told) >= 500
    assert set(told) <= {id for (id,) in looked_at(path, "SELECT id FROM jobs")}
    check_sound(path)


@pytest.mark.slow
async def test_a_hundred_thousand_jobs_are_taken_at_a_flat_rate_in_flat_memory_and_are_there_at_once(
    tmp_path: Path,
    clock: PauseClock,
) -> None:
    path, process, rates, sizes = tmp_path / "jobs.db", psutil.Process(), [], []
    async with opened(path) as store:
        for _ in range(10):
            batches = [[job(bytes(100)) for _ in range(100)] for _ in range(100)]
            begin = time.process_time()
            await asyncio.gather(*[store.submit(batch) for batch in batches])
            rates.append(10_000 / (time.process_time() - begin))  # of the processor: others use the machine too
            sizes.append(process.memory_info().rss)
    # One stretch in which the machine or the disk stood still says nothing.
    assert statistics.median(rates[5:]) > statistics.median(rates[:5]) / 2, rates
    assert sizes[-1] - sizes[2] < 30 * 2**20, sizes
    assert path.stat().st_size < 100_000 * 600
    begin = clock()
    async with opened(path) as store:
        assert clock() - begin < 2.0
        assert len(await claimed(store, 200)) == 200
    check_sound(path)
