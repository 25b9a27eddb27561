"""The checker of the promises I1 to I14: it is silent about a build that works, and hears each broken one."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from damaged import ROOT, fill
from stored import claimed, ended, job, looked_at, opened

from asyncjobs import failpoint
from asyncjobs.cli import service_facts
from asyncjobs.service.access import StateDir
from asyncjobs.service.ids import new_id
from asyncjobs.service.records import Claim, NewJob
from asyncjobs.service.store import checking, history, mark
from asyncjobs.service.store.checking import Evidence, check, check_database
from asyncjobs.service.store.history import Call, Effect, Recorder, read_calls, read_effects, write_effect
from asyncjobs.service.store.rowchecks import Job
from asyncjobs.service.store.store import Store
from asyncjobs.state import JobState


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir(mode=0o700)
    return tmp_path / "state" / "jobs.db"


@pytest.fixture(autouse=True)
def _whole_again() -> Iterator[None]:
    yield
    failpoint.set_flaws()


def rules(evidence: Evidence) -> set[str]:
    return {violation.rule for violation in check(evidence).violations}


# --- a small world: clients and workers around a store ----------------------------------------


class World:
    """Clients that write down what they are told, and workers that write down what they do."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.store = store
        self.effects = folder / "effects"
        self.record = Recorder(folder / "history")
        self.history = folder / "history"

    async def submit(self, new: NewJob) -> str:
        """As a client that retries: twice."""
        answered = ""
        for _ in range(2):
            call = self.record.invoke("submit", new.id, new.key)
            [answer] = await self.store.submit([new])
            self.record.ok(call, "submit", answer.id, answer.state.name)
            answered = answer.id
        return answered

    async def cancel(self, id: str) -> None:
        call = self.record.invoke("cancel", id)
        answer, _ = await self.store.cancel(id, "enough")
        self.record.ok(call, "cancel", id, answer)

    async def ask(self, id: str) -> None:
        call = self.record.invoke("result", id)
        state, _, _, outcome = await self.store.outcome(id)
        self.record.ok(call, "result", id, f"{state.name} {hashlib.sha256(outcome).hexdigest()}")

    def start(self, claim: Claim) -> None:
        write_effect(self.effects, claim.id, claim.attempt, is_start=True)

    async def finish(self, claim: Claim, state: JobState = JobState.SUCCEEDED) -> None:
        outcome = value_of(claim.payload) if state == JobState.SUCCEEDED else b""
        write_effect(self.effects, claim.id, claim.attempt, is_start=False)
        await self.store.finish([ended(claim, state, outcome)])

    async def work_off(self) -> None:
        """What an engine does: asks for jobs as long as the store says that there may be some."""
        while self.store.waiting("process"):
            claims = await claimed(self.store, 4)
            for claim in claims:
                self.start(claim)
                await self.finish(claim)

    def evidence(self, path: Path, **more: object) -> Evidence:
        self.record.close()
        effects = self.effects.read_text().splitlines(keepends=True) if self.effects.exists() else []
        return Evidence(
            database=path,
            calls=read_calls(self.history.read_text().splitlines(keepends=True)),
            effects=read_effects(effects),
            oracle=right_outcome,
            **more,  # type: ignore[arg-type]
        )


def value_of(payload: bytes) -> bytes:
    return b"value of " + hashlib.sha256(payload).hexdigest().encode()


def right_outcome(job: Job) -> bytes:
    return b"value of " + job.payload.encode()


@contextlib.asynccontextmanager
async def world(path: Path) -> AsyncIterator[World]:
    async with opened(path, results=path.parent / "results") as store:
        yield World(store, path.parent)


async def live(world: World) -> None:
    """Clients beside each other, keys, a cancel, a crash, a retry, a zombie."""
    store = world.store
    jobs = [job(f"call {number}".encode(), key=f"key {number % 7}" if number < 7 else None) for number in range(12)]
    ids = await asyncio.gather(*(world.submit(new) for new in jobs))
    again = await world.submit(jobs[0]._replace(id=new_id()))
    assert again == ids[0] or failpoint.has_flaw("no_dedupe")
    await world.cancel(ids[-1])
    first, second = await claimed(store, 2)
    world.start(first)
    await store.finish([ended(first, JobState.QUEUED, b"", has_crashed=True)])
    world.start(second)
    await store.finish([ended(second, JobState.WAITING, b"", due=store.settings.clock())])
    write_effect(world.effects, second.id, 1, is_start=False)
    [fresh] = [claim for claim in await claimed(store, 1) if claim.id == first.id]
    world.start(fresh)
    # The first attempt was not dead after all.
    await store.finish([ended(first, outcome=value_of(first.payload))])
    await world.finish(fresh)
    await store.finish([ended(fresh, JobState.FAILED, b"")])
    await world.work_off()
    for id in ids:
        await world.ask(id)


# --- a build that works -----------------------------------------------------------------------


async def test_nothing_is_held_against_a_store_that_keeps_its_promises(path: Path) -> None:
    async with world(path) as alive:
        await live(alive)
        alive.record.invoke("submit", new_id())  # this one never arrived
    report = check(alive.evidence(path, is_drained=True, descriptors=1, stderr="all is well\n"))
    assert report.violations == []
    assert report.recovered == frozenset()


async def test_a_store_in_the_middle_of_its_work_is_sound_too(path: Path) -> None:
    async with opened(path) as store:
        await fill(store, 30)
    assert check_database(path) == []
    async with opened(path):  # what ran is queued again
        pass
    assert check_database(path) == []


async def test_what_was_not_answered_and_is_there_is_recovered_and_allowed(path: Path) -> None:
    async with world(path) as alive:
        new = job()
        alive.record.invoke("submit", new.id)
        await alive.store.submit([new])
    report = check(alive.evidence(path))
    assert report.violations == []
    assert report.recovered == {new.id}


# --- six broken ones --------------------------------------------------------------------------


async def broken(path: Path, flaw: str) -> set[str]:
    failpoint.set_flaws(flaw)
    async with world(path) as alive:
        await live(alive)
    return rules(alive.evidence(path, is_drained=True))


async def test_a_build_without_a_fence_is_caught(path: Path) -> None:
    assert "I10" in await broken(path, "no_fence")


async def test_a_build_that_overwrites_a_final_state_is_caught(path: Path) -> None:
    assert "I4" in await broken(path, "final_overwrite")


async def test_a_build_that_does_not_look_at_keys_is_caught(path: Path) -> None:
    assert "I3" in await broken(path, "no_dedupe")


async def test_a_build_that_loses_a_wake_up_is_caught(path: Path) -> None:
    assert "I4" in await broken(path, "lost_wakeup")


ACKNOWLEDGES = """
import asyncio, sys
from pathlib import Path
from stored import job, opened
from asyncjobs.service.store.history import Recorder

async def main(path):
    async with opened(path) as store:
        record = Recorder(path.parent / "history")
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                new = job()
                call = record.invoke("submit", new.id)
                record.ok(call, "submit", (await store.submit([new]))[0].id)
                print("told", flush=True)

asyncio.run(main(Path(sys.argv[1])))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("flaw", "expected"), [("", set()), ("ack_before_commit", {"I1"})])
async def test_a_build_that_answers_before_the_commit_is_caught(path: Path, flaw: str, expected: set[str]) -> None:
    fifo = path.parent / "fifo"
    os.mkfifo(fifo, 0o600)
    environment = {
        **os.environ,
        "ASYNCJOBS_BROKEN": flaw,
        "ASYNCJOBS_FAILPOINTS": f"submit.before_commit=pause:{fifo}@2",
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
    }
    command = [sys.executable, "-c", ACKNOWLEDGES, str(path)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "told\n"
        if flaw:
            assert process.stdout.readline() == "told\n"
        with open(fifo, "wb"):  # it is there, before its second commit
            process.kill()
            process.wait()
    calls = read_calls((path.parent / "history").read_text().splitlines(keepends=True))
    assert rules(Evidence(path, calls=calls)) == expected


LEAKS = """
import asyncio, sys
import numpy as np
import asyncjobs as aj
from asyncjobs.testing.leaks import start_helpers, take_census, wait_for_no_leaks

async def main():
    async with aj.Runner(processes=1) as runner:
        await runner.options(lane="process").run(np.negative, np.zeros(300_000))

if __name__ == "__main__":
    start_helpers()
    before = take_census()
    asyncio.run(main())
    for leak in wait_for_no_leaks(before):
        print(leak)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("flaw", "expected"), [("", set()), ("leak_memory", {"I12"})])
def test_a_build_that_leaks_shared_memory_is_caught(tmp_path: Path, flaw: str, expected: set[str]) -> None:
    script = tmp_path / "leaks.py"
    script.write_text(LEAKS)
    environment = {**os.environ, "ASYNCJOBS_BROKEN": flaw, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=60)
    # /dev/shm is the whole machine's; our memory files have no name there.
    leaks = tuple(line for line in done.stdout.splitlines() if "/dev/shm/" not in line)
    assert rules(Evidence(leaks=leaks, stderr=done.stderr)) == expected, leaks
    assert all("memfd" in leak for leak in leaks)


# --- every rule, with made-up evidence --------------------------------------------------------


async def lived(path: Path) -> Evidence:
    async with world(path) as alive:
        await live(alive)
    return alive.evidence(path, is_drained=True)


def spoilt(path: Path, *statements: str) -> set[str]:
    """What the checker says after somebody has done that to the database."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for trigger in ("jobs_final", "jobs_move", "jobs_stay", "events_stand", "events_stay", "outcomes_stand"):
            connection.execute(f"DROP TRIGGER {trigger}")
        for statement in statements:
            connection.execute(statement)
        connection.commit()
    return {violation.rule for violation in check_database(path)}


SPOILS = {
    "I3": ["DROP INDEX jobs_key", "UPDATE jobs SET key = 'same' WHERE seq < 3"],
    "I4": ["UPDATE jobs SET state = 0, place = 0, ended_at = NULL WHERE seq = 1"],
    "I5": ["UPDATE events SET state = 0, kind = 'queued' WHERE job = 3 AND kind = 'claimed'"],
    "I5 gap": ["DELETE FROM events WHERE seq = 4"],
    "I6": ["UPDATE events SET attempt = attempt + 9 WHERE job = 3"],
    "I10": ["UPDATE events SET attempt = attempt + 1 WHERE job = 3 AND state = 4"],
    "I10 fence": ["UPDATE jobs SET fence = fence - 1 WHERE seq = 3"],
    "I11": ["UPDATE tallies SET jobs = jobs + 1 WHERE state = 4"],
    "I11 orphan": ["DELETE FROM jobs WHERE seq = 2"],
    "I8": ["DELETE FROM outcomes WHERE seq = 3", "INSERT INTO outcomes (seq, file) VALUES (3, 'aa/none')"],
}


@pytest.mark.parametrize("name", SPOILS)
async def test_a_database_that_contradicts_itself_is_told_by_its_rule(path: Path, name: str) -> None:
    await lived(path)
    statements = list(SPOILS[name])
    if name == "I8":  # nobody adds an outcome to a job that has ended
        statements.insert(0, "DROP TRIGGER outcomes_first")
    assert name.split()[0] in spoilt(path, *statements)


async def test_what_clients_were_told_is_held_against_the_database(path: Path) -> None:
    evidence = await lived(path)
    assert evidence.calls is not None
    ids = [id for (id,) in looked_at(path, "SELECT id FROM jobs ORDER BY seq")]
    cases = {
        "I1": Call("submit", "ok", "gone", None, "", 0.0, 1.0),
        "I3": Call("submit", "ok", ids[1], "key 0", "", 0.0, 1.0),
        "I8": Call("result", "ok", ids[0], None, "SUCCEEDED 00", 0.0, 1.0),
        "I9": Call("cancel", "ok", ids[0], None, "cancelled", 0.0, 1.0),
        "I13": Call("result", "ok", ids[0], None, next(c.value for c in evidence.calls if c.op == "result"), 0.0, 11.0),
    }
    for rule, call in cases.items():
        assert rule in rules(Evidence(path, calls=[*evidence.calls, call])), rule
    some = [call for call in evidence.calls if call.job != ids[3]]
    assert rules(Evidence(path, calls=some)) == {"I2"}
    gone = [*evidence.calls, cases["I1"]]
    assert rules(Evidence(path, calls=gone, is_pruned=True)) == set()
    assert rules(Evidence(path, calls=evidence.calls, bounds={"submit": 0.0})) == {"I13"}


async def test_an_outcome_that_is_wrong_is_told(path: Path) -> None:
    await lived(path)
    assert rules(Evidence(path, oracle=lambda job: b"something else")) == {"I8"}
    assert rules(Evidence(path, oracle=lambda job: None)) == set()


async def test_what_jobs_did_is_held_against_what_was_promised(path: Path) -> None:
    async with opened(path) as store:
        [answer] = await store.submit([job(at_most_once=True)])
    id = answer.id

    def of(*lines: tuple[int, int, bool, int], **more: object) -> set[str]:
        effects = [Effect(id, attempt, pid, is_start, at) for attempt, pid, is_start, at in lines]
        return rules(Evidence(path, effects=effects, **more)) if more else rules(Evidence(effects=effects))  # type: ignore[arg-type]

    one, over = (1, 10, True, 100), (1, 10, False, 200)
    assert of(one, over, (2, 11, True, 300)) == set()
    assert of(one, (2, 11, True, 150), over) == {"I7"}
    assert of(one, (2, 11, True, 300)) == set()  # the first was killed
    assert of(one, (2, 11, True, 300), alive=frozenset({10})) == {"I6", "I7"}  # it was not, and it was to start once
    assert of(one, one) == {"I6"}
    told = [Call("cancel", "ok", id, None, "cancelled", 0.0, 1e-7)]
    assert rules(Evidence(calls=told, effects=[Effect(id, 1, 10, True, 200)])) == {"I9"}
    assert rules(Evidence(calls=told, effects=[Effect(id, 1, 10, True, 50)])) == set()


async def test_what_starts_at_most_once_may_start_again_after_it_failed_by_itself(path: Path) -> None:
    async with opened(path) as store:
        [answer] = await store.submit([job(at_most_once=True, terms=b'{"retry": {"max": 1}}')])
        for state in (JobState.WAITING, JobState.SUCCEEDED):
            [claim] = await claimed(store)
            await store.finish([ended(claim, state, b"", due=0.0)])
    starts = [Effect(answer.id, attempt, 10, True, attempt) for attempt in (1, 2, 3)]
    assert rules(Evidence(path, effects=starts[:2], is_drained=True)) == set()
    assert rules(Evidence(path, effects=starts)) == {"I6"}


def test_leaks_descriptors_and_the_log_are_looked_at() -> None:
    text = "fine\nTraceback (most recent call last):\nTask exception was never retrieved\n"
    assert rules(Evidence(leaks=("thread 'x'",))) == {"I12"}
    assert rules(Evidence(descriptors=2)) == rules(Evidence(descriptors=0)) == {"I11"}
    assert rules(Evidence(stderr=text)) == {"I14"}
    assert rules(Evidence(stderr=text, is_allowed=re.compile("Traceback|never retrieved"))) == set()
    assert rules(Evidence()) == set()


def test_a_history_says_what_was_never_answered_and_forgets_half_a_line(tmp_path: Path) -> None:
    record = Recorder(tmp_path / "history")
    first, second, third, _ = (record.invoke("submit", f"job {number}", f"k{number}") for number in range(4))
    record.ok(first, "submit", "job 9", "QUEUED")
    record.fail(second, "submit", "ServiceFull")
    record.unknown(third, "submit")
    record.close()
    lines = [*(tmp_path / "history").read_text().splitlines(keepends=True), '{"call": 4, "kind": "o']
    found = [(call.kind, call.job, call.key, call.value) for call in read_calls(lines)]
    assert found == [
        ("ok", "job 9", "k0", "QUEUED"),
        ("fail", "job 1", "k1", "ServiceFull"),
        ("unknown", "job 2", "k2", ""),
        ("unknown", "job 3", "k3", ""),
    ]
    assert json.loads(lines[0])["op"] in history.OPS
    assert checking.ANSWER == 10.0


async def test_doctor_says_what_is_wrong_with_a_database_that_nobody_serves(tmp_path: Path) -> None:
    state = StateDir.open(tmp_path / "state", create=True)
    await lived(state.database)
    assert service_facts.look(state.path, "default").problems == ()
    spoilt(state.database, *SPOILS["I10"])
    mark.path_of(state.database).unlink()
    facts = service_facts.look(state.path, "default")
    assert [problem.split()[0] for problem in facts.problems] == ["I10"]
    assert any("journal check" in finding.to_do for finding in service_facts.judge(facts))
