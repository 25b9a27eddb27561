"""The OpenAPI document, made of the table of routes and of the structs that the handlers decode and encode with.

Nothing is written down twice: what the document says is what the code does.
"""

from __future__ import annotations

from typing import Any

import msgspec

from asyncjobs import __version__
from asyncjobs.service.http.route import PARAMETERS, Media, Route
from asyncjobs.service.protocol import VERSION, ErrorView, JobsAnswer, ScheduleView

_REF = "#/components/schemas/{name}"
_JSON = "application/json"
_ERRORS: dict[int, str] = {
    400: "A value is not allowed.",
    401: "No token, or a wrong one (TCP only).",
    403: "Not from there, or not that function.",
    404: "There is no such thing.",
    409: "The key stands for another call, or the job's state does not allow it.",
    413: "The body is too long.",
    415: "The body is not application/json.",
    429: "So many jobs wait that no more are taken; Retry-After says when to ask again.",
    500: "The service failed.",
    503: "The service is stopping, or too busy to answer in time.",
    507: "The disk is full; nothing was taken.",
}
_HEADER = {
    "name": "X-Asyncjobs",
    "in": "header",
    "required": True,
    "description": "What a page of another site cannot send.",
    "schema": {"type": "string", "const": "1"},
}


def encode(routes: tuple[Route, ...]) -> bytes:
    """The document of a table of routes, as JSON."""
    return msgspec.json.encode(describe(routes))


def describe(routes: tuple[Route, ...]) -> dict[str, Any]:
    """The same as dicts."""
    types = _types(routes)
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    known = dict(zip(types, schemas, strict=True))
    links = _links(routes)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, known, links)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "asyncjobs",
            "version": __version__,
            "description": f"Jobs that outlive the program; protocol {VERSION}.",
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "Over TCP."}},
        },
        "security": [{"token": []}],
    }


def _types(routes: tuple[Route, ...]) -> list[Any]:
    found: dict[Any, None] = {ErrorView: None}
    for route in routes:
        found.update(dict.fromkeys(_bodies(route)))
        found.update({answer: None for answer in route.answers.values() if not isinstance(answer, Media | None)})
    return list(found)


def _bodies(route: Route) -> tuple[type[msgspec.Struct], ...]:
    if route.body is None:
        return ()
    return route.body if isinstance(route.body, tuple) else (route.body,)


def _links(routes: tuple[Route, ...]) -> dict[Any, Any]:
    """From a job that was accepted to all that can be asked about it; from a schedule to its end. By answer."""
    about = [route.name for route in routes if route.path.startswith("/v1/jobs/{id}") and "{name}" not in route.path]
    of_job = {name: {"operationId": name, "parameters": {"id": "$response.body#/jobs/0/id"}} for name in about}
    of_schedule = {"drop_schedule": {"operationId": "drop_schedule", "parameters": {"name": "$response.body#/name"}}}
    return {JobsAnswer: of_job, ScheduleView: of_schedule}


def _operation(route: Route, known: dict[Any, Any], links: dict[Any, Any]) -> dict[str, Any]:
    changes = route.method != "GET"
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.about,
        "parameters": [*_path_parameters(route), *_query_parameters(route), *([_HEADER] if changes else [])],
        "responses": _responses(route, known, links),
    }
    bodies = [known[body] for body in _bodies(route)]
    if bodies:
        schema = bodies[0] if len(bodies) == 1 else {"anyOf": bodies}
        operation["requestBody"] = {"required": _is_needed(route), "content": {_JSON: {"schema": schema}}}
    return operation


def _is_needed(route: Route) -> bool:
    """Without a body a request means all its defaults, where there are any."""
    return any(field.required for body in _bodies(route) for field in msgspec.structs.fields(body)) or isinstance(
        route.body, tuple
    )


def _path_parameters(route: Route) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "pattern": f"^{pattern}$"}}
        for name, pattern in PARAMETERS.items()
        if f"{{{name}}}" in route.path
    ]


def _query_parameters(route: Route) -> list[dict[str, Any]]:
    (_,), components = msgspec.json.schema_components([route.query])
    schema = components[route.query.__name__]
    return [
        {"name": name, "in": "query", "required": name in schema["required"], "schema": _plain(one)}
        for name, one in schema["properties"].items()
    ]


def _plain(schema: dict[str, Any]) -> dict[str, Any]:
    """A query cannot say null: a parameter that may be None is one that may be missing."""
    choices = [one for one in schema.get("anyOf", ()) if one.get("type") != "null"]
    return (
        choices[0] if len(choices) == 1 else {key: value for key, value in schema.items() if key != "default" or value}
    )


def _responses(route: Route, known: dict[Any, Any], links: dict[Any, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for status, answer in route.answers.items():
        found[str(status)] = _response(answer, known)
        if answer in links:
            found[str(status)]["links"] = links[answer]
    always = (400, 401, 403, 500, 503) if route.method == "GET" else (400, 401, 403, 413, 415, 500, 503)
    for status in sorted({*always, *route.errors}):
        found[str(status)] = {
            "description": _ERRORS[status],
            "content": {_JSON: {"schema": known[ErrorView]}},
            **({"headers": _RETRY} if status in (429, 503) else {}),
        }
    return found


_RETRY = {"Retry-After": {"schema": {"type": "string", "pattern": "^[0-9]+$"}, "description": "Seconds."}}


def _response(answer: Any, known: dict[Any, Any]) -> dict[str, Any]:
    if answer is None:
        return {"description": "Nothing more to say."}
    if isinstance(answer, Media):
        return {"description": answer.about, "content": {answer.type: {"schema": {"type": "string"}}}}
    return {"description": "It is done.", "content": {_JSON: {"schema": known[answer]}}}
