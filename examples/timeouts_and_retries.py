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
        late = await limited.submit(endless)
        try:
            await late
        except aj.JobTimeout as error:
            print(f"{late.state.name}: {error}")

        policy = aj.Retry(5, backoff=0.05, on=ConnectionError)
        tried = await runner.options(lane="process", retries=policy).submit(flaky, 4)
        value = await tried
        print(f"{tried.state.name}: {value}")
        print("  its states:", " ".join(mark.state.name for mark in tried.history))

        dead = await runner.options(lane="process").submit(crash)
        try:
            await dead
        except aj.WorkerLost as error:
            print(f"{dead.state.name}: the worker died of {error.cause}")

        print("and the lane goes on:", await runner.options(lane="process").run(sum, [1, 2, 3]))


aj.run(main())
