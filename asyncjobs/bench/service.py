"""``asyncjobs bench service``: what the durable service does in a second, beside other queues on disk."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from asyncjobs.bench import peers, servicedisk, serviceload, servicetaken, system
from asyncjobs.bench.flowlab import Lab, Results, measurement
from asyncjobs.bench.measure import Goal, Measurement
from asyncjobs.bench.output import check_writable, progress, publish
from asyncjobs.bench.result import Report
from asyncjobs.bench.serviceours import OURS, PROCESSES, ours
from asyncjobs.bench.servicepeers import DBOS, FLEXIQ, HUEY, all_settings, best_guess
from asyncjobs.bench.servicequeue import Queue
from asyncjobs.bench.servicescale import FULL, QUICK, Scale

CONNECTIONS = 8
IN_FLIGHT = 8
"""Submits of one client, in the row beside the one where each waits for the one before."""
LIMIT = 1800.0
"""Seconds for one figure: a million jobs take some minutes."""
MEGABYTE = 1e6
FLAT = 20 * MEGABYTE
"""Bytes: 20 for each of a million jobs; the database's page cache of 16 MB fills meanwhile."""
SYNCED = "fdatasync by itself"
ABOVE = "above 1.5 x fdatasync"
DURABLE = "Commits of every contestant but FlexiQ's are synchronised with the disk (WAL, synchronous=FULL)."


def main(json_path: Path | None = None, html_path: Path | None = None, quick: bool = False) -> None:
    """Measure everything, print it, and write the figures and the page where a path is given.

    About twenty minutes on two cores, with `quick` two; nothing else should run meanwhile, nor use the disk: the one
    below TMPDIR. Needs the extra ``service``; ``bench-service`` for the other queues, wrk for its row.
    """
    check_writable(html_path)
    scale = QUICK if quick else FULL
    table = {**system.table(), **_versions(), **servicedisk.table()}
    measurements = measure_all(scale)
    command = "asyncjobs bench service --quick" if quick else "asyncjobs bench service"
    publish(Report("asyncjobs bench service", command, table, measurements), json_path, html_path)


def measure_all(scale: Scale) -> list[Measurement]:
    """Every row of the table, in the order in which they are shown."""
    with Lab(progress, LIMIT) as lab:
        return list(_rows(scale, lab))


def _versions() -> Mapping[str, str]:
    found = {package: peers.version(package) for package in ("httptools", "huey", "dbos", "flexiq")}
    return found | {"wrk": _wrk_version()}


def _wrk_version() -> str:
    if not serviceload.has_wrk():
        return "-"
    words = subprocess.run(["wrk", "-v"], capture_output=True, text=True, check=False).stdout.split()
    return words[1] if len(words) > 1 else "unknown"


def _rows(scale: Scale, lab: Lab) -> Iterator[Measurement]:
    others = best_guess()
    if scale.tries_settings:
        tried = _tried(scale, lab)
        yield tried[0]
        others = tried[1]
    yield from _batches(scale, lab, others)
    yield _mapped(scale, lab)
    yield from _requests(scale, lab)
    yield _one_by_one(scale, lab, others)
    yield _side_by_side(scale, lab, others)
    yield from _start(scale, lab, others)
    yield from _queued(scale, lab)
    yield from _idle(scale, lab, others)


# --- tiny jobs --------------------------------------------------------------------------


def _tried(scale: Scale, lab: Lab) -> tuple[Measurement, list[Queue]]:
    """Peers with every setting once, and the best of each under its own name."""
    queues = all_settings()
    sizes = (scale.jobs, scale.their_jobs, scale.batch)
    results = lab.race("settings of peers", queues, 1, servicetaken.batches, *sizes)
    best = []
    for name in (HUEY, DBOS, FLEXIQ):
        among = [queue for queue in queues if queue.name.startswith(name)]
        rates = {queue.name: values for queue in among if (values := results.of("done")[queue.name])}
        fastest = max(rates, key=lambda queue: rates[queue][0], default="")
        best += [replace(queue, name=name) for queue in among if queue.name == fastest]
    shown = measurement(
        results,
        "done",
        "Peers with every setting, once",
        " jobs/s",
        "As the next one; the best take part below.",
        [],
        higher_is_better=True,
    )
    return shown, best


def _batches(scale: Scale, lab: Lab, others: Sequence[Queue]) -> Iterator[Measurement]:
    sizes = (scale.jobs, scale.their_jobs, scale.batch)
    results = lab.race("batches", [ours(), *others], scale.rounds, servicetaken.batches, *sizes)
    yield measurement(
        results,
        "done",
        "Tiny jobs until their results are on disk",
        " jobs/s",
        f"{scale.jobs:,} jobs (peers: {scale.their_jobs:,}) of a function that returns its argument, submitted by one "
        f"client, {scale.batch} at a time, until every result is on disk; {PROCESSES} worker processes. huey has no "
        f"batches; a batch is one transaction for the others. {DURABLE}",
        [OURS],
        [
            Goal("tiny jobs until results are on disk", OURS, HUEY, 5.0, at_least=True),
            Goal("tiny jobs until results are on disk", OURS, "", 5_000.0, at_least=True, unit=" jobs/s"),
        ],
        higher_is_better=True,
    )
    yield measurement(
        results,
        "accepted",
        "Of these, accepted",
        " jobs/s",
        "The same jobs until the last submit has returned; the first of them run meanwhile.",
        [OURS],
        higher_is_better=True,
    )


def _mapped(scale: Scale, lab: Lab) -> Measurement:
    results = lab.race("map", [ours()], scale.rounds, servicetaken.mapped, scale.jobs)
    return measurement(
        results,
        "done",
        "Tiny jobs through map, results in hand",
        " jobs/s",
        f"{scale.jobs:,} items through `map(...).collect()` of the client; each result was on disk before it came.",
        [OURS],
        higher_is_better=True,
    )


# --- one at a time ----------------------------------------------------------------------


def _requests(scale: Scale, lab: Lab) -> Iterator[Measurement]:
    named = [servicetaken.TCP, servicetaken.UNIX]
    if serviceload.has_wrk():
        named = [servicetaken.WRK, *named]
    generators = [replace(ours(), name=name) for name in named]
    for paused in (False, True):
        what = "which runs none of them (paused)" if paused else f"whose {PROCESSES} workers run them meanwhile"
        title = "One job a request, accepted" + (", nothing runs" if paused else "")
        results = lab.race(title, generators, scale.rounds, servicetaken.requests, scale.load, CONNECTIONS, paused)
        yield measurement(
            results,
            "accepted",
            title,
            " requests/s",
            f"{CONNECTIONS} connections for {scale.load:g} s, each with one request at a time to a service {what}; "
            "every job that was answered for is in the database afterwards. The generator shares the two cores.",
            named,
            [Goal(title[0].lower() + title[1:], named[0], "", 2_500.0, at_least=True, unit=" requests/s")],
            higher_is_better=True,
        )


def _one_by_one(scale: Scale, lab: Lab, others: Sequence[Queue]) -> Measurement:
    results = lab.race("one by one", [ours(), *others], scale.rounds, servicetaken.one_by_one, scale.single)
    return measurement(
        results,
        "accepted",
        "One client, one job at a time, accepted",
        " jobs/s",
        f"{scale.single:,} jobs, each submitted when the one before is on disk; they run meanwhile. Each waits for its "
        "own fdatasync.",
        [OURS],
        [Goal("one client, one job at a time", OURS, "", 800.0, at_least=True, unit=" jobs/s")],
        higher_is_better=True,
    )


def _side_by_side(scale: Scale, lab: Lab, others: Sequence[Queue]) -> Measurement:
    queues = [ours(), *others]
    results = lab.race("side by side", queues, scale.rounds, servicetaken.side_by_side, scale.single, IN_FLIGHT)
    return measurement(
        results,
        "accepted",
        f"One client, {IN_FLIGHT} jobs at a time, accepted",
        " jobs/s",
        f"{scale.single:,} jobs, {IN_FLIGHT} submits in flight: coroutines of one program with asyncjobs, threads with "
        "the others. Each is accepted when it is on disk; with asyncjobs those that wait share a request and a commit.",
        [OURS],
        [Goal(f"one client, {IN_FLIGHT} jobs at a time", OURS, "", 800.0, at_least=True, unit=" jobs/s")],
        higher_is_better=True,
    )


def _start(scale: Scale, lab: Lab, others: Sequence[Queue]) -> Iterator[Measurement]:
    results = lab.race("start", [ours(), *others], scale.rounds, servicetaken.start, scale.starts)
    yield measurement(
        results,
        "delay",
        "From a submit to the start of the job, nothing else to do",
        "s",
        f"The median of {scale.starts} jobs, 50 ms apart; the job says when it began. Peers' workers look for jobs "
        "every millisecond.",
        [OURS],
        higher_is_better=False,
    )
    figures = results.of("above")[OURS]
    yield Measurement(
        title="The same beside the disk",
        unit="s",
        higher_is_better=False,
        values={ABOVE: figures, SYNCED: results.of("fdatasync")[OURS]},
        ours=[ABOVE],
        goals=[Goal("submit to start, above 1.5 x fdatasync", ABOVE, "", 0.002, at_least=False, unit="s")],
        failures={ABOVE: results.failures[OURS]} if OURS in results.failures else {},
        note="Before each of these jobs 4 KiB are appended to a file on the same disk, and fdatasync is timed.",
    )


# --- a million --------------------------------------------------------------------------


def _queued(scale: Scale, lab: Lab) -> Iterator[Measurement]:
    results = lab.race(f"{scale.queued:,} queued jobs", [ours()], 1, servicetaken.queued, scale.queued)
    count = f"{scale.queued:,} queued jobs"
    yield _ours_only(
        results,
        {"first quarter": "of the first quarter", "last quarter": "of the last quarter", "worked off": "worked off"},
        f"{count}: accepted per second",
        " jobs/s",
        "Nothing runs; one client, 1,000 at a time. Afterwards, how many are done in a second while the others wait.",
        [Goal("accepted at a flat rate", "of the last quarter", "of the first quarter", 0.8, at_least=True)],
        higher_is_better=True,
    )
    yield _ours_only(
        results,
        {"growth": "growth while they are accepted", "memory": "with all of them", "memory at work": "while they run"},
        f"{count}: memory of the service",
        "bytes",
        "Proportional set size of the service's process; growth beyond what it has with the first twentieth of them.",
        [Goal("memory flat", "growth while they are accepted", "", FLAT, at_least=False, unit="bytes")],
    )
    yield _ours_only(
        results,
        {
            "ready after a stop": "ready after a stop",
            "ready after SIGKILL": "ready after SIGKILL",
            "stopped in": "until it has stopped",
        },
        f"{count}: the restart",
        "s",
        "From the start of the interpreter until it says that it is ready, the jobs still queued.",
        [
            Goal("ready after a stop", "ready after a stop", "", 2.0, at_least=False, unit="s"),
            Goal("ready after SIGKILL", "ready after SIGKILL", "", 2.0, at_least=False, unit="s"),
        ],
    )
    yield _ours_only(
        results,
        {"bytes on disk per job": "each job"},
        f"{count}: the database",
        "bytes",
        "The database file over the number of jobs.",
    )


def _ours_only(
    results: Results,
    names: Mapping[str, str],
    title: str,
    unit: str,
    note: str,
    goals: Sequence[Goal] = (),
    *,
    higher_is_better: bool = False,
) -> Measurement:
    """Several figures of our own, each as a contestant with a name of its own."""
    failure = results.failures.get(OURS)
    return Measurement(
        title=title,
        unit=unit,
        higher_is_better=higher_is_better,
        values={name: results.of(figure)[OURS] for figure, name in names.items()},
        ours=list(names.values()),
        goals=goals,
        failures=dict.fromkeys(names.values(), failure) if failure else {},
        note=note,
    )


# --- nothing to do ----------------------------------------------------------------------


def _idle(scale: Scale, lab: Lab, others: Sequence[Queue]) -> Iterator[Measurement]:
    results = lab.race("idle, no job yet", [ours()], scale.rounds, servicetaken.fresh, scale.idle)
    yield _ours_only(
        results,
        {"share": "before the first job"},
        "Idle service",
        "share",
        f"Processor time of all its processes over {scale.idle:g} s.",
        [Goal("idle before the first job", "before the first job", "", 0.0005, at_least=False, unit="share")],
    )
    yield _ours_only(
        results,
        {"memory": "its process"},
        "Memory before the first job",
        "bytes",
        "Proportional set size.",
        [Goal("memory before the first job", "its process", "", 80 * MEGABYTE, at_least=False, unit="bytes")],
    )
    yield _ours_only(
        results,
        {"workers": "processes beside the service's"},
        "Workers before the first job",
        "",
        "How many processes it has started.",
        [Goal("workers before they are needed", "processes beside the service's", "", 0, at_least=False)],
    )
    yield _ours_only(
        results, {"ready": "ready"}, "From nothing to ready", "s", "From the start of the interpreter; an empty folder."
    )
    yield from _idle_after_jobs(scale, lab, others)


def _idle_after_jobs(scale: Scale, lab: Lab, others: Sequence[Queue]) -> Iterator[Measurement]:
    results = lab.race("idle, after jobs", [ours(), *others], 1, servicetaken.used, scale.idle)
    yield measurement(
        results,
        "share",
        "Idle after some jobs",
        "share",
        f"Processor time of all processes over {scale.idle:g} s; peers look for jobs every millisecond here, as above, "
        "for a short way to the start.",
        [OURS],
        [Goal("idle after some jobs", OURS, "", 0.0005, at_least=False, unit="share")],
        higher_is_better=False,
    )
    yield measurement(
        results,
        "memory",
        "Memory of all processes after some jobs",
        "bytes",
        "Proportional set size of the service and its two workers; of a peer's workers.",
        [OURS],
        higher_is_better=False,
    )
