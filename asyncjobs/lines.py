"""Text files by lines, as a source of a pipeline: `Lines`. Loads little: workers read with it."""

from __future__ import annotations

import codecs
import gzip
import os
import stat
from collections.abc import Generator
from typing import IO


class Lines:
    """The lines of text files, one file after the other, without their ends.

    Each iteration opens the files anew, one at a time, and closes them, also when it is left early. A file whose name
    ends in ``.gz`` is unpacked. It may travel to other processes, which have to see the same files.

    Args:
        paths: where they are; relative ones are so to the directory of this moment.
        encoding: of the text.

    Raises:
        FileNotFoundError, IsADirectoryError, PermissionError: one of them cannot be read.
        LookupError: there is no such encoding of text.
        TypeError: no path at all, or something else than a path.

    Example::

        Pipeline(Lines("train.txt")).shuffle(10_000)
        Pipeline(["a.txt", "b.txt.gz"]).interleave(Lines)     # a line of each in turn
    """

    def __init__(self, *paths: str | os.PathLike[str], encoding: str = "utf-8") -> None:
        if not paths:
            raise TypeError("Lines() is not allowed; allowed: at least one path")
        if not codecs.lookup(encoding)._is_text_encoding:
            raise LookupError(f"encoding={encoding!r} is not allowed; allowed: one of text, such as 'utf-8'")
        self.paths: tuple[str, ...] = tuple(map(_readable, paths))
        """Absolute."""
        self.encoding: str = encoding

    def __iter__(self) -> Generator[str, None, None]:
        for path in self.paths:
            yield from _lines_of(path, self.encoding)

    def __repr__(self) -> str:
        encoding = "" if self.encoding == "utf-8" else f", encoding={self.encoding!r}"
        return f"Lines({', '.join(map(repr, self.paths))}{encoding})"


def _readable(path: object) -> str:
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"Lines({path!r}) is not allowed; allowed: paths")
    absolute = os.path.abspath(os.fsdecode(path))
    if not stat.S_ISFIFO(os.stat(absolute).st_mode):  # to open one would wait for its writer
        with open(absolute, "rb"):
            return absolute
    return absolute


def _lines_of(path: str, encoding: str) -> Generator[str, None, None]:
    number = 0
    with _opened(path, encoding) as file:
        try:
            for line in file:
                number += 1
                yield line.removesuffix("\n")
        except Exception as error:
            error.add_note(f"in {path}, after line {number}")
            raise


def _opened(path: str, encoding: str) -> IO[str]:
    return gzip.open(path, "rt", encoding=encoding) if path.endswith(".gz") else open(path, encoding=encoding)
