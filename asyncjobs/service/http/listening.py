"""Open the doors: a unix socket that is its owner's from birth, a port of this machine only; and tell who knocks.

Blocks for some system calls; no name is looked up.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import ipaddress
import os
import socket
import stat
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from asyncjobs.service.errors import BadRequest, ServiceRunning, StateRefused
from asyncjobs.service.http.message import Peer

BACKLOG = 128
LOCAL_NAMES: tuple[str, ...] = ("127.0.0.1", "localhost", "[::1]")
"""What a caller of this machine may call it."""

_LONGEST_PATH = 103 if sys.platform == "darwin" else 107
_CONNECT_SECONDS = 1.0


class UnixDoor(NamedTuple):
    """A listening unix socket, and how to know that the file at its path is still its own."""

    socket: socket.socket
    path: Path
    identity: tuple[int, int]

    def close(self) -> None:
        """Close it, and remove its file."""
        self.socket.close()
        self.remove()

    def remove(self) -> None:
        """Remove its file, unless another one lies there by now: nobody can connect any more."""
        with contextlib.suppress(FileNotFoundError):
            if _identity(self.path) == self.identity:
                os.unlink(self.path)


def listen_unix(path: Path) -> UnixDoor:
    """A socket at `path`, 0600 before anybody could connect. What a killed service left there is replaced.

    Raises:
        ServiceRunning: somebody listens there.
        StateRefused: the path is too long, its folder is not ours alone, or something else lies there.
    """
    if len(os.fsencode(path)) > _LONGEST_PATH:
        raise StateRefused(f"{path} is too long for a socket ({_LONGEST_PATH} bytes): choose a shorter folder")
    with _alone_in(path.parent):
        _make_room(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            _bind_private(listener, path)
            listener.listen(BACKLOG)
            listener.setblocking(False)
            return UnixDoor(listener, path, _identity(path))
        except BaseException:
            listener.close()
            raise


def _bind_private(listener: socket.socket, path: Path) -> None:
    """`bind` makes the file with the socket's own mode, on Linux; elsewhere the umask has to do."""
    if sys.platform == "linux":
        os.fchmod(listener.fileno(), 0o600)
        listener.bind(os.fspath(path))
        return
    umask = os.umask(0o177)
    try:
        listener.bind(os.fspath(path))
    finally:
        os.umask(umask)


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """The folder is ours, nobody else may enter it, and no other service looks into it meanwhile."""
    try:
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise StateRefused(f"{folder} cannot be the socket's folder: {error.strerror}") from error
    try:
        found = os.fstat(opened)
        if found.st_uid != os.geteuid():
            raise StateRefused(f"{folder} belongs to user {found.st_uid}: a socket there would be theirs")
        if found.st_mode & 0o077:
            mode = stat.S_IMODE(found.st_mode)
            raise StateRefused(f"{folder} may be entered by others (mode {mode:o}): chmod 700 {folder}")
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)


def _make_room(path: Path) -> None:
    """Remove a socket that nobody listens at; refuse everything else that lies there."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid():
        raise StateRefused(f"{path} is no socket of ours: move it away")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_CONNECT_SECONDS)
        refused = probe.connect_ex(os.fspath(path))
    if refused not in (errno.ECONNREFUSED, errno.ENOENT):
        raise ServiceRunning(f"somebody listens at {path} already")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _identity(path: Path) -> tuple[int, int]:
    found = os.lstat(path)
    return found.st_dev, found.st_ino


def loopback(host: str) -> str | None:
    """The address that `host` means, if it is one of this machine alone; names are not looked up."""
    if host in ("", "localhost"):
        return "127.0.0.1"
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None
    return str(address) if address.is_loopback else None


def listen_tcp(host: str, port: int, *, allow_remote: bool, has_tls: bool) -> socket.socket:
    """A listening TCP socket; port 0 takes a free one.

    Raises:
        BadRequest: the address can be reached from other machines, and that was not asked for, or has no TLS.
        OSError: the port is taken, or the address not of this machine.
    """
    address = loopback(host)
    if address is None and not (allow_remote and has_tls):
        raise BadRequest(
            f"--http {host}:{port} can be reached from other machines. That needs --allow-remote, --tls-cert and "
            f"--tls-key; safer is --http 127.0.0.1:{port or 8600}, and on the other machine "
            f"ssh -L {port or 8600}:127.0.0.1:{port or 8600} (the same number twice)"
        )
    address = address or host.strip("[]")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((address, port))
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def unix_peer(transport: asyncio.BaseTransport) -> Peer | None:
    """Who is at the other end of a unix socket; None if it is not this user, or it cannot be asked now."""
    found = transport.get_extra_info("socket")
    try:
        copy = socket.socket(fileno=os.dup(found.fileno()))  # uvloop's stand-in has no getsockopt for it
    except OSError:  # this was the last descriptor there is
        return None
    try:
        pid, uid = _credentials(copy)
    except OSError:  # it is gone already
        return None
    finally:
        copy.close()
    return Peer(f"pid {pid}", is_local=True) if uid == os.geteuid() else None


def _credentials(connection: socket.socket) -> tuple[int, int]:
    """Process and user, as the kernel noted them at the connect."""
    if sys.platform == "linux":
        size = struct.calcsize("3i")
        pid, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
        return pid, uid
    # struct xucred of macOS and the BSDs: version, user, groups. The process is asked for by an option of its own.
    _, uid = struct.unpack_from("=II", connection.getsockopt(0, 1, 76))
    (pid,) = struct.unpack("=i", connection.getsockopt(0, 2, 4))
    return pid, uid


def tcp_peer(transport: asyncio.BaseTransport) -> Peer | None:
    """The address at the other end."""
    name = transport.get_extra_info("peername")
    return Peer(str(name[0]), is_local=False) if name else None
