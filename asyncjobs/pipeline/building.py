"""From what a verb of `Pipeline` was asked for to a stage: `map_stage` and `spread_stage`. All bad input ends here."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

from asyncjobs import intake
from asyncjobs.flow.elements import whole_number
from asyncjobs.options import check_flag, is_number
from asyncjobs.pipeline import faults
from asyncjobs.pipeline.faults import OnError
from asyncjobs.pipeline.stages import FlatMap, Map
from asyncjobs.pipeline.steps import Step
from asyncjobs.pipeline.workshop import Work
from asyncjobs.runner import Runner


def map_stage(
    verb: str,
    fn: Callable[..., Any],
    concurrency: int | str,
    lane: str | None,
    ordered: bool,
    timeout: float | None,
    on_error: OnError,
    runner: Runner | None,
) -> Map:
    """For `map`, `filter`, and what makes a batch of a list.

    Raises:
        TypeError, ValueError: an argument is not allowed.
    """
    is_coroutine = _is_coroutine_function(_callable(fn))
    where = _lane_for(fn, "a coroutine" if is_coroutine else "", lane, runner)
    check_flag("ordered", ordered)
    _check_timeout(timeout, where)
    judged = faults.checked(on_error)
    step = Step(fn, f"{verb}({_name_of(fn)})", verb == "filter", judged, _takes_rng(fn), is_coroutine)
    if concurrency == "auto":
        return Map((step,), 1, where, ordered, timeout, is_tuned=True)
    return Map((step,), _at_once(concurrency), where, ordered, timeout)


def spread_stage(
    verb: str,
    fn: Callable[..., Any],
    concurrency: int,
    lane: str | None,
    turns: tuple[int, int],
    on_error: OnError,
    runner: Runner | None,
) -> FlatMap:
    """For `flat_map` and `interleave`; `turns` are the length of the cycle and of a block.

    Raises:
        TypeError, ValueError: an argument is not allowed.
    """
    if _is_coroutine_function(_callable(fn)):
        raise TypeError(f"{_name_of(fn)} is a coroutine function; allowed: one that yields, or returns an iterable")
    where = _lane_for(fn, "an async generator" if _is_async_generator_function(fn) else "", lane, runner)
    at_once = whole_number("concurrency", concurrency, 1)
    return FlatMap(fn, f"{verb}({_name_of(fn)})", at_once, where, faults.checked(on_error), _takes_rng(fn), *turns)


def checked_runner(runner: object) -> Runner | None:
    """`runner` itself.

    Raises:
        TypeError: it is none.
    """
    if runner is None or isinstance(runner, Runner):
        return runner
    raise TypeError(
        f"runner={runner!r} is not allowed; allowed: None, or the Runner of this event loop (for a plain `for` none is "
        "needed: process stages have workers of their own)"
    )


def check_lane(lane: str | None, runner: Runner | None) -> None:
    """Raise unless a stage can have that lane."""
    if lane in (None, "loop", "thread"):
        return
    if runner is not None:
        intake.check_lane(lane, runner._lanes)
    elif lane != "process":
        raise ValueError(
            f"lane={lane!r} is not allowed; allowed: 'thread', 'process', or with Pipeline(source, runner=runner) "
            "any lane of that runner"
        )


def check_lanes(work: Iterable[Work], runner: Runner | None) -> None:
    """Raise unless each of these stages, made for a runner of their own perhaps, has its lane here too."""
    for stage in work:
        try:
            check_lane(stage.lane, runner)
        except ValueError as error:
            raise ValueError(f"{stage.name}: {error}") from None


def _lane_for(fn: Callable[..., Any], kind: str, lane: str | None, runner: Runner | None) -> str:
    """Where `fn` is called; of a `kind` that lives on the loop, or of none."""
    check_lane(lane, runner)
    if kind and lane not in (None, "loop"):
        raise TypeError(f"{_name_of(fn)} is {kind} function; lane={lane!r} runs plain functions")
    if not kind and lane == "loop":
        raise TypeError(f"{_name_of(fn)} is a plain function and would block lane 'loop'; use 'thread' or 'process'")
    return lane or ("loop" if kind else "thread")


def _check_timeout(timeout: float | None, lane: str) -> None:
    if timeout is not None and not (is_number(timeout) and timeout > 0):
        raise ValueError(f"timeout={timeout!r} is not allowed; allowed: None, or seconds above 0")
    if timeout is not None and lane == "thread":
        raise ValueError(
            f"timeout={timeout!r} is not allowed for lane 'thread', whose calls cannot be stopped; allowed: None"
        )


def _at_once(concurrency: object) -> int:
    if isinstance(concurrency, str):
        raise ValueError(f"concurrency={concurrency!r} is not allowed; allowed: a whole number from 1, or 'auto'")
    return whole_number("concurrency", concurrency, 1)


# --- what a function is -----------------------------------------------------------------


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


def _is_async_generator_function(fn: Any) -> bool:
    plain = _unwrapped(fn)
    call = getattr(type(plain), "__call__", None)  # noqa: B004 - the method itself is wanted
    return inspect.isasyncgenfunction(plain) or inspect.isasyncgenfunction(call)


def _takes_rng(fn: Any) -> bool:
    if isinstance(fn, functools.partial) and "rng" in fn.keywords:  # it has one already
        return False
    try:
        parameters = inspect.signature(fn).parameters
    except (TypeError, ValueError):  # a builtin that does not say
        return False
    if next(iter(parameters), "") == "rng" and parameters["rng"].kind is not inspect.Parameter.KEYWORD_ONLY:
        raise TypeError(f"{_name_of(fn)}(rng) is not allowed: its first parameter gets the item; allowed: (item, rng)")
    return "rng" in parameters


def _name_of(fn: Any) -> str:
    plain = _unwrapped(fn)
    return str(getattr(plain, "__name__", None) or type(plain).__name__)
