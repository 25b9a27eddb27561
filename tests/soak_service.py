"""The service of a soak, and what is done to it: `Battered`, in a thread of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
from services import READY, ServiceProcess
from soak_plan import Blow, blows

READY_WITHIN = 60.0
"""Seconds: the machine may be busy; what is promised is told besides."""
GONE_WITHIN = 15.0
"""Seconds until nothing of a killed service is left; it takes milliseconds."""
EXITS = frozenset({0, -signal.SIGKILL})
"""Codes that it may end with here."""


class Battered:
    """A service that gets blows, and is started again after each that ends it.

    Args:
        is_over: asked now and then whether that is enough.
    """

    def __init__(self, folder: Path, seed: int, is_over: Callable[[], bool]) -> None:
        self.done: Counter[str] = Counter()
        """Blows, by kind; ``died at NAME`` for those that a failpoint dealt."""
        self.slowest = 0.0
        """Seconds of the slowest start."""
        self.complaints: list[str] = []
        self._seed = seed
        self._is_over = is_over
        self._service = ServiceProcess(folder, "--drain", "1", allow=("soak_jobs.*",), ready=False)
        self._point = ""
        self._frozen = 0
        self._wait_until_ready()

    @property
    def service(self) -> ServiceProcess:
        """The one that runs now."""
        return self._service

    def run(self) -> None:
        """Deal blows until it is over; it runs, unharmed, when this returns."""
        for blow in blows(self._seed):
            if not self._watch(blow.after):
                break
            self.done[blow.kind] += 1
            self._note(blow)
            getattr(self, blow.kind)(blow)
        self.kill(Blow(0.0, "kill", 0.0))

    def end(self) -> None:
        """Stop it as one should; nothing of it is left."""
        if self._descriptors() != 1:
            self._complain(f"I11 {self._descriptors()} descriptors lead to the database, not 1")
        code = self._service.stop(60)
        if code != 0:
            self._complain(f"it ended with {code} when it was asked to stop")

    def close(self) -> None:
        """Kill what is left."""
        self._service.close()

    # --- blows --------------------------------------------------------------------------

    def kill(self, blow: Blow) -> None:
        """SIGKILL, and a start."""
        self._service.kill()
        self._start_again()

    def kill_twice(self, blow: Blow) -> None:
        """It is killed again while it starts."""
        self._service.kill()
        self._service.restart(ready=False)
        time.sleep(blow.draw)
        self.kill(blow)

    def stop(self, blow: Blow) -> None:
        """SIGTERM: it drains for a second."""
        self._service.terminate()
        self._start_again()

    def fail_at_a_point(self, blow: Blow) -> None:
        """From now on it dies at a failpoint, it or its workers."""
        self._service.kill()
        self._start_again(f"{blow.point}=kill@{blow.passes}")
        if blow.point.startswith("shutdown"):
            self._service.terminate()

    def kill_worker(self, blow: Blow) -> None:
        """SIGKILL to a process that runs jobs."""
        self._send(signal.SIGKILL, self._workers(), blow.draw)

    def kill_a_helper(self, blow: Blow) -> None:
        """SIGKILL to one of those that help to start workers."""
        self._send(signal.SIGKILL, sorted(self._service.workers() - set(self._workers())), blow.draw)

    def freeze_a_worker(self, blow: Blow) -> None:
        """It stands still for a while."""
        self._still(self._workers(), blow)

    def freeze(self, blow: Blow) -> None:
        """The service itself stands still, as when a laptop closes."""
        self._still([self._service.process.pid], blow)

    # --- how ----------------------------------------------------------------------------

    def _still(self, among: list[int], blow: Blow) -> None:
        victim = self._send(signal.SIGSTOP, among, blow.draw)
        self._frozen = victim or 0
        self._watch(4 * blow.draw)
        if victim is not None:
            self._send(signal.SIGCONT, [victim], 0.0)
        self._frozen = 0

    def _workers(self) -> list[int]:
        """Those that run jobs: the children of the forkserver."""
        found = []
        for pid in self._service.workers():
            with contextlib.suppress(psutil.NoSuchProcess):
                if psutil.Process(pid).ppid() != self._service.process.pid:
                    found.append(pid)
        return sorted(found)

    def _send(self, number: int, among: list[int], draw: float) -> int | None:
        if not among:
            return None
        victim = among[int(draw * len(among))]
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, number)
        return victim

    def _watch(self, seconds: float) -> bool:
        """Wait; what died is started again. False: it is over."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self._is_over():
                return False
            self._service.listen()
            self._service.family()  # while it lives it says who belongs to it
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._service.process.wait(min(0.2, max(0.0, until - time.monotonic())))
                self._start_again()
        return True

    def _start_again(self, point: str = "") -> None:
        """Once it has ended; if it dies in the middle of its start, once more, without the failpoint."""
        self._after(self._service.process.wait(30))
        while True:
            self._point = point
            self._service.environment["ASYNCJOBS_FAILPOINTS"] = point
            self._service.restart(ready=False)
            if self._wait_until_ready():
                return
            self._after(self._service.process.wait(30))
            point = ""

    def _wait_until_ready(self) -> bool:
        began = time.monotonic()
        try:
            self._service.read_until(READY, READY_WITHIN)
        except AssertionError as error:
            if self._service.process.poll() is None:
                raise
            self._service.process.wait(30)
            if not self._point:
                self._complain(f"it did not start: {error}")
            return False
        self.slowest = max(self.slowest, time.monotonic() - began)
        return True

    def _after(self, code: int) -> None:
        """It has ended: as it should have, and all of it."""
        self._note(f"ended with {code}")
        if code not in EXITS:
            self._complain(f"it ended with exit code {code}, armed: {self._point!r}")
        self._service.listen()
        if code == -signal.SIGKILL and self._point:
            self.done[f"died at {self._point.partition('=')[0]}"] += 1
        until = time.monotonic() + GONE_WITHIN
        while left := self._service.family():
            if self._frozen and time.monotonic() > until - GONE_WITHIN / 2:
                # Frozen at its birth, before it could ask for the signal, it cannot die with its service.
                self._send(signal.SIGCONT, [self._frozen], 0.0)
            if time.monotonic() > until:
                self._complain(f"I12 after its end there are still {[told(pid) for pid in left]}")
                break
            time.sleep(0.005)
        self._service.forget()

    def _complain(self, what: str) -> None:
        self._note(what)
        self.complaints.append(what)

    def _note(self, what: object) -> None:
        with open(self._service.folder.parent / "diary", "a") as diary:
            print(f"{time.monotonic():.3f}", what, f"armed: {self._point!r}", file=diary)

    def _descriptors(self) -> int:
        """How many lead to the database; it hides its memory, and with it these, from all but root."""
        try:
            ends = [os.readlink(entry) for entry in Path(f"/proc/{self._service.process.pid}/fd").iterdir()]
        except (PermissionError, FileNotFoundError):
            return 1
        return ends.count(str(self._service.folder / "jobs.db"))


def told(pid: int) -> str:
    """What a process is and does, for people."""
    with contextlib.suppress(psutil.NoSuchProcess, OSError):
        process = psutil.Process(pid)
        at = Path(f"/proc/{pid}/wchan").read_text()
        return f"{pid} of {process.ppid()}, {process.status()} in {at}: {process.cmdline()[:4]}"
    return f"{pid} (gone)"
