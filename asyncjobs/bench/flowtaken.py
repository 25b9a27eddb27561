"""What ``asyncjobs bench flow`` measures of one contestant, once; called in an interpreter of its own (`flowlab`)."""

from __future__ import annotations

import gc
import importlib
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from asyncjobs.bench import flowbound, processor_time, system
from asyncjobs.bench.flowbound import Times
from asyncjobs.bench.flowfeeds import Epoch, Feeder, Load
from asyncjobs.bench.flowwork import MIB, Trainer, checked, number_of
from asyncjobs.bench.memory import of_family

Figures = dict[str, float]

SLACK = 8 * MIB
"""Memory that may be held longer than before and still counts as back: allocators keep some."""
PATIENCE = 20.0
"""Seconds that workers get to end."""
LOOK_EVERY = 0.002


# --- overlap ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Case:
    """What is prepared, and how long a step of the training takes."""

    load: Load
    train_rounds: int


def overlap(feeder: Feeder, case: Case) -> Figures:
    """Prepare and train, apart and together; after an epoch that nobody times."""
    load, trainer = case.load, Trainer(case.train_rounds)
    serial, cpu = _apart(load, trainer)
    before = of_family(os.getpid())
    with feeder.open(load) as epoch:
        grown = _warm(epoch, feeder, load, before)
        gc.collect()
        drain, first = _drain(epoch, load.count)
        train = _trained(trainer, load.count)
        used = processor_time.of_family(os.getpid())
        overlapped, waited = _overlapped(epoch, feeder, load, trainer)
        used = processor_time.of_family(os.getpid()) - used
    times = Times(load.count, train, drain, overlapped, serial, cpu, first, waited, system.cores())
    others = {"processor time per batch": used / load.count, "memory": float(grown)}
    return flowbound.figures(times) | others


def _apart(load: Load, trainer: Trainer) -> tuple[float, float]:
    """Seconds, and seconds of processor time, for one after the other in one thread; from a part of the batches."""
    part = min(load.count, 15)
    began, used = time.perf_counter(), time.process_time()
    for index in range(part):
        trainer.step(load.fn(index))
    scale = load.count / part
    return (time.perf_counter() - began) * scale, (time.process_time() - used) * scale


def _warm(epoch: Epoch, feeder: Feeder, load: Load, before: int) -> int:
    """All workers have worked, and what arrives is right; the most memory by which everything has grown."""
    most = 0
    for number, _ in enumerate(checked(epoch(), load.count, feeder.is_ordered)):
        if number % 8 == 4:
            most = max(most, of_family(os.getpid()))
    return max(most - before, 0)


def _drain(epoch: Epoch, count: int) -> tuple[float, float]:
    """Seconds for so many at the pace after the first one, and until that one."""
    began = time.perf_counter()
    items = epoch()
    next(items)
    first = time.perf_counter() - began
    for _ in items:
        pass
    return (time.perf_counter() - began - first) * count / (count - 1), first


def _trained(trainer: Trainer, count: int) -> float:
    import numpy as np

    batch = np.zeros(MIB, np.uint8)
    began = time.perf_counter()
    for _ in range(count):
        trainer.step(batch)
    return time.perf_counter() - began


def _overlapped(epoch: Epoch, feeder: Feeder, load: Load, trainer: Trainer) -> tuple[float, float]:
    """Seconds for all, and of them those that the trainer waited."""
    waited, seen = 0.0, []
    began = asked = time.perf_counter()
    for batch in epoch():
        waited += time.perf_counter() - asked
        seen.append(number_of(batch))
        trainer.step(batch)
        asked = time.perf_counter()
    _check(seen, feeder, load)
    return asked - began, waited


# --- rates ------------------------------------------------------------------------------


def per_item(feeder: Feeder, load: Load) -> Figures:
    """Seconds for each item of a plain `for`, above a loop that calls the function itself; workers warm."""
    with feeder.open(load) as epoch:
        _check(epoch(), feeder, load)
        gc.collect()
        whole = _seconds(epoch)
    alone = _seconds(lambda: map(load.fn, range(load.count)))
    return {"per item": (whole - alone) / load.count}


def rate(feeder: Feeder, load: Load) -> Figures:
    """Items per second of a plain `for`; workers warm."""
    with feeder.open(load) as epoch:
        _check(epoch(), feeder, load)
        gc.collect()
        seconds = _seconds(epoch)
    return {"rate": load.count / seconds, "per item": seconds / load.count}


def _check(items: Iterable[Any], feeder: Feeder, load: Load) -> None:
    """All are there. In a function of its own: SPDL's arena waits for its memory as long as anybody holds an item."""
    for _ in checked(items, load.count, feeder.is_ordered):
        pass


def _seconds(epoch: Callable[[], Iterable[Any]]) -> float:
    began = time.perf_counter()
    for _ in epoch():
        pass
    return time.perf_counter() - began


# --- memory -----------------------------------------------------------------------------


def growth(feeder: Feeder, load: Load, of: int) -> Figures:
    """Bytes by which all processes would grow over `of` items: the slope over the last three quarters of an epoch,
    at forty points, extrapolated."""
    every, counts, sizes = load.count // 40, [], []
    with feeder.open(load) as epoch:
        for count, _ in enumerate(checked_lightly(epoch(), load.count)):
            if count % every == 0 and count >= load.count // 4:
                counts.append(count)
                sizes.append(of_family(os.getpid()))
    return {"growth": flowbound.slope(counts, sizes) * of}


def checked_lightly(items: Iterable[Any], count: int) -> Iterable[Any]:
    """In order and complete, without a list that grows.

    Raises:
        RuntimeError: an item is not the next one.
    """
    expected = 0
    for item in items:
        if number_of(item) != expected:
            raise RuntimeError(f"item {number_of(item)} came instead of {expected}")
        expected += 1
        yield item
    if expected != count:
        raise RuntimeError(f"{expected} items of {count} came")


# --- the beginning and the end ----------------------------------------------------------


def stop(feeder: Feeder, load: Load) -> Figures:
    """Seconds from a `break` until `for` has returned, and until no worker is left and memory is back."""
    with feeder.open(load) as epoch:
        _broken_off(epoch())  # helpers that stay for good, and the code of all this
        _wait(set(processor_time.family(os.getpid())), 0)
        pids, nbytes = set(processor_time.family(os.getpid())), of_family(os.getpid())
        began = _broken_off(epoch())
        left = time.perf_counter() - began
        _wait(pids, nbytes)
        return {"left": left, "ended": time.perf_counter() - began}


def _broken_off(items: Iterable[Any]) -> float:
    """When the loop was left, all workers busy."""
    for number, _ in enumerate(items):
        if number == 5:
            began = time.perf_counter()
            break
    del items
    return began


def _wait(pids: set[int], nbytes: int) -> None:
    """Until no other processes are left, and not much more memory is held; `nbytes` 0: whatever is held."""
    end = time.perf_counter() + PATIENCE
    while time.perf_counter() < end:
        if set(processor_time.family(os.getpid())) <= pids and (not nbytes or of_family(os.getpid()) <= nbytes + SLACK):
            return
        time.sleep(LOOK_EVERY)
    raise RuntimeError(f"after {PATIENCE:g} s there are still workers, or their memory")


def start(feeder: Feeder, load: Load) -> Figures:
    """Seconds from nothing to the first batch of the first epoch, and to that of the second; libraries imported."""
    if feeder.module:
        importlib.import_module(feeder.module)
    began = time.perf_counter()
    with feeder.open(load) as epoch:
        first = _first(epoch, began)
        again = _first(epoch, time.perf_counter())
    return {"first epoch": first, "second epoch": again}


def _first(epoch: Epoch, began: float) -> float:
    """From then until the first batch; the others are taken as well."""
    items = epoch()
    next(items)
    first = time.perf_counter() - began
    for _ in items:
        pass
    return first
