"""Apply what is sound in a write-ahead log to a copy of its database, beyond a damaged place too.

SQLite ends at the first frame whose checksum is wrong. The checksum of a frame goes on from that of the one
before, which stands in that one's header: so each frame can be checked by itself, and a damaged one costs its own
page only (and not even that, if a later frame holds it again).

https://www.sqlite.org/fileformat2.html#the_write_ahead_log
"""

from __future__ import annotations

import struct
from collections import Counter
from pathlib import Path
from typing import NamedTuple

_LOG_HEADER = struct.Struct(">8I")
_FRAME_HEADER = struct.Struct(">6I")
_MAGIC_LITTLE, _MAGIC_BIG = 0x377F0682, 0x377F0683
_WORD = 2**32 - 1
_PAGE = 4096


class Frame(NamedTuple):
    """One page in the log."""

    number: int
    """Of the page, from 1."""
    pages: int
    """How many the database has after the commit that this frame ends; 0: it ends none."""
    start: int
    """Where its content begins in the log."""
    is_sound: bool


class Replayed(NamedTuple):
    """What was done."""

    frames: int
    """Applied."""
    damaged: int
    """Left out, before the last commit."""


def replay(log: bytes, database: Path) -> Replayed:
    """Write the sound frames, up to the last commit, into `database`, which is a copy that nobody uses."""
    size = _page_size(log, database)
    frames = _up_to_the_last_commit(read_frames(log, size))
    with open(database, "r+b") as file:
        for frame in frames:
            if frame.is_sound:
                file.seek((frame.number - 1) * size)
                file.write(log[frame.start : frame.start + size])
        if frames:
            file.truncate(frames[-1].pages * size)
    sound = sum(frame.is_sound for frame in frames)
    return Replayed(sound, len(frames) - sound)


def read_frames(log: bytes, size: int) -> list[Frame]:
    """The frames of the log's last use, in order; those that are left of an earlier one are not among them."""
    starts = range(_LOG_HEADER.size, len(log) - _FRAME_HEADER.size - size + 1, _FRAME_HEADER.size + size)
    headers = [_FRAME_HEADER.unpack_from(log, start) for start in starts]
    salts = _salts(log, headers)
    order = _byte_order(log, headers, list(starts), size)
    frames = []
    # What the header of the frame before says; of the first one, what the log's own header says.
    before = _LOG_HEADER.unpack_from(log)[6:8] if len(log) >= _LOG_HEADER.size else (0, 0)
    for start, header in zip(starts, headers, strict=True):
        content = start + _FRAME_HEADER.size
        is_current = header[2:4] == salts
        is_sound = is_current and _sum(log, start, size, order, before) == header[4:6]
        # A frame whose salts are others is an older one, or one whose header was hit: a later commit decides.
        frames.append(Frame(header[0], header[1] if is_sound else 0, content, is_sound))
        before = header[4:6]
    return frames


def _up_to_the_last_commit(frames: list[Frame]) -> list[Frame]:
    for index in range(len(frames) - 1, -1, -1):
        if frames[index].pages:
            return frames[: index + 1]
    return []


def _page_size(log: bytes, database: Path) -> int:
    with open(database, "rb") as file:
        header = file.read(18)
    candidates = [int.from_bytes(header[16:18], "big")]
    if len(log) >= _LOG_HEADER.size:
        candidates.insert(0, _LOG_HEADER.unpack_from(log)[2])
    return next((size for size in candidates if size >= 512 and size & (size - 1) == 0 and size <= 65536), _PAGE)


def _salts(log: bytes, headers: list[tuple[int, ...]]) -> tuple[int, ...]:
    """Those of the log's header, unless no frame has them: then that was hit, and the first frames tell."""
    told = _LOG_HEADER.unpack_from(log)[4:6] if len(log) >= _LOG_HEADER.size else (0, 0)
    counted = Counter(header[2:4] for header in headers[:8])
    return told if not counted or counted[told] else counted.most_common(1)[0][0]


def _byte_order(log: bytes, headers: list[tuple[int, ...]], starts: list[int], size: int) -> str:
    """Of the words that are summed up; the log's magic number tells, or, if it was hit, a frame that fits."""
    magic = _LOG_HEADER.unpack_from(log)[0] if len(log) >= _LOG_HEADER.size else 0
    if magic in (_MAGIC_LITTLE, _MAGIC_BIG):
        return "<" if magic == _MAGIC_LITTLE else ">"
    for before, header, start in zip(headers, headers[1:], starts[1:], strict=False):
        for order in "<>":
            if _sum(log, start, size, order, before[4:6]) == header[4:6]:
                return order
    return "<"


def _sum(log: bytes, start: int, size: int, order: str, before: tuple[int, ...]) -> tuple[int, int]:
    first, second = before
    content = start + _FRAME_HEADER.size
    words = struct.unpack_from(f"{order}2I", log, start) + struct.unpack_from(f"{order}{size // 4}I", log, content)
    for even, odd in zip(words[::2], words[1::2], strict=True):
        first = (first + even + second) & _WORD
        second = (second + odd + first) & _WORD
    return first, second
