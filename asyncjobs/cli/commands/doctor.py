"""``asyncjobs doctor``: what a report of a problem should say."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console

from asyncjobs.cli import doctor as judge
from asyncjobs.cli import machine, service_facts
from asyncjobs.cli.place import Dir, Name, chosen

app: typer.Typer = typer.Typer()


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
    path: Dir = None,
    name: Name = None,
) -> None:
    """Print what a report of a problem should say, and warn of what will hurt: a runner, and the service."""
    facts = machine.gather()
    service = service_facts.look(*chosen(path, name))
    findings = judge.in_order([*judge.check(facts), *service_facts.judge(service)])
    if as_json:
        sys.stdout.write(judge.as_json(facts, findings, service=asdict(service)) + "\n")
    else:
        judge.show(facts, findings, Console(), service_facts.describe(service))
