"""Let exactly one service have a state directory: a POSIX record lock, which ends when its holder does.

Nothing is ever stale: after a SIGKILL the next one has the lock at once. The file's content only tells
the others who holds it.

A process loses such a lock when it closes *any* descriptor of the file: nothing else may open it in the
process that holds it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import time
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from asyncjobs.service import private
from asyncjobs.service.errors import ServiceRunning

# Between taking the lock and writing its name a holder needs microseconds, unless it was stopped just there.
_PATIENCE = 1.0
_BETWEEN_LOOKS = 0.005


class Holder(NamedTuple):
    """Who has written its name into a lock file; it may have died since."""

    pid: int
    socket: str


class StateLock:
    """The lock of one state directory, held until `release` or the end of the process.

    Raises, when it is made:
        ServiceRunning: another process holds it; `pid` and the text say which.
        StateRefused: something that is not ours lies in its place.

    Waits up to a second to learn who the holder is, never for the lock.
    """

    def __init__(self, path: Path, socket: Path | str) -> None:
        self.path = path
        self._fd: int | None = private.open_private(path, os.O_RDWR | os.O_CREAT)
        try:
            self._take(str(socket))
        except BaseException:
            self.release()
            raise

    def _take(self, socket: str) -> None:
        assert self._fd is not None
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            raise _is_taken(self.path, self._fd) from None
        # Emptied before it is written, so that nobody reads the name of the last holder as ours.
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, json.dumps({"pid": os.getpid(), "socket": socket}).encode(), 0)

    def release(self) -> None:
        """Let the next one in. Does nothing the second time."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"<StateLock {self.path} {'released' if self._fd is None else 'held'}>"


def _is_taken(path: Path, fd: int) -> ServiceRunning:
    """What the loser says."""
    holder, until = None, time.monotonic() + _PATIENCE
    # A name whose owner is gone is that of the last holder: this one is about to write its own.
    while ((holder := _read(fd)) is None or not _is_alive(holder.pid)) and time.monotonic() < until:
        time.sleep(_BETWEEN_LOOKS)
    if holder is None:
        return ServiceRunning(f"already running: another process holds {path}")
    error = ServiceRunning(f"already running, pid {holder.pid}, socket {holder.socket}")
    error.pid = holder.pid
    return error


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _read(fd: int) -> Holder | None:
    with contextlib.suppress(ValueError, TypeError, KeyError):
        found = json.loads(os.pread(fd, private.SMALL, 0))
        return Holder(int(found["pid"]), str(found["socket"]))
    return None
