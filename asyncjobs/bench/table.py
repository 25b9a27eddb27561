"""Write a benchmark's figures as words and aligned lines of text; no colours, no plots."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from asyncjobs.bench.measure import Goal, Measurement, Spread, Verdict, spread
from asyncjobs.bench.result import Report, comparison
from asyncjobs.report import seconds_text

_NAME_WIDTH = 36
_FIGURES_WIDTH = 44


def lines(report: Report) -> Iterator[str]:
    """The whole report, one line at a time."""
    yield report.title
    for name, text in report.system.items():
        yield f"  {name:<{_NAME_WIDTH}}{text}"
    for measurement in report.measurements:
        yield ""
        yield from measurement_lines(measurement)
    yield ""
    yield "Goals"
    for verdict in report.verdicts():
        yield f"  {mark(verdict):<9}{goal_text(verdict.goal)}: {measured_text(verdict)}"
    reached = sum(verdict.reached is True for verdict in report.verdicts())
    yield f"{reached} of {len(report.verdicts())} reached"


def measurement_lines(measurement: Measurement) -> Iterator[str]:
    """One measurement: a heading, then each contestant with its spread and what ours is compared with it."""
    better = "more" if measurement.higher_is_better else "less"
    yield f"{measurement.title} ({better} is better)"
    for name, values in measurement.values.items():
        if name in measurement.failures:
            yield f"  {name:<{_NAME_WIDTH}}failed: {measurement.failures[name]}"
        elif values:
            # A name or a figure longer than its column pushes the rest on, but never touches it.
            figures = f"{spread_text(spread(values), measurement.unit):<{_FIGURES_WIDTH}}"
            yield f"  {name:<{_NAME_WIDTH - 2}}  {figures}  {_against(measurement, name)}".rstrip()


def _against(measurement: Measurement, name: str) -> str:
    found = None if name in measurement.ours else comparison(measurement, name)
    return f"ours is {ratio_text(found.median)}" if found else ""


def spread_text(figures: Spread, unit: str) -> str:
    """The median with the quartiles: ``9,510 jobs/s  [9,120 .. 9,800]``; a single value stands alone."""
    middle = value_text(figures.median, unit)
    if figures.rounds == 1:
        return middle
    # A unit that follows the number stands once; µs and ms, kB and MB may differ inside one spread.
    repeated = unit if unit.startswith(" ") else ""
    low, high = (value_text(value, unit).removesuffix(repeated) for value in (figures.low, figures.high))
    return f"{middle}  [{low} .. {high}]"


def value_text(value: float, unit: str) -> str:
    """A figure as people read it, to three digits.

    ``s`` as ``40 µs``, ``bytes`` as ``12.3 MB``, ``share`` in percent; any other unit
    follows the number as it is: ``9,510 jobs/s``.
    """
    match unit:
        case "s":
            return seconds_text(value)
        case "bytes":
            return bytes_text(value)
        case "share":
            return f"{value:.2%}"
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}{unit}" if rounded == int(rounded) else f"{rounded:g}{unit}"


def bytes_text(nbytes: float) -> str:
    """Decimal units: 756 -> ``756 B``, 12,300,000 -> ``12.3 MB``."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(nbytes) >= size:
            return f"{nbytes / size:.3g} {unit}"
    return f"{nbytes:.0f} B"


def ratio_text(ratio: float) -> str:
    """``0.14 x``, ``8.31 x``, ``120 x``."""
    return f"{ratio:.0f} x" if ratio >= 100 else f"{ratio:.2f} x"


def goal_text(goal: Goal) -> str:
    """``jobs one by one: at least 8 x ProcessPoolExecutor.submit``."""
    bound = "at least" if goal.at_least else "at most"
    if goal.against:
        return f"{goal.what}: {bound} {goal.target:g} x {goal.against}"
    return f"{goal.what}: {bound} {value_text(goal.target, goal.unit)}"


def measured_text(verdict: Verdict) -> str:
    """The median and its quartiles, as a ratio or in the goal's own unit."""
    if verdict.measured is None:
        return "not measured"
    if not verdict.goal.against:
        return spread_text(verdict.measured, verdict.goal.unit)
    low, high = ratio_text(verdict.measured.low), ratio_text(verdict.measured.high)
    return f"{ratio_text(verdict.measured.median)}  [{low} .. {high}]"


def mark(verdict: Verdict) -> str:
    """One word."""
    return {True: "reached", False: "MISSED", None: "-"}[verdict.reached]


def ordered(measurement: Measurement) -> Sequence[str]:
    """The names that have values, best first."""
    measured = [name for name, values in measurement.values.items() if values]
    return sorted(
        measured,
        key=lambda name: spread(measurement.values[name]).median,
        reverse=measurement.higher_is_better,
    )
