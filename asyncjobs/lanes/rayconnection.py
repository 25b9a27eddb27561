"""This program's connection to a Ray cluster, or to one of its own."""

from __future__ import annotations

import logging
import os
import re
import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, Final

from asyncjobs.errors import WorkerStartError
from asyncjobs.futures import fail, resolve

KNOCK: Final = 9.0
"""Seconds in which somebody answers at the address; less than the lane waits, so that the reason is known."""
PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
"""How a client of gRPC begins: with no settings of its own."""
SETTINGS: Final = 4
"""The fourth byte of what its server says first, whatever it is asked."""
OWN_ENVIRONMENT: Final = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}
"""Ray's processes listen on loopback only, as they do on those two systems; and tell nobody that they are there."""


def package() -> Any:
    """The package ``ray``."""
    try:
        with on_loopback():
            import ray
    except ModuleNotFoundError as error:
        hint = "aj.RayLane needs ray: pip install 'asyncjobs-runner[ray]'"
        raise ModuleNotFoundError(hint, name=error.name) from error
    return ray


_turn: Final = threading.Condition()
"""Held by whoever connects or disconnects this program, which Ray connects once."""
_users = 0
"""Lanes that are connected now."""
_owner: Connection | None = None
"""Whose lane has connected; None if the program did so itself, or nobody did."""


class Connection:
    """Held by a thread of its own.

    Ray blocks while it connects, for long if nobody answers. And what it starts on this machine dies with the thread
    that has started it (the kernel's parent-death signal is for threads), so this one stays as long as the connection:
    until the last lane leaves that uses it.
    """

    def __init__(self, address: str | None) -> None:
        self._address = address
        self._leaves = threading.Event()
        self.up: Future[None] = Future()
        self.gone: Future[None] = Future()
        threading.Thread(target=self._run, name="asyncjobs-ray", daemon=True).start()

    def leave(self) -> None:
        """Disconnect; also one that is not connected yet, as soon as it is."""
        self._leaves.set()

    def _run(self) -> None:
        try:
            self._come()
        # Whoever waits for it is to hear of it, whatever it is.
        except BaseException as error:
            fail(self.up, error)
        else:
            resolve(self.up)
            self._leaves.wait()
            self._go()
        resolve(self.gone)

    def _come(self) -> None:
        global _users, _owner
        with _turn:
            if self._leaves.is_set():
                raise WorkerStartError("nobody waits for it any more")
            if _connect(self._address):
                _owner = self
            _users += 1

    def _go(self) -> None:
        global _users, _owner
        with _turn:
            _users -= 1
            _turn.notify_all()
            if _owner is self:
                if _users:
                    resolve(self.gone)
                _turn.wait_for(lambda: not _users)
                with suppress(Exception):
                    package().shutdown()
                _owner = None
                _turn.notify_all()
            else:  # the last one waits for the end
                _turn.wait_for(lambda: _users or _owner is None)


def _connect(address: str | None) -> bool:
    """Whether it was us who connected."""
    ray = package()
    if ray.is_initialized():
        there = ray.get_runtime_context().gcs_address
        if address not in (None, "auto", there):
            raise WorkerStartError("this program is connected to another Ray cluster, and Ray connects it to one only")
        return False
    quiet = {"include_dashboard": False, "log_to_driver": False, "configure_logging": False}
    if address is not None:
        _knock(address)
    # A cluster on loopback knows this machine by that name only.
    is_near = address is None or re.match(r"(ray://)?(127\.|localhost\b)", address)
    with on_loopback() if is_near else nullcontext(), _in_a_thread():
        ray.init(address or "local", **quiet)
    return True


def _knock(address: str) -> None:
    """Raise unless a server of gRPC is there: Ray itself would try for minutes, and cannot be told to stop."""
    found = package()._private.utils.read_ray_address() if address == "auto" else address
    where = re.fullmatch(r"(?:\w+://)?(?:[^/@]*@)?\[?([^/@\]]+)\]?:(\d+)", found or "")
    if where is None:
        return
    with socket.create_connection((where[1], int(where[2])), KNOCK) as connection:
        if os.environ.get("RAY_USE_TLS", "0") in ("0", ""):  # else it waits for a handshake
            connection.sendall(PREFACE)
            said = connection.recv(9, socket.MSG_WAITALL)
            if len(said) < 9 or said[3] != SETTINGS:
                raise WorkerStartError("what answers there is not Ray")


@contextmanager
def _in_a_thread() -> Iterator[None]:
    """Without Ray's warning that it does so: what SIGTERM does is the program's own."""

    def is_news(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("SIGTERM handler is not set")

    logger = logging.getLogger("ray._private.worker")
    logger.addFilter(is_news)
    try:
        yield
    finally:
        logger.removeFilter(is_news)


@contextmanager
def on_loopback() -> Iterator[None]:
    """What Ray starts within it listens on loopback only."""
    before = {name: os.environ.get(name) for name in OWN_ENVIRONMENT}
    os.environ.update(OWN_ENVIRONMENT)
    constants = sys.modules.get("ray._private.ray_constants")
    allowed = getattr(constants, "ENABLE_RAY_CLUSTER", None)
    if allowed is not None:  # it was read when ray was imported
        constants.ENABLE_RAY_CLUSTER = False  # type: ignore[union-attr]
    try:
        yield
    finally:
        if allowed is not None:
            constants.ENABLE_RAY_CLUSTER = allowed  # type: ignore[union-attr]
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
