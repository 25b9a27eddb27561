"""Start worker processes through multiprocessing, without three of its habits.

The stock context makes named semaphores (which SIGKILL leaves behind and a small /dev/shm
refuses), prepares children to run the user's main module again, and passes no plain
descriptors. Knows nothing of slots or jobs; imported by workers, so it stays light.
"""

from __future__ import annotations

import multiprocessing.context
import multiprocessing.spawn
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from multiprocessing import reduction
from multiprocessing.process import BaseProcess
from typing import Any


class Descriptor:
    """A file descriptor that goes along with a starting process."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number: int = number

    def close(self) -> None:
        """Close it; a second call does nothing."""
        number, self.number = self.number, -1
        if number >= 0:
            os.close(number)

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrived, (reduction.DupFd(self.number),)


def _arrived(duplicate: Any) -> Descriptor:
    return Descriptor(duplicate.detach())


class FarFunction:
    """Stands for a function that only the other process imports: it unpickles as that."""

    __slots__ = ("_module", "_name")

    def __init__(self, module: str, name: str) -> None:
        self._module = module
        self._name = name

    def __call__(self) -> None:
        raise TypeError(f"{self._module}.{self._name} runs in a worker process only")

    def __reduce__(self) -> tuple[Any, ...]:
        return _find, (self._module, self._name)


def _find(module: str, name: str) -> Any:
    return getattr(import_module(module), name)


class LocalLock:
    """A lock that is private to each process that gets a copy.

    One worker, one resident call: nothing on either side of the executor's queues ever
    contends with another process, so no semaphore in shared memory is needed. What one side
    acquires the other releases, on its own copy: the count bounds nothing, and need not.
    """

    def __init__(self, value: int = 1) -> None:
        self._value = value
        self._semaphore = threading.Semaphore(value)
        self._semlock = self

    def _is_zero(self) -> bool:
        # multiprocessing.Queue.full() asks its semaphore in this way.
        if self._semaphore.acquire(blocking=False):
            self._semaphore.release()
            return False
        return True

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        return self._semaphore.acquire(block, timeout) if block else self._semaphore.acquire(False)

    def release(self) -> None:
        self._semaphore.release()

    def __enter__(self) -> bool:
        return self._semaphore.acquire()

    def __exit__(self, *_: object) -> None:
        self._semaphore.release()

    def __reduce__(self) -> tuple[Any, ...]:
        return LocalLock, (self._value,)


class _OwnParts:
    """What both contexts change: locks without a name in the system, and they know the processes they made."""

    def __init__(self) -> None:
        self._made: list[BaseProcess] = []

    def Process(self, *args: Any, **kwargs: Any) -> BaseProcess:  # noqa: N802 - the context's own name for it
        process: BaseProcess = super().Process(*args, **kwargs)  # type: ignore[misc]
        self._made.append(process)
        return process

    def take_made(self) -> list[BaseProcess]:
        """The processes that were started since it was last asked; they are let go of, for they hold descriptors."""
        made, self._made = self._made, []
        return [process for process in made if process.pid is not None]

    def Lock(self) -> LocalLock:  # noqa: N802 - the context's own name for it
        return LocalLock()

    def BoundedSemaphore(self, value: int = 1) -> LocalLock:  # noqa: N802
        return LocalLock(value)


class _ForkServer(_OwnParts, multiprocessing.context.ForkServerContext):  # type: ignore[misc]  # other locks
    pass


class _Spawn(_OwnParts, multiprocessing.context.SpawnContext):  # type: ignore[misc]  # other locks
    pass


StartContext = _ForkServer | _Spawn

START_METHODS = ("forkserver", "spawn")


def start_context(start_method: str) -> StartContext:
    """A context for one-worker executors; never fork, for the runner owns threads."""
    return _ForkServer() if start_method == "forkserver" else _Spawn()


# --- workers never import __main__ ------------------------------------------------------

_quiet = threading.local()
_starting = 0
_stock_preparation = multiprocessing.spawn.get_preparation_data


def _preparation_without_main(name: str) -> dict[str, Any]:
    data = _stock_preparation(name)
    if getattr(_quiet, "on", False):
        data = {key: value for key, value in data.items() if not key.startswith("init_main_from")}
    return data


multiprocessing.spawn.get_preparation_data = _preparation_without_main


def is_starting() -> bool:
    """Whether a worker is being started at this moment, which holds up its loop."""
    return _starting > 0


@contextmanager
def without_main(environment: dict[str, str] | None = None) -> Iterator[None]:
    """Within it, processes that this thread starts do not run the main module again.

    Other threads' processes are prepared as ever.
    `environment` is laid over os.environ meanwhile: the only way to give a spawned
    interpreter variables that are read before any of its code runs (LD_*, MALLOC_*); other
    threads see them for these milliseconds.
    """
    global _starting
    changed = environment or {}
    before = {name: os.environ.get(name) for name in changed}
    _quiet.on = True
    _starting += 1
    os.environ.update(changed)
    try:
        yield
    finally:
        _quiet.on = False
        _starting -= 1
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def out_of_reach() -> Iterator[None]:
    """Within it, processes that this thread starts have SIGINT blocked, until they unblock it.

    Ctrl-C must not hit a half-made worker; what comes meanwhile reaches us right after.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
