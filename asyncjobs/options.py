"""Describe how a job is to be run: `JobOptions`, and the `@job` decorator that carries them.

Checks every value where it is given; decides precedence. Runs nothing.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, NamedTuple, TypedDict, TypeVar, Unpack, cast

from asyncjobs.resources import ALLOWED, Amounts, amounts, are_amounts
from asyncjobs.retry import Retry
from asyncjobs.token import CancelToken

F = TypeVar("F", bound=Callable[..., Any])

LONGEST = 1e9
"""No limit may be longer than this many seconds (some 31 years): timers count in 64 bits."""

ATTRIBUTE = "__asyncjobs_options__"


class Unset:
    """Stands for "not given", so that None can mean "no limit"."""

    def __repr__(self) -> str:
        return "UNSET"

    def __reduce__(self) -> str:
        return "UNSET"


UNSET: Final = Unset()


class OptionFields(TypedDict, total=False):
    """The keywords of `Runner.options` and `@job`."""

    lane: str | None
    name: str | None
    priority: int
    timeout: float | None
    queue_timeout: float | None
    deadline: float | None
    retries: int | Retry
    lost: Literal["fail", "retry"]
    grace: float
    key: str | None
    limiter: Any
    output: Literal["pass", "capture", "drop"]
    snapshot: bool
    max_result: int | None
    token: CancelToken | None
    resources: Mapping[str, float | str] | None


class JobOptions(NamedTuple):
    """How one job, or one kind of job, is to be run.

    Attributes:
        lane: the lane's name; without one coroutine functions go to ``loop``, others to ``thread``.
        name: what logs, statistics and pictures call it; the function's name without one.
        priority: higher runs first; among equals the first submitted.
        timeout: seconds that one attempt may run.
        queue_timeout: seconds that it may wait before its first start.
        deadline: seconds for the whole job, from submit on, retries included.
        retries: a number of further attempts, or a `Retry`.
        lost: what follows when the worker process dies: ``"fail"`` or ``"retry"`` (from the
            same budget as `retries`; at most 3 times where that is 0).
        grace: seconds between asking a job to stop and stopping it.
        key: while a job with this key is alive, submit returns that job.
        limiter: an `anyio.CapacityLimiter` shared by all jobs that name it.
        output: of a process job: ``"pass"`` on what it prints, ``"capture"`` it as
            `Job.output`, or ``"drop"`` it.
        snapshot: copy the arguments at submit, large ones and those of threads too.
        max_result: the most bytes that a process job's pickled result may have.
        token: the job stops when this token is cancelled.
        resources: what it needs, such as ``{"cpu": 2, "gpu": 1, "memory": "2GiB"}``: it starts when
            all of that is free.
    """

    lane: str | Unset | None = UNSET
    name: str | Unset | None = UNSET
    priority: int | Unset = UNSET
    timeout: float | Unset | None = UNSET
    queue_timeout: float | Unset | None = UNSET
    deadline: float | Unset | None = UNSET
    retries: int | Retry | Unset = UNSET
    lost: str | Unset = UNSET
    grace: float | Unset = UNSET
    key: str | Unset | None = UNSET
    limiter: Any = UNSET
    output: str | Unset = UNSET
    snapshot: bool | Unset = UNSET
    max_result: int | Unset | None = UNSET
    token: CancelToken | Unset | None = UNSET
    resources: Mapping[str, float | str] | Unset | None = UNSET

    def over(self, under: JobOptions) -> JobOptions:
        """These options, and those of `under` where these say nothing."""
        given = {name: value for name, value in self.given().items() if value is not UNSET}
        return under._replace(**cast(dict[str, Any], given)) if given else under

    def given(self) -> dict[str, object]:
        """The options that were given, by name."""
        values = ((name, getattr(self, name)) for name in NAMES)
        return {name: value for name, value in values if value is not UNSET}


NAMES: Final = JobOptions._fields


class Settled(NamedTuple):
    """Options with nothing left open, as the engine reads them."""

    lane: str | None
    name: str | None
    priority: int
    timeout: float | None
    queue_timeout: float | None
    deadline: float | None
    retry: Retry
    lost: str
    grace: float
    key: str | None
    limiter: Any
    output: str
    snapshot: bool
    max_result: int | None
    token: CancelToken | None
    resources: Amounts | None

    @property
    def is_plain(self) -> bool:
        """Whether there is nothing to be begun, watched or released around the call."""
        limits = (self.timeout, self.queue_timeout, self.deadline, self.token)
        return all(option is None for option in (*limits, self.key, self.limiter, self.resources))


DEFAULTS: Final = JobOptions(
    lane=None,
    name=None,
    priority=0,
    timeout=None,
    queue_timeout=None,
    deadline=None,
    retries=0,
    lost="fail",
    grace=2.0,
    key=None,
    limiter=None,
    output="pass",
    snapshot=False,
    max_result=None,
    token=None,
    resources=None,
)


def settle(options: JobOptions) -> Settled:
    """Fill what is open with the defaults."""
    values = options.over(DEFAULTS).given()
    retries = values.pop("retries")
    retry = retries if isinstance(retries, Retry) else Retry(cast(int, retries), backoff=0.0)
    needs = values.pop("resources")
    resources = None if needs is None else amounts(needs) or None
    return Settled(retry=retry, resources=resources, **cast(dict[str, Any], values))


def make_options(values: OptionFields) -> JobOptions:
    """Check the values and make a record of them.

    Raises:
        TypeError: an unknown option; names the nearest known one.
        ValueError: a value that is not allowed; names it and what is.
    """
    for name, value in values.items():
        if name not in _CHECKS:
            raise TypeError(_unknown(name))
        if not _CHECKS[name].test(value):
            raise ValueError(f"{name}={value!r} is not allowed; allowed: {_CHECKS[name].allowed}")
    return JobOptions(**values)


def job(**options: Unpack[OptionFields]) -> Callable[[F], F]:
    """Give a function default options; returns the very same function.

    Example::

        @job(lane="process", timeout=60)
        def kernel(x): ...
    """
    record = make_options(options)

    def mark(fn: F) -> F:
        setattr(fn, ATTRIBUTE, record)
        return fn

    return mark


def options_of(fn: object) -> JobOptions | None:
    """The options that `@job` gave to `fn`, or to what a partial or method wraps."""
    for _ in range(8):
        found = getattr(fn, ATTRIBUTE, None)
        if isinstance(found, JobOptions):
            return found
        inner = getattr(fn, "func", None)
        if inner is None:
            return None
        fn = inner
    return None


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, NAMES, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown option {name!r}{hint} Known: {', '.join(NAMES)}"


# --- what is allowed --------------------------------------------------------------------


def is_number(value: object) -> bool:
    """A finite real number; True and False are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def is_count(value: object, at_least: int = 0) -> bool:
    """A whole number from `at_least` on."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= at_least


def check_flag(name: str, value: object) -> None:
    """Raise ValueError, naming the value, unless it is True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name}={value!r} is not allowed; allowed: True or False")


def check_initializer(initializer: object, initargs: object) -> None:
    """Raise TypeError, naming the value, unless it is a function or None, and a list of arguments."""
    if initializer is not None and not callable(initializer):
        raise TypeError(f"initializer={initializer!r} is not allowed; allowed: a function")
    if not isinstance(initargs, (tuple, list)):
        raise TypeError(f"initargs={initargs!r} is not allowed; allowed: a tuple of arguments")


def check_text(name: str, value: object) -> None:
    """Raise ValueError, naming the value, unless it is text that says something."""
    if not (isinstance(value, str) and value):
        raise ValueError(f"{name}={value!r} is not allowed; allowed: text, such as 'loss.html'")


def check_mapping(name: str, value: object) -> None:
    """Raise TypeError, naming the value, unless it is a mapping or None."""
    if not (value is None or isinstance(value, Mapping)):
        raise TypeError(f"{name}={value!r} is not allowed; allowed: None, or a mapping such as a dict")


def check_seconds(name: str, value: object, *, or_none: bool = False) -> None:
    """Raise ValueError, naming the value, unless it is a number of seconds from 0 on."""
    if not (is_number(value) and cast(float, value) >= 0) and not (or_none and value is None):
        raise ValueError(f"{name}={value!r} is not allowed; allowed: {'None, or ' if or_none else ''}seconds from 0")


def check_count(name: str, value: object, at_least: int, *, or_none: bool = False) -> None:
    """Raise ValueError, naming the value, unless it is a whole number from `at_least` on."""
    if not is_count(value, at_least) and not (or_none and value is None):
        allowed = f"{'None, or ' if or_none else ''}a whole number from {at_least}"
        raise ValueError(f"{name}={value!r} is not allowed; allowed: {allowed}")


def _limit(value: object) -> bool:
    return value is None or (is_number(value) and 0 < cast(float, value) <= LONGEST)


def _text(value: object) -> bool:
    return value is None or (isinstance(value, str) and bool(value))


def _limiter(value: object) -> bool:
    return value is None or hasattr(value, "acquire_on_behalf_of_nowait")


class _Check(NamedTuple):
    test: Callable[[Any], bool]
    allowed: str


_LIMIT = _Check(_limit, f"None, or seconds above 0 and at most {LONGEST:.0e}")
_TEXT = _Check(_text, "None, or a string that is not empty")

_CHECKS: Final[dict[str, _Check]] = {
    "lane": _TEXT,
    "name": _TEXT,
    "priority": _Check(lambda value: isinstance(value, int) and not isinstance(value, bool), "a whole number"),
    "timeout": _LIMIT,
    "queue_timeout": _LIMIT,
    "deadline": _LIMIT,
    "retries": _Check(lambda value: isinstance(value, Retry) or is_count(value), "a whole number from 0, or a Retry"),
    "lost": _Check(lambda value: value in ("fail", "retry"), "'fail' or 'retry'"),
    "grace": _Check(lambda value: is_number(value) and 0 <= value <= LONGEST, "seconds from 0"),
    "key": _TEXT,
    "limiter": _Check(_limiter, "None, or an anyio.CapacityLimiter"),
    "output": _Check(lambda value: value in ("pass", "capture", "drop"), "'pass', 'capture' or 'drop'"),
    "snapshot": _Check(lambda value: isinstance(value, bool), "True or False"),
    "max_result": _Check(lambda value: value is None or is_count(value, 1), "None, or a number of bytes from 1"),
    "token": _Check(lambda value: value is None or isinstance(value, CancelToken), "None, or a CancelToken"),
    "resources": _Check(lambda value: value is None or are_amounts(value), ALLOWED),
}
