"""A task group that tells of a member's fault before the other members hear of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


class Crew(asyncio.TaskGroup):
    """The tasks of one engine. The first that raises ends them all, as in any task group.

    `on_fault` is called in the same turn of the loop, before the cancelled others take their
    next step: what they clean up must not look as if somebody had asked for it.
    """

    def __init__(self, on_fault: Callable[[BaseException], None]) -> None:
        super().__init__()
        self._on_fault = on_fault

    def create_task(self, *args: Any, **kwargs: Any) -> asyncio.Task[Any]:
        """As in any task group."""
        task = super().create_task(*args, **kwargs)
        # After the group's own callback: 1. it cancels the others, which are woken behind us in the
        # loop's line; 2. we are called; 3. they step.
        task.add_done_callback(self._look)
        return task

    def _look(self, task: asyncio.Task[Any]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._on_fault(error)
