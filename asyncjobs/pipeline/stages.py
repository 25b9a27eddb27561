"""What a pipeline consists of: frozen descriptions, each of which can open itself for one epoch. Nothing runs here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol

from asyncjobs.pipeline import sources
from asyncjobs.pipeline.crews import Cell
from asyncjobs.pipeline.faults import OnError
from asyncjobs.pipeline.feeds import (
    Chosen,
    Feed,
    Flattened,
    Grouped,
    Lower,
    Prefetched,
    Repeated,
    Sharded,
    Shuffled,
    Taken,
    Zipped,
)
from asyncjobs.pipeline.mapped import Mapped
from asyncjobs.pipeline.spread import Spread
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
        if isinstance(stage, Map | FlatMap):
            yield stage
        elif isinstance(stage, Zip):
            for others in stage.others:
                yield from work_of(others)


def names_of(stages: Sequence[Stage]) -> list[str]:
    """``["source", "map(decode)", "group"]``."""
    return [str(getattr(stage, "name", type(stage).__name__.lower())) for stage in stages]


def check_order(stages: Sequence[Stage]) -> None:
    """Refuse stages that hand out what is done first: nobody can say which items those were.

    Raises:
        ValueError: names the stage.
    """
    for stage in work_of(stages):
        if isinstance(stage, Map) and not stage.ordered:
            raise ValueError(f"{stage.name} has ordered=False: which items have been delivered depends on chance")


# Compared by identity: two stages that look the same have a crew each.


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """The beginning."""

    source: Any

    def open(self, below: Lower, shop: Workshop, epoch: int) -> Feed:
        return sources.opened(
            self.source, epoch, shop.read, shop.source(self, f"source {sources.name_of(self.source)}")
        )


@dataclass(frozen=True, slots=True, eq=False)
class Map:
    """A function of each item; `gives` says what is made of an item and what the function returned."""

    fn: Callable[..., Any]
    name: str
    concurrency: int
    lane: str
    ordered: bool
    on_error: OnError
    is_seeded: bool
    gives: Callable[[Cell], Any]

    def open(self, below: Lower, shop: Workshop, epoch: int) -> Feed:
        seed = shop.seed if self.is_seeded else None
        return Mapped(below(epoch), shop.station(self), self.ordered, self.gives, epoch, seed)


def value_of(cell: Cell) -> Any:
    """For a map."""
    return cell.value


def chosen_of(cell: Cell) -> tuple[bool, Any]:
    """For a filter: whether the item stays, and the item."""
    return bool(cell.value), cell.item


@dataclass(frozen=True, slots=True, eq=False)
class Choose:
    """What stays of a filter's pairs."""

    def open(self, below: Lower, shop: Workshop, epoch: int) -> Feed:
        return Chosen(below(epoch))


@dataclass(frozen=True, slots=True, eq=False)
class FlatMap:
    """The items that a function makes of each, as they come."""

    fn: Callable[..., Any]
    name: str
    lane: str
    on_error: OnError
    concurrency: int = 1
    ordered: bool = True

    def open(self, below: Lower, shop: Workshop, epoch: int) -> Feed:
        return Spread(below(epoch), lambda item: self._items(item, shop), shop.faults(self), epoch)

    def _items(self, item: Any, shop: Workshop) -> Feed:
        if self.lane == "loop":
            return sources.Followed(lambda: self.fn(item), shop.account(self))
        return shop.read(lambda: self.fn(item), shop.account(self))


@dataclass(frozen=True, slots=True)
class Listed:
    """In a worker process: what a function makes of an item, as a list, for a generator cannot travel."""

    fn: Callable[..., Any]

    def __call__(self, item: Any) -> list[Any]:
        return list(self.fn(item))


@dataclass(frozen=True, slots=True, eq=False)
class Flatten:
    """The items of lists."""

    def open(self, below: Lower, shop: Workshop, epoch: int) -> Feed:
        return Flattened(below(epoch))


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
        return Prefetched(below(epoch), self.size)


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
