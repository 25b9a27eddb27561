"""F77: databases with flipped bytes, cut, swapped and zeroed files: refused or consistent, and salvaged."""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from damaged import copy_of, files_of, fill, left_by_a_killed_one
from stored import check_sound, claimed, ended, looked_at, opened, submitted
from test_store_opening import version_1

from asyncjobs.service import private
from asyncjobs.service.errors import StateRefused
from asyncjobs.service.records import Query
from asyncjobs.service.store import inspection, mark, replay
from asyncjobs.service.store.salvage import Salvaged, salvage
from asyncjobs.service.store.settings import StoreSettings
from asyncjobs.service.store.store import Store
from asyncjobs.state import JobState

SEEDS = 200


class Original:
    """A database as it was before it is damaged, with what was accepted."""

    def __init__(self, folder: Path, ids: list[str]) -> None:
        self.folder = folder
        self.ids = set(ids)


async def filled(database: Path, number: int) -> list[str]:
    """What it accepted; closed again."""
    async with opened(database) as store:
        return await fill(store, number)


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> list[Original]:
    """One that was closed, one whose process was killed with all of it in the log, and one with some in the log."""
    folders = [tmp_path_factory.mktemp(name) for name in ("closed", "killed", "both")]
    closed = asyncio.run(filled(folders[0] / "jobs.db", 40))
    killed = left_by_a_killed_one(folders[1] / "jobs.db", 40)
    both = asyncio.run(filled(folders[2] / "jobs.db", 30))
    both += left_by_a_killed_one(folders[2] / "jobs.db", 9, "more")
    return [Original(*pair) for pair in zip(folders, (closed, killed, both), strict=True)]


# --- the ways ---------------------------------------------------------------------------------


def flip(draw: random.Random, path: Path) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(draw.randint(1, 16)):
        content[draw.randrange(len(content))] ^= draw.randint(1, 255)
    path.write_bytes(bytes(content))


def flip_near_the_beginning(draw: random.Random, path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[draw.randrange(min(200, len(content)))] ^= draw.randint(1, 255)
    path.write_bytes(bytes(content))


def cut(draw: random.Random, path: Path) -> None:
    os.truncate(path, draw.randrange(path.stat().st_size))


def blank(draw: random.Random, path: Path) -> None:
    """A page of zeros, as a disk may give back after a power failure."""
    content = bytearray(path.read_bytes())
    start = draw.randrange(0, max(1, len(content) - 4096), 4096)
    content[start : start + 4096] = bytes(len(content[start : start + 4096]))
    path.write_bytes(bytes(content))


def swap(draw: random.Random, path: Path) -> None:
    """The files change places."""
    other = path.with_name("jobs.db" if path.name != "jobs.db" else "jobs.db-mark")
    aside = path.with_name("aside")
    path.rename(aside)
    other.rename(path)
    aside.rename(other)


def remove(draw: random.Random, path: Path) -> None:
    path.unlink()


WAYS: list[Callable[[random.Random, Path], None]] = [flip, flip, flip_near_the_beginning, cut, blank, swap, remove]


def damage(seed: int, database: Path) -> str:
    """Hit one of the files in one of the ways; which."""
    draw = random.Random(seed)
    there = [path for path in (database, database, mark.path_of(database)) if path.exists()]
    log = database.with_name("jobs.db-wal")
    if log.exists() and log.stat().st_size:
        there += [log, log]
    path, way = draw.choice(there), draw.choice(WAYS)
    way(draw, path)
    return f"seed {seed}: {way.__name__} {path.name}"


# --- refused or consistent --------------------------------------------------------------------


async def outcome_of(database: Path, accepted: set[str]) -> str:
    """``refused`` with every file as it was, or ``served`` with every accepted job."""
    before = files_of(database)
    try:
        store = await Store.open(StoreSettings(database))
    except StateRefused as refusal:
        text = str(refusal)
        store = None
    if store is None:
        assert str(database.parent) in text
        assert files_of(database) == before
        return "refused"
    try:
        assert {row.id for row in await store.rows(Query(limit=1000))} == accepted
    finally:
        await store.aclose()
    check_sound(database)
    return "served"


def salvaged(database: Path) -> Salvaged:
    """What was read of it; the files as they were are in the folder that it names."""
    before = files_of(database)
    report = salvage(database)
    assert files_of(report.aside / "jobs.db") == before
    return report


async def after_salvage(database: Path, accepted: set[str]) -> int:
    """How many of the accepted jobs are there; the store serves them, and new ones."""
    async with opened(database) as store:
        found = {row.id for row in await store.rows(Query(limit=1000))}
        for claim in await store.claim({"process": 100}):
            await store.finish([ended(claim)])
        [new] = await submitted(store, priority=100)
        await store.finish([ended(claim) for claim in await claimed(store)])
        assert (await store.row(new)).state == JobState.SUCCEEDED
    check_sound(database)
    assert inspection.check_all(database) == []
    return len(found & accepted)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
async def test_F77_whatever_is_damaged_it_is_refused_unchanged_or_served_whole(
    originals: list[Original], tmp_path: Path, part: int
) -> None:
    told: Counter[str] = Counter()
    for seed in range(part, SEEDS, 4):
        original = originals[seed % len(originals)]
        database = copy_of(original.folder, tmp_path / "state")
        what = damage(seed, database)
        try:
            told[await outcome_of(database, original.ids)] += 1
        except AssertionError as error:
            raise AssertionError(f"{what}: {error}") from error
    assert told["refused"] > SEEDS / 4 / 3, told
    assert told["served"] > 0, told


@pytest.mark.slow
@pytest.mark.parametrize("part", range(2))
async def test_F77_most_of_what_was_refused_is_salvaged(originals: list[Original], tmp_path: Path, part: int) -> None:
    there = kept = 0
    for seed in range(part, SEEDS // 4, 2):
        original = originals[seed % len(originals)]
        database = copy_of(original.folder, tmp_path / "state")
        what = damage(seed, database)
        if "remove" in what or "swap" in what:
            continue  # what is gone is gone
        if await outcome_of(copy_of(database.parent, tmp_path / "look"), original.ids) == "served":
            continue
        there += len(original.ids)
        try:
            salvaged(database)
            kept += await after_salvage(database, original.ids)
        except StateRefused:
            continue  # nothing can be read
        except Exception as error:
            raise AssertionError(what) from error
    assert kept > 0.8 * there, f"{kept} of {there}"


# --- what salvage does ------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_sound_database_is_salvaged_as_it_is(originals: list[Original], tmp_path: Path) -> None:
    for original in originals:
        database = copy_of(original.folder, tmp_path / "state")
        async with opened(copy_of(original.folder, tmp_path / "whole")) as store:
            rows = await store.rows(Query(limit=1000))
            events = await store.events(None, limit=10_000)
            outcomes = await store.outcomes([row.id for row in rows])
        report = salvaged(copy_of(tmp_path / "whole", tmp_path / "state"))
        assert (report.unreadable, report.notes, report.damaged_frames) == ({}, [], 0)
        async with opened(database) as store:
            assert [row._replace(attempt=0) for row in await store.rows(Query(limit=1000))] == [
                row._replace(attempt=0) for row in rows
            ]
            assert (await store.events(None, limit=10_000))[: len(events)] == events
            assert await store.outcomes([row.id for row in rows]) == outcomes


async def test_F77_a_damaged_page_of_the_log_costs_that_page_and_not_what_came_after_it(
    originals: list[Original], tmp_path: Path
) -> None:
    database = copy_of(originals[1].folder, tmp_path / "state")
    log = database.with_name("jobs.db-wal")
    content = bytearray(log.read_bytes())
    content[32 + 40 * 4120 + 1000] ^= 0xFF
    log.write_bytes(bytes(content))
    assert await outcome_of(database, set()) == "refused"
    report = salvaged(database)
    assert report.damaged_frames == 1
    assert await after_salvage(database, originals[1].ids) == len(originals[1].ids)


@pytest.mark.slow
async def test_F77_a_lost_first_page_is_put_back(originals: list[Original], tmp_path: Path) -> None:
    for size in (100, 4096):
        database = copy_of(originals[0].folder, tmp_path / "state")
        with open(database, "r+b") as file:
            file.write(os.urandom(size))
        assert "put in its place" in salvaged(database).notes[0]
        assert await after_salvage(database, originals[0].ids) == len(originals[0].ids)


async def test_deadlines_of_an_older_database_are_salvaged_too(tmp_path: Path) -> None:
    database = tmp_path / "jobs.db"
    version_1(database)
    connection = sqlite3.connect(database)
    # Of the first the job has ended, those of the second are damaged.
    for seq, terms in ((1, b'{"deadline": 1.0}'), (2, b'{"deadline": 9'), (3, b'{"deadline": 9000000000}')):
        connection.execute("UPDATE calls SET terms = ? WHERE seq = ?", (terms, seq))
    connection.commit()
    connection.close()
    salvaged(database)
    assert looked_at(database, "SELECT seq, deadline FROM jobs ORDER BY seq") == [(1, None), (2, None), (3, 9e9)]
    async with opened(database) as store:
        assert (await store.row(f"{3:026}")).state == JobState.QUEUED
    check_sound(database)


async def test_what_was_salvaged_without_its_call_or_its_parent_ends_and_says_why(
    originals: list[Original], tmp_path: Path
) -> None:
    database = copy_of(originals[0].folder, tmp_path / "state")
    mark.path_of(database).unlink()
    before = looked_at(database, "SELECT j.id, j.seq FROM jobs j WHERE state = 0 ORDER BY seq")
    _, lost = before[0]
    parent = looked_at(database, "SELECT DISTINCT parent FROM edges")[0][0]
    with inspection.closing(inspection.sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute("DROP TRIGGER jobs_stay")
        connection.execute("DELETE FROM calls WHERE seq = ?", (lost,))
        connection.execute("DELETE FROM jobs WHERE seq = ?", (parent,))
        connection.commit()
    report = salvaged(database)
    text = "\n".join(report.notes)
    assert "calls cannot be read" in text
    assert "come after cannot be read" in text
    async with opened(database) as store:
        rows = {row.seq: row for row in await store.rows(Query(limit=1000))}
        assert (rows[lost].state, rows[lost].note) == (JobState.LOST, "the database was damaged: its call was lost")
        assert parent not in rows
        children = [row for row in rows.values() if row.after]
        assert [row.state for row in children] == [JobState.CANCELLED] * len(children)
    check_sound(database)


async def test_salvage_without_anything_to_read_changes_nothing(tmp_path: Path) -> None:
    database = tmp_path / "jobs.db"
    with pytest.raises(StateRefused, match="there is no"):
        salvage(database)
    assert list(tmp_path.iterdir()) == []
    private.write_private(database, b"\0" * 50_000)
    with pytest.raises(StateRefused, match="nothing can be read"):
        salvage(database)
    assert database.read_bytes() == b"\0" * 50_000


def test_the_frames_of_a_log_are_those_that_sqlite_reads(originals: list[Original]) -> None:
    log = (originals[1].folder / "jobs.db-wal").read_bytes()
    frames = replay.read_frames(log, 4096)
    last = max(number for number, frame in enumerate(frames) if frame.pages)
    assert all(frame.is_sound for frame in frames[: last + 1])
    assert not any(frame.is_sound for frame in frames[last + 1 :])
    for size in (0, 20, 32, 56, 5000, len(log) - 1):  # what is cut off in the middle is no frame
        assert len(replay.read_frames(log[:size], 4096)) == max(0, (size - 32) // 4120)
