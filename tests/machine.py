"""Who has the machine: tests share it, and one that is marked ``alone`` has it to itself.

The processes of one run, and of several on one checkout, agree by locks on two files that are there anyway.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

HERE = Path(__file__)


@contextmanager
def machine(*, alone: bool) -> Iterator[None]:
    """Blocks until no test runs that is alone, or, with `alone`, until none runs at all."""
    with open(HERE, "rb") as turn, open(HERE.with_name("conftest.py"), "rb") as share:
        # Whoever waits for the whole machine keeps the turn, so that nobody starts meanwhile.
        with _locked(turn, fcntl.LOCK_EX):
            fcntl.flock(share, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        try:
            yield
        finally:
            fcntl.flock(share, fcntl.LOCK_UN)  # and not by closing: a forked child may have it open


@contextmanager
def _locked(file: BinaryIO, kind: int) -> Iterator[None]:
    fcntl.flock(file, kind)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)
