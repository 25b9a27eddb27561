"""Make of a function and its arguments what is sent: `Plan`, decided once per function, and `draft`."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

import msgspec

from asyncjobs.errors import NotSendable
from asyncjobs.service import envelope, outcome
from asyncjobs.service.client.options import ServiceOptions, Settled, name_of, settle
from asyncjobs.service.ids import new_id
from asyncjobs.service.protocol import LARGEST_CALL, PYTHON, JobRequest
from asyncjobs.wire import codec


class Plan(NamedTuple):
    """What is decided for one function with one set of options."""

    settled: Settled
    function: str
    """``module:qualname``; empty if it travels by value."""


def plan_for(fn: Callable[..., Any], options: ServiceOptions) -> Plan:
    """Decide how calls of `fn` travel.

    Raises:
        TypeError: it is no function that a service can run.
    """
    if not callable(fn):
        raise TypeError(f"{fn!r} is not callable; submit takes a function and its arguments")
    plain = fn
    while isinstance(plain, partial):
        plain = plain.func
    if inspect.isgeneratorfunction(plain) or inspect.isasyncgenfunction(plain):
        raise TypeError(f"{plain.__qualname__} is a generator function; a job returns one value")
    by_name = codec.importable(fn)
    is_plain = by_name is not None and by_name[1].count(".") <= 1 and "__" not in ":".join(by_name)
    return Plan(settle(options, fn), ":".join(by_name) if by_name is not None and is_plain else "")


def draft(
    fn: Callable[..., Any], plan: Plan, args: tuple[Any, ...], kwargs: dict[str, Any], key: bytes | None
) -> JobRequest:
    """One call, ready to be sent; the arguments are copied here and now.

    Args:
        key: the service's, to seal what is pickled; without one the call goes as JSON.

    Raises:
        NotSendable: an argument, or the function, cannot travel; names it.
    """
    job, settled = new_id(), plan.settled
    after = settled.after
    payload, plain = b"", dict[str, Any]()
    if key is None:
        plain = _plain(fn, plan, args, kwargs)  # whose results are among them, the service sees for itself
    else:
        body, named = _encoded(fn, plan, args, kwargs)
        if len(body) > LARGEST_CALL:
            raise NotSendable(
                f"the call of {name_of(fn)!r} has {len(body):,} bytes, and the service takes {LARGEST_CALL:,}: "
                "let the job read a file, or pass the job that makes the value in its place"
            )
        after = after if not named else tuple(dict.fromkeys((*after, *named)))
        payload = envelope.seal(key, job, body)
    return JobRequest(
        id=job,
        function=plan.function,
        payload=payload,
        name=settled.name,
        delay=settled.delay,
        after=after,
        terms=settled.terms_now(),
        **plain,
        **settled.fields,
    )


def check_python(fn: Callable[..., Any], theirs: str) -> None:
    """Refuse to send a function by value to another version of Python, which would crash.

    Raises:
        NotSendable: it is another one.
    """
    if theirs not in ("", PYTHON):
        raise NotSendable(
            f"the function {getattr(fn, '__qualname__', fn)!r} cannot be sent to the service, which runs Python "
            f"{theirs}, and this program {PYTHON}: run both with the same, or put it into a module that the service "
            "allows (--allow)"
        )


def by_value(fn: Callable[..., Any], request: JobRequest, key: bytes) -> JobRequest:
    """The same call, with the function inside its seal: for a service that does not run it by name.

    The arguments are those of the submit, whatever has become of them since.
    """
    body = envelope.open(key, request.id, request.payload)
    _, args, kwargs = outcome.decode_call(body, outcome.ResultOf)
    body, _ = outcome.encode_call(fn, args, kwargs)
    return msgspec.structs.replace(request, function="", payload=envelope.seal(key, request.id, body))


def _encoded(
    fn: Callable[..., Any], plan: Plan, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[bytes, tuple[str, ...]]:
    try:
        return outcome.encode_call(None if plan.function else fn, args, kwargs)
    except NotSendable as error:
        if not error.argument:
            raise
        what = error.argument
        if not plan.function and what.startswith("the arguments"):  # none of them alone is to blame
            what = f"the function {getattr(fn, '__qualname__', fn)!r}"
        problem = NotSendable(
            f"{what} cannot be sent to the service: it does not pickle ({error.__cause__}). Make it inside the job"
        )
        problem.argument = what
        raise problem from error.__cause__


def _plain(fn: Callable[..., Any], plan: Plan, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments as JSON, for a service whose key we do not have."""
    if not plan.function:
        raise NotSendable(
            f"{getattr(fn, '__qualname__', fn)!r} has no name that the service could import it by, and only who has "
            "the service's key may send functions: put it into a module, or connect(dir=) on the service's machine"
        )
    named = (*((f"argument {at}", value) for at, value in enumerate(args, 1)), *kwargs.items())
    values = [_plain_value(what, value) for what, value in named]
    return {"args": values[: len(args)], "kwargs": dict(zip(kwargs, values[len(args) :], strict=True))}


def _plain_value(what: str, value: object) -> object:
    """The value as JSON says it; a job as what stands for its result.

    Raises:
        NotSendable: JSON would not give it back as it is.
    """
    kind = type(value)
    if isinstance(value, outcome.StandsForResult):
        return {outcome.RESULT_KEY: value.id}
    if kind is list:
        return [_plain_value(what, item) for item in cast(list[object], value)]
    if kind is dict and not outcome.is_reference(members := cast(dict[Any, object], value)):
        if all(type(name) is str for name in members):
            return {name: _plain_value(what, item) for name, item in members.items()}
    elif kind in (str, int, bool, type(None)) or (kind is float and math.isfinite(cast(float, value))):
        return value
    problem = NotSendable(f"{what} is not what JSON can say exactly; connect(dir=) sends any that pickles")
    problem.argument = what
    raise problem
