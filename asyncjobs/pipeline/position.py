"""Where the consumer of a pipeline stands, as a dict that survives JSON: `Position`.

Counts items that were delivered, never those that were fetched. To resume is to begin the epoch anew and leave out as
many: with the same seed the same items come, for nothing depends on time or the number of workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from asyncjobs.flow.elements import whole_number
from asyncjobs.pipeline.stages import Stage, check_order, names_of


class Position:
    """Of one open pipeline."""

    def __init__(self, stages: Sequence[Stage], seed: int) -> None:
        self._stages = stages
        self._seed = seed
        self.next_epoch: int = 0
        """The one that the next loop begins."""
        self.skip: int = 0
        """So many of its items have been delivered before."""
        self.delivered: int = 0
        """Items of the latest epoch, those of an earlier life included."""
        self._is_ended = True

    def begin(self) -> tuple[int, int]:
        """The next epoch begins; its number, and how many items to leave out."""
        epoch, self.delivered = self.next_epoch, self.skip
        self.next_epoch += 1
        self.skip = 0
        self._is_ended = False
        return epoch, self.delivered

    def end(self) -> None:
        """The consumer has heard that the epoch has no more items."""
        self._is_ended = True

    def state_dict(self) -> dict[str, Any]:
        """See `Stream.state_dict`."""
        check_order(self._stages)
        ended = (self.next_epoch, self.skip)
        epoch, delivered = ended if self._is_ended else (self.next_epoch - 1, self.delivered)
        return {"epoch": epoch, "delivered": delivered, "seed": self._seed, "stages": names_of(self._stages)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Stream.load_state_dict`."""
        check_order(self._stages)
        ours = {"seed": self._seed, "stages": names_of(self._stages)}
        for name, value in ours.items():
            if state.get(name) != value:
                raise ValueError(f"the state is of a pipeline with {name}={state.get(name)!r}; this one has {value!r}")
        self.next_epoch = whole_number("epoch", state.get("epoch"), 0)
        self.skip = whole_number("delivered", state.get("delivered"), 0)
        self._is_ended = True
