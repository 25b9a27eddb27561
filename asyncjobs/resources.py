"""What a job needs of a machine, as names with amounts: ``{"cpu": 2, "gpu": 1, "memory": "2GiB"}``.

Reads and checks what users write. Who has how much, and who gets it, is judged elsewhere.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

Amounts = Mapping[str, float]
"""Checked: plain numbers above 0, sizes in bytes."""

ALLOWED: Final = "None, or a mapping of names to numbers from 0 or sizes such as '2GiB', as {'cpu': 2, 'gpu': 1}"

_UNITS: Final = {
    prefix + ending: base**power
    for base, ending in ((1000, "B"), (1024, "iB"))
    for power, prefix in enumerate(("", "k" if base == 1000 else "K", "M", "G", "T"))
    if prefix or ending == "B"
}
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?) ?([kKMGT]?i?B)")


def amounts(given: object) -> Amounts:
    """The amounts as numbers; those of 0 are left out.

    Raises:
        ValueError: not a mapping of names to amounts.

    {"gpu": 1, "memory": "2GiB"} -> {"gpu": 1, "memory": 2147483648}.
    """
    if not isinstance(given, Mapping) or not all(isinstance(name, str) and name for name in given):
        raise ValueError(f"resources={given!r} is not allowed; allowed: {ALLOWED}")
    found = {name: amount(value) for name, value in given.items()}
    if None in found.values():
        raise ValueError(f"resources={given!r} is not allowed; allowed: {ALLOWED}")
    return MappingProxyType({name: value for name, value in found.items() if value})


def amount(value: object) -> float | None:
    """One amount as a number; None if it is none."""
    if isinstance(value, str):
        size = _SIZE.fullmatch(value)
        return int(float(size[1]) * _UNITS[size[2]]) if size is not None and size[2] in _UNITS else None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if math.isfinite(value) and value >= 0 else None


def are_amounts(value: object) -> bool:
    """Whether `amounts` takes it."""
    try:
        amounts(value)
    except ValueError:
        return False
    return True


def text(needs: Amounts) -> str:
    """As people write it: ``cpu=2, memory=2GiB``."""
    return ", ".join(f"{name}={_shown(name, value)}" for name, value in needs.items())


def _shown(name: str, value: float) -> str:
    if name != "memory":
        return f"{value:g}"
    unit = next(unit for unit in ("TiB", "GiB", "MiB", "KiB", "B") if value >= _UNITS[unit] or unit == "B")
    return f"{value / _UNITS[unit]:.4g}{unit}"
