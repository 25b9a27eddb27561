"""`asyncjobs serve`: read the options, run the service, exit with its code."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path
from typing import Annotated

import typer

from asyncjobs.cli.place import Dir, Name, chosen
from asyncjobs.portal import new_event_loop
from asyncjobs.service.host import DRAIN, Settings
from asyncjobs.service.host import serve as run_service

app: typer.Typer = typer.Typer(add_completion=False)


@app.callback()
def service() -> None:
    """The service."""


@app.command()
def serve(
    path: Dir = None,
    name: Name = None,
    allow: Annotated[
        list[str] | None, typer.Option(help="Functions that may be run by name: 'pkg.*', 'pkg.mod:function'.")
    ] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, max=4096, help="Worker processes. Default: the usable processors.")
    ] = None,
    http: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Listen on TCP too, with a token; port 0 takes a free one.")
    ] = None,
    queue_limit: Annotated[int, typer.Option(min=1, help="Jobs that may wait.")] = 1_000_000,
    drain: Annotated[float, typer.Option(min=0.0, help="Seconds that running jobs may go on after SIGTERM.")] = DRAIN,
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Let --http have an address that others reach; needs TLS.")
    ] = False,
    lane: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=ENGINE:ADDRESS", help="A cluster, dask or ray, for jobs that name it."),
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate for TCP.", dir_okay=False)] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key.", dir_okay=False)] = None,
) -> None:
    """Run the service until Ctrl-C or SIGTERM, which let running jobs end; a second one does not."""
    settings = Settings(
        *chosen(path, name),
        tuple(allow or ()),
        processes,
        http,
        queue_limit,
        drain,
        allow_remote,
        tls_cert,
        tls_key,
        tuple(lane or ()),
    )
    # What the imports made is there to the end: the collector looked through it all again, mostly at the very end,
    # for 0.15 s of the 0.7 s of processor time that a start, a job and a stop take.
    gc.freeze()
    with asyncio.Runner(loop_factory=new_event_loop) as loop_runner:
        raise typer.Exit(loop_runner.run(run_service(settings)))
