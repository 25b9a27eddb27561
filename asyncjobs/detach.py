"""Make a fresh process a worker's own: terminal, signals, lifeline, output.

Knows nothing of jobs or channels.
"""

from __future__ import annotations

import faulthandler
import os
import select
import signal
import sys
from types import ModuleType

from asyncjobs.spawning import Descriptor

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None


WHERE = getattr(signal, "SIGWINCH", 0)
"""Asks a worker where it is. Nobody dies of it, whatever a job has done to its handlers; and a worker has no window."""


def leave_the_terminal() -> None:
    """Ctrl-C is the runner's to handle, and so is SIGTERM, which a shutdown sends to all
    processes and the executor sends when it believes us dead."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A handler, for what is ignored stays ignored in programs that a job starts.
    signal.signal(signal.SIGTERM, _let_the_runner_decide)
    os.setpgid(0, 0)
    # Blocked since before we started: Ctrl-C must not hit a half-made worker.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _let_the_runner_decide(*_: object) -> None:
    """The runner ends us when its jobs have ended."""


def die_with_the_runner(lifeline: Descriptor) -> None:
    """The kernel kills us when the runner's end of this pipe closes, even if a job holds the
    interpreter lock. PDEATHSIG would follow the forkserver, which dies when it cannot fork,
    or with spawn the thread that started us. Kills at once where the runner is gone already."""
    if fcntl is not None and hasattr(fcntl, "F_SETSIG"):
        fcntl.fcntl(lifeline.number, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(lifeline.number, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline.number, fcntl.F_SETFL, os.O_RDONLY | os.O_ASYNC)
        ends = select.poll()
        ends.register(lifeline.number, select.POLLHUP)
        if ends.poll(0):  # what has happened before we asked for the signal sends none
            os.kill(os.getpid(), signal.SIGKILL)


def take_over_output(stdout: Descriptor | None, stderr: Descriptor | None) -> None:
    """Write to the runner's pipes from now on, where there are any; a crash's stacks, too."""
    for given, descriptor, name in ((stdout, 1, "stdout"), (stderr, 2, "stderr")):
        if given is not None:
            os.dup2(given.number, descriptor)
            os.close(given.number)
            # Anew, for the old one remembers what kind of file the descriptor was.
            stream = open(descriptor, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
    faulthandler.enable(2)


def say_where_when_asked(file: Descriptor) -> None:
    """At the signal `WHERE`, append the stacks of all threads to `file`, even if a job holds the interpreter lock."""
    if fcntl is not None:
        fcntl.fcntl(file.number, fcntl.F_SETFL, os.O_RDWR | os.O_APPEND)
        faulthandler.register(WHERE, file.number, all_threads=True)
