"""Say what a pickled value is, without loading it: `names_in` reads the names that stand in it. Pure.

To load a pickle is to run what whoever wrote it wants; to read its instructions runs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from itertools import islice
from typing import Any

MOST_STEPS = 2_000
"""So many instructions are read: what a value is stands at its beginning."""
MOST_BYTES = 65_536
MOST_NAMES = 4

_PLAIN = {
    "EMPTY_LIST": "list",
    "EMPTY_DICT": "dict",
    "EMPTY_SET": "set",
}
_ARRAYS = {"_frombuffer": "numpy.ndarray", "_reconstruct": "numpy.ndarray", "scalar": "numpy.generic"}
"""Functions of numpy that make what they are no names of."""


def names_in(content: bytes) -> list[str]:
    """What the value is, and what is in it: ``list``, ``study.Fit``, ``numpy.ndarray``; the first few."""
    return list(islice(dict.fromkeys(_names(content[:MOST_BYTES])), MOST_NAMES))


def _names(content: bytes) -> Iterator[str]:
    # A class stands in a pickle as two texts, each new or one that was remembered before.
    texts: list[str | None] = [None, None]
    remembered: list[str | None] = []
    is_first = True
    for name, argument in _steps(content):
        if is_first and name in _PLAIN:
            yield _PLAIN[name]
        is_first = is_first and name in ("PROTO", "FRAME")
        if name == "MEMOIZE":
            remembered.append(texts[-1])
        elif name in ("BINGET", "LONG_BINGET"):
            texts.append(remembered[argument] if argument < len(remembered) else None)
        elif name == "STACK_GLOBAL":
            module, qualname = texts[-2:]
            if module and qualname:
                yield from _name(module, qualname)
            texts.append(None)
        else:
            texts.append(argument if isinstance(argument, str) else None)


def _steps(content: bytes) -> Iterator[tuple[str, Any]]:
    pickletools = import_module("pickletools")  # few services ever need it
    try:
        for code, argument, _ in islice(pickletools.genops(content), MOST_STEPS):
            yield code.name, argument
    except ValueError:  # it is longer than what we read, or no pickle
        return


def _name(module: str, qualname: str) -> Iterator[str]:
    if module.partition(".")[0] == "numpy" and qualname in _ARRAYS:
        yield _ARRAYS[qualname]
    elif module not in ("copyreg", "_codecs") and not qualname.startswith("_"):  # those only put something together
        yield qualname if module == "builtins" else f"{module}.{qualname}"
