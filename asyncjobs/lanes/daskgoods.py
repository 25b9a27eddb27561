"""What Dask carries for us: orders and answers as bytes, and large data as views of memory, which it does not copy.

Dask looks for keys and futures in arguments: in bytes there is nothing to find. And its scheduler speaks no newer
pickle protocol than 4, in which buffers are copied into the pickle and out of it: so what is large is never in one.
"""

from __future__ import annotations

import pickle
from typing import Any

from asyncjobs import station
from asyncjobs.station import SMALL, Answer, Cargo, Order

Parts = tuple[memoryview, ...]
"""A cargo: its pickle, then its buffers."""


def pickled(order: Order) -> bytes:
    """An order, whose cargo is small."""
    return pickle.dumps(tuple(order), 5)


def parts(cargo: Cargo) -> Parts:
    """A large one."""
    return tuple(memoryview(part) for part in (cargo.stream, *cargo.buffers))


def opened(answer: bytes | tuple[Any, ...]) -> Answer:
    """What `perform` has returned."""
    if isinstance(answer, bytes):
        return Answer(*pickle.loads(answer))
    (kind, seconds), stream, *buffers = answer
    return Answer(kind, seconds, Cargo(stream, buffers))


def perform(order: bytes, *goods: Parts) -> bytes | tuple[Any, ...]:
    """The task on the worker."""
    cargos = [Cargo(stream, buffers) for stream, *buffers in goods]
    kind, seconds, cargo = answer = station.perform(Order(*pickle.loads(order)), cargos)
    if cargo.nbytes < SMALL:
        return pickle.dumps(tuple(answer), 5)
    return (kind, seconds), *parts(cargo)
