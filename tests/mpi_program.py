"""A program for ``mpiexec -n 3 python -m mpi4py.futures mpi_program.py``: one process submits, the others work."""

from __future__ import annotations

from mpi4py import MPI
from mpi4py.futures import MPIPoolExecutor

import asyncjobs as aj


def where(number: int) -> tuple[int, int]:
    return number, MPI.COMM_WORLD.Get_rank()


def fail(number: int) -> None:
    raise LookupError(number)


async def main() -> None:
    with MPIPoolExecutor() as executor:
        async with aj.Runner(lanes={"mpi": aj.ExecutorLane(executor, size=2)}) as runner:
            found = await runner.options(lane="mpi").map(where, range(20)).collect()
            failed = await runner.options(lane="mpi", retries=1).submit(fail, 3)
            await failed.wait()
    assert [number for number, _ in found] == list(range(20))
    print(sorted({rank for _, rank in found}), failed.state.name, failed.attempt, repr(failed.exception()))


if __name__ == "__main__":
    aj.run(main())
