"""A caller behind a bad network: what it submitted runs once, and it hears of each end (P1, F68, F72, F82)."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
import service_jobs
from chaos import Harm, chaos
from services import ServiceProcess, service

import asyncjobs as aj


@pytest.fixture(scope="module")
def running() -> Iterator[ServiceProcess]:
    with tempfile.TemporaryDirectory(prefix="aj") as folder, service(Path(folder) / "s") as opened:
        warm = [opened.submit("sleep", 0.2)["id"] for _ in range(4)]
        assert {opened.ended(job)["state"] for job in warm} == {"SUCCEEDED"}
        yield opened
        assert opened.stop() == 0


HARMS = [
    pytest.param(harm, id=harm.name, marks=pytest.mark.slow if number else ())
    for number, harm in enumerate(harm for harm in Harm if harm is not Harm.NONE)
]


@pytest.mark.parametrize("harm", HARMS)
async def test_F68_F82_each_job_runs_once_whatever_happens_to_connections(
    running: ServiceProcess, tmp_path: Path, harm: Harm
) -> None:
    """Every other request is harmed."""
    await submit_through(running, tmp_path, harm.name, 12, (Harm.NONE, harm))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
async def test_F68_F82_all_of_it_together(running: ServiceProcess, tmp_path: Path, seed: int) -> None:
    await submit_through(running, tmp_path, f"seed{seed}", 60, tuple(Harm), seed)


async def submit_through(
    running: ServiceProcess, tmp_path: Path, tag: str, number: int, harms: tuple[Harm, ...], seed: int = 0
) -> None:
    notes = tmp_path / "notes"
    with tempfile.TemporaryDirectory(prefix="aj") as folder:
        async with chaos(running.folder, Path(folder) / "t", Random(seed), harms) as proxy:
            async with aj.connect(dir=Path(folder) / "t", timeout=30) as caller:
                tagged = caller.options(tags=[tag])
                jobs = [await tagged.submit(service_jobs.append, str(notes), str(at)) for at in range(number)]
                for job in jobs:
                    await job
            assert sum(proxy.done.values()) > 1
    runs = Counter(notes.read_text().split())
    assert runs == Counter(str(at) for at in range(number))
    rows = running.json("GET", f"/v1/jobs?tag={tag}&limit=1000")["jobs"]
    assert len(rows) == number
    assert {row["state"] for row in rows} == {"SUCCEEDED"}
