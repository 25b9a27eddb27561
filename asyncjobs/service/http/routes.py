"""The table of routes: what the API is. The OpenAPI document is made of it, so that the two cannot differ."""

from __future__ import annotations

from asyncjobs.service.http import control, copying, files, jobs, many, outcomes, streams
from asyncjobs.service.http.route import Media, Route
from asyncjobs.service.protocol import (
    AcceptedAnswer,
    BackupRequest,
    CancelRequest,
    CancelsAnswer,
    CancelsRequest,
    CancelView,
    FigureView,
    Health,
    JobRequest,
    JobsAnswer,
    JobsRequest,
    JobView,
    ListAnswer,
    OutcomesAnswer,
    OutcomesRequest,
    ReplaysAnswer,
    ReplaysRequest,
    ResultView,
    ScheduleRequest,
    ScheduleView,
    ScopeRequest,
    StatsView,
    StopRequest,
)

_JOB = "/v1/jobs/{id}"
_SEALED = Media("application/octet-stream", "Sealed bytes.")
_BYTES = Media("application/octet-stream", "A file.")
_EVENTS = Media(streams.EVENT_STREAM, "Server-sent events; data is an `EventView`.")
_METRICS = "text/plain"

ROUTES: tuple[Route, ...] = (
    Route(
        "POST",
        "/v1/jobs",
        jobs.submit,
        {201: JobsAnswer},
        errors=(403, 409, 429, 503, 507),
        body=(JobRequest, JobsRequest),
    ),
    Route("GET", "/v1/jobs", jobs.list_jobs, {200: ListAnswer}, query=jobs.ListQuery),
    Route("GET", _JOB, jobs.show_job, {200: JobView}, errors=(404,)),
    Route(
        "GET",
        f"{_JOB}/outcome",
        outcomes.outcome,
        {200: _SEALED, 204: None},
        errors=(404,),
        query=outcomes.WaitQuery,
        waits=True,
    ),
    Route(
        "GET",
        f"{_JOB}/result",
        outcomes.result,
        {200: ResultView, 204: None},
        errors=(404,),
        query=outcomes.WaitQuery,
        waits=True,
    ),
    Route("POST", f"{_JOB}/cancel", jobs.cancel_job, {200: CancelView}, errors=(404, 503, 507), body=CancelRequest),
    Route("POST", f"{_JOB}/replay", jobs.replay_job, {201: AcceptedAnswer}, errors=(404, 409, 429, 507)),
    Route("POST", "/v1/cancels", many.cancel_jobs, {200: CancelsAnswer}, errors=(503, 507), body=CancelsRequest),
    Route("POST", "/v1/replays", many.replay_jobs, {200: ReplaysAnswer}, body=ReplaysRequest),
    Route("POST", "/v1/outcomes", outcomes.outcomes, {200: OutcomesAnswer}, body=OutcomesRequest, waits=True),
    Route("GET", f"{_JOB}/events", streams.job_events, {200: _EVENTS}, errors=(404,), query=streams.EventsQuery),
    Route("GET", f"{_JOB}/log", files.log, {200: Media(files.TEXT, "Text.")}, errors=(404,), query=files.LogQuery),
    Route("GET", f"{_JOB}/figures", files.list_figures, {200: list[FigureView]}, errors=(404,)),
    Route("GET", f"{_JOB}/figures/{{name}}", files.show_figure, {200: _BYTES}, errors=(404,)),
    Route("GET", "/v1/events", streams.all_events, {200: _EVENTS}, query=streams.EventsQuery),
    Route("GET", "/v1/ended", streams.ended, {200: Media(streams.LINES, "An `Ended` in each line.")}),
    Route("POST", "/v1/pause", control.pause, {204: None}, errors=(507,), body=ScopeRequest),
    Route("POST", "/v1/resume", control.resume, {204: None}, errors=(507,), body=ScopeRequest),
    Route("GET", "/v1/schedules", control.list_schedules, {200: list[ScheduleView]}),
    Route("POST", "/v1/schedules", control.put_schedule, {200: ScheduleView}, errors=(507,), body=ScheduleRequest),
    Route("DELETE", "/v1/schedules/{name}", control.drop_schedule, {204: None}, errors=(404, 507)),
    Route("GET", "/v1/stats", control.stats, {200: StatsView}),
    Route("POST", "/v1/stop", control.stop, {202: Health}, body=StopRequest),
    Route(
        "POST",
        "/v1/backup",
        copying.backup,
        {200: Media(copying.LINES, "`BackupView`s, one a line; the last one is `done`, or has an `error`.")},
        errors=(507,),
        body=BackupRequest,
    ),
    Route("GET", "/metrics", control.show_metrics, {200: Media(_METRICS, "Figures for Prometheus.")}),
    Route("GET", "/health", control.health, {200: Health}),
    Route("GET", "/openapi.json", control.document, {200: Media("application/json", "This document.")}),
)
