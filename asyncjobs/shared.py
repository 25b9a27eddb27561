"""Objects that are put into shared memory once and taken by any number of jobs: `Shared`.

A handle is a small thing: what travels is its number, and where the object lies. Each worker
maps the object when it first meets the handle and keeps it until the handle is closed.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from asyncjobs.memory import Memory, arena_full
from asyncjobs.spawning import Descriptor
from asyncjobs.token import adopter, passenger
from asyncjobs.wire import parcel
from asyncjobs.wire.arena import Arena, Reader, Segment, memory_file
from asyncjobs.wire.parcel import Parcel

if TYPE_CHECKING:  # workers import this, and have no loop
    import asyncio

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_numbers = itertools.count(1)
_living: weakref.WeakValueDictionary[int, Shared[Any]] = weakref.WeakValueDictionary()
_adopt: Callable[[int, bytes], Any] | None = None


class SharedObject:
    """The memory of one shared object. Whoever may still look at it holds a reference: the
    handle, each job on its way, each worker that mapped it. With the last one it is free."""

    __slots__ = ("__weakref__", "body", "is_closed", "nbytes", "number", "shares")

    def __init__(self, shares: Shares, number: int, body: bytes, nbytes: int) -> None:
        self.shares: Shares = shares
        self.number: int = number
        self.body: bytes = body
        self.nbytes: int = nbytes
        self.is_closed: bool = False


class Shared(Generic[T_co]):
    """A handle of an object in shared memory; `Runner.share` makes it.

    Give it to jobs as an argument, wherever arguments may be: the job gets the object itself.
    In worker processes its arrays are read-only, and mapped, not copied. Close it when no more
    jobs will take it; jobs that took it are not harmed.
    """

    def __init__(self, value: T_co, held: SharedObject) -> None:
        self._value = value
        self._held: SharedObject | None = held
        self._nbytes = held.nbytes
        _living[held.number] = self

    @property
    def value(self) -> T_co:
        """The object, here."""
        return self._value

    @property
    def argument(self) -> T_co:
        """The handle itself, which type checkers take for the object: it is what the job gets."""
        return cast(T_co, self)

    @property
    def nbytes(self) -> int:
        """Bytes of shared memory that it takes."""
        return self._nbytes

    @property
    def is_closed(self) -> bool:
        """Whether no more jobs may take it."""
        return self._held is None

    def close(self) -> None:
        """Let go of the memory, as soon as the jobs that took the handle have ended. From any thread."""
        held, self._held = self._held, None
        if held is not None:
            held.shares.close(held)

    def __reduce__(self) -> tuple[Any, ...]:
        if self._held is None:
            raise ValueError("the shared object is closed; share it again")
        passenger(self._held)
        return _arrive, (self._held.number, self._held.body)

    def __enter__(self) -> Shared[T_co]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Shared[T_co]:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self.is_closed else f"{self.nbytes} bytes"
        return f"<Shared {type(self._value).__name__}, {state}>"


class Shares:
    """The shared objects of one runner, in one memory file that every worker gets when it starts."""

    def __init__(self, loop: asyncio.AbstractEventLoop, memory: Memory) -> None:
        self._loop = loop
        self._thread = threading.get_ident()
        self._memory = memory
        self._file: Descriptor | None = None
        self._arena: Arena
        self._handles: dict[int, Shared[Any]] = {}
        self.count: int = 0
        """How many handles are open."""
        self._is_closed = False
        self.on_close: set[Callable[[SharedObject], None]] = set()
        """Told when a handle is closed: whoever has workers that may have mapped it."""

    @property
    def file(self) -> Descriptor:
        """The memory file, for a worker that starts."""
        if self._file is None:
            self._file = memory_file("asyncjobs-shared")
            self._arena = Arena(self._file, partial(self._memory.allow, soon=True), self._memory.gave_up)
        return self._file

    @property
    def nbytes(self) -> int:
        """Bytes that shared objects take."""
        return self._arena.committed if self._file is not None else 0

    def share(self, value: T, pickled: Parcel) -> Shared[T]:
        """A handle of `value`, the same one if there is one.

        Raises:
            ArenaFull: there is no room for it.
        """
        known = self._handles.get(id(value))
        if known is not None:
            return known
        handle = Shared(value, self.hold(pickled))
        self._handles[id(value)] = handle
        self.count = len(self._handles)
        return handle

    def hold(self, pickled: Parcel) -> SharedObject:
        """Put a parcel into shared memory."""
        _ = self.file
        packed = parcel.pack(pickled, self._arena)
        if packed is None:
            raise arena_full("shared objects", pickled.nbytes, self._memory.used, self._memory.cap)
        for segment, buffer in packed.copies:
            self._arena.write(segment, buffer)
        self._memory.shared_nbytes = self._arena.committed
        held = SharedObject(self, next(_numbers), packed.body, packed.nbytes)
        weakref.finalize(held, self._free_soon, [segment for segment, _ in packed.copies]).atexit = False
        return held

    def parcel_of(self, held: SharedObject) -> Parcel:
        """What was put into shared memory, for whoever cannot map it; mapped, not copied."""
        stream, buffers = parcel.unpack(memoryview(held.body), Reader(self.file, private=False, on_release=bool))
        return Parcel(bytes(stream), tuple(map(memoryview, buffers)))

    def _free_soon(self, segments: list[Segment]) -> None:
        """Nobody looks at these any more; said in any thread."""
        if not self._is_closed:
            with suppress(RuntimeError):  # the loop is closed, or is this very moment
                self._loop.call_soon_threadsafe(self._free, segments)

    def _free(self, segments: list[Segment]) -> None:
        if not self._is_closed:
            parcel.release(self._arena, (segment.at for segment in segments))
            self._arena.trim()
            self._memory.shared_nbytes = self._arena.committed
            self._memory.room_came()

    def close(self, held: SharedObject) -> None:
        """No more jobs may take it; from any thread."""
        held.is_closed = True
        if threading.get_ident() != self._thread:
            with suppress(RuntimeError):  # the loop is closed, or is this very moment
                self._loop.call_soon_threadsafe(self._withdraw, held)
            return
        self._withdraw(held)

    def _withdraw(self, held: SharedObject) -> None:
        self._handles = {key: handle for key, handle in self._handles.items() if not handle.is_closed}
        self.count = len(self._handles)
        for tell in tuple(self.on_close):
            tell(held)

    def close_all(self) -> None:
        """The runner is closed; a second call does nothing."""
        if self._is_closed:
            return
        for handle in tuple(self._handles.values()):
            handle.close()
        self._is_closed = True
        if self._file is not None:
            self._arena.close()


def unwrapped(value: Any) -> Any:
    """The object itself, if `value` is a handle."""
    return value.value if isinstance(value, Shared) else value


def adopt_with(adopt: Callable[[int, bytes], Any]) -> None:
    """In a worker: how to get at the object of a handle that arrives."""
    global _adopt
    _adopt = adopt


def _arrive(number: int, body: bytes) -> Any:
    adopt = adopter()
    if adopt is not None:
        return adopt("shared", number)
    if _adopt is not None:
        return _adopt(number, body)
    handle = _living.get(number)
    if handle is None:
        raise LookupError("the shared object that came back is no longer there")
    return handle.value
