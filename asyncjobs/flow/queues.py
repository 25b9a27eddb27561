"""The four kinds of queues: each is a store, and what its elements have to look like."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from asyncjobs.flow.base import Queue
from asyncjobs.flow.batches import Padded
from asyncjobs.flow.elements import Layout, layout, whole_number
from asyncjobs.flow.storage import Fifo, Priority, Shuffle

T = TypeVar("T")


class FIFOQueue(Queue[T]):
    """First in, first out.

    Args:
        capacity: how many elements may be inside.
        shapes: one for each component; then elements become arrays, checked when they come.
        dtypes: one for each component, anything numpy takes as a dtype; checked likewise.
        names: one for each component; then elements and batches are dicts.
        name: for errors, statistics and tasks.

    Raises:
        ValueError: one of them is not allowed; the text says what is.

    Example::

        queue = FIFOQueue(20)
        await queue.enqueue_many(range(3))
        await queue.close()
        print([item async for item in queue])     # [0, 1, 2]
    """

    def __init__(
        self,
        capacity: int,
        *,
        shapes: Sequence[Sequence[int]] | None = None,
        dtypes: Sequence[Any] | None = None,
        names: Sequence[str] | None = None,
        name: str = "fifo_queue",
    ) -> None:
        form = _fixed(layout(names=names, shapes=shapes, dtypes=dtypes))
        super().__init__(name, whole_number("capacity", capacity, 1), Fifo(), form)


class RandomShuffleQueue(Queue[T]):
    """Each dequeue takes any of the elements inside, all equally likely.

    Args:
        capacity: how many elements may be inside.
        min_after_dequeue: so many stay behind while the queue is open, to choose from: the more, the better it
            shuffles. Once it is closed, all can be taken.
        seed: the same seed and the same operations give the same order; None: another one each time.
        shapes, dtypes, names, name: as in `FIFOQueue`.

    Raises:
        ValueError: one of them is not allowed; the text says what is.
    """

    def __init__(
        self,
        capacity: int,
        min_after_dequeue: int,
        *,
        seed: int | None = None,
        shapes: Sequence[Sequence[int]] | None = None,
        dtypes: Sequence[Any] | None = None,
        names: Sequence[str] | None = None,
        name: str = "random_shuffle_queue",
    ) -> None:
        form = _fixed(layout(names=names, shapes=shapes, dtypes=dtypes))
        bound = whole_number("capacity", capacity, 1)
        floor = whole_number("min_after_dequeue", min_after_dequeue, 0)
        if floor >= bound:
            raise ValueError(f"min_after_dequeue={floor} is not allowed; allowed: less than capacity={bound}")
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
            raise ValueError(f"seed={seed!r} is not allowed; allowed: None, or a whole number")
        super().__init__(name, bound, Shuffle(floor, seed), form)


class PaddingFIFOQueue(Queue[T]):
    """First in, first out; a batch is padded to its longest element in the dimensions that may vary.

    Args:
        capacity: how many elements may be inside.
        shapes: one for each component, None for a dimension of any length: ``[(None, 3), ()]``.
        pad_value: what fills up the end of such a dimension; 0 is the dtype's own zero, the empty string among
            strings. A tuple has one for each component.
        dtypes, names, name: as in `FIFOQueue`.

    Raises:
        ValueError: one of them is not allowed; the text says what is.

    Example: [1], [2, 3] and [] in a queue with ``shapes=[(None,)]`` make the batch [[1, 0], [2, 3], [0, 0]].
    """

    def __init__(
        self,
        capacity: int,
        shapes: Sequence[Sequence[int | None]],
        pad_value: Any = 0,
        *,
        dtypes: Sequence[Any] | None = None,
        names: Sequence[str] | None = None,
        name: str = "padding_fifo_queue",
    ) -> None:
        if shapes is None:
            raise ValueError("shapes=None is not allowed; allowed: a list with one shape for each component")
        form = layout(names=names, shapes=shapes, dtypes=dtypes)
        assert form.shapes is not None
        pads = pad_value if isinstance(pad_value, tuple) else (pad_value,) * len(form.shapes)
        if len(pads) != len(form.shapes):
            raise ValueError(
                f"pad_value={pad_value!r} is not allowed; allowed: one value, or {len(form.shapes)} of them"
            )
        super().__init__(name, whole_number("capacity", capacity, 1), Fifo(), form, Padded(form.shapes, pads))


class PriorityQueue(Queue[T]):
    """The lowest priority first, first in first out among equals. Elements are tuples ``(priority, value, ...)``.

    A batch is taken in one piece, once it is all inside, so that it holds the lowest of all and is sorted; a
    `dequeue_many` of more than `capacity`, which never is, raises a ValueError.

    Args:
        capacity: how many elements may be inside.
        shapes, dtypes, names, name: as in `FIFOQueue`; the priority is the first component.

    Raises:
        ValueError: one of them is not allowed; the text says what is.
    """

    def __init__(
        self,
        capacity: int,
        *,
        shapes: Sequence[Sequence[int]] | None = None,
        dtypes: Sequence[Any] | None = None,
        names: Sequence[str] | None = None,
        name: str = "priority_queue",
    ) -> None:
        form = _fixed(layout(names=names, shapes=shapes, dtypes=dtypes, has_priority=True))
        if form.components == 1:
            raise ValueError("one component is not allowed; allowed: the priority, and at least one value after it")
        first: Any = 0 if form.names is None else form.names[0]
        super().__init__(name, whole_number("capacity", capacity, 1), Priority(lambda element: element[first]), form)

    def _wanted(self, count: int, *, may_be_less: bool) -> int:
        wanted = super()._wanted(count, may_be_less=may_be_less)
        if wanted > self.capacity and not may_be_less:
            raise ValueError(
                f"count={count} is not allowed; allowed: at most capacity={self.capacity}, "
                "for a batch of a PriorityQueue has to be inside as a whole"
            )
        return wanted


def _fixed(form: Layout) -> Layout:
    for shape in form.shapes or ():
        if None in shape:
            raise ValueError(f"shapes={list(form.shapes or ())!r} is not allowed; only a PaddingFIFOQueue's may vary")
    return form
