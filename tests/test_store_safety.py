"""What the store does before it opens a database, on a full disk, on a broken one; backups."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from damaged import ROOT, copy_of, files_of, fill, left_by_a_killed_one, small_disk
from stored import check_sound, claimed, ended, job, looked_at, opened, submitted

from asyncjobs import failpoint
from asyncjobs.service import private
from asyncjobs.service.access import StateDir
from asyncjobs.service.errors import BadRequest, StateRefused, StorageBroken, StorageFull
from asyncjobs.service.records import Query
from asyncjobs.service.store import inspection, mark
from asyncjobs.service.store.ballast import Ballast
from asyncjobs.service.store.creating import create
from asyncjobs.service.store.migrating import VERSION
from asyncjobs.service.store.settings import StoreSettings
from asyncjobs.service.store.store import Store
from asyncjobs.state import JobState


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "jobs.db"


@pytest.fixture(autouse=True)
def _folder(path: Path) -> None:
    path.parent.mkdir(mode=0o700)


async def refused(path: Path, match: str) -> None:
    """It is, and no byte of it changes."""
    before = files_of(path)
    with pytest.raises(StateRefused, match=match) as caught:
        await Store.open(StoreSettings(path))
    assert str(path) in str(caught.value)
    assert files_of(path) == before


# --- a new one ----------------------------------------------------------------------------


async def test_F98_database_and_log_are_0600_from_birth_whatever_the_umask(path: Path) -> None:
    before = os.umask(0)
    try:
        async with opened(path) as store:
            await submitted(store)
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert modes == {"jobs.db": 0o600, "jobs.db-wal": 0o600, "jobs.db-mark": 0o600}


@pytest.mark.slow
async def test_F73_a_service_that_is_killed_while_it_makes_a_database_leaves_nothing_in_the_way(path: Path) -> None:
    text = f"from pathlib import Path\nfrom asyncjobs.service.store.creating import create\ncreate(Path({str(path)!r}))"
    environment = {**os.environ, "ASYNCJOBS_FAILPOINTS": "migrate.step=kill"}
    assert subprocess.run([sys.executable, "-c", text], cwd=ROOT, env=environment).returncode == -9
    assert not path.exists()
    assert [file.name for file in path.parent.iterdir() if file.name == ".jobs.db.new"]
    async with opened(path) as store:
        await submitted(store)
    assert sorted(file.name for file in path.parent.iterdir()) == ["jobs.db", "jobs.db-mark"]


# --- F77, F78, F80: what is refused -------------------------------------------------------


@pytest.mark.parametrize(
    "content", [b"", b"not a database, but a text\n" * 500, b"SQLite format 3\x00short", b"\0" * 8192]
)
async def test_F77_what_is_not_a_database_is_refused(path: Path, content: bytes) -> None:
    private.write_private(path, content)
    await refused(path, "journal recover --dir")


async def test_F77_a_database_that_lost_its_content_is_not_begun_anew(path: Path) -> None:
    async with opened(path) as store:
        await submitted(store)
    path.write_bytes(b"")
    await refused(path, "is empty")
    path.unlink()
    await refused(path, "is gone, but what belongs to it is there")
    assert not path.exists()


async def test_F77_a_cut_database_is_refused(path: Path) -> None:
    async with opened(path) as store:
        await fill(store, 30)
    whole = path.read_bytes()
    for size in (99, 4096, 8192, len(whole) // 2, len(whole) - 4096, len(whole) - 1):
        path.write_bytes(whole[:size])
        await refused(path, "journal recover|changed")
        mark.path_of(path).rename(path.parent / "aside")
        if size < len(whole) - 1:
            await refused(path, "journal recover")
        (path.parent / "aside").rename(mark.path_of(path))
    path.write_bytes(whole)
    async with opened(path):
        pass


async def test_F77_a_byte_that_changed_while_nobody_served_is_noticed_wherever_it_is(path: Path) -> None:
    async with opened(path) as store:
        await fill(store, 30)
    whole = path.read_bytes()
    for at in range(50, len(whole), len(whole) // 25):
        changed = bytearray(whole)
        changed[at] ^= 1
        path.write_bytes(bytes(changed))
        await refused(path, "changed|version|damaged|not a database")


def used_of(log: bytes) -> int:
    """Where the last commit in a write-ahead log ends; what follows was rolled back."""
    frames = range(32, len(log) - 4119, 4120)
    return max(start + 4120 for start in frames if log[start + 4 : start + 8] != bytes(4))


@pytest.mark.slow
async def test_F77_a_log_that_is_removed_or_damaged_takes_no_accepted_job_along(path: Path) -> None:
    ids = left_by_a_killed_one(path, 20)
    log = path.with_name("jobs.db-wal")
    whole = log.read_bytes()
    log.unlink()
    await refused(path, "accepted jobs are missing")
    used = used_of(whole)
    for at in (5, 20, 40, used // 2, used - 100):
        changed = bytearray(whole)
        changed[at] ^= 0x10
        log.write_bytes(bytes(changed))
        log.chmod(0o600)
        await refused(path, "accepted jobs are missing|damaged|not a database of asyncjobs")
    log.write_bytes(whole)
    async with opened(path) as store:
        assert {row.id for row in await store.rows(Query(limit=100))} == set(ids)


@pytest.mark.slow
async def test_F77_the_index_of_the_log_may_be_lost_or_damaged(path: Path) -> None:
    ids = left_by_a_killed_one(path, 12)
    index = path.with_name("jobs.db-shm")
    private.write_private(index, os.urandom(32768))
    async with opened(path) as store:
        assert {row.id for row in await store.rows(Query(limit=100))} == set(ids)


@pytest.mark.slow
async def test_F77_an_older_copy_in_the_place_of_the_database_is_refused(path: Path, tmp_path: Path) -> None:
    async with opened(path) as store:
        await submitted(store)
    old = path.read_bytes()
    left_by_a_killed_one(path, 12)
    path.with_name("jobs.db-wal").unlink()
    path.write_bytes(old)
    await refused(path, "an older copy was put in its place")
    mark.path_of(path).unlink()  # as the text says for one who knows
    async with opened(path) as store:
        assert len(await store.rows(Query())) == 1


@pytest.mark.slow
async def test_a_mark_that_is_missing_or_damaged_stands_in_nobodys_way(path: Path) -> None:
    ids = left_by_a_killed_one(path, 12)
    for content in (None, b"", b"x" * 60, b"AJMARK1\n" + b"\xff" * 52):
        copy = copy_of(path.parent, path.parent.with_name("copy"))
        mark.path_of(copy).unlink()
        if content is not None:
            private.write_private(mark.path_of(copy), content)
        async with opened(copy) as store:
            assert {row.id for row in await store.rows(Query(limit=100))} == set(ids)


async def test_F78_a_newer_database_is_refused_and_named(path: Path) -> None:
    async with opened(path) as store:
        await submitted(store)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    await refused(path, f"has version {VERSION + 1}.*install the newer asyncjobs")
    mark.path_of(path).unlink()
    await refused(path, "install the newer asyncjobs")


async def test_F77_the_database_of_another_program_is_refused(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE jobs (a)")
    path.chmod(0o600)
    await refused(path, "its tables are others")


@pytest.mark.parametrize("name", ["jobs.db", "jobs.db-wal", "jobs.db-shm", "jobs.db-mark"])
@pytest.mark.parametrize("plant", ["symlink", "hard link", "fifo", "folder", "readable"])
async def test_F80_F97_links_and_other_things_in_the_place_of_its_files_are_refused(
    path: Path, tmp_path: Path, name: str, plant: str
) -> None:
    create(path)
    planted, aside = path.with_name(name), tmp_path / "aside"
    private.write_private(aside, planted.read_bytes() if planted.exists() else b"")
    planted.unlink(missing_ok=True)
    {
        "symlink": lambda: planted.symlink_to(aside),
        "hard link": lambda: planted.hardlink_to(aside),
        "fifo": lambda: os.mkfifo(planted, 0o600),
        "folder": lambda: planted.mkdir(0o700),
        "readable": lambda: (shutil.copy(aside, planted), planted.chmod(0o644)),
    }[plant]()
    before = planted.lstat(), aside.read_bytes()
    with pytest.raises(StateRefused, match=str(planted)):
        await Store.open(StoreSettings(path))
    assert (planted.lstat().st_ino, planted.lstat().st_mode) == (before[0].st_ino, before[0].st_mode)
    assert aside.read_bytes() == before[1]


@pytest.mark.slow
async def test_after_a_kill_a_small_database_is_checked_as_a_whole(path: Path) -> None:
    left_by_a_killed_one(path, 20)
    # What SQLite's check finds, and nothing else does: an index that does not say what its table says.
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA writable_schema = 1")
        connection.execute("UPDATE sqlite_schema SET sql = NULL, rootpage = 3 WHERE name = 'jobs_due'")
        connection.commit()
    assert not path.with_name("jobs.db-wal").exists()
    await refused(path, "damaged")


@pytest.mark.slow
async def test_a_look_at_a_large_database_is_quick(path: Path) -> None:
    async with opened(path) as store:
        await store.submit([job(os.urandom(2000)) for _ in range(5000)])
    mark.path_of(path).unlink()
    size = path.stat().st_size
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inspection, "CHECK_UP_TO", size - 1)
        patch.setattr(inspection, "_problems", lambda connection: pytest.fail("it was read as a whole"))
        found = inspection.inspect(path)
    assert found == (False, 5000, False)


# --- F75: a full disk ---------------------------------------------------------------------


def test_the_ballast_takes_no_more_than_a_quarter_of_what_is_free(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", "400k") as disk:
        ballast = Ballast(disk / "ballast")
        assert ballast.restore()
        assert (disk / "ballast").stat().st_size == 100 * 2**10
        (disk / "rest").write_bytes(b"x" * 240 * 2**10)
        assert ballast.restore()
        assert ballast.release()
        assert not ballast.release()
        (disk / "filler").write_bytes(b"x" * 100 * 2**10)
        assert not ballast.restore(), "all that was given, or nothing: the rest would be for others"
        assert (disk / "ballast").stat().st_size == 0
        (disk / "filler").unlink()
        assert ballast.restore()
        assert (disk / "ballast").stat().st_size == 100 * 2**10


def test_the_ballast_is_as_large_as_it_should_be_and_comes_back(tmp_path: Path) -> None:
    ballast = Ballast(tmp_path / "ballast", 2**18)
    assert not ballast.release()
    for _ in range(2):
        assert ballast.restore()
        assert (tmp_path / "ballast").stat().st_size == 2**18
        assert stat.S_IMODE((tmp_path / "ballast").stat().st_mode) == 0o600
    assert ballast.release()
    assert (tmp_path / "ballast").stat().st_size == 0


async def test_F75_a_full_disk_refuses_submits_keeps_what_was_accepted_and_takes_results_from_the_ballast(
    tmp_path: Path,
) -> None:
    with small_disk(tmp_path / "small", "1m") as disk:
        path, ballast = disk / "jobs.db", Ballast(disk / "ballast", 220 * 2**10)
        async with opened(path, ballast=ballast) as store:
            accepted = await submitted(store, 4)
            running = await claimed(store, 4)
            with pytest.raises(StorageFull, match="nothing of the request was taken"):
                await _submit_for_ever(store, accepted)
            _fill_up(disk / "filler")
            kept = (disk / "ballast").stat().st_size
            assert kept > 0
            assert {row.id for row in await store.rows(Query(limit=1000))} == set(accepted)
            # What has been done is written down all the same.
            result = os.urandom(30_000)
            assert await store.finish([ended(claim, outcome=result) for claim in running]) == [JobState.SUCCEEDED] * 4
            assert (disk / "ballast").stat().st_size == 0
            assert (await store.outcome(running[0].id))[3] == result
            # The room that this leaves is for further results: nothing else uses it up.
            (disk / "filler").unlink()
            assert shutil.disk_usage(disk).free > 2**14
            for refused in (submitted(store, 1), store.claim({"process": 1})):
                with pytest.raises(StorageFull):
                    await refused
            await store.prune()
            assert (disk / "ballast").stat().st_size == 0
            subprocess.run(["mount", "-o", "remount,size=2m", str(disk)], check=True)
            accepted += await submitted(store, 1)
            assert (disk / "ballast").stat().st_size == kept
        copy = copy_of(disk, tmp_path / "copy")  # to look at it takes some space too
        check_sound(copy)
        assert {id for (id,) in looked_at(copy, "SELECT id FROM jobs")} == set(accepted)
        ballast.release()
        _fill_up(disk / "filler")
        with pytest.raises(StorageFull, match="make room and start again"):
            await Store.open(StoreSettings(path, ballast=ballast))
        subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
        async with opened(path, ballast=ballast) as store:
            assert len(await store.rows(Query(limit=1000))) == len(accepted)


async def _submit_for_ever(store: Store, accepted: list[str]) -> None:
    while True:
        accepted += await submitted(store, 1, payload=os.urandom(3000))


def _fill_up(path: Path) -> None:
    with contextlib.suppress(OSError), open(path, "wb", buffering=0) as filler:
        while True:
            filler.write(b"x" * 512)


# --- F76: a disk that fails ---------------------------------------------------------------

WRITES = """
import asyncio, os, sys
from pathlib import Path
from stored import StoreSettings, job
from asyncjobs.service.errors import StorageBroken
from asyncjobs.service.store.settings import StoreSettings
from asyncjobs.service.store.store import Store

async def main():
    store = await Store.open(StoreSettings(Path(sys.argv[1])))
    try:
        while True:
            [answer] = await store.submit([job(os.urandom(200))])
            print(answer.id, flush=True)
            if sys.stdin.readline() == "":
                break
    except StorageBroken:
        print("broken", flush=True)
        for _ in range(3):
            try:
                await store.submit([job()])
            except StorageBroken:
                print("still", flush=True)
        assert isinstance(store.broken.result(), StorageBroken)
    await store.aclose()

asyncio.run(main())
"""


def _may_trace() -> bool:
    return shutil.which("strace") is not None and subprocess.run(["strace", "-o", os.devnull, "true"]).returncode == 0


@pytest.mark.skipif(shutil.which("strace") is None, reason="F76: strace is not installed")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "number"),
    [("fdatasync", 2), ("fdatasync", 5), ("fdatasync", 9), ("pwrite64", 5), ("pwrite64", 60), ("pwrite64", 120)],
)
async def test_F76_an_io_error_ends_the_store_and_what_was_accepted_is_there(
    path: Path, call: str, number: int
) -> None:
    if not _may_trace():
        pytest.skip("F76: strace may not trace here")
    create(path)
    async with opened(path):
        pass
    inject = f"inject={call}:error=EIO:when={number}+"
    script = path.parent / "writes.py"
    script.write_text(WRITES)
    files = ["-P", str(path), "-P", f"{path}-wal"]
    command = ["strace", "-f", "-o", os.devnull, *files, "-e", f"trace={call}", "-e", inject]
    process = subprocess.Popen(
        [*command, sys.executable, str(script), str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
    )
    said, complaints = await asyncio.to_thread(process.communicate, "\n" * 12, 60)
    lines = said.split()
    accepted = {line for line in lines if len(line) == 26}
    if "broken" in lines:
        assert lines.count("still") == 3, complaints
    else:
        assert "StorageBroken" in complaints  # at the opening
    async with opened(path) as store:
        found = {row.id for row in await store.rows(Query(limit=1000))}
    assert accepted <= found
    assert len(found - accepted) <= 1  # the one that was not answered
    check_sound(path)


CREATES = """
import sys
from pathlib import Path
from asyncjobs.service.store.creating import create

create(Path(sys.argv[1]))
"""


@pytest.mark.skipif(shutil.which("strace") is None, reason="F76: strace is not installed")
@pytest.mark.slow
async def test_F76_a_disk_that_fails_while_a_database_is_made_leaves_none_that_holds_nothing(path: Path) -> None:
    """From its Nth fdatasync on, for each N that there is."""
    if not _may_trace():
        pytest.skip("F76: strace may not trace here")
    number, code = 0, 1
    while code != 0:
        number += 1
        inject = f"inject=fdatasync:error=EIO:when={number}+"
        command = ["strace", "-f", "-o", os.devnull, "-e", "trace=fdatasync", "-e", inject]
        code = subprocess.run(
            [*command, sys.executable, "-c", CREATES, str(path)], cwd=ROOT, stderr=subprocess.DEVNULL
        ).returncode
        assert path.exists() == (code == 0)
    assert number > 3
    async with opened(path) as store:
        await submitted(store)


async def test_F76_a_failing_disk_is_told_to_everybody(path: Path) -> None:
    async with opened(path) as store:
        failpoint.arm("submit.before_commit=errno:EIO")
        try:
            with pytest.raises(StorageBroken):
                await store.submit([job()])
        finally:
            failpoint.arm("")
        for _ in range(2):
            with pytest.raises(StorageBroken):
                await store.rows(Query())
        assert isinstance(store.broken.result(), StorageBroken)
    async with opened(path) as store:
        assert await store.rows(Query()) == []


# --- backup -------------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_backup_of_a_store_in_use_is_a_state_directory_with_every_job_of_before(tmp_path: Path) -> None:
    state = StateDir.open(tmp_path / "live", create=True)
    target = tmp_path / "copies" / "monday"
    target.parent.mkdir()
    async with opened(state.database, results=state.results) as store:
        before = await fill(store, 12)
        [big] = await submitted(store, priority=9)
        await store.finish([ended(claim, outcome=b"x" * 400_000) for claim in await claimed(store)])
        await store.submit([job(os.urandom(20_000)) for _ in range(200)])  # 4 MB: others have their turn in between
        copying = asyncio.create_task(store.backup(target))
        while not copying.done():
            before += await submitted(store)
        await copying
    copy = StateDir.open(target, create=True)
    assert copy.key() == state.key()
    modes = {stat.S_IMODE(found.stat().st_mode) for found in target.rglob("*")}
    assert modes == {0o600, 0o700}
    check_sound(copy.database)
    async with opened(copy.database, results=copy.results) as store:
        rows = {row.id for row in await store.rows(Query(limit=10_000))}
        assert rows >= set(before[:14])
        assert (await store.outcome(big))[3] == b"x" * 400_000
        await submitted(store)


@pytest.mark.parametrize("has_logs", [True, False])
async def test_a_backup_takes_logs_and_figures_along_as_they_are(tmp_path: Path, has_logs: bool) -> None:
    state = StateDir.open(tmp_path / "live", create=True)
    log, figure = (
        state.path / "logs" / "jobs" / "ab" / f"{'0' * 26}.log",
        state.path / "figures" / ("0" * 26) / "a.html",
    )
    for path in (log, figure):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("what it left")
    figure.chmod(0o644)  # a job's own mode
    (figure.parent / "link.html").symlink_to("/etc/hostname")
    os.mkfifo(figure.parent / "pipe.html")
    told: list[int] = []
    async with opened(state.database) as store:
        await store.backup(tmp_path / "copy", has_logs=has_logs, tell=told.append)
    copy = StateDir.open(tmp_path / "copy", create=True)
    found = {path.relative_to(copy.path): path.read_text() for path in copy.path.rglob("*.[hl]*") if path.is_file()}
    left = {path.relative_to(state.path): "what it left" for path in (log, figure)}
    assert {path: text for path, text in found.items() if path.name != "lock"} == (left if has_logs else {})
    assert sum(told) == copy.database.stat().st_size + has_logs * 2 * len("what it left")
    assert {stat.S_IMODE(path.stat().st_mode) for path in copy.path.rglob("*")} == {0o600, 0o700}


async def test_a_backup_is_a_new_folder_and_one_that_fails_leaves_nothing(path: Path, tmp_path: Path) -> None:
    async with opened(path) as store:
        await fill(store, 5)
        for wrong in (path.parent, tmp_path / "no" / "such", Path("relative"), tmp_path / ".." / "x"):
            with pytest.raises(BadRequest):
                await store.backup(wrong)
        with small_disk(tmp_path / "small", "64k") as disk:
            with pytest.raises(StorageFull, match="no backup"):
                await store.backup(disk / "copy")
            assert list(disk.iterdir()) == []
        await submitted(store)  # the store has not suffered


@pytest.mark.slow
async def test_a_backup_that_is_under_way_when_the_store_closes_is_broken_off(path: Path, tmp_path: Path) -> None:
    async with opened(path) as store:
        await store.submit([job(os.urandom(20_000)) for _ in range(500)])
        copying = asyncio.create_task(store.backup(tmp_path / "copy"))
        await asyncio.to_thread(_until_exists, tmp_path / "copy.partial" / "jobs.db")
    await asyncio.wait([copying])
    assert (tmp_path / "copy").exists() is (copying.exception() is None)
    assert not (tmp_path / "copy.partial").exists()


def _until_exists(path: Path) -> None:
    while not path.exists():
        continue
