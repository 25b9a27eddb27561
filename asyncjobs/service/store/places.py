"""Where a job waits: the values of ``jobs.place``."""

from __future__ import annotations

READY = 0
"""Claimable."""
LATER = 1
"""For its `due`."""
AFTER = 2
"""For the jobs that it comes after."""
LIMITED = 3
"""For room under its limit; put there by a claim that met it."""
PAUSED = 4
"""For its function to be resumed; put there by a claim that met it."""
