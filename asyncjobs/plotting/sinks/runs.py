"""How a target names a run of a tracker: ``mlflow:RUN?tracking_uri=…``, what a later process must know in the query."""

from __future__ import annotations

from importlib.util import find_spec
from urllib.parse import parse_qsl, quote, unquote, urlencode


def spelled(scheme: str, *names: str, **where: str) -> str:
    """The target that `parsed` takes apart again."""
    place = "/".join(quote(name, safe="") for name in names)
    return f"{scheme}:{place}?{urlencode(where)}"


def parsed(target: str) -> tuple[list[str], dict[str, str]]:
    """The names and the rest. The rest is empty if a person wrote the target, who need not know it."""
    place, _, query = target.partition(":")[2].partition("?")
    return [unquote(name) for name in place.split("/") if name], dict(parse_qsl(query, keep_blank_values=True))


def require(package: str, target: str) -> None:
    """
    Raises:
        ModuleNotFoundError: the package is not here.
    """
    if find_spec(package) is None:
        raise ModuleNotFoundError(f"{target} needs {package}: pip install 'asyncjobs-runner[{package}]'")
