"""The ways to a Dask cluster: TLS, an object instead of an address, a pipeline, a cluster in this process."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator

import pytest

pytest.importorskip("distributed", reason="needs the extra `dask`: pip install -e '.[test,dask]'")

import distributed
from clusters import DaskCluster, cluster_is_up, dask_cluster

from asyncjobs import DaskLane, Pipeline, Runner
from asyncjobs.testing import work


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("tls")
    key, cert = str(folder / "key.pem"), str(folder / "cert.pem")
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
            *f"-keyout {key} -out {cert}".split(),
        ],
        check=True,
        capture_output=True,
    )
    return cert, key


@pytest.fixture
def tls_cluster(certificate: tuple[str, str]) -> Iterator[DaskCluster]:
    cert, key = certificate
    options = ["--protocol", "tls", "--tls-ca-file", cert, "--tls-cert", cert, "--tls-key", key]
    settings = {f"DASK_DISTRIBUTED__COMM__TLS__CLIENT__{name}": path for name, path in (("CERT", cert), ("KEY", key))}
    settings["DASK_DISTRIBUTED__COMM__TLS__CA_FILE"] = cert
    with tempfile.TemporaryDirectory() as folder:
        cluster = DaskCluster(folder, settings)
        cluster.start_scheduler(options=options)
        try:
            cluster.start_worker(options=options)
            cluster_is_up(cluster, 1)
            yield cluster
        finally:
            cluster.close()


async def test_a_security_object_passes_through(tls_cluster: DaskCluster, certificate: tuple[str, str]) -> None:
    cert, key = certificate
    security = distributed.Security(tls_ca_file=cert, tls_client_cert=cert, tls_client_key=key, require_encryption=True)
    assert tls_cluster.address.startswith("tls://")
    async with Runner(lanes={"cluster": DaskLane(tls_cluster.address, security=security)}, watchdog=None) as runner:
        assert await runner.options(lane="cluster").run(work.double, 4) == 8


@pytest.fixture(scope="module")
def cluster() -> Iterator[DaskCluster]:
    with dask_cluster(2) as cluster:
        yield cluster


async def test_a_connected_client_says_where_the_cluster_is(cluster: DaskCluster) -> None:
    async with distributed.Client(cluster.address, asynchronous=True, set_as_default=False) as client:
        async with Runner(lanes={"cluster": DaskLane(client)}, watchdog=None) as runner:
            assert await runner.options(lane="cluster").run(work.double, 4) == 8
        assert await client.submit(work.double, 5, pure=False) == 10


async def test_a_pipeline_maps_over_the_cluster(cluster: DaskCluster) -> None:
    async with Runner(lanes={"cluster": DaskLane(cluster.address)}, watchdog=None) as runner:
        pipeline = Pipeline(range(200), runner=runner).map(work.double, lane="cluster", concurrency=2)
        found = [item async for item in pipeline]
    assert found == [2 * number for number in range(200)]


async def test_a_lane_may_be_used_by_one_runner_after_the_other(cluster: DaskCluster) -> None:
    lane = DaskLane(cluster.address)
    for number in range(2):
        async with Runner(lanes={"cluster": lane}, watchdog=None) as runner:
            assert await runner.options(lane="cluster").run(work.double, number) == 2 * number
