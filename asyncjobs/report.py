"""Draw a runner's statistics as plotly figures.

Pure: a `Stats` snapshot in, figures out; nothing is shown or written (`page.write_html`
does that). Needs the extra ``plot``.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from heapq import heappop, heappush
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple, cast

from asyncjobs.page import FONT, INK, RULE, Table, escape, write_html
from asyncjobs.stats import LaneStats, Span, Stats

__all__ = [
    "LANE_COLORS",
    "STATE_COLORS",
    "Table",
    "depth_steps",
    "dress",
    "durations",
    "figures",
    "graph_objects",
    "log_bins",
    "nice_step",
    "pack",
    "panels",
    "queue_depth",
    "seconds_text",
    "summary",
    "throughput",
    "timeline",
    "write_html",
]

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

STATE_COLORS = {
    "SUCCEEDED": "#2b7a9e",
    "FAILED": "#c8402f",
    "TIMED_OUT": "#e39a26",
    "CANCELLED": "#9aa3ab",
    "LOST": "#6b3a8c",
}
"""One colour per final state, told apart by colour-blind readers too."""

LANE_COLORS = ("#2b7a9e", "#d9822b", "#5f8f3e", "#8a5a9e", "#b0483c", "#4a5a6a")

# Beyond this a browser takes seconds to draw the bars (10,000 take about one).
_DRAWN_SPANS = 10_000
# A lane of a thousand coroutines gets a band of this many rows, its bars thinner.
_ROWS_PER_WORKER = 8
_BINS_PER_DECADE = 8
_THROUGHPUT_BINS = 60
_SINCE = "seconds since the first job was queued"


def figures(stats: Stats) -> dict[str, Figure]:
    """Every picture of a runner, by its heading; works on a runner that has run nothing.

    All but the counts come from `stats.spans`, the newest finished jobs; instants are
    seconds since the first of them was queued.
    """
    return {
        "Jobs per worker": timeline(stats),
        "Queue depth": queue_depth(stats),
        "Waiting and running": durations(stats),
        "Throughput": throughput(stats),
    }


def timeline(stats: Stats) -> Figure:
    """A bar per job from start to end of its last attempt, a row per worker, a colour per final state.

    Jobs that one worker ran at the same time (coroutines, threads) lie side by side in
    its row. A job that ended while it waited is drawn from queued to ended. At most the newest
    10,000 jobs are drawn.
    """
    figure = _figure(
        "Jobs per worker",
        "Each bar is one job, from its last start to its end. White between the bars is time in which that worker "
        "had nothing to do.",
    )
    spans = stats.spans[-_DRAWN_SPANS:]
    if not spans:
        return _say_empty(figure)
    zero = _zero(spans)
    labels: dict[float, str] = {}
    bars: dict[str, list[_Bar]] = defaultdict(list)
    top = 0.0
    for worker, group in _by_worker(spans, list(stats.lanes)):
        rows, count = pack([_interval(span) for span in group])
        band = min(count, _ROWS_PER_WORKER)
        labels[top + band / 2] = escape(worker)
        for span, row in zip(group, rows, strict=True):
            bars[span.state].append(_Bar(span, top + (row + 0.5) * band / count, 0.84 * band / count))
        top += band + 0.35
    for state in sorted(bars, key=list(STATE_COLORS).index):
        figure.add_trace(_bar_trace(state, bars[state], zero))
    figure.update_layout(barmode="overlay", height=130 + round(top * max(14.0, min(34.0, 700 / top))))
    figure.update_yaxes(
        range=[top, -0.2], tickvals=list(labels), ticktext=list(labels.values()), showgrid=False, automargin=True
    )
    return _seconds_axis(figure)


def queue_depth(stats: Stats) -> Figure:
    """How many jobs waited at each moment, as steps, one strip per lane."""
    caption = (
        "Jobs waiting for a free worker. A lane whose strip stays high is the bottleneck; near zero, its workers wait "
        "for you. Counted from finished jobs: what still waits now is not in it."
    )
    if not stats.spans:
        return _say_empty(dress(graph_objects().Figure(), "Queue depth", caption))
    lanes = _lane_colors(stats)
    figure = dress(panels([f"{name} lane" for name in lanes], gap=0.32 / len(lanes)), "Queue depth", caption)
    zero = _zero(stats.spans)
    for row, (name, color) in enumerate(lanes.items(), start=1):
        at, depth = depth_steps(span for span in stats.spans if span.lane == name)
        trace = graph_objects().Scatter(
            x=[_micro(moment - zero) for moment in at],
            y=depth,
            name=escape(name),
            showlegend=False,
            mode="lines",
            fill="tozeroy",
            line={"shape": "hv", "width": 1, "color": color},
            hovertemplate="%{y:,} waiting at %{x:.3f} s",
        )
        figure.add_trace(trace, row=row, col=1)
    figure.update_yaxes(title="jobs", rangemode="tozero", nticks=4)
    figure.update_layout(height=140 + 120 * len(lanes))
    _seconds_axis(figure).update_xaxes(title=None, showticklabels=True)
    return figure.update_xaxes(title=_SINCE, row=len(lanes), col=1)


def durations(stats: Stats) -> Figure:
    """Histograms of the time from queued to started and of the last attempt's own, on logarithmic axes."""
    caption = (
        "How long jobs waited for a worker, and how long their last attempt then ran. Waiting far longer than "
        "running: add workers. The scale is logarithmic, each step is ten times the one before."
    )
    started = [span for span in stats.spans if span.started_at is not None]
    if not started:
        return _say_empty(_figure("Waiting and running", caption))
    figure = dress(panels(["waited in the queue", "ran"]), "Waiting and running", caption)
    for name, color in _lane_colors(stats).items():
        mine = [span for span in started if span.lane == name]
        waits = [(span.started_at or 0.0) - span.queued_at for span in mine]
        runs = [span.seconds for span in mine if span.attempt_at is not None]
        for row, values in enumerate((waits, runs), start=1):
            figure.add_trace(_histogram_trace(name, color, values, legend=row == 1), row=row, col=1)
    figure.update_yaxes(title="jobs", rangemode="tozero")
    exponents = range(-6, 6)
    figure.update_xaxes(type="log", tickvals=[10.0**power for power in exponents], showticklabels=True)
    figure.update_xaxes(ticktext=[seconds_text(10.0**power) for power in exponents])
    return figure.update_layout(height=480, legend_y=1.09)


def throughput(stats: Stats) -> Figure:
    """Jobs finished per second over time, stacked by lane."""
    figure = _figure("Throughput", "Jobs that ended in each slice of time, per second, whatever their final state.")
    if not stats.spans:
        return _say_empty(figure)
    zero = _zero(stats.spans)
    # One instant only: any width will do, but zero would divide by zero.
    width = nice_step((max(span.ended_at for span in stats.spans) - zero) / _THROUGHPUT_BINS) or 1e-3
    plotly = graph_objects()
    for name, color in _lane_colors(stats).items():
        ended = Counter(int((span.ended_at - zero) / width) for span in stats.spans if span.lane == name)
        figure.add_trace(
            plotly.Bar(
                x=[_micro((index + 0.5) * width) for index in sorted(ended)],
                y=[ended[index] / width for index in sorted(ended)],
                width=width,
                name=escape(name),
                marker={"color": color, "line": {"width": 0}},
                hovertemplate="%{y:,.0f} jobs/s around %{x:.3f} s",
            )
        )
    figure.update_layout(barmode="stack", bargap=0, legend_traceorder="normal")
    figure.update_yaxes(title="jobs per second", rangemode="tozero")
    return _seconds_axis(figure)


def summary(stats: Stats) -> Table:
    """Each lane as a table: counts of all jobs since the runner opened, times of the latest finished ones."""
    head = ("lane", "succeeded", "failed", "timed out", "cancelled", "lost", "waited, median", "ran, median", "busy")
    return Table(head, [_summary_row(lane) for lane in stats.lanes.values()])


def _summary_row(lane: LaneStats) -> tuple[str, ...]:
    counts = (lane.succeeded, lane.failed, lane.timed_out, lane.cancelled, lane.lost)
    waited, ran = (seconds_text(times.p50) if times.count else "-" for times in (lane.wait, lane.run))
    return (lane.lane, *(f"{count:,}" for count in counts), waited, ran, f"{lane.busy_share:.0%}")


# -- rules: plain values in, plain values out ------------------------------------------------------------


def pack(intervals: Sequence[tuple[float, float]]) -> tuple[list[int], int]:
    """Give each (start, end) the lowest row that is free at its start; and say how many rows that took.

    [(0, 2), (1, 3), (2, 4)] -> ([0, 1, 0], 2)
    """
    rows = [0] * len(intervals)
    free: list[int] = []
    busy: list[tuple[float, int]] = []
    count = 0
    for index in sorted(range(len(intervals)), key=intervals.__getitem__):
        start, end = intervals[index]
        while busy and busy[0][0] <= start:
            heappush(free, heappop(busy)[1])
        if not free:
            heappush(free, count)
            count += 1
        rows[index] = heappop(free)
        heappush(busy, (end, rows[index]))
    return rows, count


def depth_steps(spans: Iterable[Span]) -> tuple[list[float], list[int]]:
    """The moments at which a queue's length changed, and the length from each on.

    A job leaves the queue when it starts or, if it never did, when it ends.
    """
    changes: Counter[float] = Counter()
    for span in spans:
        changes[span.queued_at] += 1
        changes[span.ended_at if span.started_at is None else span.started_at] -= 1
    at = sorted(changes)
    depth, lengths = 0, []
    for moment in at:
        depth += changes[moment]
        lengths.append(depth)
    return at, lengths


def log_bins(values: Iterable[float]) -> tuple[list[float], list[int]]:
    """Count durations in bins of equal width on a logarithmic axis, eight to a factor of ten.

    The edges (one more than the counts) enclose all values; below 1 microsecond counts as 1 microsecond.
    """
    indexes = Counter(math.floor(math.log10(max(value, 1e-6)) * _BINS_PER_DECADE) for value in values)
    if not indexes:
        return [], []
    low, high = min(indexes), max(indexes)
    edges = [10.0 ** (index / _BINS_PER_DECADE) for index in range(low, high + 2)]
    return edges, [indexes[index] for index in range(low, high + 1)]


def nice_step(step: float) -> float:
    """The smallest of 1, 2, 5 x 10^n that is not below `step`; 0.0 for 0.0."""
    if step <= 0.0:
        return 0.0
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= step * (1 - 1e-9))


def seconds_text(seconds: float) -> str:
    """A duration for people, three digits at most: ``40 µs``, ``2.5 ms``, ``1.85 s``."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size * 0.9995:
            return f"{seconds / size:,.0f} {unit}" if seconds >= 100 * size else f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


# -- drawing ---------------------------------------------------------------------------------------------


class _Bar(NamedTuple):
    span: Span
    y: float
    height: float


def _bar_trace(state: str, bars: Sequence[_Bar], zero: float) -> object:
    intervals = [_interval(bar.span) for bar in bars]
    hover = [
        (escape(bar.span.name), escape(_worker(bar.span)), *(map(seconds_text, _waited_and_ran(bar.span))))
        for bar in bars
    ]
    return graph_objects().Bar(
        orientation="h",
        base=[_micro(start - zero) for start, _ in intervals],
        x=[_micro(end - start) for start, end in intervals],
        y=[round(bar.y, 4) for bar in bars],
        width=[round(bar.height, 4) for bar in bars],
        name=_plain(state),
        showlegend=True,
        marker={"color": STATE_COLORS[state], "line": {"width": 0}},
        customdata=hover,
        hovertemplate=(
            "<b>%{customdata[0]}</b><br>%{customdata[1]}, " + _plain(state) + "<br>waited %{customdata[2]}, "
            "ran %{customdata[3]}<br>from %{base:.3f} s<extra></extra>"
        ),
    )


def _histogram_trace(name: str, color: str, values: Sequence[float], *, legend: bool) -> object:
    edges, counts = log_bins(values)
    # A step line from zero to zero: bars on a logarithmic axis would need a width each.
    x = [edge for edge in edges for _ in (0, 1)]
    y = [0, *(count for count in counts for _ in (0, 1)), 0] if counts else []
    return graph_objects().Scatter(
        x=x,
        y=y,
        name=escape(name),
        legendgroup=name,
        showlegend=legend,
        mode="lines",
        fill="tozeroy",
        line={"width": 1.6, "color": color},
        hovertemplate="%{y:,} jobs around %{x:.2g} s",
    )


def graph_objects() -> ModuleType:
    """Plotly's module of figures and traces, loaded at the first picture.

    Raises:
        ModuleNotFoundError: plotly is missing; says how to get it.
    """
    try:
        from plotly import graph_objects as module
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'pictures need plotly: pip install "asyncjobs-runner[plot]"', name=error.name
        ) from error
    return cast(ModuleType, module)


def _figure(title: str, caption: str) -> Figure:
    return dress(graph_objects().Figure(), title, caption)


def dress(figure: Figure, title: str, caption: str) -> Figure:
    """Give a figure the common look; `caption` travels in ``layout.meta`` to the page that shows it."""
    figure.update_layout(
        template="plotly_white",
        title={"text": title, "x": 0, "xref": "paper", "font": {"size": 18}},
        meta={"caption": caption},
        font={"family": FONT, "size": 13, "color": INK},
        height=330,
        margin={"l": 70, "r": 24, "t": 64, "b": 56},
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
        hoverlabel={"align": "left", "font": {"family": FONT}},
    )
    figure.update_xaxes(gridcolor=RULE, zeroline=False)
    figure.update_yaxes(gridcolor=RULE, zeroline=False)
    return figure


def panels(
    titles: Sequence[str], *, columns: int = 1, heights: Sequence[float] | None = None, gap: float = 0.16
) -> Figure:
    """Several drawing areas, each with its title at the left: a stack, or side by side with `columns`.

    A stack shares its horizontal axis, what stands side by side the vertical one. `heights` are
    the rows' shares, `gap` is the share of the height between two rows. Raises `ModuleNotFoundError`
    as `graph_objects` does.
    """
    graph_objects()
    from plotly.subplots import make_subplots

    rows = math.ceil(len(titles) / columns)
    figure = make_subplots(
        rows=rows,
        cols=columns,
        shared_xaxes=columns == 1,
        shared_yaxes=columns > 1,
        vertical_spacing=gap if rows > 1 else None,
        horizontal_spacing=0.06 if columns > 1 else None,
        row_heights=heights,
        subplot_titles=[escape(title) for title in titles],
    )
    for index, title in enumerate(figure.layout.annotations):
        axis = figure.layout["xaxis" if index == 0 else f"xaxis{index + 1}"]
        title.update(font={"size": 13, "color": INK}, x=axis.domain[0], xanchor="left")
    return figure


def _say_empty(figure: Figure) -> Figure:
    figure.add_annotation(
        text="No job has finished yet.", showarrow=False, xref="paper", yref="paper", x=0.5, y=0.5, font={"size": 15}
    )
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    figure.update_layout(height=160)
    return figure


def _seconds_axis(figure: Figure) -> Figure:
    return figure.update_xaxes(title=_SINCE, rangemode="tozero")


def _by_worker(spans: Sequence[Span], lanes: Sequence[str]) -> list[tuple[str, list[Span]]]:
    """The spans of each worker, in the order of the lanes, ``process-2`` before ``process-10``."""
    groups: dict[tuple[int, str], list[Span]] = defaultdict(list)
    for span in spans:
        groups[lanes.index(span.lane), _worker(span)].append(span)

    def place(key: tuple[int, str]) -> tuple[int, list[tuple[int, str]]]:
        return key[0], [(len(part), part) for part in re.findall(r"\d+|\D+", key[1])]

    return [(key[1], groups[key]) for key in sorted(groups, key=place)]


def _worker(span: Span) -> str:
    if not span.worker:
        return f"{span.lane}: {'never started' if span.started_at is None else 'ended between attempts'}"
    return span.worker if span.worker.startswith(span.lane) else f"{span.lane}: {span.worker}"


def _interval(span: Span) -> tuple[float, float]:
    return (span.queued_at if span.attempt_at is None else span.attempt_at, span.ended_at)


def _waited_and_ran(span: Span) -> tuple[float, float]:
    return (span.ended_at if span.started_at is None else span.started_at) - span.queued_at, span.seconds


def _zero(spans: Iterable[Span]) -> float:
    return min(span.queued_at for span in spans)


def _lane_colors(stats: Stats) -> dict[str, str]:
    """The lanes that finished a job, in the runner's order, each with its colour."""
    seen = {span.lane for span in stats.spans}
    return {name: LANE_COLORS[index % len(LANE_COLORS)] for index, name in enumerate(stats.lanes) if name in seen}


def _plain(state: str) -> str:
    return state.lower().replace("_", " ")


def _micro(seconds: float) -> float:
    # Six places: a microsecond. Sixteen would double the size of the page.
    return round(seconds, 6)
