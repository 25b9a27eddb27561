"""Handlers: what jobs leave in files. Their logs, as they grow, and their figures.

Names are looked up in the folder's own list, never joined from what a caller wrote; links are not followed.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncGenerator, Awaitable
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from asyncjobs.service.errors import NoSuchJob
from asyncjobs.service.http import views
from asyncjobs.service.http.message import Answer, Stream
from asyncjobs.service.http.route import Call, Desk
from asyncjobs.service.protocol import FigureView
from asyncjobs.service.work import joblog

TEXT = "text/plain; charset=utf-8"
_PIECE = 256 * 1024
_MOST = 256 * 1024 * 1024


class LogQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """From which byte on, and whether to go on as it grows, until the job has ended."""

    offset: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    follow: bool = False


async def log(desk: Desk, call: Call) -> Answer | Stream:
    """What a job has printed. X-Offset: where its first byte stands, later than asked for if that is gone."""
    job = call.parameters["id"]
    asked: LogQuery = call.query
    await desk.store.row(job)
    folder = desk.service.folder / "logs" / "jobs"
    first = await asyncio.to_thread(joblog.read, folder, job, asked.offset, _PIECE)
    headers = (("X-Offset", str(first.offset)),)
    return Stream(_log(desk, folder, job, first, follows=asked.follow), TEXT, headers)


async def _log(
    desk: Desk, folder: Path, job: str, first: joblog.Piece, *, follows: bool
) -> AsyncGenerator[bytes, None]:
    with desk.feeds.events(job) as feed, desk.engine.news.subscribe(job, feed.bell) as news:
        piece, offset = first, first.offset

        def read(start: int) -> Awaitable[joblog.Piece]:
            return asyncio.to_thread(joblog.read, folder, job, start, _PIECE)

        while True:
            # Looked at before the file is: what was printed before the end is there once the end is known.
            has_ended = not follows or feed.is_over or (await desk.store.row(job)).state.is_final
            while piece.data or (piece := await read(offset)).data:
                if piece.offset > offset:
                    yield b"\n[asyncjobs: %d bytes of this log are gone]\n" % (piece.offset - offset)
                yield piece.data
                offset = piece.offset + len(piece.data)
                piece = joblog.Piece(offset, b"")
            if has_ended:
                return
            await feed.bell.wait()
            feed.take()
            news.take()


async def list_figures(desk: Desk, call: Call) -> Answer:
    """The files of figures that a job has made."""
    found = await asyncio.to_thread(_list, await _folder(desk, call))
    return Answer(200, views.encode_all(FigureView(name, size, at) for name, size, at in found))


async def show_figure(desk: Desk, call: Call) -> Answer:
    """One of them, as bytes."""
    folder = await _folder(desk, call)
    name = call.parameters["name"]
    data = await asyncio.to_thread(_read, folder, name)
    if data is None:
        raise NoSuchJob(f"the job has no figure {name}")
    return Answer(200, data, "application/octet-stream", (("Content-Disposition", "attachment"),))


async def _folder(desk: Desk, call: Call) -> Path:
    job = call.parameters["id"]
    await desk.store.row(job)
    return desk.service.folder / "figures" / job


def _list(folder: Path) -> list[tuple[str, int, float]]:
    try:
        with os.scandir(folder) as entries:
            stats = [(entry.name, entry.stat(follow_symlinks=False)) for entry in entries]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted((name, found.st_size, found.st_mtime) for name, found in stats if stat.S_ISREG(found.st_mode))


def _read(folder: Path, name: str) -> bytes | None:
    if name not in {known for known, *_ in _list(folder)}:
        return None
    try:
        opened = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # gone, or another one by now
        return None
    with open(opened, "rb") as file:
        return file.read(_MOST) if stat.S_ISREG(os.fstat(opened).st_mode) else None
