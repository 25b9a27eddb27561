"""Sixteen bytes that a worker shares with its slot, and that outlive it: what it runs.

After a death the slot reads here who is to blame.
"""

from __future__ import annotations

import mmap

from asyncjobs.spawning import Descriptor
from asyncjobs.wire.arena import memory_file
from asyncjobs.wire.terms import CELL_SIZE


class Cell:
    """The slot's side of the cell."""

    def __init__(self) -> None:
        self.descriptor: Descriptor = memory_file("asyncjobs-cell", CELL_SIZE)
        """Goes along with the worker; close it once the worker has it."""
        self._mapping = mmap.mmap(self.descriptor.number, CELL_SIZE)
        self._numbers = memoryview(self._mapping).cast("Q")

    def read(self) -> tuple[int, int]:
        """The ticket, and the item of a group, that the worker runs or died in; 0 if none."""
        return self._numbers[0], self._numbers[1]

    def close(self) -> None:
        """Let go of the memory: a mapping holds a descriptor of its own."""
        self.descriptor.close()
        self._numbers.release()
        self._mapping.close()
