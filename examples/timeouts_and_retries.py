"""Time limits that end the work, retries with growing waits, and what a crash costs."""

import os
import random
import time

import asyncjobs as aj


def endless() -> None:
    """Never returns, and never looks at its token."""
    while True:
        time.sleep(0.01)


def flaky(seed: int) -> str:
    """Fails twice, then works."""
    attempt = aj.current_job().attempt
    if attempt < 3:
        raise ConnectionError(f"attempt {attempt} failed")
    return f"worked in attempt {attempt}, drew {random.Random(seed).randint(1, 6)}"


def crash() -> None:
    """Takes its whole process down, as a fault in a C library does."""
    os.abort()


async def main() -> None:
    async with aj.Runner(processes=1) as runner:
        limited = runner.options(lane="process", timeout=0.3, grace=0.2)
        job = await limited.submit(endless)
        try:
            await job
        except aj.JobTimeout as error:
            print(f"{job.state.name}: {error}")

        policy = aj.Retry(5, backoff=0.05, on=ConnectionError)
        job = await runner.options(lane="process", retries=policy).submit(flaky, 4)
        print(f"{job.state.name}: {await job}")
        print("  its states:", " ".join(mark.state.name for mark in job.history))

        job = await runner.options(lane="process").submit(crash)
        try:
            await job
        except aj.WorkerLost as error:
            print(f"{job.state.name}: the worker died of {error.cause}")

        print("and the lane goes on:", await runner.options(lane="process").run(sum, [1, 2, 3]))


aj.run(main())
