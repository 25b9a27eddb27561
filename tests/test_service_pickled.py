"""What is said of a pickled value that must not be loaded."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

import cloudpickle
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncjobs.service.pickled import names_in


@dataclass
class Fit:
    loss: float


class Trap:
    """Whoever loads it dies."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit('it was loaded')",)


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (np.arange(5.0), ["numpy.ndarray", "numpy.dtype"]),
        (np.float32(1), ["numpy.generic", "numpy.dtype"]),
        ([Fit(1.0), Fit(2.0), Fraction(1, 2)], ["list", f"{__name__}.Fit", "fractions.Fraction"]),
        ({"best": Fit(1.0)}, ["dict", f"{__name__}.Fit"]),
        (datetime(2026, 1, 1, tzinfo=UTC), ["datetime.datetime", "datetime.timezone", "datetime.timedelta"]),
        (1 + 2j, ["complex"]),
        ((1, 2), []),
        ([0] * 100_000, ["list"]),
        (Trap(), ["exec"]),
    ],
)
def test_the_names_in_a_pickle_are_read_and_nothing_is_run(value: Any, names: list[str]) -> None:
    assert names_in(pickle.dumps(value, 5)) == names
    assert names_in(cloudpickle.dumps(value, 5)) == names


@given(st.binary(max_size=300))
def test_whatever_the_bytes_are_there_is_an_answer(content: bytes) -> None:
    assert isinstance(names_in(content), list)
    assert isinstance(names_in(pickle.dumps([Fit(1.0)], 5)[:50] + content), list)
