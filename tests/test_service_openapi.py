"""The OpenAPI document and the code say the same, and schemathesis finds nothing; Prometheus can read the metrics."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from callers import TOKEN, Served, serving
from prometheus_client.parser import text_string_to_metric_families

from asyncjobs.service.http.limits import Limits
from asyncjobs.service.http.openapi import describe
from asyncjobs.service.http.route import Media
from asyncjobs.service.http.routes import ROUTES

CHECKS = (
    *("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance"),
    *("response_schema_conformance", "negative_data_rejection", "missing_required_header", "unsupported_method"),
    *("ignored_auth", "use_after_free"),
)
ENDLESS = "/v1/(events|ended)$|/(events|log)$"
"""Streams: a tester waits for their ends. `test_service_streams` reads them."""
WRITES_FILES = "/v1/backup$"


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving(limits=Limits(wait=0.05, guess_delay=0.0)) as opened:
        yield opened


def references(value: Any) -> Iterator[str]:
    """All that a document refers to."""
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for one in value.values():
            yield from references(one)
    elif isinstance(value, list):
        for one in value:
            yield from references(one)


async def test_the_document_is_served_and_has_every_route(served: Served) -> None:
    document = (await served.ask("GET", "/openapi.json")).json()
    assert document["openapi"].startswith("3.1")
    described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert described == {(route.method, route.path) for route in ROUTES}


def test_every_reference_leads_somewhere() -> None:
    document = describe(ROUTES)
    schemas = document["components"]["schemas"]
    found = set(references(document))
    assert found
    assert {reference.removeprefix("#/components/schemas/") for reference in found} <= set(schemas)


def test_every_operation_has_a_name_of_its_own_and_says_what_it_does() -> None:
    operations = [operation for methods in describe(ROUTES)["paths"].values() for operation in methods.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    for operation in operations:
        assert operation["summary"].endswith("."), operation["operationId"]


def test_every_change_wants_the_header_that_no_page_can_send() -> None:
    for path, methods in describe(ROUTES)["paths"].items():
        for method, operation in methods.items():
            names = {parameter["name"] for parameter in operation["parameters"] if parameter["required"]}
            assert ("X-Asyncjobs" in names) == (method != "get"), path


async def test_what_the_document_says_of_bodies_is_what_comes(served: Served) -> None:
    (job,) = await served.submit()
    for route in ROUTES:
        if route.method != "GET" or route.waits or re.search(ENDLESS, route.path) or "{name}" in route.path:
            continue
        reply = await served.ask("GET", route.path.format(id=job))
        expected = route.answers[reply.status]
        media = expected.type if isinstance(expected, Media) else "application/json"
        assert reply.headers["content-type"].split(";")[0] == media.split(";")[0], route.path


@pytest.mark.slow
async def test_schemathesis_finds_nothing(served: Served) -> None:
    """Over the port, with a real token: generated requests, good and bad, and jobs followed from their submit on."""
    tester = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{served.server.urls[0]}/openapi.json"),
        *("--header", f"Authorization: Bearer {TOKEN}", "--checks", ",".join(CHECKS), "--max-examples", "5"),
        *("--exclude-path-regex", f"{ENDLESS}|{WRITES_FILES}", "--continue-on-failure", "--seed", "7", "--no-color"),
        cwd=served.folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await tester.communicate()
    assert tester.returncode == 0, output.decode(errors="replace")[-6000:]
    assert (await served.ask("GET", "/health")).status == 200


async def test_the_metrics_count_jobs_requests_and_connections(served: Served) -> None:
    await served.submit(3)
    await served.ask("GET", "/nothing")
    await served.ask("GET", "/health", tcp=True)
    reply = await served.ask("GET", "/metrics")
    assert reply.headers["content-type"].startswith("text/plain")
    families = {family.name: family for family in text_string_to_metric_families(reply.body.decode())}
    jobs = {sample.labels["state"]: sample.value for sample in families["asyncjobs_jobs"].samples}
    assert jobs["QUEUED"] == 3
    requests = {tuple(sample.labels.values()): sample.value for sample in families["asyncjobs_http_requests"].samples}
    assert requests["submit", "201"] == 1
    assert requests["", "404"] == 1
    assert families["asyncjobs_http_seconds"].type == "histogram"
    assert sum(sample.value for sample in families["asyncjobs_http_connections"].samples) >= 1
    assert families["asyncjobs_database_bytes"].samples[0].value > 0
    assert families["process_resident_memory_bytes"].samples[0].value > 1_000_000


async def test_metrics_have_no_label_that_a_caller_could_choose(served: Served) -> None:
    for number in range(20):
        await served.ask("GET", f"/nothing-{number}")
        await served.submit(name=f"name-{number}")
    text = (await served.ask("GET", "/metrics")).body
    assert b"nothing-" not in text
    assert b"name-" not in text


async def test_two_scrapes_do_not_disturb_each_other(served: Served) -> None:
    replies = await asyncio.gather(*(served.ask("GET", "/metrics") for _ in range(5)))
    assert {reply.status for reply in replies} == {200}


async def test_an_error_is_what_the_document_says(served: Served) -> None:
    schema = describe(ROUTES)["components"]["schemas"]["ErrorView"]
    for method, path, body in [("GET", "/v1/jobs?limit=0", None), ("POST", "/v1/jobs", {}), ("GET", "/nothing", None)]:
        error = json.loads((await served.ask(method, path, body)).body)
        assert set(error) == set(schema["properties"])
