"""A simulated cluster: the runner is real, the workers are numbers, and computing takes its processor time."""

from __future__ import annotations

import asyncio
import itertools
import json
from pathlib import Path
from time import thread_time

import pytest

import asyncjobs as aj
from asyncjobs.bench import clustersim
from asyncjobs.lanes.clusterengine import Listener
from asyncjobs.testing import ChargedLoop, SimulatedLane
from asyncjobs.testing.work import double


def test_waits_take_no_time_and_computing_takes_its_own() -> None:
    async def play() -> tuple[float, float, float, float]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, ChargedLoop)
        times = [loop.time()]
        await asyncio.sleep(3600)
        times.append(loop.time())
        compute(0.05)
        await asyncio.sleep(0)
        times.append(loop.time())
        with loop.free_of_charge():
            compute(0.3)
        await asyncio.sleep(0)
        times.append(loop.time())
        loop.spend(7.0)
        await asyncio.sleep(0)
        times.append(loop.time())
        slept, computed, free, spent = (later - sooner for sooner, later in itertools.pairwise(times))
        return slept, computed, free, spent

    with asyncio.Runner(loop_factory=ChargedLoop) as loops:
        slept, computed, free, spent = loops.run(play())
    assert slept >= 3600
    assert computed >= 0.05
    assert free < 0.3
    assert spent >= 7.0


def compute(seconds: float) -> None:
    """Keep the processor busy for so long."""
    began = thread_time()
    while thread_time() - began < seconds:
        pass


def played(lane: SimulatedLane, count: int) -> float:
    with asyncio.Runner(loop_factory=ChargedLoop) as loops:
        return loops.run(clustersim.single(lane, count))


def test_a_map_may_begin_before_the_cluster_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    lane = SimulatedLane(2, lambda: 0.1)
    connect = lane._engine.connect

    async def late(listener: Listener, runner_id: str) -> None:
        await asyncio.sleep(2.0)
        await connect(listener, runner_id)

    monkeypatch.setattr(lane._engine, "connect", late)
    with asyncio.Runner(loop_factory=ChargedLoop) as loops:
        assert loops.run(clustersim.mapped(lane, 10)) > 2.0


def test_workers_run_one_call_at_a_time() -> None:
    took = played(SimulatedLane(20, lambda: 10.0), 100)
    assert 50.0 <= took < 55.0, "five waves of ten seconds, and what the loop computes"


def test_a_client_that_computes_for_each_message_is_the_limit() -> None:
    assert played(SimulatedLane(1000, lambda: 0.001, cost=1.0), 100) >= 100.0


def test_a_map_travels_in_groups() -> None:
    async def play() -> tuple[list[None], int]:
        async with aj.Runner(lanes={"cluster": SimulatedLane(3, lambda: 0.001)}, watchdog=None) as runner:
            values = await runner.options(lane="cluster").map(double, range(2000)).collect()
            return values, runner.stats().lanes["cluster"].submitted

    with asyncio.Runner(loop_factory=ChargedLoop) as loops:
        values, submitted = loops.run(play())
    assert values == [None] * 2000
    assert submitted < 500


def test_a_simulation_is_told_in_lines_a_table_and_a_picture() -> None:
    pytest.importorskip("plotly")
    found = clustersim.simulate((0.01, 1.0), waves=2, shape=(0.9, 1.1), workers=20)
    assert [point.seconds for point in found.points] == [0.01] * 3 + [1.0] * 3
    assert all(0 < point.busy <= 1.0 for point in found.points)
    assert 100 < found.nbytes < 100_000
    assert len(clustersim.lines(found)) == 1 + 6 + 3 + 1
    assert len(clustersim.table(found).rows) == 6
    assert [trace.name for trace in clustersim.picture(found).data][1:] == [way.name for way in clustersim.WAYS[::-1]]


@pytest.mark.slow
def test_the_command_simulates_and_writes_its_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("numpy")
    clustersim.main(tmp_path / "figures.json", quick=True)
    assert len(json.loads((tmp_path / "figures.json").read_text())["points"]) == 9
    assert "bytes for each job in flight" in capsys.readouterr().out
    assert not caplog.messages
