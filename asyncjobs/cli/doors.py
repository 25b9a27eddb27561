"""The two ways to a service: by its directory over its unix socket, by its URL over TCP with a token. `door_of`."""

from __future__ import annotations

import http.client
import ipaddress
import os
import shlex
import socket
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from asyncjobs.cli.place import Where, chosen, option_for
from asyncjobs.service import errors
from asyncjobs.service.access import Address, StateDir

TOKEN = "ASYNCJOBS_TOKEN"
"""The variable that may hold the token: a command line is for all of the machine to read."""


class Door(Protocol):
    """One way in."""

    place: str
    """For people: the directory or the URL."""
    option: str
    """What another command needs to come here; begins with a blank, if it needs anything."""
    headers: dict[str, str]
    """What every request has to show."""

    def find(self) -> None:
        """Look again where it listens: it may have been started anew. Raises `ServiceNotRunning`."""

    def connect(self, patience: float) -> http.client.HTTPConnection:
        """A new connection, whose answers may take so many seconds. Raises `ServiceNotRunning`."""

    def key(self) -> bytes | None:
        """What outcomes are sealed with; None if it is not ours to know."""


def door_of(where: Where) -> Door:
    """The way that a command line means; a URL goes before a directory, which a variable may name.

    Raises:
        BadRequest: a URL, or the file of its token, is none.
        typer.BadParameter: a directory and a name.
        ServiceError: there is no such directory, or none runs in it.
    """
    if where.url is not None:
        return UrlDoor(where.url, where.token_file)
    if where.token_file is not None:
        raise errors.BadRequest("--token-file goes with --url; a service on this machine is found by its directory")
    return SocketDoor(*chosen(where.path, where.name))


class SocketDoor:
    """A service of this machine, by its state directory."""

    def __init__(self, path: Path | None, name: str) -> None:
        self.option: str = option_for(path, name)
        self._start = f"start it with: asyncjobs serve{self.option} --allow 'PACKAGE.*'"
        try:
            self.state: StateDir = StateDir.open(path, name)
        except errors.ServiceNotRunning as error:
            raise errors.ServiceNotRunning(f"{error}; {self._start}") from None
        self.place: str = str(self.state.path)
        self.headers: dict[str, str] = {}
        self.address: Address
        self.find()

    def find(self) -> None:
        address = self.state.read_address()
        if address is None:
            raise errors.ServiceNotRunning(f"no service runs in {self.place}; {self._start}")
        self.address = address

    def connect(self, patience: float) -> http.client.HTTPConnection:
        connection = _UnixConnection(self.address.socket, patience)
        try:
            connection.connect()
        except (FileNotFoundError, ConnectionRefusedError):
            raise errors.ServiceNotRunning(
                f"no service runs in {self.place} (the last one, pid {self.address.pid}, did not end cleanly); "
                f"{self._start}"
            ) from None
        except OSError as error:
            raise errors.ServiceNotRunning(f"nobody answers at {self.address.socket}: {error}") from None
        return connection

    def key(self) -> bytes | None:
        return self.state.key()


class UrlDoor:
    """A service that is reached over TCP."""

    def __init__(self, url: str, token_file: Path | None) -> None:
        token = _token(token_file)
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/") or parts.query:
            raise errors.BadRequest(f"--url={url!r} is not allowed; allowed: http://HOST:PORT or https://HOST:PORT")
        if parts.username is not None:
            raise errors.BadRequest(f"--url has no place for a token: --token-file, or the variable {TOKEN}")
        if parts.scheme == "http" and not _is_here(parts.hostname):
            raise errors.BadRequest(f"--url={url!r} is not allowed: the token would travel in the clear; use https")
        try:
            self._port = parts.port
        except ValueError:
            raise errors.BadRequest(f"--url={url!r} is not allowed: there is no such port") from None
        self._host = parts.hostname
        self._kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self.place = url
        self.option: str = f" --url {url}" + (f" --token-file {shlex.quote(str(token_file))}" if token_file else "")
        self.headers: dict[str, str] = {} if token is None else {"Authorization": f"Bearer {token}"}

    def find(self) -> None:
        """It is where the command line says."""

    def connect(self, patience: float) -> http.client.HTTPConnection:
        connection = self._kind(self._host, self._port, timeout=patience)
        try:
            connection.connect()
        except OSError as error:
            raise errors.ServiceNotRunning(f"nobody answers at {self.place}: {error}") from None
        return connection

    def key(self) -> bytes | None:
        return None


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str, patience: float) -> None:
        super().__init__("localhost", timeout=patience)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _is_here(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _token(file: Path | None) -> str | None:
    if file is None:
        return os.environ.get(TOKEN) or None
    try:
        token = file.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise errors.BadRequest(f"--token-file={str(file)!r} cannot be read: {error}") from None
    if not token or not token.isprintable() or " " in token:
        raise errors.BadRequest(f"--token-file={str(file)!r} holds no token")
    return token
