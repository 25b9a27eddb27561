"""The store's statements by name, read from ``queries.sql``.

``-- name: X`` begins statement X, which goes to its semicolon; comment lines belong to the next one.
`widened` is a statement for several rows at once.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from types import MappingProxyType

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)
_COMMENT = re.compile(r"^\s*--.*$", re.MULTILINE)
_ROW = re.compile(r"\bVALUES (\([^()]*\))")

MOST_ROWS = 16
"""Of one statement: with more each is hardly cheaper, and each number is a statement to be kept prepared."""


def text_of(name: str) -> str:
    """A file of this folder."""
    return files("asyncjobs.service.store").joinpath(name).read_text(encoding="utf-8")


def _statements(text: str) -> dict[str, str]:
    _, *parts = _NAME.split(text)
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return {name: _COMMENT.sub("", body).strip().removesuffix(";") for name, body in pairs}


SQL: MappingProxyType[str, str] = MappingProxyType(_statements(text_of("queries.sql")))

WIDE: frozenset[str] = frozenset(name for name, statement in SQL.items() if _ROW.search(statement))
"""Statements that take rows after VALUES."""


@cache
def widened(name: str, rows: int) -> str:
    """The statement of that name for so many rows at once."""
    return _ROW.sub(lambda found: f"VALUES {', '.join([found[1]] * rows)}", SQL[name])
