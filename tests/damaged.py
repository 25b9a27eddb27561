"""Databases for tests that were left by a killed process, filled, damaged or put on a small disk."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from stored import claimed, ended, job, submitted

from asyncjobs.service.store.store import Store
from asyncjobs.state import JobState

ROOT = Path(__file__).resolve().parents[1]

LEAVES = """
import asyncio, os, signal, sys
from pathlib import Path
from damaged import fill
from stored import StoreSettings
from asyncjobs.service.store.store import Store

async def main():
    store = await Store.open(StoreSettings(Path(sys.argv[1]), results=Path(sys.argv[1]).parent / "results"))
    print(*await fill(store, int(sys.argv[2]), sys.argv[3]), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


async def fill(store: Store, number: int, key: str = "key") -> list[str]:
    """Jobs in every state, with keys, tags, parents and outcomes; the ids of all that were accepted."""
    ids = [
        answer.id
        for count in range(number)
        for answer in await store.submit([job(os.urandom(100), key=f"{key} {count}", tags=("all", f"tag {count}"))])
    ]
    done = await claimed(store, max(1, number // 3))
    await store.finish([ended(claim, outcome=os.urandom(300)) for claim in done])
    failed = await claimed(store, 2)
    await store.finish([ended(claim, JobState.FAILED, note="ValueError: no") for claim in failed])
    if number > 8:
        await claimed(store, 2)
        ids += await submitted(store, 2, after=(ids[-1],))
        await store.cancel(ids[-4], "enough")
    return ids


def left_by_a_killed_one(path: Path, number: int, key: str = "key") -> list[str]:
    """A database whose process was killed; the ids of what it had accepted. Its log is not copied over."""
    done = subprocess.run(
        [sys.executable, "-c", LEAVES, str(path), str(number), key], cwd=ROOT / "tests", capture_output=True, text=True
    )
    assert done.returncode == -9, done.stderr
    return done.stdout.split()


def files_of(path: Path) -> dict[str, str]:
    """The digests of a database's files; the index of the log is no more than that."""
    found = [path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-mark")]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in found if file.exists()}


def copy_of(folder: Path, target: Path) -> Path:
    """The database of `folder`, copied with all that belongs to it."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder, target, copy_function=shutil.copy2)
    target.chmod(0o700)
    return target / "jobs.db"


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of so many bytes."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("F75: a small file system can be mounted by root only")
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(folder)]).returncode != 0:
        pytest.skip("F75: this user may not mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
