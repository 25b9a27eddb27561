"""Which calls a worker process has begun, told by a file that outlives it.

The worker writes each ticket down before it calls the function (`Claims`); another process of the same host holds the
file open, too, and reads it once the worker is dead (`Witness`). So of the calls that were with a worker when it died,
those that had not begun are known, however it died. The file has no name any more once the witness has opened it:
nothing is left behind.

A lock says that the worker is dead: the system gives it back with the process, and no child of it inherits it.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import struct
import tempfile
from contextlib import suppress
from time import monotonic
from typing import Final

from asyncjobs.errors import WorkerStartError

try:
    import fcntl
except ImportError:  # not on Windows: there is no witness there
    fcntl = None  # type: ignore[assignment]

KEPT: Final = 8192
"""Tickets that the file holds, the last ones. Whoever began before so many others was said to have started."""
NBYTES: Final = 8 * (KEPT + 1)
LOOK: Final = 0.01
"""Seconds between two looks at whether the worker is dead by now."""

_NUMBER = struct.Struct("=Q")


class Claims:
    """The worker's side."""

    def __init__(self) -> None:
        if fcntl is None:
            raise OSError("no locks on files here")
        self.path: str
        self._file: int
        self._file, self.path = tempfile.mkstemp(prefix="asyncjobs-claims-")
        fcntl.lockf(self._file, fcntl.LOCK_EX)  # until the file is closed, or the process has ended
        os.truncate(self._file, NBYTES)
        self._memory: mmap.mmap = mmap.mmap(self._file, NBYTES)
        self._count: int = 0

    def write(self, ticket: int) -> None:
        """`ticket` begins now."""
        _NUMBER.pack_into(self._memory, 8 * (1 + self._count % KEPT), ticket)
        self._count += 1
        _NUMBER.pack_into(self._memory, 0, self._count)

    def close(self) -> None:
        """Nobody is to ask any more."""
        with suppress(FileNotFoundError):  # as it is once a witness has opened it
            os.unlink(self.path)
        self._memory.close()
        os.close(self._file)


class Witness:
    """The side of the process that survives."""

    def __init__(self, path: str) -> None:
        self._file: int = os.open(path, os.O_RDWR)
        os.unlink(path)

    @property
    def is_over(self) -> bool:
        """Whether the worker is dead, or has closed the file."""
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    async def begun(self, patience: float) -> list[int]:
        """The tickets that had begun, the last `KEPT` of them; waits for the worker's death.

        Raises:
            WorkerStartError: it lives on; what it has not begun, it may begin any time.
        """
        deadline = monotonic() + patience
        while not self.is_over:
            if monotonic() > deadline:
                raise WorkerStartError("the worker lives on")
            await asyncio.sleep(LOOK)
        found = os.pread(self._file, NBYTES, 0)
        (count,) = _NUMBER.unpack_from(found)
        return [number for (number,) in _NUMBER.iter_unpack(found[8 : 8 * (1 + min(count, KEPT))])]

    def close(self) -> None:
        """Let the file go."""
        os.close(self._file)
