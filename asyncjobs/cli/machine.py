"""Read what this machine, its container and this Python grant to a runner.

Only reading: what the values mean for a runner is judged in `doctor`. Whatever
cannot be found out here is None.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata

from asyncjobs import __version__
from asyncjobs.lanes.process import THREAD_CAPS
from asyncjobs.memory import available_memory
from asyncjobs.processors import ControlGroups, affinity, least

PACKAGES = ("uvloop", "anyio", "cloudpickle", "plotly", "numpy", "tqdm", "typer", "rich")


@dataclass(frozen=True, slots=True)
class Facts:
    """What a report of a problem should say about the machine; sizes in bytes."""

    asyncjobs: str
    """Our own version."""
    python: str
    """Implementation and version."""
    versions: Mapping[str, str | None]
    """Installed packages by distribution name; None: missing."""
    system: str
    """``Linux``, ``Darwin`` or ``Windows``."""
    platform: str
    cores: int
    """What the machine has: `os.cpu_count()`."""
    affinity: int | None
    """How many of them this process may run on."""
    quota: float | None
    """How many cores' time the container may use."""
    start_methods: tuple[str, ...]
    """What `multiprocessing` offers here, its own default first."""
    memory: int | None
    memory_available: int | None
    container_memory: int | None
    """The container's limit."""
    container_memory_used: int | None
    shm_size: int | None
    """Of ``/dev/shm``."""
    shm_free: int | None
    files_soft: int | None
    """RLIMIT_NOFILE; None: no limit or no such thing."""
    files_hard: int | None
    files_open: int
    """Descriptors open in this process now."""
    processes_limit: int | None
    """RLIMIT_NPROC of this user; root is not bound by it."""
    pids_limit: int | None
    """Processes and threads that the container allows."""
    pids_used: int | None
    memory_files: bool
    """`memfd_create` works, and holes can be punched into such a file."""
    pidfd: bool
    thread_variables: Mapping[str, str]
    """Variables that set how many threads a numerical library starts."""
    jupyter: bool
    temp: str
    """The folder for temporary files; empty: there is none that can be written."""
    temp_wanted: str | None
    """What TMPDIR asks for."""
    temp_writable: bool

    @property
    def usable_cores(self) -> int:
        """How many jobs can really compute at once: the least of cores, affinity and quota."""
        return least(self.cores, self.affinity, self.quota)


def gather() -> Facts:
    """Look at everything; takes some milliseconds and leaves nothing behind."""
    soft, hard = _limits("RLIMIT_NOFILE")
    shm_size, shm_free = _shm()
    groups = ControlGroups()
    return Facts(
        asyncjobs=__version__,
        python=f"{platform.python_implementation()} {platform.python_version()}",
        versions={name: _version(name) for name in PACKAGES},
        system=platform.system(),
        platform=platform.platform(),
        cores=os.cpu_count() or 1,
        affinity=affinity(),
        quota=groups.cores(),
        start_methods=tuple(multiprocessing.get_all_start_methods()),
        memory=_page_count("SC_PHYS_PAGES"),
        memory_available=available_memory(),
        container_memory=groups.memory_limit(),
        container_memory_used=groups.memory_used(),
        shm_size=shm_size,
        shm_free=shm_free,
        files_soft=soft,
        files_hard=hard,
        files_open=_open_files(),
        processes_limit=None if _is_root() else _limits("RLIMIT_NPROC")[0],
        pids_limit=groups.pids_limit(),
        pids_used=groups.pids_used(),
        memory_files=_works(_try_memory_file),
        pidfd=_works(_try_pidfd),
        thread_variables={name: os.environ[name] for name in THREAD_CAPS if name in os.environ},
        jupyter="ipykernel" in sys.modules or "JPY_PARENT_PID" in os.environ,
        temp=_temp(),
        temp_wanted=os.environ.get("TMPDIR"),
        temp_writable=_works(_try_temp),
    )


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _limits(name: str) -> tuple[int | None, int | None]:
    try:
        import resource
    except ModuleNotFoundError:  # Windows has none.
        return None, None
    bounds = resource.getrlimit(getattr(resource, name))
    soft, hard = (None if bound == resource.RLIM_INFINITY else bound for bound in bounds)
    return soft, hard


def _is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0


def _page_count(name: str) -> int | None:
    try:
        return os.sysconf(name) * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _shm() -> tuple[int | None, int | None]:
    try:
        found = os.statvfs("/dev/shm")
    except (AttributeError, OSError):
        return None, None
    return found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize


def _temp() -> str:
    try:
        return tempfile.gettempdir()
    except FileNotFoundError:
        return ""


def _open_files() -> int:
    for folder in ("/proc/self/fd", "/dev/fd"):
        try:
            return len(os.listdir(folder))
        except OSError:
            continue
    return 0


def _works(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except (AttributeError, OSError, ValueError):
        return False
    return True


def _try_memory_file() -> None:
    descriptor = os.memfd_create("asyncjobs-doctor")
    try:
        os.ftruncate(descriptor, mmap.PAGESIZE)
        with mmap.mmap(descriptor, mmap.PAGESIZE) as mapped:
            mapped.madvise(mmap.MADV_REMOVE)
    finally:
        os.close(descriptor)


def _try_pidfd() -> None:
    os.close(os.pidfd_open(os.getpid()))


def _try_temp() -> None:
    with tempfile.TemporaryFile():
        pass
