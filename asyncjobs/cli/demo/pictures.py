"""Draw what the demo measured: plain results in, plotly figures out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from asyncjobs.bench import density
from asyncjobs.cli.demo.descent import EVERY, Problem, Run, Step
from asyncjobs.cli.demo.findings import called, counted, workers
from asyncjobs.cli.demo.windows import Estimates, Timing
from asyncjobs.page import escape
from asyncjobs.report import dress, graph_objects, pack, panels, seconds_text

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_BLOCKING, _BACKGROUND = "#d9822b", "#2b7a9e"
_COLORS = {"blocking": _BLOCKING, "background": _BACKGROUND}
_TRUE = "#5f8f3e"
_FAINT = "#c3ccd2"
_CONTINENTS = {
    "Africa": "#d9822b",
    "Americas": "#8a5a9e",
    "Asia": "#2b7a9e",
    "Europe": "#5f8f3e",
    "Oceania": "#b0483c",
}
_INCOME_TICKS = [250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000]


def fit(problem: Problem, run: Run) -> Figure:
    """The countries, the fitted line, and faintly the lines of the first uploads on the way to it."""
    caption = (
        "Each dot is a country in 2007, its area the population. The dark line is the fit after "
        f"{len(run.steps)} steps, the grey ones are the first of those that were uploaded on the way. Income is on a "
        "scale on which each doubling counts the same."
    )
    figure = dress(graph_objects().Figure(), "Life expectancy on income", caption)
    uploaded = [step for step in run.steps if step.number % EVERY == 0]
    for step in uploaded[:8]:
        figure.add_trace(_line(problem, step, _FAINT, 1.2, f"step {step.number}"))
    largest = max(country.population for country in problem.countries)
    for continent, color in _CONTINENTS.items():
        mine = [country for country in problem.countries if country.continent == continent]
        figure.add_trace(
            graph_objects().Scatter(
                x=[country.income for country in mine],
                y=[country.life for country in mine],
                text=[escape(country.name) for country in mine],
                name=continent,
                mode="markers",
                marker={
                    "color": color,
                    "opacity": 0.7,
                    "size": [6 + 34 * math.sqrt(country.population / largest) for country in mine],
                    "line": {"width": 0.8, "color": "white"},
                },
                hovertemplate="<b>%{text}</b><br>%{x:$,.0f} a year, %{y:.1f} years<extra></extra>",
            )
        )
    figure.add_trace(_line(problem, run.steps[-1], "#22303c", 2.6, "fit"))
    figure.update_xaxes(
        type="log",
        title="income per person, dollars a year",
        tickvals=_INCOME_TICKS,
        ticktext=[f"{value:,}" for value in _INCOME_TICKS],
    )
    figure.update_yaxes(title="life expectancy, years")
    return figure.update_layout(height=470, legend_itemsizing="constant")


def _line(problem: Problem, step: Step, color: str, width: float, name: str) -> object:
    _, income_mean, income_deviation = problem.income
    _, life_mean, life_deviation = problem.life
    incomes = [problem.income.values.min(), problem.income.values.max()]
    return graph_objects().Scatter(
        x=[math.exp(income_mean + income_deviation * value) for value in incomes],
        y=[life_mean + life_deviation * (step.slope * value + step.intercept) for value in incomes],
        name=name,
        mode="lines",
        showlegend=name == "fit",
        line={"color": color, "width": width},
        hoverinfo="name",
    )


def loss(blocking: Run, background: Run) -> Figure:
    """The loss by step, where both runs coincide, and by time, where they do not."""
    caption = (
        "The error of the fit. Step by step both runs are the same, so their curves lie on each other (left). "
        "By the clock (right) the run that waits for its uploads goes down in stairs: one stair per upload."
    )
    figure = dress(panels(["by step", "by time"], columns=2), "Loss", caption)
    for run, dash in ((blocking, "solid"), (background, "dot")):
        losses = [step.loss for step in run.steps]
        across = ([float(step.number) for step in run.steps], run.step_ends)
        for column, x in enumerate(across, start=1):
            trace = graph_objects().Scatter(
                x=[round(value, 6) for value in x],
                y=losses,
                name=called(run),
                legendgroup=run.name,
                showlegend=column == 1,
                mode="lines",
                line={"color": _COLORS[run.name], "width": 3, "dash": dash if column == 1 else "solid"},
            )
            figure.add_trace(trace, row=1, col=column)
    figure.update_yaxes(title="mean squared error", row=1, col=1)
    figure.update_xaxes(title="step", row=1, col=1)
    figure.update_xaxes(title="seconds", row=1, col=2)
    return figure.update_layout(legend_y=1.1, margin_t=90)


def timelines(blocking: Run, background: Run) -> Figure:
    """When each run took its steps, and when its uploads were under way, on one scale of time."""
    caption = (
        "A tick is a training step, a bar is an upload from its start to the server's answer. Above, training stands "
        "still during each upload. Below, the steps go on, and the uploads are under way at the same time, in threads."
    )
    runs = (blocking, background)
    titles = [f"{called(run)}: {seconds_text(run.finished)} in all" for run in runs]
    heights = [_strip_height(run, 0.12) for run in runs]
    figure = dress(panels(titles, heights=heights, gap=0.18), "Steps and uploads over time", caption)
    for row, run in enumerate(runs, start=1):
        _strip(figure, run, row, 0.12)
    longest = max(run.finished for run in runs)
    figure.update_xaxes(range=[-0.02 * longest, 1.02 * longest], showticklabels=True)
    figure.update_xaxes(title="seconds since the run began", row=2, col=1)
    return figure.update_layout(height=200 + round(50 * sum(heights)), showlegend=False, barmode="overlay")


def enlarged(background: Run) -> Figure:
    """The timeline of one run alone, over its own stretch of time."""
    caption = (
        "The lower half once more, drawn large. The steps come in bursts of ten, since making the plot takes longer "
        "than they do. They are over long before the last answer is there; only the end of the program waits for it."
    )
    figure = dress(panels([called(background)]), "Uploads in the background, enlarged", caption)
    _strip(figure, background, 1, 0.28)
    figure.update_xaxes(range=[-0.02 * background.finished, 1.02 * background.finished])
    figure.update_xaxes(title="seconds since the run began")
    height = 150 + round(50 * _strip_height(background, 0.28))
    return figure.update_layout(height=height, showlegend=False, barmode="overlay")


def _strip_height(run: Run, pitch: float) -> float:
    return 2.2 + pitch * pack(run.uploads)[1]


def _strip(figure: Figure, run: Run, row: int, pitch: float) -> None:
    """Draw one run: ticks for its steps, and below them its uploads, those at the same time under each other."""
    rows, count = pack(run.uploads)
    color = _COLORS[run.name]
    thickness = max(pitch, 0.5 / count)
    uploads = [0.9 + thickness * (index + 0.5) for index in rows]
    figure.add_trace(_ticks(run, color), row=row, col=1)
    figure.add_trace(_upload_bars(run, color, uploads, 0.84 * thickness), row=row, col=1)
    bottom = 0.9 + thickness * count
    figure.update_yaxes(
        tickvals=[0, (0.9 + bottom) / 2],
        ticktext=["steps", "uploads"],
        range=[bottom + 0.2, -0.6],
        showgrid=False,
        row=row,
        col=1,
    )


def _ticks(run: Run, color: str) -> object:
    return graph_objects().Scatter(
        x=[round(end, 6) for end in run.step_ends],
        y=[0] * len(run.step_ends),
        mode="markers",
        marker={"symbol": "line-ns", "size": 16, "line": {"width": 1, "color": color}},
        text=[f"step {step.number}" for step in run.steps],
        hovertemplate="%{text} done at %{x:.3f} s<extra></extra>",
    )


def _upload_bars(run: Run, color: str, middles: Sequence[float], thickness: float) -> object:
    return graph_objects().Bar(
        orientation="h",
        base=[round(start, 6) for start, _ in run.uploads],
        x=[round(end - start, 6) for start, end in run.uploads],
        y=[round(middle, 4) for middle in middles],
        width=[round(thickness, 4)] * len(middles),
        marker={"color": color, "opacity": 0.75, "line": {"width": 0}},
        hovertemplate="upload, %{x:.3f} s from %{base:.3f} s<extra></extra>",
    )


def window_times(timings: Sequence[Timing], cores: int) -> Figure:
    """A bar per number of workers, with the speed-up over serial written on it."""
    serial = timings[0].seconds
    caption = (
        f"Shorter is better; the bold figure is how many times as fast as serial. All runs have the same "
        f"{counted(cores, 'core')}: more workers than cores cannot help, and should not hurt. Starting the workers is "
        "not in these times, it stands in the table. Each is one run, and wanders when the machine is busy with "
        "something else; asyncjobs bench parzen takes medians."
    )
    figure = dress(graph_objects().Figure(), "Times and speed-ups", caption)
    figure.add_trace(
        graph_objects().Bar(
            x=[workers(timing) for timing in timings],
            y=[timing.seconds for timing in timings],
            text=[f"{timing.seconds:.2f} s<br><b>{serial / timing.seconds:.2f}x</b>" for timing in timings],
            textposition="outside",
            cliponaxis=False,
            width=0.55,
            marker={"color": [_FAINT if timing.workers == 0 else _BACKGROUND for timing in timings]},
            hovertemplate="%{x}: %{y:.3f} s<extra></extra>",
        )
    )
    figure.update_yaxes(title="seconds", range=[0, 1.2 * max(timing.seconds for timing in timings)])
    return figure.update_layout(height=380)


def estimates(found: Estimates) -> Figure:
    """Both estimators over the width, against the true density."""
    caption = (
        "The density of the standard normal at the origin is 1/(2π), about 0.15915. The published program divides by "
        "the width once; in the plane a window has an area, so the right estimate divides by the width squared. It "
        "scatters while the window is so small that few samples are in it, and falls where the window is wider than "
        "the peak."
    )
    figure = dress(graph_objects().Figure(), "Estimates of the density", caption)
    lines = (
        ("published: divided by the width once", found.published, _BLOCKING),
        ("right: divided by the width squared", found.right, _BACKGROUND),
    )
    for name, values, color in lines:
        figure.add_trace(
            graph_objects().Scatter(x=found.widths, y=values, name=name, mode="lines+markers", line={"color": color})
        )
    figure.add_trace(
        graph_objects().Scatter(
            x=[found.widths[0], found.widths[-1]],
            y=[density.TRUE_DENSITY] * 2,
            name="true",
            mode="lines",
            line={"color": _TRUE, "dash": "dash"},
        )
    )
    figure.update_xaxes(title="width of the window")
    figure.update_yaxes(title="density at the origin", rangemode="tozero")
    return figure.update_layout(height=380)
