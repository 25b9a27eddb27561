"""Real Ray clusters for tests, and programs of their own that use them."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ray: Any = pytest.importorskip("ray", reason="needs the extra `ray`: pip install -e '.[test,ray]'")
cluster_utils: Any = pytest.importorskip("ray.cluster_utils")

from asyncjobs.lanes.rayconnection import on_loopback  # noqa: E402

NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
SECOND = {**NODE, "num_gpus": 1, "resources": {"disk": 2}}
TOKEN = "a-token-that-nobody-guesses-" + "0" * 36
PATIENCE = 60.0


@contextmanager
def two_nodes() -> Iterator[Any]:
    """A cluster that listens on loopback only and wants a token, and this program connected to it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", TOKEN)
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)  # what the jobs are made of
        # On a machine that does much else, workers take their time; the checks begin when all of them are there.
        patch.setattr("asyncjobs.lanes.cluster.CONNECT", PATIENCE)
        patch.setattr("asyncjobs.lanes.ray.TOGETHER", PATIENCE)
        ray._raylet.Config.initialize("")  # it was read when ray was imported
        ray._raylet.AuthenticationTokenLoader.instance().reset_cache()
        with on_loopback():
            cluster = cluster_utils.Cluster(initialize_head=True, head_node_args=NODE)
            cluster.add_node(**SECOND)
            cluster.wait_for_nodes()
            ray.init(cluster.address, log_to_driver=False, configure_logging=False)
        try:
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()


async def program(
    code: str, *arguments: str, folder: Path | None = None, **environment: str
) -> asyncio.subprocess.Process:
    """A fresh interpreter that is connected to no cluster yet."""
    command = [sys.executable, "-c", code, *arguments]
    return await asyncio.create_subprocess_exec(
        *command, stdout=-1, stderr=-1, cwd=folder, env={**os.environ, **environment}
    )


async def said(process: asyncio.subprocess.Process) -> tuple[str, str]:
    """What it printed until its end."""
    out, err = await asyncio.wait_for(process.communicate(), 200)
    assert process.returncode == 0, err.decode()
    return out.decode(), err.decode()
