"""Decide which functions may be run by name, and find them.

`check` is pure text: the service calls it, and imports nothing. `resolve` imports, and so runs only in a
worker.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any

from asyncjobs.service.errors import BadRequest, NotAllowed, UnknownFunction

LONGEST: int = 500
"""Characters that a function's name may have."""

_WORD = r"[^\W\d]\w*"
_MODULE = rf"{_WORD}(?:\.{_WORD})*"
# A function, or a static or class method: one level of class at most.
_FUNCTION = re.compile(rf"({_MODULE}):({_WORD}(?:\.{_WORD})?)")
_PACKAGE = re.compile(rf"({_MODULE})\.\*")


@dataclass(frozen=True, slots=True)
class Allow:
    """The functions that may be run by name: ``package.*`` or ``module:function``.

    ``pkg.*`` holds for every function that is defined in `pkg` and what lies below it, not for one that a
    module there has imported from elsewhere; ``pkg.mod:name`` and ``pkg.mod:Class.name`` mean exactly that one.
    With no pattern nothing is allowed.

    Raises:
        BadRequest: a pattern is neither.
    """

    patterns: tuple[str, ...]

    def __init__(self, patterns: tuple[str, ...] | list[str] = ()) -> None:
        for pattern in patterns:
            if "__" in pattern or not (_PACKAGE.fullmatch(pattern) or _FUNCTION.fullmatch(pattern)):
                raise BadRequest(f"--allow takes 'package.*' or 'module:function', not {pattern[:LONGEST]!r}")
        object.__setattr__(self, "patterns", tuple(patterns))

    def check(self, function: str) -> tuple[str, str]:
        """The (module, qualname) of an allowed name. Imports nothing.

        Raises:
            NotAllowed: no pattern allows it, or it is no name of a function.
        """
        found = _FUNCTION.fullmatch(function) if len(function) <= LONGEST else None
        if found is None or "__" in function:
            raise NotAllowed(f"{function[:LONGEST]!r} is no 'module:function' that can be run by name")
        module, qualname = found.groups()
        if function not in self.patterns and not self._has_package_of(module):
            raise NotAllowed(f"{function} is not allowed here: {self._allowed()}")
        return module, qualname

    def resolve(self, function: str) -> Callable[..., Any]:
        """The function of that name: plain, or a coroutine function. Imports its module: for workers.

        Raises:
            NotAllowed: as `check`, or the name stands for something else than a function of an allowed package.
            UnknownFunction: there is no such module, or nothing of that name in it.
            Exception: whatever its module raises when it is imported.
        """
        module, qualname = self.check(function)
        found = _find(function, _import(function, module), qualname)
        if not isinstance(found, FunctionType) or _is_generator(found):
            kind = "generator function" if _is_generator(found) else type(found).__name__
            raise NotAllowed(f"{function} is a {kind}, not a plain function or a coroutine function")
        if function not in self.patterns and not self._has_package_of(found.__module__):
            raise NotAllowed(f"{function} is defined in {found.__module__}, which is not allowed here")
        return found

    def _has_package_of(self, module: str) -> bool:
        return any(pattern[-2:] == ".*" and f"{module}.".startswith(pattern[:-1]) for pattern in self.patterns)

    def _allowed(self) -> str:
        return "allowed are " + ", ".join(self.patterns) if self.patterns else "nothing is (--allow 'package.*')"


def _is_generator(function: object) -> bool:
    return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)


def _import(function: str, module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # one that the module itself wants
        raise UnknownFunction(f"{function}: there is no module {error.name}") from None


def _find(function: str, module: ModuleType, qualname: str) -> object:
    """What `qualname` stands for; no descriptor, no `__getattr__` and no property of the user's runs for it."""
    outer, _, inner = qualname.partition(".")
    found: object = vars(module).get(outer, _MISSING)
    if inner and found is not _MISSING:
        if not isinstance(found, type):
            raise NotAllowed(f"{function}: {outer} is a {type(found).__name__}, not a class")
        if found.__module__ != module.__name__:
            raise NotAllowed(f"{function}: the class {outer} is defined in {found.__module__}")
        found = _method(function, found, inner)
    if found is _MISSING:
        raise UnknownFunction(
            f"{function}: {module.__name__} has no {qualname}; if it has one by now, start the service again: its "
            "workers keep the modules that they have imported"
        )
    return found


def _method(function: str, owner: type, name: str) -> object:
    found = inspect.getattr_static(owner, name, _MISSING)
    if isinstance(found, staticmethod):
        return found.__func__
    if isinstance(found, classmethod):
        return _bound(found.__func__, owner)
    if found is _MISSING:
        return found
    raise NotAllowed(f"{function} is neither a static nor a class method")


def _bound(method: Callable[..., Any], owner: type) -> object:
    """A plain function that calls a class method."""
    if not isinstance(method, FunctionType):
        return method
    if inspect.iscoroutinefunction(method):

        @functools.wraps(method)
        async def call(*args: object, **kwargs: object) -> object:
            return await method(owner, *args, **kwargs)

        return call

    @functools.wraps(method)
    def call_plainly(*args: object, **kwargs: object) -> object:
        return method(owner, *args, **kwargs)

    # What `wraps` copies of a generator function would not show: the caller looks at the function itself.
    return method if _is_generator(method) else call_plainly


_MISSING = object()
