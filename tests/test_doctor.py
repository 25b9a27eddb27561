"""What `asyncjobs doctor` reads from the machine, and what it makes of it."""

from __future__ import annotations

import io
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from asyncjobs.cli import doctor, machine
from asyncjobs.cli.machine import Facts
from asyncjobs.processors import ControlGroups, usable_processors

GIB = 2**30
GOOD = Facts(
    asyncjobs="0.1.0",
    python="CPython 3.11.7",
    versions=dict.fromkeys(machine.PACKAGES, "1.0"),
    system="Linux",
    platform="Linux-6.1-x86_64",
    cores=8,
    affinity=8,
    quota=None,
    start_methods=("forkserver", "fork", "spawn"),
    memory=16 * GIB,
    memory_available=12 * GIB,
    container_memory=None,
    container_memory_used=None,
    shm_size=8 * GIB,
    shm_free=8 * GIB,
    files_soft=1024,
    files_hard=1_048_576,
    files_open=8,
    processes_limit=60_000,
    pids_limit=None,
    pids_used=None,
    memory_files=True,
    pidfd=True,
    thread_variables={},
    jupyter=False,
    temp="/tmp",
    temp_wanted=None,
    temp_writable=True,
)


def without(package: str) -> dict[str, str | None]:
    return {**GOOD.versions, package: None}


def test_a_good_machine_has_no_findings() -> None:
    assert doctor.check(GOOD) == []


@pytest.mark.parametrize(
    ("changes", "level", "what", "to_do"),
    [
        ({"versions": without("uvloop")}, "warning", "uvloop is missing", "pip install uvloop"),
        ({"versions": without("plotly")}, "note", "plotly is missing", "asyncjobs-runner[plot]"),
        ({"system": "Windows", "versions": without("uvloop")}, "note", "not tested on Windows", "WSL"),
        ({"start_methods": ("fork", "spawn")}, "warning", "no forkserver", "recycle_after"),
        ({"start_methods": ("fork", "spawn", "forkserver")}, "note", "forks by default", "set_start_method"),
        ({"affinity": 2}, "warning", "2 of 8 cores are usable", "processes=2"),
        ({"quota": 3.5}, "warning", "3 of 8 cores are usable", "processes=3"),
        ({"quota": 0.5}, "note", "one core is usable", "more cores"),
        ({"cores": 1, "affinity": 1}, "note", "one core is usable", "more cores"),
        ({"thread_variables": {"OMP_NUM_THREADS": "64"}}, "warning", "makes 512 threads for 8 usable cores", "Unset"),
        ({"files_soft": 40, "files_hard": 40}, "warning", "holds about 1 process slots", "ulimit -Hn"),
        ({"files_soft": 64}, "note", "soft limit of 64 descriptors holds about 2", "ulimit -n"),
        ({"files_soft": 5, "files_hard": 5}, "warning", "holds about 0 process slots", "LimitNOFILE"),
        ({"pids_limit": 100, "pids_used": 90}, "warning", "room for 10 more processes", "--pids-limit"),
        ({"processes_limit": 20}, "warning", "room for 20 more processes", "ulimit -u"),
        (
            {"container_memory": GIB, "container_memory_used": GIB - 250 * 2**20},
            "warning",
            "250 MiB of memory are free",
            "Runner(processes=2)",
        ),
        ({"memory_available": 10 * 2**20}, "warning", "10 MiB of memory are free", "Runner(processes=1)"),
        ({"shm_size": 64 * 2**20}, "note", "/dev/shm has 64 MiB", "--shm-size"),
        ({"shm_size": None, "shm_free": None}, "note", "/dev/shm has none", "--shm-size"),
        ({"memory_files": False}, "warning", "arrays go through /dev/shm, 8.0 GiB free", "--shm-size"),
        ({"memory_files": False, "system": "Darwin"}, "note", "Darwin has no memory files", "Close runners"),
        ({"pidfd": False}, "note", "no pidfd", "newer kernel"),
        ({"temp_writable": False}, "warning", "temporary files cannot be written (/tmp)", "TMPDIR"),
        ({"temp_writable": False, "temp": ""}, "warning", "no folder found", "TMPDIR"),
        ({"temp_wanted": "/missing"}, "warning", "TMPDIR=/missing cannot be used", "unset TMPDIR"),
        ({"temp": "/t" * 40}, "warning", "has 80 bytes", "at most 75 bytes"),
    ],
)
def test_each_trouble_has_one_finding_that_says_what_to_do(
    changes: dict[str, object], level: str, what: str, to_do: str
) -> None:
    [finding] = doctor.check(replace(GOOD, **changes))  # type: ignore[arg-type]
    assert finding.level == level
    assert what in finding.what
    assert to_do in finding.to_do


@pytest.mark.parametrize(
    "changes",
    [
        {"files_soft": None, "files_hard": None},
        {"processes_limit": None},
        {"affinity": None, "quota": 8.0},
        {"thread_variables": {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "4,2"}},
        {"memory": None, "memory_available": None},
        {"temp_wanted": "/tmp/"},
        {"temp": "/t" * 37},
        {"pids_limit": 10_000, "pids_used": 100},
        {"jupyter": True},
    ],
)
def test_what_is_unknown_or_harmless_is_no_finding(changes: dict[str, object]) -> None:
    assert doctor.check(replace(GOOD, **changes)) == []  # type: ignore[arg-type]


def test_warnings_come_before_notes() -> None:
    found = doctor.check(replace(GOOD, pidfd=False, shm_size=0, versions=without("uvloop"), affinity=2))
    assert [finding.level for finding in found] == ["warning", "warning", "note", "note"]


@pytest.mark.parametrize(("files", "opened", "slots"), [(40, 8, 1), (1024, 8, 50), (10, 20, 0), (None, 8, None)])
def test_a_process_slot_takes_about_twenty_descriptors(files: int | None, opened: int, slots: int | None) -> None:
    assert doctor.process_slots(files, opened) == slots


# -- this machine ------------------------------------------------------------------------------------------


def test_this_machine_can_be_described_and_judged() -> None:
    facts = machine.gather()
    assert 1 <= facts.usable_cores <= facts.cores
    assert facts.usable_cores == usable_processors()
    assert facts.versions["anyio"]
    assert facts.temp_writable
    assert {finding.level for finding in doctor.check(facts)} <= {"warning", "note"}


def test_looking_at_the_machine_leaves_no_descriptor_open() -> None:
    machine.gather()
    before = machine.gather().files_open
    assert machine.gather().files_open == before


def test_the_json_holds_every_fact_and_every_finding() -> None:
    facts = machine.gather()
    found = doctor.check(replace(facts, pidfd=False, system="Linux"))
    read = json.loads(doctor.as_json(facts, found))
    assert read["facts"]["cores"] == os.cpu_count()
    assert read["facts"]["usable_cores"] == facts.usable_cores
    assert len(read["findings"]) == len(found) >= 1
    assert set(read["findings"][0]) == {"level", "what", "to_do"}


def test_the_text_shows_every_finding_with_its_advice() -> None:
    facts = replace(GOOD, pidfd=False, versions=without("uvloop"), temp_wanted="/odd[red]")
    out = io.StringIO()
    doctor.show(facts, doctor.check(facts), Console(file=out, width=300))
    text = out.getvalue()
    assert "uvloop MISSING" in text
    assert "warning: uvloop is missing" in text
    assert "pip install uvloop" in text
    assert "note: no pidfd" in text
    # What comes from outside is text and not markup.
    assert "TMPDIR=/odd[red]" in text


def test_a_clean_bill_of_health_says_so() -> None:
    out = io.StringIO()
    doctor.show(GOOD, [], Console(file=out, width=200))
    assert "Nothing here stands in the way" in out.getvalue()
    assert "50 process slots" in out.getvalue()


# -- control groups ----------------------------------------------------------------------------------------


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n", encoding="utf-8")
    return root


def test_the_tightest_limit_on_the_way_to_the_root_counts(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "a/b/cpu.max": "max 100000",
            "a/cpu.max": "150000 100000",
            "cpu.max": "400000 100000",
            "a/b/memory.max": "max",
            "a/memory.max": "2000000",
            "memory.max": "1000000",
            "a/b/memory.current": "123",
            "a/memory.current": "456",
            "a/b/pids.max": "77",
            "a/b/pids.current": "7",
        },
    )
    groups = ControlGroups(root, "0::/a/b\n")
    assert groups.cores() == 1.5
    assert (groups.memory_limit(), groups.memory_used()) == (1_000_000, 123)
    assert (groups.pids_limit(), groups.pids_used()) == (77, 7)


def test_version_one_has_a_folder_per_controller(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "cpu/x/cpu.cfs_quota_us": "250000",
            "cpu/x/cpu.cfs_period_us": "100000",
            "memory/x/memory.limit_in_bytes": "3000000",
            "memory/x/memory.usage_in_bytes": "5",
            "memory/memory.limit_in_bytes": "9223372036854771712",
            "pids/x/pids.max": "max",
        },
    )
    groups = ControlGroups(root, "4:memory:/x\n3:cpu,cpuacct:/x\n2:pids:/x\n")
    assert groups.cores() == 2.5
    assert (groups.memory_limit(), groups.memory_used()) == (3_000_000, 5)
    assert groups.pids_limit() is None


def test_a_path_that_only_the_host_knows_falls_back_to_what_the_container_sees(tmp_path: Path) -> None:
    root = write(tmp_path, {"memory/memory.limit_in_bytes": "4096", "pids/pids.max": "50"})
    groups = ControlGroups(root, "4:memory:/docker/0123\n2:pids:/docker/0123\n")
    assert groups.memory_limit() == 4096
    assert groups.pids_limit() == 50


@pytest.mark.parametrize("membership", ["", "0::/\n", "4:memory:/x\n1:cpu:/\n"])
def test_without_readable_limits_there_are_none(tmp_path: Path, membership: str) -> None:
    groups = ControlGroups(tmp_path, membership)
    assert groups.cores() is None
    assert groups.memory_limit() is None
    assert groups.memory_used() is None
    assert groups.pids_limit() is None


def test_a_quota_of_minus_one_is_no_limit(tmp_path: Path) -> None:
    root = write(tmp_path, {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"})
    assert ControlGroups(root, "3:cpu:/\n").cores() is None
