"""Make the job that is stored of the one that was asked for. Pure but for the clock that is passed in."""

from __future__ import annotations

import hashlib

import msgspec

from asyncjobs.service import envelope, outcome
from asyncjobs.service.errors import BadRequest
from asyncjobs.service.ids import new_id
from asyncjobs.service.protocol import JobRequest, JobsRequest
from asyncjobs.service.records import ID, Limit, NewJob

_one = msgspec.json.Decoder(JobRequest)
_many = msgspec.json.Decoder(JobsRequest)
_encoder = msgspec.json.Encoder()
_BY_VALUE = "a function by value"


def decode_jobs(body: bytes) -> list[JobRequest]:
    """The jobs of a ``POST /v1/jobs``: one, or several under ``jobs``.

    Raises:
        msgspec.MsgspecError, RecursionError, ValueError: it is neither.
    """
    # Several have that one field and nothing else, so it is the first.
    if body[:40].lstrip()[:1] == b"{" and body[:60].lstrip()[1:].lstrip().startswith(b'"jobs"'):
        return _many.decode(body).jobs
    return [_one.decode(body)]


def new_job(request: JobRequest, key: bytes, now: float) -> NewJob:
    """The job as it is stored; a call that came as JSON is sealed with `key`.

    Raises:
        BadRequest: a value is not allowed; says which.
    """
    job = _id_of(request)
    due = _due_of(request, now)
    if request.payload:
        _check_payload(request)
        payload = request.payload
        call = payload[envelope.OVERHEAD :]
    else:
        call = _json_call(request)
        payload = envelope.seal(key, job, call)
    terms = request.terms
    return NewJob(
        id=job,
        name=request.name or request.function.rpartition(":")[2] or _BY_VALUE,
        function=request.function,
        payload=payload,
        digest=_digest(request, call),
        terms=_encoder.encode(terms),
        lane=request.lane,
        key=request.key,
        priority=request.priority,
        due=due,
        deadline=terms.deadline,
        after=_parents(request, job, call),
        limit=None if request.limit is None else Limit(*msgspec.structs.astuple(request.limit)),
        at_most_once=request.at_most_once,
        max_crashes=request.max_crashes,
        keep=request.keep,
        tags=request.tags,
    )


def _id_of(request: JobRequest) -> str:
    job = request.id or new_id()
    if ID.fullmatch(job) is None:
        raise BadRequest("id: 26 digits of Crockford's base 32, in lower case")
    for other in request.after:
        if ID.fullmatch(other) is None:
            raise BadRequest("after: ids of jobs")
        if other == job:
            raise BadRequest("after: a job cannot wait for itself")
    return job


def _parents(request: JobRequest, job: str, call: bytes) -> tuple[str, ...]:
    """What it comes after: what the request says, and those whose results are among the arguments of a JSON call."""
    if request.payload or not outcome.needs_results(call):
        return request.after
    named: list[str] = []
    for one in outcome.named_results([request.args, request.kwargs]):
        if not isinstance(one, str) or ID.fullmatch(one) is None or one == job:
            shown = repr(one)[:80]
            raise BadRequest(
                f'args: {{"{outcome.RESULT_KEY}": {shown}}} is not allowed; allowed: the id of another job'
            )
        named.append(one)
    return tuple(dict.fromkeys((*request.after, *named)))


def _due_of(request: JobRequest, now: float) -> float | None:
    if request.delay is not None and request.at is not None:
        raise BadRequest("delay and at: one of them")
    if request.delay is not None:
        return now + request.delay if request.delay > 0 else None
    return request.at


def _check_payload(request: JobRequest) -> None:
    if request.args is not None or request.kwargs is not None:
        raise BadRequest("payload, or args and kwargs: not both")
    if not request.payload.startswith(envelope.MAGIC):
        raise BadRequest("payload: not sealed")


def _json_call(request: JobRequest) -> bytes:
    if not request.function:
        raise BadRequest("function: which one?")
    # Written anew, and so the same bytes for the same values however they were spaced; what JSON's parser took is
    # what Python's will take in the worker.
    return outcome.json_call(_encoder.encode(request.args or ()), _encoder.encode(request.kwargs or {}))


def _digest(request: JobRequest, call: bytes) -> bytes:
    """The same for the same call with the same options, whatever its id; a seal is for one id, so it does not count."""
    # A deadline is an instant, of another moment at each submit.
    terms = msgspec.structs.replace(request.terms, deadline=None)
    options = (
        *(request.function, request.name, request.lane, request.priority, request.delay, request.at, request.after),
        *(request.limit, request.at_most_once, request.max_crashes, request.keep, request.tags, terms),
    )
    digest = hashlib.sha256(_encoder.encode(options))
    digest.update(call)
    return digest.digest()
