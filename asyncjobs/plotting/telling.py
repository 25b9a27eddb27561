"""A line for whoever started the program."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress

logger: logging.Logger = logging.getLogger("asyncjobs")


def tell(text: str) -> None:
    """Write it to standard error, or log it in a program that has none, as under pythonw. Never raises."""
    if sys.stderr is None:
        logger.warning("%s", text)
        return
    with suppress(OSError, ValueError):  # its reader is gone, or it is closed
        print(f"asyncjobs: {text}", file=sys.stderr, flush=True)  # a kernel may be killed before it flushes
