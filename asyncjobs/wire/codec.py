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
from typing import Any, NamedTuple

import cloudpickle

from asyncjobs.errors import NotSendable
from asyncjobs.token import CancelToken, travelling

PROTOCOL = 5
_dumps = pickle.dumps
loads: Callable[..., Any] = pickle.loads
_NEEDS_MORE = b"__main__"


class Payload(NamedTuple):
    """Pickled arguments, and the tokens among them."""

    data: bytes
    """Pickled `args`, or pickled ``(args, kwargs)`` if `keywords`."""
    keywords: bool = False
    tokens: tuple[CancelToken, ...] = ()
    function: bytes | None = None
    """The function itself, pickled, where it travels by value."""


class Reference(NamedTuple):
    """How the far side finds a function."""

    by_name: tuple[str, str] | None
    """Module and qualified name."""
    by_value: bytes | None
    """Pickled. Captured values change between submits, so it is pickled at each of them."""


def encode_arguments(fn: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Payload:
    """Pickle the arguments of one call.

    Raises:
        NotSendable: one of them does not pickle; names it.
    """
    value: object = (args, kwargs) if kwargs else args
    try:
        data = _dumps(value, PROTOCOL)
    except Exception:
        data = _NEEDS_MORE  # tokens, lambdas, or truly not sendable: found out below
    if b"__main__" not in data:
        return Payload(data, bool(kwargs))
    with travelling() as tokens:
        try:
            return Payload(cloudpickle.dumps(value, PROTOCOL), bool(kwargs), tuple(tokens))
        except Exception as error:
            raise not_sendable(fn, args, kwargs, error) from error


def encode(value: object) -> bytes:
    """Pickle anything that has a name or can go by value."""
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


def encode_function(fn: object) -> tuple[bytes, tuple[CancelToken, ...]]:
    """Pickle a function that has no name which a worker could import; with the tokens in it.

    Raises:
        NotSendable: it does not pickle; what it captured may be to blame.
    """
    try:
        with travelling() as tokens:
            try:
                data = _dumps(fn, PROTOCOL)
            except Exception:
                data = _NEEDS_MORE
            if b"__main__" in data:
                tokens.clear()
                data = cloudpickle.dumps(fn, PROTOCOL)
            return data, tuple(tokens)
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
