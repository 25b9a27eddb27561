"""The job that a command line describes: its options, once for every command that makes one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import typer

from asyncjobs.cli import options
from asyncjobs.cli.asking import Desk
from asyncjobs.cli.finding import find_id
from asyncjobs.service.ids import new_id
from asyncjobs.service.protocol import JobRequest, LimitTerms, RetryTerms, Terms

_WHEN, _LIMITS, _LABELS = "When and where", "Limits and retries", "Labels"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A job as it stands on the command line."""

    function: Annotated[
        str,
        typer.Argument(parser=options.function, metavar="MODULE:FUNCTION", help="What to run, such as study:fit."),
    ]
    arg: Annotated[
        list[str] | None, typer.Option(metavar="JSON", help="A positional argument; again for each further one.")
    ] = None
    kwarg: Annotated[
        list[str] | None, typer.Option(metavar="NAME=JSON", help="A named argument; again for each further one.")
    ] = None
    job_name: Annotated[
        str, typer.Option(help="What lists call it. Default: the function's name.", rich_help_panel=_LABELS)
    ] = ""
    tag: Annotated[
        list[str] | None, typer.Option(help="A label to find it by; may be repeated.", rich_help_panel=_LABELS)
    ] = None
    key: Annotated[
        str | None,
        typer.Option(help="A submit with the same key and the same call is this job.", rich_help_panel=_LABELS),
    ] = None
    lane: Annotated[
        str, typer.Option(help="Where: a cluster that `serve --lane` named, or here.", rich_help_panel=_WHEN)
    ] = "process"
    priority: Annotated[int, typer.Option(help="Higher runs first.", rich_help_panel=_WHEN)] = 0
    delay: Annotated[
        float | None,
        typer.Option(
            parser=options.seconds, metavar="SPAN", help="Not before so long: 90, 10m, 2h.", rich_help_panel=_WHEN
        ),
    ] = None
    at: Annotated[
        float | None,
        typer.Option(
            parser=options.instant, metavar="TIME", help="Not before: 2026-11-23T02:00.", rich_help_panel=_WHEN
        ),
    ] = None
    after: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="When this job has succeeded; may be repeated.", rich_help_panel=_WHEN),
    ] = None
    timeout: Annotated[
        float | None,
        typer.Option(
            parser=options.seconds, metavar="SPAN", help="The most that one attempt runs.", rich_help_panel=_LIMITS
        ),
    ] = None
    deadline: Annotated[
        float | None,
        typer.Option(
            parser=options.seconds,
            metavar="SPAN",
            help="The most for all of it, waiting and retries included.",
            rich_help_panel=_LIMITS,
        ),
    ] = None
    grace: Annotated[
        float,
        typer.Option(
            parser=options.seconds,
            metavar="SPAN",
            help="Between asking it to stop and stopping it.",
            rich_help_panel=_LIMITS,
        ),
    ] = 2.0
    max_result: Annotated[
        int | None,
        typer.Option(min=1, metavar="BYTES", help="The most that its result may have.", rich_help_panel=_LIMITS),
    ] = None
    retries: Annotated[
        int, typer.Option(min=0, help="Further attempts after an exception or a timeout.", rich_help_panel=_LIMITS)
    ] = 0
    backoff: Annotated[
        float,
        typer.Option(
            parser=options.seconds, metavar="SPAN", help="Between attempts; doubles each time.", rich_help_panel=_LIMITS
        ),
    ] = 0.1
    limit: Annotated[
        str | None,
        typer.Option(metavar="NAME=N", help="At most N jobs of this limit run at once.", rich_help_panel=_LIMITS),
    ] = None
    rate: Annotated[
        str | None,
        typer.Option(metavar="NAME=N/SPAN", help="At most N of it start in a span.", rich_help_panel=_LIMITS),
    ] = None
    at_most_once: Annotated[
        bool, typer.Option("--at-most-once", help="LOST after a crash, never run twice.", rich_help_panel=_LIMITS)
    ] = False
    max_crashes: Annotated[
        int, typer.Option(min=0, help="Fresh starts after crashes of its worker.", rich_help_panel=_LIMITS)
    ] = 3
    keep: Annotated[
        float | None,
        typer.Option(
            parser=options.seconds, metavar="SPAN", help="How long it is kept after its end.", rich_help_panel=_LABELS
        ),
    ] = None

    def request(self, desk: Desk) -> JobRequest:
        """The message that submits it; ids in `after` are made whole.

        Raises:
            typer.BadParameter: an argument is not JSON, or a limit is not what it should be.
        """
        args, kwargs = self._arguments()
        return JobRequest(
            id=new_id(),
            function=self.function,
            args=msgspec.json.decode(b"[" + b",".join(args) + b"]", type=list[Any]),
            kwargs=msgspec.json.decode(b"{" + b",".join(kwargs) + b"}", type=dict[str, Any]),
            name=self.job_name,
            key=self.key,
            lane=self.lane,
            priority=self.priority,
            delay=self.delay,
            at=self.at,
            after=tuple(find_id(desk, given) for given in self.after or ()),
            limit=self._limit(),
            at_most_once=self.at_most_once,
            max_crashes=self.max_crashes,
            keep=self.keep,
            tags=tuple(self.tag or ()),
            terms=self._terms(),
        )

    def _terms(self) -> Terms:
        return Terms(
            timeout=self.timeout,
            deadline=options.now() + self.deadline if self.deadline is not None else None,
            grace=self.grace,
            retry=RetryTerms(max=self.retries, backoff=self.backoff),
            max_result=self.max_result,
        )

    def _arguments(self) -> tuple[list[bytes], list[bytes]]:
        with options.hint("--arg"):
            args = [options.json_value(text).encode() for text in self.arg or ()]
        with options.hint("--kwarg"):
            pairs = dict(options.json_pair(text) for text in self.kwarg or ())
        return args, [f"{json.dumps(name)}:{value}".encode() for name, value in pairs.items()]

    def _limit(self) -> LimitTerms | None:
        with options.hint("--limit"):
            limit = options.running_limit(self.limit) if self.limit is not None else None
        with options.hint("--rate"):
            rate = options.rate(self.rate) if self.rate is not None else None
        if limit is not None and rate is not None and limit[0] != rate[0]:
            raise typer.BadParameter("a job has one limit: --limit and --rate need the same NAME")
        if rate is not None:
            return LimitTerms(name=rate[0], running=limit[1] if limit else None, starts=rate[1], seconds=rate[2])
        return LimitTerms(name=limit[0], running=limit[1]) if limit is not None else None
