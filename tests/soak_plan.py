"""What the soak does, drawn from its seed: `orders` of each client, `blows` to the service, `errands` beside them.

Pure. What is drawn does not depend on how fast anything is: the same seed means the same decisions.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from random import Random
from types import MappingProxyType
from typing import Any, NamedTuple

import soak_jobs
from soak_jobs import filling, sha

from asyncjobs import Retry
from asyncjobs.service.records import Limit
from asyncjobs.state import JobState

S = JobState
PARENT = object()
"""Among an order's arguments: the list of its parents' results."""
PATIENT = 1000
"""A bound of crashes that is not reached."""


class Order(NamedTuple):
    """One job that a client submits, and what may become of it."""

    number: int
    fn: Callable[..., Any]
    args: tuple[Any, ...]
    """Behind the folder."""
    value: Any
    """What it gives, if it gives something."""
    end: JobState
    """Unless it is lost or cancelled, or was not started as others failed."""
    options: Mapping[str, Any] = MappingProxyType({})
    parents: tuple[int, ...] = ()
    """The orders of the same client that it comes after."""
    cancel: float | None = None
    """Seconds after which it is cancelled."""
    is_repeated: bool = False
    """It is submitted twice, under one key."""
    is_left: bool = False
    """Another client attaches to it, by its id."""
    pause: float = 0.0
    """Seconds until the client's next one."""


def orders(seed: int, client: int) -> Iterator[Order]:
    """Without an end."""
    values: dict[int, Any] = {}
    for number in itertools.count():
        random = Random(f"order {seed} {client} {number}")
        order = _around(random, _kind(random, f"{seed}/{client}/{number}", number, values), f"{seed}/{client}/{number}")
        values[number] = order.value if order.end is S.SUCCEEDED else None
        values.pop(number - 20, None)
        yield order


def _kind(random: Random, text: str, number: int, values: dict[int, Any]) -> Order:
    """Which function, and what comes of it."""
    hold = random.choice([0.0, 0.0, 0.002, 0.02, 0.1])
    done = S.SUCCEEDED
    match random.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]:
        case "plain":
            return Order(number, soak_jobs.plain, (text, hold, []), sha(text), done)
        case "child":
            known = [n for n, value in values.items() if isinstance(value, str)]
            parents = tuple(sorted(random.sample(known, min(len(known), random.randint(1, 3)))))
            value = sha(text, *(values[parent] for parent in parents))
            return Order(number, soak_jobs.plain, (text, hold, PARENT), value, done, parents=parents)
        case "dozing":
            return Order(number, soak_jobs.dozing, (text, hold), sha(text), done)
        case "flaky":
            failures = random.randint(1, 3)
            retry = Retry(failures, backoff=random.choice([0.0, 0.1, 0.5]))
            return Order(number, soak_jobs.flaky, (text, failures), sha(text), done, {"retries": retry})
        case "failing":
            retry = Retry(random.randint(0, 2), backoff=0.05)
            return Order(number, soak_jobs.failing, (text,), None, S.FAILED, {"retries": retry})
        case "dying":
            return Order(number, soak_jobs.dying, (text, random.randint(1, 3)), sha(text), done)
        case "counting":
            steps = random.randint(3, 30)
            return Order(number, soak_jobs.counting, (steps, 0.02), steps, done)
        case "large":
            nbytes = random.choice([1_000, 70_000, 300_000, 3_000_000])
            return Order(number, soak_jobs.large, (text, nbytes), filling(text, nbytes), done)
        case "saying":
            return Order(number, soak_jobs.saying, (text, random.choice([1, 10, 2000])), sha(text), done)
        case "late":
            fn = random.choice([soak_jobs.waiting, soak_jobs.deaf])
            return Order(number, fn, (text, 60.0), None, S.TIMED_OUT, {"timeout": 0.2, "grace": 0.2})
        case _:
            fn = random.choice([soak_jobs.waiting, soak_jobs.deaf])
            cancel = random.choice([0.0, 0.01, 0.2, 1.0])
            return Order(number, fn, (text, 3.0), sha(text), done, {"grace": 0.3}, cancel=cancel)


_WEIGHTS = {
    "plain": 30, "child": 14, "dozing": 4, "flaky": 8, "failing": 4, "dying": 4, "counting": 5, "large": 5, "saying": 5,
    "late": 2, "cancelled": 6,
}  # fmt: skip


def _around(random: Random, order: Order, text: str) -> Order:
    """The options that any job may have."""
    options: dict[str, Any] = {"name": text, "max_crashes": random.choice([PATIENT] * 8 + [0, 1]), **order.options}
    if random.random() < 0.1:
        options["priority"] = random.randint(-5, 5)
    if random.random() < 0.1:
        options["delay"] = random.choice([0.05, 0.5, 2.0])
    if random.random() < 0.05:
        options["at_most_once"] = True
    if random.random() < 0.1:
        options["limit"] = random.choice([Limit("one", running=1), Limit("rate", starts=5, seconds=1.0)])
    is_repeated = random.random() < 0.1
    if is_repeated or random.random() < 0.2:
        options["key"] = text
    return order._replace(
        options=options,
        cancel=random.choice([0.0, 0.05, 0.5]) if order.cancel is None and random.random() < 0.03 else order.cancel,
        is_repeated=is_repeated,
        is_left=random.random() < 0.2,
        pause=random.choice([0.0, 0.0, 0.0, 0.01, 0.05]),
    )


# --- what is done to the service --------------------------------------------------------


class Blow(NamedTuple):
    """One thing that is done to the service, so many seconds after the last."""

    after: float
    kind: str
    """A method of `soak_service.Battered`."""
    draw: float
    """From [0, 1): which one, or how long."""
    point: str = ""
    passes: int = 1
    """How often it comes past the failpoint before it dies there."""


POINTS = (
    "submit.before_commit", "submit.after_commit", "claim.before_commit", "claim.after_commit", "cancel.before_commit",
    "cancel.after_commit", "result.before_commit", "result.after_commit", "result.received", "result.file",
    "reply.before", "notify.before", "task.sent", "checkpoint", "recover.row", "spawn.before", "spawn.after",
    "run.started", "shutdown.start", "shutdown.drained", "shutdown.closed",
)  # fmt: skip

_BLOWS = {
    "kill": 5, "kill_worker": 6, "kill_a_helper": 1, "stop": 2, "kill_twice": 2, "fail_at_a_point": 5,
    "freeze_a_worker": 2, "freeze": 1,
}  # fmt: skip


def blows(seed: int, shortest: float = 1.0, longest: float = 10.0) -> Iterator[Blow]:
    """Without an end."""
    random = Random(f"blows {seed}")
    while True:
        [kind] = random.choices(list(_BLOWS), list(_BLOWS.values()))
        after, draw, point = random.uniform(shortest, longest), random.random(), random.choice(POINTS)
        yield Blow(after, kind, draw, point, random.choice([1, 1, 2, 3, 10, 50]))


# --- what is asked besides --------------------------------------------------------------


class Errand(NamedTuple):
    """One thing that is asked of the service besides jobs."""

    after: float
    kind: str
    """A method of `soak_clients.Visitor`."""
    draw: float


_ERRANDS = ("hold", "hold_a_function", "list_jobs", "look", "back_up", "schedule", "follow", "replay")


def errands(seed: int) -> Iterator[Errand]:
    """Without an end."""
    random = Random(f"errands {seed}")
    while True:
        yield Errand(random.uniform(0.2, 3.0), random.choice(_ERRANDS), random.random())
