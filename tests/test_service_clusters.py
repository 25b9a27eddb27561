"""A service with a Dask cluster as one of its lanes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("distributed", reason="needs the extra `dask`: pip install -e '.[test,dask]'")

from clusters import DaskCluster, dask_cluster
from services import service

from asyncjobs.service.clusters import clusters_of
from asyncjobs.service.errors import BadRequest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[DaskCluster]:
    with dask_cluster(2) as cluster:
        yield cluster


def test_jobs_of_the_service_run_on_the_cluster(cluster: DaskCluster, tmp_path: Path) -> None:
    options = [part for name in ("where", "say", "wrong") for part in ("--allow", f"cluster_jobs:{name}")]
    with service(tmp_path, *options, "--lane", f"cluster=dask:{cluster.address}") as running:
        near = running.submit("cluster_jobs:where")["id"]
        far = running.submit("cluster_jobs:where", lane="cluster")["id"]
        workers = {worker.pid for worker in cluster.workers}
        assert running.value(far) in workers
        assert running.value(near) not in workers
        said = running.submit("cluster_jobs:say", "hello", lane="cluster")["id"]
        assert running.value(said) == "hello"
        assert "hello" in running.log_of(said)
        by_hand = ["run", "cluster_jobs:where", "--lane", "cluster", "--dir", str(tmp_path)]
        done = subprocess.run([sys.executable, "-m", "asyncjobs", *by_hand], capture_output=True, text=True, check=True)
        assert int(done.stdout) in workers
        wrong = running.submit("cluster_jobs:wrong", lane="cluster")["id"]
        assert running.ended(wrong)["state"] == "FAILED"
        refused = running.submit("cluster_jobs:where", lane="cluster", at_most_once=True, status=400)
        assert "at_most_once=True needs lane 'process'" in str(refused)


@pytest.mark.parametrize("text", ["cluster", "cluster=spark:here", "process=dask:tcp://a:1", "cluster=dask:"])
def test_a_lane_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(BadRequest, match="--lane takes NAME=ENGINE:ADDRESS with a new name and one of dask"):
        clusters_of([text])
