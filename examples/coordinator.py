"""The classic coordinator program: five workers loop until one of them asks all to stop.

TensorFlow's Coordinator did this for threads. Here one `CancelToken`, passed as an ordinary
argument, does it on the loop, in threads and in processes.
"""

import asyncio
import sys

import asyncjobs as aj

WORKERS = 5
ENOUGH = 20


async def count_on_the_loop(stop: aj.CancelToken, worker: int) -> int:
    """Step until somebody asks to stop; worker 3 asks, once it has had enough."""
    steps = 0
    while not stop.cancelled:
        await asyncio.sleep(0.01)
        steps += 1
        if worker == 3 and steps == ENOUGH:
            stop.cancel(f"worker {worker} has made {steps} steps")
    return steps


def count(stop: aj.CancelToken, worker: int) -> int:
    """The same for a thread or a process: `wait` sleeps, and wakes at once for a stop."""
    steps = 0
    while not stop.wait(0.01):
        steps += 1
        if worker == 3 and steps == ENOUGH:
            stop.cancel(f"worker {worker} has made {steps} steps")
    return steps


async def main(lanes: list[str]) -> None:
    async with aj.Runner(processes=WORKERS) as runner:
        for lane in lanes:
            stop = aj.CancelToken()
            submitter = runner.options(lane=lane, name="counter")
            work = count_on_the_loop if lane == "loop" else count
            jobs = [await submitter.submit(work, stop, worker) for worker in range(WORKERS)]
            steps = await aj.gather(jobs)
            print(f"{lane:>7}: all stopped, because {stop.reason}; steps of each: {steps}")


aj.run(main(sys.argv[1:] or ["loop", "thread", "process"]))
