"""Make ids of jobs: 48 bits of time and 82 of chance, in 26 digits.

The time comes first only so that new rows stand side by side in the database's index; nobody reads it,
and the order of jobs comes from sequence numbers.
"""

from __future__ import annotations

import os
import time

DIGITS = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = [high + low for high in DIGITS for low in DIGITS]
_SHIFTS = range(120, -1, -10)


def new_id() -> str:
    """An id that nobody else makes; see `records.ID`."""
    chance = int.from_bytes(os.urandom(11), "big") >> 6
    number = (time.time_ns() // 1_000_000 & 0xFFFFFFFFFFFF) << 82 | chance
    return "".join([_PAIRS[number >> shift & 1023] for shift in _SHIFTS])
