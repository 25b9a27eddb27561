"""The terms between a slot and its worker: what a worker is given, and what a call looks like.

Values only; both ends import it, so it stays light.
"""

from __future__ import annotations

import socket
import struct
from typing import Final, NamedTuple

from asyncjobs.spawning import Descriptor
from asyncjobs.wire.codec import Reference

CALL_HEAD: Final = struct.Struct("<IIQB")
"""Before the pickled arguments: function, attempt, job number, flags."""
KEYWORDS: Final = 1
"""The arguments are ``(args, kwargs)``, not `args` alone."""
STARRED: Final = 2
"""In a group of items: each item is a tuple of arguments."""
PARCEL: Final = 4
"""Instead of pickled arguments a parcel follows."""
MARKED: Final = 64
"""What it prints is to begin with a mark."""
ASK_HEAD: Final = struct.Struct("<QB")
"""Before what a job asks: a hosted object's number, flags (PARCEL, NO_WAIT). A pickled (verb, argument) follows."""
NO_WAIT: Final = 8
"""The job is asked to stop: answer at once, or refuse."""
HELD: Final = 16
"""In an answer's first byte, beside PARCEL: it was taken for the job, which has to say that it got it."""
REFUSED: Final = 32
"""In the same byte: it is a failure; an empty one, if it would have to wait and may not."""
CELL_SIZE: Final = 16
"""Bytes of the shared cell: the ticket that runs, and in a group the item that runs."""


class Settings(NamedTuple):
    """What a worker is given when it starts."""

    data: socket.socket
    control: socket.socket
    cell: Descriptor
    lifeline: Descriptor
    """The kernel signals its end to the worker, even while a job keeps the interpreter lock."""
    stdout: Descriptor | None
    stderr: Descriptor | None
    runner_id: str
    env: dict[str, str]
    preload: tuple[str, ...]
    initializer: bytes | None
    """``(function, args)``, a parcel whose buffers lie in `shared`."""
    inward: Descriptor
    """The memory file of the arena in which arguments arrive."""
    outward: Descriptor
    """The same for results."""
    shared: Descriptor
    """The same for shared objects."""
    arena_bytes: int
    """What all arenas of the runner may hold together."""


class Definition(NamedTuple):
    """A function as the runner describes it once; calls then name its number."""

    name: str
    reference: Reference
    max_result: int | None
