"""Large data of pandas, pyarrow and torch: it arrives equal, and its buffers go through shared memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import array_jobs as jobs
import numpy as np
import pytest

import asyncjobs as aj
from asyncjobs.wire.codec import encode_parcel

MIB = 2**20
pytestmark = pytest.mark.may_leak("these libraries keep threads and descriptors for the life of the process")


@pytest.fixture
async def runner() -> AsyncIterator[aj.Runner]:
    async with aj.Runner(processes=1, options={"lane": "process"}) as opened:
        yield opened


def is_left_out(value: Any, nbytes: int) -> bool:
    """Whether that much of it is not in the pickle."""
    parcel = encode_parcel(value)
    return sum(buffer.nbytes for buffer in parcel.buffers) >= nbytes and len(parcel.stream) < 100_000


@pytest.mark.parametrize("kind", [bytes, bytearray])
async def test_large_bytes(runner: aj.Runner, kind: Any) -> None:
    sent = kind(b"0123456789" * 100_000)
    assert is_left_out(sent, MIB - 100_000)
    back = await runner.run(jobs.same, sent)
    assert type(back) is kind
    assert back == sent
    assert await runner.run(len, sent) == len(sent)


@pytest.mark.slow
async def test_a_data_frame_of_pandas(runner: aj.Runner) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({name: np.arange(100_000.0) + ord(name) for name in "abc"})
    frame["text"] = "t"
    assert is_left_out(frame[["a", "b", "c"]], 2_400_000)
    back = await runner.run(jobs.same, frame)
    pandas.testing.assert_frame_equal(back, frame)
    back["a"] = 0.0
    assert frame["a"].sum() > 0


@pytest.mark.slow
async def test_a_table_of_pyarrow(runner: aj.Runner) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.table({"numbers": np.arange(200_000), "text": [f"row {n}" for n in range(200_000)]})
    assert is_left_out(table, MIB)
    assert (await runner.run(jobs.same, table)).equals(table)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "bfloat16", "bool", "complex64"])
async def test_a_tensor_of_torch(runner: aj.Runner, dtype: str) -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.arange(300_000).reshape(300, 1000).to(getattr(torch, dtype))
    assert is_left_out({"deep": [tensor]}, 300_000)
    back = (await runner.run(jobs.same, {"deep": [tensor]}))["deep"][0]
    assert back.dtype == tensor.dtype
    assert torch.equal(back, tensor)
    back.zero_()
    assert not torch.equal(back, tensor), "it is its own, and may be written to"


async def test_tensors_that_are_not_plain_go_torchs_own_way(runner: aj.Runner) -> None:
    torch = pytest.importorskip("torch")
    leaf = torch.ones(100_000, requires_grad=True)
    back = await runner.run(jobs.same, leaf)
    assert back.requires_grad
    parameter = torch.nn.Parameter(torch.ones(100_000))
    assert isinstance(await runner.run(jobs.same, parameter), torch.nn.Parameter)
    sparse = torch.eye(300).to_sparse()
    assert torch.equal((await runner.run(jobs.same, sparse)).to_dense(), torch.eye(300))
    transposed = torch.arange(100_000.0).reshape(100, 1000).T
    assert torch.equal(await runner.run(jobs.same, transposed), transposed)
