"""Signal a worker and its process group, and nobody else: the system gives the number of what has ended to others.

Threads get their numbers from the same pool, and a signal for a thread's number reaches its whole program: a number
that is out of date may well be one of our own.
"""

from __future__ import annotations

import os
import signal


def signal_group(pid: int, pidfd: int, number: int) -> None:
    """Send signal `number` to the group of process `pid`, and to the process if it has left that group.

    Args:
        pidfd: of that process; negative where there is none, and then its number is believed.
    """
    if not _is_its_own(pid, pidfd):
        return
    for send in (os.killpg, os.kill):
        try:
            send(pid, number)
        except (ProcessLookupError, PermissionError):
            continue  # gone already


def _is_its_own(pid: int, pidfd: int) -> bool:
    """Whether nobody else has the number: it stays taken until the process has been waited for, and as long as anybody
    is in its group. Then no process has it, or it has been given away."""
    if pidfd < 0 or not hasattr(signal, "pidfd_send_signal"):
        return True
    try:
        signal.pidfd_send_signal(pidfd, 0)
    except ProcessLookupError:
        return not _exists(pid)
    return True


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
