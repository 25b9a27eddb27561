"""Handlers: what became of jobs. All of them may wait for the end, as long as the caller asks for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Annotated, Any, BinaryIO

import msgspec
from msgspec import Meta

from asyncjobs.service import envelope
from asyncjobs.service.errors import BadRequest
from asyncjobs.service.http import views
from asyncjobs.service.http.feeds import ended
from asyncjobs.service.http.limits import MIB
from asyncjobs.service.http.message import Answer, Stream
from asyncjobs.service.http.route import Call, Desk
from asyncjobs.service.outcome import JSON
from asyncjobs.service.pickled import names_in
from asyncjobs.service.protocol import OutcomesAnswer, OutcomesRequest, ResultView
from asyncjobs.service.records import ID
from asyncjobs.state import JobState

Seconds = Annotated[float, Meta(ge=0)]
OCTETS = "application/octet-stream"
_PIECE = 256 * 1024
_SHOWN = 16 * MIB
"""Bytes of an outcome that people get to see."""
_AT_ONCE = 500
_MOST_BYTES = 16 * MIB
"""Of all outcomes in one answer."""


class WaitQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long to wait for the end, in seconds; no longer than a minute in any case."""

    wait: Seconds = 0.0


async def outcome(desk: Desk, call: Call) -> Answer | Stream:
    """The outcome as sealed bytes; 204: it has not ended."""
    job = call.parameters["id"]
    state, attempt, size, sealed = await _ended_outcome(desk, job, call.query.wait)
    headers = (("X-State", views.STATES[state]), ("X-Attempt", str(attempt)))
    if not state.is_final:
        return Answer(204, headers=headers)
    if isinstance(sealed, bytes):
        return Answer(200, sealed, OCTETS, headers)
    return Stream(_pieces(sealed), OCTETS, headers, size)


async def _pieces(file: BinaryIO) -> AsyncGenerator[bytes, None]:
    with file:
        while piece := await asyncio.to_thread(file.read, _PIECE):
            yield piece


async def result(desk: Desk, call: Call) -> Answer:
    """The result for people: the value where JSON can say it, else what kind of thing it is; 204: it has not ended."""
    job = call.parameters["id"]
    state, _, size, sealed = await _ended_outcome(desk, job, call.query.wait)
    if not state.is_final:
        return Answer(204)
    if not isinstance(sealed, bytes):
        with sealed:
            sealed = await asyncio.to_thread(sealed.read) if size <= _SHOWN else b""
    row = await desk.store.row(job)
    return Answer(200, views.encode(_view(desk, job, state, row.note, size, sealed)))


def _view(desk: Desk, job: str, state: JobState, note: str, size: int, sealed: bytes) -> ResultView:
    if state is not JobState.SUCCEEDED or not size:
        return ResultView(views.STATES[state], note)
    body = envelope.open(desk.service.key, job, sealed) if sealed else b""
    if body[:1] == JSON:
        return ResultView(views.STATES[state], note, value=json.loads(body[1:]))
    return ResultView(views.STATES[state], note, repr=_described(job, size - envelope.OVERHEAD - 1, body[1:]))


def _described(job: str, size: int, content: bytes) -> str:
    # Never loaded here: that would run what the job put into it.
    names = ", ".join(names_in(content))
    return (
        f"a pickled value of {size:,} bytes{f' ({names})' if names else ''}; to have it, in Python on the service's "
        f"machine: with aj.connect(DIR).sync as service: service.attach({job!r}).result()"
    )


async def _ended_outcome(desk: Desk, job: str, seconds: float) -> tuple[JobState, int, int, bytes | BinaryIO]:
    """Its state, attempt, and the outcome's size and bytes; the state is not final if it has not ended by then."""
    with desk.feeds.end_of_any((job,)) as end:
        found = await desk.store.open_outcome(job)
        if found[0].is_final or not seconds:
            return found
        if await _is_done_in(end, min(seconds, desk.limits.wait)):
            return await desk.store.open_outcome(job)
        return found


async def outcomes(desk: Desk, call: Call) -> Answer:
    """Which of these jobs have ended? Waits until one has, as long as is asked for."""
    asked: OutcomesRequest = call.body
    if any(ID.fullmatch(job) is None for job in asked.ids):
        raise BadRequest("ids: ids of jobs")
    with desk.feeds.end_of_any(asked.ids) as end:
        answer = await _which(desk, asked.ids)
        waits = bool(asked.wait) and not answer.ended and len(answer.unknown) < len(asked.ids)
        if waits and await _is_done_in(end, min(asked.wait, desk.limits.wait)):
            answer = await _which(desk, asked.ids)
    return Answer(200, views.encode(answer))


async def _which(desk: Desk, ids: list[str]) -> OutcomesAnswer:
    """In portions, so that nobody waits long for the store; what is too much for one answer does not come along."""
    answer = OutcomesAnswer([], [])
    nbytes = 0
    for start in range(0, len(ids), _AT_ONCE):
        asked = ids[start : start + _AT_ONCE]
        found = await desk.store.ends(asked)
        known = {one[0] for one in found}
        answer.unknown.extend(job for job in asked if job not in known)
        for one in found:
            if one[1].is_final:
                nbytes += len(one[4] or b"")
                answer.ended.append(ended(one if nbytes <= _MOST_BYTES else (*one[:4], None)))
    return answer


async def _is_done_in(end: asyncio.Future[Any], seconds: float) -> bool:
    done, _ = await asyncio.wait((end,), timeout=seconds)
    return bool(done)
