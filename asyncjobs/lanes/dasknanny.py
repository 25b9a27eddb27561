"""Dask's nanny, the process that starts each worker and outlives it: it knows what the worker had begun, and ends it.

The worker makes a file of what it begins, and has its nanny open it, when a lane enrols there. The lane asks the nanny
through the scheduler, as it asks workers. A worker without a nanny (``--no-nanny``) has no witness.
"""

from __future__ import annotations

import asyncio
import logging
import pickle
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

from asyncjobs.claims import Claims, Witness
from asyncjobs.errors import WorkerStartError
from asyncjobs.lanes.clusterengine import Inquiry
from asyncjobs.wire.failure import type_name

logger: logging.Logger = logging.getLogger("asyncjobs")

PATIENCE: Final = 1.0
"""Seconds in which a worker that left the cluster is dead, and in which its nanny answers after that."""
GO: Final = 0.5
"""Seconds in which a worker that is to end may say good-bye to the scheduler; then its nanny kills it."""
WITNESSES: Final = 256
"""That one nanny keeps: those of programs that died are never asked for."""


class Nannies:
    """Those of one lane's workers."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._of: dict[str, tuple[str, str]] = {}
        """By a worker's address: its nanny's, and the station there."""

    def know(self, worker: str, nanny: str, station: str) -> None:
        """That nanny is the witness of that worker."""
        self._of[worker] = nanny, station

    def left(self, worker: str) -> Inquiry | None:
        """How to find out what that worker had begun, which is gone."""
        if worker not in self._of:
            return None
        return partial(self._begun, *self._of.pop(worker))

    async def _begun(self, nanny: str, station: str) -> list[int]:
        async with asyncio.timeout(2 * PATIENCE):
            found = await self._client.run(_begun, station, workers=[nanny])
        return found[nanny]  # type: ignore[no-any-return]

    async def end(self, worker: str) -> None:
        """Have that worker ended by force, and another started in its place."""
        if worker in self._of:
            nanny, station = self._of[worker]
            await self._client.run(_end, station, workers=[nanny], on_error="ignore")


# --- in the worker ----------------------------------------------------------------------


def claims_for(worker: Any) -> Claims | None:
    """A file for what it begins, if there is a nanny to read it."""
    if not worker.nanny:
        return None
    try:
        return Claims()
    except OSError as error:
        logger.warning("what this worker begins is not written down: %s", type_name(error))
        return None


async def open_witness(worker: Any, station: str, claims: Claims | None) -> str:
    """Have the nanny open the file; the nanny's address, empty if it could not."""
    if claims is None:
        return ""
    try:
        await _ask(worker, _open, station, claims.path)
    except Exception as error:
        logger.warning("the nanny does not watch what this worker begins: %s", type_name(error))
        return ""
    return str(worker.nanny)


async def close_witnesses(worker: Any, stations: Sequence[str]) -> None:
    """The nanny need not know of these any more."""
    if worker.nanny:
        with suppress(Exception):
            await _ask(worker, _close, stations)


async def _ask(worker: Any, function: Any, *args: Any) -> None:
    async with asyncio.timeout(PATIENCE), worker.rpc(worker.nanny) as nanny:
        answer = await nanny.run(function=pickle.dumps(function), args=pickle.dumps(args), kwargs=pickle.dumps({}))
    if answer["status"] != "OK":
        raise WorkerStartError(str(answer.get("exception_text") or answer["status"]))


# --- in the nanny -----------------------------------------------------------------------

_witnesses: OrderedDict[str, Witness] = OrderedDict()
"""By the station whose calls they know."""


def _open(station: str, path: str) -> None:
    _witnesses[station] = Witness(path)
    if len(_witnesses) > WITNESSES:
        _witnesses.popitem(last=False)[1].close()


def _close(stations: Sequence[str]) -> None:
    for witness in [_witnesses.pop(station) for station in stations if station in _witnesses]:
        witness.close()


async def _begun(station: str) -> list[int]:
    try:
        return await _witnesses[station].begun(PATIENCE)
    finally:
        _close([station])


async def _end(station: str, dask_worker: Any) -> None:
    """`dask_worker` is what Dask calls the nanny here. Nothing happens to a worker that came after the one meant."""
    witness = _witnesses.get(station)
    if witness is not None and not witness.is_over:
        await dask_worker.kill(timeout=GO, reason="asyncjobs-stop")
