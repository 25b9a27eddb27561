"""How many items of a map travel together: so many that they last long enough, and no longer. Pure."""

from __future__ import annotations

from typing import Final

GROUP_SECONDS: Final = 0.016
"""A group holds about this much work: long enough to hide a round trip, short enough for
an even load and a quick end."""
LOOP_SECONDS: Final = 160e-6
"""On a wide lane it holds this much for each worker, if that is more: about twice what the loop computes for a
group. So the loop keeps up with all workers (``asyncjobs bench clusters --simulate``)."""
GROUP_ITEMS: Final = 32768
GROUP_BYTES: Final = 1024 * 1024
GROWTH: Final = 64


class Sizes:
    """The size of one map's next group, by how long the last ones took."""

    def __init__(self) -> None:
        self._size = 1
        self._least = 1
        """How many make a group of `GROUP_SECONDS`; fewer than `_size` on a wide lane only."""
        self._most = GROUP_ITEMS
        """How many items make a group of `GROUP_BYTES`, going by the last."""

    def hint(self, size: int) -> None:
        """Let the first group have so many items."""
        self._size = self._least = min(size, GROUP_ITEMS)

    def next(self, left: int | None, workers: int) -> int:
        """How many items make the next group, with so many left; None: nobody knows.

        Towards the end they are fewer, so that all workers end at about the same time.
        """
        return self._size if left is None else min(self._size, max(self._least, left // (2 * workers)))

    def pickled(self, items: int, nbytes: int) -> None:
        """So many items made a pickle of so many bytes."""
        self._most = max(1, GROUP_BYTES * items // max(1, nbytes))

    def took(self, items: int, seconds: float, workers: int) -> None:
        """So many items took so long, on a lane of so many workers."""
        each = max(1e-9, seconds / items)
        most = min(self._size * GROWTH, GROUP_ITEMS, self._most)
        self._least = max(1, min(int(GROUP_SECONDS / each), most))
        self._size = max(self._least, min(int(LOOP_SECONDS * workers / each), most))
