"""Encode what a job returned, or why that cannot travel."""

from __future__ import annotations

import pickle
from typing import Any

from asyncjobs.errors import ResultNotSendable, ResultTooLarge
from asyncjobs.memory import arena_full
from asyncjobs.wire import codec, failure, frames
from asyncjobs.wire.hold import Hold
from asyncjobs.wire.parcel import Parcel
from asyncjobs.wire.terms import Definition


def encoded(kind: int, value: Any, definition: Definition, hold: Hold) -> tuple[int, bytes]:
    """The answer that carries `value`, or says why it cannot: a kind of frame, and its body."""
    outcome, parcel = answer(value, definition.name, definition.max_result, hold.cap, is_chunk=kind == frames.CHUNK)
    if outcome == frames.RETURNED and parcel.is_large:
        return frames.DELIVERED, hold.pack(parcel)
    return outcome, parcel.stream


def answer(
    value: Any, name: str, max_result: int | None, cap: int | None = None, *, is_chunk: bool = False
) -> tuple[int, Parcel]:
    """The same before it is packed: RETURNED and the value, or RAISED and a failure.

    `cap` bounds the memory that the value may go through.
    """
    try:
        parcel = codec.encode_parcel(value)
    except BaseException as error:
        if is_chunk:
            return frames.RETURNED, Parcel(_encoded_items(name, *value))
        return raised(_not_sendable(name, value, error))
    if not parcel.is_large and max_result is None:
        return frames.RETURNED, parcel
    nbytes = parcel.nbytes
    if max_result is not None and nbytes > max_result:
        problem = ResultTooLarge(f"{name} returned {nbytes} bytes; max_result is {max_result}")
        problem.nbytes, problem.limit = nbytes, max_result
        return raised(problem)
    if cap is not None and nbytes > cap:
        return raised(arena_full(f"the result of {name}", nbytes, 0, cap))
    return frames.RETURNED, parcel


def raised(error: BaseException, *, skip_frames: int = 0) -> tuple[int, Parcel]:
    """The answer that carries `error`."""
    return frames.RAISED, Parcel(pickle.dumps(failure.capture(error, skip_frames=skip_frames), 5))


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
