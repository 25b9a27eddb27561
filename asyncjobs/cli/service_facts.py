"""Read what there is of a service, running or not, and judge it for `doctor`.

Sends no request: it looks at the files, and whether somebody listens. A database that no service has open, and that
is not large, is read and held against its promises (`checking`).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from asyncjobs.cli.doctor import Finding
from asyncjobs.service.access import StateDir, default_path
from asyncjobs.service.errors import ServiceError, ServiceNotRunning, ServiceRunning
from asyncjobs.service.store import checking, inspection
from asyncjobs.service.store.lock import StateLock

LITTLE_DISK = 200 * 2**20
"""Below this a service is about to refuse jobs."""
_PROBLEMS = 5


@dataclass(frozen=True, slots=True)
class ServiceFacts:
    """What a report of a problem should say about the service; sizes in bytes."""

    path: str
    exists: bool
    """Whether a service was ever started there."""
    refused: str | None = None
    """Why the directory cannot be used."""
    pid: int | None = None
    """Of the service that runs, or that did not end cleanly."""
    answers: bool = False
    """Whether somebody listens at its socket."""
    socket: str | None = None
    url: str | None = None
    database: int | None = None
    """Of the database and its log."""
    results: int | None = None
    """How many large results lie in files."""
    disk_free: int | None = None
    has_ballast: bool = False
    problems: tuple[str, ...] = ()
    """What is wrong with the database, as far as it was read: not while a service runs."""
    warnings: tuple[str, ...] = ()
    """What is to be known of the place."""


def look(path: Path | None, name: str) -> ServiceFacts:
    """Look at the state directory; changes nothing. Milliseconds, or a second or two where the database is read."""
    shown = str(path.expanduser().absolute()) if path is not None else ""
    try:
        shown = shown or str(default_path(name))
        state = StateDir.open(path, name)
        address = state.read_address()
    except ServiceNotRunning:
        return ServiceFacts(shown, exists=False)
    except (ServiceError, OSError) as error:
        return ServiceFacts(shown, exists=True, refused=str(error))
    return ServiceFacts(
        path=str(state.path),
        exists=True,
        pid=address.pid if address is not None else None,
        answers=address is not None and _listens(address.socket),
        socket=address.socket if address is not None else None,
        url=address.url if address is not None else None,
        database=_size_of(state.database),
        results=_files_below(state.results),
        disk_free=_free(state.path),
        has_ballast=state.ballast.exists(),
        problems=_problems(state),
        warnings=state.warnings,
    )


def judge(facts: ServiceFacts) -> Iterator[Finding]:
    """What is not as it should be with the service."""
    if facts.refused is not None:
        yield Finding(
            "warning", f"the service's directory is refused: {facts.refused}", "Do what it says; then start anew."
        )
        return
    for problem in facts.problems:
        yield Finding(
            "warning", f"the database: {problem}", "asyncjobs journal check says more, journal recover helps."
        )
    for warning in facts.warnings:
        yield Finding("warning", warning, "asyncjobs serve --dir on a disk of this machine.")
    if facts.pid is not None and not facts.answers:
        yield Finding(
            "warning",
            f"the service in {facts.path} (pid {facts.pid}) did not end cleanly, or is stuck: nobody listens.",
            "Start it again: what it accepted is on disk. If it does not start: asyncjobs journal check.",
        )
    if facts.disk_free is not None and facts.disk_free < LITTLE_DISK:
        yield Finding(
            "warning",
            f"{facts.disk_free / 2**20:.0f} MiB are free where the service writes; with none it refuses jobs.",
            "Make room, or let fewer results be kept (--keep).",
        )


def describe(facts: ServiceFacts) -> Iterator[tuple[str, str]]:
    """The facts as (label, value) lines."""
    if not facts.exists:
        yield "service", f"none was started in {facts.path}"
        return
    if facts.refused is not None:
        yield "service", f"refused: {facts.path}"
        return
    where = f" and {facts.url}" if facts.url else ""
    runs = f"runs, pid {facts.pid}, at {facts.socket}{where}" if facts.answers else "does not run"
    yield "service", f"{facts.path}: {runs}"
    files = [
        "no database yet" if facts.database is None else f"database {facts.database / 2**20:.1f} MiB",
        f"{facts.results or 0} results in files",
        f"{(facts.disk_free or 0) / 2**30:.1f} GiB free",
        f"ballast {'there' if facts.has_ballast else 'gone'}",
    ]
    yield "its files", ", ".join(files)


def _problems(state: StateDir) -> tuple[str, ...]:
    size = _size_of(state.database)
    if size is None or size > inspection.CHECK_UP_TO:
        return ()
    try:
        with StateLock(state.lock, state.socket):
            inspection.inspect(state.database)
            return tuple(str(violation) for violation in checking.check_database(state.database)[:_PROBLEMS])
    except ServiceRunning:
        return ()
    except (ServiceError, OSError) as error:
        return (str(error),)


def _listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except OSError:
            return False
    return True


def _size_of(database: Path) -> int | None:
    try:
        sizes = [database.stat().st_size]
    except OSError:
        return None
    wal = database.with_name(database.name + "-wal")
    return sum(sizes) + (wal.stat().st_size if wal.exists() else 0)


def _files_below(folder: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(folder))


def _free(path: Path) -> int:
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize
