"""Two lines of waiters before one store: who is served when. No event loop, no thread, no waiting in here.

Whoever cannot be served at once stands in a line, and only the head of each line moves: `pump` lets both
heads step until nothing moves any more. A plain close stands in the line of those who put, so it comes after
them; a batch takes elements as they come, and gives them back, to the front and in order, when it fails or is
withdrawn. All calls come from one thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

from asyncjobs.errors import OutOfRangeError, QueueClosedError
from asyncjobs.flow.storage import Store


class Waiter:
    """One operation, from its call until it is over."""

    # Most of these never change: what is set on the class costs the instance nothing.
    is_over: bool = False
    """Served or refused; it stands in no line any more."""
    error: Exception | None = None
    """Why it was refused."""
    future: Any = None
    """Resolved when it is over, if somebody waits; done earlier, it was cancelled. Any kind of future."""
    since: float = 0.0
    """When the waiting began."""

    def step(self, lines: Lines) -> bool:
        """Do what can be done now; whether anything could."""
        raise NotImplementedError

    def leave(self, lines: Lines) -> None:
        """Give back what it holds: nobody will come for it."""

    def end(self, error: Exception | None = None) -> bool:
        """It is over, refused if there is an error; always True."""
        self.error = error
        self.is_over = True
        return True

    def refusal(self) -> Exception:
        """Why it was refused; only once, for the error's traceback will refer to frames that refer to us."""
        error, self.error = self.error, None
        assert error is not None
        return error


class Put(Waiter):
    """Elements that go in one by one, as there is room."""

    def __init__(self, elements: Sequence[Any]) -> None:
        self._elements = elements
        self._at = 0

    def step(self, lines: Lines) -> bool:
        if lines.is_closed:
            return self.end(self._refusal(lines))
        upto = min(len(self._elements), self._at + lines.limit - lines.size)
        if upto <= self._at:
            return False
        lines.put(self._elements[self._at : upto])
        self._at = upto
        return upto < len(self._elements) or self.end()

    def _refusal(self, lines: Lines) -> QueueClosedError:
        left = len(self._elements) - self._at
        if lines.was_cancelled and self.future is not None:
            how = f"was closed with cancel_pending_enqueues=True, and the enqueue that waited was cancelled: {left}"
        else:
            how = f"is closed: {left}"
        error = QueueClosedError(f"{lines.name} {how} of {len(self._elements)} elements did not go in")
        error.left = left
        return error


class Close(Waiter):
    """A close that comes after all who stand before it."""

    def step(self, lines: Lines) -> bool:
        lines.shut()
        return self.end()


class Take(Waiter):
    """A batch of `want` elements, fewer only if it may be less and the queue is closed."""

    def __init__(self, want: int, *, may_be_less: bool = False) -> None:
        self.want: int = want
        self.held: list[Any] = []
        self._may_be_less = may_be_less

    def step(self, lines: Lines) -> bool:
        missing = self.want - len(self.held)
        takes = min(missing, lines.size - lines.floor)
        if takes < missing and lines.is_closed:
            return self._rest(lines)
        if takes <= 0 or (takes < missing and lines.is_whole):
            return False
        self.held += lines.take(takes)
        return takes < missing or self.end()

    def _rest(self, lines: Lines) -> bool:
        """The queue is closed and has too few, for ever."""
        there = len(self.held) + lines.size
        if self._may_be_less and there:
            self.held += lines.take(lines.size)
            return self.end()
        self.leave(lines)
        error = OutOfRangeError(
            f"{lines.name} is closed and has insufficient elements (requested {self.want}, current size {there})"
        )
        error.requested, error.size = self.want, there
        return self.end(error)

    def leave(self, lines: Lines) -> None:
        held, self.held = self.held, []
        if held:
            lines.put_back(held)


class Lines:
    """The store, its bound, the two lines, and the account of what went through."""

    # Invariant: after `pump`, neither head can step; so where there is room, nobody waits to put. `base` goes ahead
    # without a waiter then. (Who takes may wait while elements are there: for a whole batch.)

    __slots__ = (
        "_open_since",
        "_waited",
        "area",
        "capacity",
        "enqueued",
        "floor",
        "is_closed",
        "is_whole",
        "limit",
        "name",
        "pop",
        "push",
        "putters",
        "size",
        "takers",
        "unpop",
        "was_cancelled",
    )

    def __init__(self, name: str, capacity: int, store: Store) -> None:
        self.name: str = name
        self.capacity: int = capacity
        self.push: Callable[[Any], object] = store.push
        self.pop: Callable[[], Any] = store.pop
        self.unpop: Callable[[Sequence[Any]], None] = store.unpop
        self.is_whole: bool = store.is_whole
        self.floor: int = store.floor
        """So many have to stay; 0 once it is closed."""
        self.limit: int = capacity
        """Elements may go in below this size; 0 once it is closed."""
        self.size: int = 0
        self.is_closed: bool = False
        self.was_cancelled: bool = False
        self.putters: deque[Waiter] = deque()
        self.takers: deque[Take] = deque()
        self.enqueued: int = 0
        """Elements that went in, ever."""
        # The time that all elements have been inside, in seconds, is the instants of leaving minus those of
        # entering: one addition per element, and `size` of them are still to leave.
        self.area: float = 0.0
        self._waited: dict[type[Waiter], float] = {Put: 0.0, Take: 0.0, Close: 0.0}
        self._open_since = monotonic()

    # --- the store ----------------------------------------------------------------------

    def put(self, elements: Sequence[Any]) -> None:
        """Add them; there is room."""
        for element in elements:
            self.push(element)
        self.size += len(elements)
        self.enqueued += len(elements)
        self.area -= len(elements) * monotonic()

    def take(self, count: int) -> list[Any]:
        """Take so many; they are there."""
        pop = self.pop
        taken = [pop() for _ in range(count)]
        self.size -= count
        self.area += count * monotonic()
        return taken

    def put_back(self, elements: Sequence[Any]) -> None:
        """Put what was taken to the front, in order, whether there is room or not."""
        self.unpop(elements)
        self.size += len(elements)
        self.area -= len(elements) * monotonic()

    # --- the lines ----------------------------------------------------------------------

    def pump(self) -> None:
        """Serve both lines until nothing moves."""
        self._serve(self.putters)
        while self._serve(self.takers) and self._serve(self.putters):
            continue

    def _serve(self, line: deque[Any]) -> bool:
        moved = False
        while line:
            waiter: Waiter = line[0]
            if waiter.future is not None and waiter.future.done():  # cancelled; its owner has not come round to it
                self._leave(line, waiter)
                moved = True
                continue
            moved = waiter.step(self) or moved
            if not waiter.is_over:
                break
            line.popleft()
            if waiter.future is not None:
                self._count(waiter)
                waiter.future.set_result(None)
        return moved

    def withdraw(self, line: deque[Any], waiter: Waiter) -> None:
        """Forget it, wherever it stands; what it took, even if it was just served, goes to the next in line."""
        if waiter.is_over:
            waiter.leave(self)
        else:
            self._leave(line, waiter)
        self.pump()

    def _leave(self, line: deque[Any], waiter: Waiter) -> None:
        waiter.is_over = True
        line.remove(waiter)
        self._count(waiter)
        waiter.leave(self)

    def shut(self, *, cancel: bool = False) -> None:
        """Take nothing more in; `cancel` says that whoever still waits to put has to give up. Pump afterwards."""
        self.is_closed = True
        self.was_cancelled = self.was_cancelled or cancel
        self.limit = self.floor = 0

    # --- the account --------------------------------------------------------------------

    def _count(self, waiter: Waiter) -> None:
        self._waited[type(waiter)] += monotonic() - waiter.since

    def waiting(self, kind: type[Waiter]) -> int:
        """How many of a kind wait now."""
        return sum(type(waiter) is kind for waiter in (*self.putters, *self.takers))

    def waited(self, kind: type[Waiter]) -> float:
        """Seconds that all of a kind have waited, those that still do included."""
        now = monotonic()
        here = sum(now - waiter.since for waiter in (*self.putters, *self.takers) if type(waiter) is kind)
        return self._waited[kind] + here

    def dequeued(self) -> int:
        """Elements that left for good, those in the hands of half-filled batches not counted."""
        return self.enqueued - self.size - sum(len(waiter.held) for waiter in self.takers)

    def open_seconds(self) -> float:
        """How long ago it was made."""
        return monotonic() - self._open_since

    def mean_size(self) -> float:
        """Elements inside, averaged over the time since it was made."""
        now = monotonic()
        return (self.area + self.size * now) / max(now - self._open_since, 1e-9)
