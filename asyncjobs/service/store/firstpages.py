"""Mend the header and the schema of a damaged database with those of a new one.

SQLite reads nothing of a file whose header or schema was hit, though all rows may be sound. In a database that was
made with this version of the schema both are the same as in any other, page numbers and all.

https://www.sqlite.org/fileformat2.html
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_PAGE = 4096
_HEADER = 100
_INTERIOR = 5
_COUNT = slice(28, 32)
"""How many pages the file has; believed if `_CHANGES` and `_VALID_FOR` are the same."""
_CHANGES = slice(24, 28)
_VALID_FOR = slice(92, 96)
_MOST_MISSING = 2**20
"""Pages that a file may have been cut off by: more is no count, but damage."""


def put_header(template: Path, damaged: Path) -> None:
    """The header of `template`, which is a new database of this version."""
    with open(template, "rb") as source, open(damaged, "r+b") as target:
        target.write(source.read(_HEADER))


def put_schema(template: Path, damaged: Path) -> None:
    """Its header, and every page that its schema lies on."""
    content = template.read_bytes()
    with open(damaged, "r+b") as target:
        for number in _schema_pages(content):
            start = (number - 1) * _PAGE
            target.seek(start)
            target.write(content[start : start + _PAGE])


def fit_size(damaged: Path) -> None:
    """Make the file as long as its header says, if it was cut off, and the header say how long it is.

    What was cut off is zeros then, which SQLite takes for damaged pages, one by one.
    """
    size = os.stat(damaged).st_size
    with open(damaged, "r+b") as file:
        header = bytearray(file.read(_HEADER))
        if len(header) < _HEADER:
            return
        told = int.from_bytes(header[_COUNT], "big")
        there = -(-size // _PAGE)
        pages = told if there < told <= there + _MOST_MISSING else there
        file.truncate(pages * _PAGE)
        header[_COUNT] = pages.to_bytes(4, "big")
        header[_VALID_FOR] = header[_CHANGES]
        file.seek(0)
        file.write(header)


def _schema_pages(content: bytes) -> Iterator[int]:
    """The pages of the tree whose root is page 1."""
    waiting = [1]
    while waiting:
        number = waiting.pop()
        yield number
        start = (number - 1) * _PAGE
        head = start + (_HEADER if number == 1 else 0)
        if content[head] != _INTERIOR:
            continue
        cells = int.from_bytes(content[head + 3 : head + 5], "big")
        waiting.append(int.from_bytes(content[head + 8 : head + 12], "big"))
        for cell in range(cells):
            at = head + 12 + 2 * cell
            offset = start + int.from_bytes(content[at : at + 2], "big")
            waiting.append(int.from_bytes(content[offset : offset + 4], "big"))
