"""Who feeds a training loop: asyncjobs and the peers. Each is a function that opens it and gives epoch after epoch.

They are opened in an interpreter of their own each (`flowlab`), so peers start their workers as they do by default.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import asyncjobs as aj
from asyncjobs.bench import flowwork, peers

Epoch = Callable[[], Iterator[Any]]
"""The items of the next epoch."""


@dataclass(frozen=True, slots=True)
class Load:
    """What everybody prepares: ``fn(index)`` for each index below `count`."""

    fn: Callable[[int], Any]
    count: int
    workers: int = 1
    """Calls at once: processes, threads, or coroutines if `fn` is one."""
    ahead: int = 4
    """Batches that wait for the trainer; 0: what a library holds by itself."""


@dataclass(frozen=True, slots=True)
class LoaderSettings:
    """Of torch's DataLoader; without workers it has no prefetching."""

    workers: int
    prefetch: int = 2
    in_order: bool = True
    is_persistent: bool = True
    start_method: str | None = None
    """None: its default."""

    def __str__(self) -> str:
        order = "" if self.in_order else ", any order"
        ahead = f", prefetch {self.prefetch}" if self.workers else ""
        return f"DataLoader, {self.workers} workers{ahead}{order}"


# --- asyncjobs --------------------------------------------------------------------------


@contextmanager
def ours(load: Load, lane: str, is_ordered: bool) -> Iterator[Epoch]:
    """A pipeline that stays open; `lane` is "process", "thread" or "loop"."""
    verbs = aj.Pipeline(range(load.count)).map(load.fn, lane=lane, concurrency=load.workers, ordered=is_ordered)
    with verbs.prefetch(load.ahead) if load.ahead else verbs as items:
        yield lambda: iter(items)


@contextmanager
def ours_bare(load: Load, lane: str) -> Iterator[Epoch]:
    """A plain ``for`` over the description: it opens and closes everything."""
    verbs = aj.Pipeline(range(load.count)).map(load.fn, lane=lane, concurrency=load.workers)
    yield lambda: iter(verbs)


# --- torch ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Dataset:
    """Tensors go through torch's shared memory, arrays through a pipe: so it is tensors."""

    load: Load

    def __len__(self) -> int:
        return self.load.count

    def __getitem__(self, index: int) -> Any:
        item = self.load.fn(index)
        if isinstance(item, int):
            return item
        import torch

        return torch.from_numpy(item)


@contextmanager
def data_loader(load: Load, settings: LoaderSettings) -> Iterator[Epoch]:
    """torch's DataLoader; batches are made by the dataset."""
    import torch
    from torch.utils.data import DataLoader

    torch.set_num_threads(1)
    in_workers: dict[str, Any] = {}
    if settings.workers:
        in_workers = {
            "prefetch_factor": settings.prefetch,
            "persistent_workers": settings.is_persistent,
            "in_order": settings.in_order,
            "multiprocessing_context": settings.start_method,
        }
    dataset: Any = _Dataset(load)
    loader: Any = DataLoader(dataset, batch_size=None, num_workers=settings.workers, **in_workers)
    yield lambda: iter(loader)
    if getattr(loader, "_iterator", None) is not None:
        loader._iterator._shutdown_workers()  # what its finalizer calls, whenever that is


# --- SPDL -------------------------------------------------------------------------------


@contextmanager
def spdl_arena(load: Load) -> Iterator[Epoch]:
    """SPDL: the iterator runs in one worker process, batches come in its shared memory."""
    from spdl.pipeline import SharedMemorySegmentPool, iterate_in_subprocess

    arena = SharedMemorySegmentPool(flowwork.MIB + 4096, load.ahead + 4)
    items: Any = iterate_in_subprocess(partial(_Made, load), buffer_size=load.ahead, arena=arena)
    yield lambda: iter(items)
    items._shutdown()  # what its finalizer calls


@dataclass(frozen=True, slots=True)
class _Made:
    """All items, one after the other, again for each epoch."""

    load: Load

    def __iter__(self) -> Iterator[Any]:
        return (self.load.fn(index) for index in range(self.load.count))


@contextmanager
def spdl_executor(load: Load) -> Iterator[Epoch]:
    """SPDL: a stage in a pool of processes."""
    with ProcessPoolExecutor(load.workers) as pool:
        yield lambda: _spdl(load, executor=pool)


@contextmanager
def spdl_threads(load: Load, order: str = "input") -> Iterator[Epoch]:
    """SPDL: a stage in threads, or on the loop for a coroutine function."""
    yield lambda: _spdl(load, order)


def _spdl(load: Load, order: str = "input", **options: Any) -> Iterator[Any]:
    from spdl.pipeline import PipelineBuilder

    builder: Any = PipelineBuilder().add_source(range(load.count))
    builder = builder.pipe(load.fn, concurrency=load.workers, output_order=order, **options).add_sink(load.ahead)
    pipeline = builder.build(num_threads=load.workers, use_thread_output_queue=True)
    with pipeline.auto_stop():
        yield from pipeline


# --- Grain ------------------------------------------------------------------------------


@contextmanager
def grain_processes(load: Load) -> Iterator[Epoch]:
    """Grain: worker processes."""
    import grain

    options = grain.multiprocessing.MultiprocessingOptions(
        num_workers=load.workers, per_worker_buffer_size=max(1, load.ahead // load.workers)
    )
    items: Any = grain.MapDataset.range(load.count).map(load.fn).to_iter_dataset(_read_options(0, 0))
    yield lambda: _closed_after(iter(items.mp_prefetch(options)))


@contextmanager
def grain_threads(load: Load) -> Iterator[Epoch]:
    """Grain: threads that read ahead."""
    import grain

    options = _read_options(load.workers, max(load.ahead, load.workers))
    items: Any = grain.MapDataset.range(load.count).map(load.fn).to_iter_dataset(options)
    yield lambda: _closed_after(iter(items))


def _read_options(threads: int, ahead: int) -> Any:
    import grain

    return grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)


def _closed_after(items: Any) -> Iterator[Any]:
    try:
        yield from items
    finally:
        items.close()


# --- TensorFlow -------------------------------------------------------------------------


@contextmanager
def tf_data(load: Load) -> Iterator[Epoch]:
    """tf.data: the function in its threads."""
    import tensorflow as tf

    kind = _tf_type(load)
    numbers = tf.data.Dataset.range(load.count)
    made: Any = numbers.map(
        lambda index: tf.numpy_function(load.fn, [index], kind),
        num_parallel_calls=load.workers,
    )
    yield lambda: made.prefetch(load.ahead).as_numpy_iterator()


@contextmanager
def tf_queue(load: Load) -> Iterator[Epoch]:
    """The classic program: a FIFOQueue, a QueueRunner with its threads, a session that takes from it."""
    import tensorflow as tf

    yield lambda: _tf_queue_epoch(load, tf.compat.v1)


def _tf_queue_epoch(load: Load, v1: Any) -> Iterator[Any]:
    with v1.Graph().as_default(), v1.Session() as session:
        numbers = v1.train.range_input_producer(load.count, num_epochs=1, shuffle=False).dequeue()
        queue = v1.FIFOQueue(load.ahead, _tf_type(load))
        enqueue = queue.enqueue(v1.numpy_function(load.fn, [numbers], _tf_type(load)))
        v1.train.add_queue_runner(v1.train.QueueRunner(queue, [enqueue] * load.workers))
        dequeue = queue.dequeue()
        session.run([v1.local_variables_initializer(), v1.global_variables_initializer()])
        coordinator = v1.train.Coordinator()
        threads = v1.train.start_queue_runners(session, coordinator)
        try:
            while True:
                yield session.run(dequeue)
        except v1.errors.OutOfRangeError:
            pass  # the queue was closed after the last item: that is how its end is told
        finally:
            coordinator.request_stop()
            coordinator.join(threads)


def _tf_type(load: Load) -> Any:
    import tensorflow as tf

    return tf.uint8 if isinstance(load.fn, flowwork.Filled | flowwork.Unpacked | flowwork.Computed) else tf.int64


# --- the standard library, and nothing at all -------------------------------------------


@contextmanager
def executor_window(load: Load) -> Iterator[Epoch]:
    """ProcessPoolExecutor with as many futures ahead as the others have batches."""
    with ProcessPoolExecutor(load.workers) as pool:
        yield lambda: _window(load, pool)


def _window(load: Load, pool: ProcessPoolExecutor) -> Iterator[Any]:
    waiting: deque[Future[Any]] = deque()
    for index in range(load.count):
        waiting.append(pool.submit(load.fn, index))
        if len(waiting) >= load.workers + load.ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


@contextmanager
def side_by_side(load: Load) -> Iterator[Epoch]:
    """A process prepares all batches and hands over none: what the machine itself allows."""
    with ProcessPoolExecutor(load.workers) as pool:
        yield lambda: _not_handed_over(load, pool)


def _not_handed_over(load: Load, pool: ProcessPoolExecutor) -> Iterator[Any]:
    done = pool.submit(_prepare_all, load)
    yield from range(load.count)
    done.result()


def _prepare_all(load: Load) -> None:
    for index in range(load.count):
        load.fn(index)


# --- who takes part ---------------------------------------------------------------------

OURS = "asyncjobs"
DATA_LOADER = "DataLoader"
SPDL_ARENA = "SPDL, subprocess and arena"
SPDL_EXECUTOR = "SPDL, executor"
SPDL = "SPDL"
SPDL_ANY_ORDER = "SPDL, any order"
GRAIN = "Grain"
TF_DATA = "tf.data"
TF_QUEUE = "tf FIFOQueue and QueueRunner"
WINDOW = "executor window"
NOTHING = "nothing handed over"


@dataclass(frozen=True, slots=True)
class Feeder:
    """A contestant: `open` of a load is a context manager that gives epochs."""

    name: str
    package: str
    """Its distribution; empty: the standard library, or ours."""
    open: Callable[[Load], AbstractContextManager[Epoch]]
    is_ordered: bool = True
    """False: items come as they are done."""

    @property
    def library(self) -> str:
        """Who shares an interpreter with it."""
        return self.package or (OURS if self.name.startswith(OURS) else "python")

    @property
    def module(self) -> str:
        """What to import before the clock starts."""
        return "spdl.pipeline" if self.package == "spdl" else self.package

    @property
    def version(self) -> str:
        """As the tables show it."""
        if self.name.startswith(OURS):
            return aj.__version__
        return peers.version(self.package) if self.package else peers.python()


def loader(settings: LoaderSettings, name: str = "") -> Feeder:
    """A DataLoader; called after its settings if it has no other name."""
    return Feeder(name or str(settings), "torch", partial(data_loader, settings=settings), settings.in_order)


def our(lane: str, name: str = OURS, *, is_ordered: bool = True) -> Feeder:
    """Ours, with the stage in that lane."""
    return Feeder(name, "", partial(ours, lane=lane, is_ordered=is_ordered), is_ordered)


def renamed(feeder: Feeder, name: str) -> Feeder:
    """The same with another name."""
    return replace(feeder, name=name)


def changed(feeder: Feeder, name: str, **changes: Any) -> Feeder:
    """The same with another name, and other settings of the load."""
    return replace(feeder, name=name, open=partial(_changed, feeder.open, changes))


def _changed(
    start: Callable[[Load], AbstractContextManager[Epoch]], changes: dict[str, Any], load: Load
) -> AbstractContextManager[Epoch]:
    return start(replace(load, **changes))


SPDL_ARENA_FEEDER = Feeder(SPDL_ARENA, "spdl", spdl_arena)
SPDL_EXECUTOR_FEEDER = Feeder(SPDL_EXECUTOR, "spdl", spdl_executor)
SPDL_FEEDER = Feeder(SPDL, "spdl", spdl_threads)
SPDL_ANY_ORDER_FEEDER = Feeder(SPDL_ANY_ORDER, "spdl", partial(spdl_threads, order="completion"), is_ordered=False)
GRAIN_FEEDER = Feeder(GRAIN, "grain", grain_processes)
GRAIN_THREADS_FEEDER = Feeder(GRAIN, "grain", grain_threads)
TF_DATA_FEEDER = Feeder(TF_DATA, "tensorflow", tf_data)
TF_QUEUE_FEEDER = Feeder(TF_QUEUE, "tensorflow", tf_queue)
WINDOW_FEEDER = Feeder(WINDOW, "", executor_window)
NOTHING_FEEDER = Feeder(NOTHING, "", side_by_side)


def installed(*feeders: Feeder) -> list[Feeder]:
    """Those that can take part here."""
    return [feeder for feeder in feeders if not feeder.package or peers.installed(feeder.package)]


def loaders(is_every: bool) -> list[Feeder]:
    """Every setting of the DataLoader that may be its best; or one that is not bad."""
    if not is_every:
        return installed(loader(LoaderSettings(1, 4)))
    several = [
        LoaderSettings(workers, prefetch, in_order)
        for workers in (1, 2)
        for prefetch in (2, 4, 8)
        for in_order in (True, False)
    ]
    return installed(*map(loader, [LoaderSettings(0), *several]))
