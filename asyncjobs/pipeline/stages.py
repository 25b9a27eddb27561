"""What a pipeline consists of: frozen descriptions, each of which can open itself for one epoch. Nothing runs here."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random
from typing import Any, ClassVar, Protocol

from asyncjobs.pipeline import sources
from asyncjobs.pipeline.account import Account
from asyncjobs.pipeline.bells import Window
from asyncjobs.pipeline.faults import OnError
from asyncjobs.pipeline.feeds import (
    Cached,
    Feed,
    Grouped,
    Lower,
    Prefetched,
    Repeated,
    Sharded,
    Shuffled,
    Skipped,
    Taken,
    Zipped,
)
from asyncjobs.pipeline.mapped import Mapped
from asyncjobs.pipeline.spread import Spread
from asyncjobs.pipeline.steps import Seeded, Step
from asyncjobs.pipeline.turns import WHOLE, Cycle, Race
from asyncjobs.pipeline.workshop import Work, Workshop


class Stage(Protocol):
    """One step of a pipeline."""

    def open(self, below: Lower, shop: Workshop, epoch: int) -> Feed:
        """Its items in one epoch; `below` opens the stage before it."""


def opened(stages: Sequence[Stage], shop: Workshop, epoch: int) -> Feed:
    """The items of the last of `stages`, in one epoch."""
    return stages[-1].open(lambda epoch: opened(stages[:-1], shop, epoch), shop, epoch)


def work_of(stages: Sequence[Stage]) -> Iterator[Work]:
    """Those that call functions, zipped pipelines included."""
    for stage in stages:
        if isinstance(stage, Map | FlatMap) or (isinstance(stage, Source) and stage.lane != "thread"):
            yield stage
        elif isinstance(stage, Zip):
            for others in stage.others:
                yield from work_of(others)


def is_tuned(stages: Sequence[Stage]) -> bool:
    """Whether the concurrency of any is to be found out."""
    return any(isinstance(stage, Map) and stage.is_tuned for stage in work_of(stages))


def drawing(stages: Sequence[Stage]) -> int:
    """How many of them draw random numbers for their functions."""
    seeded = (
        stage for stage in stages if isinstance(stage, Map | FlatMap) and any(one.is_seeded for one in stage.judged)
    )
    return sum(1 for _ in seeded)


def placed(stage: Stage, place: int) -> Stage:
    """The same, where so many before it draw."""
    if isinstance(stage, FlatMap):
        return replace(stage, place=place)
    if isinstance(stage, Map):
        return replace(stage, steps=tuple(replace(step, place=place) for step in stage.steps))
    return stage


def names_of(stages: Sequence[Stage]) -> list[str]:
    """``["source", "map(decode)", "group(32)"]``."""
    return [str(getattr(stage, "name", None) or _shown(stage)) for stage in stages]


def _shown(stage: Stage) -> str:
    """``shuffle(30)``: two that hand out other items have other names."""
    names = [name for name in ("size", "drop_last", "seed", "epochs", "index", "count") if hasattr(stage, name)]
    values = [str(value) for name in names if (value := getattr(stage, name)) is not None and value is not False]
    return f"{type(stage).__name__.lower()}({', '.join(values)})" if values else type(stage).__name__.lower()


def check_order(stages: Sequence[Stage]) -> None:
    """Refuse stages that hand out what is done first: nobody can say which items those were.

    Raises:
        ValueError: names the stage.
    """
    for stage in work_of(stages):
        if isinstance(stage, Map | FlatMap) and not stage.ordered:
            raise ValueError(f"{stage.name} has ordered=False: which items have been delivered depends on chance")


# Compared by identity: two stages that look the same have a crew each.


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """The beginning; in lane "thread" an async iterable is advanced on the loop."""

    keeps_workers: ClassVar[bool] = True
    source: Any
    lane: str = "thread"
    name: str = "source"
    concurrency: int = 1
    on_error: OnError = "raise"
    beginnings: Iterator[int] = field(default_factory=itertools.count, repr=False)
    """Numbers them, of all runs: an iterator that one run has begun is no good to another."""

    @property
    def judged(self) -> tuple[Source, ...]:
        """Itself."""
        return (self,)

    def open(self, below: Lower, shop: Workshop, epoch: int) -> Feed:
        sources.check_again(self.source, epoch, is_first=next(self.beginnings) == 0)
        account = shop.account(self)
        return sources.Told(sources.opened(self.source, partial(shop.made, self), account), account.name, epoch)

    def account(self) -> Account:
        """Books about it."""
        return Account(f"source {sources.name_of(self.source)}", 1, "source")


@dataclass(frozen=True, slots=True, eq=False)
class Map:
    """A function of each item, or several of them in one trip."""

    keeps_workers: ClassVar[bool] = False
    steps: tuple[Step, ...]
    concurrency: int
    lane: str
    ordered: bool
    timeout: float | None = None
    """Seconds that a call may take."""
    is_tuned: bool = False
    """The concurrency is only where to begin."""

    @property
    def name(self) -> str:
        """``map(decode)``, or of several ``map(decode) + filter(is_good)``."""
        return " + ".join(step.name for step in self.steps)

    @property
    def judged(self) -> tuple[Step, ...]:
        """Each by itself."""
        return self.steps

    def open(self, below: Lower, shop: Workshop, epoch: int) -> Feed:
        seed = shop.seed if any(step.is_seeded for step in self.steps) else None
        return Mapped(below(epoch), shop.station(self), self.ordered, epoch, seed)

    def account(self) -> Account:
        """Books about it."""
        return Account(self.name, self.concurrency, self.lane, self.ordered, is_tuned=self.is_tuned)


@dataclass(frozen=True, slots=True, eq=False)
class FlatMap:
    """The items that a function makes of each, for `concurrency` of them at once.

    `block` of each of `cycle` in turn; a cycle of 0: as they come.
    """

    keeps_workers: ClassVar[bool] = True
    fn: Callable[..., Any]
    name: str
    concurrency: int
    lane: str
    on_error: OnError
    is_seeded: bool = False
    cycle: int = 1
    block: int = WHOLE
    place: int = 0
    """As a step's."""

    @property
    def judged(self) -> tuple[FlatMap, ...]:
        """Itself."""
        return (self,)

    def open(self, below: Lower, shop: Workshop, epoch: int) -> Feed:
        turns = Cycle(self.cycle, self.block) if self.cycle else Race()
        call = Seeded(self.fn, self.place) if self.is_seeded else self.fn

        def make(index: int, item: Any) -> Feed:
            return shop.made(self, call, item, *([(shop.seed, epoch, index)] if self.is_seeded else []))

        return Spread(below(epoch), make, turns, self.concurrency, shop.faults(self), epoch)

    @property
    def ordered(self) -> bool:
        """Whether nothing depends on who is faster."""
        return self.cycle > 0

    def account(self) -> Account:
        """Books about it."""
        return Account(self.name, self.concurrency, self.lane, self.ordered, is_measured=False)


@dataclass(frozen=True, slots=True, eq=False)
class Cache:
    """The items of one whole epoch, kept in memory. What is below runs as the first epoch, whichever it is."""

    def open(self, below: Lower, shop: Workshop, epoch: int) -> Feed:
        kept = shop.kept.get(self)
        return Cached(below(0), partial(shop.kept.setdefault, self)) if kept is None else sources.Listed(kept)


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Lists of `size` items."""

    size: int
    drop_last: bool

    def open(self, below: Lower, shop: Workshop, epoch: int) -> Feed:
        return Grouped(below(epoch), self.size, self.drop_last)


@dataclass(frozen=True, slots=True, eq=False)
class Shuffle:
    """Another order in each epoch, the same one for the same seed."""

    size: int
    seed: int | None

    def open(self, below: Lower, shop: Workshop, epoch: int) -> Feed:
        seed = shop.seed if self.seed is None else self.seed
        return Shuffled(below(epoch), self.size, Random(f"{seed}:{epoch}"))


@dataclass(frozen=True, slots=True, eq=False)
class Prefetch:
    """Up to `size` items ahead."""

    size: int

    def open(self, below: Lower, shop: Workshop, epoch: int) -> Feed:
        return Prefetched(below(epoch), Window(self.size, self.size))


@dataclass(frozen=True, slots=True, eq=False)
class Repeat:
    """Everything before it, again and again."""

    epochs: int | None

    def open(self, below: Lower, shop: Workshop, epoch: int) -> Feed:
        return Repeated(below, epoch * (self.epochs or 1), self.epochs)


@dataclass(frozen=True, slots=True, eq=False)
class Take:
    """The first `count` items."""

    count: int

    def open(self, below: Lower, shop: Workshop, epoch: int) -> Feed:
        return Taken(below(epoch), self.count)


@dataclass(frozen=True, slots=True, eq=False)
class Skip:
    """All but the first `count` items."""

    count: int

    def open(self, below: Lower, shop: Workshop, epoch: int) -> Feed:
        return Skipped(below(epoch), self.count)


@dataclass(frozen=True, slots=True, eq=False)
class Shard:
    """Every `count`-th item."""

    index: int
    count: int

    def open(self, below: Lower, shop: Workshop, epoch: int) -> Feed:
        return Sharded(below(epoch), self.index, self.count)


@dataclass(frozen=True, slots=True, eq=False)
class Zip:
    """Tuples with one item of each."""

    others: tuple[tuple[Stage, ...], ...]

    def open(self, below: Lower, shop: Workshop, epoch: int) -> Feed:
        return Zipped([below(epoch), *(opened(stages, shop, epoch) for stages in self.others)])
