"""Places in the code where a test may make the process fail: `point`.

Does nothing unless ``ASYNCJOBS_FAILPOINTS`` names the point, when the process starts::

    ASYNCJOBS_FAILPOINTS="claim.after_commit=kill@3;shm.create=errno:ENOSPC;reply.before=pause:/tmp/fifo"

Actions: ``kill`` (SIGKILL to itself), ``exit`` or ``exit:CODE`` (at once, nothing is cleaned up), ``raise`` or
``raise:OSError`` (a builtin), ``errno:ENOSPC`` (an OSError), ``delay:SECONDS``, ``pause:FIFO`` (until the other side
of the FIFO is opened and closed). When: always, or ``@3`` (the third time), ``@3+`` (from then on), ``~0.1/7`` (with
that probability, drawn from the seed 7).

``ASYNCJOBS_FAILPOINTS_SEEN=FILE`` adds the name of each point to the file the first time the process comes past it.
"""

from __future__ import annotations

import builtins
import errno
import os
import random
import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field


class FailpointReached(RuntimeError):
    """What ``raise`` raises."""


_ENTRY = re.compile(
    r"(?P<name>[\w.]+)=(?P<action>[a-z]+)(?::(?P<value>[^@~;]*))?"
    r"(?:@(?P<number>\d+)(?P<onward>\+)?|~(?P<share>[\d.]+)(?:/(?P<seed>\d+))?)?"
)


@dataclass
class _Armed:
    """One point's action, and how often it was come past."""

    action: Callable[[], None]
    number: int | None
    is_onward: bool
    share: float
    draw: random.Random
    passed: int = field(default=0)

    def is_due(self) -> bool:
        self.passed += 1
        if self.number is not None:
            return self.passed == self.number or (self.is_onward and self.passed > self.number)
        return self.share >= 1.0 or self.draw.random() < self.share


_flaws: set[str] = {name for name in os.environ.get("ASYNCJOBS_BROKEN", "").split(",") if name}
_armed: dict[str, _Armed] = {}
_seen: set[str] = set()
_seen_file: str | None = None
_is_quiet = True


def point(name: str) -> None:
    """Fail here, if that was asked for; otherwise next to nothing (some 30 ns). May block: ``delay``, ``pause``."""
    if _is_quiet:
        return
    if _seen_file is not None and name not in _seen:
        _seen.add(name)
        _note(_seen_file, name)
    armed = _armed.get(name)
    if armed is not None and armed.is_due():
        armed.action()


def has_flaw(name: str) -> bool:
    """Whether this process is a deliberately broken build: with it a test sees that its checker sees.

    ``ASYNCJOBS_BROKEN=NAME,...``, only ever set by tests: ``no_fence``, ``ack_before_commit``, ``final_overwrite``,
    ``no_dedupe``, ``lost_wakeup``; and ``leak_memory`` in `wire.arena`.
    """
    return name in _flaws


def set_flaws(*names: str) -> None:
    """Break this process like that from now on, and no longer like before."""
    _flaws.clear()
    _flaws.update(names)


def arm(spec: str, *, seen: str | None = None) -> None:
    """Replace what is armed in this process by `spec`, written as in the environment; empty: nothing.

    Raises:
        ValueError: `spec` is not written like that.
    """
    global _is_quiet, _seen_file
    entries = dict(_parsed(entry.strip()) for entry in spec.split(";") if entry.strip())
    _armed.clear()
    _armed.update(entries)
    _seen.clear()
    _seen_file = seen
    _is_quiet = not entries and seen is None


def _parsed(entry: str) -> tuple[str, _Armed]:
    found = _ENTRY.fullmatch(entry)
    if found is None:
        raise ValueError(f"failpoint {entry!r} is not understood; allowed: NAME=ACTION[:VALUE][@N[+]|~SHARE[/SEED]]")
    number, share = found["number"], found["share"]
    armed = _Armed(
        action=_action(found["name"], found["action"], found["value"] or ""),
        number=None if number is None else int(number),
        is_onward=found["onward"] is not None,
        share=1.0 if share is None else float(share),
        draw=random.Random(int(found["seed"] or 0)),
    )
    return found["name"], armed


def _action(name: str, action: str, value: str) -> Callable[[], None]:
    match action:
        case "kill":
            return lambda: os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            code = int(value or 1)
            return lambda: os._exit(code)
        case "raise":
            return _raiser(_error(name, value))
        case "errno":
            number = getattr(errno, value)
            return _raiser(lambda: OSError(number, os.strerror(number), f"failpoint {name}"))
        case "delay":
            seconds = float(value)
            return lambda: time.sleep(seconds)
        case "pause":
            return lambda: _wait_on(value)
        case _:
            raise ValueError(f"failpoint {name}={action} is not known; allowed: kill, exit, raise, errno, delay, pause")


def _error(name: str, value: str) -> Callable[[], BaseException]:
    kind = getattr(builtins, value) if value else FailpointReached
    return lambda: kind(f"failpoint {name}")


def _raiser(make: Callable[[], BaseException]) -> Callable[[], None]:
    def act() -> None:
        raise make()

    return act


def _wait_on(fifo: str) -> None:
    # Opening waits for a writer, reading for the moment it closes.
    with open(fifo, "rb") as end:
        end.read()


def _note(path: str, name: str) -> None:
    # One short write in append mode: lines of several processes do not mix.
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        os.write(file, f"{name}\n".encode())
    finally:
        os.close(file)


arm(os.environ.get("ASYNCJOBS_FAILPOINTS", ""), seen=os.environ.get("ASYNCJOBS_FAILPOINTS_SEEN") or None)
