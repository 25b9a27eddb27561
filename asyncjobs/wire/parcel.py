"""What travels when something is large: a pickle, and the buffers that were left out of it.

A parcel on the wire is a head, a row of references and the pickle. A reference names a
segment of the sender's arena; where there was no room its bytes follow *inline* instead.
Knows nothing of what the pickle means::

    references u32 | flags u32 | length of the pickle u64
    window u64 | window size u64 | at u64 | nbytes u64        for each buffer
    pickle | inline buffers
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

from asyncjobs.wire.arena import SMALLEST, Arena, Reader, Ref, Segment

LARGE: Final = SMALLEST
"""Bytes from which on a buffer, or the pickle itself, goes through an arena."""

_HEAD: Final = struct.Struct("<IIQ")
_REF: Final = struct.Struct("<QQQQ")
_NUMBERS: Final = struct.Struct("<QQ")
_FAR_STREAM: Final = 1
"""The first reference is the pickle."""
_INLINE: Final = 2**64 - 1
"""Instead of a window: the bytes follow."""


class Parcel(NamedTuple):
    """A pickle and its out-of-band buffers."""

    stream: bytes
    buffers: tuple[memoryview, ...] = ()

    @property
    def is_large(self) -> bool:
        """Whether any of it should go through an arena."""
        return bool(self.buffers) or len(self.stream) >= LARGE

    @property
    def nbytes(self) -> int:
        """Of all of it."""
        return len(self.stream) + sum(buffer.nbytes for buffer in self.buffers)

    @property
    def parts(self) -> list[memoryview]:
        """What goes through an arena: the pickle if it is large, and all buffers."""
        return [*([memoryview(self.stream)] if len(self.stream) >= LARGE else ()), *self.buffers]


class Packed(NamedTuple):
    """A parcel that has found its room; to be copied there before the other end may look."""

    body: bytes
    copies: list[tuple[Segment, memoryview]]

    @property
    def nbytes(self) -> int:
        """To be copied."""
        return sum(buffer.nbytes for _, buffer in self.copies)


def pack(parcel: Parcel, arena: Arena) -> Packed | None:
    """Find room for all parts of `parcel`; None: there is not enough now."""
    copies: list[tuple[Segment, memoryview]] = []
    for part in parcel.parts:
        segment = arena.take(part.nbytes)
        if segment is None:
            release(arena, (taken.at for taken, _ in copies))
            return None
        copies.append((segment, part))
    refs = [segment.ref(part.nbytes) for segment, part in copies]
    stream = b"" if len(refs) > len(parcel.buffers) else parcel.stream
    return Packed(_written(refs, stream, is_far=len(refs) > len(parcel.buffers)), copies)


def pack_inline(parcel: Parcel) -> bytes:
    """All of `parcel` in one piece, for when there is no room."""
    refs = [Ref(_INLINE, 0, 0, buffer.nbytes) for buffer in parcel.buffers]
    return b"".join([_written(refs, parcel.stream, is_far=False), *parcel.buffers])


def _written(refs: list[Ref], stream: bytes, *, is_far: bool) -> bytes:
    head = _HEAD.pack(len(refs), _FAR_STREAM if is_far else 0, len(stream))
    return b"".join([head, *(_REF.pack(*ref) for ref in refs), stream])


def unpack(body: memoryview, reader: Reader) -> tuple[memoryview, list[memoryview | bytearray]]:
    """The pickle of a parcel and its buffers, which are leased until nobody looks at them any more.

    Raises:
        OSError, ValueError: its memory cannot be mapped here.
    """
    count, flags, length = _HEAD.unpack_from(body)
    start = _HEAD.size + count * _REF.size
    refs = [Ref(*numbers) for numbers in _REF.iter_unpack(body[_HEAD.size : start])]
    views = iter(reader.views([ref for ref in refs if ref.window != _INLINE]))
    stream, rest = body[start : start + length], body[start + length :]
    buffers: list[memoryview | bytearray] = []
    reader.inlined += any(ref.window == _INLINE for ref in refs)
    for ref in refs:
        if ref.window == _INLINE:
            # Its own copy: the frame's memory is used again.
            buffers.append(bytearray(rest[: ref.nbytes]))
            rest = rest[ref.nbytes :]
        else:
            buffers.append(next(views))
    if flags & _FAR_STREAM:
        stream = memoryview(buffers.pop(0))
    return stream, buffers


def _far_refs(body: memoryview) -> list[Ref]:
    count, _, _ = _HEAD.unpack_from(body)
    refs = (Ref(*numbers) for numbers in _REF.iter_unpack(body[_HEAD.size : _HEAD.size + count * _REF.size]))
    return [ref for ref in refs if ref.window != _INLINE]


def refuse(body: memoryview, reader: Reader) -> None:
    """Nobody wants this parcel: as if it had been looked at and dropped."""
    reader.refuse(_far_refs(body))


def segments(body: memoryview) -> list[int]:
    """The segments that a parcel lies in."""
    return [ref.at for ref in _far_refs(body)]


def ended(pairs: Iterable[tuple[int, int]]) -> bytes:
    """The message that says which segments are not looked at any more: offset and bytes of each."""
    return b"".join(_NUMBERS.pack(at, nbytes) for at, nbytes in pairs)


def release(arena: Arena, segments: Iterable[int]) -> None:
    """Use these segments again."""
    for at in segments:
        arena.release(at)


def release_ended(arena: Arena, message: memoryview) -> None:
    """The same by a message of the other end."""
    release(arena, (at for at, _ in _NUMBERS.iter_unpack(message)))
