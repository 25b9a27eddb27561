"""One event loop in a background thread, for callers who have none: `Portal`.

Knows loops and threads, nothing of jobs. A caller hands a function over and goes on (`post`), or
blocks until a coroutine has ended (`call`). The coroutine may meanwhile ask for things to be done
in the caller's own thread (`converse`): a generator of the user's belongs there.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

from asyncjobs.errors import RunnerClosed, WouldDeadlock, WrongLoop
from asyncjobs.futures import fail, resolve

new_event_loop: Callable[[], asyncio.AbstractEventLoop]
try:
    from uvloop import new_event_loop
except ImportError:  # not on Windows
    new_event_loop = asyncio.new_event_loop

LAST_WAIT = 1.0
"""Seconds that coroutines on a closing portal get to end."""

P = ParamSpec("P")
T = TypeVar("T")

Ask = Callable[[Callable[[], Any]], Awaitable[Any]]
"""``await ask(fn)``: have the thread that waits run ``fn()``, and get what it returns or raises."""


class Portal:
    """A loop of its own in a daemon thread, from its making until `close`."""

    def __init__(self, name: str) -> None:
        self.loop: asyncio.AbstractEventLoop = new_event_loop()
        self._pid = os.getpid()
        self._exchanges: set[_Exchange] = set()
        self._ending = threading.Lock()
        self._is_ending = False
        self._is_over = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        try:
            self._thread.start()
        except BaseException:
            self.loop.close()
            raise

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            self.loop.run_until_complete(_wind_up())
            self.loop.close()
            with self._ending:
                self._is_over = True
            for exchange in tuple(self._exchanges):
                exchange.end(_Raise(RunnerClosed("the runner was closed meanwhile")))

    @property
    def is_here(self) -> bool:
        """Whether the caller is in the loop's own thread."""
        # Once it has ended, the next thread may get its number.
        return threading.get_ident() == self._thread.ident and self._thread.is_alive()

    @property
    def is_foreign(self) -> bool:
        """Whether we are a forked child's copy, which has no such thread."""
        return os.getpid() != self._pid

    def check(self, what: str) -> None:
        """Refuse to block where nothing would ever come.

        Raises:
            WouldDeadlock: in the loop's own thread; names `what` was called.
            WrongLoop: in a forked child.
        """
        if self.is_here:
            raise WouldDeadlock(
                f"{what} was called in the thread of the runner's own event loop, which it would block for ever. In a "
                "coroutine job await current_job().runner's methods instead; in a callback hand the work on: "
                "submit_nowait() never waits"
            )
        self.check_process(what)

    def check_process(self, what: str) -> None:
        """Refuse to be used in a forked child.

        Raises:
            WrongLoop: names `what` was called.
        """
        if self.is_foreign:
            raise WrongLoop(
                f"{what} was called in a forked child of the process that made the runner; a fork takes no threads "
                "along: make a runner of its own there, or start the child with 'spawn' or 'forkserver'"
            )

    # --- handing over -------------------------------------------------------------------

    def post(self, fn: Callable[..., object], *args: Any) -> bool:
        """Have the loop call ``fn(*args)`` soon; never waits. False: the loop is closed, or this is a forked child."""
        if self.is_foreign:
            return False
        try:
            self.loop.call_soon_threadsafe(fn, *args)
        except RuntimeError:
            if not self.loop.is_closed():
                raise
            return False
        return True

    def call(self, fn: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Block until ``await fn(*args, **kwargs)`` has ended on the loop.

        It runs with the caller's context variables. Interrupted (Ctrl-C), it is cancelled and
        not waited for.

        Raises:
            RunnerClosed: the loop is closed.
            WouldDeadlock: called in the loop's own thread.
            WrongLoop: called in a forked child.
        """
        return self.converse(lambda _: fn(*args, **kwargs), getattr(fn, "__name__", "a blocking call") + "()")

    def converse(self, fn: Callable[[Ask], Awaitable[T]], what: str) -> T:
        """As `call`, with ``fn(ask)``; `what` names the call in errors."""
        self.check(what)
        exchange = _Exchange(fn)
        with self._ending:
            if self._is_over or not self.post(exchange.start):
                raise RunnerClosed(f"{what}: the runner is closed; make a new one")
            self._exchanges.add(exchange)
        try:
            value: T = exchange.serve()
        except BaseException:
            self.post(exchange.cancel)
            raise
        finally:
            self._exchanges.discard(exchange)
        return value

    def do(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `call`, for a plain function that the loop's own thread has to run."""

        async def run(_: Ask) -> T:
            return fn(*args, **kwargs)

        return self.converse(run, f"{getattr(fn, '__name__', 'a blocking call')}()")

    def end_soon(self) -> None:
        """End the loop after what was posted before; never blocks."""
        self.post(self._stop)

    def close(self, timeout: float | None = None) -> None:
        """End the loop and wait, at most `timeout` seconds, for its thread; a second call does nothing."""
        if self.post(self._stop) and not self.is_here:
            self._thread.join(timeout)

    def _stop(self) -> None:
        # On the loop, and once: a second stop would cut the winding up short, and leave callers waiting.
        if not self._is_ending:
            self._is_ending = True
            self.loop.stop()


async def _wind_up() -> None:
    """End what still runs on the loop; whatever does not heed it is left."""
    loop = asyncio.get_running_loop()
    until = loop.time() + LAST_WAIT
    while (left := asyncio.all_tasks() - {asyncio.current_task()}) and loop.time() < until:
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=LAST_WAIT)
    # Only now: a generator cannot be closed while a task is in it.
    await loop.shutdown_asyncgens()


class _Exchange:
    """One blocking call: the caller's thread serves what the coroutine asks for, until it has ended."""

    def __init__(self, fn: Callable[[Ask], Awaitable[Any]]) -> None:
        self._fn = fn
        self._task: asyncio.Task[None] | None = None
        self._to_caller: SimpleQueue[tuple[Callable[[], Any], asyncio.Future[Any] | None]] = SimpleQueue()

    # --- in the caller's thread ---------------------------------------------------------

    def serve(self) -> Any:
        """Do what is asked for; the last of it is to return, or to raise."""
        while True:
            request, reply = self._to_caller.get()
            if reply is None:
                return request()
            self._answer(request, reply)

    def _answer(self, request: Callable[[], Any], reply: asyncio.Future[Any]) -> None:
        loop = reply.get_loop()
        try:
            value = request()
        except Exception as error:
            loop.call_soon_threadsafe(fail, reply, error)
        else:
            loop.call_soon_threadsafe(resolve, reply, value)

    # --- on the loop --------------------------------------------------------------------

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        try:
            value = await self._fn(self._ask)
        except asyncio.CancelledError:  # whoever waited was interrupted and is gone, or the loop ends
            self.end(_Raise(RunnerClosed("the runner was closed meanwhile")))
        # Whatever it is, it belongs to whoever waits; SystemExit must not end the loop.
        except BaseException as error:
            self.end(_Raise(error))
        else:
            self.end(lambda: value)

    def end(self, last: Callable[[], Any]) -> None:
        """Let the caller go with what ``last()`` returns or raises; from any thread, and only the first counts."""
        self._to_caller.put((last, None))

    def _ask(self, request: Callable[[], Any]) -> Awaitable[Any]:
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._to_caller.put((request, reply))
        return reply


class _Raise:
    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __call__(self) -> None:
        try:
            raise self._error
        finally:
            del self._error  # no cycle of error, traceback and frame
