"""What the service tells a worker to do, and what the worker answers. Values only; both ends import it.

The service must not unpickle what a job made: an answer begins with a head that needs no pickle.
"""

from __future__ import annotations

import json
import pickle
import struct
from typing import Final, NamedTuple

from asyncjobs.service import outcome
from asyncjobs.wire import failure

RETURNED, RAISED = b"+", b"-"
_LENGTH: Final = struct.Struct(">I")
NOTE_LENGTH = 500
"""Characters of an error's text that lists show."""


class Order(NamedTuple):
    """One attempt of one job."""

    id: str
    name: str
    attempt: int
    epoch: int
    fence: int
    function: str
    """``module:qualname``; empty where the call brings it."""
    call: bytes
    """See `outcome`; its seal was opened."""
    results: dict[str, bytes]
    """The outcomes of the jobs that it comes after, where its arguments ask for them."""
    checkpoint: bytes | None
    figures: str
    """The folder for its plots; it may not be there yet."""
    max_result: int | None
    at_most_once: bool
    """The service has to write down that it starts, before it does."""

    def encode(self) -> bytes:
        """Pickled as the arguments of `performing.perform`."""
        return pickle.dumps((tuple(self),), 5)


class Raised(NamedTuple):
    """What an answer says of an error, without its pickle."""

    names: tuple[str, ...]
    """``module.qualname`` of its class and of all its bases."""
    note: str
    """One line for people."""


def returned(body: bytes) -> bytes:
    """The answer for an encoded value."""
    return RETURNED + body


def raised(error: BaseException, failed: failure.Failure) -> bytes:
    """The answer for an error."""
    head = json.dumps((names_of(type(error)), note_of(failed))).encode()
    return b"".join((RAISED, _LENGTH.pack(len(head)), head, outcome.encode_failure(failed)))


def read(answer: bytes) -> tuple[bytes, Raised | None]:
    """In the service: the outcome, and what is known of the error if it is one."""
    if answer[:1] == RETURNED:
        return answer[1:], None
    (length,) = _LENGTH.unpack_from(answer, 1)
    begin = 1 + _LENGTH.size
    names, note = json.loads(answer[begin : begin + length])
    return answer[begin + length :], Raised(tuple(names), note)


def names_of(kind: type[BaseException]) -> list[str]:
    """``builtins.KeyError``, ``builtins.LookupError`` and so on."""
    return [f"{base.__module__}.{base.__qualname__}" for base in kind.__mro__ if base is not object]


def note_of(failed: failure.Failure) -> str:
    """Type and text in one line, without what a terminal would obey, and without the stacks that a worker left."""
    said = failed.text.partition(failure.LAST_WORDS)[0]
    text = f"{failed.type_name}: {said}" if said else failed.type_name
    line = "".join(letter if letter.isprintable() else " " for letter in text[: 2 * NOTE_LENGTH])
    return " ".join(line.split())[:NOTE_LENGTH]
