"""``asyncjobs bench flow``: whether queues and pipelines keep a model fed, beside the libraries made for it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from asyncjobs.bench import flowfeeds as feeds
from asyncjobs.bench import flowoverlap, flowqueues, flowtaken, flowwork, system
from asyncjobs.bench.flowfeeds import DATA_LOADER, OURS, Feeder, Load, LoaderSettings
from asyncjobs.bench.flowlab import Lab, Results, measurement
from asyncjobs.bench.flowscale import FULL, QUICK, Scale
from asyncjobs.bench.measure import Goal, Measurement
from asyncjobs.bench.output import check_writable, progress, publish
from asyncjobs.bench.result import Report

STAGE_ALLOWANCE = 15e-6
"""Seconds per item above the stage itself."""
ITEMS = 100_000_000
GIGABYTES = 100
BATCHES = GIGABYTES * 10**9 // flowwork.MIB
FLAT = 100e6
"""Bytes over so many items, or gigabytes: 1 byte an item, a thousandth of the data."""
END = 0.3
"""Seconds from a `break` until workers and memory are gone."""


def main(json_path: Path | None = None, html_path: Path | None = None, quick: bool = False) -> None:
    """Measure everything, print it, and write the figures and the page where a path is given.

    About a quarter of an hour on two cores, with `quick` under one; nothing else should run meanwhile. Needs numpy.
    """
    check_writable(html_path)
    scale = QUICK if quick else FULL
    table = system.table()
    with Lab(progress) as lab:
        measurements = list(_rows(scale, lab))
    command = "asyncjobs bench flow --quick" if quick else "asyncjobs bench flow"
    publish(Report("asyncjobs bench flow", command, table, measurements), json_path, html_path)


def _rows(scale: Scale, lab: Lab) -> Iterator[Measurement]:
    pace = lab.call("the pace of this machine", flowwork.pace)
    yield from flowoverlap.rows(scale, pace, lab)
    yield _per_item(scale, lab)
    yield _per_item_processes(scale, lab)
    yield from _full(scale, lab)
    yield _items_flat(scale, lab)
    yield _batches_flat(scale, lab)
    yield from _stop(scale, pace, lab)
    yield from _start(scale, pace, lab)
    for how in flowqueues.HOWS:
        yield lab.call(f"one queue, {how}", flowqueues.race, how, scale.rounds, scale.queued)


# --- tiny items -------------------------------------------------------------------------


def _per_item(scale: Scale, lab: Lab) -> Measurement:
    load = Load(flowwork.echo, scale.tiny, ahead=64)
    everyone = [
        feeds.changed(feeds.our("thread"), OURS, ahead=0),
        *feeds.installed(
            feeds.loader(LoaderSettings(0)),
            feeds.loader(LoaderSettings(1, 8)),
            feeds.SPDL_FEEDER,
            feeds.GRAIN_THREADS_FEEDER,
            feeds.TF_DATA_FEEDER,
        ),
    ]
    results = lab.race("one item, threads", everyone, scale.rounds, flowtaken.per_item, load)
    return measurement(
        results,
        "per item",
        "One tiny item through a stage, by a plain for",
        "s",
        f"{scale.tiny:,} items through a function that returns its argument, in one thread; DataLoader: in the loop "
        "itself, or one worker process. Less what a loop takes that calls it itself.",
        [OURS],
        [Goal("one item, thread stage, above the stage", OURS, "", STAGE_ALLOWANCE, at_least=False, unit="s")],
        higher_is_better=False,
    )


def _per_item_processes(scale: Scale, lab: Lab) -> Measurement:
    load = Load(flowwork.echo, max(scale.tiny // 4, 1_000), ahead=64)
    everyone = [
        feeds.changed(feeds.our("process"), OURS, ahead=0),
        *feeds.installed(
            feeds.loader(LoaderSettings(1, 8)), feeds.SPDL_EXECUTOR_FEEDER, feeds.GRAIN_FEEDER, feeds.WINDOW_FEEDER
        ),
    ]
    results = lab.race("one item, processes", everyone, scale.few_rounds, flowtaken.per_item, load)
    return measurement(
        results,
        "per item",
        "One tiny item through a stage in a process",
        "s",
        f"The same with {load.count:,} items and one worker process.",
        [OURS],
        higher_is_better=False,
    )


# --- large batches ----------------------------------------------------------------------


def _full(scale: Scale, lab: Lab) -> Iterator[Measurement]:
    load = Load(flowwork.Filled(), scale.full)
    mine = [
        feeds.changed(feeds.our("process"), f"{OURS}, {workers} workers, {ahead} ahead", workers=workers, ahead=ahead)
        for workers in (1, 2)
        for ahead in (4, 8)
    ]
    loaders = feeds.loaders(scale.tries_settings)
    tried = lab.race("1 MiB, settings", [*mine, *loaders], 1, flowtaken.rate, load)
    ours, theirs = _best(mine, tried, OURS), _best(loaders, tried, DATA_LOADER)
    yield measurement(
        tried,
        "rate",
        "Batches of 1 MiB, every setting once",
        " batches/s",
        f"{load.count:,} batches that cost nothing but the memory. The best take part below.",
        [one.name for one in mine],
        higher_is_better=True,
    )
    others = feeds.installed(
        feeds.SPDL_ARENA_FEEDER, feeds.SPDL_EXECUTOR_FEEDER, feeds.GRAIN_FEEDER, feeds.WINDOW_FEEDER
    )
    results = lab.race("1 MiB", [*ours, *theirs, *others], scale.rounds, flowtaken.rate, load)
    yield measurement(
        results,
        "rate",
        "Batches of 1 MiB from a process",
        " batches/s",
        f"{load.count:,} batches that cost nothing but the memory; asyncjobs and DataLoader with their best settings.",
        [OURS],
        [Goal("batches of 1 MiB from a process", OURS, DATA_LOADER, 2.0, at_least=True)],
        higher_is_better=True,
    )


def _best(feeders: list[Feeder], results: Results, name: str) -> list[Feeder]:
    """The fastest of them under another name; nobody if none was measured."""
    names = {one.name for one in feeders}
    fastest = results.best("per item", among=names)
    return [feeds.renamed(one, name) for one in feeders if one.name == fastest]


# --- memory -----------------------------------------------------------------------------


def _items_flat(scale: Scale, lab: Lab) -> Measurement:
    load = Load(flowwork.echo, scale.many)
    feeder = feeds.our("thread")
    results = lab.race("memory, items", [feeder], 1, flowtaken.growth, load, ITEMS)
    return _growth(results, f"{ITEMS // 10**6} million items", f"{scale.many:,} items through a thread stage")


def _batches_flat(scale: Scale, lab: Lab) -> Measurement:
    load = Load(flowwork.Filled(), scale.many_batches)
    feeder = feeds.our("process")
    results = lab.race("memory, batches", [feeder], 1, flowtaken.growth, load, BATCHES)
    return _growth(
        results, f"{GIGABYTES} GB of batches", f"{scale.many_batches:,} batches of 1 MiB made in a worker process"
    )


def _growth(results: Results, of: str, how: str) -> Measurement:
    return measurement(
        results,
        "growth",
        f"Growth over {of}",
        "bytes",
        f"{how}; memory of all processes at thirty points after the first quarter; the median slope of all pairs of "
        f"points, extrapolated to {of}.",
        [OURS],
        [Goal(f"growth over {of}", OURS, "", FLAT, at_least=False, unit="bytes")],
        higher_is_better=False,
    )


# --- the beginning and the end ----------------------------------------------------------


def _stop(scale: Scale, pace: flowwork.Pace, lab: Lab) -> Iterator[Measurement]:
    load = Load(pace.unpacked(0.02), 1_000, workers=2)
    settings = LoaderSettings(2, 2, is_persistent=False)
    everyone = [
        Feeder(OURS, "", partial(feeds.ours_bare, lane="process")),
        *feeds.installed(feeds.loader(settings, DATA_LOADER)),
    ]
    results = lab.race("break", everyone, scale.rounds, flowtaken.stop, load)
    yield measurement(
        results,
        "ended",
        "From a break until nothing is left",
        "s",
        "Two worker processes prepare batches of 1 MiB, 20 ms each, and all are busy at the break. Until no worker is "
        "left, and the memory of all processes is within 8 MiB of what it was.",
        [OURS],
        [Goal("from a break until workers and memory are gone", OURS, "", END, at_least=False, unit="s")],
        higher_is_better=False,
    )
    yield measurement(
        results,
        "left",
        "From a break until the next statement",
        "s",
        "The same, as the loop's program sees it.",
        [OURS],
        higher_is_better=False,
    )


def _start(scale: Scale, pace: flowwork.Pace, lab: Lab) -> Iterator[Measurement]:
    load = Load(pace.unpacked(0.002), 50, workers=2)
    loaders = [
        feeds.loader(LoaderSettings(2), f"{DATA_LOADER}, fork"),
        feeds.loader(LoaderSettings(2, is_persistent=False), f"{DATA_LOADER}, fork, not persistent"),
    ]
    if scale.tries_settings:
        loaders.append(feeds.loader(LoaderSettings(2, start_method="forkserver"), f"{DATA_LOADER}, forkserver"))
    everyone = [
        feeds.our("process"),
        *feeds.installed(*loaders, feeds.SPDL_ARENA_FEEDER, feeds.GRAIN_FEEDER, feeds.WINDOW_FEEDER),
    ]
    results = lab.race("start", everyone, scale.few_rounds, flowtaken.start, load, is_fresh=True)
    titles = {"first epoch": "From nothing to the first batch", "second epoch": "The second epoch's first batch"}
    for figure, title in titles.items():
        yield measurement(
            results,
            figure,
            title,
            "s",
            "Two workers (SPDL: one), batches of 1 MiB, 2 ms each; a fresh interpreter that has imported the library.",
            [OURS],
            higher_is_better=False,
        )
