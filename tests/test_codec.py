"""What may travel to a process, and what is said of the rest."""

from __future__ import annotations

import collections
import functools
import os
import pickle
import socket
import sys
import threading
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncjobs import CancelToken, NotSendable
from asyncjobs.testing import faults
from asyncjobs.wire import codec
from asyncjobs.wire.codec import Reference, encode_arguments, encode_function, importable, loads, resolve

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=10,
)


def arrived(payload: codec.Payload) -> tuple[tuple[Any, ...], dict[str, Any]]:
    value = loads(payload.data)
    return value if payload.keywords else (value, {})


# --- arguments --------------------------------------------------------------------------


@pytest.mark.slow
@given(st.lists(plain, max_size=4), st.dictionaries(st.text(min_size=1), plain, max_size=3))
def test_arguments_arrive_equal(args: list[object], kwargs: dict[str, object]) -> None:
    assert arrived(encode_arguments(len, tuple(args), kwargs)) == (tuple(args), kwargs)


@pytest.mark.parametrize("text", ["__main__", b"__main__", {"__main__": ["x__main__y"]}])
def test_arguments_that_merely_mention_main_arrive_equal(text: object) -> None:
    assert arrived(encode_arguments(len, (text,), {"key": text})) == ((text,), {"key": text})


def test_arguments_are_a_snapshot() -> None:
    numbers = [1, 2]
    payload = encode_arguments(len, (numbers,), {})
    numbers.append(3)
    assert arrived(payload) == (([1, 2],), {})


def test_one_object_given_twice_arrives_as_one_object() -> None:
    shared: list[int] = []
    (one, other), kwargs = arrived(encode_arguments(len, (shared, shared), {"again": shared}))
    assert one is other is kwargs["again"]


def test_lambdas_and_closures_travel_by_value() -> None:
    offset = 10
    (add,), _ = arrived(encode_arguments(len, (lambda number: number + offset,), {}))
    assert add(5) == 15


def test_instances_of_main_travel_by_value() -> None:
    kind = type("Local", (), {"__module__": "__main__", "value": 7})
    (back,), _ = arrived(encode_arguments(len, (kind(),), {}))
    assert back.value == 7


def test_tokens_among_the_arguments_are_listed() -> None:
    one, other = CancelToken(), CancelToken()
    payload = encode_arguments(len, (one, [other]), {"key": one})
    assert set(payload.passengers) == {one, other}
    args, kwargs = arrived(payload)
    assert args[0] is kwargs["key"] is one


def test_arguments_without_tokens_list_none() -> None:
    assert encode_arguments(len, (1, lambda: 2), {}).passengers == ()


@dataclass
class Settings:
    rate: float
    lock: Any


class Holder:
    def __init__(self, inner: object) -> None:
        self.inner = inner


@pytest.mark.parametrize(
    ("args", "kwargs", "path", "kind"),
    [
        ((1, threading.Lock()), {}, "argument 2 of fit", "lock"),
        ((), {"guard": threading.Lock()}, "argument 'guard' of fit", "lock"),
        (({"a": [0, threading.Lock()]},), {}, "argument 1['a'][1] of fit", "lock"),
        ((Settings(0.1, threading.Lock()),), {}, "argument 1.lock of fit", "lock"),
        ((Holder(Holder((3, threading.Lock()))),), {}, "argument 1.inner.inner[1] of fit", "lock"),
        (((number for number in range(3)),), {}, "argument 1 of fit", "generator"),
        ((faults.Unpicklable(),), {}, "argument 1 of fit", "Unpicklable"),
        ((sys._getframe(),), {}, "argument 1 of fit", "frame"),
    ],
)
def test_what_cannot_travel_is_named_with_its_place(
    args: tuple[Any, ...], kwargs: dict[str, Any], path: str, kind: str
) -> None:
    def fit() -> None: ...

    fit.__qualname__ = "fit"
    with pytest.raises(NotSendable) as caught:
        encode_arguments(fit, args, kwargs)
    assert caught.value.argument == path
    assert str(caught.value).startswith(f"{path} cannot be sent to a process: {kind} does not pickle (")
    assert isinstance(caught.value, TypeError)
    assert caught.value.__cause__ is not None


def test_a_socket_is_not_sendable() -> None:
    with socket.socket() as sock, pytest.raises(NotSendable, match="argument 1 of len cannot be sent"):
        encode_arguments(len, (sock,), {})


def test_deep_nesting_is_an_error_that_says_so_and_no_crash() -> None:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(NotSendable, match=r"argument 1.* of len cannot be sent"):
        encode_arguments(len, (nested,), {})
    while nested:
        nested = nested[0]


def test_a_failed_attempt_leaves_no_permission_to_pickle_tokens() -> None:
    with pytest.raises(NotSendable):
        encode_arguments(len, (CancelToken(), threading.Lock()), {})
    with pytest.raises(TypeError, match="travels only as"):
        pickle.dumps(CancelToken())


def by_value(fn: Any) -> Any:
    """The function after a journey by value."""
    pickled, _ = encode_function(fn)
    return resolve(Reference(None, pickled.stream))


# --- functions --------------------------------------------------------------------------


def module_level(number: int) -> int:
    return number + 1


class Model:
    @staticmethod
    def predict(number: int) -> int:
        return number * 3

    @classmethod
    def load(cls) -> str:
        return cls.__name__

    def fit(self) -> str:
        return "fitted"


@pytest.mark.parametrize(
    ("fn", "name"),
    [
        (module_level, (__name__, "module_level")),
        (Model.predict, (__name__, "Model.predict")),
        (Model.fit, (__name__, "Model.fit")),
        (Model, (__name__, "Model")),
        (os.getpid, (os.getpid.__module__, "getpid")),
        (len, ("builtins", "len")),
        (collections.OrderedDict, ("collections", "OrderedDict")),
        (lambda: 0, None),
        (Model().fit, None),
        (Model.load, None),
        (functools.partial(len), None),
        ([].append, None),
        ("text".upper, None),
    ],
)
def test_a_function_goes_by_name_exactly_if_another_process_finds_it_there(fn: Any, name: object) -> None:
    assert importable(fn) == name
    if name is not None:
        assert resolve(Reference(importable(fn), None)) is fn


def test_a_function_that_hides_behind_another_ones_name_goes_by_value() -> None:
    @functools.wraps(module_level)
    def wrapper(number: int) -> int:
        return module_level(number) * 100

    assert importable(wrapper) is None
    assert by_value(wrapper)(1) == 200


def test_a_function_of_main_goes_by_value() -> None:
    def fn() -> int:
        return 5

    fn.__module__, fn.__qualname__ = "__main__", "fn"
    assert importable(fn) is None
    assert by_value(fn)() == 5


@pytest.mark.parametrize(
    ("fn", "args", "value"),
    [
        (Model().fit, (), "fitted"),
        (Model.load, (), "Model"),
        (functools.partial(module_level, 4), (), 5),
        (lambda number: number - 1, (3,), 2),
        ("text".upper, (), "TEXT"),
    ],
)
def test_what_has_no_name_works_by_value(fn: Any, args: tuple[Any, ...], value: object) -> None:
    assert by_value(fn)(*args) == value


def test_captured_values_are_those_of_the_moment() -> None:
    weights = [1.0]
    step = lambda: sum(weights)  # noqa: E731
    before, _ = encode_function(step)
    weights.append(2.0)
    assert resolve(Reference(None, before.stream))() == 1.0
    assert by_value(step)() == 3.0


def test_tokens_that_a_function_captured_are_listed() -> None:
    token = CancelToken()
    assert encode_function(lambda: token.cancelled)[1] == (token,)


def test_a_function_that_captured_what_cannot_travel_is_named() -> None:
    lock = threading.Lock()

    def locked() -> bool:
        return lock.locked()

    with pytest.raises(NotSendable, match=r"the function .*locked cannot be sent to a process: function does not"):
        encode_function(locked)


def test_a_module_that_is_gone_is_an_import_error_in_the_worker() -> None:
    with pytest.raises(ModuleNotFoundError):
        resolve(Reference(("no_such_module_anywhere", "fn"), None))
    with pytest.raises(AttributeError):
        resolve(Reference(("os", "no_such_function"), None))
