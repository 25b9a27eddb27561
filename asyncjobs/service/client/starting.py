"""Start a service where none runs: detached, so that it outlives the program that needed it first."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from asyncjobs.service import private
from asyncjobs.service.access import StateDir
from asyncjobs.service.client.place import Place
from asyncjobs.service.errors import ServiceError, ServiceNotRunning, StateRefused

LOOK = 0.02
"""Seconds between two looks whether it is ready."""
PATIENCE = 20.0
"""Seconds that a start may take at least: an interpreter has to come up, and read what was left behind."""
TAIL = 2000
"""Bytes of what a service printed that are told when it did not start."""
REFUSED, ALREADY_RUNS = 65, 75
"""Exit codes of ``asyncjobs serve``."""

# Starts the service in a session of its own and stays until it has ended, for its exit code; whoever wants it
# detached ends us: then it is nobody's child, and leaves neither a zombie nor a warning behind.
_HELD = """
import subprocess, sys
service = subprocess.Popen(sys.argv[1:], start_new_session=True)
sys.exit(service.wait())
"""


async def ensure_started(place: Place, timeout: float) -> None:
    """A service answers there; it is started if need be. Of many that call at once, one starts it.

    It has this program's environment, folder and module path, runs on when the program ends, and prints to
    ``logs/service.out`` in the state directory.

    Raises:
        StateRefused: the state directory cannot be used.
        ServiceNotRunning: it did not start; says what it printed.
    """
    assert place.folder is not None
    state = StateDir.open(place.folder, create=True)
    loop = asyncio.get_running_loop()
    until = loop.time() + max(timeout, PATIENCE)
    while not answers(state):
        with _turn(state) as is_ours:
            if is_ours and not answers(state):  # it may have come up between the two looks
                await _start(state, until)
                return
        if loop.time() > until:
            raise ServiceNotRunning(f"another program starts the service in {state.path}, and is not ready in time")
        await asyncio.sleep(LOOK)


def answers(state: StateDir) -> bool:
    """Whether somebody takes connections at the service's address."""
    address = state.read_address()
    if address is None:
        return False
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(address.socket)
        except OSError:
            return False
    return True


@contextlib.contextmanager
def _turn(state: StateDir) -> Iterator[bool]:
    """Whether it is ours to start the service; never waits."""
    descriptor = private.open_private(state.path / "run" / "starting", os.O_RDWR | os.O_CREAT)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


async def _start(state: StateDir, until: float) -> None:
    output = state.logs / "service.out"
    loop = asyncio.get_running_loop()
    with _launched(state.path, output) as holder:
        while not answers(state):
            code = holder.poll()
            if code is not None and code != ALREADY_RUNS:
                raise _failed(state.path, output, code)
            if loop.time() > until:
                raise ServiceNotRunning(f"the service in {state.path} has not become ready in time{_printed(output)}")
            await asyncio.sleep(LOOK)


@contextlib.contextmanager
def _launched(folder: Path, output: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "asyncjobs", "serve", "--dir", str(folder)]
    printed = private.open_private(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        holder = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _HELD, *command],
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=printed,
            env={**os.environ, "PYTHONPATH": _module_path()},
            start_new_session=True,  # Ctrl-C is not for a service that comes up
        )
    finally:
        os.close(printed)
    try:
        yield holder
    finally:
        holder.kill()
        holder.wait()


def _module_path() -> str:
    """Where this program finds modules that are not installed, so that its functions can be imported there."""
    installed = (os.path.realpath(sys.prefix), os.path.realpath(sys.base_prefix))
    ours = [os.path.abspath(path) for path in sys.path if os.path.isdir(path or ".")]
    return os.pathsep.join(path for path in ours if not os.path.realpath(path).startswith(installed))


def _failed(folder: Path, output: Path, code: int) -> ServiceError:
    kind: type[ServiceError] = StateRefused if code == REFUSED else ServiceNotRunning
    return kind(f"the service in {folder} did not start (exit code {code}){_printed(output)}")


def _printed(output: Path) -> str:
    text = output.read_bytes()[-TAIL:].decode(errors="replace").strip()
    return f"; it printed:\n{text}" if text else ""
