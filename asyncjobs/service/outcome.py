"""What a call and its outcome are as bytes: read by workers and clients, opaque to the service.

A call is ``J`` and JSON ``{"args": [...], "kwargs": {...}}``, or ``P`` and a pickled
``(function or None, args, kwargs)``, or ``R`` and the same with results of other jobs among the
arguments. An outcome is ``J`` and a value as JSON, ``P`` and a pickled value, or ``F`` and a
pickled `Failure`. Knows nothing of seals.
"""

from __future__ import annotations

import json
import math
import pickle
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import cloudpickle

from asyncjobs.errors import JobCancelled, JobError, JobTimeout, NotSendable, WorkerLost
from asyncjobs.state import JobState
from asyncjobs.token import travelling
from asyncjobs.wire import codec, failure

JSON, PICKLE, WITH_RESULTS, FAILURE = b"J", b"P", b"R", b"F"
RESULT_KEY = "$result"
"""In the arguments of a JSON call ``{"$result": "ID"}`` stands for the result of that job."""
FEW = 1000
"""Values in a result that was not asked for as JSON: beyond that the look at each costs more than pickling."""

_here = threading.local()


class StandsForResult:
    """Among the arguments of a job: stands for the result of the job with its `id`."""

    __slots__ = ()

    @property
    def id(self) -> str:
        raise NotImplementedError


class ResultOf(StandsForResult):
    """The result of the job `id`, which has to be among the `after` of whose argument it is."""

    __slots__ = ("id",)

    def __init__(self, id: str) -> None:
        self.id: str = id

    def __reduce__(self) -> tuple[Any, ...]:
        named = getattr(_here, "named", None)
        if named is not None and self.id not in named:
            named.append(self.id)
        return result_of, (self.id,)

    def __repr__(self) -> str:
        return f"ResultOf({self.id!r})"


def result_of(id: str) -> Any:
    """What a `ResultOf` becomes where it is unpickled: the value, where results are at hand."""
    results = getattr(_here, "results", None)
    return ResultOf(id) if results is None else results(id)


# --- calls ------------------------------------------------------------------------------


def encode_call(
    fn: Callable[..., Any] | None, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[bytes, tuple[str, ...]]:
    """A pickled call, and the ids of the jobs whose results are among its arguments.

    Args:
        fn: the function, if it travels by value; None if it goes by name.

    Raises:
        NotSendable: an argument, or the function, does not pickle; names it.
    """
    named: list[str] = []
    _here.named = named
    try:
        body = pickled((fn, args, dict(kwargs)))
    except NotSendable:
        raise
    except Exception as error:
        raise codec.not_sendable(fn, args, dict(kwargs), error) from error
    finally:
        _here.named = None
    return (WITH_RESULTS if named else PICKLE) + body, tuple(named)


def pickled(value: object) -> bytes:
    """By name where that works, else by value.

    Raises:
        NotSendable: there is something in it that lives in this program only.
    """
    try:
        data = pickle.dumps(value, codec.PROTOCOL)
    except Exception:
        data = b"__main__"
    if b"__main__" not in data:
        return data
    with travelling() as passengers:
        data = bytes(cloudpickle.dumps(value, codec.PROTOCOL))
    if passengers:
        raise NotSendable(
            f"a {type(passengers[0]).__name__} lives in this program, and cannot go to the service, which outlives it"
        )
    return data


def encode_json_call(args: list[Any], kwargs: Mapping[str, Any]) -> bytes:
    """A call by JSON.

    Raises:
        ValueError, TypeError: JSON cannot say it.
    """
    return json_call(json.dumps(args, allow_nan=False).encode(), json.dumps(dict(kwargs), allow_nan=False).encode())


def json_call(args: bytes, kwargs: bytes) -> bytes:
    """The same from a JSON array and a JSON object."""
    return b'J{"args":' + args + b',"kwargs":' + kwargs + b"}"


def named_results(value: object) -> Iterator[object]:
    """What stands as an id in each ``{"$result": "ID"}`` among the arguments of a JSON call."""
    if isinstance(value, dict):
        if is_reference(value):
            yield value[RESULT_KEY]
            return
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from named_results(item)


def is_reference(value: Mapping[str, object]) -> bool:
    """Whether this object in the arguments of a JSON call stands for a result."""
    return len(value) == 1 and RESULT_KEY in value


def needs_results(body: bytes) -> bool:
    """Whether results of other jobs may be among the arguments."""
    return body[:1] == WITH_RESULTS or (body[:1] == JSON and RESULT_KEY.encode() in body)


def decode_call(
    body: bytes, results: Callable[[str], Any]
) -> tuple[Callable[..., Any] | None, tuple[Any, ...], dict[str, Any]]:
    """The function (None: it goes by name), the positional and the named arguments.

    Args:
        results: the result of the job with that id; raises KeyError if there is none.
    """
    kind, data = body[:1], body[1:]
    if kind == JSON:
        call = json.loads(data)
        if RESULT_KEY.encode() in data:
            call = _filled(call, results)
        return None, tuple(call["args"]), call["kwargs"]
    _here.results = results
    try:
        fn, args, kwargs = pickle.loads(data)
    finally:
        _here.results = None
    return fn, args, kwargs


def _filled(value: Any, results: Callable[[str], Any]) -> Any:
    if isinstance(value, list):
        return [_filled(item, results) for item in value]
    if isinstance(value, dict):
        if is_reference(value):
            return results(value[RESULT_KEY])
        return {name: _filled(item, results) for name, item in value.items()}
    return value


# --- outcomes ---------------------------------------------------------------------------


def encode_value(value: Any, *, as_json: bool) -> bytes:
    """What a job returned. As JSON if that says it exactly, and it was asked for or is small; else pickled.

    Raises:
        NotSendable: it does not pickle.
    """
    if _budget_left(value, sys.maxsize if as_json else FEW) >= 0:
        try:
            return JSON + json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
        except (ValueError, RecursionError):  # an integer of thousands of digits
            return PICKLE + pickle.dumps(value, codec.PROTOCOL)
    try:
        return PICKLE + pickled(value)
    except Exception as error:
        raise NotSendable(
            f"the result of type {type(value).__name__} does not pickle: "
            f"{failure.type_name(error)}: {failure.text_of(error)}"
        ) from error


def encode_failure(failed: failure.Failure) -> bytes:
    """What a job raised, or what became of it."""
    return FAILURE + pickle.dumps(failed, 5)


def decode_outcome(body: bytes) -> tuple[Any, BaseException | None]:
    """The value and None, or None and the error with its remote traceback. Unpickles: not for the service."""
    kind, data = body[:1], body[1:]
    if kind == JSON:
        return json.loads(data), None
    if kind == PICKLE:
        return pickle.loads(data), None
    return None, failure.rebuild(pickle.loads(data))


def error_without_outcome(name: str, state: JobState, note: str) -> JobError:
    """The error for a job that ended before it ran: its outcome is empty."""
    if state is JobState.CANCELLED:
        cancelled = JobCancelled(f"job {name!r} was cancelled: {note or 'no reason was given'}")
        cancelled.reason = note
        return cancelled
    if state is JobState.TIMED_OUT:
        return JobTimeout(f"job {name!r} ran out of time: {note}")
    if state is JobState.LOST:
        lost = WorkerLost(f"job {name!r} was lost: {note}")
        lost.cause = note
        return lost
    return JobError(f"job {name!r} ended as {state.name}: {note}")


def _budget_left(value: Any, left: int) -> int:
    """What remains of so many looks; less than 0: too many, or JSON would not give the value back as it is.

    Only the very types that JSON has will do, and no number that it lacks.
    """
    kind = type(value)
    if kind is str or kind is int or kind is bool or value is None:
        return left - 1
    if kind is float:
        return left - 1 if math.isfinite(value) else -1
    if kind is not list and not (kind is dict and all(type(name) is str for name in value)):
        return -1
    left -= len(value)
    try:
        for item in value if kind is list else value.values():
            if left < 0:
                return -1
            left = _budget_left(item, left)
    except RecursionError:
        return -1
    return left
