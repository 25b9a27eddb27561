"""How points and frames lie in the files of a spool; the writing and the reading side agree on it here.

Every file begins with a fixed head, then a description in JSON, then, from the next page on, what is written while
the plot lives. A value that says that something is whole is written last: a process that is killed in the midst
leaves nothing half behind, for its pages are the system's and not its own.
"""

from __future__ import annotations

import json
import struct
from typing import Any, NamedTuple

PAGE = 4096

POINTS = b"ajpoint1"
FRAME = b"ajframe1"
KIND_NBYTES = 8
POINTS_SUFFIX = ".points"
FRAME_SUFFIX = ".frame"

_HEAD = struct.Struct("<8sII")
"""Which kind of file, where its first page of data begins, how long the description is."""

SLOT = struct.Struct("<QQQ4s4s16s")
"""A frame's serial number, 0 while it is written; the bytes of x and of y; the types of their numbers; a word on how it
is to be shown."""
SERIAL = struct.Struct("<Q")
"""The first of these alone: written last."""
SLOTS = 2
"""Frames that a file has room for: the newest, and the one that is being written."""
SLOTS_NBYTES = SLOTS * SLOT.size


class Opened(NamedTuple):
    """The beginning of a file."""

    kind: bytes
    start: int
    """Where the data begin."""
    about: dict[str, Any]


def head(kind: bytes, about: dict[str, Any], room: int = 0) -> bytes:
    """The pages before the data, with `room` bytes of zeros at their end."""
    text = json.dumps(about).encode()
    length = _HEAD.size + len(text) + room
    start = -(-length // PAGE) * PAGE
    return (_HEAD.pack(kind, start, len(text)) + text).ljust(start, b"\0")


def read_head(memory: Any) -> Opened | None:
    """The beginning of what was mapped; None: whoever made it was killed before it was whole."""
    if len(memory) < _HEAD.size:
        return None
    kind, start, length = _HEAD.unpack_from(memory)
    if kind not in (POINTS, FRAME) or len(memory) <= start:
        return None
    return Opened(kind, start, json.loads(bytes(memory[_HEAD.size : _HEAD.size + length])))


def row(names: int) -> struct.Struct:
    """Of points: the step, a value for each name, and a number that is not 0 once the row is whole, and rises."""
    return struct.Struct(f"={names + 2}d")
