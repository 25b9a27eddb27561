"""The description of a pipeline: `Pipeline`. Each method returns a new one; nothing runs until somebody iterates."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Concatenate, Generic, TypeVar, overload

from asyncjobs.flow.elements import whole_number
from asyncjobs.options import check_flag
from asyncjobs.pipeline import faults, sources, stages
from asyncjobs.pipeline.blocking import SyncStream
from asyncjobs.pipeline.collating import Padding, stack
from asyncjobs.pipeline.faults import OnError
from asyncjobs.pipeline.stages import Stage
from asyncjobs.pipeline.stream import Stream
from asyncjobs.runner import Runner

T = TypeVar("T")
R = TypeVar("R")


class Pipeline(Generic[T]):
    """Items from a source, and what is done with them before somebody gets them.

    Args:
        source: an iterable or a sequence (a thread reads it), an async iterable or a queue (the loop does), or a
            function without arguments that returns one of these, called for each epoch.
        seed: where all random numbers come from, those of `shuffle` and of functions that take `rng`.
        runner: an open runner whose lanes are used for ``lane="process"`` and others by name; without one each
            process stage has worker processes of its own.

    ``for item in pipeline`` runs it in the background and ends it with the loop, also at a ``break``; so does
    ``async for`` on the loop. To keep threads and processes over several epochs, open it::

        with Pipeline(paths).shuffle(1000).map(decode, concurrency=8).batch(32) as batches:
            for epoch in range(10):
                for batch in batches:
                    train(batch)

    Raises:
        TypeError: no items can come from `source`.
        ValueError: `seed` is no whole number from 0.
    """

    def __init__(
        self, source: Iterable[T] | AsyncIterable[T] | Callable[[], Any], *, seed: int = 0, runner: Runner | None = None
    ) -> None:
        self._stages: tuple[Stage, ...] = (stages.Source(sources.checked(source)),)
        self._seed = whole_number("seed", seed, 0)
        self._runner = runner
        self._entered: SyncStream[T] | Stream[T] | None = None

    def _with(self, *more: Stage) -> Pipeline[Any]:
        made: Pipeline[Any] = object.__new__(Pipeline)
        made._stages, made._seed, made._runner = self._stages + more, self._seed, self._runner
        made._entered = None
        return made

    # --- functions ----------------------------------------------------------------------

    @overload
    def map(
        self,
        fn: Callable[Concatenate[T, ...], Awaitable[R]],
        *,
        concurrency: int = ...,
        lane: str | None = ...,
        ordered: bool = ...,
        on_error: OnError = ...,
    ) -> Pipeline[R]: ...
    @overload
    def map(
        self,
        fn: Callable[Concatenate[T, ...], R],
        *,
        concurrency: int = ...,
        lane: str | None = ...,
        ordered: bool = ...,
        on_error: OnError = ...,
    ) -> Pipeline[R]: ...
    def map(
        self,
        fn: Callable[..., Any],
        *,
        concurrency: int = 1,
        lane: str | None = None,
        ordered: bool = True,
        on_error: OnError = "raise",
    ) -> Pipeline[Any]:
        """What ``fn(item)`` returns for each item, up to `concurrency` calls at once.

        Twice as many items are in hand, or up to 64 of those that pass within a millisecond.

        Args:
            fn: a coroutine function is awaited on the loop, a plain one called in threads of this stage. If it has a
                parameter `rng`, it gets a numpy Generator made from (seed, epoch, index of the item).
            lane: ``"thread"``, ``"process"``, or any lane of the pipeline's runner; by the kind of `fn` if not given.
            ordered: in the order of the items; False: as they are done.
            on_error: what becomes of an item for which `fn` raises. ``"raise"`` it, with the stage, the item and its
                index in a note; ``"skip"`` the item; an `ErrorBudget`; or a function of error and item, called on the
                loop, that says whether to go on without the item.

        Raises:
            TypeError, ValueError: an argument is not allowed.
        """
        return self._with(self._map("map", fn, concurrency, lane, ordered, on_error, stages.value_of))

    def filter(
        self,
        fn: Callable[Concatenate[T, ...], Any],
        *,
        concurrency: int = 1,
        lane: str | None = None,
        ordered: bool = True,
        on_error: OnError = "raise",
    ) -> Pipeline[T]:
        """The items for which ``fn(item)`` is true; the rest as in `map`."""
        chooses = self._map("filter", fn, concurrency, lane, ordered, on_error, stages.chosen_of)
        return self._with(chooses, stages.Choose())

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

        In a thread, or on the loop if `fn` is an async generator function, they are handed on as they come, a few
        ahead, and `concurrency` is 1. In processes the items of one item travel together, as a list.

        Raises:
            TypeError, ValueError: an argument is not allowed, as in `map`.
        """
        self._check_lane(lane)
        if lane is None or lane == "thread":
            if concurrency != 1:
                raise ValueError(f"concurrency={concurrency!r} is not allowed; allowed: 1, or lane='process'")
            where = "loop" if inspect.isasyncgenfunction(_unwrapped(fn)) else "thread"
            name = f"flat_map({_name_of(fn)})"
            return self._with(stages.FlatMap(_callable(fn), name, where, faults.checked(on_error)))
        lists = stages.Listed(_callable(fn))
        work = self._map("flat_map", lists, concurrency, lane, ordered, on_error, stages.value_of)
        return self._with(work, stages.Flatten())

    def _map(
        self,
        verb: str,
        fn: Callable[..., Any],
        concurrency: int,
        lane: str | None,
        ordered: bool,
        on_error: OnError,
        gives: Callable[[Any], Any],
    ) -> stages.Map:
        is_coroutine = _is_coroutine_function(_callable(fn))
        self._check_lane(lane)
        if is_coroutine and lane in ("thread", "process"):
            raise TypeError(f"{_name_of(fn)} is a coroutine function; lane={lane!r} runs plain functions")
        if not is_coroutine and lane == "loop":
            raise TypeError(
                f"{_name_of(fn)} is a plain function and would block lane 'loop'; use 'thread' or 'process'"
            )
        check_flag("ordered", ordered)
        return stages.Map(
            fn,
            f"{verb}({_name_of(fn)})",
            whole_number("concurrency", concurrency, 1),
            lane or ("loop" if is_coroutine else "thread"),
            ordered,
            faults.checked(on_error),
            _takes_rng(fn),
            gives,
        )

    def _check_lane(self, lane: str | None) -> None:
        if self._runner is None and lane not in (None, "loop", "thread", "process"):
            raise ValueError(
                f"lane={lane!r} is not allowed; allowed: 'thread', 'process', or with Pipeline(source, runner=runner) "
                "any lane of that runner"
            )

    # --- batches ------------------------------------------------------------------------

    def batch(
        self, n: int, *, drop_last: bool = False, collate: Callable[[list[T]], Any] | None = None
    ) -> Pipeline[Any]:
        """`n` items as one: arrays, tensors and numbers stacked along a new first axis, other values in a list.

        Tuples become a tuple of such columns, dicts a dict of them. The last batch may be shorter, unless
        `drop_last`. `collate` makes something else of a list of items, in a thread; ``collate=list`` leaves the list.

        Example: 10 items of shape (28, 28), and n = 4, make (4, 28, 28), (4, 28, 28) and (2, 28, 28).

        Raises:
            ValueError: `n` is no whole number from 1. While it runs: the shapes of a batch differ.
        """
        check_flag("drop_last", drop_last)
        grouped = self._with(stages.Group(whole_number("n", n, 1), drop_last))
        if collate is list:
            return grouped
        return grouped._with(grouped._map("batch", collate or stack, 1, None, True, "raise", stages.value_of))

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
        """
        pipelines = [other if isinstance(other, Pipeline) else Pipeline(other) for other in others]
        return self._with(stages.Zip(tuple(other._stages for other in pipelines)))

    # --- running ------------------------------------------------------------------------

    def _stream(self) -> Stream[T]:
        return Stream(self._stages, self._seed, self._runner)

    def _sync_stream(self) -> SyncStream[T]:
        if self._runner is not None:
            raise TypeError("a pipeline with a runner lives on the runner's event loop: use `async for`, `async with`")
        return SyncStream(self._stages, self._seed)

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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stream, self._entered = self._entered, None
        assert isinstance(stream, SyncStream)
        stream.close()

    async def __aenter__(self) -> Stream[T]:
        stream = self._stream()
        with self._entering(stream):
            return await stream.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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


def _callable(fn: Any) -> Any:
    if not callable(fn):
        raise TypeError(f"{fn!r} is not callable; a stage takes a function of one item")
    return fn


def _unwrapped(fn: Any) -> Any:
    while isinstance(fn, functools.partial):
        fn = fn.func
    return fn


def _is_coroutine_function(fn: Any) -> bool:
    plain = _unwrapped(fn)
    call = getattr(type(plain), "__call__", None)  # noqa: B004 - the method itself is wanted
    return inspect.iscoroutinefunction(plain) or inspect.iscoroutinefunction(call)


def _takes_rng(fn: Any) -> bool:
    try:
        return "rng" in inspect.signature(fn).parameters
    except (TypeError, ValueError):  # a builtin that does not say
        return False


def _name_of(fn: Any) -> str:
    plain = _unwrapped(fn)
    plain = plain.fn if isinstance(plain, stages.Listed) else plain
    return str(getattr(plain, "__name__", None) or type(plain).__name__)
