"""What one element of a queue looks like, and whether it does: components, names, shapes, dtypes.

An element is one value, or a tuple of several components, or with `names` a dict of them. Checked at the call that
brings it, so that nothing is refused later, in somebody else's hands.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from typing import Any, NamedTuple

Shape = tuple[int | None, ...]


class Layout(NamedTuple):
    """The components of every element; None where nothing was said of them."""

    components: int | None = None
    names: tuple[str, ...] | None = None
    shapes: tuple[Shape, ...] | None = None
    """None in a shape: of any length."""
    dtypes: tuple[Any, ...] | None = None
    has_priority: bool = False
    """The first component is a priority, a whole number of 64 bits."""

    @property
    def is_free(self) -> bool:
        """Whether any element will do that is no dict."""
        return self.components is None and not self.has_priority

    def checked(self, element: Any) -> Any:
        """The element as it is stored; where shapes or dtypes were given, with numbers and arrays of that kind.

        Raises:
            ValueError: it does not fit; names the component, what was expected and what came.
        """
        parts = self.parts(element)
        if self.has_priority:
            _check_priority(parts[0])
        if self.shapes is None and self.dtypes is None:
            return element
        return self.formed(tuple(self._fitted(position, part) for position, part in enumerate(parts)))

    def parts(self, element: Any) -> tuple[Any, ...]:
        """The components of an element, or the columns of a batch."""
        if self.names is not None:
            return _by_names(element, self.names)
        if isinstance(element, dict):
            raise ValueError(f"a dict must have names: make the queue with names={tuple(element)!r}")
        if self.components == 1:
            return (element,)
        if self.has_priority and not (isinstance(element, tuple) and element):
            raise ValueError(f"{_short(element)} is not allowed; allowed: a tuple (priority, value, ...)")
        parts = element if isinstance(element, tuple) else (element,)
        if self.components is not None and len(parts) != self.components:
            raise ValueError(f"expected a tuple of {self.components} components, got {_short(element)}")
        return parts

    def formed(self, parts: tuple[Any, ...]) -> Any:
        """The element, or the batch, that has these components."""
        if self.names is not None:
            return dict(zip(self.names, parts, strict=True))
        return parts[0] if self.components == 1 else parts

    def _fitted(self, position: int, value: Any) -> Any:
        shape = self.shapes[position] if self.shapes is not None else None
        dtype = self.dtypes[position] if self.dtypes is not None else None
        if not is_tensor(value):
            value = _as_array(value, dtype, position)
        found = tuple(value.shape)
        if shape is not None and not _fits(found, shape):
            raise ValueError(
                f"Shape mismatch in tuple component {position}. Expected {shown(shape)}, got {shown(found)}"
            )
        return value

    def split(self, batch: Any) -> list[Any]:
        """The elements of any iterable of them, or of a batch in the form in which `dequeue_many` returns it.

        Raises:
            TypeError: it is neither.
            ValueError: the components are not of one length; an element, named by its position, does not fit.
        """
        if isinstance(batch, dict):
            elements = [self.formed(row) for row in _rows(self.parts(batch))]
        elif isinstance(batch, tuple):
            elements = [row[0] if self.components == 1 else row for row in _rows(batch)]
        else:
            elements = _listed(batch, "elements")
        if self.is_free and not any(isinstance(element, dict) for element in elements):
            return elements
        return [self._checked_at(position, element) for position, element in enumerate(elements)]

    def _checked_at(self, position: int, element: Any) -> Any:
        try:
            return self.checked(element)
        except ValueError as error:
            raise ValueError(f"element {position}: {error}") from None


def layout(
    *,
    names: Sequence[str] | None,
    shapes: Sequence[Any] | None,
    dtypes: Sequence[Any] | None,
    has_priority: bool = False,
) -> Layout:
    """What the arguments of a queue say together.

    Raises:
        ValueError: one of them is nothing of the kind, or they speak of different numbers of components.
    """
    made = Layout(
        None,
        None if names is None else _names(names),
        None if shapes is None else tuple(_shape(shapes, shape) for shape in _several(shapes, "shapes")),
        None if dtypes is None else tuple(_dtype(dtypes, dtype) for dtype in _several(dtypes, "dtypes")),
        has_priority,
    )
    said = {"names": made.names, "shapes": made.shapes, "dtypes": made.dtypes}
    lengths = {what: len(values) for what, values in said.items() if values is not None}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{what} of {count}" for what, count in lengths.items())
        raise ValueError(f"{told} components: they have to describe the same ones")
    return made._replace(components=next(iter(lengths.values()), None))


def whole_number(name: str, value: Any, least: int) -> int:
    """`value` as an int.

    Raises:
        ValueError: it is no whole number from `least`.
    """
    try:
        number = index(value)
    except TypeError:
        number = least - 1
    if isinstance(value, bool) or number < least:
        raise ValueError(f"{name}={value!r} is not allowed; allowed: a whole number from {least}")
    return number


def shown(shape: Shape) -> str:
    """``[?,3]``."""
    return "[" + ",".join("?" if length is None else str(length) for length in shape) + "]"


def is_tensor(value: Any) -> bool:
    """Whether it is one of PyTorch's, which need not be there."""
    return hasattr(value, "detach") and hasattr(value, "new_full")


# --- elements ---------------------------------------------------------------------------


def _by_names(element: Any, names: tuple[str, ...]) -> tuple[Any, ...]:
    if not isinstance(element, dict):
        raise ValueError(f"expected a dict with the names {', '.join(names)}; got {_short(element)}")
    if element.keys() != set(names):
        raise ValueError(f"expected a dict with the names {', '.join(names)}; got {', '.join(map(str, element))}")
    return tuple(element[name] for name in names)


def _check_priority(value: Any) -> None:
    try:
        priority = index(value)
    except TypeError:
        priority = 1 << 63
    if isinstance(value, bool) or not -(1 << 63) <= priority < 1 << 63:
        raise ValueError(f"priority {_short(value)} is not allowed; allowed: a whole number of 64 bits")


def _rows(columns: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    listed = [_listed(column, f"component {position} of a batch") for position, column in enumerate(columns)]
    lengths = [len(column) for column in listed]
    if len(set(lengths)) > 1:
        raise ValueError(f"the components of a batch have different lengths: {', '.join(map(str, lengths))}")
    return list(zip(*listed, strict=True))


def _listed(values: Any, what: str) -> list[Any]:
    if isinstance(values, str | bytes) or not hasattr(values, "__iter__"):
        raise TypeError(f"{what}={_short(values)} is not allowed; allowed: an iterable, one item for each element")
    return list(values)


def _as_array(value: Any, dtype: Any, position: int) -> Any:
    import numpy as np

    try:
        found = np.asarray(value)
        is_exact = isinstance(value, np.ndarray | np.generic)
        # Numbers and lists of Python are of no exact type: they may become a narrower one of the same kind.
        if dtype is not None and not is_exact and (not found.size or _may_become(found.dtype, dtype)):
            found = np.asarray(value, dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"component {position} is no array: {_short(value)} ({error})") from None
    if dtype is not None and dtype != found.dtype and not _are_texts(found.dtype, dtype):
        raise ValueError(f"component {position} must be {dtype}, not {found.dtype}: {_short(value)}")
    return found if found.ndim else found[()]


def _may_become(found: Any, dtype: Any) -> bool:
    import numpy as np

    return not {found.kind, dtype.kind} & {"S", "U"} and np.can_cast(found, dtype, "same_kind")


def _are_texts(one: Any, other: Any) -> bool:
    """Whether they are strings, or bytes, of whatever lengths."""
    return one.kind == other.kind and one.kind in "SU"


def _fits(found: tuple[int, ...], wanted: Shape) -> bool:
    return len(found) == len(wanted) and all(b is None or a == b for a, b in zip(found, wanted, strict=True))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


# --- arguments --------------------------------------------------------------------------


def _several(values: Any, what: str) -> list[Any]:
    if isinstance(values, str | bytes) or not isinstance(values, Sequence) or not values:
        raise ValueError(f"{what}={values!r} is not allowed; allowed: a list with one for each component")
    return list(values)


def _names(names: Any) -> tuple[str, ...]:
    listed = _several(names, "names")
    if not all(isinstance(name, str) for name in listed) or len(set(listed)) < len(listed):
        raise ValueError(f"names={names!r} is not allowed; allowed: a list of strings, each one only once")
    return tuple(listed)


def _shape(shapes: Any, shape: Any) -> Shape:
    try:
        return tuple(None if length is None else whole_number("length", length, 0) for length in shape)
    except (TypeError, ValueError):
        raise ValueError(
            f"shapes={shapes!r} is not allowed; allowed: a list with one shape for each component, as [(), (28, 28)]"
        ) from None


def _dtype(dtypes: Any, dtype: Any) -> Any:
    import numpy as np

    try:
        return np.dtype(dtype)
    except TypeError:
        raise ValueError(
            f"dtypes={dtypes!r} is not allowed; allowed: a list with one dtype for each component, such as ['float32']"
        ) from None
