"""The arithmetic of the benchmarks, the harness on contestants of known speed, and each benchmark once, quickly."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncjobs.bench import flowfeeds, memory, output, page, peers, probes, processor_time, races, result, system, table
from asyncjobs.bench.measure import (
    Contestant,
    Goal,
    Measurement,
    Race,
    Spread,
    Work,
    idle_latency,
    judge,
    percentile,
    rate,
    ratios,
    spread,
    turns,
)
from asyncjobs.bench.scale import FULL, QUICK

ROOT = Path(__file__).resolve().parents[1]

finite = st.floats(min_value=1e-9, max_value=1e9, allow_nan=False)


# -- arithmetic ------------------------------------------------------------------------------------------


def test_spread_of_five_values() -> None:
    assert spread([5.0, 1.0, 3.0, 2.0, 4.0]) == Spread(3.0, 2.0, 4.0, 1.0, 5.0, 5)


def test_spread_of_one_value_is_that_value() -> None:
    assert spread([7.0]) == Spread(7.0, 7.0, 7.0, 7.0, 7.0, 1)


def test_spread_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one"):
        spread([])


@given(st.lists(finite, min_size=1))
def test_spread_is_in_order_and_inside_the_values(values: list[float]) -> None:
    found = spread(values)
    assert found.min <= found.low <= found.median <= found.high <= found.max
    assert (found.min, found.max, found.rounds) == (min(values), max(values), len(values))


def test_ratios_are_taken_inside_each_round() -> None:
    assert ratios([10.0, 30.0], [5.0, 10.0]) == [2.0, 3.0]


def test_ratios_leave_out_rounds_that_one_side_lacks_or_that_took_no_time() -> None:
    assert ratios([10.0, 30.0, 50.0], [5.0, 0.0]) == [2.0]


@pytest.mark.parametrize(
    ("count", "share", "expected"), [(100, 0.99, 99), (1000, 0.99, 990), (10, 0.99, 10), (10, 0.5, 5), (1, 0.0, 1)]
)
def test_percentile_is_the_smallest_value_that_the_share_does_not_exceed(
    count: int, share: float, expected: int
) -> None:
    assert percentile(range(count, 0, -1), share) == expected


@given(st.lists(finite, min_size=1), st.floats(0.0, 1.0))
def test_percentile_is_one_of_the_values_and_covers_its_share(values: list[float], share: float) -> None:
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-6


def contestant(name: str, seconds: float = 0.0, log: list[str] | None = None) -> Contestant:
    """Someone who takes `seconds` for each call, and notes when it is opened, used and closed."""

    @asynccontextmanager
    async def start() -> AsyncIterator[Work]:
        if log is not None:
            log.append(f"{name} opens")

        async def work(count: int) -> None:
            await asyncio.sleep(seconds * count)

        yield work
        if log is not None:
            log.append(f"{name} closes")

    return Contestant(name, "1", start)


def test_each_round_starts_with_another_contestant() -> None:
    names = [[one.name for one in order] for order in turns([contestant(name) for name in "abc"], 4)]
    assert names == [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"], ["a", "b", "c"]]


# -- the race --------------------------------------------------------------------------------------------


async def work_of_nobody(count: int) -> None:
    raise AssertionError(f"asked for {count} calls")


async def finish(race: Race, rounds: int) -> list[str]:
    return [line async for line in race.run(rounds)]


async def test_contestants_are_measured_one_at_a_time_in_each_round() -> None:
    log: list[str] = []
    race = Race([contestant("a", log=log), contestant("b", log=log)], rate(1, 1, 0.0))
    lines = await finish(race, 2)
    assert log == [f"{name} {deed}" for name in "abba" for deed in ("opens", "closes")]
    assert lines[0] == "round 1 of 2: a"
    assert {name: len(values) for name, values in race.values.items()} == {"a": 2, "b": 2}


async def test_a_contestant_that_breaks_is_noted_and_left_out_of_later_rounds() -> None:
    @asynccontextmanager
    async def start() -> AsyncIterator[Work]:
        raise OSError("no semaphores")
        yield work_of_nobody

    race = Race([Contestant("broken", "1", start), contestant("whole")], rate(1, 1, 0.0))
    lines = await finish(race, 3)
    assert race.failures == {"broken": "OSError: no semaphores"}
    assert (len(race.values["broken"]), len(race.values["whole"])) == (0, 3)
    assert sum("broken" in line for line in lines) == 1


async def counted(clock: Callable[[Work], Awaitable[float]]) -> list[int]:
    calls: list[int] = []

    async def work(count: int) -> None:
        calls.append(count)

    assert await clock(work) >= 0.0
    return calls


async def test_rate_warms_up_twice_before_the_clock() -> None:
    assert await counted(rate(100, 7, 0.0)) == [7, 7, 100]


async def test_idle_latency_makes_single_calls() -> None:
    assert await counted(idle_latency(5, 2)) == [1] * 7


# -- goals -----------------------------------------------------------------------------------------------


def measured(goal: Goal, **values: list[float]) -> Measurement:
    return Measurement("t", "s", higher_is_better=False, values=values, ours=["ours"], goals=[goal])


@pytest.mark.parametrize(
    ("at_least", "target", "reached"),
    [(True, 2.0, True), (True, 2.1, False), (False, 2.0, True), (False, 1.9, False)],
)
def test_goal_is_judged_by_the_median_of_the_ratios(at_least: bool, target: float, reached: bool) -> None:
    goal = Goal("g", "ours", "theirs", target, at_least=at_least)
    (verdict,) = judge(measured(goal, ours=[2.0, 20.0, 1.0], theirs=[1.0, 1.0, 1.0]))
    assert verdict.measured is not None
    assert verdict.measured.median == 2.0
    assert verdict.reached is reached


def test_goal_without_a_peer_is_judged_by_the_value_itself() -> None:
    goal = Goal("g", "ours", "", 50e6, at_least=False, unit="bytes")
    (verdict,) = judge(measured(goal, ours=[60e6]))
    assert verdict.reached is False
    assert table.measured_text(verdict) == "60 MB"
    assert table.goal_text(goal) == "g: at most 50 MB"
    assert table.mark(verdict) == "MISSED"


def test_goal_against_a_peer_that_is_missing_is_neither_reached_nor_missed() -> None:
    goal = Goal("g", "ours", "absent", 8.0, at_least=True)
    (verdict,) = judge(measured(goal, ours=[1.0]))
    assert (verdict.reached, table.measured_text(verdict), table.mark(verdict)) == (None, "not measured", "-")


# -- what is shown ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (4.05e-05, "s", "40.5 µs"),
        (756.0, "bytes", "756 B"),
        (12.34e6, "bytes", "12.3 MB"),
        (0.0004, "share", "0.04%"),
        (9512.4, " jobs/s", "9,510 jobs/s"),
        (15.234, " widths/s", "15.2 widths/s"),
        (1234567.0, " items/s", "1,230,000 items/s"),
        (0.0, "", "0"),
    ],
)
def test_value_is_written_in_the_unit_that_people_read(value: float, unit: str, text: str) -> None:
    assert table.value_text(value, unit) == text


def test_quartiles_do_not_repeat_the_unit_that_the_median_has() -> None:
    assert table.spread_text(spread([90.0, 100.0, 110.0]), " jobs/s") == "100 jobs/s  [95 .. 105]"
    assert table.spread_text(spread([90e-6, 100e-6, 2e-3]), "s") == "100 µs  [95 µs .. 1.05 ms]"


def sample_report() -> result.Report:
    """Two contestants, one that failed, one goal missed."""
    race = Measurement(
        title="A race <&>",
        unit="s",
        higher_is_better=False,
        values={"ours": [1.0, 2.0], "theirs": [1.0, 1.0], "broken": []},
        ours=["ours"],
        goals=[Goal("speed", "ours", "theirs", 1.0, at_least=False)],
        versions={"ours": "0.1", "theirs": "3.2"},
        failures={"broken": "OSError: gone"},
        note="How it was done.",
    )
    return result.Report("A report", "asyncjobs bench x", {"Python": "3.11"}, [race])


def test_lines_show_spread_ratio_failure_and_the_missed_goal() -> None:
    text = "\n".join(table.lines(sample_report()))
    assert "1.5 s  [1.25 s .. 1.75 s]" in text
    assert "ours is 1.50 x" in text
    assert "failed: OSError: gone" in text
    assert "MISSED   speed: at most 1 x theirs: 1.50 x" in text
    assert text.endswith("0 of 1 reached")


def test_json_holds_every_value_and_every_ratio() -> None:
    figures = json.loads(sample_report().to_json())
    (race,) = figures["measurements"]
    ours, theirs, broken = race["contestants"]
    assert ours["values"] == [1.0, 2.0]
    assert theirs["ours_over_this"]["median"] == 1.5
    assert (broken["spread"], broken["failure"]) == (None, "OSError: gone")
    assert race["goals"][0]["reached"] is False
    assert figures["system"] == {"Python": "3.11"}


def test_a_peer_is_compared_with_the_one_of_ours_that_stands_beside_it() -> None:
    race = Measurement(
        title="t",
        unit="s",
        higher_is_better=False,
        values={"ours 2": [1.0], "ours 3": [6.0], "pool 2": [2.0], "pool 3": [2.0]},
        ours=["ours 2", "ours 3"],
        beside={"pool 3": "ours 3"},
    )
    found = [result.comparison(race, name) for name in ("pool 2", "pool 3")]
    assert [one.median for one in found if one] == [0.5, 3.0]


def test_page_holds_goals_pictures_and_system_and_asks_no_network(tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    path = tmp_path / "deep" / "page.html"
    page.write(sample_report(), path)
    text = path.read_text(encoding="utf-8")
    for word in ("speed: at most 1 x theirs", "A race &lt;&amp;&gt;", "OSError: gone", "How it was done.", "3.11"):
        assert word in text
    assert '<script src="http' not in text
    assert text.count("<h2>") == 3


def test_publish_writes_what_it_is_asked_for_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output.publish(sample_report(), None, None)
    assert list(tmp_path.iterdir()) == []
    output.publish(sample_report(), tmp_path / "new" / "figures.json", None)
    assert json.loads((tmp_path / "new" / "figures.json").read_text())["title"] == "A report"
    assert "A race" in capsys.readouterr().out


def test_a_page_without_plotly_is_refused_before_anything_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "installed", lambda _package: False)
    output.check_writable(None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install .*bench"):
        output.check_writable(Path("page.html"))


def test_system_table_names_neither_host_nor_user() -> None:
    import getpass
    import socket

    text = " ".join(system.table().values())
    assert socket.gethostname() not in text
    assert f"/{getpass.getuser()}" not in text
    assert system.table()["Python"].startswith("CPython 3.")


# -- peers and probes ------------------------------------------------------------------------------------


def test_a_peer_that_is_not_installed_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "installed", lambda package: package != "loky")
    names = [one.name for one in peers.one_by_one(2)]
    assert "loky" not in names
    assert "pebble" in names


@pytest.mark.parametrize("scale", [FULL, QUICK], ids=["full", "quick"])
def test_every_goal_names_contestants_that_take_part(scale: object) -> None:
    for task in races.tasks(FULL if scale is FULL else QUICK):
        ours, theirs = {one.name for one in task.ours}, {one.name for one in task.theirs}
        for goal in task.goals:
            assert goal.ours in ours
            # A peer of the extra `bench` may not be installed.
            assert goal.against in theirs or goal.against in {"joblib", "aiomultiprocess"}


@pytest.mark.slow
@pytest.mark.may_leak("loky and joblib keep a resource tracker, aiomultiprocess a manager, to the end of the program")
@pytest.mark.parametrize(
    "peer",
    [*peers.one_by_one(2), *peers.maps(2), *peers.thread_calls(), *peers.coroutines()],
    ids=lambda peer: str(peer.name),
)
async def test_peer_opens_works_and_closes(peer: Contestant) -> None:
    async with peer.open() as work:
        await work(1)
        await work(300)


def test_resident_memory_follows_an_allocation() -> None:
    before = memory.resident()
    block = bytearray(b"x" * 50_000_000)
    assert memory.resident() - before > 40_000_000
    assert memory.peak() >= memory.resident() - 1_000_000
    del block


@pytest.mark.skipif(not processor_time.available(), reason="needs /proc")
def test_processor_time_counts_a_busy_child_and_not_a_sleeping_one() -> None:
    busy = "print(1, flush=True)\nwhile True: pass"
    asleep = "import time\nprint(1, flush=True)\ntime.sleep(60)"
    for code, low, high in ((busy, 0.05, 1.0), (asleep, 0.0, 0.02)):
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            child.stdout.readline()
            assert child.pid in processor_time.family(os.getpid())
            before = processor_time.of_family(child.pid)
            # Time itself is what is measured here.
            time.sleep(0.5)
            assert low <= processor_time.of_family(child.pid) - before <= high
            child.kill()


def test_import_time_of_a_statement_that_fails_shows_its_error() -> None:
    with pytest.raises(probes.ProbeFailed, match="No module named 'no_such_module'"):
        probes.import_times(["import no_such_module"], 1)


def test_import_is_timed_in_every_round_with_byte_code_that_is_kept_apart(tmp_path: Path) -> None:
    (tmp_path / "alone.py").touch()
    alone = f"import sys; sys.path.append({str(tmp_path)!r}); import alone"
    times = probes.import_times([alone, "import json"], 2)
    assert {name: len(values) for name, values in times.items()} == {alone: 2, "import json": 2}
    assert all(0.0 < seconds < 5.0 for values in times.values() for seconds in values)
    assert [path.name for path in tmp_path.iterdir()] == ["alone.py"]


def test_worker_imports_nothing_heavy() -> None:
    assert probes.heavy_modules_of_worker() == []


# -- the benchmarks themselves ---------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["arrays", "flow", "jobs", "parzen", "plotting", "sync"])
def test_quick_benchmark_measures_every_goal_and_leaves_figures_and_page(name: str, tmp_path: Path) -> None:
    code = (
        "from pathlib import Path\n"
        f"from asyncjobs.bench import {name}\n"
        f"{name}.main(Path('figures.json'), Path('page.html'), True)\n"
    )
    command = [sys.executable, "-c", code]
    environment = probes.source_environment()
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=580, check=False
    )
    # On a busy machine the watchdog may say on standard error that the loop was late; a failure it must not show.
    assert done.returncode == 0, done.stderr
    # A peer ends its workers by SIGTERM, and one that is leaving by itself just then complains.
    complaint = r"Traceback .*\n(?:  .*\n)+OSError: Signal 15 ignored due to race condition\n"
    assert "Traceback" not in re.sub(complaint, "", done.stderr)
    figures = json.loads((tmp_path / "figures.json").read_text())
    goals = [goal for measurement in figures["measurements"] for goal in measurement["goals"]]
    # Without torch there is nobody to compare with.
    here = [goal for goal in goals if goal["against"] != flowfeeds.DATA_LOADER or peers.installed("torch")]
    assert all(goal["measured"] for goal in here), [goal["what"] for goal in here if not goal["measured"]]
    assert len(goals) >= 3
    assert (tmp_path / "page.html").stat().st_size > 1_000_000
