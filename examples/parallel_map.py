"""Call a kernel on many items in processes: with a progress bar, and with errors item by item."""

import asyncjobs as aj


def collatz_steps(start: int) -> int:
    """How many steps of the Collatz rule lead from `start` to 1."""
    if start < 1:
        raise ValueError(f"{start} is not a positive number")
    steps = 0
    while start != 1:
        start = start // 2 if start % 2 == 0 else 3 * start + 1
        steps += 1
    return steps


async def main() -> None:
    async with aj.Runner(processes=2) as runner:
        kernels = runner.options(lane="process")

        # All results as a list: the fastest form. The bar needs tqdm.
        steps = await kernels.map(collatz_steps, range(1, 20_001), progress=True).collect()
        longest = max(range(len(steps)), key=steps.__getitem__)
        print(f"longest below 20000: start {longest + 1} takes {steps[longest]} steps")

        # One error per item: the others have their values.
        async for result in kernels.map(collatz_steps, [6, -1, 27], on_error="return"):
            print("error:" if isinstance(result, Exception) else "value:", result)

        # The first result that will do: leaving the block cancels the rest.
        async with kernels.map(collatz_steps, range(1, 10**9)) as results:
            start = 0
            async for result in results:
                start += 1
                if result > 150:
                    print(f"first start with more than 150 steps: {start}, with {result}")
                    break


aj.run(main())
