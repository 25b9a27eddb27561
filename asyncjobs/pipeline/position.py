"""Where the consumer of a pipeline stands, as a dict that survives JSON: `Position`.

Counts items that were delivered, never those that were fetched. To resume is to begin the epoch anew and leave out as
many: with the same seed the same items come, for nothing depends on time or the number of workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from asyncjobs.flow.elements import whole_number
from asyncjobs.pipeline.stages import Stage, check_order, names_of


class Place:
    """How far one loop has come in its epoch. Each loop has its own, so that one that is over changes nothing."""

    __slots__ = ("delivered", "epoch", "is_ended")

    def __init__(self, epoch: int, delivered: int) -> None:
        self.epoch: int = epoch
        self.delivered: int = delivered
        """Items of the epoch, those of an earlier life included."""
        self.is_ended: bool = False
        """The consumer has heard that there are no more items."""


class Position:
    """Of one open pipeline."""

    def __init__(self, stages: Sequence[Stage], seed: int) -> None:
        self._stages = stages
        self._seed = seed
        self.next_epoch: int = 0
        """The one that the next loop begins."""
        self.skip: int = 0
        """So many of its items have been delivered before."""
        self._latest: Place | None = None

    def begin(self) -> Place:
        """The next epoch begins; what was delivered of it before is to be left out."""
        self._latest = Place(self.next_epoch, self.skip)
        self.next_epoch += 1
        self.skip = 0
        return self._latest

    def state_dict(self) -> dict[str, Any]:
        """See `Stream.state_dict`."""
        check_order(self._stages)
        latest = self._latest
        if latest is None or latest.is_ended:
            latest = Place(self.next_epoch, self.skip)
        names = names_of(self._stages)
        return {"epoch": latest.epoch, "delivered": latest.delivered, "seed": self._seed, "stages": names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Stream.load_state_dict`."""
        check_order(self._stages)
        if not isinstance(state, dict):
            raise TypeError(f"state={state!r} is not allowed; allowed: a dict from state_dict()")
        if missing := {"epoch", "delivered", "seed", "stages"} - state.keys():
            raise ValueError(f"state={state!r} is not from state_dict(): it lacks {', '.join(sorted(missing))}")
        ours = {"seed": self._seed, "stages": names_of(self._stages)}
        for name, value in ours.items():
            if state.get(name) != value:
                raise ValueError(f"the state is of a pipeline with {name}={state.get(name)!r}; this one has {value!r}")
        self.next_epoch = whole_number("epoch", state.get("epoch"), 0)
        self.skip = whole_number("delivered", state.get("delivered"), 0)
        self._latest = None
