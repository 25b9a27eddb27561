"""A finished benchmark as one value, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from asyncjobs.bench.measure import Measurement, Spread, Verdict, judge, ratios, spread


@dataclass(frozen=True, slots=True)
class Report:
    """What a benchmark has found; everything that is shown is computed from this."""

    title: str
    command: str
    """What to type to get it again."""
    system: Mapping[str, str]
    measurements: Sequence[Measurement]

    def verdicts(self) -> list[Verdict]:
        """Every goal, in the order of the measurements."""
        return [verdict for measurement in self.measurements for verdict in judge(measurement)]

    def to_json(self) -> str:
        """All figures, with every single value; durations in seconds, sizes in bytes."""
        figures = {
            "title": self.title,
            "command": self.command,
            "system": dict(self.system),
            "measurements": [_measurement(one) for one in self.measurements],
        }
        return json.dumps(figures, indent=2) + "\n"


def comparison(measurement: Measurement, theirs: str) -> Spread | None:
    """Ours over `theirs`, round by round; None if one of them was not measured, or nobody is ours."""
    if not measurement.ours:
        return None
    ours = measurement.beside.get(theirs, measurement.ours[0])
    found = ratios(measurement.values[ours], measurement.values[theirs])
    return spread(found) if found else None


def _measurement(measurement: Measurement) -> dict[str, Any]:
    return {
        "title": measurement.title,
        "unit": measurement.unit,
        "higher_is_better": measurement.higher_is_better,
        "note": measurement.note,
        "contestants": [_contestant(measurement, name) for name in measurement.values],
        "goals": [_verdict(verdict) for verdict in judge(measurement)],
    }


def _contestant(measurement: Measurement, name: str) -> dict[str, Any]:
    values = list(measurement.values[name])
    against = None if name in measurement.ours else comparison(measurement, name)
    return {
        "name": name,
        "version": measurement.versions.get(name, ""),
        "is_ours": name in measurement.ours,
        "values": values,
        "spread": _spread(spread(values) if values else None),
        "ours_over_this": _spread(against),
        "failure": measurement.failures.get(name),
    }


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {**asdict(verdict.goal), "measured": _spread(verdict.measured), "reached": verdict.reached}


def _spread(figures: Spread | None) -> dict[str, float] | None:
    return figures._asdict() if figures else None
