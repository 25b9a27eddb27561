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
    "blstm": (
        r"30 steps of \d+\.\d ms on cpu, preparing takes \d+\.\d{3} of that",
        r"in between +\d+\.\d{3}\n",
        r"(?:by the clock +(?:FIFOQueue|Pipeline) +\d+\.\d{3}(?: +-?\d+\.\d%){3}  95% wanted: (reached|missed)\n){2}",
        r"(?:by its own pieces (?:FIFOQ|Pipel)\w+ +\d+\.\d{3}(?: +-?\d+\.\d%){3}  95% wanted: (reached|missed)\n){2}",
        r"the same weights from all ways: True",
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

ELSEWHERE = {"cluster", "overnight"}
"""Examples with tests of their own: below, and in test_service_overnight.py."""

ARGUMENTS = {"blstm": ("--quick", "--html", "blstm.html")}
"""What is typed behind an example's name; nothing, for most."""

GUARDED = {"cluster"}
"""Examples whose main script others than we import again: the processes of Dask's own small cluster."""

NEEDS = {"blstm": "torch", "parallel_map": "tqdm"}
"""What an example needs and not everybody has."""

LEAVES = {"blstm": ["blstm.html"], "gradient_descent": ["digits.html"]}
"""Files that an example is to leave."""


def run(name: str, folder: Path, *arguments: str) -> str:
    """What an example prints, run as a script from elsewhere."""
    # Threads of BLAS that spin for a core make each other wait when other tests want the cores as well.
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py", *arguments],
        capture_output=True, text=True, timeout=250, check=False, cwd=folder, env=environment, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_is_tested() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(PROMISES) | ELSEWHERE


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(PROMISES))
def test_example_prints_what_it_promises(name: str, tmp_path: Path) -> None:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name], reason=f"the example needs {NEEDS[name]}")
    printed = run(name, tmp_path, *ARGUMENTS.get(name, ()))
    assert [promise for promise in PROMISES[name] if not re.search(promise, printed)] == [], printed
    assert [path.name for path in tmp_path.iterdir()] == LEAVES.get(name, [])


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("where", "library"), [("threads", "sklearn"), ("processes", "sklearn"), ("dask", "distributed"), ("ray", "ray")]
)
def test_cluster_finds_the_same_wherever_it_runs(where: str, library: str, tmp_path: Path) -> None:
    pytest.importorskip(library, reason=f"the example needs {library}")
    parzen, sweep = run("cluster", tmp_path, where).splitlines()
    assert re.match(r"Parzen: 20 widths, the best is 0\.6 with 0\.1597 of 0\.1592 \(", parzen)
    assert re.match(r"sweep: 9 machines, the best is C=10, gamma=0\.001: 97\.\d% \(", sweep)


@pytest.mark.slow
@pytest.mark.parametrize("lane", ["loop", "thread", "process"])
def test_coordinator_stops_all_five_in_one_lane(lane: str, tmp_path: Path) -> None:
    printed = run("coordinator", tmp_path, lane)
    assert len(printed.splitlines()) == 1
    steps = re.search(r"\[(.*)\]", printed)
    assert steps
    assert [int(count) for count in steps[1].split(",")][3] == 20


@pytest.mark.slow
def test_blstm_learns_and_measures_against_the_right_bound(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the example needs torch")
    printed = run("blstm", tmp_path, "--quick", "--rounds", "2", "--ratio", "1")
    first, last = map(float, re.findall(r"(0\.\d{4}) in the (?:first|last)", printed))
    assert last < 0.8 * first
    rows = re.findall(r"^by .* (FIFOQueue|Pipeline) +[\d.]+ +(-?[\d.]+)% +(-?[\d.]+)% +(-?[\d.]+)%", printed, re.M)
    assert [name for name, *_ in rows] == ["FIFOQueue", "Pipeline"] * 2
    for _, saved, possible, share in rows:
        # All figures are printed with a digit behind the point.
        part = float(saved) / float(possible)
        assert float(share) == pytest.approx(100 * part, abs=1 + 10 / abs(float(possible)) * (1 + abs(part)))
    # Nothing is faster than its own pieces without any loss, and preparing as long as training could save a half.
    assert all(float(share) <= 100 for *_, share in rows[2:])
    assert all(float(possible) < 52 for _, _, possible, _ in rows[2:])


@pytest.mark.parametrize("wrong", [("--steps", "0"), ("--ratio", "-1"), ("--device", "abacus"), ("--hidden", "much")])
def test_blstm_says_what_it_does_not_take(wrong: tuple[str, str], tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the example needs torch")
    done = subprocess.run(
        [sys.executable, EXAMPLES / "blstm.py", *wrong],
        capture_output=True, text=True, timeout=100, check=False, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 2
    assert all(word in done.stderr for word in wrong)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_example_has_no_main_guard_without_need_and_says_what_it_shows(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert ("__main__" in text) == (path.stem in GUARDED)
    assert text.startswith('"""')
