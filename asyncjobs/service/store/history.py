"""What clients were told and what jobs did, as lines in files: the evidence that `checking` holds against the database.

A client's history is JSON lines, one when it asks and one when it knows the answer, or never will::

    {"call": 7, "kind": "invoke", "op": "submit", "job": "ID", "key": "k7", "at": 123.5}
    {"call": 7, "kind": "ok", "op": "submit", "job": "ID", "value": "QUEUED", "at": 123.6}

`kind` of the second: ``ok``, ``fail`` (it did not happen) or ``unknown``. `at` is in seconds of `time.monotonic`. The
`value` of a submit, a cancel and a result are the state, the answer, and the digest of the outcome's bytes.

A job writes ``ID ATTEMPT PID start`` and, when it is done, ``ID ATTEMPT PID end``, each with the time in
nanoseconds behind it: in one write, in append mode, so that the lines of several processes do not mix.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

OPS = ("submit", "cancel", "result")


class Call(NamedTuple):
    """One thing that a client asked, and what came of it."""

    op: str
    kind: str
    """``ok``, ``fail`` or ``unknown``."""
    job: str
    key: str | None
    value: str
    began_at: float
    ended_at: float | None
    """None: nothing came."""


class Effect(NamedTuple):
    """One line that a job wrote."""

    job: str
    attempt: int
    pid: int
    is_start: bool
    at: int
    """Nanoseconds of `time.monotonic_ns`: the same clock in all processes of the machine."""


class Recorder:
    """Writes a client's history. Each line is on its way to the disk before the client goes on."""

    def __init__(self, path: Path) -> None:
        self._file: IO[str] = open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 - closed by `close`
        self._calls = 0

    def invoke(self, op: str, job: str = "", key: str | None = None) -> int:
        """Somebody asks; the number of the call."""
        self._calls += 1
        self._write(call=self._calls, kind="invoke", op=op, job=job, key=key)
        return self._calls

    def ok(self, call: int, op: str, job: str, value: object = "") -> None:
        """It was answered."""
        self._write(call=call, kind="ok", op=op, job=job, value=str(value))

    def fail(self, call: int, op: str, value: object = "") -> None:
        """It was refused: nothing has happened."""
        self._write(call=call, kind="fail", op=op, value=str(value))

    def unknown(self, call: int, op: str) -> None:
        """The answer will never come: it may have happened."""
        self._write(call=call, kind="unknown", op=op)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def _write(self, **fields: Any) -> None:
        self._file.write(json.dumps({**fields, "at": time.monotonic()}) + "\n")


def read_calls(lines: Iterable[str]) -> list[Call]:
    """A client's history; what was never answered is ``unknown``. A last line that was cut off is left out."""
    asked: dict[int, dict[str, Any]] = {}
    answers: dict[int, dict[str, Any]] = {}
    for line in _objects(lines):
        (asked if line["kind"] == "invoke" else answers)[line["call"]] = line
    return [_call(question, answers.get(number)) for number, question in asked.items()]


def _call(question: dict[str, Any], answer: dict[str, Any] | None) -> Call:
    told = answer or {"kind": "unknown"}
    return Call(
        op=question["op"],
        kind=told["kind"],
        job=told.get("job") or question.get("job") or "",
        key=question.get("key"),
        value=told.get("value", ""),
        began_at=question["at"],
        ended_at=told.get("at"),
    )


def _objects(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        if line.endswith("\n"):
            yield json.loads(line)


def write_effect(path: Path, job: str, attempt: int, *, is_start: bool) -> None:
    """For jobs: say that an attempt starts, or is about to return."""
    line = f"{job} {attempt} {os.getpid()} {'start' if is_start else 'end'} {time.monotonic_ns()}\n"
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, line.encode())
    finally:
        os.close(fd)


def read_effects(lines: Iterable[str]) -> list[Effect]:
    """What jobs wrote, in the order in which it was written."""
    effects = []
    for line in lines:
        if line.endswith("\n"):
            job, attempt, pid, what, at = line.split()
            effects.append(Effect(job, int(attempt), int(pid), what == "start", int(at)))
    return effects
