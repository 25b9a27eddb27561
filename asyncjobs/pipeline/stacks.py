"""Where a call is at this moment, as text: in a thread, in a coroutine. Our own frames around it are left out."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import traceback
from collections.abc import Iterator
from types import FrameType
from typing import Any

LIMIT = 20
"""Frames that are shown, the innermost."""
_OURS = (os.path.dirname(os.path.dirname(__file__)) + os.sep, threading.__file__)


def stack_of_thread(thread: int) -> str:
    """Of the thread with this identifier, outermost first; empty if there is none."""
    frame = sys._current_frames().get(thread)
    return "" if frame is None else _shown([line for line, _ in traceback.walk_stack(frame)][::-1])


def stack_of_task(task: asyncio.Task[Any], thread: int) -> str:
    """Of a task, through all that it awaits; of `thread`, that of its loop, while the task itself runs."""
    return stack_of_awaited(task.get_coro(), thread)


def stack_of_awaited(awaited: Any, thread: int) -> str:
    """The same for a coroutine or an async iterator."""
    chain = list(_chain(awaited))
    if any(getattr(link, f"{kind}_running", False) for link in chain for kind in ("cr", "gi", "ag")):
        return stack_of_thread(thread)
    return _shown([frame for link in chain if (frame := _part(link, "frame")) is not None])


def _chain(awaited: Any) -> Iterator[Any]:
    """It, what it awaits, what that awaits, as far as Python knows."""
    while awaited is not None:
        yield awaited
        awaited = _part(awaited, "await") or _part(awaited, "yieldfrom")


def _part(link: Any, name: str) -> Any:
    return next((part for kind in ("cr", "gi", "ag") if (part := getattr(link, f"{kind}_{name}", None))), None)


def _shown(frames: list[FrameType]) -> str:
    while len(frames) > 1 and frames[0].f_code.co_filename.startswith(_OURS):
        del frames[0]
    return "".join(traceback.StackSummary.extract((frame, frame.f_lineno) for frame in frames[-LIMIT:]).format())


def without_ours(stacks: str) -> str:
    """What a worker's faulthandler told, innermost first: threads that call nothing of the user's are left out."""
    told = [_user_part(block.splitlines()) for block in stacks.split("\n\n")]
    return "\n".join(line for lines in told if len(lines) > 1 for line in lines)


def _user_part(lines: list[str]) -> list[str]:
    ours = (number for number, line in enumerate(lines) if any(f'File "{folder}' in line for folder in _OURS))
    return lines[: next(ours, len(lines))]
