"""Bring a call that holds devices to a worker that sees just these: `Fitting`.

torch and jax read `CUDA_VISIBLE_DEVICES` once, when they are first imported: a worker keeps its devices
for life. A call goes to an idle worker that has the same; if there is none, it waits for a fresh one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncjobs.lanes.base import Call, Stopped
from asyncjobs.lanes.supply import Devices

if TYPE_CHECKING:
    from asyncjobs.lanes.process import ProcessLane
    from asyncjobs.lanes.slot import Slot


class Fitting:
    """The devices of one slot's workers, and the call that waits for a fresh one."""

    def __init__(self, slot: Slot, lane: ProcessLane) -> None:
        self._slot = slot
        self._lane = lane
        self.devices: Devices = ()
        """What its worker sees, the next one if it is being replaced; () for whatever we see ourselves."""
        self.call: Call | None = None

    def suits(self, call: Call) -> bool:
        """Whether the slot's worker may run `call` as it is; if not, the call is seen to."""
        devices = self._lane.supply.devices_of(call)
        if not devices or devices == self.devices:
            return True
        seat = self._lane.seat_for(devices, self._slot)
        call.place = seat
        if seat.is_idle and seat.fitting.devices == devices:
            seat.start(call)
            seat.flush()
        else:
            seat.fitting.hold(call, devices)
        return False

    def hold(self, call: Call, devices: Devices) -> None:
        """Have a worker made that sees just these, which then runs `call`."""
        is_cold = self._slot.is_cold
        self.call, self.devices = call, devices
        if is_cold:
            self._slot.changed()
        else:
            self._slot.retire()

    def begin(self) -> None:
        """There is a fresh worker: start what has waited for it."""
        call, self.call = self.call, None
        if call is not None:
            self._slot.start(call)
            self._slot.flush()

    def withdraw(self, call: Call) -> bool:
        """End `call` if it waits here."""
        if call is not self.call:
            return False
        self.call = None
        self._lane.host.finished(call, Stopped(0.0, "never started"))
        return True

    def let_go(self) -> None:
        """No fresh worker comes: what has waited for it is for others."""
        call, self.call = self.call, None
        if call is not None:
            self._lane.host.give_back([call])
