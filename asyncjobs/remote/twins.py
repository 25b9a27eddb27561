"""Tokens of the runner's in a worker process."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from weakref import WeakValueDictionary

from asyncjobs.token import CancelToken, StopReason
from asyncjobs.wire import frames


class Twins:
    """The local twin of each token that came along with a job: both are raised together, whoever raises one.

    `send` writes a frame to the runner.
    """

    def __init__(self, send: Callable[[int, int, bytes], None]) -> None:
        self._send = send
        self._twins: WeakValueDictionary[int, CancelToken] = WeakValueDictionary()
        self._raised: dict[int, StopReason] = {}

    def twin(self, number: int) -> CancelToken:
        """Of the token with that number."""
        twin = self._twins.get(number)
        if twin is None:
            twin = self._twins[number] = CancelToken()
            twin.add_callback(lambda reason: self._tell(number, reason))
            if number in self._raised:
                twin.raise_for(self._raised[number])
        return twin

    def raise_for(self, number: int, reason: StopReason) -> None:
        """The runner says that the token is raised; in the control thread."""
        self._raised[number] = reason
        twin = self._twins.get(number)
        if twin is not None:
            twin.raise_for(reason)

    def _tell(self, number: int, reason: StopReason) -> None:
        if number not in self._raised:
            self._raised[number] = reason
            self._send(frames.TOKEN_RAISED, number, pickle.dumps(tuple(reason), 5))
