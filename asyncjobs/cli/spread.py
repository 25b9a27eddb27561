"""Options that several commands share, as dataclasses: `spread`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, get_type_hints


def spread(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command options for the fields of each parameter that is a dataclass; it gets them as that one.

    Its own arguments come first, then those of the dataclasses in the order of the parameters.
    """
    own = get_type_hints(command, include_extras=True)
    given = inspect.signature(command).parameters
    kinds = {name: own[name] for name in given if is_dataclass(own[name])}

    @functools.wraps(command)
    def spreading(**values: Any) -> None:
        for name, kind in kinds.items():
            values[name] = kind(**{field.name: values.pop(field.name) for field in fields(kind)})
        command(**values)

    keyword = inspect.Parameter.KEYWORD_ONLY
    options = [one.replace(kind=keyword, annotation=own[name]) for name, one in given.items() if name not in kinds]
    options += (one for kind in kinds.values() for one in _options(kind))
    options.sort(key=lambda parameter: parameter.default is not inspect.Parameter.empty)
    spreading.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]  # what inspect looks for
    spreading.__annotations__ = {parameter.name: parameter.annotation for parameter in options}
    return spreading


def _options(kind: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(kind, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            annotation=hints[field.name],
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
        )
        for field in fields(kind)
    ]
