"""From a request to its answer: find the route, decode, call the handler, turn errors into answers.

The one place where an error becomes a status. What nobody foresaw is 500, written into the log, and nothing of it
is told to the caller.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from urllib.parse import parse_qs

import msgspec

from asyncjobs.service.errors import BadRequest, KeyConflict, ServiceError, ServiceFull
from asyncjobs.service.http import message
from asyncjobs.service.http.connection import Work
from asyncjobs.service.http.message import Answer, Request, Stream, error_body
from asyncjobs.service.http.route import Call, Desk, NoQuery, Route, Table
from asyncjobs.service.http.routes import ROUTES
from asyncjobs.service.http.wording import said_of

_LOG = logging.getLogger("asyncjobs.service.http")
_FIELDS = 64
_NO_QUERY = NoQuery()


class Api:
    """Answers requests that came through the gate."""

    def __init__(self, desk: Desk, routes: tuple[Route, ...] = ROUTES) -> None:
        self._desk = desk
        self._table = Table(routes)

    def work(self, request: Request) -> Work:
        """What answers `request`."""
        limits = self._desk.limits
        routes, parameters = self._table.find(request.path)
        route = routes.get("GET" if request.method == "HEAD" else request.method)
        if route is None:
            return Work(partial(_no_route, routes), True, limits.answer)
        request.route = route.name
        seconds = limits.answer + limits.wait if route.waits else limits.answer
        return Work(partial(self._answer, route, request, parameters), route.may_cancel, seconds)

    async def _answer(self, route: Route, request: Request, parameters: dict[str, str]) -> Answer | Stream:
        try:
            call = Call(request, parameters, _query(route, request.query), _body(route, request.body))
            return await route.handler(self._desk, call)
        except ServiceError as error:
            return answer_to(error)
        except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
            return answer_to(BadRequest(said_of(error, request.body, _told(request.query))))
        except Exception:
            # The last border: the caller learns that it is our fault, people find out why in the log.
            _LOG.exception("a handler failed", extra={"fields": {"route": f"{route.method} {route.path}"}})
            return Answer(500, error_body("ServiceError", "the service failed; its log says why"))


def answer_to(error: ServiceError) -> Answer:
    """The status and the body that say `error`."""
    seconds = getattr(error, "retry_after", None)
    if seconds is None and error.status == 503:
        seconds = 1.0
    job = error.id if isinstance(error, KeyConflict) else None
    headers = () if seconds is None else message.retry_after(seconds)
    name = _wire_name(error)
    return Answer(error.status, error_body(name, str(error), retry_after=seconds, job=job or None), headers=headers)


def _wire_name(error: ServiceError) -> str:
    return "ServiceFull" if isinstance(error, ServiceFull) else type(error).__name__


async def _no_route(routes: Mapping[str, Route]) -> Answer:
    if not routes:
        return Answer(404, error_body("NoSuchJob", "nothing lies at this path"))
    allowed = sorted({*routes, *(["HEAD"] if "GET" in routes else [])})
    body = error_body("BadRequest", f"allowed here: {', '.join(allowed)}")
    return Answer(405, body, headers=(("Allow", ", ".join(allowed)),))


def _query(route: Route, query: str) -> msgspec.Struct:
    if not query:
        return _NO_QUERY if route.query is NoQuery else route.query()
    try:
        given = parse_qs(query, keep_blank_values=True, max_num_fields=_FIELDS, errors="strict", strict_parsing=True)
    except ValueError as error:
        raise BadRequest(f"the query is malformed: {error}") from None
    twice = [name for name, values in given.items() if len(values) > 1 and name not in LISTS]
    if twice:
        raise BadRequest(f"{twice[0]!r} may come once")
    plain = _flat(given)
    found = msgspec.convert(plain, route.query, strict=False)
    for name in plain:
        if getattr(found, name) is None:  # the word null
            raise BadRequest(f"{name!r} has no value")
    return found


def _told(query: str) -> Mapping[str, object]:
    """What a query says, however little of it is allowed."""
    return _flat(parse_qs(query, keep_blank_values=True))


def _flat(given: Mapping[str, list[str]]) -> dict[str, object]:
    return {name: values if name in LISTS else values[0] for name, values in given.items()}


LISTS = frozenset({"state"})
"""Parameters that may come several times."""


def _body(route: Route, body: bytes) -> object:
    if route.body is None:
        if body not in (b"", b"{}"):
            raise BadRequest("this request takes no body")
        return None
    if isinstance(route.body, tuple):
        return body
    return msgspec.json.decode(body or b"{}", type=route.body)
