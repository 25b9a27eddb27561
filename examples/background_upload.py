"""A training loop that goes on while its plots upload through the thread lane.

The plot server takes 0.2 s to answer. Waiting for it at every fifth step, the loop spends
most of its time waiting; with `submit` the uploads go on beside it.
"""

import asyncio
import random
import time

import asyncjobs as aj

STEPS = 20
RATE = 0.1


def upload(step: int, loss: float) -> str:
    """Stands for a blocking HTTP request."""
    time.sleep(0.2)
    return f"step {step}: loss {loss:.4f}"


async def step_of_training(weight: float, noise: random.Random) -> tuple[float, float]:
    """One step of gradient descent on (weight - 3)^2, some 10 ms long."""
    await asyncio.sleep(0.01)
    gradient = 2 * (weight - 3) + noise.gauss(0, 0.01)
    weight -= RATE * gradient
    return weight, (weight - 3) ** 2


async def train(runner: aj.Runner, *, wait: bool) -> tuple[float, float, list[aj.Job[str]]]:
    """Train; returns the weight, the steps per second and the uploads."""
    weight, noise, uploads = 0.0, random.Random(1), []
    started = time.perf_counter()
    for step in range(STEPS):
        weight, loss = await step_of_training(weight, noise)
        if step % 5 == 0:
            job = await runner.options(retries=2, timeout=10).submit(upload, step, loss)
            uploads.append(job)
            if wait:
                await job
    return weight, STEPS / (time.perf_counter() - started), uploads


async def main() -> None:
    async with aj.Runner() as runner:
        waiting, slow, _ = await train(runner, wait=True)
        going_on, fast, uploads = await train(runner, wait=False)
        print(f"waiting for every upload: {slow:5.1f} steps/s")
        print(f"uploading in background:  {fast:5.1f} steps/s, {fast / slow:.1f} times as many")
        print("same weight in the end:  ", waiting == going_on)
        async for job in aj.as_completed(uploads):
            print("uploaded", await job)


aj.run(main())
