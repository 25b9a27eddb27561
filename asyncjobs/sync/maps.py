"""One run over many items as a plain iterator: `SyncMap`.

The run itself lives on the loop. Whoever asks for results blocks until the next are there, and
advances the sources meanwhile, as the run wants more items.
"""

from __future__ import annotations

import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Generic, Protocol, TypeVar

from asyncjobs.errors import RunnerClosed, WrongLoop
from asyncjobs.mapping.source import Source
from asyncjobs.options import check_flag
from asyncjobs.portal import Ask, Portal
from asyncjobs.progressbar import progress_bar

R = TypeVar("R")
T = TypeVar("T")


class Run(Protocol[R]):
    """The run on the loop: a `MapRun`, or one over the jobs of a service."""

    @property
    def name(self) -> str: ...
    def begin(self) -> None: ...
    def batches(self) -> AsyncGenerator[list[R], None]: ...
    async def collect(self) -> list[R]: ...
    def cancel(self, reason: str) -> object: ...
    async def left(self) -> None: ...


class SyncMap(Generic[R]):
    """An iterator over results, made by `SyncRunner.map`; iterate it, or `collect()` a list; either, and once.

    Its methods raise as those of the async map do, and `WouldDeadlock` in the thread of the runner's own loop.
    """

    def __init__(self, keeper: object, portal: Portal, run: Run[R], source: Source, progress: bool) -> None:
        check_flag("progress", progress)
        self._keeper = keeper
        self._portal = portal
        self._run = run
        self._source = source
        self._progress = progress
        # Weak, for whoever leaves a loop over us early lets go of it, and that must end it at once.
        self._results: weakref.ref[Generator[R, None, None]] | None = None
        self._kept: Iterator[R] | None = None
        """The same, for whoever asks for single results."""

    def __iter__(self) -> Iterator[R]:
        results = self._results() if self._results is not None else None
        if results is None:
            results = self._iterate()
            self._results = weakref.ref(results)
        return results

    def __next__(self) -> R:
        if self._kept is None:
            self._kept = iter(self)
        return next(self._kept)

    def collect(self) -> list[R]:
        """All results as a list; the fastest form."""
        if self._progress:
            return list(self)

        return self._converse(self._run.collect, "collect()")

    def _converse(self, work: Callable[[], Awaitable[T]], what: str) -> T:
        """Block until ``await work()`` has ended; the source is advanced here meanwhile."""

        async def with_source(ask: Ask) -> T:
            self._source.elsewhere = ask
            try:
                return await work()
            finally:
                self._source.elsewhere = None  # it would keep us alive, and the runner with us

        return self._portal.converse(with_source, what)

    def _iterate(self) -> Generator[R, None, None]:
        self._portal.check("map()")
        self._portal.do(self._run.begin)
        batches = self._run.batches()

        try:
            with progress_bar(self._progress, self._run.name, self._source.total) as bar:
                while (batch := self._converse(lambda: anext(batches, None), "next()")) is not None:
                    yield from batch
                    bar.update(len(batch))
        finally:
            self._portal.post(self._run.cancel, "the loop over the map was left")

    def __enter__(self) -> SyncMap[R]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        results = self._results() if self._results is not None else None
        self._kept = None
        if results is not None:
            results.close()
        # A closed runner has nothing in flight, and in a forked child it is the parent's.
        with suppress(RunnerClosed, WrongLoop):
            self._portal.call(self._run.left)

    def __repr__(self) -> str:
        return f"<SyncMap over {self._run.name!r}>"
