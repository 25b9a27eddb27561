"""What a service does to its own process: no core dumps, a clean environment, its own place for temporary files,
word to systemd."""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import sys
import tempfile
from multiprocessing import util
from pathlib import Path

from asyncjobs.service.access import SOCKET_PATH_BYTES

_PR_SET_DUMPABLE = 4
_OURS = (
    "ASYNCJOBS_TOKEN",
    "ASYNCJOBS_URL",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PID",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
)
"""Variables that jobs have no business with."""
_LISTENER = "pymp-xxxxxxxx/listener-xxxxxxxx"


def keep_secrets() -> None:
    """No core dump, and no reading of our memory by others of this user: the token is in it."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def take_notify_socket() -> str:
    """Where systemd wants to hear from us, or nothing; our workers do not get to know it."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    for name in _OURS:
        os.environ.pop(name, None)
    return address


def keep_temporary(folder: Path) -> None:
    """The socket of multiprocessing's forkserver lies in `folder`, and what killed services left there is removed.

    Only while no other service uses the folder, and before the first worker starts.
    """
    for left in folder.glob("pymp-*"):
        shutil.rmtree(left, ignore_errors=True)
    if len(os.fsencode(folder / _LISTENER)) > SOCKET_PATH_BYTES:
        return  # it stays in the system's folder, which is swept from time to time
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        util.get_temp_dir()  # which it remembers, and removes at the end
    finally:
        tempfile.tempdir = before


def notify(address: str, state: str) -> None:
    """Tell systemd, as its ``sd_notify`` does: ``READY=1``, ``STOPPING=1``. Nothing without an address."""
    if not address:
        return
    name = "\0" + address[1:] if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.sendto(state.encode(), name)
