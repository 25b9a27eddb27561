"""F81: the wall clock leaps under a service that runs, and while none runs: what waits goes on as if it had not."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from services import ServiceProcess, eventually, service

HOUR = 3600
LEAPS = pytest.mark.parametrize("hours", [5, -5])
FIRST_LEAPS = pytest.mark.parametrize("hours", [pytest.param(5, marks=pytest.mark.slow), -5])

# Loaded before the C library: the wall clock of the service and of all its workers is off by the seconds that stand
# in a file. All other clocks stay as they are: the kernel does not let them be set either.
PRELOADED = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

static volatile const long long *leap;

__attribute__((constructor)) static void look(void) {
    int file = open(getenv("WALL_CLOCK"), O_RDONLY | O_CLOEXEC);
    leap = mmap(NULL, sizeof *leap, PROT_READ, MAP_SHARED, file, 0);
}

int clock_gettime(clockid_t id, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(id, now);
    if (result == 0 && leap && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) now->tv_sec += *leap;
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec time;
    clock_gettime(CLOCK_REALTIME, &time);
    now->tv_sec = time.tv_sec;
    now->tv_usec = time.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *now) {
    struct timespec time;
    clock_gettime(CLOCK_REALTIME, &time);
    if (now) *now = time.tv_sec;
    return time.tv_sec;
}
"""


class WallClock:
    """The one that a service sees."""

    def __init__(self, folder: Path, library: Path) -> None:
        self._file = folder / "wall clock"
        self._seconds = 0
        self.leap(0)
        self.environment = {"LD_PRELOAD": str(library), "WALL_CLOCK": str(self._file)}

    def leap(self, hours: float) -> None:
        self._seconds += int(hours * HOUR)
        with open(self._file, "r+b" if self._file.exists() else "wb") as file:
            file.write(self._seconds.to_bytes(8, sys.byteorder, signed=True))

    def now(self) -> float:
        return time.time() + self._seconds


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("F81: the wall clock of a process can be moved on Linux, with a C compiler")
    folder = tmp_path_factory.mktemp("preloaded")
    (folder / "wall.c").write_text(PRELOADED)
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", "wall.so", "wall.c", "-ldl"], cwd=folder, check=True)
    return folder / "wall.so"


@pytest.fixture
def wall(tmp_path: Path, library: Path) -> WallClock:
    return WallClock(tmp_path, library)


@pytest.fixture
def running(tmp_path: Path, wall: WallClock) -> Iterator[ServiceProcess]:
    with service(tmp_path / "state", environment=wall.environment, processes=4) as opened:
        assert opened.value(opened.submit("add", 1)["id"]) == 1  # workers are there
        yield opened
        assert opened.stop() == 0


def ids_of(service: ServiceProcess) -> list[str]:
    """Newest first."""
    return [job["id"] for job in service.json("GET", "/v1/jobs?limit=100")["jobs"]]


def nightly(service: ServiceProcess, wall: WallClock, minutes: int) -> Any:
    """A schedule whose time comes within the hour."""
    at = time.gmtime(wall.now() + minutes * 60)
    request = {
        "name": "nightly",
        "cron": f"{at.tm_min} {at.tm_hour} * * *",
        "job": {"function": "service_jobs:add", "args": [1]},
    }
    return service.json("POST", "/v1/schedules", request)


@pytest.mark.slow
@FIRST_LEAPS
def test_F81_what_waits_when_the_wall_clock_leaps_waits_as_long_as_it_was_to(
    tmp_path: Path, running: ServiceProcess, wall: WallClock, hours: int
) -> None:
    notes, gate = str(tmp_path / "notes"), tmp_path / "gate"
    view = nightly(running, wall, minutes=30)
    asleep = running.submit("note_and_wait", notes, str(gate), "x", terms={"timeout": HOUR})["id"]
    stuck = running.submit("wait", terms={"timeout": 1.0, "grace": 0.1})["id"]
    late = running.submit("wait", terms={"deadline": wall.now() + 2.0, "grace": 0.1})["id"]
    tried = running.submit("fail_until", 2, terms={"retry": {"max": 1, "backoff": 1.0}})["id"]
    soon = running.submit("clock", delay=1.0)["id"]
    much_later = running.submit("add", 1, delay=2.0 * HOUR)["id"]
    running.reaches(asleep, "RUNNING")
    wall.leap(hours)
    assert running.ended(stuck)["state"] == "TIMED_OUT"
    assert running.ended(late)["state"] == "TIMED_OUT"
    assert running.value(tried) == 2
    assert running.value(soon)
    gate.touch()
    assert running.value(asleep)
    assert running.job(much_later)["state"] == "QUEUED"
    assert running.json("GET", "/v1/schedules") == [view]
    assert len(ids_of(running)) == 7, "the schedule made none"


@pytest.mark.slow
@LEAPS
def test_F81_what_is_submitted_after_a_leap_goes_by_the_new_wall_clock(
    running: ServiceProcess, wall: WallClock, hours: int
) -> None:
    wall.leap(hours)
    before = ids_of(running)
    soon = running.submit("add", 1, delay=0.5)["id"]
    at = running.submit("add", 2, at=wall.now() + 0.5)["id"]
    in_time = running.submit("add", 3, terms={"deadline": wall.now() + HOUR})["id"]
    too_late = running.submit("wait", terms={"deadline": wall.now() + 1.0, "grace": 0.1})["id"]
    limited = [running.submit("add", n, limit={"name": "rate", "starts": 1, "seconds": 0.3})["id"] for n in range(3)]
    assert [running.value(job) for job in (soon, at, in_time, *limited)] == [1, 2, 3, 0, 1, 2]
    assert running.ended(too_late)["state"] == "TIMED_OUT"
    assert ids_of(running) == [*reversed([soon, at, in_time, too_late, *limited]), *before]
    for job in (soon, in_time, *limited):
        seen = running.job(job)
        assert seen["submitted_at"] <= seen["started_at"] <= seen["ended_at"]


@pytest.mark.slow
@LEAPS
def test_F81_a_start_after_a_leap_runs_what_is_open_and_takes_new_jobs(
    tmp_path: Path, running: ServiceProcess, wall: WallClock, hours: int
) -> None:
    """A schedule's time that has gone by while no service ran comes once; one that comes a second time, again."""
    notes, gate = tmp_path / "notes", tmp_path / "gate"
    nightly(running, wall, minutes=30)
    cut = running.submit("note_and_wait", str(notes), str(gate), "x")["id"]
    later = running.submit("add", 1, delay=2.0 * HOUR)["id"]
    retried = running.submit("fail_until", 2, terms={"retry": {"max": 1, "backoff": 2.0 * HOUR}})["id"]
    limited = running.submit("add", 0, limit={"name": "rate", "starts": 1, "seconds": 5.0})["id"]
    eventually(notes.exists)
    running.reaches(retried, "WAITING")
    assert running.value(limited) == 0
    running.kill()
    wall.leap(hours)
    running.restart()
    gate.touch()
    assert running.value(cut)
    assert running.job(cut)["attempt"] == 2
    if hours > 0:
        assert running.value(later) == 1
        assert running.value(retried) == 2
        [scheduled] = running.json("GET", "/v1/jobs?schedule=nightly")["jobs"]
        assert running.value(scheduled["id"]) == 1
    fresh = running.submit("add", 5, limit={"name": "rate", "starts": 1, "seconds": 5.0})["id"]
    assert running.value(fresh) == 5
    assert running.job(retried)["due"] is None or running.job(retried)["due"] <= wall.now() + 2 * HOUR
    [view] = running.json("GET", "/v1/schedules")
    assert view["next_at"] > wall.now()
    assert ids_of(running)[0] == fresh
