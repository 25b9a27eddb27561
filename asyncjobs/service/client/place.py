"""Where a service is, and what its callers share with it: `Place`.

Everything is read anew each time: a service that was started again has another process, another token, maybe
another port.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from asyncjobs.service.access import VARIABLE, StateDir, default_path
from asyncjobs.service.client.transport import Address
from asyncjobs.service.errors import BadRequest, ServiceNotRunning

_TOKEN = re.compile(r"[!-~]+")
"""What a header may hold: no spaces, no line ends."""


class Place(NamedTuple):
    """How to find a service: by its state directory, or by its address."""

    name: str
    """For people: the directory or the URL."""
    find: Callable[[], Address]
    """Where it listens now; raises `ServiceNotRunning`."""
    key: Callable[[], bytes | None]
    """What its outcomes are sealed with; None if it is not ours to know."""
    folder: Path | None = None


def place_of(folder: str | os.PathLike[str] | None, url: str | None, token: str | None) -> Place:
    """The place that the arguments of `connect` mean.

    Raises:
        BadRequest: they contradict each other.
    """
    if url is None:
        if token is not None:
            raise BadRequest("token= goes with url=; a service on this machine is found, and trusted, by its directory")
        path = _absolute(folder if folder is not None else os.environ.get(VARIABLE) or default_path())
        return Place(str(path), lambda: _address_in(path), lambda: _state_in(path).key(), path)
    address = _parsed(url, token)
    if folder is None:
        return Place(url, lambda: address, lambda: None)
    path = _absolute(folder)
    return Place(url, lambda: address, lambda: StateDir.open(path).key())


def _absolute(folder: str | os.PathLike[str]) -> Path:
    return Path(folder).expanduser().absolute()


def _parsed(url: str, token: str | None) -> Address:
    try:
        parts = urlsplit(url)
        given = parts.port
    except ValueError:  # no number, or none of a port
        parts, given = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise BadRequest(f"url={url!r} is not allowed; allowed: http://HOST:PORT or https://HOST:PORT")
    if token is not None and _TOKEN.fullmatch(token) is None:
        raise BadRequest("this token= is not allowed; allowed: what the file `token` of the state directory holds")
    is_secure = parts.scheme == "https"
    port = given or (443 if is_secure else 80)
    return Address(host=parts.hostname, port=port, is_secure=is_secure, token=token)


def _state_in(folder: Path) -> StateDir:
    try:
        return StateDir.open(folder)
    except ServiceNotRunning as error:
        raise ServiceNotRunning(f"{error}; {_advice(folder)}") from None


def _address_in(folder: Path) -> Address:
    found = _state_in(folder).read_address()
    if found is None:
        raise ServiceNotRunning(f"no service runs in {folder}; {_advice(folder)}")
    return Address(socket=found.socket)


def _advice(folder: Path) -> str:
    return f"start one with `asyncjobs serve --dir {folder}`, or connect(start=True)"
