"""Folders in which plots keep what was accepted until it has been sent."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from asyncjobs.plotting.private import is_mine

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # not on Windows: then no folder is ever taken for an orphan
    fcntl = None

HIDDEN = ".asyncjobs-plots"
"""Where the spools of plots lie whose first file is in the folder around it."""

MOST_TRIES = 100
"""Times that a folder may vanish while we make another in it."""

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
        _write(temporary, value)
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
        _remove(self.folder)
        self.close()


def create(root: Path, about: About) -> Spool:
    """A new folder below `root`.

    Raises:
        OSError: it cannot be made; names it. Nothing is left of it.
    """
    folder = root / about.plot
    try:
        _make(folder)
        return Spool(folder, about, _begun(folder, about))
    except OSError as error:
        _remove(folder)
        # A full disk names no path by itself.
        raise OSError(error.errno, error.strerror, str(folder)) from None


def _make(folder: Path) -> None:
    """Make it and the one around it, which a plot that ends at this moment takes away if it is empty."""
    for tries_left in reversed(range(MOST_TRIES)):
        try:
            folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.mkdir(mode=0o700)  # a target may hold a password
            return
        except (FileNotFoundError, FileExistsError):
            if not tries_left:
                raise


def _begun(folder: Path, about: About) -> int:
    """Write what the plot is; the descriptor that locks it, -1 where there are no locks."""
    unnamed = folder / "plot.tmp"
    _write(unnamed, asdict(about))
    if not is_mine(unnamed.stat()):
        raise PermissionError(errno.EPERM, "its file system does not keep whose a file is; name another with spool=")
    lock = _locked(unnamed)
    # Locked before it has the name under which others look for orphans.
    os.replace(unnamed, folder / _ABOUT)
    return -1 if lock is None else lock


def orphans(root: Path, but: Collection[str] = ()) -> Iterator[Spool]:
    """The spools below `root`, beside the files in it, or `root` itself, whose process is gone; each is ours until it
    is closed.

    Those of such ids are left out: whoever asks has one open, or is about to close it. So is what somebody else could
    have written: there are functions in a spool, and they are called.
    """
    for folder in _folders(root):
        if folder.name in but:
            continue
        lock = _locked(folder / _ABOUT)
        if lock is None:
            continue
        about = _about(folder, lock)
        if about is None:
            os.close(lock)
            continue
        yield Spool(folder, about, lock)


def _folders(root: Path) -> list[Path]:
    if (root / _ABOUT).exists():
        return [root]
    places = f"*/{_ABOUT}", f"{HIDDEN}*/*/{_ABOUT}"
    return sorted(path.parent for place in places for path in root.glob(place))


def _about(folder: Path, descriptor: int) -> About | None:
    """What the plot is; None: its folder is not ours, or it was killed while it was made, and nothing was accepted."""
    try:
        if not (is_mine(folder.stat()) and is_mine(os.fstat(descriptor))):
            return None
        with open(descriptor, encoding="utf-8", closefd=False) as file:
            return About(**json.load(file))
    except (OSError, ValueError, TypeError):
        return None


def beside(file: Path) -> Path:
    """Where the spool of a plot lies whose first file that is: in the folder around it. If that is shared, in one of
    this user's own there; if that is not to be had, among the user's files."""
    folder = file.parent
    try:
        root = folder / (HIDDEN if is_mine(folder.stat()) else f"{HIDDEN}-{os.geteuid()}")
        root.mkdir(mode=0o700, exist_ok=True)
        return root if is_mine(root.stat()) else home()
    except OSError:
        return home()


def home() -> Path:
    """Where the spools of plots lie that have no file on this machine."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "asyncjobs" / "plots"


def new_id() -> str:
    """A name for a plot that no other has, and that sorts by time."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{os.urandom(4).hex()}"


def _write(path: Path, value: Any) -> None:
    """As JSON, in a file of this user's alone."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        json.dump(value, file)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):  # others are in it
        folder.parent.rmdir()


def _locked(path: Path) -> int | None:
    """A descriptor that holds the lock of an existing file until it is closed; None: somebody else does."""
    if fcntl is None:
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO would block us
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
