"""The rows of ``asyncjobs bench flow`` about preparing beside training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from asyncjobs.bench import flowfeeds as feeds
from asyncjobs.bench import flowtaken
from asyncjobs.bench.flowfeeds import DATA_LOADER, OURS, Feeder, Load, LoaderSettings
from asyncjobs.bench.flowlab import Lab, Results, measurement
from asyncjobs.bench.flowscale import Scale
from asyncjobs.bench.flowtaken import Case
from asyncjobs.bench.flowwork import Pace, Waited, waited_20_ms
from asyncjobs.bench.measure import Goal, Measurement

COUNTED = {0.58: 0.97, 1.0: 0.97}
"""Preparing over training: the goal for the overlap efficiency. 0.58 is the ratio of the published LSTM."""
STEP = 0.010
"""Seconds of a training step."""
ANY_ORDER = f"{OURS}, any order"

_DEFINITIONS = (
    "Preparing unpacks data (zlib, numpy) for batches of 1 MiB, training multiplies matrices in the main process; one "
    "thread each, two cores. The bound: the longest of training alone, the same workers draining with nobody who "
    "trains, and all computing spread over two cores; and one preparation, before the first step. What is shown is "
    "the bound over what was measured."
)


class _Row(NamedTuple):
    """A figure of `flowtaken.overlap` that is shown."""

    figure: str
    title: str
    unit: str
    higher_is_better: bool


_ROWS = (
    _Row("time per batch", "Time per batch", "s", False),
    _Row("overhead per batch", "Above the bound, per batch", "s", False),
    _Row("hidden", "Share of what could be hidden that was", "share", True),
    _Row("stall share", "Share of its time that the trainer waited", "share", False),
    _Row("processor time per batch", "Processor time per batch, all processes", "s", False),
    _Row("memory", "Memory of all processes, beyond that before", "bytes", False),
    _Row("first batch", "Until the first batch of an epoch, workers warm", "s", False),
)


def rows(scale: Scale, pace: Pace, lab: Lab) -> Iterator[Measurement]:
    """All of them, in the order in which they are shown."""
    settings = _best_settings(scale, pace, lab)
    yield from settings.shown
    for ratio in scale.ratios:
        results = _raced(scale, pace, ratio, settings.best, lab)
        yield _efficiency(results, ratio)
        if ratio == 0.58:
            yield from _details(results, ratio)
    yield _locked(scale, pace, settings.best, lab)
    yield _waiting(scale, lab)
    yield _uneven(scale, pace, lab)


def _case(pace: Pace, ratio: float, batches: int) -> Case:
    return Case(Load(pace.unpacked(ratio * STEP), batches), pace.train_rounds(STEP))


# --- the DataLoader's best --------------------------------------------------------------


class _Settings(NamedTuple):
    best: list[Feeder]
    """The DataLoader as it was fastest, or nobody."""
    shown: list[Measurement]


def _best_settings(scale: Scale, pace: Pace, lab: Lab) -> _Settings:
    """Every setting once, at the ratio of the published LSTM."""
    everyone = feeds.loaders(scale.tries_settings)
    if len(everyone) < 2:
        return _Settings([feeds.renamed(one, DATA_LOADER) for one in everyone], [])
    case = _case(pace, 0.58, scale.batches)
    results = lab.race("DataLoader's settings", everyone, 1, flowtaken.overlap, case)
    best = results.best("time per batch")
    shown = measurement(
        results,
        "time per batch",
        "DataLoader's settings, preparing over training 0.58",
        "s",
        f"Time per batch, preparing beside training; each once. The fastest takes part below: {best}.",
        [],
        higher_is_better=False,
    )
    return _Settings([feeds.renamed(one, DATA_LOADER) for one in everyone if one.name == best], [shown])


# --- who overlaps best ------------------------------------------------------------------


def _raced(scale: Scale, pace: Pace, ratio: float, loader: Sequence[Feeder], lab: Lab) -> Results:
    is_counted = ratio in COUNTED
    others = [
        feeds.SPDL_ARENA_FEEDER,
        feeds.SPDL_EXECUTOR_FEEDER,
        feeds.GRAIN_FEEDER,
        feeds.TF_DATA_FEEDER,
        feeds.TF_QUEUE_FEEDER,
    ]
    everyone = [
        feeds.our("process"),
        *loader,
        *feeds.installed(*(others if is_counted else ()), feeds.WINDOW_FEEDER, feeds.NOTHING_FEEDER),
    ]
    rounds = scale.rounds if is_counted else max(1, scale.rounds // 2)
    title = f"preparing over training {ratio:g}"
    return lab.race(title, everyone, rounds, flowtaken.overlap, _case(pace, ratio, scale.batches))


def _efficiency(results: Results, ratio: float) -> Measurement:
    what = f"overlap efficiency, preparing over training {ratio:g}"
    goals = [Goal(what, OURS, "", COUNTED[ratio], at_least=True)] if ratio in COUNTED else []
    return measurement(
        results,
        "efficiency",
        f"Overlap efficiency, preparing over training {ratio:g}",
        "",
        _DEFINITIONS + f" A step of the training takes {STEP * 1000:g} ms. {feeds.NOTHING.capitalize()}: "
        "a second process prepares and keeps its batches, which is what the machine itself allows.",
        [OURS],
        goals,
        higher_is_better=True,
    )


def _details(results: Results, ratio: float) -> Iterator[Measurement]:
    for row in _ROWS:
        yield measurement(
            results,
            row.figure,
            f"{row.title}, preparing over training {ratio:g}",
            row.unit,
            "From the same rounds.",
            [OURS],
            higher_is_better=row.higher_is_better,
        )
    saving = measurement(
        results,
        "saving",
        f"What overlapping saves, preparing over training {ratio:g}",
        "share",
        "Of the time of one after the other in one thread; beside it the most that could be saved.",
        [OURS],
        higher_is_better=True,
    )
    ceiling = {f"{OURS}, at most": results.of("saving, at most")[OURS]}
    yield replace(saving, values={**saving.values, **ceiling}, ours=[OURS, *ceiling])


# --- other kinds of work ----------------------------------------------------------------


def _locked(scale: Scale, pace: Pace, loader: Sequence[Feeder], lab: Lab) -> Measurement:
    case = Case(Load(pace.computed(0.58 * STEP), scale.batches), pace.train_rounds(STEP))
    threads = f"{OURS}, in a thread"
    everyone = [
        feeds.our("process"),
        feeds.our("thread", threads),
        *loader,
        *feeds.installed(feeds.SPDL_EXECUTOR_FEEDER, feeds.SPDL_FEEDER, feeds.TF_DATA_FEEDER, feeds.WINDOW_FEEDER),
    ]
    results = lab.race("plain Python", everyone, scale.few_rounds, flowtaken.overlap, case)
    return measurement(
        results,
        "time per batch",
        "Time per batch, preparing in plain Python",
        "s",
        "As at 0.58, but preparing holds the interpreter's lock: in threads (SPDL and tf.data as well) it stands in "
        "the trainer's way.",
        [OURS, threads],
        beside={feeds.SPDL: threads, feeds.TF_DATA: threads},
        higher_is_better=False,
    )


def _waiting(scale: Scale, lab: Lab) -> Measurement:
    load = Load(Waited(0.02, 0.02), scale.waits, workers=scale.waiters, ahead=64)
    on_loop = {"fn": waited_20_ms, "workers": 256}
    threads = f"{OURS}, {scale.waiters} threads"
    everyone = [
        feeds.changed(feeds.our("loop"), f"{OURS}, 256 coroutines", **on_loop),
        feeds.our("thread", threads),
        *feeds.installed(
            feeds.changed(feeds.SPDL_FEEDER, "SPDL, 256 coroutines", **on_loop),
            feeds.renamed(feeds.SPDL_FEEDER, f"SPDL, {scale.waiters} threads"),
            feeds.renamed(feeds.GRAIN_THREADS_FEEDER, f"Grain, {scale.waiters} threads"),
            feeds.renamed(feeds.TF_DATA_FEEDER, f"tf.data, {scale.waiters} calls"),
            feeds.loader(LoaderSettings(scale.waiters, 2)),
        ),
    ]
    results = lab.race("waiting", everyone, scale.few_rounds, flowtaken.rate, load)
    ours = [everyone[0].name, threads]
    return measurement(
        results,
        "rate",
        "Items that wait 20 ms each",
        " items/s",
        f"{scale.waits:,} items, as for a disk or a server, many at once.",
        ours,
        beside={
            f"SPDL, {scale.waiters} threads": threads,
            f"Grain, {scale.waiters} threads": threads,
            f"tf.data, {scale.waiters} calls": threads,
        },
        higher_is_better=True,
    )


def _uneven(scale: Scale, pace: Pace, lab: Lab) -> Measurement:
    case = Case(Load(Waited(0.010, 0.100), 2 * scale.batches, workers=4), pace.train_rounds(STEP / 2))
    any_order = partial(LoaderSettings, 4, 2)
    everyone = [
        feeds.our("process"),
        feeds.our("process", ANY_ORDER, is_ordered=False),
        *feeds.installed(
            feeds.loader(any_order(), DATA_LOADER),
            feeds.loader(any_order(in_order=False), f"{DATA_LOADER}, any order"),
            feeds.SPDL_FEEDER,
            feeds.SPDL_ANY_ORDER_FEEDER,
        ),
    ]
    results = lab.race("uneven times", everyone, scale.few_rounds, flowtaken.overlap, case)
    return measurement(
        results,
        "time per batch",
        "Time per item, every twentieth ten times as slow",
        "s",
        f"Items wait 10 ms or 100 ms, four at once (SPDL in threads), 4 ahead; a training step takes {STEP * 500:g} "
        "ms. In order, all wait for the slow one.",
        [OURS, ANY_ORDER],
        beside={f"{DATA_LOADER}, any order": ANY_ORDER, feeds.SPDL_ANY_ORDER: ANY_ORDER},
        higher_is_better=False,
    )
