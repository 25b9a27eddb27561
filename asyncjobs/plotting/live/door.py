"""The ports of the live page, and the tokens without which nobody gets in."""

from __future__ import annotations

import os
import re
import secrets
import socket
import weakref
from contextlib import suppress
from pathlib import Path

from asyncjobs.plotting.private import is_mine
from asyncjobs.plotting.spool import home

_TOKEN = re.compile(r"[A-Za-z0-9_-]{22,}")


def listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections; they wait until somebody serves them.

    Raises:
        OSError: the port cannot be had; names it.
    """
    try:
        return socket.create_server((host, port))
    except OSError as error:
        raise OSError(error.errno, f"the live page cannot have port {port} of {host}: {error.strerror}") from None


def token_of(port: int) -> str:
    """The secret part of the page's address.

    It is a new one for any port, 0. For a port that was asked for it is kept among the user's files: the page comes
    back when the program is started again.
    """
    if port == 0:
        return secrets.token_urlsafe(16)
    path = home().with_name("live-token")
    return _read(path) or _kept(path, secrets.token_urlsafe(16))


def _read(path: Path) -> str | None:
    """None: there is none that only this user could have read and written."""
    try:
        with open(path, encoding="ascii") as file:
            about = os.fstat(file.fileno())
            text = file.read().strip()
    except (OSError, ValueError):
        return None
    is_secret = not hasattr(os, "geteuid") or not about.st_mode & 0o077
    return text if is_mine(about) and is_secret and _TOKEN.fullmatch(text) else None


def _kept(path: Path, token: str) -> str:
    with suppress(OSError):  # then it is for this time only
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(token)
    return token


# --- forked children ----------------------------------------------------------------------

_listeners: weakref.WeakSet[socket.socket] = weakref.WeakSet()


def close_in_children(listener: socket.socket) -> None:
    """A forked child shall not keep the port from being free, nor connections waiting, when we are gone."""
    _listeners.add(listener)


def _begin_anew() -> None:
    """In a forked child. The number stays taken, for the parent's loop, which never runs here, still knows it."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    for listener in tuple(_listeners):
        if listener.fileno() >= 0:
            os.dup2(nothing, listener.fileno(), inheritable=False)
    os.close(nothing)


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_begin_anew)
