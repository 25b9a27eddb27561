"""`ExecutorLane` over engines that speak `concurrent.futures`: MPI, and subinterpreters where Python has them."""

from __future__ import annotations

import concurrent.futures
import importlib.util
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import asyncjobs as aj

HERE = Path(__file__).parent
MPIEXEC = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
INTERPRETERS = getattr(concurrent.futures, "InterpreterPoolExecutor", None)


@pytest.mark.slow
@pytest.mark.skipif(
    MPIEXEC is None or importlib.util.find_spec("mpi4py") is None, reason="needs MPI: pip install mpi4py mpich"
)
def test_jobs_run_on_the_ranks_of_an_mpi_program() -> None:
    assert MPIEXEC is not None
    # Three ranks on however few processors there are; root may start them, which Open MPI wants to be told.
    environment = os.environ | {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    environment["OMPI_MCA_rmaps_base_oversubscribe"] = "1"
    command = [MPIEXEC, "-n", "3", sys.executable, "-m", "mpi4py.futures", str(HERE / "mpi_program.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[1, 2] FAILED 2 LookupError(3)"


@pytest.mark.skipif(INTERPRETERS is None, reason="needs Python 3.14: concurrent.futures.InterpreterPoolExecutor")
async def test_jobs_run_in_subinterpreters() -> None:
    assert INTERPRETERS is not None
    with INTERPRETERS(2) as executor:
        async with aj.Runner(lanes={"interpreters": aj.ExecutorLane(executor)}) as runner:
            jobs = runner.options(lane="interpreters")
            assert await jobs.map(math.factorial, range(6)).collect() == [1, 1, 2, 6, 24, 120]
            failed = await jobs.submit(math.sqrt, -1)
            await failed.wait()
            assert isinstance(failed.exception(), ValueError)
