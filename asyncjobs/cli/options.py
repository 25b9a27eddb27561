"""The options that the service's commands share, and how their values are read."""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated, Any

import typer

from asyncjobs.cli import exits, plain
from asyncjobs.cli.asking import Desk
from asyncjobs.cli.place import Where
from asyncjobs.service.errors import ServiceError, ServiceFull

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead: what the service answered.")]

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SPAN = re.compile(r"([0-9]+(?:\.[0-9]+)?)([smhd]?)")
_WORDS = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"
_FUNCTION = re.compile(f"{_WORDS}:{_WORDS}")
_LIMIT = re.compile(r"([^=]+)=([0-9]+)")
_RATE = re.compile(r"([^=]+)=([0-9]+)/([0-9]+(?:\.[0-9]+)?[smhd]?)")


@contextmanager
def desk(where: Where) -> Iterator[Desk]:
    """The service to ask; what it refuses is said on standard error and becomes the exit code."""
    with refusals_said():
        yield Desk(where)


@contextmanager
def refusals_said() -> Iterator[None]:
    """Turn an error of the service into a line on standard error and an exit code."""
    try:
        yield
    except ServiceError as error:
        again = f" (try again in {error.retry_after:g} s)" if isinstance(error, ServiceFull) else ""
        typer.echo(f"asyncjobs: {plain.line(str(error), 2000)}{again}", err=True)
        raise typer.Exit(exits.code_of(error)) from None


@contextmanager
def hint(option: str) -> Iterator[None]:
    """Name the option in what is said of its value."""
    try:
        yield
    except typer.BadParameter as error:
        raise typer.BadParameter(error.message, param_hint=option) from None


def function(text: str) -> str:
    """``module:function``; whether it may be run is for the service to say."""
    if _FUNCTION.fullmatch(text) is None:
        module, _, name = text.rpartition(".")
        meant = f"; is {module}:{name} meant?" if _FUNCTION.fullmatch(f"{module}:{name}") else ""
        raise typer.BadParameter(f"{text[:80]!r} is not MODULE:FUNCTION, such as study:fit{meant}")
    return text


def seconds(text: str | float) -> float:
    """``90``, ``90s``, ``1.5m``, ``2h`` or ``1d`` as seconds; a default comes as the number that it is."""
    found = _SPAN.fullmatch(str(text).strip())
    if found is None:
        raise typer.BadParameter(f"{text!r} is no span of time: 90, 90s, 1.5m, 2h or 1d")
    return float(found[1]) * _UNITS[found[2]]


def instant(text: str) -> float:
    """An ISO 8601 date and time as seconds since 1970; local time where it names no zone."""
    try:
        return datetime.fromisoformat(text.strip()).timestamp()
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no date and time such as 2026-11-23T02:00") from None


def json_value(text: str) -> str:
    """JSON, checked and as it was; plain text has to be quoted twice, once for the shell."""
    try:
        json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise typer.BadParameter(
            f"{text[:80]!r} is not JSON; a text needs quotes of its own: {shlex.quote(json.dumps(text))}"
        ) from None
    return text


def json_pair(text: str) -> tuple[str, str]:
    """``name=JSON``."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise typer.BadParameter(f"{text[:80]!r} is not NAME=JSON")
    return name, json_value(value)


def running_limit(text: str) -> tuple[str, int]:
    """``NAME=N``."""
    found = _LIMIT.fullmatch(text)
    if found is None:
        raise typer.BadParameter(f"{text!r} is not NAME=N, such as gpu=1")
    return found[1], int(found[2])


def rate(text: str) -> tuple[str, int, float]:
    """``NAME=N/SPAN``."""
    found = _RATE.fullmatch(text)
    if found is None:
        raise typer.BadParameter(f"{text!r} is not NAME=N/SPAN, such as api=10/1m")
    return found[1], int(found[2]), seconds(found[3])


def now() -> float:
    """Seconds since 1970, as the service writes them down."""
    return time.time()


def _no_constant(text: str) -> Any:
    raise ValueError(text)
