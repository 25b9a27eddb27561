"""Our own service in a process of its own, ``asyncjobs serve``, and a client of it that the benchmark can ask."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncjobs as aj
from asyncjobs.bench import probes
from asyncjobs.bench.servicequeue import FUNCTIONS, PAUSE, STARTED, Client, Queue
from asyncjobs.portal import new_event_loop

OURS = "asyncjobs"
PROCESSES = 2
READY = b"asyncjobs serve: ready"
PATIENCE = 60.0
_BY_NAME = {fn.__name__: fn for fn in FUNCTIONS}


@dataclass(slots=True)
class Serving:
    """A service that runs."""

    process: subprocess.Popen[bytes]
    state: Path
    ready_after: float
    """Seconds from the start of its interpreter until it said that it is ready."""

    @property
    def pid(self) -> int:
        return self.process.pid

    def about(self) -> dict[str, Any]:
        """Its ``url`` on TCP, its ``socket``."""
        found: dict[str, Any] = json.loads((self.state / "address.json").read_text())
        return found

    def token(self) -> str:
        """What callers over TCP show."""
        return (self.state / "token").read_text()

    def end(self, number: int = signal.SIGTERM) -> float:
        """Send the signal and wait for the end; seconds."""
        began = time.perf_counter()
        self.process.send_signal(number)
        self.process.wait(PATIENCE)
        return time.perf_counter() - began


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[Serving]:
    """Start it on what `folder` holds already, if anything; at the end it is stopped."""
    command = [sys.executable, "-m", "asyncjobs", "serve", "--dir", str(folder / "state"), "--processes"]
    command += [str(PROCESSES), "--allow", "asyncjobs.bench.tiny.*", *options]
    began = time.perf_counter()
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        # A socket below the folder, not one that the user's own service may have.
        env={name: value for name, value in probes.source_environment().items() if name != "XDG_RUNTIME_DIR"},
    ) as process:
        try:
            assert process.stdout is not None
            if not process.stdout.readline().startswith(READY):
                raise RuntimeError(f"the service ended with {process.wait(PATIENCE)} before it was ready")
            yield Serving(process, folder / "state", time.perf_counter() - began)
        finally:
            if process.poll() is None:
                process.terminate()
                _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()


class OurClient(Client):
    """The client of `aj.connect`, on an event loop of its own."""

    def __init__(self, serving: Serving) -> None:
        super().__init__(serving.pid)
        self._runner = asyncio.Runner(loop_factory=new_event_loop)
        self._service = aj.connect(serving.state)
        self._runner.run(self._service.__aenter__())

    def submit(self, function: str, values: Sequence[int]) -> list[Any]:
        return self._runner.run(self._service.submit_many(_BY_NAME[function], values))

    def submit_each(self, function: str, values: Sequence[int]) -> None:
        async def each() -> None:
            fn = _BY_NAME[function]
            for value in values:
                await self._service.submit(fn, value)

        self._runner.run(each())

    def submit_beside(self, function: str, values: Sequence[int], width: int) -> None:
        async def each(rest: Iterator[int]) -> None:
            for value in rest:
                await self._service.submit(_BY_NAME[function], value)

        async def beside() -> None:
            rest = iter(values)
            await asyncio.gather(*[each(rest) for _ in range(width)])

        self._runner.run(beside())

    def ended(self) -> int:
        return self._runner.run(self._service.stats()).states.get("SUCCEEDED", 0)

    def values(self, handles: Sequence[Any]) -> list[Any]:
        async def every() -> list[Any]:
            return [await handle for handle in handles]

        return self._runner.run(every())

    def delays(self, count: int, between: Callable[[], None]) -> list[float]:
        async def each() -> list[float]:
            found = []
            for number in range(count):
                await asyncio.sleep(PAUSE)
                between()
                began = time.monotonic()
                job = await self._service.submit(_BY_NAME[STARTED], number)
                found.append(await job - began)
            return found

        return self._runner.run(each())

    def mapped(self, function: str, values: Sequence[int]) -> list[Any]:
        """The results of a `map`, in hand."""
        return self._runner.run(self._service.map(_BY_NAME[function], values).collect())

    def pause(self) -> None:
        """Start no more jobs."""
        self._runner.run(self._service.pause())

    def resume(self) -> None:
        """Start them again."""
        self._runner.run(self._service.resume())

    def states(self) -> dict[str, int]:
        """How many jobs are in each state."""
        return self._runner.run(self._service.stats()).states

    def close(self) -> None:
        self._runner.run(self._service.aclose())
        self._runner.close()


@contextmanager
def _open(folder: Path) -> Iterator[Client]:
    with serving(folder) as service:
        client = OurClient(service)
        try:
            yield client
        finally:
            client.close()


def ours() -> Queue:
    """The service at its defaults, with two worker processes."""
    return Queue(OURS, "", aj.__version__, _open, is_ours=True)
