"""Carry an exception over a border so that something readable always arrives.

A failure holds the exception pickled, if that works, and always its type's name, its text
and its traceback as text. Nothing here imports a type by a name found in data: a type
comes back only through the pickle that our own worker made.
"""

from __future__ import annotations

import copyreg
import pickle
import traceback
from typing import Any, NamedTuple

from asyncjobs.errors import RemoteError, RemoteTraceback
from asyncjobs.wire import codec

TRACEBACK_LIMIT = 64 * 1024
"""Bytes of traceback text that are kept: the head and the tail."""
LAST_WORDS = "\nIts last words:\n"
"""In the text of an error: what a dead worker had printed comes behind it."""


class Failure(NamedTuple):
    """An exception in a form that always pickles."""

    type_name: str
    text: str
    traceback: str
    pickled: bytes | None


def capture(error: BaseException, *, skip_frames: int = 0) -> Failure:
    """Describe `error`; works even if its text, repr or pickle raise.

    `skip_frames` leaves out that many of our own frames at the top of the traceback.
    """
    trace = error.__traceback__
    for _ in range(skip_frames):
        trace = trace.tb_next if trace is not None and trace.tb_next is not None else trace
    return Failure(type_name(error), text_of(error), _format(error.with_traceback(trace)), _pickled(error))


def rebuild(failure: Failure) -> BaseException:
    """The exception with its remote traceback as cause, or a `RemoteError` about it."""
    error: BaseException | None = None
    if failure.pickled is not None:
        try:
            error = pickle.loads(failure.pickled)
        # Whatever an exception's own constructor does wrong, the description still stands.
        except BaseException as broken:
            return describe(failure, f"it could not be rebuilt: {type_name(broken)}: {text_of(broken)}")
        if not isinstance(error, BaseException) or type_name(error) != failure.type_name:
            return describe(failure, "its pickle made something else")
    if error is None:
        return describe(failure, "it does not pickle")
    error.__cause__ = RemoteTraceback(failure.traceback)
    return error


def describe(failure: Failure, why: str) -> RemoteError:
    """A `RemoteError` that says what is known."""
    error = RemoteError(f"{failure.type_name}: {failure.text} [{why}]\n{failure.traceback}")
    error.type_name = failure.type_name
    error.text = failure.text
    error.remote_traceback = failure.traceback
    return error


def safe_to_raise(error: BaseException) -> BaseException:
    """`error` itself if an await carries it unharmed, else a `RemoteError` around it."""
    from_asyncio = type(error).__name__ == "CancelledError"
    if isinstance(error, Exception) and not isinstance(error, (StopIteration, StopAsyncIteration)) and not from_asyncio:
        return error
    wrapped = RemoteError(f"the job raised {type_name(error)}: {text_of(error)}")
    wrapped.type_name = type_name(error)
    wrapped.text = text_of(error)
    wrapped.remote_traceback = _format(error)
    wrapped.original = error
    wrapped.__cause__ = error
    return wrapped


def type_name(error: BaseException) -> str:
    """``ValueError``, ``json.decoder.JSONDecodeError``."""
    cls = type(error)
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def text_of(error: BaseException) -> str:
    """Its message, clipped, as a plain string; ``<unprintable>`` if it has none to give."""
    try:
        return clip(str.__str__(str(error)), TRACEBACK_LIMIT)
    # The user's __str__ may raise anything at all.
    except BaseException:
        return "<unprintable>"


def _format(error: BaseException) -> str:
    try:
        text = "".join(traceback.format_exception(error))
    # Formatting calls the user's __str__ and __repr__ of the whole chain.
    except BaseException:
        text = f"{type_name(error)}: <unprintable>\n"
    return clip(text, TRACEBACK_LIMIT)


def clip(text: str, limit: int) -> str:
    """At most about `limit` characters: the head and the tail, with a note between."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"


class _AsItIs:
    """Pickles as the error does by itself.

    Dask has errors pickled by tblib, for the whole process: with all frames of their tracebacks, which is large and
    fails after an endless recursion, and without what only their constructor sets.
    """

    __slots__ = ("_error",)

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __reduce__(self) -> str | tuple[Any, ...]:
        return self._error.__reduce_ex__(codec.PROTOCOL)


def _is_tblibs(error: BaseException) -> bool:
    reducer = copyreg.dispatch_table.get(type(error))
    return getattr(reducer, "__module__", None) == "tblib.pickling_support"


def _pickled(error: BaseException) -> bytes | None:
    try:
        return codec.encode(_AsItIs(error) if _is_tblibs(error) else error)
    # The user's __reduce__ may raise anything at all.
    except BaseException:
        return None
