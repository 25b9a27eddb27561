"""In a worker process: run a job that is a coroutine. Loaded when the first one comes."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from asyncjobs.errors import JobStopped
from asyncjobs.token import CancelToken, StopReason


def run(coroutine: Coroutine[Any, Any, Any], token: CancelToken) -> Any:
    """Its value; it is cancelled when the job is asked to stop.

    Raises:
        JobStopped: it ended by that.
    """
    return asyncio.run(_followed(coroutine, token))


async def _followed(coroutine: Coroutine[Any, Any, Any], token: CancelToken) -> Any:
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None

    def cancel(reason: StopReason) -> None:
        loop.call_soon_threadsafe(task.cancel, reason.text)

    forget = token.add_callback(cancel)
    try:
        return await coroutine
    except asyncio.CancelledError:
        if token.cancelled:
            raise JobStopped(token.reason or "stopped") from None
        raise
    finally:
        forget()
