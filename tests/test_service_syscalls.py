"""The service is killed at its Nth call of the system's, or the call fails: it keeps its promises (4.3; F75, F76)."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from trials import Trial, live

KILLED = -signal.SIGKILL
SAID = (65, 73, 74)
"""The exit codes by which a service says what it found: a refused state, a file that cannot be made, a failed disk."""
CALLS = {
    "fdatasync": "fdatasync",
    "fsync": "fsync",
    "ftruncate": "ftruncate",
    "pwrite": "pwrite64",
    "rename": "/^rename(at|at2)?$",
    "unlink": "/^unlink(at)?$",
}
"""What to call it, and what strace calls it. Only the store's thread and those that write files beside the database
make these calls often; strace counts them per thread."""
LONG_ENOUGH = 4.0
"""Seconds with a disk that takes nothing, if the service bears it."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(shutil.which("strace") is None, reason="F76: strace is not installed"),
]


def tracing(log: Path, call: str, fault: str) -> tuple[str, ...]:
    """The command that runs a service to which that happens."""
    if subprocess.run(["strace", "-o", os.devnull, "true"]).returncode != 0:
        pytest.skip("F76: strace may not trace here")
    name = CALLS[call]
    return ("strace", "-f", "-q", "-o", str(log), "-e", f"trace={name}", "-e", f"inject={name}:{fault}")


def fibonacci() -> Iterator[int]:
    one, two = 1, 2
    while True:
        yield one
        one, two = two, one + two


@pytest.mark.parametrize("call", CALLS)
async def test_F68_to_F73_a_SIGKILL_at_the_Nth_call_loses_nothing_and_doubles_nothing(
    tmp_path: Path, call: str
) -> None:
    """N is 1, 2, 3, 5, 8, ... until the clients' work is over before that."""
    for number in fibonacci():
        folder = tmp_path / str(number)
        folder.mkdir()
        under = tracing(folder / "calls", call, f"signal=KILL:when={number}")
        async with Trial(folder, under=under) as trial:
            async with trial.client() as client:
                await live(trial, client)
            report = await trial.verdict()
        assert (number, report.violations, trial.refusals) == (number, [], [])
        if "killed by SIGKILL" not in (folder / "calls").read_text():
            return


ANOMALIES = {
    ("fdatasync", "EIO"): ("1+", "8", "21+"),
    ("fdatasync", "ENOSPC"): ("9+",),
    ("fdatasync", "EINTR"): ("21",),
    ("fsync", "EIO"): ("1", "3+"),
    ("fsync", "ENOSPC"): ("1+", "3"),
    ("ftruncate", "EIO"): ("1+",),
    ("ftruncate", "ENOSPC"): ("1",),
    ("pwrite", "EIO"): ("1+", "89", "233+"),
    ("pwrite", "ENOSPC"): ("1", "8+", "144+"),
    ("pwrite", "EINTR"): ("8", "89"),
    ("pwrite", "EROFS"): ("55+",),
    ("rename", "EIO"): ("1", "2+"),
    ("rename", "ENOSPC"): ("1+", "3"),
    ("unlink", "EIO"): ("1+", "2"),
    ("unlink", "EROFS"): ("1",),
}
"""Which of the calls fail: the Nth, or from the Nth on."""


@pytest.mark.parametrize(
    ("call", "error", "when"), [(*fault, when) for fault, each in ANOMALIES.items() for when in each]
)
async def test_F75_F76_a_call_that_fails_once_or_from_then_on_costs_no_accepted_job(
    tmp_path: Path, call: str, error: str, when: str
) -> None:
    under = tracing(tmp_path / "calls", call, f"error={error}:when={when}")
    async with Trial(tmp_path, under=under) as trial:
        await outlasts(trial)
        report = await trial.verdict()
    assert trial.ends[0] in (0, KILLED, *SAID), trial.service.said
    # What cannot be removed stays.
    assert not [one for one in report.violations if not (call == "unlink" and one.rule == "I12")]
    if trial.ends[0] in SAID and "[Errno" in trial.service.said:
        assert str(tmp_path) in trial.service.said, "of which disk?"


async def outlasts(trial: Trial) -> None:
    """Clients go on until all their jobs have ended; meanwhile the service is restarted without the fault."""

    async def clients() -> None:
        async with trial.client() as client:
            await live(trial, client)

    living = asyncio.create_task(clients())
    await asyncio.wait([living], timeout=LONG_ENOUGH)
    if not living.done() and not trial.ends:
        await trial.kill()
    await living
