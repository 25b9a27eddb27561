"""The store's statements by name, read from ``queries.sql``.

``-- name: X`` begins statement X, which goes to its semicolon; comment lines belong to the next one.
"""

from __future__ import annotations

import re
from importlib.resources import files
from types import MappingProxyType

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)
_COMMENT = re.compile(r"^\s*--.*$", re.MULTILINE)


def text_of(name: str) -> str:
    """A file of this folder."""
    return files("asyncjobs.service.store").joinpath(name).read_text(encoding="utf-8")


def _statements(text: str) -> dict[str, str]:
    _, *parts = _NAME.split(text)
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return {name: _COMMENT.sub("", body).strip().removesuffix(";") for name, body in pairs}


SQL: MappingProxyType[str, str] = MappingProxyType(_statements(text_of("queries.sql")))
