"""Tokens that are arguments of cluster jobs: raised on both sides, whichever is first."""

from __future__ import annotations

import pickle

from asyncjobs.lanes.base import Host
from asyncjobs.lanes.clusterengine import Engine
from asyncjobs.lanes.members import Member
from asyncjobs.station import TOKEN
from asyncjobs.token import CancelToken, StopReason, by_number


class Tokens:
    """Which stations have a twin of which token."""

    def __init__(self, engine: Engine, host: Host) -> None:
        self._engine = engine
        self._host = host
        self._watched: set[tuple[str, int]] = set()

    def watch(self, member: Member, passengers: tuple[object, ...]) -> None:
        """Raise the twins at that worker when the tokens are raised here."""
        for token in passengers:
            if isinstance(token, CancelToken) and (member.facts.station, token.number) not in self._watched:
                self._watched.add((member.facts.station, token.number))
                self._pass_on(member, token, token.number)

    def _pass_on(self, member: Member, token: CancelToken, number: int) -> None:
        def tell(reason: StopReason) -> None:
            told = [(TOKEN, number, *reason)]
            self._host.loop.call_soon_threadsafe(self._engine.tell, member.address, member.facts.station, told)

        token.add_callback(tell)


def raised(number: int, reason: bytes) -> None:
    """A job has raised the twin of the token with that number."""
    token = by_number(number)
    if token is not None:
        token.raise_for(StopReason(*pickle.loads(reason)))
