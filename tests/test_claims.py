"""What a worker process had begun is known after its death, by another process that holds the file open."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from asyncjobs.claims import KEPT, Claims, Witness
from asyncjobs.errors import WorkerStartError

WORKER = """
import os, sys
from asyncjobs.claims import Claims

claims = Claims()
for ticket in range(1, int(sys.argv[1]) + 1):
    claims.write(ticket)
if os.fork() == 0:  # a child that outlives it, as jobs may have some
    os.close(1)
    os.read(0, 1)
    os._exit(0)
print(claims.path, flush=True)
os.read(0, 1)
"""


@pytest.fixture
def count() -> int:
    return 3


@pytest.fixture
def worker(count: int) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", WORKER, str(count)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def witness_of(worker: subprocess.Popen[str]) -> Witness:
    assert worker.stdout is not None
    return Witness(worker.stdout.readline().strip())


async def test_a_killed_worker_had_begun_what_it_wrote_down_also_if_a_child_of_it_lives_on(
    worker: subprocess.Popen[str],
) -> None:
    witness = witness_of(worker)
    assert not witness.is_over
    with pytest.raises(WorkerStartError, match="the worker lives on"):
        await witness.begun(0.0)
    os.kill(worker.pid, signal.SIGKILL)
    assert await witness.begun(60.0) == [1, 2, 3]
    witness.close()


@pytest.mark.parametrize("count", [KEPT + 5])
async def test_only_the_last_ones_are_kept(worker: subprocess.Popen[str], count: int) -> None:
    witness = witness_of(worker)
    worker.kill()
    assert sorted(await witness.begun(60.0)) == list(range(6, count + 1))
    witness.close()


def test_the_file_has_no_name_once_its_witness_has_opened_it() -> None:
    claims = Claims()
    assert os.stat(claims.path).st_mode & 0o777 == 0o600
    Witness(claims.path).close()
    assert not os.path.exists(claims.path)
    claims.close()


def test_a_file_that_nobody_opened_goes_with_its_claims() -> None:
    claims = Claims()
    claims.close()
    assert not os.path.exists(claims.path)
