"""Keep some disk space back, so that what jobs have done can be written down when the disk is full.

Satisfies `settings.Room`. Runs on the store's thread.
"""

from __future__ import annotations

import os
from pathlib import Path

from asyncjobs.failpoint import point
from asyncjobs.service import private

SIZE: int = 2**20
"""Bytes that it keeps back where there is plenty."""
LEAST: int = 16 * 2**10
"""A smaller one would be of no use."""


class Ballast:
    """A file full of noise: noise, so that a file system which compresses keeps the space too.

    It takes at most a quarter of the space that is free: on a small disk it must not be what fills it. What was given
    free is taken back as a whole, or not at all: a part of it would leave the rest for others to use up.
    """

    def __init__(self, path: Path, size: int = SIZE) -> None:
        self.path = path
        self.size = size
        self._given = 0
        """Bytes that were given free, and not taken back yet."""

    def release(self) -> bool:
        """Give the space free; False: there is none any more.

        Raises:
            StateRefused: something else lies in its place.
        """
        point("ballast.release")
        try:
            fd = private.open_private(self.path, os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            had = os.fstat(fd).st_size
            # Cut, not removed: to remove a name may need a new block on a disk that has none.
            os.ftruncate(fd, 0)
            os.fsync(fd)
        finally:
            os.close(fd)
        self._given = max(self._given, had)
        return had > 0

    def restore(self) -> bool:
        """Keep the space back again, all that was given; False: there is too little.

        Raises:
            StateRefused: something else lies in its place.
        """
        fd = private.open_private(self.path, os.O_RDWR | os.O_CREAT)
        try:
            return self._fill(fd)
        finally:
            os.close(fd)

    def _fill(self, fd: int) -> bool:
        has = os.fstat(fd).st_size
        if has >= self.size:
            return True
        system = os.fstatvfs(fd)
        room = system.f_bavail * system.f_frsize + has
        want = self._given or min(self.size, room // 4)
        if want > room - LEAST:
            return False
        if want < LEAST or want <= has:
            return has >= LEAST
        try:
            _write_noise(fd, has, want - has)
        except OSError:  # others were faster: what is there now is not worth the trouble it may make
            os.ftruncate(fd, 0)
            return False
        self._given = 0
        return True


def _write_noise(fd: int, start: int, nbytes: int) -> None:
    noise = os.urandom(nbytes)
    while noise:
        written = os.pwrite(fd, noise, start)
        noise, start = noise[written:], start + written
    os.fsync(fd)
