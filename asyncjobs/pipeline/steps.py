"""The functions of a stage, and how a crew calls them: one as it is, several as one `Chain`.

Runs in worker processes too, so it loads neither asyncio nor numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import CoroutineType
from typing import Any, NamedTuple

from asyncjobs.errors import JobStopped
from asyncjobs.pipeline.faults import OnError, shown
from asyncjobs.wire import failure
from asyncjobs.wire.answers import returned_awaitable

Key = tuple[int, int, int]
"""Seed, epoch and index: what an item's random numbers come from."""


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One function of items, as the user gave it."""

    fn: Callable[..., Any]
    name: str
    """``map(decode)``."""
    chooses: bool
    """The item stays if the function says so; else what the function returns goes on in its place."""
    on_error: OnError
    is_seeded: bool
    """The function takes `rng`."""
    is_coroutine: bool
    place: int = 0
    """How many stages before it draw random numbers: each draws others."""

    @property
    def keeps_all(self) -> bool:
        """Whether as many items come out as go in."""
        return not self.chooses and self.on_error == "raise"


class Verdict(NamedTuple):
    """What comes back in place of a value: the item stays as it was, or none came out."""

    depth: int
    """How many steps it passed; all of them: it stays."""
    failure: failure.Failure | None = None
    """What the next step raised; None: it did not choose the item."""
    item: str = ""
    """The repr of what that step was given, if it raised."""


@dataclass(frozen=True, slots=True)
class Seeded:
    """``fn(item, rng=...)``, with random numbers that depend on the key, and on the place among those that draw."""

    fn: Callable[..., Any]
    place: int

    def __call__(self, item: Any, key: Key) -> Any:
        import numpy as np

        return self.fn(item, rng=np.random.default_rng((*key, self.place) if self.place else key))


class Link(NamedTuple):
    """What a chain needs of a step."""

    call: Callable[..., Any]
    name: str
    chooses: bool
    is_seeded: bool


@dataclass(frozen=True, slots=True)
class Chain:
    """Several steps one after the other, without a trip in between: what comes out, or a `Verdict`."""

    links: tuple[Link, ...]

    def __call__(self, item: Any, key: Key | None = None) -> Any:
        is_same = True
        for depth, (call, name, chooses, is_seeded) in enumerate(self.links):
            try:
                value = call(item, key) if is_seeded else call(item)
                if chooses and not _stays(value, name):
                    return Verdict(depth)
            except JobStopped:
                raise
            # Everything: which step it was is not to be seen from outside.
            except BaseException as error:
                return Verdict(depth, failure.capture(error, skip_frames=1), shown(item))
            if not chooses:
                item, is_same = value, False
        return Verdict(len(self.links)) if is_same else item


def _stays(value: Any, name: str) -> bool:
    if type(value) is CoroutineType:
        raise returned_awaitable(name, value)
    return bool(value)


def _choose(call: Callable[..., Any], name: str, item: Any, *key: Key) -> Verdict:
    return Verdict(1 if _stays(call(item, *key), name) else 0)


async def _choose_on_loop(call: Callable[..., Any], name: str, item: Any, *key: Key) -> Verdict:
    return Verdict(1 if _stays(await call(item, *key), name) else 0)


def call_of(steps: Sequence[Step]) -> Callable[..., Any]:
    """What a crew is to call with an item, and with its key if any of `steps` takes `rng`."""
    if len(steps) > 1:
        return Chain(tuple(Link(_single(step), step.name, step.chooses, step.is_seeded) for step in steps))
    (step,) = steps
    if not step.chooses:
        return _single(step)
    return partial(_choose_on_loop if step.is_coroutine else _choose, _single(step), step.name)


def _single(step: Step) -> Callable[..., Any]:
    return Seeded(step.fn, step.place) if step.is_seeded else step.fn
