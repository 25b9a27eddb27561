"""How much, how long and how many: the bounds that every caller meets, strangers before others."""

from __future__ import annotations

from dataclasses import dataclass

from asyncjobs.service.protocol import LARGEST_BODY

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True)
class Limits:
    """Durations are seconds, sizes bytes."""

    receive: float = 10.0
    """A whole request has to arrive within this, from its first byte (or from the connection's begin)."""
    write: float = 10.0
    """How long a caller may take nothing of what waits to be sent."""
    answer: float = 10.0
    """How long a handler may take; routes that wait on purpose add what the caller asked for."""
    idle: float = 75.0
    """How long a connection is kept between two requests."""
    linger: float = 1.0
    """How long the rest of a refused request is read and dropped, so that the refusal arrives."""
    wait: float = 60.0
    """The longest wait that a caller may ask for."""
    heartbeat: float = 15.0
    """A stream without news says this often that it lives."""

    line: int = 8 * KIB
    head: int = 32 * KIB
    headers: int = 100
    body: int = LARGEST_BODY
    held: int = 256 * MIB
    """What all bodies together may take, for they are in memory."""
    behind: int = 16 * MIB
    """How far a stream's reader may fall behind before it is sent away."""

    connections: int = 512
    """Per door: strangers at the TCP port cannot use up those of the socket."""
    per_peer: int = 256
    """Per address, or per process at the unix socket."""

    guesses: int = 10
    """Wrong tokens from one address that are answered at once."""
    guess_delay: float = 1.0
    guess_memory: float = 60.0
    """After so long without a wrong token an address is trusted again."""
