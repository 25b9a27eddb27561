"""``asyncjobs bench plotting``: what a training loop pays for its plots, beside what people use now."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import asyncjobs as aj
from asyncjobs.bench import loggers, peers, probes, races, system, trackers
from asyncjobs.bench.measure import Goal, Measurement
from asyncjobs.bench.output import check_writable, progress, publish
from asyncjobs.bench.races import Task
from asyncjobs.bench.result import Report
from asyncjobs.bench.trained import ALONE, BLOCKING, EXECUTOR, OURS, QUEUE, SCALARS, Figures, Run

MIB = 2**20


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of training: who is to be compared in it, and how much our plots may cost."""

    loop: str
    step: float
    """Seconds of a step."""
    latency: float
    """Seconds that the server takes to answer; -1: it is down, or nothing goes there."""
    one_core: bool = False
    with_peers: bool = False
    goals: bool = True
    scalars: bool = False
    """Only scalars are logged, into files of this machine, beside trackers."""

    @property
    def ours(self) -> str:
        return SCALARS if self.scalars else OURS

    @property
    def arms(self) -> list[str]:
        others = [BLOCKING, QUEUE, EXECUTOR] if self.with_peers and self.latency >= 0 else []
        return [ALONE, self.ours, *(trackers.here() if self.scalars else others)]

    @property
    def title(self) -> str:
        server = "server down" if self.latency < 0 else f"uploads of {self.latency * 1e3:g} ms"
        if self.scalars:
            server = "scalars into files"
        cores = "no spare core" if self.one_core else "a spare core"
        return f"{self.loop} steps of {self.step * 1e3:g} ms, {server}, {cores}"


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is done."""

    rounds: int
    bursts: int
    seconds: float
    """Of each training run."""
    training_rounds: int
    cases: Sequence[Case]
    points: int


FULL = Scale(
    rounds=7,
    bursts=15,
    seconds=4.0,
    training_rounds=5,
    cases=(
        Case("python", 1e-3, 0.25, with_peers=True),
        Case("python", 1e-3, 0.25, one_core=True, with_peers=True),
        Case("python", 1e-2, 0.25),
        Case("python", 1e-4, 0.25, goals=False),
        Case("numpy", 1e-3, 0.25),
        Case("torch", 1e-3, 0.25),
        Case("python", 1e-3, -1.0, scalars=True),
        Case("python", 1e-3, 0.0),
        Case("python", 1e-3, 0.05),
        Case("python", 1e-3, 5.0),
        Case("python", 1e-3, -1.0),
    ),
    points=1_000_000,
)
QUICK = Scale(
    2, 3, 0.4, 2, (Case("python", 1e-3, 0.05, with_peers=True), Case("python", 1e-3, -1.0, scalars=True)), 50_000
)


def main(json_path: Path | None = None, html_path: Path | None = None, quick: bool = False) -> None:
    """Measure everything, print it, and write the figures and the page where a path is given.

    About ten minutes on two cores, with `quick` half of one; nothing else should run meanwhile.
    """
    check_writable(html_path)
    scale = QUICK if quick else FULL
    table = system.table()
    measurements = aj.run(_races(scale))
    for case in scale.cases:
        if case.loop != "torch" or peers.installed("torch"):
            measurements += _training(case, scale)
    measurements.append(_memory(scale.points))
    command = "asyncjobs bench plotting --quick" if quick else "asyncjobs bench plotting"
    publish(Report("asyncjobs bench plotting", command, table, measurements), json_path, html_path)


async def _races(scale: Scale) -> list[Measurement]:
    # Trackers last: what they start in a process stays there.
    tasks = (_log(scale), _write(scale), _log_beside_trackers(scale))
    return [await races.run(task, scale.rounds, progress) for task in tasks]


def _log(scale: Scale) -> Task:
    others = loggers.other_loggers()
    return Task(
        title="Three scalars, time in the caller",
        unit="s",
        note=f"The median of {scale.bursts} times 2,000 calls in a row, 50 ms apart.",
        ours=loggers.loggers(),
        theirs=others,
        clock=loggers.in_the_caller(2000, scale.bursts),
        goals=[
            Goal("three scalars, in the caller", loggers.LOG, "", 3e-6, at_least=False, unit="s"),
            *(Goal("three scalars, in the caller", loggers.LOG, one.name, 1.0, at_least=False) for one in others),
        ],
        higher_is_better=False,
    )


def _log_beside_trackers(scale: Scale) -> Task:
    others = loggers.tracker_loggers()
    return Task(
        title="Three scalars beside trackers, time in the caller",
        unit="s",
        note=f"The same clock with 200 calls in a row: some take a second to write what came.{trackers.absent()}",
        ours=loggers.loggers(),
        theirs=others,
        clock=loggers.in_the_caller(200, scale.bursts),
        goals=[Goal("three scalars, in the caller", loggers.LOG, one.name, 1.0, at_least=False) for one in others],
        higher_is_better=False,
    )


def _write(scale: Scale) -> Task:
    return Task(
        title=f"A trace of {loggers.POINTS:,} points, time in the caller",
        unit="s",
        note="Two float64 arrays; the same clock with 200 calls in a row.",
        ours=loggers.writers(),
        theirs=loggers.copiers(),
        clock=loggers.in_the_caller(200, scale.bursts),
        goals=[Goal("a trace of 10,000 points", loggers.WRITE, loggers.COPY, 2.0, at_least=False)],
        higher_is_better=False,
    )


# --- training -----------------------------------------------------------------------------


def _training(case: Case, scale: Scale) -> list[Measurement]:
    """All arms of one case, in turns: the time of a step, its 99th percentile, and the time to the last plot."""
    arms = case.arms
    found: dict[str, list[Figures]] = {arm: [] for arm in arms}
    with _server(case.latency) as port:
        for number in range(scale.training_rounds):
            for place in range(len(arms)):
                arm = arms[(number + place) % len(arms)]
                progress(f"{case.title}, round {number + 1} of {scale.training_rounds}: {arm}")
                found[arm].append(_run(case, arm, port, scale.seconds))
    return [_steps(case, found), _tails(case, found), _drains(case, found)]


def _run(case: Case, arm: str, port: int, seconds: float) -> Figures:
    steps = max(20, round(seconds / case.step))
    if arm == BLOCKING:  # so many steps would take it an hour
        steps = max(5, round(seconds / (case.step + case.latency)))
    wanted = Run(arm, case.loop, case.step, steps, port, case.one_core)
    command = [sys.executable, "-m", "asyncjobs.bench.trained", json.dumps(asdict(wanted))]
    done = subprocess.run(command, capture_output=True, text=True, env=probes.source_environment(), check=False)
    if done.returncode:
        raise probes.ProbeFailed(f"exit code {done.returncode}: {done.stderr.strip()[-500:]}")
    return Figures(**json.loads(done.stdout))


@contextmanager
def _server(latency: float) -> Iterator[int]:
    """The port of a plot server in a process of its own; 0 if it is to be down."""
    if latency < 0:
        yield 0
        return
    command = [sys.executable, "-m", "asyncjobs.bench.plotserver", str(latency)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=probes.source_environment()) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        yield int(server.stdout.readline())
        server.stdin.close()


def _steps(case: Case, found: dict[str, list[Figures]]) -> Measurement:
    limit = 1.03 if case.one_core else 1.01
    goal = Goal(f"a step: {case.title}", case.ours, ALONE, limit, at_least=False)
    values = {arm: [one.step for one in figures] for arm, figures in found.items()}
    return _measurement(f"A step: {case.title}", case, values, [goal] if case.goals else [])


def _tails(case: Case, found: dict[str, list[Figures]]) -> Measurement:
    goal = Goal(f"99 % of steps: {case.title}", case.ours, ALONE, 1.1, at_least=False)
    values = {arm: [one.p99 for one in figures] for arm, figures in found.items()}
    return _measurement(f"99 % of steps take at most: {case.title}", case, values, [goal] if case.goals else [])


def _drains(case: Case, found: dict[str, list[Figures]]) -> Measurement:
    goal = Goal(
        f"the last plot: {case.title}", case.ours, "", 1.0 + 2 * max(case.latency, 0.0), at_least=False, unit="s"
    )
    values = {arm: [one.drained for one in figures] for arm, figures in found.items() if arm != ALONE}
    note = "From the last step until the newest plot is out; an upload may be under way that has to end first."
    has_goal = case.latency >= 0 or case.scalars
    return _measurement(f"After the last step: {case.title}", case, values, [goal] if has_goal else [], note)


def _measurement(
    title: str,
    case: Case,
    values: dict[str, list[float]],
    goals: Sequence[Goal],
    note: str = "Fresh processes, in turns.",
) -> Measurement:
    note += trackers.absent() if case.scalars else ""
    return Measurement(
        title=title, unit="s", higher_is_better=False, values=values, ours=[case.ours], goals=goals, note=note
    )


# --- memory -------------------------------------------------------------------------------


def _memory(points: int) -> Measurement:
    progress(f"{points:,} points")
    figures = probes.plotted(points)
    values = {"memory": [figures["grown"]], "points shown": [figures["shown"]]}
    return Measurement(
        title=f"{points:,} points of three curves",
        unit="",
        higher_is_better=False,
        values=values,
        ours=list(values),
        goals=[
            Goal("memory of a million points", "memory", "", 100.0 * MIB, at_least=False, unit="bytes"),
            Goal("points shown of each curve", "points shown", "", 2000.0, at_least=False),
        ],
        note="Growth in bytes of the largest size that the process had, shared pages included.",
    )
