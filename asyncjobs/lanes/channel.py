"""One end of a worker's channel: bytes into frames, in place."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from typing import Protocol

from asyncjobs.wire import frames


class Listener(Protocol):
    """Whoever a channel tells."""

    writable: bool
    on_change: Callable[[], None]

    def kill(self, why: str) -> None:
        """The stream holds something that is not ours."""

    def channel_closed(self) -> None:
        """The stream has come to its end."""


class Channel(asyncio.BufferedProtocol):
    """Feeds a frame reader in place, and passes on when writing should pause."""

    def __init__(self, body: Listener, on_frames: Callable[[Iterator[frames.Frame]], None]) -> None:
        self._body = body
        self._reader = frames.FrameReader()
        self._on_frames = on_frames

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._reader.buffer()

    def buffer_updated(self, nbytes: int) -> None:
        self._reader.filled(nbytes)
        try:
            self._on_frames(self._reader.frames())
        except frames.ProtocolError as error:
            self._body.kill(f"protocol broken: {error}")

    def drain(self, source: socket.socket) -> None:
        """Read what a dead worker still sent."""
        while True:
            try:
                nbytes = source.recv_into(self._reader.buffer())
            except OSError:
                return  # nothing is left, or the channel saw its end and is closed
            if not nbytes:
                return
            self.buffer_updated(nbytes)

    def eof_received(self) -> bool:
        self._body.channel_closed()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._body.channel_closed()

    def pause_writing(self) -> None:
        self._body.writable = False

    def resume_writing(self) -> None:
        self._body.writable = True
        self._body.on_change()
