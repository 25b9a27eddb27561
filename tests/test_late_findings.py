"""Faults that were found late, each with the test that fails without its mend."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import jobs
import pytest
from doors import new_door

import asyncjobs as aj


async def test_f02_a_call_whose_workers_die_before_they_claim_it_is_lost_after_three() -> None:
    lane = aj.ProcessLane(1, initializer=jobs.die_before_the_claim)
    async with aj.Runner(lanes={"process": lane}) as runner:
        job = await runner.options(lane="process").submit(abs, -1)
        await job.wait()
        assert isinstance(job.exception(), aj.WorkerLost)
        assert job.attempt == 1
        assert runner.stats().lanes["process"].crashes == 3


@pytest.mark.parametrize(("lane", "fn"), [("loop", jobs.swallow_every_cancel), ("thread", abs)])
@pytest.mark.parametrize("option", [{"output": "capture"}, {"max_result": 10}], ids=lambda option: next(iter(option)))
async def test_an_option_that_a_lane_cannot_honour_is_refused(lane: str, fn: Any, option: Any) -> None:
    async with aj.Runner() as runner:
        with pytest.raises(ValueError, match=f"lane '{lane}' cannot honour the options {next(iter(option))}"):
            await runner.options(lane=lane, **option).submit(fn)


@pytest.mark.slow
async def test_a_worker_that_the_stop_ladder_kills_is_no_crash() -> None:
    async with aj.Runner(processes=1) as runner:
        hang = runner.options(lane="process", timeout=0.2, grace=0.0)
        job = await hang.submit(jobs.sleep_with_the_lock, 60.0)
        await job.wait()
        assert isinstance(job.exception(), aj.JobTimeout)
        assert runner.stats().lanes["process"].crashes == 0


def test_f19_a_program_ends_though_a_coroutine_swallows_every_cancel() -> None:
    script = (
        "import asyncjobs as aj, jobs\n"
        "async def main():\n"
        "    async with aj.Runner() as runner:\n"
        "        job = await runner.options(grace=0.1).submit(jobs.swallow_every_cancel)\n"
        "        job.cancel()\n"
        "        await job.wait()\n"
        "        print(job.state.name)\n"
        "aj.run(main())\n"
    )
    folder = jobs.__file__.rpartition("/")[0]
    code = f"import sys; sys.path.insert(0, {folder!r})\n{script}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=False)
    assert done.stdout == "CANCELLED\n", done.stderr
    assert done.returncode == 0


async def test_f34_a_worker_whose_job_was_interrupted_in_an_import_is_replaced(tmp_path: Path) -> None:
    async with aj.Runner(processes=1) as runner, new_door() as door:
        text = f"import time, jobs\njobs.arrive_at({door.path!r})\ntime.sleep(60)\n"
        (tmp_path / "slow_to_import.py").write_text(text)
        lane = runner.options(lane="process", grace=0.0)
        job = await lane.submit(jobs.import_from, str(tmp_path), "slow_to_import")
        importer = await door.arrival()
        job.cancel()
        with pytest.raises(aj.JobCancelled):
            await job
        assert await lane.run(jobs.pid) != importer, "what it half imported stays broken there"
