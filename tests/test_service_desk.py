"""What a job asks of the service while it stops."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import warnings
from pathlib import Path

import pytest
from stored import claimed, opened, submitted

from asyncjobs.service.errors import ServiceGone
from asyncjobs.service.work.desk import BEGIN, CHECKPOINT, Desk


async def test_what_is_asked_when_the_engine_has_ended_is_refused_and_leaves_nothing_behind(tmp_path: Path) -> None:
    async with opened(tmp_path / "jobs.db") as store:
        await submitted(store)
        [claim] = await claimed(store)
        desk = Desk(store)
        async with asyncio.TaskGroup() as desk.tasks:
            pass
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(ServiceGone):
                desk.errand(CHECKPOINT, (claim.id, claim.attempt, claim.epoch, b"data"))
            gc.collect()


@pytest.mark.parametrize("verb", [CHECKPOINT, BEGIN])
async def test_what_was_asked_just_before_the_engine_ends_is_refused_and_leaves_nothing_behind(
    tmp_path: Path, verb: str
) -> None:
    """Its task is cancelled before the first step."""
    async with opened(tmp_path / "jobs.db") as store:
        await submitted(store)
        [claim] = await claimed(store)
        desk = Desk(store)
        argument = (claim.id, claim.attempt, claim.epoch, b"data") if verb == CHECKPOINT else (claim.id, claim.fence)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            with contextlib.suppress(ExceptionGroup):
                async with asyncio.TaskGroup() as desk.tasks:
                    asked = desk.errand(verb, argument)
                    raise OSError("the disk has failed")
            with pytest.raises(ServiceGone):
                asked.outcome()
            gc.collect()
        assert [str(one.message) for one in said] == []
