"""Lay out the state directory, and keep it its owner's alone.

Every file is opened without following links and looked at through its descriptor before it is
used; files have mode 0600 and folders 0700 from birth, whatever the umask.

    DIR/jobs.db            the database, with its -wal and -shm
    DIR/lock               held by the one service that runs (`store.lock`)
    DIR/key                32 bytes that seal calls and outcomes (`envelope`); stays
    DIR/token              what callers over TCP show; new at each start
    DIR/address.json       where the running service listens
    DIR/ballast            room to write down results when the disk is full (`store.ballast`)
    DIR/logs  DIR/results  DIR/figures  DIR/run
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import stat
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from asyncjobs.service import disks, private
from asyncjobs.service.errors import BadRequest, ServiceNotRunning, StateRefused

KEY_BYTES: int = 32
TOKEN_BYTES: int = 32
SOCKET_PATH_BYTES: int = 103 if sys.platform == "darwin" else 107
"""What the system's `sun_path` holds."""

NAME: re.Pattern[str] = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
"""The name of a service: a part of a path."""

_FOLDERS = ("logs", "results", "figures", "run")
_OURS = frozenset({"jobs.db", "key", "lock"})


@dataclass(frozen=True, slots=True)
class Address:
    """Where a running service listens; written when it is ready, removed at a clean end."""

    pid: int
    socket: str
    url: str | None
    """Of the HTTP listener on TCP, if there is one."""
    started_at: float


VARIABLE = "ASYNCJOBS_DIR"
"""May name the state directory, for commands and clients that are told none."""


def default_path(name: str = "default") -> Path:
    """``$XDG_STATE_HOME/asyncjobs/NAME``, else ``~/.local/state/asyncjobs/NAME``.

    Raises:
        BadRequest: the name cannot be a part of a path.
    """
    if NAME.fullmatch(name) is None:
        raise BadRequest(f"a service's name has letters, digits, '_', '-' and '.', at most 64: not {name!r}")
    home = os.environ.get("XDG_STATE_HOME", "")
    base = Path(home) if os.path.isabs(home) else Path.home() / ".local" / "state"
    return base / "asyncjobs" / name


@dataclass(frozen=True, slots=True)
class StateDir:
    """The state directory of one service. Its methods block for as long as the disk does.

    Whoever holds the lock writes; everybody else reads.
    """

    path: Path
    """Absolute, without links."""
    socket: Path
    warnings: tuple[str, ...] = ()
    """What people should know of the place, one line each."""

    @classmethod
    def open(cls, path: Path | str | None = None, name: str = "default", create: bool = False) -> Self:
        """The state directory at `path`, or that of the service `name`; with `create` it is made, and its key with it.

        An empty folder that others may only read becomes 0700.

        Raises:
            ServiceNotRunning: there is none, without `create`.
            StateRefused: it, or what lies in it, is not ours alone, or it lies on a network file system.
            OSError: it cannot be made.
        """
        asked = default_path(name) if path is None else Path(path).expanduser().absolute()
        real = Path(os.path.realpath(asked.parent)) / asked.name  # a link in the last part is refused below
        warnings = disks.examine(real)
        if create:
            _make_parents(real.parent)
        fd = _open(real, create)
        try:
            private.check_parents(real)
            state = cls(real, _socket_path(real, name), warnings)
            if create:
                with private.alone_in(fd):
                    state._furnish()
        finally:
            os.close(fd)
        return state

    @property
    def database(self) -> Path:
        return self.path / "jobs.db"

    @property
    def lock(self) -> Path:
        return self.path / "lock"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def results(self) -> Path:
        return self.path / "results"

    @property
    def figures(self) -> Path:
        return self.path / "figures"

    @property
    def ballast(self) -> Path:
        return self.path / "ballast"

    def key(self) -> bytes:
        """The 32 bytes that calls and outcomes are sealed with.

        Raises:
            StateRefused: there is none, it has another length, or it is not ours alone.
        """
        path = self.path / "key"
        try:
            key = private.read_private(path)
        except FileNotFoundError:
            raise StateRefused(f"{path} is missing: no service has been started here, or it was removed") from None
        if len(key) != KEY_BYTES:
            raise StateRefused(f"{path} has {len(key)} bytes, not {KEY_BYTES}: put it back from a backup")
        return key

    def new_token(self) -> str:
        """Make the token of this start; what callers of the last one held is worth nothing any more.

        Only for who holds the lock.
        """
        token = secrets.token_urlsafe(TOKEN_BYTES)
        private.write_private(self.path / "token", token.encode())
        return token

    def token(self) -> str:
        """The token of the running service.

        Raises:
            ServiceNotRunning: none was ever started here.
        """
        try:
            return private.read_private(self.path / "token").decode("ascii")
        except FileNotFoundError:
            raise ServiceNotRunning(f"no service has been started in {self.path}") from None
        except UnicodeDecodeError:
            raise StateRefused(f"{self.path / 'token'} holds no token: start the service anew") from None

    def write_address(self, address: Address) -> None:
        """Tell where the service listens. Only for who holds the lock."""
        private.write_private(self.path / "address.json", json.dumps(asdict(address)).encode())

    def read_address(self) -> Address | None:
        """Where the service listens, or listened until it was killed; None: it is not ready, or ended cleanly."""
        path = self.path / "address.json"
        try:
            found = json.loads(private.read_private(path))
            return Address(int(found["pid"]), str(found["socket"]), found["url"], float(found["started_at"]))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError):
            raise StateRefused(f"{path} is not what a service writes: remove it, and start the service anew") from None

    def remove_address(self) -> None:
        """The service is about to end. Only for who holds the lock."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path / "address.json")

    def make_socket_folder(self) -> None:
        """The folder of the socket, 0700 and ours; what lies at the socket's place is a socket of ours, or nothing.

        Raises:
            StateRefused: it is not.
        """
        private.make_directory(self.socket.parent)
        try:
            found = os.lstat(self.socket)
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid():
            what = f"{private.kind_of(found.st_mode)} of user {found.st_uid}"
            raise StateRefused(f"{self.socket} is {what}, where our socket belongs: move it away")

    def _furnish(self) -> None:
        for folder in _FOLDERS:
            private.make_directory(self.path / folder)
        for file in ("lock", "token", "address.json", "ballast"):
            private.check_absent_or_file(self.path / file)
        if private.check_absent_or_file(self.path / "key"):
            self.key()
        elif os.path.lexists(self.database):
            raise StateRefused(
                f"{self.path / 'key'} is missing, but {self.database} is there: what its jobs were sealed with is "
                "gone. Put the key back from a backup, or move the database away to begin anew"
            )
        else:
            private.write_private(self.path / "key", secrets.token_bytes(KEY_BYTES), durable=True)


def _open(path: Path, create: bool) -> int:
    try:
        return private.open_directory(path, create=create, tighten=create and _is_empty(path))
    except FileNotFoundError as error:
        if create:
            raise FileNotFoundError(error.errno, "this folder cannot be made", str(path)) from None
        raise ServiceNotRunning(f"no service has been started in {path}") from None


def _is_empty(path: Path) -> bool:
    """Nothing of value to others can lie in it, and no more than ours would be hidden from them."""
    try:
        return not os.listdir(path)
    except (FileNotFoundError, NotADirectoryError):
        return True


def _make_parents(path: Path) -> None:
    """Those that are missing, 0700 as the XDG specification wants it; `Path.mkdir` gives its mode to the last only."""
    if not path.is_dir():
        _make_parents(path.parent)
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, private.DIRECTORY_MODE)


def _socket_path(path: Path, name: str) -> Path:
    """In the user's run-time folder, if there is a trustworthy one, else in the state directory; never in /tmp."""
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:12]
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    found = [path / "run" / "socket"]
    if os.path.isabs(runtime) and _is_private(Path(runtime)):
        found.insert(0, Path(runtime) / "asyncjobs" / f"{name[:32]}-{digest}.sock")
    for candidate in found:
        if len(os.fsencode(candidate)) <= SOCKET_PATH_BYTES:
            return candidate
    raise StateRefused(
        f"{found[-1]} is too long for a socket's path ({SOCKET_PATH_BYTES} bytes): choose a shorter --dir, or set "
        "XDG_RUNTIME_DIR to a folder of yours with mode 0700"
    )


def _is_private(path: Path) -> bool:
    try:
        found = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) == 0o700
