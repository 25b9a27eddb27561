"""Frames: whatever is cut, joined or forged on the way, only what we wrote is accepted."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncjobs.wire import frames
from asyncjobs.wire.frames import HEADER, HEADER_SIZE, MAGIC, FrameReader, ProtocolError, encode

KINDS = [value for name, value in vars(frames).items() if name.isupper() and isinstance(value, int) and value < 256]
KINDS.remove(HEADER_SIZE)
Message = tuple[int, int, float, bytes]

messages = st.tuples(
    st.sampled_from(KINDS),
    st.integers(0, 2**64 - 1),
    st.floats(allow_nan=False),
    st.binary(max_size=200) | st.binary(min_size=frames.CHECKED_BODY - 2, max_size=frames.CHECKED_BODY + 100),
)


def write(message: Message) -> bytes:
    kind, ticket, seconds, body = message
    return encode(kind, ticket, body, seconds)


def feed(reader: FrameReader, data: bytes) -> list[Message]:
    """Hand over `data` in whatever pieces the reader has room for."""
    found: list[Message] = []
    while data:
        room = reader.buffer()
        assert len(room) > 0, "no room for the next bytes"
        piece = data[: len(room)]
        room[: len(piece)] = piece
        reader.filled(len(piece))
        data = data[len(piece) :]
        found += [(kind, ticket, seconds, bytes(body)) for kind, ticket, seconds, body in reader.frames()]
    return found


def test_the_kinds_are_all_different() -> None:
    assert len(set(KINDS)) == len(KINDS) >= 17


@pytest.mark.slow
@given(messages)
def test_a_frame_comes_back_as_it_was(message: Message) -> None:
    assert feed(FrameReader(), write(message)) == [message]


@pytest.mark.slow
@given(st.lists(messages, max_size=6), st.data())
def test_frames_come_back_wherever_the_stream_is_cut(sent: list[Message], data: st.DataObject) -> None:
    stream = b"".join(map(write, sent))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    reader, found = FrameReader(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += feed(reader, stream[start:end])
    assert found == sent


def test_frames_come_back_byte_by_byte() -> None:
    sent: list[Message] = [
        (frames.CALL, 7, 0.0, b"body"),
        (frames.RETURNED, 8, 1.5, b""),
        (frames.EXIT, 0, 0.0, b"xyz"),
    ]
    reader, found = FrameReader(), []
    for byte in b"".join(map(write, sent)):
        found += feed(reader, bytes([byte]))
    assert found == sent


def test_header_and_body_may_be_written_apart() -> None:
    body = b"z" * 10_000
    assert frames.header(frames.RETURNED, 3, body, 0.5) + body == encode(frames.RETURNED, 3, body, 0.5)


# --- not ours ---------------------------------------------------------------------------


def is_not_ours(data: bytes) -> bool:
    return data[:2] != struct.pack("<H", MAGIC)


@given(st.binary(min_size=HEADER_SIZE, max_size=500).filter(is_not_ours))
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError, match="expected a frame, found"):
        feed(FrameReader(), data)


@pytest.mark.slow
@given(messages, st.binary(min_size=HEADER_SIZE, max_size=100).filter(is_not_ours))
def test_garbage_after_a_frame_is_refused_and_the_frame_is_kept(message: Message, garbage: bytes) -> None:
    reader = FrameReader()
    data = write(message) + garbage
    room = reader.buffer()
    room[: len(data)] = data
    reader.filled(len(data))
    arriving = reader.frames()
    kind, ticket, seconds, body = next(arriving)
    assert (kind, ticket, seconds, bytes(body)) == message
    with pytest.raises(ProtocolError):
        next(arriving)


# In the header only what matters is covered: the spare byte and the run time are not, and of ticket and
# length the low halves (a length that is far too large announces more than ever comes).
COVERED = [*range(3), *range(4, 12), 16, 17]


@given(st.binary(max_size=300), st.sampled_from(COVERED), st.integers(1, 255))
def test_a_forged_header_is_never_accepted(body: bytes, place: int, change: int) -> None:
    data = bytearray(encode(frames.RETURNED, 9, body, 0.25))
    data[place] ^= change
    try:
        assert feed(FrameReader(), bytes(data)) == []
    except ProtocolError:
        return


@given(st.binary(min_size=1, max_size=frames.CHECKED_BODY), st.data())
def test_a_changed_body_is_refused(body: bytes, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(body) - 1))
    stream = bytearray(encode(frames.RETURNED, 9, body))
    stream[HEADER_SIZE + place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ProtocolError, match="checksum of a frame of kind 17 is wrong"):
        feed(FrameReader(), bytes(stream))


@given(st.binary(max_size=HEADER_SIZE - 1))
def test_too_little_to_judge_is_waited_for(data: bytes) -> None:
    assert feed(FrameReader(), data) == []


@settings(max_examples=20)
@given(st.integers(2**46, 2**64 - 1))
def test_a_header_that_announces_more_than_any_memory_is_refused(length: int) -> None:
    forged = HEADER.pack(MAGIC, frames.RETURNED, 0, 0, 1, length, 0.0)
    with pytest.raises(ProtocolError):
        feed(FrameReader(), forged)


# --- the buffer -------------------------------------------------------------------------


@pytest.mark.parametrize("nbytes", [FrameReader.SIZE - HEADER_SIZE, FrameReader.SIZE, FrameReader.SIZE + 1, 3_000_001])
def test_a_large_body_arrives_whole_between_small_ones(nbytes: int) -> None:
    large = bytes(range(256)) * (nbytes // 256 + 1)
    sent: list[Message] = [(1, 1, 0.0, b"a"), (2, 2, 0.0, large[:nbytes]), (3, 3, 0.0, b"c"), (4, 4, 0.0, b"")]
    assert feed(FrameReader(), b"".join(map(write, sent))) == sent


def test_the_buffer_grows_for_a_large_body_and_shrinks_again() -> None:
    reader = FrameReader()
    feed(reader, encode(1, 1, b"x" * 5_000_000)[:-1])
    assert len(reader._buffer) > 5_000_000
    feed(reader, b"x")
    feed(reader, encode(1, 2, b"small"))
    assert len(reader._buffer) == FrameReader.SIZE


def test_many_small_frames_leave_the_buffer_small() -> None:
    reader, count = FrameReader(), 0
    burst = encode(frames.RETURNED, 1, b"tiny") * 5_000
    for _ in range(20):
        count += len(feed(reader, burst))
    assert count == 100_000
    assert len(reader._buffer) == FrameReader.SIZE
