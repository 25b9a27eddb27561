"""Ids of jobs: their form, and that nobody makes the same."""

from __future__ import annotations

import random
import re
import subprocess
import sys

from asyncjobs.service import ids
from asyncjobs.service.ids import new_id

FORK = """
import os
from asyncjobs.service.ids import new_id
made = [new_id()]
child = os.fork()
print(new_id()[-16:], flush=True)  # all of it is chance
if child:
    os.waitpid(child, 0)
"""


def test_an_id_is_time_and_chance() -> None:
    made = [new_id() for _ in range(10_000)]
    assert len(set(made)) == len(made)
    assert all(re.fullmatch(f"[{ids.DIGITS}]{{26}}", one) for one in made)
    assert made[0][:6] <= made[-1][:6]


def test_a_program_that_seeds_its_random_numbers_gets_other_ids() -> None:
    made = []
    for _ in range(2):
        random.seed(7)
        made.append(new_id()[-16:])
    assert made[0] != made[1]


def test_a_fork_makes_other_ids() -> None:
    printed = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, check=True, timeout=60)
    assert len(set(printed.stdout.split())) == 2
