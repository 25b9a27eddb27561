"""Recycled shared memory: where large buffers lie while they are outside of what is pickled.

An arena is one growing memory file. The process at one end carves *segments* out of it and
writes; the process at the other end maps them and reads, and says when the last view of a
segment has died. Only then is the segment used again: fresh pages cost several times what
the copy costs, so memory goes round. Knows nothing of pickles, calls or workers.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import tempfile
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from asyncjobs.failpoint import point
from asyncjobs.spawning import Descriptor

PAGE: Final = mmap.PAGESIZE
SMALLEST: Final = 64 * 1024
"""Bytes of the smallest segment; anything smaller is better off inside the pickle."""
FIRST_WINDOW: Final = 4 * 1024 * 1024
LARGEST_WINDOW: Final = 1024 * 1024 * 1024
ALIGNMENT: Final = max(PAGE, mmap.ALLOCATIONGRANULARITY)
WORTH_LOOKING: Final = 64
"""Pages from which on it is asked which of them were written to."""
_CAN_REMOVE = hasattr(mmap, "MADV_REMOVE")


def memory_file(name: str, nbytes: int = 0) -> Descriptor:
    """Memory that two processes can map, and that goes with the last of them, however they end.

    Without memory files an unlinked temporary file: nothing can be left behind there, either.
    """
    point("shm.create")
    if hasattr(os, "memfd_create"):
        number = os.memfd_create(name, os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            number = os.dup(file.fileno())
    if os.environ.get("ASYNCJOBS_BROKEN") == "leak_memory":  # a test asks whether it would be noticed
        os.dup(number)
    os.ftruncate(number, nbytes)
    return Descriptor(number)


def _must_reserve(number: int) -> bool:
    """Whether the file is one on a file system: where that is full, to touch it would be SIGBUS."""
    try:
        return not os.readlink(f"/proc/self/fd/{number}").startswith("/memfd:")
    except OSError:
        return hasattr(os, "posix_fallocate")


class Ref(NamedTuple):
    """Where in the file a buffer lies: in which window (a range that is mapped as one), and where in it."""

    window: int
    window_size: int
    at: int
    """Offset in the file; names the segment."""
    nbytes: int


class Segment:
    """A range of the file that holds one buffer, or is free."""

    __slots__ = ("at", "committed", "is_fresh", "size", "window")

    def __init__(self, at: int, size: int, window: _Window) -> None:
        self.at: int = at
        self.size: int = size
        self.window: _Window = window
        self.committed: int = 0
        """Bytes from its start that have memory behind them."""
        self.is_fresh: bool = True
        """Some of these were added for the buffer that comes now."""

    def ref(self, nbytes: int) -> Ref:
        """Where the first `nbytes` of it lie."""
        return Ref(self.window.at, self.window.size, self.at, nbytes)


class _Window:
    """A range of the file that is mapped as one: a mapping holds a descriptor, so there must be few."""

    __slots__ = ("at", "mapping", "size", "used")

    def __init__(self, at: int, size: int) -> None:
        self.at: int = at
        self.size: int = size
        self.used: int = 0
        self.mapping: mmap.mmap | None = None

    def map(self, number: int) -> mmap.mmap:
        if self.mapping is None:
            self.mapping = mmap.mmap(number, self.size, offset=self.at)
        return self.mapping


class Arena:
    """The writing end.

    `allow(nbytes)` is asked before memory is taken, and `gave_up(nbytes)` told when some
    goes back to the system. Not for several threads, `write` excepted.
    """

    def __init__(self, file: Descriptor, allow: Callable[[int], bool], gave_up: Callable[[int], None]) -> None:
        self._file = file
        self._reserves = _must_reserve(file.number)
        self._allow = allow
        self._gave_up = gave_up
        self._windows: list[_Window] = []
        self._free: dict[int, list[Segment]] = {}
        self._taken: dict[int, Segment] = {}
        self.committed: int = 0
        """Bytes of memory that the file holds."""
        self.segments: int = 0
        self.recycled: int = 0
        """How often a segment was used that had its memory already."""
        self.retired: int = 0
        """How often the memory of a free segment was given back."""

    @property
    def in_use(self) -> int:
        """Bytes of memory in segments that somebody reads."""
        return sum(segment.committed for segment in self._taken.values())

    def take(self, nbytes: int) -> Segment | None:
        """A segment for `nbytes`; None: there is no room for it now."""
        size = size_class(nbytes)
        spare = self._free.get(size)
        segment = spare.pop() if spare else self._carve(size)
        if segment is None:
            return None
        if not self._commit(segment, nbytes):
            self._free.setdefault(size, []).append(segment)
            return None
        self._taken[segment.at] = segment
        return segment

    def _commit(self, segment: Segment, nbytes: int) -> bool:
        needed = -(-nbytes // PAGE) * PAGE
        fresh = needed - segment.committed
        segment.is_fresh = fresh > 0
        if not segment.is_fresh:
            self.recycled += 1
            return True
        if not self._allow(fresh) and not (self.trim() and self._allow(fresh)):
            return False
        if self._reserves and not self._reserve(segment.at + segment.committed, fresh):
            self._gave_up(fresh)
            return False
        segment.committed = needed
        self.committed += fresh
        return True

    def _reserve(self, start: int, nbytes: int) -> bool:
        try:
            os.posix_fallocate(self._file.number, start, nbytes)
        except OSError:
            return False
        return True

    def _carve(self, size: int) -> Segment | None:
        last = self._windows[-1] if self._windows else None
        if last is None or last.size - last.used < size:
            last = self._open_window(size)
            if last is None:
                return None
        segment = Segment(last.at + last.used, size, last)
        last.used += size
        self.segments += 1
        return segment

    def _open_window(self, size: int) -> _Window | None:
        end = self._windows[-1].at + self._windows[-1].size if self._windows else 0
        doubled = 2 * self._windows[-1].size if self._windows else FIRST_WINDOW
        window = _Window(end, max(size, min(doubled, LARGEST_WINDOW)))
        try:
            os.ftruncate(self._file.number, window.at + window.size)
        except OSError:  # the system does not let files grow so large
            return None
        self._windows.append(window)
        return window

    def write(self, segment: Segment, buffer: memoryview) -> None:
        """Copy `buffer` into the segment; from any thread.

        Raises:
            OSError: the system has no memory for it.
        """
        # Fresh pages by a system call: it makes them at half the price of touching them
        # one after the other, and reports that there are none left instead of SIGBUS.
        if segment.is_fresh:
            done = 0
            while done < buffer.nbytes:
                done += os.pwrite(self._file.number, buffer[done : done + (1 << 30)], segment.at + done)
            return
        start = segment.at - segment.window.at
        copy(buffer, memoryview(segment.window.map(self._file.number))[start : start + buffer.nbytes])

    def release(self, at: int) -> None:
        """The last view of the segment at `at` has died."""
        segment = self._taken.pop(at, None)
        if segment is not None:
            self._free.setdefault(segment.size, []).append(segment)

    def trim(self) -> int:
        """Give the memory of all free segments back; how many bytes that were."""
        before = self.committed
        if not _CAN_REMOVE:
            return 0
        for segments in self._free.values():
            for segment in segments:
                if segment.committed:
                    self._retire(segment)
        return before - self.committed

    def _retire(self, segment: Segment) -> None:
        start = segment.at - segment.window.at
        segment.window.map(self._file.number).madvise(mmap.MADV_REMOVE, start, segment.committed)
        self.committed -= segment.committed
        self._gave_up(segment.committed)
        segment.committed = 0
        self.retired += 1

    def close(self) -> None:
        """Let go of the file; readers keep what they look at."""
        for window in self._windows:
            if window.mapping is not None:
                window.mapping.close()
        self._windows.clear()
        self._free.clear()
        self._file.close()


class _Lease(weakref.ref[ctypes.Array[ctypes.c_ubyte]]):
    """Notices the end of the last view. A weak reference to a memoryview would not: it fires
    while arrays made of the view live on; the ctypes array under all of them dies last."""

    __slots__ = ("at", "nbytes")

    at: int
    nbytes: int


class _PageMap:
    """What the kernel says of this process's pages. To drop them unseen costs a fault for each
    when they are read again: 5 ms for 64 MiB, where this look costs 0.8 ms."""

    # The upper byte of a page's entry: 0x80 it is here, 0x40 swapped out, 0x20 it is the file's
    # own page and no copy, 0x01 nobody else has it mapped.
    _UNCHANGED: Final = b"\x00\xa0\xa1"

    def __init__(self) -> None:
        self._number: int | None = None

    def are_changed(self, window: mmap.mmap, start: int, pages: int) -> bool:
        """Whether any of `pages` pages of a private mapping was written to; True if that cannot be known."""
        if self._number is None:
            self._number = self._open()
        return self._number < 0 or self._look(window, start, pages)

    def _look(self, window: mmap.mmap, start: int, pages: int) -> bool:
        assert self._number is not None
        address = ctypes.addressof(ctypes.c_ubyte.from_buffer(window, start))
        entries = os.pread(self._number, pages * 8, address // PAGE * 8)
        return len(entries) != pages * 8 or bool(entries[7::8].translate(None, self._UNCHANGED))

    def _open(self) -> int:
        try:
            self._number = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return -1
        # Not every system that has the file fills it in.
        page = mmap.mmap(-1, PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        page[0] = 1
        return self._number if self._look(page, 0, 1) else -1


class Reader:
    """The reading end.

    With `private` views can be written to, and that changes nothing for anybody else;
    `on_release` is called when a view has died, in any thread and at any moment.
    """

    def __init__(self, file: Descriptor, *, private: bool, on_release: Callable[[], object]) -> None:
        self._file = file
        self._private = private
        self._on_release = on_release
        self._windows: dict[int, mmap.mmap] = {}
        self._leases: dict[int, _Lease] = {}
        self._ended: deque[tuple[int, int]] = deque()
        self._types: dict[int, type[ctypes.Array[ctypes.c_ubyte]]] = {}
        self._pages = _PageMap()
        self._seen: set[int] = set()
        self.recycled: int = 0
        """How often a segment was looked at that had been looked at before."""
        self.inlined: int = 0
        """Parcels that came in one piece, for there was no room. Counted by whoever unpacks."""

    @property
    def segments(self) -> int:
        """How many different ones were looked at."""
        return len(self._seen)

    def held(self) -> list[tuple[int, int]]:
        """The segments that views hold, and how large these are."""
        return [(lease.at, lease.nbytes) for lease in tuple(self._leases.values())]

    def views(self, refs: Sequence[Ref]) -> list[memoryview]:
        """The buffers at `refs`; each is leased until its last view dies.

        Raises:
            OSError, ValueError: they cannot be mapped here.
        """
        views: list[memoryview] = []
        try:
            for ref in refs:
                views.append(self._view(ref))
        except BaseException:
            self.refuse(refs[len(views) :])
            raise
        return views

    def _view(self, ref: Ref) -> memoryview:
        window = self._windows.get(ref.window)
        if window is None:
            window = self._windows[ref.window] = self._map(ref)
        size = size_class(ref.nbytes)
        kind = self._types.get(size)
        if kind is None:
            kind = self._types[size] = ctypes.c_ubyte * size
        array = kind.from_buffer(window, ref.at - ref.window)
        lease = _Lease(array, self._end)
        lease.at, lease.nbytes = ref.at, ref.nbytes
        self._leases[id(lease)] = lease
        if ref.at in self._seen:
            self.recycled += 1
        else:
            self._seen.add(ref.at)
        return memoryview(array).cast("B")[: ref.nbytes]

    def _map(self, ref: Ref) -> mmap.mmap:
        point("shm.attach")
        if sys.platform == "win32" or not self._private:
            return mmap.mmap(self._file.number, ref.window_size, offset=ref.window)
        return mmap.mmap(
            self._file.number,
            ref.window_size,
            flags=mmap.MAP_PRIVATE,
            prot=mmap.PROT_READ | mmap.PROT_WRITE,
            offset=ref.window,
        )

    def _end(self, lease: _Lease) -> None:
        # The garbage collector calls this anywhere: no lock, no system call.
        self._leases.pop(id(lease), None)
        self._ended.append((lease.at, lease.nbytes))
        self._on_release()

    def refuse(self, refs: Sequence[Ref]) -> None:
        """These will not be looked at: as if their views had died."""
        for ref in refs:
            self._ended.append((ref.at, ref.nbytes))

    def ended(self) -> list[tuple[int, int]]:
        """The segments whose last view has died since the last call, and how large these were."""
        found = []
        while self._ended:
            at, nbytes = self._ended.popleft()
            found.append((at, nbytes))
            if self._private:
                self._forget_changes(at, nbytes)
        return found

    def _forget_changes(self, at: int, nbytes: int) -> None:
        """Drop the private copies of pages that were written to, or the next reader would see them."""
        for start, window in self._windows.items():
            if start <= at < start + len(window) and hasattr(window, "madvise"):
                pages = -(-nbytes // PAGE)
                if pages < WORTH_LOOKING or self._pages.are_changed(window, at - start, pages):
                    window.madvise(mmap.MADV_DONTNEED, at - start, pages * PAGE)

    def retire(self) -> None:
        """The writer is gone: give back all memory that no view holds."""
        point("shm.retire")
        held, size = sorted(self.held()), os.fstat(self._file.number).st_size
        if held and size and _CAN_REMOVE:
            with mmap.mmap(self._file.number, size) as whole:
                _remove_between(whole, held)
        # Views keep their windows alive; the file goes with the last of these.
        self._windows.clear()


def _remove_between(whole: mmap.mmap, held: list[tuple[int, int]]) -> None:
    position = 0
    for at, nbytes in [*held, (len(whole), 0)]:
        if at > position:
            whole.madvise(mmap.MADV_REMOVE, position, at - position)
        position = max(position, at + -(-nbytes // PAGE) * PAGE)


def size_class(nbytes: int) -> int:
    """The size of the segment for `nbytes`: a power of two. What is not used of it takes no memory."""
    return max(SMALLEST, ALIGNMENT, 1 << (nbytes - 1).bit_length())


def copy(source: memoryview, target: memoryview) -> None:
    """Copy bytes; through numpy where the program has it, for that lets other threads run meanwhile."""
    numpy = sys.modules.get("numpy")
    if numpy is None or source.nbytes < SMALLEST:
        target[:] = source
        return
    numpy.copyto(numpy.frombuffer(target, "u1"), numpy.frombuffer(source, "u1"))
