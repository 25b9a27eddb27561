"""Cut a byte stream into frames, and notice when it is not ours.

A frame is a 32-byte header and a body::

    magic u16 | kind u8 | spare u8 | crc u32 | ticket u64 | length u64 | seconds f64

`crc` is that of the first 4 KiB of the body, begun with kind, ticket and length: a job that
writes into our descriptor is found out, and nothing is unpickled that was not framed by us.
`ticket` names the job on this slot; `seconds` is the measured run time in answers. Knows
nothing of what bodies mean.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final
from zlib import crc32

MAGIC: Final = 0xA5C1
HEADER: Final = struct.Struct("<HBBIQQd")
_pack_header = HEADER.pack
_unpack_header = HEADER.unpack_from
HEADER_SIZE: Final = HEADER.size
CHECKED_BODY: Final = 4096
LONGEST_BODY: Final = 1 << 40
"""No frame is longer; a length beyond it was not written by us."""
LAST_KIND: Final = 63

# Runner to worker, on the data channel.
DEFINE: Final = 1
FORGET: Final = 2
CALL: Final = 3
CHUNK: Final = 4
TRIM: Final = 5
"""Give unused memory back."""
DROP: Final = 6
"""A shared object is closed."""
# Worker to runner, on the data channel.
HELLO: Final = 16
RETURNED: Final = 17
DELIVERED: Final = 18
"""As RETURNED, and the value is a parcel."""
RAISED: Final = 19
STOPPED: Final = 20
PROGRESS: Final = 21
TOKEN_RAISED: Final = 22
RETIRED: Final = 23
WANT: Final = 24
"""May the worker take so much more memory? The answer is GRANT."""
GAVE_UP: Final = 25
"""The worker gave so much memory back."""
DROPPED: Final = 26
"""Nobody looks at a shared object any more."""
TRIMMED: Final = 27
"""The answer to TRIM, after ENDED and GAVE_UP."""
ASK: Final = 28
"""The job asks a hosted object; the ticket numbers the request."""
TAKEN: Final = 29
"""The job has what the answer to this request held for it."""
WITHDRAWN: Final = 31
"""Nobody waits for the answer to this request; what it held goes back."""
# Either way, on the data channel; to a worker whose job asks, on the control channel.
ENDED: Final = 30
"""Nobody looks at these segments of your arena any more."""
# On the control channel, either way.
CANCEL: Final = 32
INTERRUPT: Final = 33
REVOKE: Final = 34
REVOKED: Final = 35
TOKEN: Final = 36
EXIT: Final = 37
GRANT: Final = 38
ANSWER: Final = 39
"""To a request of the job's: a byte of flags, and what they say."""


class ProtocolError(Exception):
    """The stream holds something that we did not write."""


Frame = tuple[int, int, float, memoryview]
"""One message: kind, ticket, seconds, body. The body is a view that is valid until the
reader is fed again. A plain tuple: one is made for every job and every answer."""


def encode(kind: int, ticket: int = 0, body: bytes = b"", seconds: float = 0.0) -> bytes:
    """One frame as bytes; copies `body`, so for large ones write `header` and body apart."""
    return header(kind, ticket, body, seconds) + body


def header(kind: int, ticket: int, body: bytes, seconds: float = 0.0) -> bytes:
    """The 32 bytes that go before `body`."""
    length = len(body)
    checked = body if length <= CHECKED_BODY else memoryview(body)[:CHECKED_BODY]
    crc = crc32(checked, (kind << 24 ^ ticket ^ length) & 0xFFFFFFFF)
    return _pack_header(MAGIC, kind, 0, crc, ticket, length, seconds)


class FrameReader:
    """Collects bytes into frames; the caller writes into `buffer()` and reports `filled(n)`.

    The buffer grows to the largest frame and shrinks again, so that a 2 GiB body arrives
    in place, without being copied from piece to piece.
    """

    SIZE: Final = 256 * 1024

    __slots__ = ("_buffer", "_end", "_start", "_view")

    def __init__(self) -> None:
        self._allocate(self.SIZE)
        self._start = 0
        self._end = 0

    def _allocate(self, size: int) -> None:
        try:
            self._buffer = bytearray(size)
        except (MemoryError, OverflowError) as error:  # most likely no length of ours
            raise ProtocolError(f"a frame announces {size} bytes, more than there is memory for") from error
        self._view = memoryview(self._buffer)

    def buffer(self) -> memoryview:
        """Where the next bytes go; never empty."""
        return self._view[self._end :]

    def filled(self, nbytes: int) -> None:
        """`nbytes` have been written to the start of `buffer()`."""
        self._end += nbytes

    def frames(self) -> Iterator[Frame]:
        """The frames that are complete.

        Their bodies are views: use them before the next `filled`.

        Raises:
            ProtocolError: a header or checksum that is not ours.
        """
        view, start, end = self._view, self._start, self._end
        while end - start >= HEADER_SIZE:
            magic, kind, _, crc, ticket, length, seconds = _unpack_header(view, start)
            if magic != MAGIC:
                raise ProtocolError(f"expected a frame, found {bytes(view[start : start + 16])!r}")
            body_start = start + HEADER_SIZE
            after = body_start + length
            if after > end:
                # The checksum comes with the body: garbage must not make us wait for that.
                if length > LONGEST_BODY or kind > LAST_KIND:
                    raise ProtocolError(f"a frame of kind {kind} claims {length} bytes")
                self._start = start
                self._make_room(HEADER_SIZE + length)
                return
            body = view[body_start:after]
            checked = body if length <= CHECKED_BODY else body[:CHECKED_BODY]
            if crc32(checked, (kind << 24 ^ ticket ^ length) & 0xFFFFFFFF) != crc:
                raise ProtocolError(f"checksum of a frame of kind {kind} is wrong")
            start = self._start = after
            yield kind, ticket, seconds, body
        if start == end and len(self._buffer) == self.SIZE:
            self._start = self._end = 0  # as mostly: nothing to move
        else:
            self._make_room(HEADER_SIZE)

    def _make_room(self, needed: int) -> None:
        """Move what is incomplete to the front of a buffer that can hold `needed` bytes."""
        rest = self._end - self._start
        size = max(self.SIZE, needed)
        if len(self._buffer) != size:
            old = self._view[self._start : self._end]
            self._allocate(size)
            self._view[:rest] = old
        elif self._start and (rest == 0 or size - self._end < self.SIZE // 4):
            self._view[:rest] = bytes(self._view[self._start : self._end])
        else:
            return
        self._start, self._end = 0, rest
