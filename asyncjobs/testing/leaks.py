"""See to it that nothing is left behind: `assert_no_leaks`.

Counts this process's threads, child processes (theirs too), descriptors and shared memory,
before and after. Linux shows all four; elsewhere what cannot be seen is not checked.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from typing import NamedTuple

POLL = 0.01
"""Seconds between two looks: the kernel tells nobody when a descriptor or thread goes."""


class Census(NamedTuple):
    """What this process holds at one moment."""

    threads: frozenset[threading.Thread]
    children: dict[int, str]
    """Command lines by process id; multiprocessing's two helpers are left out, their children are not."""
    descriptors: dict[int, str]
    """What each leads to, by number."""
    memory: frozenset[str]
    """Entries of /dev/shm."""


def take_census() -> Census:
    """What there is now."""
    return Census(frozenset(threading.enumerate()), _children(), _descriptors(), _memory())


def leaks_since(before: Census) -> list[str]:
    """A paragraph for each thing that is here now and was not then; a thread's has its stack."""
    return _differences(before, take_census())


def _differences(before: Census, now: Census) -> list[str]:
    threads = [thread for thread in now.threads - before.threads if not _stays(thread)]
    found = [f"thread {thread.name!r} (daemon={thread.daemon}):\n{_stack(thread)}" for thread in threads]
    found += [f"process {pid}: {command}" for pid, command in now.children.items() if pid not in before.children]
    fresh = now.descriptors.items() - before.descriptors.items()
    found += [f"descriptor {number} -> {end}" for number, end in sorted(fresh)]
    return found + [f"shared memory /dev/shm/{name}" for name in sorted(now.memory - before.memory)]


def wait_for_no_leaks(before: Census, within: float = 2.0) -> list[str]:
    """The leaks that are still there after at most `within` seconds; blocks meanwhile."""
    leaks = leaks_since(before)
    if not leaks:
        return []
    deadline = time.monotonic() + within
    while leaks and time.monotonic() < deadline:
        # The folder of shared memory is the whole machine's. What is younger than this look
        # was made by others: we only wait.
        old = _memory()
        gc.collect()  # what only a cycle holds, perhaps since a moment ago, is not leaked, just not yet found
        time.sleep(POLL)
        before = before._replace(memory=before.memory | _memory_of_strangers(before))
        now = take_census()
        leaks = _differences(before, now._replace(memory=now.memory & old))
    return leaks


@contextmanager
def assert_no_leaks(within: float = 2.0) -> Iterator[None]:
    """Fail unless threads, processes, descriptors and shared memory are back as they were.

    Waits for at most `within` seconds, blocking the thread: put it around what runs a loop,
    not into a coroutine. An exception from the block goes first. multiprocessing's resource
    tracker and forkserver may stay (they are started before), for they serve the whole process.

    Raises:
        AssertionError: names each thing left behind, threads with their stacks.

    Example::

        with assert_no_leaks():
            asyncio.run(main())
    """
    start_helpers()
    before = take_census()
    yield
    leaks = wait_for_no_leaks(before, within)
    if leaks:
        raise AssertionError(f"left behind after {within:g} s:\n" + "\n".join(leaks))


def start_helpers() -> None:
    """Start what the first runner would start and what stays for good, so that nobody is blamed for it."""
    if sys.platform != "win32":
        resource_tracker.ensure_running()
        forkserver.ensure_running()
    uvloop = sys.modules.get("uvloop")
    if uvloop is not None:
        uvloop.new_event_loop().close()  # the first makes a pipe for signals that all loops share


# --- threads ----------------------------------------------------------------------------


def _stays(thread: threading.Thread) -> bool:
    """tqdm keeps one thread for the life of the process."""
    return not thread.is_alive() or type(thread).__module__.startswith("tqdm")


def _stack(thread: threading.Thread) -> str:
    frame = sys._current_frames().get(thread.ident or 0)
    return "".join(traceback.format_stack(frame)) if frame is not None else "  (no Python frame)\n"


# --- processes --------------------------------------------------------------------------


def helper_pids() -> frozenset[int]:
    """multiprocessing's own two processes, as far as they run."""
    tracker = getattr(getattr(resource_tracker, "_resource_tracker", None), "_pid", None)
    server = getattr(getattr(forkserver, "_forkserver", None), "_forkserver_pid", None)
    return frozenset(pid for pid in (tracker, server) if pid is not None)


def child_pids() -> list[int]:
    """Every living descendant of this process but multiprocessing's two helpers."""
    if not os.path.isdir("/proc/self/task"):
        return [child.pid for child in multiprocessing.active_children() if child.pid is not None]
    helpers = helper_pids()
    found: list[int] = []
    parents = [os.getpid()]
    while parents:
        below = _children_of(parents.pop())
        parents += below
        found += [pid for pid in below if pid not in helpers]
    return found


def _children_of(pid: int) -> list[int]:
    found: list[int] = []
    # A process may be gone before its page is read.
    with suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with suppress(OSError), open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found += map(int, file.read().split())
    return found


def _children() -> dict[int, str]:
    return {pid: _command(pid) for pid in child_pids()}


def _command(pid: int) -> str:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return "(gone)"
    return command or "(zombie: it has ended and nobody waited for it)"


# --- descriptors and shared memory ------------------------------------------------------


def _descriptors() -> dict[int, str]:
    if not os.path.isdir("/proc/self/fd"):
        return {}
    spared = {
        getattr(getattr(resource_tracker, "_resource_tracker", None), "_fd", None),
        getattr(getattr(forkserver, "_forkserver", None), "_forkserver_alive_fd", None),
    }
    ends: dict[int, str] = {}
    for name in os.listdir("/proc/self/fd"):
        # The descriptor that reads this very folder is among them, and gone by now.
        with suppress(OSError):
            ends[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return {number: end for number, end in ends.items() if number not in spared}


def _memory() -> frozenset[str]:
    try:
        return frozenset(os.listdir("/dev/shm"))
    except OSError:
        return frozenset()


def _memory_of_strangers(before: Census) -> set[str]:
    """New entries of /dev/shm that other programs made: the folder is the whole machine's."""
    fresh = _memory() - before.memory
    if not fresh:
        return set()
    family = {os.getpid(), *child_pids(), *helper_pids()}
    strangers = [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) not in family]
    maps = [_maps(pid) for pid in strangers]
    ours = [_maps(pid) for pid in family]
    return {
        name
        for name in fresh
        if (_in_any(f"/dev/shm/{name}", maps) and not _in_any(f"/dev/shm/{name}", ours))
        or any(f"-{pid}-" in name or f"_{pid}_" in name for pid in strangers)
    }


def _in_any(path: str, maps: list[str]) -> bool:
    return any(path in text for text in maps)


def _maps(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/maps").read_text(errors="replace")
    except OSError:
        return ""
