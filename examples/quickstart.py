"""One submit, three lanes: a coroutine, a blocking call and a CPU-bound kernel at once."""

import asyncio
import time

import asyncjobs as aj


async def fetch(page: int) -> str:
    """A coroutine: goes to the lane `loop`."""
    await asyncio.sleep(0.3)
    return f"page {page}"


def upload(name: str) -> str:
    """A blocking call: goes to the lane `thread`."""
    time.sleep(0.3)
    return f"{name} uploaded"


@aj.job(lane="process", timeout=30)
def count_primes(below: int) -> int:
    """A kernel that keeps a core busy: asks for the lane `process`."""
    return sum(all(n % d for d in range(2, int(n**0.5) + 1)) for n in range(2, below))


async def main() -> None:
    async with aj.Runner(processes=2) as runner:
        started = time.perf_counter()
        page = await runner.submit(fetch, 7)
        plot = await runner.submit(upload, "loss.png")
        primes = await runner.submit(count_primes, 30_000)
        print("submitted:", page.state.name, plot.state.name, primes.state.name)
        print(await page, "|", await plot, "|", await primes, "primes below 30000")
        print(f"all three took {time.perf_counter() - started:.1f} s together")


aj.run(main())
