"""Sixteen bytes that a worker shares with its slot, and that outlive it: what it runs.

After a death the slot reads here who is to blame. Behind them a worker that is asked writes where its threads are.
"""

from __future__ import annotations

import mmap
import os
from time import perf_counter, sleep

from asyncjobs.detach import WHERE
from asyncjobs.spawning import Descriptor
from asyncjobs.wire.arena import memory_file
from asyncjobs.wire.terms import CELL_SIZE

PATIENCE = 0.5
"""Seconds that a worker gets to tell where it is."""
SETTLED = 0.05
"""It has told when it adds nothing for so long."""


class Cell:
    """The slot's side of the cell."""

    def __init__(self) -> None:
        self.descriptor: Descriptor = memory_file("asyncjobs-cell", CELL_SIZE)
        """Goes along with the worker."""
        self._mapping = mmap.mmap(self.descriptor.number, CELL_SIZE)
        self._numbers = memoryview(self._mapping).cast("Q")

    def read(self) -> tuple[int, int]:
        """The ticket, and the item of a group, that the worker runs or died in; 0 if none."""
        return self._numbers[0], self._numbers[1]

    def stacks(self, pid: int) -> str:
        """Where the threads of the worker are, which is process `pid`; what it tells within `PATIENCE`. In any thread.

        It is told by the system, not by Python: so also of a call that keeps the interpreter lock.
        """
        try:
            before = now = os.fstat(self.descriptor.number).st_size
            os.kill(pid, WHERE)
            until = perf_counter() + PATIENCE
            while perf_counter() < until:
                sleep(SETTLED)
                last, now = now, os.fstat(self.descriptor.number).st_size
                if last == now > before:
                    break
            return os.pread(self.descriptor.number, now - before, before).decode("utf-8", "replace")
        except OSError:  # the worker is gone, or we are closed
            return ""

    def close(self) -> None:
        """Let go of the memory: a mapping holds a descriptor of its own."""
        self.descriptor.close()
        self._numbers.release()
        self._mapping.close()
