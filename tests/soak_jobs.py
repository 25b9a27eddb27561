"""What services run in the soak: each function writes down what it does, for the checker of invariants.

In the folder that each is given: ``effects`` (starts and ends, see `history`), ``fences`` (``ID ATTEMPT FENCE``) and
``marks`` (``ID ATTEMPT began|kept STEP``, of jobs with checkpoints).
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service_jobs import append

import asyncjobs as aj
from asyncjobs.context import Running
from asyncjobs.service.store.history import write_effect


@contextmanager
def noted(folder: str) -> Iterator[Running]:
    """Start and end of this attempt; one that is killed has no end."""
    job = aj.current_job()
    write_effect(Path(folder, "effects"), job.id, job.attempt, is_start=True)
    append(f"{folder}/fences", f"{job.id} {job.attempt} {job.fence}")
    try:
        yield job
    finally:
        write_effect(Path(folder, "effects"), job.id, job.attempt, is_start=False)


def sha(*texts: str) -> str:
    """What most of them return."""
    return hashlib.sha256("".join(texts).encode()).hexdigest()


def filling(text: str, nbytes: int) -> bytes:
    """What `large` returns."""
    return (sha(text).encode() * (nbytes // 64 + 1))[:nbytes]


def plain(folder: str, text: str, hold: float, parents: list[str]) -> str:
    """The results of others may be among its arguments."""
    with noted(folder):
        time.sleep(hold)
        return sha(text, *parents)


async def dozing(folder: str, text: str, hold: float) -> str:
    with noted(folder):
        await asyncio.sleep(hold)
        return sha(text)


def flaky(folder: str, text: str, failures: int) -> str:
    """It fails in so many attempts."""
    with noted(folder) as job:
        if job.attempt <= failures:
            raise ConnectionError(f"attempt {job.attempt}")
        return sha(text)


def failing(folder: str, text: str) -> None:
    with noted(folder):
        raise ValueError(text)


def dying(folder: str, text: str, deaths: int) -> str:
    """It kills its worker in so many attempts."""
    with noted(folder) as job:
        if job.attempt <= deaths:
            os.kill(os.getpid(), signal.SIGKILL)
        return sha(text)


def counting(folder: str, steps: int, hold: float) -> int:
    """Each step is kept by a checkpoint, and never done again."""
    with noted(folder) as job:
        first: int = job.restore(0)
        append(f"{folder}/marks", f"{job.id} {job.attempt} began {first}")
        for step in range(first + 1, steps + 1):
            time.sleep(hold)
            job.checkpoint(step)
            append(f"{folder}/marks", f"{job.id} {job.attempt} kept {step}")
            job.progress(step, steps)
        return steps


def large(folder: str, text: str, nbytes: int) -> bytes:
    with noted(folder):
        return filling(text, nbytes)


def saying(folder: str, text: str, lines: int) -> str:
    """Its log ends with the text."""
    with noted(folder):
        for line in range(lines):
            print(line, text)
        print(text)
        return sha(text)


def waiting(folder: str, text: str, seconds: float) -> str:
    """Until it is asked to stop, or so many seconds have passed."""
    with noted(folder) as job:
        if job.token.wait(seconds):
            job.token.check()
        return sha(text)


def deaf(folder: str, text: str, seconds: float) -> str:
    """It does not look whether it is asked to stop."""
    with noted(folder):
        time.sleep(seconds)
        return sha(text)
