"""Encode what a job returned, or why that cannot travel."""

from __future__ import annotations

import pickle
from typing import Any

from asyncjobs.errors import ResultNotSendable, ResultTooLarge
from asyncjobs.memory import arena_full
from asyncjobs.wire import codec, failure, frames
from asyncjobs.wire.hold import Hold
from asyncjobs.wire.terms import Definition


def encoded(kind: int, value: Any, definition: Definition, hold: Hold) -> tuple[int, bytes]:
    """The answer that carries `value`, or says why it cannot: a kind of frame, and its body."""
    try:
        parcel = codec.encode_parcel(value)
    except BaseException as error:
        if kind == frames.CHUNK:
            return frames.RETURNED, _encoded_items(definition.name, *value)
        return frames.RAISED, pickle.dumps(failure.capture(_not_sendable(definition.name, value, error)), 5)
    if not parcel.is_large and definition.max_result is None:
        return frames.RETURNED, parcel.stream
    nbytes, limit = parcel.nbytes, definition.max_result
    problem: Exception | None = None
    if limit is not None and nbytes > limit:
        problem = ResultTooLarge(f"{definition.name} returned {nbytes} bytes; max_result is {limit}")
        problem.nbytes, problem.limit = nbytes, limit
    elif nbytes > hold.cap:
        problem = arena_full(f"the result of {definition.name}", nbytes, 0, hold.cap)
    if problem is not None:
        return frames.RAISED, pickle.dumps(failure.capture(problem), 5)
    return (frames.DELIVERED, hold.pack(parcel)) if parcel.is_large else (frames.RETURNED, parcel.stream)


def _encoded_items(name: str, values: list[Any], failures: dict[int, Any]) -> bytes:
    """Some value of a chunk does not pickle: find which, and say so for it alone."""
    for index, value in enumerate(values):
        try:
            codec.encode(value)
        except BaseException as error:
            failures[index] = failure.capture(_not_sendable(name, value, error))
            values[index] = None
    return codec.encode((values, failures))


def returned_awaitable(name: str, value: object) -> TypeError:
    """The error for a plain function that returns something to be awaited; in threads too."""
    getattr(value, "close", bool)()  # so that nobody complains that it was never awaited
    return TypeError(
        f"{name} is a plain function that returned an awaitable ({type(value).__name__}): "
        "make it `async def`, so that it runs on the loop, or await inside it"
    )


def _not_sendable(name: str, value: object, error: BaseException) -> Exception:
    if hasattr(value, "__await__"):
        return returned_awaitable(name, value)
    try:
        shown = repr(value)[:200]
    # The user's __repr__ may raise anything at all.
    except BaseException:
        shown = "<unprintable>"
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    return ResultNotSendable(
        f"the result, a {kind}, does not pickle: {failure.type_name(error)}: {failure.text_of(error)}; it is {shown}"
    )
