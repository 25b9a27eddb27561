"""`DaskLane` over a real scheduler and three workers, each a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import pytest

pytest.importorskip("distributed", reason="needs the extra `dask`: pip install -e '.[test,dask]'")

from clusters import DaskCluster, dask_cluster

from asyncjobs import DaskLane
from asyncjobs.lanes.base import Lane
from asyncjobs.testing import LANE_CHECKS

CHECKS = [name for name in LANE_CHECKS if name != "context_variables_come_along"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[DaskCluster]:
    with dask_cluster() as cluster:
        yield cluster


@pytest.mark.parametrize("name", CHECKS)
async def test_the_dask_lane_keeps_its_promise(cluster: DaskCluster, name: str) -> None:
    def make() -> AbstractContextManager[Lane]:
        return nullcontext(DaskLane(cluster.address))

    check: Callable = LANE_CHECKS[name]
    await check(make)
