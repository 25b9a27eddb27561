"""An interpreter that calls what it is told to: functions come in on standard input, results go out, both pickled.

``python -m asyncjobs.bench.flowroom``; `flowlab` starts it.
"""

from __future__ import annotations

import os
import pickle
import sys
from typing import Any, BinaryIO

CORES = 2


def main() -> None:
    """Until the input ends."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    # Whatever libraries print must not get into the results.
    results = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    _serve(sys.stdin.buffer, results)


def _serve(calls: BinaryIO, results: BinaryIO) -> None:
    while True:
        try:
            fn, args = pickle.load(calls)
        except EOFError:
            return
        results.write(pickle.dumps(_called(fn, args)))
        results.flush()


def _called(fn: Any, args: tuple[Any, ...]) -> tuple[Any, str]:
    """Its result, or what went wrong in words: not every library's exceptions can travel."""
    try:
        return fn(*args), ""
    except Exception as error:
        return None, f"{type(error).__name__}: {error}".rstrip(": ")


if __name__ == "__main__":
    main()
