"""Folders in which plots keep what was accepted until it has been sent."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # not on Windows: then no folder is ever taken for an orphan
    fcntl = None

HIDDEN = ".asyncjobs-plots"
"""Where the spools of plots lie whose first file is in the folder around it."""

_ABOUT = "plot.json"


@dataclass(frozen=True, slots=True)
class About:
    """What a later process must know to send the rest of a plot."""

    plot: str
    title: str
    targets: Sequence[str]
    inline: bool
    max_points: int
    created_at: float


@dataclass(slots=True)
class Taken:
    """How far a target that wants every row has come."""

    rows: int = 0
    """How many it has."""
    places: dict[str, int] = field(default_factory=dict)
    """By the name of each file of points: the row to be read next."""


class Spool:
    """The folder of one plot. While a process has it open, no other takes it for an orphan."""

    def __init__(self, folder: Path, about: About, lock: int) -> None:
        self.folder: Path = folder
        self.about: About = about
        self._lock = lock

    def note_sent(self, target: int, mark: Sequence[int]) -> None:
        """The target of that number has the state of `mark`."""
        self._note(f"sent-{target}", list(mark))

    def sent(self, target: int) -> list[int] | None:
        """The mark of what the target of that number has; None: nothing."""
        marks: list[int] | None = self._noted(f"sent-{target}")
        return marks

    def note_taken(self, target: int, taken: Taken) -> None:
        """The target of that number has these rows."""
        self._note(f"taken-{target}", asdict(taken))

    def taken(self, target: int) -> Taken:
        """The rows that the target of that number has."""
        return Taken(**(self._noted(f"taken-{target}") or {}))

    def _note(self, name: str, value: Any) -> None:
        temporary = self.folder / f"{name}.tmp"
        temporary.write_text(json.dumps(value))
        os.replace(temporary, self.folder / f"{name}.json")

    def _noted(self, name: str) -> Any:
        try:
            return json.loads((self.folder / f"{name}.json").read_text())
        except (OSError, ValueError):
            return None

    def close(self) -> None:
        """Leave it to whoever comes; a second call does nothing."""
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)

    def remove(self) -> None:
        """All of it has been sent."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.close()
        with suppress(OSError):  # others are in it
            self.folder.parent.rmdir()


def create(root: Path, about: About) -> Spool:
    """A new folder below `root`.

    Raises:
        OSError: it cannot be made.
    """
    folder = root / about.plot
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700)  # a target may hold a password
    unnamed = folder / "plot.tmp"
    unnamed.write_text(json.dumps(asdict(about)))
    lock = _locked(unnamed)
    # Locked before it has the name under which others look for orphans.
    os.replace(unnamed, folder / _ABOUT)
    return Spool(folder, about, -1 if lock is None else lock)


def orphans(root: Path, but: str = "") -> Iterator[Spool]:
    """The spools below `root`, or `root` itself, whose process is gone; each is ours until it is closed.

    The one of that id is left out: whoever asks has it open, or is about to close it.
    """
    folders = [root] if (root / _ABOUT).exists() else sorted(path.parent for path in root.glob(f"*/{_ABOUT}"))
    for folder in folders:
        if folder.name == but:
            continue
        lock = _locked(folder / _ABOUT)
        if lock is None:
            continue
        try:
            about = About(**json.loads((folder / _ABOUT).read_text()))
        except (OSError, ValueError, TypeError):  # killed while it was made: nothing was accepted yet
            os.close(lock)
            continue
        yield Spool(folder, about, lock)


def home() -> Path:
    """Where the spools of plots lie that have no file on this machine."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "asyncjobs" / "plots"


def new_id() -> str:
    """A name for a plot that no other has, and that sorts by time."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{os.urandom(4).hex()}"


def _locked(path: Path) -> int | None:
    """A descriptor that holds the lock of an existing file until it is closed; None: somebody else does."""
    if fcntl is None:
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
