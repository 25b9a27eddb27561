"""The service's own log: one event, one line of JSON, in a file that is rotated; and the worst of it on stderr."""

from __future__ import annotations

import json
import logging
import os
import sys
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path

from asyncjobs.wire.failure import clip

FILE_BYTES = 8 * 1024 * 1024
FILES = 4
LONGEST = 16 * 1024
"""Characters of one text in a line."""


class Lines(logging.Formatter):
    """A record as one line of JSON; what it carries in `fields` stands beside the text. All is ASCII."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "at": round(record.created, 6),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": clip(record.getMessage(), LONGEST),
        }
        fields = getattr(record, "fields", None)
        if isinstance(fields, dict):
            line.update(fields)
        if record.exc_info:
            line["error"] = clip(self.formatException(record.exc_info), LONGEST)
        return json.dumps(line, default=repr)


class PrivateFile(RotatingFileHandler):
    """Rotates; the file is its owner's alone, and no link is followed."""

    def _open(self) -> TextIOWrapper:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self.baseFilename, flags, 0o600)
        return open(descriptor, "a", encoding="ascii", errors="backslashreplace")

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """A full disk must not fill stderr, nor stop anybody: the line is lost."""


def open_log(path: Path) -> list[logging.Handler]:
    """From now on what the service logs goes to `path`, warnings to stderr besides; for `close_log`.

    Raises:
        OSError: it cannot be opened.
    """
    file = PrivateFile(path, maxBytes=FILE_BYTES, backupCount=FILES)
    file.setFormatter(Lines())
    terminal = logging.StreamHandler(sys.stderr)
    terminal.setLevel(logging.WARNING)
    terminal.setFormatter(_Plain("%(asctime)s %(levelname)s %(message)s"))
    top = logging.getLogger("asyncjobs")
    top.setLevel(logging.INFO)
    top.propagate = False
    for handler in (file, terminal):
        top.addHandler(handler)
    return [file, terminal]


def close_log(handlers: list[logging.Handler]) -> None:
    """Undo `open_log`."""
    top = logging.getLogger("asyncjobs")
    for handler in handlers:
        top.removeHandler(handler)
        handler.close()
    top.propagate = True


class _Plain(logging.Formatter):
    """For a terminal: one line, with the job that it is about, and without what it would obey."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        job = getattr(record, "fields", {}).get("id")
        if job is not None and not record.exc_info:
            text = f"{text} ({job})"
        return "".join(letter if letter.isprintable() or letter == "\n" else ascii(letter)[1:-1] for letter in text)
