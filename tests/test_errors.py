"""The tree of errors: every class pickles with its attributes, and stands where the docstring draws it."""

from __future__ import annotations

import asyncio
import copy
import pickle
import re
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import pytest

import asyncjobs
from asyncjobs import errors
from asyncjobs.jobqueue import QueueFull
from asyncjobs.wire.failure import capture, rebuild

CLASSES = [
    *(found for found in vars(errors).values() if isinstance(found, type) and found.__module__ == errors.__name__),
    QueueFull,
]
SAMPLES: dict[str, Any] = {
    "str": "some words",
    "float": 2.5,
    "int": 7,
    "int | None": 9,
    "BaseException | None": KeyError("inner"),
}


def filled(kind: type[BaseException]) -> tuple[BaseException, dict[str, Any]]:
    """One of its kind, with a value of its own in every attribute that the class declares."""
    error = kind("what happened")
    declared = {name: text for base in kind.__mro__ for name, text in vars(base).get("__annotations__", {}).items()}
    values = {name: SAMPLES[str(text)] for name, text in declared.items()}
    for name, value in values.items():
        setattr(error, name, value)
    return error, values


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_error_pickles_with_its_message_and_attributes(kind: type[BaseException]) -> None:
    error, values = filled(kind)
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        back = pickle.loads(pickle.dumps(error, protocol))
        assert type(back) is kind
        assert back.args == ("what happened",)
        assert str(back) == str(error)
        assert {name: repr(getattr(back, name)) for name in values} == {k: repr(v) for k, v in values.items()}


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_error_crosses_the_border_between_processes(kind: type[BaseException]) -> None:
    error, values = filled(kind)
    back = rebuild(capture(error))
    assert type(back) is kind
    assert {name: repr(getattr(back, name)) for name in values} == {k: repr(v) for k, v in values.items()}


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_error_can_be_made_without_a_message(kind: type[BaseException]) -> None:
    assert isinstance(str(kind()), str)
    assert type(copy.copy(kind())) is kind


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_error_says_in_its_docstring_what_it_means(kind: type[BaseException]) -> None:
    assert kind.__doc__
    assert kind.__doc__ != Exception.__doc__


def test_the_docstring_draws_every_public_class_where_it_stands() -> None:
    drawn: dict[str, int] = {}
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"^    ((?:│   |    )*)(?:[├└]── )?([A-Z]\w+)", line)
        if found:
            drawn[found[2]] = line.index(found[2]) // 4 - 1
    for kind in CLASSES:
        if kind is errors.RemoteTraceback:
            continue  # a cause that is shown, never raised
        depth = sum(issubclass(base, errors.AsyncJobsError) for base in kind.__mro__) - 1
        assert drawn.pop(kind.__name__) == max(depth, 0)
    assert drawn == {}


@pytest.mark.parametrize(
    ("kind", "base"),
    [
        (errors.JobTimeout, TimeoutError),
        (errors.WorkerLost, BrokenProcessPool),
        (errors.NotSendable, TypeError),
        (errors.RunnerClosed, RuntimeError),
        (errors.WrongLoop, RuntimeError),
        (QueueFull, asyncio.QueueFull),
    ],
)
def test_error_is_also_what_callers_of_the_standard_library_catch(kind: type, base: type) -> None:
    assert issubclass(kind, base)
    assert issubclass(kind, errors.AsyncJobsError)


def test_a_stop_is_no_exception_and_a_cancelled_job_is() -> None:
    assert not issubclass(errors.JobStopped, Exception)
    assert issubclass(errors.JobCancelled, Exception)
    assert not issubclass(errors.JobCancelled, asyncio.CancelledError)


def test_a_stop_without_words_has_an_empty_reason() -> None:
    assert (errors.JobStopped().reason, errors.JobStopped("why").reason) == ("", "why")


@pytest.mark.parametrize("name", sorted(set(dir(asyncjobs)) - {"__version__"}))
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(asyncjobs, name) is not None


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'asyncjobs' has no attribute 'Runnner'"):
        _ = asyncjobs.Runnner
