"""Say how a job of the service is to be run: `ServiceOptions`, checked where they are given.

Decides precedence, and makes of them what travels. Sends nothing.
"""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple, Protocol, TypedDict, cast, runtime_checkable
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from asyncjobs.options import LONGEST, UNSET, Unset, is_count, is_number, options_of
from asyncjobs.retry import ExceptionTypes, Retry
from asyncjobs.service.protocol import LATEST, LONGEST_LABEL, LONGEST_LINE, LimitTerms, RetryTerms, Terms
from asyncjobs.service.records import ID, Limit


@runtime_checkable
class HasId(Protocol):
    """A job of the service, as far as another waits for it."""

    @property
    def id(self) -> str: ...


class ServiceOptionFields(TypedDict, total=False):
    """The keywords of `ServiceClient.options`."""

    name: str | None
    lane: str
    priority: int
    timeout: float | None
    deadline: float | None
    retries: int | Retry
    grace: float
    key: str | None
    delay: float | None
    at: datetime | float | None
    after: HasId | str | Iterable[HasId | str]
    limit: Limit | None
    at_most_once: bool
    max_crashes: int
    keep: float | None
    tags: str | Iterable[str]
    max_result: int | None
    zone: str


class ServiceOptions(NamedTuple):
    """How one job of the service, or one kind of job, is to be run.

    Attributes:
        name: what lists and logs call it; the function's name without one.
        lane: which queue of the service it waits in.
        priority: higher runs first; among equals the first submitted.
        timeout: seconds that one attempt may run.
        deadline: seconds for the whole job, from submit on, waiting and retries included.
        retries: a number of further attempts, or a `Retry`; its exception classes travel by name.
        grace: seconds between asking it to stop and stopping it.
        key: idempotency key: as long as the service remembers a job with it, the same call with the same key is
            that job, and another call is refused (`KeyConflict`).
        delay: seconds before it may start.
        at: the instant before which it does not start: a datetime (one without a zone is local time), or seconds
            since 1970.
        after: jobs, or their ids, that have to succeed first; if one does not, neither does this one.
        limit: `Limit`: how many jobs of one name run at once, how many start in a span of time.
        at_most_once: never start it again when what became of a start is unknown; it ends as LOST then.
        max_crashes: how many times it may be started again after the machinery under it died.
        keep: seconds that its outcome is kept after its end; the service's own rule if not given.
        tags: words to find it by.
        max_result: the most bytes that its result may have.
        zone: time zone of `schedule`, such as ``"Europe/Berlin"``.
    """

    name: str | Unset | None = UNSET
    lane: str | Unset = UNSET
    priority: int | Unset = UNSET
    timeout: float | Unset | None = UNSET
    deadline: float | Unset | None = UNSET
    retries: int | Retry | Unset = UNSET
    grace: float | Unset = UNSET
    key: str | Unset | None = UNSET
    delay: float | Unset | None = UNSET
    at: datetime | float | Unset | None = UNSET
    after: tuple[str, ...] | Unset = UNSET
    limit: Limit | Unset | None = UNSET
    at_most_once: bool | Unset = UNSET
    max_crashes: int | Unset = UNSET
    keep: float | Unset | None = UNSET
    tags: tuple[str, ...] | Unset = UNSET
    max_result: int | Unset | None = UNSET
    zone: str | Unset = UNSET

    def over(self, under: ServiceOptions) -> ServiceOptions:
        """These options, and those of `under` where these say nothing."""
        return under._replace(**self.given())

    def given(self) -> dict[str, Any]:
        """The options that were given, by name."""
        pairs = zip(self._fields, self, strict=True)
        return {name: value for name, value in pairs if value is not UNSET}


def make_service_options(values: ServiceOptionFields) -> ServiceOptions:
    """Check the values and make a record of them.

    Raises:
        TypeError: an unknown option; names the nearest known one.
        ValueError: a value that is not allowed; names it and what is.
    """
    checked: dict[str, Any] = {}
    for name, value in values.items():
        if name not in _CHECKS:
            near = difflib.get_close_matches(name, _CHECKS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise TypeError(f"unknown option {name!r}{hint} Known: {', '.join(_CHECKS)}")
        made = _MADE[name](value) if name in _MADE else value
        if not _CHECKS[name].test(made):
            raise ValueError(f"{name}={value!r} is not allowed; allowed: {_CHECKS[name].allowed}")
        checked[name] = made
    if checked.get("delay") is not None and checked.get("at") is not None:
        raise ValueError("delay= and at= both say when it may start; give one of them")
    if isinstance(checked.get("retries"), Retry):
        retry_terms(checked["retries"])
    return ServiceOptions(**checked)


class Settled(NamedTuple):
    """Options with nothing left open, as a request says them."""

    name: str
    fields: Mapping[str, Any]
    """Of `protocol.JobRequest`, without what is counted from the moment of the submit."""
    delay: float | None
    deadline: float | None
    terms: Terms
    after: tuple[str, ...]
    zone: str

    def terms_now(self) -> Terms:
        """The terms of a job that is submitted at this moment."""
        if self.deadline is None:
            return self.terms
        terms = self.terms
        return Terms(terms.timeout, time.time() + self.deadline, terms.grace, terms.retry, terms.max_result)


_FROM_JOB: Final = ("name", "priority", "timeout", "deadline", "retries", "grace", "max_result")
"""What of the `@job` decorator holds in the service, too; the rest is about a runner."""


def settle(options: ServiceOptions, fn: Callable[..., Any]) -> Settled:
    """Fill what is open from the function's `@job`, and then with the defaults."""
    own = options_of(fn)
    if own is not None:
        options = options.over(ServiceOptions(**{name: getattr(own, name) for name in _FROM_JOB}))
    values = options.given()
    name = str(values.pop("name", None) or name_of(fn))
    at = values.pop("at", None)
    limit = values.pop("limit", None)
    terms = Terms(
        timeout=values.pop("timeout", None),
        grace=values.pop("grace", 2.0),
        retry=retry_terms(values.pop("retries", 0)),
        max_result=values.pop("max_result", None),
    )
    delay, deadline = values.pop("delay", None), values.pop("deadline", None)
    after, zone = values.pop("after", ()), values.pop("zone", "UTC")
    if at is not None:
        values["at"] = at.timestamp() if isinstance(at, datetime) else float(at)
    if limit is not None:
        values["limit"] = LimitTerms(*limit)
    return Settled(name, values, delay, deadline, terms, after, zone)


def name_of(fn: Any) -> str:
    """What a job is called after its function."""
    while not hasattr(fn, "__name__") and hasattr(fn, "func"):
        fn = fn.func
    return str(getattr(fn, "__name__", None) or type(fn).__name__)


# --- retries ----------------------------------------------------------------------------


def retry_terms(retries: int | Retry) -> RetryTerms:
    """`retries` as it travels: without functions, and with the names of exception classes.

    Raises:
        ValueError: the backoff is a function: the service would have to load it, which it never does.
    """
    if not isinstance(retries, Retry):
        return RetryTerms(max=retries, backoff=0.0)
    if callable(retries.backoff):
        raise ValueError(
            "Retry.backoff is a function, which the service does not run; allowed: seconds before the second attempt, "
            "which are doubled before each later one"
        )
    return RetryTerms(retries.max, retries.backoff, retries.jitter, _names(retries.on), _names(retries.give_up_on))


def _names(types: ExceptionTypes) -> tuple[str, ...]:
    members = types if isinstance(types, tuple) else (types,)
    return tuple(f"{member.__module__}.{member.__qualname__}" for member in members)


# --- what is allowed --------------------------------------------------------------------


def _ids(value: object) -> object:
    """Ids of jobs that were given as jobs, as ids, alone or in a list."""
    members = [value] if isinstance(value, (HasId, str)) or not isinstance(value, Iterable) else list(value)
    return tuple(member.id if isinstance(member, HasId) else member for member in members)


def _words(value: object) -> object:
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, Iterable) else value


_MADE: Final[dict[str, Callable[[object], object]]] = {"after": _ids, "tags": _words}


class _Check(NamedTuple):
    test: Callable[[Any], bool]
    allowed: str


def _is_zone(value: object) -> bool:
    try:
        return isinstance(value, str) and bool(ZoneInfo(value))
    except (ZoneInfoNotFoundError, ValueError):
        return False


def _is_limit(value: object) -> bool:
    if not (isinstance(value, Limit) and _is_text(value.name, LONGEST_LABEL)):
        return False
    counts = all(count is None or is_count(count, 1) for count in (value.running, value.starts))
    return counts and is_number(value.seconds) and value.seconds > 0


def _is_at_least(value: object, least: float) -> bool:
    return is_number(value) and least <= cast(float, value) <= LONGEST


def _is_text(value: object, most: int) -> bool:
    return isinstance(value, str) and 0 < len(value) <= most


def _is_instant(value: object) -> bool:
    if isinstance(value, datetime):
        try:
            value = value.timestamp()
        except (OverflowError, ValueError, OSError):  # the first and the last years have none
            return False
    return is_number(value) and 0 <= cast(float, value) <= LATEST


_FLAG = _Check(lambda value: isinstance(value, bool), "True or False")
_SPAN = _Check(
    lambda value: value is None or (_is_at_least(value, 0) and value > 0),
    f"None, or seconds above 0 and at most {LONGEST:.0e}",
)
_FROM_0 = f"seconds from 0 to {LONGEST:.0e}"
_SPAN_FROM_0 = _Check(lambda value: value is None or _is_at_least(value, 0), f"None, or {_FROM_0}")

_CHECKS: Final[dict[str, _Check]] = {
    "name": _Check(
        lambda value: value is None or _is_text(value, LONGEST_LINE),
        f"None, or text of at most {LONGEST_LINE} characters",
    ),
    "lane": _Check(lambda value: _is_text(value, LONGEST_LABEL), "a lane's name"),
    "priority": _Check(lambda value: is_count(value, -(2**31)) and value < 2**31, "a whole number of 32 bits"),
    "timeout": _SPAN,
    "deadline": _SPAN,
    "retries": _Check(lambda value: isinstance(value, Retry) or is_count(value), "a whole number from 0, or a Retry"),
    "grace": _Check(lambda value: _is_at_least(value, 0), _FROM_0),
    "key": _Check(
        lambda value: value is None or _is_text(value, LONGEST_LABEL),
        f"None, or text of at most {LONGEST_LABEL} characters",
    ),
    "delay": _SPAN_FROM_0,
    "at": _Check(
        lambda value: value is None or _is_instant(value),
        f"None, or a datetime or seconds since 1970, up to {LATEST:.0e}",
    ),
    "after": _Check(
        lambda ids: all(isinstance(one, str) and ID.fullmatch(one) for one in ids), "jobs of the service, or their ids"
    ),
    "limit": _Check(
        lambda value: value is None or _is_limit(value),
        'None, or a Limit such as Limit("gpu", running=1) or Limit("api", starts=10, seconds=60)',
    ),
    "at_most_once": _FLAG,
    "max_crashes": _Check(is_count, "a whole number from 0"),
    "keep": _SPAN_FROM_0,
    "tags": _Check(
        lambda words: (
            isinstance(words, tuple) and len(words) <= 100 and all(_is_text(one, LONGEST_LABEL) for one in words)
        ),
        f"at most 100 words of at most {LONGEST_LABEL} characters",
    ),
    "max_result": _Check(lambda value: value is None or is_count(value, 1), "None, or a number of bytes from 1"),
    "zone": _Check(_is_zone, "a time zone's name, such as 'Europe/Berlin'"),
}
