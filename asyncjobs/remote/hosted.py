"""Objects of an event loop that jobs elsewhere may use: their numbers, and what is asked of them.

As an argument of a thread job such an object becomes a face that blocks; to a process job a face travels that only
knows the number, and asks over the worker's channel. Loads no asyncio: workers use it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Protocol
from weakref import WeakValueDictionary

from asyncjobs.token import passenger

_numbers = itertools.count(1)
_living: WeakValueDictionary[int, Hosted] = WeakValueDictionary()
_ask: Callable[[int, str, str, Any], Any] | None = None


class Errand(Protocol):
    """What a job asked of a hosted object, from then until it has its answer. All of it on the loop."""

    @property
    def future(self) -> Any:
        """Resolved when there is an outcome; None: there is one."""

    @property
    def holds(self) -> bool:
        """Whether something is taken for the job that is to go back if the job never gets it."""

    def outcome(self) -> Any:
        """The value for the job; or raises its error."""

    def withdraw(self) -> None:
        """Nobody will come for it: undo what can be undone."""


class Hosted:
    """Lives on one event loop, and may be an argument of any job there."""

    _number: int = 0

    def settle_on(self, loop: Any) -> None:
        """Its jobs run on `loop`.

        Raises:
            WrongLoop: it is in use on another.
        """

    def blocking(self, loop: Any) -> Any:
        """The face for threads; itself, if that is fit for them."""
        return self

    def face(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """What makes the face for processes, called with the number and with these."""
        raise NotImplementedError

    def errand(self, verb: str, argument: Any) -> Errand:
        """Begin what a face asks for; raises what the verb refuses at once."""
        raise NotImplementedError

    def __reduce__(self) -> tuple[Any, ...]:
        passenger(self)
        if not self._number:
            self._number = next(_numbers)
        _living[self._number] = self
        return arrive, (self._number, *self.face())

    def __deepcopy__(self, _: object) -> Hosted:
        return self  # a snapshot of arguments shares it, as the arguments do


def by_number(number: int, what: str) -> Hosted:
    """The living object that `number` names.

    Raises:
        LookupError: nobody in this program holds it any more.
    """
    host = _living.get(number)
    if host is None:
        raise LookupError(f"{what} no longer exists: only jobs that took it keep it alive, and those have ended")
    return host


def arrive(number: int, make: Callable[..., Any], details: tuple[Any, ...]) -> Any:
    """In a worker the face; where the object lives, the object itself."""
    return by_number(number, "what came back") if _ask is None else make(number, *details)


def faces(values: tuple[Any, ...], loop: Any) -> tuple[Any, ...]:
    """Arguments as a thread gets them. Those inside of others are not looked for."""
    return tuple(value.blocking(loop) if isinstance(value, Hosted) else value for value in values)


def ask_with(ask: Callable[[int, str, str, Any], Any]) -> None:
    """In a worker: ``ask(number, name, verb, argument)`` asks the loop and blocks for the answer."""
    global _ask
    _ask = ask


def ask(number: int, name: str, verb: str, argument: Any = None) -> Any:
    """In a worker: what the object says."""
    assert _ask is not None
    return _ask(number, name, verb, argument)
