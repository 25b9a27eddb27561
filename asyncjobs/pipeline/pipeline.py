"""The description of a pipeline: `Pipeline`. Each method returns a new one; nothing runs until somebody iterates."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Concatenate, Generic, Literal, TypeVar, overload

from asyncjobs.flow.elements import whole_number
from asyncjobs.options import check_flag, is_number
from asyncjobs.pipeline import faults, sources, stages
from asyncjobs.pipeline.blocking import SyncStream
from asyncjobs.pipeline.building import check_lane, check_lanes, checked_runner, map_stage, spread_stage
from asyncjobs.pipeline.collating import Padding, stack
from asyncjobs.pipeline.faults import OnError
from asyncjobs.pipeline.stages import Stage
from asyncjobs.pipeline.stream import Stream
from asyncjobs.pipeline.turns import WHOLE
from asyncjobs.runner import Runner

T = TypeVar("T")
R = TypeVar("R")

STALL_TIMEOUT = 60.0
"""Seconds that a consumer waits for an item before a warning says where the pipeline is."""


class Pipeline(Generic[T]):
    """Items from a source, and what is done with them before somebody gets them.

    Args:
        source: an iterable or a sequence (a thread reads it), an async iterable or a queue (the loop does), or a
            function without arguments that returns one of these, called for each epoch.
        seed: where all random numbers come from, those of `shuffle` and of functions that take `rng`.
        runner: an open runner whose lanes are used for ``lane="process"`` and others by name; without one each
            process stage has worker processes of its own.
        lane: ``"process"``: a worker process of its own makes the items, for a generator that computes. Not for what
            only the loop can advance, and not for iterators, which cannot travel.
        stall_timeout: a consumer that has waited so many seconds for an item has the logger ``asyncjobs`` warn of it,
            with the report, the items in hand and the stacks of the calls; again as often. None: never.

    ``for item in pipeline`` runs it in the background and ends it with the loop, also at a ``break``; so does
    ``async for`` on the loop. To keep threads and processes over several epochs, open it::

        with Pipeline(paths).shuffle(1000).map(decode, concurrency=8).batch(32) as batches:
            for epoch in range(10):
                for batch in batches:
                    train(batch)

    Raises:
        TypeError: no items can come from `source`.
        ValueError: `seed` is no whole number from 0, there is no such `lane`, or `stall_timeout` is neither None nor
            above 0.
    """

    def __init__(
        self,
        source: Iterable[T] | AsyncIterable[T] | Callable[[], Any],
        *,
        seed: int = 0,
        runner: Runner | None = None,
        lane: str | None = None,
        stall_timeout: float | None = STALL_TIMEOUT,
    ) -> None:
        self._seed = whole_number("seed", seed, 0)
        self._runner = checked_runner(runner)
        check_lane(lane, runner)
        self._stages: tuple[Stage, ...] = (stages.Source(*sources.checked(source, lane)),)
        self._stall_timeout = _checked_timeout(stall_timeout)
        self._entered: SyncStream[T] | Stream[T] | None = None

    def _with(self, *more: Stage) -> Pipeline[Any]:
        made: Pipeline[Any] = object.__new__(Pipeline)
        place = stages.drawing(self._stages)
        made._stages = self._stages + tuple(stages.placed(stage, place) for stage in more)
        made._seed, made._runner = self._seed, self._runner
        made._stall_timeout, made._entered = self._stall_timeout, None
        return made

    # --- functions ----------------------------------------------------------------------

    @overload
    def map(
        self,
        fn: Callable[Concatenate[T, ...], Awaitable[R]],
        *,
        concurrency: int | Literal["auto"] = ...,
        lane: str | None = ...,
        ordered: bool = ...,
        timeout: float | None = ...,
        on_error: OnError = ...,
    ) -> Pipeline[R]: ...
    @overload
    def map(
        self,
        fn: Callable[Concatenate[T, ...], R],
        *,
        concurrency: int | Literal["auto"] = ...,
        lane: str | None = ...,
        ordered: bool = ...,
        timeout: float | None = ...,
        on_error: OnError = ...,
    ) -> Pipeline[R]: ...
    def map(
        self,
        fn: Callable[..., Any],
        *,
        concurrency: int | Literal["auto"] = 1,
        lane: str | None = None,
        ordered: bool = True,
        timeout: float | None = None,
        on_error: OnError = "raise",
    ) -> Pipeline[Any]:
        """What ``fn(item)`` returns for each item, up to `concurrency` calls at once.

        Twice as many items are in hand, or up to 64 of those that pass within a millisecond.

        Args:
            fn: a coroutine function is awaited on the loop, a plain one called in threads of this stage. If it has a
                parameter `rng`, it gets a numpy Generator made from (seed, epoch, index of the item), and
                from its place among the stages that take one.
            concurrency: ``"auto"`` begins with one and finds the smallest number that keeps the consumer fed, as far as
                more calls at once bring more items.
            lane: ``"thread"``, ``"process"``, or any lane of the pipeline's runner; by the kind of `fn` if not given.
            ordered: in the order of the items; False: as they are done.
            timeout: seconds that a call may take, on the loop and in processes; threads cannot be stopped. Then it is
                a `JobTimeout`, and a process that does not stop is replaced.
            on_error: what becomes of an item for which `fn` raises. ``"raise"`` it, with the stage, the item and its
                index in a note; ``"skip"`` the item; an `ErrorBudget`; or a function of error and item, called on the
                loop, that says whether to go on without the item.

        Raises:
            TypeError, ValueError: an argument is not allowed.
        """
        return self._with(map_stage("map", fn, concurrency, lane, ordered, timeout, on_error, self._runner))

    def filter(
        self,
        fn: Callable[Concatenate[T, ...], Any],
        *,
        concurrency: int | Literal["auto"] = 1,
        lane: str | None = None,
        ordered: bool = True,
        timeout: float | None = None,
        on_error: OnError = "raise",
    ) -> Pipeline[T]:
        """The items for which ``fn(item)`` is true; the rest as in `map`."""
        return self._with(map_stage("filter", fn, concurrency, lane, ordered, timeout, on_error, self._runner))

    def flat_map(
        self,
        fn: Callable[[T], Iterable[R] | AsyncIterable[R]],
        *,
        concurrency: int = 1,
        lane: str | None = None,
        ordered: bool = True,
        on_error: OnError = "raise",
    ) -> Pipeline[R]:
        """The items of ``fn(item)``, a generator for instance, of one item after the other.

        They are handed on as they come, a few ahead; with `concurrency` the generators of so many items run at once.
        In a process they travel several at a time, as many as are made meanwhile; a `concurrency` of 2 takes 2 workers.

        Args:
            fn: an async generator function is advanced on the loop, what any other returns in a thread of its own. It
                may take `rng`, as in `map`.
            concurrency, lane, on_error: as in `map`. With `on_error` an item's generator ends where it raises.
            ordered: False: the items of those that are open, as they come.

        Raises:
            TypeError, ValueError: an argument is not allowed.
        """
        check_flag("ordered", ordered)
        turns = int(ordered), WHOLE
        return self._with(spread_stage("flat_map", fn, concurrency, lane, turns, on_error, self._runner))

    def interleave(
        self,
        fn: Callable[[T], Iterable[R] | AsyncIterable[R]],
        *,
        concurrency: int = 4,
        block_length: int = 1,
        lane: str | None = None,
        ordered: bool = True,
        on_error: OnError = "raise",
    ) -> Pipeline[R]:
        """The items of ``fn(item)``, of `concurrency` items in turn: `block_length` of the first, then of the second.

        When one has no more, its turn ends, and the next item takes its place when that comes round: the order of
        tf.data. All of them fetch ahead, as in `flat_map`, whose other settings are the same.

        Example: ``Pipeline(paths).interleave(Lines)`` mixes the lines of four files.

        Raises:
            TypeError, ValueError: an argument is not allowed.
        """
        check_flag("ordered", ordered)
        block = whole_number("block_length", block_length, 1)
        turns = concurrency if ordered else 0, block
        return self._with(spread_stage("interleave", fn, concurrency, lane, turns, on_error, self._runner))

    # --- batches ------------------------------------------------------------------------

    def batch(
        self, n: int, *, drop_last: bool = False, collate: Callable[[list[T]], Any] | None = None
    ) -> Pipeline[Any]:
        """`n` items as one: arrays, tensors and numbers stacked along a new first axis, other values in a list.

        Tuples become a tuple of such columns, dicts a dict of them, nested ones too. `collate` makes something else of
        a list of items, in a thread; ``collate=list`` leaves it. The last batch may be shorter, unless `drop_last`.

        Example: 10 items of shape (28, 28), and n = 4, make (4, 28, 28), (4, 28, 28) and (2, 28, 28).

        Raises:
            ValueError: `n` is no whole number from 1. While it runs: the shapes of a batch differ.
        """
        check_flag("drop_last", drop_last)
        grouped = self._with(stages.Group(whole_number("n", n, 1), drop_last))
        if collate is list:
            return grouped
        return grouped._with(map_stage("batch", collate or stack, 1, None, True, None, "raise", None))

    def padded_batch(self, n: int, *, drop_last: bool = False, pad_value: Any = 0) -> Pipeline[Any]:
        """As `batch`, but each array is filled up at its ends with `pad_value`, to the longest of the batch.

        Example: [1], [2, 3] and [] make the batch [[1, 0], [2, 3], [0, 0]].
        """
        return self.batch(n, drop_last=drop_last, collate=Padding(pad_value))

    # --- order and number ---------------------------------------------------------------

    def shuffle(self, buffer_size: int, seed: int | None = None) -> Pipeline[T]:
        """Each item is any of `buffer_size` that are held; another order in each epoch.

        It depends on `seed` (the pipeline's if not given) and on the number of the epoch, and on nothing else.
        Shuffle early: paths take less room than images.

        Raises:
            ValueError: `buffer_size` is no whole number from 1, or `seed` none from 0.
        """
        chosen = None if seed is None else whole_number("seed", seed, 0)
        return self._with(stages.Shuffle(whole_number("buffer_size", buffer_size, 1), chosen))

    def prefetch(self, k: int) -> Pipeline[T]:
        """Up to `k` items are fetched ahead of whoever takes them.

        Raises:
            ValueError: `k` is no whole number from 1.
        """
        return self._with(stages.Prefetch(whole_number("k", k, 1)))

    def repeat(self, epochs: int | None = None) -> Pipeline[T]:
        """All of the above so many times; without end if not given. An epoch without any item is the last.

        ``repeat(3)`` gives what three loops over the open pipeline give.

        Raises:
            ValueError: `epochs` is no whole number from 1. While it runs: the source can be gone through only once.
        """
        return self._with(stages.Repeat(None if epochs is None else whole_number("epochs", epochs, 1)))

    def take(self, n: int) -> Pipeline[T]:
        """The first `n` items; stages before it may have worked on a few more.

        Raises:
            ValueError: `n` is no whole number from 0.
        """
        return self._with(stages.Take(whole_number("n", n, 0)))

    def skip(self, n: int) -> Pipeline[T]:
        """All but the first `n` items: what ``take(n)`` leaves. A `map` that skips none is not called for them.

        Raises:
            ValueError: `n` is no whole number from 0.
        """
        return self._with(stages.Skip(whole_number("n", n, 0)))

    def cache(self) -> Pipeline[T]:
        """The items of the first whole epoch are kept in memory; later epochs get them without calling what is before.

        What is before runs as epoch 0 each time, so that it does not matter when that was: shuffle after the cache.
        An epoch that is left early keeps nothing, and the next one begins anew. The items are the same objects each
        time, so do not change them.
        """
        return self._with(stages.Cache())

    def shard(self, i: int, n: int) -> Pipeline[T]:
        """Every `n`-th item, beginning with the one at `i`: what is machine `i`'s of `n` machines.

        Raises:
            ValueError: `n` is no whole number from 1, or `i` none from 0 and below `n`.
        """
        count = whole_number("n", n, 1)
        index = whole_number("i", i, 0)
        if index >= count:
            raise ValueError(f"i={i!r} is not allowed; allowed: a whole number from 0 to {count - 1}")
        return self._with(stages.Shard(index, count))

    def zip(self, *others: Pipeline[Any] | Iterable[Any] | AsyncIterable[Any]) -> Pipeline[tuple[Any, ...]]:
        """Tuples of one item of each, as long as all have one. The others' seeds and runners do not count.

        Raises:
            TypeError: one of `others` is neither a pipeline nor a source.
            ValueError: a stage of one has a lane that this pipeline lacks.
        """
        pipelines = [other if isinstance(other, Pipeline) else Pipeline(other) for other in others]
        zipped = stages.Zip(tuple(other._stages for other in pipelines))
        check_lanes(stages.work_of([zipped]), self._runner)
        return self._with(zipped)

    # --- running ------------------------------------------------------------------------

    def _stream(self) -> Stream[T]:
        return Stream(self._stages, self._seed, self._runner, self._stall_timeout)

    def _sync_stream(self) -> SyncStream[T]:
        if self._runner is not None:
            raise TypeError("a pipeline with a runner lives on the runner's event loop: use `async for`, `async with`")
        return SyncStream(self._stages, self._seed, self._stall_timeout)

    def __iter__(self) -> Iterator[T]:
        """Run it on a loop in the background, and end it with the loop that takes the items."""
        with self._sync_stream() as stream:
            yield from stream

    async def __aiter__(self) -> AsyncGenerator[T, None]:
        """Run it on this event loop, and end it with the loop that takes the items."""
        async with self._stream() as stream:
            async for item in stream:
                yield item

    def __enter__(self) -> SyncStream[T]:
        stream = self._sync_stream()
        with self._entering(stream):
            return stream.__enter__()

    def __exit__(self, *raised: object) -> None:
        stream, self._entered = self._entered, None
        assert isinstance(stream, SyncStream)
        stream.close()

    async def __aenter__(self) -> Stream[T]:
        stream = self._stream()
        with self._entering(stream):
            return await stream.__aenter__()

    async def __aexit__(self, *raised: object) -> None:
        stream, self._entered = self._entered, None
        assert isinstance(stream, Stream)
        await stream.aclose()

    @contextmanager
    def _entering(self, stream: SyncStream[T] | Stream[T]) -> Iterator[None]:
        if self._entered is not None:
            raise RuntimeError(f"{self!r} is open; each block needs a pipeline of its own, such as pipeline.take(n)")
        self._entered = stream
        try:
            yield
        except BaseException:
            self._entered = None
            raise

    def __repr__(self) -> str:
        first = self._stages[0]
        assert isinstance(first, stages.Source)
        return f"<Pipeline({', '.join([faults.shown(first.source), *stages.names_of(self._stages[1:])])})>"


def _checked_timeout(stall_timeout: float | None) -> float | None:
    if stall_timeout is None or (is_number(stall_timeout) and stall_timeout > 0):
        return stall_timeout
    raise ValueError(f"stall_timeout={stall_timeout!r} is not allowed; allowed: None, or seconds above 0")
