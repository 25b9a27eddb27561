"""Handler: a backup, which may take longer than any answer may. It says line by line how far it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

from asyncjobs.service.errors import BadRequest, ServiceError
from asyncjobs.service.http import views
from asyncjobs.service.http.message import Stream
from asyncjobs.service.http.route import Call, Desk
from asyncjobs.service.protocol import BackupRequest, BackupView

LINES = "application/x-ndjson"
INTERVAL = 1.0
"""Seconds between two lines."""


async def backup(desk: Desk, call: Call) -> Stream:
    """Copy the state to a new folder on the service's machine; a line of JSON a second says how far it is."""
    asked: BackupRequest = call.body
    path = Path(asked.path)
    if not path.is_absolute() or "\0" in asked.path:
        raise BadRequest("path: an absolute one")
    copy = _Copy(desk, path, asked.logs)
    await copy.begins()
    return Stream(copy.lines(), LINES)


class _Copy:
    """A backup under way; it goes on when its caller goes."""

    def __init__(self, desk: Desk, path: Path, has_logs: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._nbytes = 0
        self._begun = asyncio.Event()
        self._copying = self._loop.create_task(desk.store.backup(path, has_logs=has_logs, tell=self._tell))
        # Nobody may be there any more to hear of an error.
        self._copying.add_done_callback(lambda task: task.cancelled() or task.exception())

    def _tell(self, nbytes: int) -> None:
        # First on the loop, then on the thread that copies, the only one that counts.
        self._nbytes += nbytes
        if not self._begun.is_set():
            self._begun.set()

    async def begins(self) -> None:
        """Until it does; raises what stands against it."""
        waiting = self._loop.create_task(self._begun.wait())
        await asyncio.wait((self._copying, waiting), return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if not self._begun.is_set():
            try:
                await self._copying
            except OSError as error:
                if isinstance(error, ServiceError):
                    raise
                raise BadRequest(f"path: {error.strerror or error}") from None

    async def lines(self) -> AsyncGenerator[bytes, None]:
        """How far it is, and what became of it."""
        while not self._copying.done():
            yield _line(BackupView(self._nbytes))
            await asyncio.wait((self._copying,), timeout=INTERVAL)
        error = self._copying.exception()
        if error is None:
            yield _line(BackupView(self._nbytes, done=True))
        else:
            kind = type(error).__name__ if isinstance(error, ServiceError) else "StorageBroken"
            yield _line(BackupView(self._nbytes, error=kind, message=str(error)))


def _line(view: BackupView) -> bytes:
    return views.encode(view) + b"\n"
