"""What the probes run in a fresh interpreter: ``python -m asyncjobs.bench.probed NAME NUMBER`` prints one line of JSON.

A fresh process, since memory that earlier work freed would hide growth, and an idle
process must have nothing else in it.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import sys
import tempfile
import time
from array import array
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncjobs as aj
from asyncjobs.bench import memory, tiny
from asyncjobs.bench.measure import percentile
from asyncjobs.submitter import Submitter

_SHALLOW = 1_000
_SAMPLES = 5_000


async def map_memory(count: int) -> dict[str, float]:
    """Growth in bytes of this process while `count` items pass through `map`."""
    async with aj.Runner(processes=2) as runner:
        process = runner.options(lane="process")
        async for _ in process.map(tiny.echo, range(10_000)):
            pass
        gc.collect()
        before = memory.resident()
        async for _ in process.map(tiny.echo, range(count)):
            pass
        return {"grown": memory.peak() - before}


async def queued(count: int) -> dict[str, float]:
    """Bytes of a queued job, and submit's 99th percentile in seconds behind a thousand jobs and behind `count`.

    The figures are printed before the runner closes, which has to cancel them all.
    """
    async with aj.Runner(processes=1, queue_size=2 * count) as runner:
        process = runner.options(lane="process")
        holder = await process.submit(tiny.hold, 3600.0)
        while holder.state.name != "RUNNING":
            await asyncio.sleep(0.01)
        gc.collect()
        before = memory.resident()
        await _fill(process, _SHALLOW)
        shallow = await _submit_p99(process)
        await _fill(process, count - _SHALLOW - _SAMPLES)
        nbytes = (memory.resident() - before) / count
        deep = await _submit_p99(process)
        print(json.dumps({"nbytes": nbytes, "shallow": shallow, "deep": deep}), flush=True)
        await runner.aclose(drain=0, grace=0)
    return {}


async def _fill(process: Submitter, count: int) -> None:
    for value in range(count):
        await process.submit(tiny.echo, value)


async def _submit_p99(process: Submitter) -> float:
    durations = array("d", bytes(8 * _SAMPLES))
    for index in range(_SAMPLES):
        start = time.perf_counter()
        await process.submit(tiny.echo, index)
        durations[index] = time.perf_counter() - start
    return percentile(durations, 0.99)


async def idle(seconds: int) -> dict[str, float]:
    """Use every lane once, say so, then do nothing for `seconds`."""
    async with aj.Runner(processes=2) as runner:
        await runner.options(lane="process").map(tiny.process_id, range(200)).collect()
        await runner.run(tiny.echo, 1)
        await runner.run(tiny.async_echo, 1)
        print(json.dumps({"ready": 1}), flush=True)
        await asyncio.sleep(seconds)
    return {}


async def plotted(count: int) -> dict[str, float]:
    """Growth in bytes of this process while `count` rows of three scalars are plotted, and the points then shown."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "loss.json"
        async with aj.plot(path) as plot:
            plot.log(0, train=1.0, val=1.0, rate=1.0)
            await plot.aflush()
            before = memory.resident()
            for step in range(1, count):
                plot.log(step, train=1.0 / step, val=step % 97 * 1.0, rate=1e-3)
            await plot.aflush()
            grown = memory.peak() - before
        shown = json.loads(path.read_text())["data"][0]["x"]["bdata"]
    return {"grown": grown, "shown": len(base64.b64decode(shown)) / 8}


_PROBES: dict[str, Callable[[int], Awaitable[dict[str, float]]]] = {
    "map-memory": map_memory,
    "queued": queued,
    "idle": idle,
    "plotted": plotted,
}


async def _main(name: str, number: int) -> None:
    figures: dict[str, Any] = await _PROBES[name](number)
    if figures:
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    aj.run(_main(sys.argv[1], int(sys.argv[2])))
