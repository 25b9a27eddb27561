"""The far side of a cluster lane: what a worker of Dask or Ray does around one call.

The engine's task calls `Station.perform`, and gets an `Answer` whatever happens: what the function raised is a
value, so that the engine sees no errors and tries nothing again. What is said meanwhile goes out by the engine's
`Voice`, what the runner wants to say comes in by `hear`, in any thread. A ticket is claimed before its function is
called, and can be revoked until then: so both sides know whether it ran.

A process may have several stations: one for each lane of each runner that uses it.
"""

from __future__ import annotations

import os
import platform
import sys
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from pickle import PickleBuffer, dumps
from time import perf_counter
from typing import Any, Final, NamedTuple, Protocol

from asyncjobs.claims import Claims
from asyncjobs.context import running
from asyncjobs.errors import JobStopped
from asyncjobs.printing import Printing
from asyncjobs.remote.twins import Twins
from asyncjobs.remote.workerjob import WorkerJob
from asyncjobs.token import StopReason, arriving
from asyncjobs.wire import codec, failure, frames
from asyncjobs.wire.answers import answer, raised
from asyncjobs.wire.parcel import Parcel
from asyncjobs.wire.terms import KEYWORDS, STARRED

STOP, REVOKE, TOKEN, DROP = "stop", "revoke", "token", "drop"
"""What a station is told: about a ticket, some tickets, a token that was raised, a shared object that no call takes."""
STARTED, PRINTED, PROGRESS, REVOKED, RAISED = "started", "printed", "progress", "revoked", "raised"
"""What it says."""
NOT_STARTED: Final = 0
"""Beside the kinds of `frames`: the call was revoked, or was meant for a process that is no more."""
CHUNK: Final = 32
"""Among an order's flags, beside KEYWORDS and STARRED: the argument is a list of items."""

BRIEF = 0.005
"""Seconds: a call that has ended sooner is not said to have started."""
REMEMBERED = 8192
"""Tickets that have ended, or were revoked, and may still be asked for."""
KNOWN_FUNCTIONS = 128
SMALL = 64 * 1024
"""Bytes below which a cargo is pickled in one piece."""
LIBRARIES = ("asyncjobs", "cloudpickle", "numpy", "distributed", "ray")
"""Compared at connect, where both sides have them."""


class Cargo:
    """A pickle and its large buffers, for an engine to carry without copies."""

    __slots__ = ("buffers", "stream")

    def __init__(self, stream: Any, buffers: Sequence[Any] = ()) -> None:
        self.stream: Any = stream
        self.buffers: Sequence[Any] = buffers

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # A frame of its own would cost more than the copy.
        if self.nbytes < SMALL or protocol < 5:
            return Cargo, (bytes(self.stream), tuple(map(bytearray, self.buffers)))
        return Cargo, (PickleBuffer(self.stream), tuple(map(PickleBuffer, self.buffers)))

    @property
    def nbytes(self) -> int:
        """Of all of it."""
        return sum(memoryview(part).nbytes for part in (self.stream, *self.buffers))

    def load(self, *, shared: bool = False) -> Any:
        """What it means. Its arrays may be written to, unless they are `shared`."""
        views = [memoryview(buffer) for buffer in self.buffers]
        if shared:
            return codec.loads(self.stream, buffers=[view.toreadonly() for view in views])
        return codec.loads(self.stream, buffers=[bytearray(view) if view.readonly else view for view in views])


class Order(NamedTuple):
    """One call. What is large travels beside it, as goods: then its index among them stands in its place."""

    station: str
    ticket: int
    number: int
    """The job's."""
    attempt: int
    name: str
    by_name: tuple[str, str] | None
    by_value: Cargo | int | None
    arguments: Cargo | int
    flags: int
    shared: dict[int, int]
    """Shared objects among the arguments: their numbers, and where they are among the goods."""
    max_result: int | None


class Answer(NamedTuple):
    """How a call has ended."""

    kind: int
    """NOT_STARTED, or one of `frames`: RETURNED, RAISED, STOPPED."""
    seconds: float
    cargo: Cargo


class Voice(Protocol):
    """How a station says something, by its engine; from any thread."""

    def say(self, station: str, said: list[tuple[Any, ...]]) -> None:
        """Send what was said. Keeps the order, and gets there before the answer of a call that ends later."""

    def later(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call back in a while, in any thread that does not run jobs."""


class Facts(NamedTuple):
    """What a runner learns of a worker process when it enrols there."""

    station: str
    pid: int
    host: str
    versions: dict[str, str]


def versions() -> dict[str, str]:
    """Of Python, of this package, and of the libraries that pickles depend on."""
    found = {"Python": platform.python_version()}
    for name in LIBRARIES:
        module = sys.modules.get(name)
        if module is not None:
            found[name] = str(getattr(module, "__version__", "unknown"))
    return found


# --- the stations of this process -------------------------------------------------------

_stations: dict[str, Station] = {}
_numbers = count(1)


def enrol(runner_id: str, voice: Voice, claims: Claims | None = None) -> Facts:
    """Open a station for one lane of a runner; what it begins, it writes into `claims`."""
    name = f"{runner_id}-{platform.node()}-{os.getpid()}-{next(_numbers)}-{os.urandom(4).hex()}"
    _stations[name] = Station(name, runner_id, voice, claims)
    return Facts(name, os.getpid(), platform.node(), versions())


def dismiss(name: str) -> None:
    """The lane is closed; what still runs ends in its time, and nobody hears of it."""
    station = _stations.pop(name, None)
    if station is not None:
        station.close()


def hear(name: str, told: Iterable[tuple[Any, ...]]) -> None:
    """What the runner tells a station; never blocks."""
    station = _stations.get(name)
    if station is not None:
        station.hear(told)


def perform(order: Order, goods: Sequence[Any] = ()) -> Answer:
    """Carry out `order`, if it was meant for this very process."""
    station = _stations.get(order.station)
    return Answer(NOT_STARTED, 0.0, Cargo(b"")) if station is None else station.perform(order, goods)


class Station:
    """What one worker process knows of one lane's calls."""

    def __init__(self, name: str, runner_id: str, voice: Voice, claims: Claims | None) -> None:
        self._name = name
        self._runner_id = runner_id
        self._voice = voice
        self._claims = claims
        """None where nobody would read them."""
        self._lock = threading.Lock()
        self._jobs: dict[int, WorkerJob] = {}
        """What runs, by ticket: claimed, and not ended."""
        self._ended: deque[int] = deque(maxlen=REMEMBERED)
        self._revoked: OrderedDict[int, None] = OrderedDict()
        self._unsaid: deque[int] = deque()
        """Tickets that run, and nobody was told."""
        self._printing = Printing(self._printed)
        self._printed_pieces: deque[tuple[Any, ...]] = deque()
        self._will_look = False
        self._twins = Twins(lambda _, number, reason: self._say((RAISED, number, reason)))
        self._shared: dict[int, Any] = {}
        self._functions: OrderedDict[bytes, Callable[..., Any]] = OrderedDict()

    # --- a call -------------------------------------------------------------------------

    def perform(self, order: Order, goods: Sequence[Any]) -> Answer:
        """Run the call of `order`; never raises."""
        job = WorkerJob(self, order.ticket, order.number, order.name, order.attempt)
        if not self._claim(order.ticket, job):
            return Answer(NOT_STARTED, 0.0, Cargo(b""))
        mark, started = running.set(job), perf_counter()
        try:
            with self._printing.of(order.ticket):
                kind, parcel = self._outcome(order, goods)
        finally:
            running.reset(mark)
            self._release(order.ticket)
        return Answer(kind, perf_counter() - started, Cargo(*parcel))

    def _outcome(self, order: Order, goods: Sequence[Any]) -> tuple[int, Parcel]:
        try:
            function, arguments = self._unpacked(order, goods)
            value = self._called(function, arguments, order.flags)
        except JobStopped as stop:
            return frames.STOPPED, Parcel(stop.reason.encode("utf-8", "backslashreplace"))
        # Everything: what the function raises is a value, and the engine must not see it.
        except BaseException as error:
            return raised(error, skip_frames=2)
        return answer(value, order.name, order.max_result, is_chunk=bool(order.flags & CHUNK))

    def _unpacked(self, order: Order, goods: Sequence[Any]) -> tuple[Callable[..., Any], Any]:
        """The function, and its arguments as `flags` say."""
        cargo = goods[order.arguments] if isinstance(order.arguments, int) else order.arguments
        try:
            with arriving(lambda kind, number: self._arrived(kind, number, order, goods)):
                return self._function(order, goods), cargo.load()
        except ImportError as error:
            error.add_note(f"the workers of the cluster must be able to import {error.name or 'it'}: install it there")
            raise

    def _called(self, function: Callable[..., Any], arguments: Any, flags: int) -> Any:
        if flags & CHUNK:
            return each(function, arguments[0], starred=bool(flags & STARRED))
        if flags & KEYWORDS:
            return function(*arguments[0], **arguments[1])
        return function(*arguments)

    def _function(self, order: Order, goods: Sequence[Any]) -> Callable[..., Any]:
        if order.by_name is not None:
            return codec.resolve(codec.Reference(order.by_name, None))  # type: ignore[no-any-return]
        if isinstance(order.by_value, int):
            function: Callable[..., Any] = goods[order.by_value].load()
            return function
        assert order.by_value is not None
        key = bytes(order.by_value.stream)
        known = None if order.by_value.buffers else self._functions.get(key)
        if known is None:
            known = order.by_value.load()
            self._functions[key] = known
            if len(self._functions) > KNOWN_FUNCTIONS:
                self._functions.popitem(last=False)
        return known

    def _arrived(self, kind: str, number: int, order: Order, goods: Sequence[Any]) -> Any:
        if kind == "token":
            return self._twins.twin(number)
        if number not in self._shared:
            self._shared[number] = goods[order.shared[number]].load(shared=True)
        return self._shared[number]

    # --- claims -------------------------------------------------------------------------

    def _claim(self, ticket: int, job: WorkerJob) -> bool:
        with self._lock:
            if ticket in self._revoked:
                del self._revoked[ticket]
                return False
            if self._claims is not None:
                self._claims.write(ticket)
            self._jobs[ticket] = job
            self._unsaid.append(ticket)
        self._look_soon()
        return True

    def _release(self, ticket: int) -> None:
        with self._lock:
            del self._jobs[ticket]
            self._ended.append(ticket)
            pieces = self._take_pieces()
        if pieces:
            self._say(*pieces)

    def _revoke(self, tickets: Iterable[int]) -> None:
        with self._lock:
            taken = [ticket for ticket in tickets if ticket not in self._jobs and ticket not in self._ended]
            self._revoked.update(dict.fromkeys(taken))
            while len(self._revoked) > REMEMBERED:
                self._revoked.popitem(last=False)
        self._say((REVOKED, taken))

    def close(self) -> None:
        """Nobody asks any more what was begun."""
        with self._lock:
            claims, self._claims = self._claims, None
        if claims is not None:
            claims.close()

    # --- hearing and saying -------------------------------------------------------------

    def hear(self, told: Iterable[tuple[Any, ...]]) -> None:
        """What the runner says."""
        for what, number, *reason in told:
            if what == STOP:
                self._stop(number, StopReason(*reason))
            elif what == REVOKE:
                self._revoke(number)
            elif what == TOKEN:
                self._twins.raise_for(number, StopReason(*reason))
            elif what == DROP:
                self._shared.pop(number, None)

    def _stop(self, ticket: int, reason: StopReason) -> None:
        job = self._jobs.get(ticket)
        if job is None:
            self._revoke([ticket])
            job = self._jobs.get(ticket)  # it came just now
        if job is not None:
            job.token.raise_for(reason)

    def _look_soon(self) -> None:
        if not self._will_look:
            self._will_look = True
            self._voice.later(BRIEF, self._look)

    def _look(self) -> None:
        """Say what runs by now, and what it has printed."""
        self._will_look = False
        with self._lock:
            started = [(STARTED, ticket) for ticket in self._unsaid if ticket in self._jobs]
            self._unsaid.clear()
            pieces = self._take_pieces()
        if started or pieces:
            self._say(*started, *pieces)

    def _printed(self, ticket: int, stream: str, text: str) -> None:
        self._printed_pieces.append((PRINTED, ticket, stream, text))
        self._look_soon()

    def _take_pieces(self) -> list[tuple[Any, ...]]:
        pieces = list(self._printed_pieces)
        self._printed_pieces.clear()
        return pieces

    def _say(self, *said: tuple[Any, ...]) -> None:
        self._voice.say(self._name, list(said))

    # --- what a running job asks (Reporter) ---------------------------------------------

    def job_id(self, number: int) -> str:
        """As the runner writes it."""
        return f"{self._runner_id}-{number}"

    def report(self, ticket: int, progress: tuple[float, float | None, str]) -> None:
        """Send a progress report."""
        self._say((PROGRESS, ticket, dumps(progress, 5)))


def each(fn: Callable[..., Any], items: list[Any], *, starred: bool) -> tuple[list[Any], dict[int, failure.Failure]]:
    """One value per item; what an item raised stands beside, by its index."""
    values: list[Any] = []
    failures: dict[int, failure.Failure] = {}
    for index, item in enumerate(items):
        try:
            values.append(fn(*item) if starred else fn(item))
        except JobStopped:
            raise
        except BaseException as error:
            failures[index] = failure.capture(error, skip_frames=1)
            values.append(None)
    return values, failures
