"""Ask work to stop, and let work see that it is asked: the one way to stop in asyncjobs.

A token says *that* and *why*; what is then done about it (cancelling a task, interrupting
a worker) is its callbacks' business. Safe from any thread. Loads no asyncio: workers use it.
"""

from __future__ import annotations

import itertools
import sys
import threading
import weakref
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

from asyncjobs.errors import JobStopped
from asyncjobs.futures import resolve


class StopReason(NamedTuple):
    """Why something is to stop: `kind` for the machine, `text` for people."""

    kind: str
    """``cancel``, ``timeout``, ``queue_timeout``, ``deadline`` or ``shutdown``."""
    text: str


def check_reason(reason: object) -> None:
    """Raise if it is nothing that can be shown, and sent to a worker, as why something stops."""
    if not isinstance(reason, str):
        raise TypeError(f"reason={reason!r} is not allowed; allowed: a string")


_numbers = itertools.count(1)
# One lock for all tokens: it is held for a few instructions, and a lock in each token
# would double the size of a queued job.
_lock = threading.RLock()
_by_number: weakref.WeakValueDictionary[int, CancelToken] = weakref.WeakValueDictionary()


class CancelToken:
    """A flag that can be raised once, seen from everywhere, and inherited.

    Cancelling a token cancels its descendants, never its parent. The first reason wins.
    Every method may be called from any thread. A token may be an argument of a job, in a
    process too: there it has the same words, and raising it raises the original.

    Example::

        stop = CancelToken()
        jobs = [await runner.submit(work, stop, i) for i in range(5)]   # any lane
        # in work: `while not stop.cancelled: ...`, and `stop.cancel("found it")`
    """

    __slots__ = ("__weakref__", "_callbacks", "_event", "_number", "_stop", "_unlink")

    def __init__(self, parent: CancelToken | None = None) -> None:
        self._stop: StopReason | None = None
        # None once raised: whoever comes later is called at once.
        self._callbacks: dict[int, Callable[[StopReason], object]] | None = {}
        self._event: threading.Event | None = None
        self._number = 0
        self._unlink: Callable[[], None] | None = None
        if parent is not None:
            self._inherit(parent)

    def _inherit(self, parent: CancelToken) -> None:
        # The parent must not keep a million finished children alive.
        reference = weakref.ref(self)

        def pass_on(reason: StopReason) -> None:
            child = reference()
            if child is not None:
                child.raise_for(reason)

        self._unlink = parent.add_callback(pass_on)
        weakref.finalize(self, self._unlink).atexit = False

    @property
    def cancelled(self) -> bool:
        """Whether a stop has been asked for. One memory read: fit for the innermost loop."""
        return self._stop is not None

    @property
    def reason(self) -> str | None:
        """Why, or None as long as nobody asked."""
        return None if self._stop is None else self._stop.text

    @property
    def stop(self) -> StopReason | None:
        """The reason with its kind, or None as long as nobody asked."""
        return self._stop

    def cancel(self, reason: str = "cancelled") -> bool:
        """Ask everything that holds this token to stop; True if this call was the first.

        Raises:
            TypeError: `reason` is no string.
        """
        check_reason(reason)
        return self.raise_for(StopReason("cancel", reason))

    def raise_for(self, reason: StopReason) -> bool:
        """As `cancel`, with a kind; callbacks run in this thread, in the order they came."""
        with _lock:
            if self._stop is not None:
                return False
            self._stop = reason
            callbacks, self._callbacks = self._callbacks or {}, None
            event = self._event
        if event is not None:
            event.set()
        for callback in callbacks.values():
            callback(reason)
        return True

    def check(self) -> None:
        """Raise `JobStopped` if a stop has been asked for."""
        if self._stop is not None:
            raise JobStopped(self._stop.text)

    def wait(self, seconds: float | None = None) -> bool:
        """Block this thread until a stop is asked for, at most `seconds`; True if it was.

        For threads and processes: ``while not token.wait(1.0): poll()``. In a coroutine use
        ``await token.stopped()``.
        """
        with _lock:
            if self._stop is not None:
                return True
            if self._event is None:
                self._event = threading.Event()
            event = self._event
        return event.wait(seconds)

    def stopped(self) -> _Stopped:
        """An awaitable that ends, with the reason's text, once a stop is asked for."""
        return _Stopped(self)

    def add_callback(self, callback: Callable[[StopReason], object]) -> Callable[[], None]:
        """Call `callback(reason)` once a stop is asked for, in the asking thread; now, if it was.

        Returns a function that takes the callback back. A callback must not block or raise.
        """
        key = next(_numbers)
        with _lock:
            if self._callbacks is not None:
                self._callbacks[key] = callback
                return lambda: self._forget(key)
            reason = self._stop
        assert reason is not None
        callback(reason)
        return _nothing

    def _forget(self, key: int) -> None:
        with _lock:
            if self._callbacks is not None:
                self._callbacks.pop(key, None)

    @property
    def number(self) -> int:
        """What names this token on a wire; given at first need, unique in this process."""
        with _lock:
            if not self._number:
                self._number = next(_numbers)
                _by_number[self._number] = self
            return self._number

    def __reduce__(self) -> tuple[Any, ...]:
        passenger(self)
        return _arrive, (self.number,)

    def __repr__(self) -> str:
        return f"<CancelToken {'open' if self._stop is None else f'cancelled: {self._stop.text!r}'}>"


def _nothing() -> None:
    """What takes back a callback that has already run."""


class _Stopped:
    """The awaitable of `CancelToken.stopped`."""

    __slots__ = ("_token",)

    def __init__(self, token: CancelToken) -> None:
        self._token = token

    def __await__(self) -> Generator[Any, None, str]:
        # Whoever awaits has loaded asyncio; this module must not.
        loop = sys.modules["asyncio"].get_running_loop()
        woken = loop.create_future()

        def wake(_: StopReason) -> None:
            loop.call_soon_threadsafe(resolve, woken)

        take_back = self._token.add_callback(wake)
        try:
            yield from woken
        finally:
            take_back()
        return self._token.reason or ""


# --- travelling between processes -------------------------------------------------------

_travel = threading.local()
_adopt: Callable[[int], CancelToken] | None = None


class travelling:  # noqa: N801 - a context manager used as a statement
    """Within it this thread may pickle what travels only with jobs: tokens, shared objects.

    They are listed in its value: the sender has to look after exactly those that went out.
    """

    def __enter__(self) -> list[Any]:
        self._outer = getattr(_travel, "passengers", None)
        passengers: list[Any] = []
        _travel.passengers = passengers
        return passengers

    def __exit__(self, *_: object) -> None:
        _travel.passengers = self._outer


class arriving:  # noqa: N801 - a context manager used as a statement
    """Within it this thread may unpickle what came along with a job: ``adopt(kind, number)`` finds it here.

    `kind` is ``token`` or ``shared``. For workers that serve several runners at once; one that serves a
    single runner says it once for all, by `adopt_with`.
    """

    def __init__(self, adopt: Callable[[str, int], Any]) -> None:
        self._adopt = adopt

    def __enter__(self) -> None:
        self._outer = getattr(_travel, "adopt", None)
        _travel.adopt = self._adopt

    def __exit__(self, *_: object) -> None:
        _travel.adopt = self._outer


def adopter() -> Callable[[str, int], Any] | None:
    """How this thread finds what arrives, within `arriving`."""
    return getattr(_travel, "adopt", None)


def passenger(what: object) -> None:
    """While something is pickled: `what` travels along.

    Raises:
        TypeError: it is not pickled for a job.
    """
    passengers = getattr(_travel, "passengers", None)
    if passengers is None:
        raise TypeError(f"a {type(what).__name__} travels only as an argument or result of a job")
    passengers.append(what)


def by_number(number: int) -> CancelToken | None:
    """The living token of this process that `number` names."""
    return _by_number.get(number)


def adopt_with(adopt: Callable[[int], CancelToken]) -> None:
    """In a worker: how to make the local twin of a token that arrives."""
    global _adopt
    _adopt = adopt


def _arrive(number: int) -> CancelToken:
    adopt = adopter()
    if adopt is not None:
        found: CancelToken = adopt("token", number)
        return found
    if _adopt is not None:
        return _adopt(number)
    token = by_number(number)
    if token is None:
        raise LookupError("the CancelToken that came back no longer exists here")
    return token
