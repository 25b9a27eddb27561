"""Make ids of jobs: 48 bits of time and 82 of chance, in 26 digits.

The time comes first only so that new rows stand side by side in the database's index; nobody reads it,
and the order of jobs comes from sequence numbers.
"""

from __future__ import annotations

import os
import random
import time

DIGITS = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = [high + low for high in DIGITS for low in DIGITS]
_SHIFTS = range(120, -1, -10)
# Our own, seeded by the system: programs seed the one that all share. Not `os.urandom` for each, which lets go of the
# interpreter's lock, and waits for it where another thread computes. An id is no secret.
_chance = random.Random()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_chance.seed)


def new_id() -> str:
    """An id that nobody else makes; see `records.ID`."""
    number = (time.time_ns() // 1_000_000 & 0xFFFFFFFFFFFF) << 82 | _chance.getrandbits(82)
    return "".join([_PAIRS[number >> shift & 1023] for shift in _SHIFTS])
