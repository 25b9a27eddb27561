"""Each example runs as a newcomer runs it, and prints what it promises."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"

PROMISES = {
    "background_upload": (
        r"waiting for every upload: .* steps/s",
        r"uploading in background: .* steps/s, \d+\.\d times as many",
        r"same weight in the end: +True",
        r"(?:uploaded step \d+: loss \d\.\d+\n){4}",
    ),
    "big_arrays": (
        r"16 tiles of an image of \(512, 512, 3\), 6 MiB in memory once",
        r"shared: 6 MiB, sent through sockets instead: 0",
        r"the same as the whole image filtered at once: True",
    ),
    "coordinator": tuple(
        rf"{lane}: all stopped, because worker 3 has made 20 steps; steps of each: \[\d+(, \d+){{4}}\]"
        for lane in ("loop", "thread", "process")
    ),
    "gradient_descent": (
        r"9\d\.\d% of 397 unseen digits are right, the loss is 0\.\d{3}",
        r"a step waited \d+ µs for its plots; open digits\.html",
    ),
    "parallel_map": (
        r"longest below 20000: start 17647 takes 278 steps",
        r"value: 8\nerror: -1 is not a positive number\nvalue: 111",
        r"first start with more than 150 steps: 703, with 170",
    ),
    "quickstart": (r"page 7 \| loss\.png uploaded \| 3245 primes below 30000", r"all three took \d+\.\d s together"),
    "timeouts_and_retries": (
        r"TIMED_OUT: job 'endless' ran longer than its timeout of 0\.3 s \(attempt 1\)",
        r"SUCCEEDED: worked in attempt 3, drew 2",
        r"its states: (QUEUED RUNNING WAITING ){2}QUEUED RUNNING SUCCEEDED",
        r"LOST: the worker died of SIGABRT",
        r"and the lane goes on: 6",
    ),
}

LEAVES = {"gradient_descent": ["digits.html"]}
"""Files that an example is to leave."""


def run(name: str, folder: Path, *arguments: str) -> str:
    """What an example prints, run as a script from elsewhere."""
    # Threads of BLAS that spin for a core make each other wait when other tests want the cores as well.
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py", *arguments],
        capture_output=True, text=True, timeout=100, check=False, cwd=folder, env=environment, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_is_tested() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(PROMISES)


@pytest.mark.parametrize("name", sorted(PROMISES))
def test_example_prints_what_it_promises(name: str, tmp_path: Path) -> None:
    if name == "parallel_map":
        pytest.importorskip("tqdm", reason="the progress bar needs tqdm")
    printed = run(name, tmp_path)
    assert [promise for promise in PROMISES[name] if not re.search(promise, printed)] == [], printed
    assert [path.name for path in tmp_path.iterdir()] == LEAVES.get(name, [])


@pytest.mark.parametrize("lane", ["loop", "thread", "process"])
def test_coordinator_stops_all_five_in_one_lane(lane: str, tmp_path: Path) -> None:
    printed = run("coordinator", tmp_path, lane)
    assert len(printed.splitlines()) == 1
    steps = re.search(r"\[(.*)\]", printed)
    assert steps
    assert [int(count) for count in steps[1].split(",")][3] == 20


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_example_has_no_main_guard_and_says_what_it_shows(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "__main__" not in text
    assert text.startswith('"""')
