"""Draw jobs, schedules and statistics for people. Pure: values in, rich tables and lines out.

Whatever comes from a job goes through `plain.line` before it becomes a cell.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Sequence

from rich.table import Table
from rich.text import Text

from asyncjobs.cli.opening import Opened
from asyncjobs.cli.plain import line, lines
from asyncjobs.service.protocol import EventView, FigureView, JobView, ProgressView, ScheduleView, StatsView

STATES = (
    "QUEUED", "RUNNING", "WAITING", "STOPPING", "SUCCEEDED", "FAILED", "TIMED_OUT", "CANCELLED", "LOST",
)  # fmt: skip
FINAL = frozenset(STATES[4:])

_STYLES = {
    "QUEUED": "dim",
    "RUNNING": "cyan",
    "WAITING": "yellow",
    "STOPPING": "yellow",
    "SUCCEEDED": "green",
    "FAILED": "bold red",
    "TIMED_OUT": "bold red",
    "CANCELLED": "magenta",
    "LOST": "bold red",
}
_MODULE = re.compile(r"\A(?:[^\W\d]\w*\.)+(?=[^\W\d]\w*:)")
"""Of an error's class: in a narrow table it would be all that is seen of the error."""
_BAR = 12
_LONGEST = 20_000
_SIZES = (("kB", 1e3), ("MB", 1e6), ("GB", 1e9))


def state_text(state: str) -> Text:
    """A state in its colour."""
    return Text(line(state, 20), style=_STYLES.get(state, ""))


def jobs_table(jobs: Sequence[JobView], now: float, width: int) -> Table:
    """One line a job; below 110 columns without the time of its submit."""
    is_wide = width >= 110
    table = _table("ID", "STATE", "NAME", *(["SUBMITTED"] if is_wide else []), "TOOK", "")
    for column in table.columns:
        column.no_wrap = True
    # Only these two give way where it gets narrow.
    table.columns[2].no_wrap = table.columns[-1].no_wrap = False
    table.columns[-2].justify = "right"
    for job in jobs:
        name = _one_line(Text(line(job.name or job.function, 32 if is_wide else 18)))
        submitted = [Text(when(job.submitted_at, now), style="dim")] if is_wide else []
        said = _one_line(remark(job, now))
        table.add_row(line(job.id, 40), state_text(job.state), name, *submitted, took(job, now), said)
    return table


def _one_line(text: Text) -> Text:
    text.no_wrap = True
    text.overflow = "ellipsis"
    return text


def remark(job: JobView, now: float) -> Text:
    """What there is to say of a job in the rest of its line."""
    said = Text()
    if job.progress is not None and job.state not in FINAL:
        said.append_text(progress_text(job.progress)).append("  ")
    if job.state in ("QUEUED", "WAITING") and job.due is not None and job.due > now:
        said.append(f"in {span(job.due - now)}  ", style="dim")
    if job.state == "QUEUED" and job.after:
        said.append(f"after {len(job.after)} other{'s' * (len(job.after) > 1)}  ", style="dim")
    if job.attempt > 1:
        said.append(f"attempt {job.attempt}  ", style="yellow")
    if job.stop is not None and job.state == "STOPPING":
        said.append(line(job.stop, 80) + "  ", style="yellow")
    if job.note:
        style = "" if job.state in ("FAILED", "LOST", "TIMED_OUT") else "dim"
        said.append(line(_MODULE.sub("", job.note), 200), style=style)
    said.rstrip()
    return said


def progress_text(progress: ProgressView) -> Text:
    """The share and a short bar, or the bare number where the whole is not known."""
    note = f" {line(progress.note, 80)}" if progress.note else ""
    if not progress.total or progress.total <= 0:
        return Text(f"{progress.done:g}", style="cyan").append(note, style="dim")
    share = min(1.0, max(0.0, progress.done / progress.total))
    filled = round(share * _BAR)
    # The number first: a narrow table cuts the end off.
    bar = Text(f"{share:4.0%} ").append("━" * filled, style="cyan").append("━" * (_BAR - filled), style="bright_black")
    return bar.append(note, style="dim")


def job_grid(job: JobView, now: float) -> Table:
    """One job, everything that is known of it."""
    grid = _grid()
    for label, value in _facts(job, now):
        grid.add_row(Text(label, style="dim"), value)
    return grid


def _facts(job: JobView, now: float) -> Iterator[tuple[str, Text]]:
    yield "id", Text(line(job.id, 40), style="bold")
    yield "name", Text(line(job.name))
    yield "function", Text(line(job.function) or "(sent along)")
    yield "state", state_text(job.state)
    if job.note:
        yield "", Text(line(job.note, 2000))
    if job.progress is not None:
        yield "progress", progress_text(job.progress)
    yield "submitted", Text(f"{when(job.submitted_at, now)} ({span(now - job.submitted_at)} ago)")
    if job.due is not None and job.state not in FINAL:
        yield "not before", Text(when(job.due, now))
    if job.started_at is not None:
        yield "started", Text(when(job.started_at, now))
    if job.ended_at is not None:
        yield "ended", Text(when(job.ended_at, now))
    if job.started_at is not None:
        yield "took", Text(took(job, now))
    yield (
        "attempt",
        Text(f"{job.attempt} ({job.failures} failed, {job.crashes} crashed)" if job.attempt else "none yet"),
    )
    more = {"key": job.key, "schedule": job.schedule, "limit": job.limit, "asked to stop": job.stop}
    yield from ((label, Text(line(value))) for label, value in more.items() if value)
    if job.priority:
        yield "priority", Text(str(job.priority))
    if job.lane != "process":
        yield "lane", Text(line(job.lane))
    if job.tags:
        yield "tags", Text(line(", ".join(job.tags)))
    if job.after:
        yield "after", Text(line(", ".join(job.after), 2000))


def result_lines(opened: Opened) -> Text | None:
    """What a job returned or raised; None where there is nothing to show."""
    if opened.traceback:
        return Text("\n" + _cut(lines(opened.traceback).rstrip()), style="red")
    if opened.value is None and not opened.text:
        return None
    shown = lines(opened.text) if opened.text else json.dumps(opened.value)
    return Text("\nresult     ", style="dim").append(_cut(shown), style="not dim")


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[:_LONGEST] + " …"


def events_table(events: Sequence[EventView], now: float) -> Table:
    """What happened to a job, in order."""
    table = _table("WHEN", "WHAT", "ATTEMPT", "")
    for event in events:
        shown = line(event.kind, 40)
        kind = Text(shown, style=_STYLES.get(event.kind.upper(), ""))
        table.add_row(when(event.at, now), kind, str(event.attempt or ""), line(event.note, 300))
    return table


def figures_table(figures: Sequence[FigureView], now: float) -> Table:
    """One line a file."""
    table = _table("FILE", "SIZE", "CHANGED")
    for one in figures:
        table.add_row(line(one.name), size(one.size), when(one.changed_at, now))
    return table


def schedules_table(schedules: Sequence[ScheduleView], now: float) -> Table:
    """One line a schedule."""
    table = _table("NAME", "CRON", "ZONE", "NEXT", "FUNCTION")
    for one in schedules:
        due = Text("paused", style="yellow") if one.is_paused else Text(f"{when(one.next_at, now)}")
        table.add_row(line(one.name), line(one.cron), line(one.zone), due, line(one.function))
    return table


def stats_grid(stats: StatsView, place: str, now: float) -> Table:
    """How the service is."""
    grid = _grid()
    counts = Text()
    for state in STATES:
        if number := stats.states.get(state, 0):
            counts.append(f"{number:,} ").append(state, style=_STYLES[state]).append("  ")
    counts.rstrip()
    rows = {
        "service": Text(f"asyncjobs {line(stats.version)}, pid {stats.pid}, up {span(now - stats.started_at)}"),
        "directory": Text(line(place)),
        "workers": Text(f"{stats.busy} of {stats.processes} busy"),
        **({"trouble": Text(line(stats.trouble, 400), style="bold red")} if stats.trouble else {}),
        "jobs": counts if counts.plain else Text("none"),
        "paused": Text(line(", ".join(stats.paused)), style="yellow") if stats.paused else Text("nothing"),
        "memory": Text(f"{size(stats.rss)} for the service itself"),
        "database": Text(f"{size(stats.db_bytes)}, {size(stats.disk_free)} of disk free, start number {stats.epoch}"),
    }
    for label, value in rows.items():
        grid.add_row(Text(label, style="dim"), value)
    return grid


def when(at: float, now: float) -> str:
    """The time of day, with the date where it is another day."""
    then = time.localtime(at)
    is_today = then[:3] == time.localtime(now)[:3]
    return time.strftime("%H:%M:%S" if is_today else "%Y-%m-%d %H:%M", then)


def took(job: JobView, now: float) -> str:
    """How long the last attempt ran, or runs; empty before the first."""
    if job.started_at is None:
        return ""
    end = job.ended_at if job.ended_at is not None else now if job.state in ("RUNNING", "STOPPING") else None
    return "" if end is None else span(end - job.started_at)


def span(seconds: float) -> str:
    """``0.4 s``, ``12 s``, ``3 m 20 s``, ``2 h 5 m``, ``3 d 4 h``."""
    seconds = max(0.0, seconds)
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size_of, unit, below, lower in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size_of:
            return f"{whole // size_of} {unit} {whole % size_of // below} {lower}"
    return f"{whole} s"


def counted(number: int, what: str = "job") -> str:
    """``1 job``, ``2 jobs``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def size(nbytes: int) -> str:
    """``512 bytes``, ``3.1 MB``."""
    if nbytes < 1000:
        return f"{nbytes} bytes"
    unit, base = next(((unit, base) for unit, base in _SIZES if nbytes < 999.5 * base), _SIZES[-1])
    value = nbytes / base
    return f"{value:.1f} {unit}" if value < 99.95 else f"{value:,.0f} {unit}"


def _table(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for title in titles:
        table.add_column(title)
    return table


def _grid() -> Table:
    return Table.grid(padding=(0, 2))
