"""A soak of the service: ``python tests/soak.py --minutes 10 --seed 1``. By hand, and before a release.

A real ``asyncjobs serve`` runs thousands of jobs of several clients, with keys, dependencies, delays, retries,
checkpoints, cancels, limits, large results, schedules, pauses, backups; meanwhile its workers, the helpers that start
them and the service itself are killed, frozen, stopped, or die at a failpoint, every few seconds, and it is started
again. Then it drains, and everything is held against the promises I1 to I14 (`asyncjobs.service.store.checking`) and
against what each job had to give. Exit code 1: a promise was not kept; the folder with all the evidence stays.

The seed says what is submitted and what is done to whom (`soak_plan`); not when exactly it hits.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

from soak_clients import Client, Story, Visitor
from soak_evidence import judge
from soak_service import Battered

from asyncjobs.service.store.history import Recorder
from asyncjobs.testing.leaks import start_helpers, take_census, wait_for_no_leaks

CLIENTS = 3
DRAIN = 300.0
"""Seconds for what was accepted to end, when nobody disturbs it any more."""


async def soak(seed: int, seconds: float, folder: Path) -> list[str]:
    """What was wrong. The folder is new, and short enough for the path of a socket."""
    for name in ("state", "notes"):
        (folder / name).mkdir(mode=0o700)
    start = asyncio.Barrier(CLIENTS + 2)
    story = Story(folder, seed, time.monotonic() + seconds, Recorder(folder / "history"), start)
    battered = await asyncio.to_thread(Battered, story.state, seed, story.is_over)
    try:
        await _live(story, battered)
        await asyncio.to_thread(battered.end)
    finally:
        story.record.close()
        battered.close()
    _tell(story, battered)
    return [*battered.complaints, *story.complaints, *judge(story, battered.service.said)]


async def _live(story: Story, battered: Battered) -> None:
    clients = [Client(story, number) for number in range(CLIENTS)]
    working = [asyncio.ensure_future(one.run()) for one in (*clients, Visitor(story))]
    async with asyncio.timeout(DRAIN):
        await story.start.wait()
    await asyncio.to_thread(battered.run)
    _, late = await asyncio.wait(working, timeout=DRAIN)
    for task in late:
        task.cancel()
    story.complaints += [f"I4 somebody still waits {DRAIN:g} s after the last blow" for _ in late]
    for result in await asyncio.gather(*working, return_exceptions=True):
        if isinstance(result, Exception):
            story.complaints.append("".join(traceback.format_exception(result)))


def _tell(story: Story, battered: Battered) -> None:
    kinds = Counter(order.fn.__name__ for order in story.ordered.values())
    print(f"{len(story.ordered)} jobs: {', '.join(f'{number} {kind}' for kind, number in kinds.most_common())}")
    print(f"blows: {', '.join(f'{number} {kind}' for kind, number in battered.done.most_common())}")
    print(f"slowest start: {battered.slowest:.1f} s")


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="how long the service is disturbed")
    parser.add_argument("--seed", type=int, default=0, help="the same seed submits and does the same")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="soak"))
    start_helpers()
    before = take_census()
    wrong = asyncio.run(soak(given.seed, 60 * given.minutes, folder))
    wrong += [f"I12 left behind: {leak}" for leak in wait_for_no_leaks(before, 15.0)]
    for what in wrong[:200]:
        print(what)
    if wrong:
        print(f"seed {given.seed}: {len(wrong)} promises were not kept; see {folder}")
        return 1
    print(f"seed {given.seed}: ok")
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
