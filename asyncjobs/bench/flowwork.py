"""The work of ``asyncjobs bench flow``: what producers prepare and trainers do, importable by every peer's workers.

A batch is 1 MiB, and its first eight bytes say which one it is, so that everybody can check what arrives.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

MIB = 2**20
PIECE = 64 * 1024
SIDE = 256
"""Of the trainer's square matrices."""
SLOW_EVERY = 20
"""5 % of the items are slow where times are uneven."""


def echo(index: int) -> int:
    """Do nothing: what is measured is the way there and back."""
    return int(index)


@dataclass(frozen=True, slots=True)
class Filled:
    """1 MiB as fast as it can be made."""

    def __call__(self, index: int) -> Any:
        """The batch with that number."""
        return _numbered(index, 0)


@dataclass(frozen=True, slots=True)
class Unpacked:
    """1 MiB of unpacked data; zlib and numpy compute without the interpreter's lock."""

    pieces: int
    """Of 64 KiB; after 16 of them the next write over the first ones."""

    def __call__(self, index: int) -> Any:
        """The batch with that number."""
        import numpy as np

        batch = _numbered(index, 0)
        for piece in range(self.pieces):
            at = piece * PIECE % MIB
            batch[at : at + PIECE] = np.frombuffer(zlib.decompress(_packed()), np.uint8)
        batch[:8] = _digits(index)
        return batch


@dataclass(frozen=True, slots=True)
class Computed:
    """1 MiB after so many rounds of plain Python, which holds the interpreter's lock."""

    rounds: int

    def __call__(self, index: int) -> Any:
        """The batch with that number."""
        total = 0
        for number in range(self.rounds):
            total += number * number % 7
        return _numbered(index, total % 251)


@dataclass(frozen=True, slots=True)
class Waited:
    """A number after a wait, as for a disk or a server; every twentieth takes `slow` seconds."""

    seconds: float
    slow: float

    def __call__(self, index: int) -> int:
        """Blocks."""
        time.sleep(self.of(index))
        return int(index)

    def of(self, index: int) -> float:
        """How long this one takes."""
        return self.slow if index % SLOW_EVERY == SLOW_EVERY // 2 else self.seconds


async def waited_20_ms(index: int) -> int:
    """A number after 20 ms on the loop."""
    await asyncio.sleep(0.02)
    return int(index)


@cache
def _packed() -> bytes:
    """What unpacks to a piece, at the pace of real data: about a third of the size."""
    import numpy as np

    return zlib.compress(np.random.default_rng(0).integers(0, 8, PIECE, np.uint8).tobytes(), 1)


def _numbered(index: int, value: int) -> Any:
    import numpy as np

    batch = np.full(MIB, value, np.uint8)
    batch[:8] = _digits(index)
    return batch


def _digits(index: int) -> Any:
    import numpy as np

    return np.frombuffer(int(index).to_bytes(8, "little"), np.uint8)


def number_of(item: Any) -> int:
    """Which one a batch or a number is; a tensor is looked at in place."""
    if isinstance(item, int):
        return item
    import numpy as np

    array = np.asarray(item)
    return int(array) if array.ndim == 0 else int.from_bytes(array[:8].tobytes(), "little")


class Trainer:
    """A step is so many products of matrices, after a look at the whole batch."""

    def __init__(self, rounds: int) -> None:
        import numpy as np

        self._rounds = rounds
        self._left: Any = np.random.default_rng(1).random((SIDE, SIDE), np.float32)
        self._right: Any = self._left.T.copy()
        self._out: Any = np.empty_like(self._left)

    def step(self, batch: Any) -> None:
        """Compute, on one core."""
        import numpy as np

        if not isinstance(batch, int):
            np.asarray(batch)[::64].max()  # one byte of each line of the cache
        for _ in range(self._rounds):
            np.matmul(self._left, self._right, out=self._out)


@dataclass(frozen=True, slots=True)
class Pace:
    """What this machine takes for one unit of each kind of work; seconds of a processor."""

    piece: float
    python_round: float
    train_round: float

    def unpacked(self, seconds: float) -> Unpacked:
        """Batches that take so long."""
        return Unpacked(max(1, round(seconds / self.piece)))

    def computed(self, seconds: float) -> Computed:
        """The same with the lock held."""
        return Computed(round(seconds / self.python_round))

    def train_rounds(self, seconds: float) -> int:
        """Of a step that takes so long."""
        return max(1, round(seconds / self.train_round))


def pace() -> Pace:
    """Measure it, where training happens as well: with one thread for numpy. A second or so."""
    return Pace(
        piece=_best(lambda: Unpacked(64)(0)) / 64,
        python_round=_best(lambda: Computed(100_000)(0)) / 100_000,
        train_round=_best(lambda: Trainer(10).step(0)) / 10,
    )


def _best(call: Callable[[], object]) -> float:
    durations = []
    for _ in range(15):
        began = time.thread_time()  # others may be at work as well
        call()
        durations.append(time.thread_time() - began)
    return min(durations)


def checked(items: Iterable[Any], count: int, is_ordered: bool) -> Iterator[Any]:
    """The items as they come; whoever loses, doubles or (where order was promised) mixes any wins no race.

    Raises:
        RuntimeError: says what is wrong.
    """
    seen: list[int] = []
    for item in items:
        seen.append(number_of(item))
        yield item
    if (seen if is_ordered else sorted(seen)) != list(range(count)):
        raise RuntimeError(f"{len(seen)} items of {count} came, {len(set(seen))} different ones; ordered: {is_ordered}")
