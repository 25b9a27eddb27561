"""Turn calls and results into bytes and back: pickle 5, and cloudpickle where names fail.

C pickle goes first. What lives in ``__main__``, a notebook cell, a lambda or a closure has
no name that a worker could import, so it travels by value. Knows nothing of processes.
"""

from __future__ import annotations

import dataclasses
import pickle
import sys
import types
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import cloudpickle

from asyncjobs.errors import NotSendable
from asyncjobs.token import travelling
from asyncjobs.wire import tensors
from asyncjobs.wire.parcel import LARGE, Parcel

PROTOCOL = 5
_dumps = pickle.dumps
loads: Callable[..., Any] = pickle.loads
_NEEDS_MORE = b"__main__"
_BYTES = (bytes, bytearray)
_PLAIN = frozenset({int, float, complex, bool, str, type(None)})
"""Types with nothing in them to look for, and nothing to leave out."""


class Payload(NamedTuple):
    """Pickled arguments, and what goes along with them."""

    data: bytes
    """Pickled `args`, or pickled ``(args, kwargs)`` if `keywords`."""
    keywords: bool = False
    buffers: tuple[memoryview, ...] = ()
    """Large buffers that are not in `data`. They are read when a worker takes the call."""
    passengers: tuple[Any, ...] = ()
    """Tokens and shared objects among the arguments."""
    function: Parcel | None = None
    """The function itself, pickled, where it travels by value."""

    @property
    def nbytes(self) -> int:
        """Of all of it."""
        function = self.function.nbytes if self.function is not None else 0
        return len(self.data) + sum(buffer.nbytes for buffer in self.buffers) + function


class Reference(NamedTuple):
    """How the far side finds a function."""

    by_name: tuple[str, str] | None
    """Module and qualified name."""
    by_value: bytes | None
    """Pickled. Captured values change between submits, so it is pickled at each of them."""
    is_parcel: bool = False
    """`by_value` is a parcel on the wire, for it is large."""


def encode_arguments(fn: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Payload:
    """Pickle the arguments of one call; large buffers are left out.

    Raises:
        NotSendable: one of them does not pickle; names it.
    """
    if not kwargs and _PLAIN.issuperset(map(type, args)):
        return Payload(_dumps(args, PROTOCOL))
    args = tuple(map(_with_buffer, args))
    value: object = (args, kwargs) if kwargs else args
    data, buffers = _by_name(value)
    if b"__main__" not in data:
        return Payload(data, bool(kwargs), tuple(buffers))
    with travelling() as passengers:
        try:
            data, buffers = _by_value(value)
        except Exception as error:
            raise not_sendable(fn, args, kwargs, error) from error
        return Payload(data, bool(kwargs), tuple(buffers), tuple(dict.fromkeys(passengers)))


class _Bytes:
    """Large bytes that offer their buffer to pickle, which the built-in types do not."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes | bytearray) -> None:
        self._value = value

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self._value), (pickle.PickleBuffer(self._value),)


def _with_buffer(value: Any) -> Any:
    return _Bytes(value) if type(value) in _BYTES and len(value) >= LARGE else value


def _by_name(value: object) -> tuple[bytes, list[memoryview]]:
    """C pickle and what it leaves out, or `_NEEDS_MORE`: passengers, lambdas, or truly not sendable."""
    buffers: list[memoryview] = []
    leave_out = partial(_leave_out, buffers)
    try:
        if tensors.is_needed():
            return tensors.dumps(value, leave_out), buffers
        return _dumps(value, PROTOCOL, buffer_callback=leave_out), buffers
    except Exception:
        return _NEEDS_MORE, []


def _by_value(value: object) -> tuple[bytes, list[memoryview]]:
    """The same for anything that can go by value; within `travelling`, with passengers."""
    data, buffers = _by_name(value)
    if b"__main__" in data:
        buffers = []
        data = cloudpickle.dumps(value, PROTOCOL, buffer_callback=partial(_leave_out, buffers))
    return data, buffers


def _leave_out(buffers: list[memoryview], buffer: pickle.PickleBuffer) -> bool:
    """For pickle: whether `buffer` is to stay inside the pickle."""
    try:
        raw = buffer.raw()
    except BufferError:  # not in one piece
        return True
    if raw.nbytes < LARGE:
        return True
    buffers.append(raw)
    return False


def encode_parcel(value: object) -> Parcel:
    """Pickle anything that has a name or can go by value; large buffers are left out."""
    value = _with_buffer(value)
    data, buffers = _by_name(value)
    if b"__main__" in data:
        with travelling():
            data, buffers = _by_value(value)
    return Parcel(data, tuple(buffers))


def encode_sent(value: object, what: str) -> Parcel:
    """The same; `what` names it in errors.

    Raises:
        NotSendable: it does not pickle; names the place in it.
    """
    try:
        return encode_parcel(value)
    except Exception as error:
        raise _not_sent(what, value, error) from error


def encode_travelling(value: object, what: str) -> tuple[Parcel, tuple[Any, ...]]:
    """The same, with its passengers."""
    data, buffers = _by_name(_with_buffer(value))
    if b"__main__" not in data:
        return Parcel(data, tuple(buffers)), ()
    with travelling() as passengers:
        try:
            data, buffers = _by_value(_with_buffer(value))
        except Exception as error:
            raise _not_sent(what, value, error) from error
        return Parcel(data, tuple(buffers)), tuple(dict.fromkeys(passengers))


def encode(value: object) -> bytes:
    """The same in one piece, whatever its size."""
    try:
        data = _dumps(value, PROTOCOL)
    except Exception:
        data = _NEEDS_MORE
    if b"__main__" not in data:
        return data
    with travelling():
        return cloudpickle.dumps(value, PROTOCOL)  # type: ignore[no-any-return]


def importable(fn: object) -> tuple[str, str] | None:
    """Module and qualified name under which another process finds this very object."""
    module = getattr(fn, "__module__", None)
    qualname = getattr(fn, "__qualname__", None)
    if not module or not qualname or module == "__main__" or "<" in qualname:
        return None
    if isinstance(fn, (types.MethodType, types.BuiltinMethodType)) and not isinstance(
        getattr(fn, "__self__", None), types.ModuleType
    ):
        return None
    found: object = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return (module, qualname) if found is fn else None


def encode_function(fn: object) -> tuple[Parcel, tuple[Any, ...]]:
    """Pickle a function that has no name which a worker could import; with its passengers.

    Raises:
        NotSendable: it does not pickle; what it captured may be to blame.
    """
    try:
        with travelling() as passengers:
            data, buffers = _by_value(fn)
            return Parcel(data, tuple(buffers)), tuple(dict.fromkeys(passengers))
    except Exception as error:
        raise _error(f"the function {_name(fn)}", fn, error) from error


def resolve(reference: Reference) -> Any:
    """The function that `reference` means, in this process."""
    if reference.by_name is None:
        return loads(reference.by_value or b"")
    module, qualname = reference.by_name
    __import__(module)
    found: object = sys.modules[module]
    for part in qualname.split("."):
        found = getattr(found, part)
    return found


# --- finding out which argument is to blame ---------------------------------------------


def not_sendable(fn: object, args: tuple[Any, ...], kwargs: dict[str, Any], error: Exception) -> NotSendable:
    """An error that names the argument, and the place in it, that does not pickle."""
    named = [(f"argument {index}", value) for index, value in enumerate(args, 1)]
    named += [(f"argument {name!r}", value) for name, value in kwargs.items()]
    for path, value in named:
        culprit = _culprit(path, value)
        if culprit is not None:
            return _error(f"{culprit[0]} of {_name(fn)}", culprit[1], error)
    return _error(f"the arguments of {_name(fn)}", (args, kwargs), error)


def item_not_sendable(fn: object, item: object, index: int, error: Exception) -> NotSendable:
    """The same for an item of a map, the first of which is item 0."""
    place, culprit = _culprit(f"item {index}", item) or (f"item {index}", item)
    return _error(f"{place} of the map over {_name(fn)}", culprit, error)


def _not_sent(what: str, value: object, error: Exception) -> NotSendable:
    place, culprit = _culprit(what, value) or (what, value)
    return _error(place, culprit, error)


def _error(what: str, value: object, error: Exception) -> NotSendable:
    problem = NotSendable(
        f"{what} cannot be sent to a process: {type(value).__name__} does not pickle ({_text(error)}). "
        "Make it inside the job, or run the job in lane 'thread'."
    )
    problem.argument = what
    return problem


def _culprit(path: str, value: object, depth: int = 0) -> tuple[str, object] | None:
    if _sendable(value):
        return None
    for place, part in _parts(value) if depth < 6 else ():
        found = _culprit(f"{path}{place}", part, depth + 1)
        if found is not None:
            return found
    return path, value


def _sendable(value: object) -> bool:
    try:
        encode(value)
    except Exception:
        return False
    return True


def _parts(value: object) -> list[tuple[str, object]]:
    if isinstance(value, dict):
        return [(f"[{key!r}]", part) for key, part in value.items()]
    if isinstance(value, (list, tuple)):
        return [(f"[{index}]", part) for index, part in enumerate(value)]
    if dataclasses.is_dataclass(value) or hasattr(value, "__dict__"):
        return [(f".{name}", part) for name, part in getattr(value, "__dict__", {}).items()]
    return []


def _text(error: Exception) -> str:
    try:
        return str(error)
    # The user's __reduce__ may raise what has no text.
    except Exception:
        return f"{type(error).__name__} without a text"


def _name(fn: object) -> str:
    return str(getattr(fn, "__qualname__", None) or repr(fn))
