"""``asyncjobs pause``, ``resume``, ``schedules``, ``stats``, ``stop`` and ``backup``: the service as a whole."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import msgspec
import typer
from rich.console import Console
from rich.status import Status

from asyncjobs.cli import exits, tables
from asyncjobs.cli.asking import Desk, Stream, loaded, named
from asyncjobs.cli.options import Json, desk, now, seconds
from asyncjobs.cli.place import Where
from asyncjobs.cli.showing import say, show, show_json
from asyncjobs.cli.spread import spread
from asyncjobs.cli.wanted import Wanted
from asyncjobs.service.errors import ServiceGone
from asyncjobs.service.protocol import (
    BackupRequest,
    BackupView,
    Health,
    ScheduleRequest,
    ScheduleView,
    ScopeRequest,
    StatsView,
    StopRequest,
)

app: typer.Typer = typer.Typer()

Scope = Annotated[str, typer.Argument(metavar="SCOPE", help="all, lane:NAME, function:MODULE:NAME or schedule:NAME.")]


@app.command()
@spread
def pause(service: Where, scope: Scope = "all", as_json: Json = False) -> None:
    """Start no more jobs; those that run go on. Holds over a restart, until resume."""
    _steer("pause", scope, as_json, service)


@app.command()
@spread
def resume(service: Where, scope: Scope = "all", as_json: Json = False) -> None:
    """Undo a pause of the same scope."""
    _steer("resume", scope, as_json, service)


def _steer(verb: str, scope: str, as_json: bool, service: Where) -> None:
    with desk(service) as asked:
        asked.post(f"/v1/{verb}", ScopeRequest(scope=scope))
        paused = asked.get("/v1/stats", StatsView).paused
        if as_json:
            show_json({"paused": list(paused)})
        else:
            say(f"paused: {', '.join(paused) or 'nothing'}")


@app.command()
@spread
def schedules(
    service: Where,
    drop: Annotated[str | None, typer.Option(metavar="NAME", help="Remove this one; its jobs stay.")] = None,
    as_json: Json = False,
) -> None:
    """List what comes again, or remove one; `asyncjobs schedule` makes one."""
    with desk(service) as asked:
        if drop is not None:
            asked.delete("/v1/schedules/" + quote(drop, safe=""))
            if as_json:
                show_json({"removed": drop})
            else:
                say(f"removed {drop}")
            return
        body = asked.get_raw("/v1/schedules")
        found = msgspec.json.decode(body, type=list[ScheduleView])
        if as_json:
            show_json(loaded(body))
        elif found:
            show(tables.schedules_table(found, now()))
        else:
            say("no schedules")


@app.command()
@spread
def schedule(
    service: Where,
    wanted: Wanted,
    title: Annotated[str, typer.Argument(metavar="NAME", help="What the schedule is called.")],
    cron: Annotated[str, typer.Argument(metavar="CRON", help="When, such as '30 2 * * *'.")],
    zone: Annotated[str, typer.Option(help="The time zone of it, such as Europe/Berlin.")] = "UTC",
    as_json: Json = False,
) -> None:
    """Let a job come again by a cron expression, or replace the schedule of that name.

    [dim]asyncjobs schedule nightly '30 2 * * *' study:sweep --zone Europe/Berlin[/dim]
    """
    with desk(service) as asked:
        request = ScheduleRequest(name=title, cron=cron, zone=zone, job=wanted.request(asked))
        view = msgspec.json.decode(asked.post("/v1/schedules", request), type=ScheduleView)
        if as_json:
            show_json(msgspec.to_builtins(view))
        else:
            show(tables.schedules_table([view], now()))


@app.command()
@spread
def stats(service: Where, as_json: Json = False) -> None:
    """Show how the service is: jobs by state, workers, database, disk."""
    with desk(service) as asked:
        body = asked.get_raw("/v1/stats")
        if as_json:
            show_json(loaded(body))
        else:
            show(tables.stats_grid(msgspec.json.decode(body, type=StatsView), asked.door.place, now()))


@app.command()
@spread
def stop(
    service: Where,
    drain: Annotated[
        float | None,
        typer.Option(parser=seconds, metavar="SPAN", help="How long running jobs may go on. Default: the service's."),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Until it has ended.")] = True,
    as_json: Json = False,
) -> None:
    """Let the service end: running jobs may finish within the drain; what has not begun stays for its next start."""
    with desk(service) as asked:
        pid = asked.get("/health", Health).pid
        asked.post("/v1/stop", StopRequest(drain=drain))
        if wait:
            _wait_for_end(asked, pid, is_here=service.url is None)
        if as_json:
            show_json({"pid": pid, "has_ended": wait})
        else:
            say(f"the service, pid {pid}, {'has ended' if wait else 'is stopping'}")


def _wait_for_end(asked: Desk, pid: int, *, is_here: bool) -> None:
    """Until its process is gone; one elsewhere: until it does not answer. Ctrl-C ends the wait only."""
    try:
        while _runs(pid) if is_here else asked.pid() == pid:
            time.sleep(0.05 if is_here else 0.25)
    except KeyboardInterrupt:
        say(f"the service, pid {pid}, is stopping")
        raise typer.Exit(exits.DETACHED) from None


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            state = file.read().rpartition(")")[2].split()[0]
    except ProcessLookupError:
        return False
    except FileNotFoundError:  # not Linux; or it went in between, and the next look tells
        return True
    return state not in "ZX"  # dead, though who started it has not asked after it yet


@app.command()
@spread
def backup(
    service: Where,
    to: Annotated[Path, typer.Argument(metavar="PATH", help="A folder that is not there yet.")],
    logs: Annotated[bool, typer.Option("--logs/--no-logs", help="The logs and plots of jobs, too.")] = True,
    as_json: Json = False,
) -> None:
    """Copy the service's state while it runs. The copy is a directory to serve; keep it secret."""
    if service.url is not None:
        raise typer.BadParameter("a backup is made on the service's machine, by its directory: not over --url")
    with desk(service) as asked:
        to = to.expanduser().absolute()
        with asked.stream("/v1/backup", body=BackupRequest(path=str(to), logs=logs)) as stream:
            view = _copied(stream)
        if as_json:
            show_json({"path": str(to), "nbytes": view.nbytes})
        else:
            say(f"{to} ({tables.size(view.nbytes)})")


def _copied(stream: Stream) -> BackupView:
    """Its last line, once it is done; says meanwhile how far it is."""
    with Status("copying", console=Console(stderr=True, highlight=False)) as status:
        for line in stream.lines():
            view = msgspec.json.decode(line, type=BackupView)
            if view.error:
                raise named(view.error)(view.message)
            if view.done:
                return view
            status.update(f"copying: {tables.size(view.nbytes)}")
    raise ServiceGone("the service ended before the backup was done")
