"""Marks in a worker's output: where what one call prints begins.

Output and answers come on different channels: while short calls follow each other at once, only a
mark in the output itself says whose it is. Values only; both ends import it.
"""

from __future__ import annotations

import os
import re
from typing import Final

MARK_START: Final = "\0aj:"
MARK: Final = re.compile(MARK_START + r"(\d+)\0")
MARK_CUT: Final = re.compile(r"\0(?:a(?:j(?::\d*)?)?)?\Z")
"""The beginning of a mark, at the end of what was read."""
MARK_BYTES: Final = re.compile(MARK.pattern.encode())


def distinct(*descriptors: int) -> tuple[int, ...]:
    """Those of them that lead to different files, in order: a mark is written once into each."""
    found: dict[tuple[int, int], int] = {}
    for descriptor in descriptors:
        about = os.fstat(descriptor)
        found.setdefault((about.st_dev, about.st_ino), descriptor)
    return tuple(found.values())


def write(descriptors: tuple[int, ...], ticket: int) -> None:
    """What comes from now on is of the call with this ticket.

    Raises:
        OSError: one of them was closed.
    """
    mark = f"{MARK_START}{ticket}\0".encode()
    for descriptor in descriptors:
        os.write(descriptor, mark)
