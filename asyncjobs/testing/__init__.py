"""Kits for testing with asyncjobs, and for testing lanes of your own.

Names are loaded when they are first used: jobs of `faults` run in workers, which must not
pay for the runner.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "ChargedLoop": "loops",
    "FileGate": "work",
    "Gate": "gate",
    "LANE_CHECKS": "lanes",
    "ShuffledLoop": "loops",
    "SimulatedLane": "simulated",
    "VirtualClockLoop": "loops",
    "assert_no_leaks": "leaks",
    "check_history": "history",
    "check_lane": "lanes",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'asyncjobs.testing' has no attribute {name!r}")
    value = getattr(import_module(f"asyncjobs.testing.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
