"""Files as memory that keeps no descriptor: a plot may consist of a thousand files, and descriptors are few.

`mmap` duplicates the descriptor for as long as the mapping lives, and can do without only since Python 3.13.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import weakref
from functools import cache
from typing import Any

_POPULATE = getattr(mmap, "MAP_POPULATE", 0)
"""All pages at once, where the system can: each page that `log` touched first would cost it 2 us."""


def writable(descriptor: int, nbytes: int) -> memoryview[int]:
    """The file's first `nbytes`, shared with all who map it. `descriptor` may be closed then.

    Raises:
        OSError: the system cannot.
    """
    return _mapped(descriptor, nbytes, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED | _POPULATE)


def readable(descriptor: int) -> memoryview[int]:
    """All of the file, which may be empty, to look at.

    Raises:
        OSError: the system cannot.
    """
    nbytes = os.fstat(descriptor).st_size
    return _mapped(descriptor, nbytes, mmap.PROT_READ, mmap.MAP_SHARED).toreadonly() if nbytes else memoryview(b"")


def _mapped(descriptor: int, nbytes: int, protection: int, flags: int) -> memoryview[int]:
    if sys.version_info >= (3, 13):
        return memoryview(mmap.mmap(descriptor, nbytes, flags, protection, trackfd=False))
    libc = _libc()
    address = libc.mmap(None, nbytes, protection, flags, descriptor, 0)
    if address == ctypes.c_void_p(-1).value:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    memory = (ctypes.c_char * nbytes).from_address(address)
    # It goes with the last view of it. At the exit the system takes it: another thread may still write.
    weakref.finalize(memory, libc.munmap, address, nbytes).atexit = False
    return memoryview(memory).cast("B")


@cache
def _libc() -> Any:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    place, length, number, offset = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_long
    libc.mmap.argtypes = [place, length, number, number, number, offset]
    libc.munmap.argtypes = [place, length]
    return libc
