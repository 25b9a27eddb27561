"""F58 to F63: shared memory that is full, and processes that are killed in the middle of a transfer."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import array_jobs as jobs
import numpy as np
import psutil
import pytest

import asyncjobs as aj
from asyncjobs.wire import arena

MIB = 2**20
IN_64_KIB = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=64k tmpfs /dev/shm && exec "$@"', "sh")

ROUND_TRIPS = """
import asyncio, os, sys
import numpy as np
import asyncjobs as aj
{prelude}

def same(array):
    return array

async def main():
    async with aj.Runner(processes=2, options={{"lane": "process", "lost": "retry"}}) as runner:
        sent = np.arange(300_000.0)
        for number in range({rounds}):
            back = await runner.run(same, sent + number)
            assert np.array_equal(back, sent + number)
            print("round", number, flush=True)
        try:
            with runner.share(sent) as handle:
                assert await runner.run(np.sum, handle) == sent.sum()
        except aj.ArenaFull:
            assert runner.stats().memory.inlined
        print("all well", runner.stats().memory.inlined, flush=True)

aj.run(main())
"""


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(aj.__file__).parent.parent)}


def run(*command: str, timeout: float = 50) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment(), check=False)


def may_mount() -> bool:
    return run(*IN_64_KIB, "true").returncode == 0


@pytest.mark.parametrize("files", ["memory files", "unlinked files"])
def test_f58_a_dev_shm_of_64_kib_holds_nobody_up(files: str, tmp_path: Path) -> None:
    if not may_mount():
        pytest.skip("this user may not mount")
    script = tmp_path / "script.py"
    prelude = "" if files == "memory files" else "del os.memfd_create"
    script.write_text(ROUND_TRIPS.format(prelude=prelude, rounds=3))
    done = run(*IN_64_KIB, sys.executable, str(script))
    assert "all well 0" in done.stdout, done.stderr


@pytest.mark.parametrize("size", ["300k", "3m"])
def test_f59_files_that_find_no_room_are_no_bus_error(size: str, tmp_path: Path) -> None:
    """Without memory files arenas are unlinked files; a full file system must not be SIGBUS."""
    if not may_mount():
        pytest.skip("this user may not mount")
    script = tmp_path / "script.py"
    script.write_text(ROUND_TRIPS.format(prelude="del os.memfd_create", rounds=3))
    mount = f'mount -t tmpfs -o size={size} tmpfs /mnt && TMPDIR=/mnt exec "$@"'
    done = run("unshare", "--mount", "sh", "-c", mount, "sh", sys.executable, str(script))
    assert done.returncode >= 0, f"killed by signal {-done.returncode}"
    assert "all well" in done.stdout, done.stderr
    assert "all well 0" not in done.stdout, "there was no room"


def memory_files(pids: list[int]) -> set[int]:
    """The inodes of the memory files that these processes hold open."""
    found: set[int] = set()
    for pid in pids:
        with suppress(OSError):
            for number in os.listdir(f"/proc/{pid}/fd"):
                with suppress(OSError):
                    path = f"/proc/{pid}/fd/{number}"
                    if os.readlink(path).startswith("/memfd:asyncjobs"):
                        found.add(os.stat(path).st_ino)
    return found


@pytest.mark.parametrize("victims", ["the worker", "the parent", "both"])
def test_f60_whoever_is_killed_in_the_middle_of_a_transfer_leaves_nothing_behind(victims: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(ROUND_TRIPS.format(prelude="", rounds=100_000))
    chance = random.Random(victims)
    for _ in range(5):
        program = subprocess.Popen(
            [sys.executable, str(script)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment(),
        )
        assert program.stdout is not None
        for line in program.stdout:
            if line.startswith("round"):
                break
        parent = psutil.Process(program.pid)
        workers = parent.children(recursive=True)
        held = memory_files([program.pid, *(worker.pid for worker in workers)])
        time.sleep(chance.random() / 50)  # anywhere in a transfer
        if victims != "the parent":
            for worker in workers:
                worker.kill()
        if victims == "the worker":
            assert any(line.startswith("round") for line in program.stdout), "the next worker goes on"
        program.kill()
        program.stdout.close()
        program.wait(10)
        _, alive = psutil.wait_procs(workers, timeout=5)
        assert not alive
        assert held, "there were memory files"
        assert not held & memory_files(psutil.pids()), "nobody holds them, so there is no memory behind them"


async def test_f61_the_end_of_one_worker_leaves_what_others_use() -> None:
    async with aj.Runner(processes=2, options={"lane": "process"}) as runner:
        sent = np.arange(300_000.0)
        with runner.share(sent) as handle:
            pids = {(await runner.run(jobs.address_and_sum, handle))[0]}
            held = await runner.run(jobs.same, sent)
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            for _ in range(6):
                assert await runner.run(jobs.total, handle) == sent.sum()
            assert np.array_equal(held, sent)


@pytest.mark.parametrize("kept", [True, False], ids=["pages are looked at", "pages are dropped unseen"])
async def test_f62_nothing_that_a_job_wrote_shows_in_the_next(kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arena, "WORTH_LOOKING", 1 if kept else sys.maxsize)
    async with aj.Runner(processes=1, options={"lane": "process"}) as runner:
        for number in range(6):
            sent = np.full(50_000, float(number + 1))
            assert await runner.run(jobs.total, sent) == sent.sum()
            assert (await runner.run(jobs.negated_in_place, sent)).sum() == -sent.sum()


@pytest.mark.slow
async def test_a_long_soak_with_every_size_and_kind_holds_nothing_in_the_end() -> None:
    chance = np.random.default_rng(7)
    until = time.monotonic() + 30
    async with aj.Runner(processes=2, arena_bytes=256 * MIB, options={"lane": "process"}) as runner:
        held: list[np.ndarray] = []  # type: ignore[type-arg]
        while time.monotonic() < until:
            sizes = chance.integers(1, 2 * MIB, 8)
            sent = [chance.random(int(size) // 8 + 1) for size in sizes]
            work = [await runner.submit(jobs.same, array) for array in sent]
            for array, job in zip(sent, work, strict=True):
                back = await job
                assert np.array_equal(back, array)
                held.append(back)
            held = held[-int(chance.integers(1, 20)) :]
        assert runner._engine.memory.used <= 256 * MIB
        held.clear()
        del back, job, work
        await asyncio.sleep(0.1)
        assert runner.stats().memory.in_use <= 4 * MIB
