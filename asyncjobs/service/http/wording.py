"""Say of a value that does not fit which one it is: msgspec tells the place and what is allowed, and not the value."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

LARGEST = 256 * 1024
"""Bytes beyond which a body is not read a second time for the sake of a message."""
SHOWN = 80
"""Characters of a value."""

_ID = "an id of a job: 26 digits and lower-case letters"
WORDS: Mapping[str, str] = MappingProxyType(
    {
        "^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$": (
            "allowed are letters, digits, '.', '_' and '-', at most 100 of them, and a letter or a digit first"
        ),
        "^[0-9a-hjkmnp-tv-z]{26}$": f"allowed is {_ID}",
        "^([0-9a-hjkmnp-tv-z]{26})?$": f"allowed is {_ID}",
        "^[0-9a-hjkmnp-tv-z]{8,26}$": "allowed is an id of a job, or its first 8 and more digits and letters",
    }
)
"""What the patterns of requests mean, for people."""

_BY_PATTERN = re.compile(r"Expected `str` matching regex '(?P<pattern>[^']*)'")
_PLACED = re.compile(r"(?P<what>.*) - at `(?:key in )?\$\.?(?P<place>[^`]*)`", re.DOTALL)
_STEP = re.compile(r"\.?([^.\[\]]+)|\[([0-9]+)\]")
_PLAIN = (str, int, float, bool, type(None))


def said_of(error: Exception, body: bytes, query: Mapping[str, object]) -> str:
    """What the caller is told: ``priority='high' is not allowed: Expected `int`, got `str```."""
    text = _in_words(str(error))
    found = _PLACED.fullmatch(text)
    if found is None or not found["place"] or len(body) > LARGEST:
        return text
    try:
        value = _at(found["place"], msgspec.json.decode(body) if body else query)
    except (msgspec.MsgspecError, RecursionError, UnicodeError, LookupError, TypeError):
        return text
    if not isinstance(value, _PLAIN):
        return text
    shown = repr(value)
    shown = shown if len(shown) <= SHOWN else shown[: SHOWN - 1] + "…"
    return f"{found['place']}={shown} is not allowed: {found['what']}"


def _in_words(text: str) -> str:
    """What is allowed, where msgspec shows the regular expression that says so."""
    found = _BY_PATTERN.search(text)
    words = None if found is None else WORDS.get(found["pattern"])
    return text if found is None or words is None else f"{text[: found.start()]}{words}{text[found.end() :]}"


def _at(place: str, value: Any) -> Any:
    """The value at ``jobs[0].terms.timeout``."""
    end = 0
    while end < len(place):
        step = _STEP.match(place, end)
        if step is None:  # ``[...]``: some key
            raise LookupError(place)
        value = value[step[1]] if step[1] is not None else value[int(step[2])]
        end = step.end()
    return value
