"""Find out how much of the machine this process may use: processors, and its container's limits.

Only reading; what the values mean is judged elsewhere. What cannot be found out is None.
"""

from __future__ import annotations

import os

# cgroup v1 writes "no limit" as the largest multiple of a page.
_UNLIMITED = 2**60


def usable_processors() -> int:
    """How many jobs can really compute at once on this machine, in this container."""
    return least(os.cpu_count() or 1, affinity(), ControlGroups().cores())


def least(cores: int, *bounds: float | None) -> int:
    """The whole cores that all bounds allow, at least one; None is no bound."""
    return max(1, int(min([float(cores), *(bound for bound in bounds if bound)])))


def affinity() -> int | None:
    """How many processors this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


class ControlGroups:
    """The limits of the control groups that this process is in, versions 1 and 2.

    A limit holds for everything below it, so each is the least on the way from our
    group up to the root. In a container the root may be all that is visible.
    """

    def __init__(self, root: str | os.PathLike[str] = "/sys/fs/cgroup", membership: str | None = None) -> None:
        self._root = os.fspath(root)
        text = read("/proc/self/cgroup") if membership is None else membership
        self._groups = {
            controller: path
            for _, controllers, path in (line.split(":", 2) for line in (text or "").splitlines() if line)
            for controller in controllers.split(",")
        }

    def cores(self) -> float | None:
        """The processor time per second of time, in cores."""
        shares = [_quota(*text.split()) for text in self._values("", "cpu.max")]
        periods = self._values("cpu", "cpu.cfs_period_us")
        shares += [_quota(*pair) for pair in zip(self._values("cpu", "cpu.cfs_quota_us"), periods, strict=False)]
        return min((share for share in shares if share), default=None)

    def memory_limit(self) -> int | None:
        """In bytes."""
        return self._least(("", "memory.max"), ("memory", "memory.limit_in_bytes"))

    def memory_used(self) -> int | None:
        """In bytes, the page cache included; of our own group."""
        return self._first(("", "memory.current"), ("memory", "memory.usage_in_bytes"))

    def pids_limit(self) -> int | None:
        """How many processes and threads there may be."""
        return self._least(("", "pids.max"), ("pids", "pids.max"))

    def pids_used(self) -> int | None:
        """How many there are in our own group."""
        return self._first(("", "pids.current"), ("pids", "pids.current"))

    def _least(self, *places: tuple[str, str]) -> int | None:
        found = [int(text) for place in places for text in self._values(*place) if text.isdigit()]
        return min((limit for limit in found if limit < _UNLIMITED), default=None)

    def _first(self, *places: tuple[str, str]) -> int | None:
        return next((int(text) for place in places for text in self._values(*place) if text.isdigit()), None)

    def _values(self, controller: str, name: str) -> list[str]:
        """The contents of the files `name`, from our group's folder up to the root; version 2 is controller ''."""
        if controller not in self._groups:
            return []
        roots = [os.path.join(self._root, controller)] if controller else [self._root, f"{self._root}/unified"]
        own = self._groups[controller].strip("/").split("/")
        folders = ["/".join(own[:depth]) for depth in range(len(own), 0, -1) if own[0]] + [""]
        texts = [read(os.path.join(root, folder, name)) for root in roots for folder in folders]
        return [text for text in texts if text]


def _quota(quota: str, period: str = "100000") -> float | None:
    return int(quota) / int(period) if quota.isdigit() and int(period) else None


def read(path: str | os.PathLike[str]) -> str | None:
    """The text of a small system file; None if it cannot be read."""
    # No pathlib here: every program that runs jobs imports this module.
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        return None
