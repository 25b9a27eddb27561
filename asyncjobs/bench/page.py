"""Put a benchmark on one HTML page: goals, a picture for each measurement, the system; opens without any network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from asyncjobs.bench import table
from asyncjobs.bench.measure import Measurement, spread
from asyncjobs.bench.result import Report, comparison
from asyncjobs.page import Part, Table, write_html
from asyncjobs.report import dress

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_OURS = "#d9822b"
_THEIRS = "#9aa3ab"
# Where the unit is not yet a word.
_AXIS = {"s": "seconds"}
_INTRO = (
    "Every contestant was measured in the same run, one after the other in each round, with its workers started "
    "before the clock. A figure is the median of the rounds, with the quartiles in brackets; a ratio is taken inside "
    "each round. Targets that were missed are shown like the others.\n\nTo get this page again: {command}"
)


def write(report: Report, path: Path) -> None:
    """Write the page; needs plotly (the extra ``plot``).

    Raises:
        ModuleNotFoundError: plotly is not installed.
    """
    parts: dict[str, Part | Sequence[Part]] = {"Goals": goals(report)}
    for measurement in report.measurements:
        parts[measurement.title] = list(_section(measurement))
    parts["System"] = Table(("", ""), list(report.system.items()))
    write_html(parts, path, title=report.title, intro=_INTRO.format(command=report.command))


def _section(measurement: Measurement) -> Iterator[Part]:
    yield measurement.note
    # A single bar shows nothing that the table does not.
    if len(table.ordered(measurement)) > 1:
        yield picture(measurement)
    yield figures(measurement)


def goals(report: Report) -> Table:
    """Each target, what was reached, and a word."""
    rows = [
        (table.goal_text(verdict.goal), table.measured_text(verdict), table.mark(verdict))
        for verdict in report.verdicts()
    ]
    return Table(("goal", "measured", ""), rows)


def figures(measurement: Measurement) -> Table:
    """The measurement as a table, failed contestants included."""
    return Table(
        ("", "version", "median [quartiles]", "rounds", "ours / this"),
        [_row(measurement, name) for name in measurement.values],
    )


def _row(measurement: Measurement, name: str) -> tuple[str, ...]:
    version = measurement.versions.get(name, "")
    values = measurement.values[name]
    if not values:
        return name, version, f"failed: {measurement.failures.get(name, 'not measured')}", "0", ""
    found = None if name in measurement.ours else comparison(measurement, name)
    ratio = table.ratio_text(found.median) if found else ""
    return name, version, table.spread_text(spread(values), measurement.unit), str(len(values)), ratio


def picture(measurement: Measurement) -> Figure:
    """A bar for each contestant, best on top, asyncjobs in its own colour; the whiskers are the quartiles."""
    from plotly import graph_objects

    names = list(reversed(table.ordered(measurement)))
    spreads = [spread(measurement.values[name]) for name in names]
    bars = graph_objects.Bar(
        orientation="h",
        y=names,
        x=[one.median for one in spreads],
        marker={"color": [_OURS if name in measurement.ours else _THEIRS for name in names]},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [one.high - one.median for one in spreads],
            "arrayminus": [one.median - one.low for one in spreads],
        },
        hoverinfo="skip",
    )
    figure = dress(graph_objects.Figure(bars), measurement.title, "")
    better = "longer" if measurement.higher_is_better else "shorter"
    figure.update_xaxes(
        title=f"{_AXIS.get(measurement.unit, measurement.unit).strip()} ({better} bars are better)", rangemode="tozero"
    )
    figure.update_yaxes(automargin=True)
    return figure.update_layout(height=110 + 34 * len(names), showlegend=False)
