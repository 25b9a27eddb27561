"""Take items from one or more iterables, sync or async, a few at a time."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Sized
from itertools import islice
from typing import Any, cast


class Source:
    """One or more iterables, sync or async, taken a few items at a time.

    `error` is what a source raised; the items before it still count. `elsewhere`, if it is set, runs
    a function in the thread where sync iterables are to be advanced.

    Raises:
        TypeError: no iterables, or one that cannot be iterated over.
    """

    def __init__(self, iterables: tuple[Iterable[Any] | AsyncIterable[Any], ...], *, starred: bool = False) -> None:
        _check(iterables)
        self.is_wide: bool = len(iterables) > 1
        self.is_starred: bool = starred or self.is_wide
        """Each item is a tuple of arguments."""
        self.is_empty: bool = False
        self.error: BaseException | None = None
        self.is_async: bool = any(hasattr(iterable, "__aiter__") for iterable in iterables)
        self.total: int | None = min((len(one) for one in iterables if isinstance(one, Sized)), default=None)
        """How many items there are, as far as that is known."""
        self.elsewhere: Callable[[Callable[[], Any]], Awaitable[Any]] | None = None
        self._iterables = iterables
        if self.is_async:
            self._steps = [_step(iterable) for iterable in iterables]
        else:
            plain = cast(tuple[Iterable[Any], ...], iterables)
            self._iterator = zip(*plain, strict=False) if self.is_wide else iter(plain[0])

    async def take(self, count: int) -> list[Any]:
        """Up to `count` items; fewer only at the end."""
        items: list[Any] = []
        try:
            if self.is_async:
                while len(items) < count:
                    row = [await step() for step in self._steps]
                    items.append(tuple(row) if self.is_wide else row[0])
            elif self.elsewhere is not None:
                await self.elsewhere(lambda: items.extend(islice(self._iterator, count)))
            else:
                items.extend(islice(self._iterator, count))
        except StopAsyncIteration:
            self.is_empty = True
        except Exception as error:
            self.error = error
        self.is_empty = self.is_empty or len(items) < count
        return items

    async def aclose(self) -> None:
        """Close the async generators, in the task that ran them."""
        for iterable in self._iterables:
            if isinstance(iterable, AsyncGenerator):
                try:
                    await iterable.aclose()
                # What its clean-up raises comes after what is known already.
                except Exception as error:
                    self.error = self.error or error


def _check(iterables: tuple[object, ...]) -> None:
    if not iterables:
        raise TypeError("map needs at least one iterable")
    for iterable in iterables:
        if not hasattr(iterable, "__iter__") and not hasattr(iterable, "__aiter__"):
            raise TypeError(f"{iterable!r} is not allowed; allowed: an iterable or an async iterable")


def _step(iterable: Iterable[Any] | AsyncIterable[Any]) -> Callable[[], Any]:
    """How to get the next item of a source, as a coroutine function."""
    if isinstance(iterable, AsyncIterable):
        return aiter(iterable).__anext__
    iterator = iter(iterable)

    async def step() -> Any:
        for item in iterator:
            return item
        raise StopAsyncIteration

    return step
