"""The machine and the versions that a benchmark's figures belong to, as a table of texts."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path

import asyncjobs as aj
from asyncjobs.bench import peers

_PACKAGES = (
    "uvloop",
    "anyio",
    "cloudpickle",
    "numpy",
    "loky",
    "joblib",
    "pebble",
    "aiomultiprocess",
)


def table() -> Mapping[str, str]:
    """Name to text, in the order in which to show them; nothing that names the user or the host."""
    rows = {
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": platform.platform(terse=True),
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": _cores(),
        "load before": _load(),
        "event loop": "uvloop" if peers.installed("uvloop") else "asyncio",
        "start method of peers": peers.START_METHOD,
        "asyncjobs-runner": aj.__version__,
    }
    return rows | {package: peers.version(package) for package in _PACKAGES}


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cores() -> str:
    return f"{cores()} usable of {os.cpu_count() or '?'}"


def _load() -> str:
    """Above 0.5 somebody else is busy, and the figures are lower than they could be."""
    return f"{os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else "unknown"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
