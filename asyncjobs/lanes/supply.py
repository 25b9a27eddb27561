"""What one lane has for its jobs to hold while they run, and who holds how much: `Supply`.

Names and numbers, and which devices. Who waits for what, and in which order, the engine knows.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping

from asyncjobs.lanes.base import Call
from asyncjobs.processors import ControlGroups, usable_processors
from asyncjobs.resources import Amounts, amounts, text

VISIBLE = "CUDA_VISIBLE_DEVICES"
"""What torch, jax and their kin read at their first import to choose their devices."""

Devices = tuple[str, ...]
"""As `VISIBLE` names them: ``("0", "2")``."""


class Supply:
    """Amounts by name, some of them held by calls.

    Args:
        given: the amounts of the lane's settings; for what they leave out, what the machine has.
        visible: the value of `VISIBLE` that the lane's workers would see; None where it is not set.

    Invariants:
        For each name, `free` and what the holders need make up `total`; a device is free or has one holder.
    """

    def __init__(self, given: Amounts, visible: str | None) -> None:
        listed = _listed(visible)
        self.total: dict[str, float] = {**_of_the_machine(), "gpu": len(listed or ()), **given}
        count = self.total["gpu"]
        if count != int(count) or (listed is not None and count > len(listed)):
            there = "whole ones" if listed is None else f"at most the {len(listed)} of {VISIBLE}={visible!r}"
            raise ValueError(f"resources={{'gpu': {count:g}}} is not allowed; allowed: {there}")
        self.free: dict[str, float] = dict(self.total)
        self._devices: list[str] = (listed or [str(number) for number in range(int(count))])[: int(count)]
        self._held: dict[Call, Devices] = {}
        self.seats: Callable[[], Iterable[Devices]] = tuple
        """The devices of workers that wait for a call: of those that are free, these are given first."""

    def __repr__(self) -> str:
        return f"<Supply of {text(self.total)}, held by {len(self._held)} calls>"

    def require(self, name: str, lane: str, needs: Amounts) -> None:
        """Raise if job `name` needs more than there is at all."""
        short = [want for want, count in needs.items() if count > self.total.get(want, 0)]
        if short:
            there = text({want: self.total.get(want, 0) for want in short})
            more = "', '".join(short)
            raise ValueError(
                f"{name} needs {text({want: needs[want] for want in short})}, and lane {lane!r} has {there} in all; "
                f"ask for less, or say that there is more: ProcessLane(resources={{'{more}': ...}})"
            )
        if needs.get("gpu", 0) % 1:
            raise ValueError(
                f"{name} needs gpu={needs['gpu']:g}, and a device goes to one job at a time; for several jobs beside "
                "each other on one, give the lane a resource of your own: ProcessLane(resources={'share': 4})"
            )

    def fits(self, needs: Amounts) -> bool:
        """Whether so much is free."""
        return all(self.free[name] >= count for name, count in needs.items())

    def take(self, call: Call) -> None:
        """`call` holds what it needs from now on; that must be free."""
        needs = call.plan.needs or {}
        self._move(needs, -1)
        self._held[call] = self._chosen(int(needs.get("gpu", 0)))

    def holds(self, call: Call) -> bool:
        """Whether `call` holds what it needs."""
        return call in self._held

    def put_back(self, call: Call) -> None:
        """What `call` held is free."""
        self._move(call.plan.needs or {}, 1)
        del self._held[call]

    def devices_of(self, call: Call) -> Devices:
        """The devices that `call` holds."""
        return self._held.get(call, ())

    def _move(self, needs: Amounts, sign: int) -> None:
        for name, count in needs.items():
            # Rounded: ten times 0.1 off and on again is what it was.
            self.free[name] = round(self.free[name] + sign * count, 6)

    def _chosen(self, count: int) -> Devices:
        if not count:
            return ()
        taken = {device for devices in self._held.values() for device in devices}
        free = tuple(device for device in self._devices if device not in taken)
        fitting = (seat for seat in self.seats() if len(seat) == count and set(seat) <= set(free))
        return next(fitting, free[:count])


def declared(given: Mapping[str, object] | None) -> Amounts:
    """The amounts of a lane's settings, zeros included: they say that there is nothing of it.

    Raises:
        ValueError: not a mapping of names to amounts.
    """
    if given is None:
        return {}
    found = amounts(given)
    return {name: found.get(name, 0) for name in given}


def _of_the_machine() -> dict[str, float]:
    """The processors and the memory that this process may use."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    return {"cpu": usable_processors(), "memory": min(memory, ControlGroups().memory_limit() or memory)}


def _listed(visible: str | None) -> list[str] | None:
    """The devices that `VISIBLE` names, up to the first that is none: CUDA reads it in this way."""
    if visible is None:
        return None
    listed: list[str] = []
    for device in (part.strip() for part in visible.split(",")):
        if not device or device.startswith("-"):
            break
        listed.append(device)
    return listed
