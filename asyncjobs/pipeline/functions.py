"""Functions that a pipeline is given: checked, named, and made into stages."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from asyncjobs.flow.elements import whole_number
from asyncjobs.options import check_flag
from asyncjobs.pipeline import faults, stages
from asyncjobs.pipeline.faults import OnError
from asyncjobs.pipeline.turns import WHOLE


def check_lane(lane: object, runner: object) -> None:
    """Whether there can be such a lane; with a runner that is for the runner to say.

    Raises:
        ValueError: there is none.
    """
    if runner is None and lane not in (None, "loop", "thread", "process"):
        raise ValueError(
            f"lane={lane!r} is not allowed; allowed: 'thread', 'process', or with Pipeline(source, runner=runner) "
            "any lane of that runner"
        )


def mapped(
    verb: str,
    fn: Callable[..., Any],
    *,
    concurrency: int = 1,
    lane: str | None = None,
    ordered: bool = True,
    on_error: OnError = "raise",
    gives: Callable[[Any], Any] = stages.value_of,
) -> stages.Map:
    """A stage that calls `fn`.

    Raises:
        TypeError, ValueError: as `Pipeline.map`.
    """
    is_coroutine = _is_coroutine_function(_callable(fn))
    if is_coroutine and lane in ("thread", "process"):
        raise TypeError(f"{_name_of(fn)} is a coroutine function; lane={lane!r} runs plain functions")
    if not is_coroutine and lane == "loop":
        raise _blocking(fn)
    check_flag("ordered", ordered)
    return stages.Map(
        fn,
        f"{verb}({_name_of(fn)})",
        whole_number("concurrency", concurrency, 1),
        lane or ("loop" if is_coroutine else "thread"),
        ordered,
        faults.checked(on_error),
        _takes_rng(fn),
        gives,
    )


def spread(
    verb: str,
    fn: Callable[..., Any],
    *,
    concurrency: int,
    lane: str | None,
    ordered: bool,
    on_error: OnError,
    in_turn: bool = False,
    block: int = WHOLE,
) -> stages.FlatMap:
    """A stage of the items of ``fn(item)``: of one item after the other, or of `concurrency` items in turn.

    Raises:
        TypeError, ValueError: as `Pipeline.interleave`.
    """
    name = f"{verb}({_name_of(_callable(fn))})"
    where = _lane_of_items(fn, lane)
    check_flag("ordered", ordered)
    count = whole_number("concurrency", concurrency, 1)
    cycle = 0 if not ordered else count if in_turn else 1
    length = whole_number("block_length", block, 1)
    return stages.FlatMap(fn, name, count, where, faults.checked(on_error), cycle, length)


def _blocking(fn: Any) -> TypeError:
    return TypeError(f"{_name_of(fn)} is a plain function and would block lane 'loop'; use 'thread' or 'process'")


def _callable(fn: Any) -> Any:
    if not callable(fn):
        raise TypeError(f"{fn!r} is not callable; a stage takes a function of one item")
    return fn


def _unwrapped(fn: Any) -> Any:
    while isinstance(fn, functools.partial):
        fn = fn.func
    return fn


def _is_coroutine_function(fn: Any) -> bool:
    plain = _unwrapped(fn)
    call = getattr(type(plain), "__call__", None)  # noqa: B004 - the method itself is wanted
    return inspect.iscoroutinefunction(plain) or inspect.iscoroutinefunction(call)


def _takes_rng(fn: Any) -> bool:
    try:
        return "rng" in inspect.signature(fn).parameters
    except (TypeError, ValueError):  # a builtin that does not say
        return False


def _name_of(fn: Any) -> str:
    plain = _unwrapped(fn)
    return str(getattr(plain, "__name__", None) or type(plain).__name__)


def _lane_of_items(fn: Any, lane: str | None) -> str:
    """Where the items of ``fn(item)`` are made."""
    if _is_coroutine_function(fn):
        raise TypeError(f"{_name_of(fn)} is a coroutine function; allowed: one that yields, or returns an iterable")
    plain = _unwrapped(fn)
    call = getattr(type(plain), "__call__", None)  # noqa: B004 - the method itself is wanted
    is_async = inspect.isasyncgenfunction(plain) or inspect.isasyncgenfunction(call)
    if is_async and lane not in (None, "loop"):
        raise TypeError(f"{_name_of(fn)} is an async generator function; lane={lane!r} runs plain functions")
    if not is_async and lane == "loop":
        raise _blocking(fn)
    return lane or ("loop" if is_async else "thread")
