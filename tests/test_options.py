"""Options: every value is checked where it is given, and the nearest one counts."""

from __future__ import annotations

import copy
import functools
import math
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

import asyncjobs
from asyncjobs import CancelToken, JobOptions, LoopLane, ProcessLane, Retry, Runner, ThreadLane
from asyncjobs.options import DEFAULTS, LONGEST, NAMES, UNSET, make_options, options_of, settle

NOT_NUMBERS = ("1", None.__class__, [], True, 1j)
BAD_LIMITS = (0, 0.0, -1, -1e-9, math.inf, -math.inf, math.nan, 1e18, LONGEST * 1.001, *NOT_NUMBERS)
BAD: dict[str, tuple[Any, ...]] = {
    "lane": ("", 3, b"process"),
    "name": ("", 3, b"fit"),
    "priority": (1.0, "high", None, True, math.nan),
    "timeout": BAD_LIMITS,
    "queue_timeout": BAD_LIMITS,
    "deadline": BAD_LIMITS,
    "retries": (-1, 1.5, "3", None, True, math.nan),
    "lost": ("maybe", None, True, 1),
    "grace": (-0.1, math.inf, math.nan, "1", None, True, 1e18),
    "key": ("", 7, ("a", 1)),
    "limiter": (3, "two", object()),
    "output": ("loud", None, True),
    "snapshot": (1, None, "yes"),
    "max_result": (0, -1, 1.5, "1", True, math.inf),
    "token": ("stop", object(), True),
    "resources": (
        2,
        "gpu",
        {"gpu"},
        {1: 1},
        {"": 1},
        {"cpu": -1},
        {"cpu": True},
        {"memory": "2 apples"},
        {"cpu": math.inf},
    ),
}
GOOD: dict[str, tuple[Any, ...]] = {
    "lane": (None, "gpu"),
    "name": (None, "fit"),
    "priority": (0, -7, 10**9),
    "timeout": (None, 1e-9, 1, 0.5, LONGEST),
    "queue_timeout": (None, 1e-9, 3600),
    "deadline": (None, 1e-9, 86400.0),
    "retries": (0, 3, Retry(2)),
    "lost": ("fail", "retry"),
    "grace": (0, 0.0, 2.5),
    "key": (None, "plot-7"),
    "limiter": (None, anyio.CapacityLimiter(2)),
    "output": ("pass", "capture", "drop"),
    "snapshot": (True, False),
    "max_result": (None, 1, 10**12),
    "token": (None, CancelToken()),
    "resources": (None, {}, {"cpu": 2, "gpu": 1, "memory": "2GiB"}, {"GPU": 0.5}),
}


def _id(name: str, value: object) -> str:
    """The same in every process: no address of an object."""
    return f"{name}={value!r:.30}".partition(" object at ")[0]


WRONG = [pytest.param(name, value, id=_id(name, value)) for name, values in BAD.items() for value in values]
RIGHT = [pytest.param(name, value, id=_id(name, value)) for name, values in GOOD.items() for value in values]


def test_both_tables_cover_every_option() -> None:
    assert set(BAD) == set(GOOD) == set(NAMES)


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_wrong_value_is_named_with_what_is_allowed(name: str, value: object) -> None:
    with pytest.raises(ValueError) as caught:
        make_options({name: value})  # type: ignore[misc]
    assert str(caught.value).startswith(f"{name}={value!r} is not allowed; allowed: ")
    assert len(str(caught.value).split("allowed: ")[-1]) > 3


@pytest.mark.parametrize(("name", "value"), RIGHT)
def test_a_right_value_is_kept(name: str, value: object) -> None:
    assert make_options({name: value}).given() == {name: value}  # type: ignore[misc]


@given(value=st.floats(allow_nan=True, allow_infinity=True) | st.integers())
def test_a_limit_is_taken_exactly_if_it_is_above_zero_and_within_what_timers_count(value: float) -> None:
    allowed = 0 < value <= LONGEST
    try:
        make_options({"timeout": value})
    except ValueError:
        assert not allowed
    else:
        assert allowed


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [("timout", "timeout"), ("retrys", "retries"), ("Priority", "priority"), ("max_results", "max_result")],
)
def test_an_unknown_option_suggests_the_nearest_one(wrong: str, meant: str) -> None:
    with pytest.raises(TypeError, match=rf"unknown option '{wrong}'; did you mean '{meant}'\?.*Known: lane, name"):
        make_options({wrong: 1})  # type: ignore[misc]


def test_an_unknown_option_like_no_other_lists_the_known_ones() -> None:
    with pytest.raises(TypeError, match="unknown option 'zzz' Known: lane, name, priority") as caught:
        make_options({"zzz": 1})  # type: ignore[misc]
    assert "did you mean" not in str(caught.value)


# --- the decorator ----------------------------------------------------------------------


def test_job_returns_the_very_same_function() -> None:
    def kernel(x: int) -> int:
        return x

    assert asyncjobs.job(lane="process", timeout=60)(kernel) is kernel
    assert options_of(kernel).given() == {"lane": "process", "timeout": 60}  # type: ignore[union-attr]
    assert kernel(3) == 3


def test_job_checks_its_values_where_it_is_written() -> None:
    with pytest.raises(ValueError, match="timeout=-1 is not allowed"):
        asyncjobs.job(timeout=-1)
    with pytest.raises(TypeError, match="unknown option 'timeot'; did you mean 'timeout'"):
        asyncjobs.job(timeot=1)  # type: ignore[call-arg]


def test_options_are_found_behind_partials_and_methods() -> None:
    class Model:
        @asyncjobs.job(retries=2)
        def fit(self, x: int) -> int:
            return x

    for wrapped in (Model().fit, functools.partial(Model().fit, 1), functools.partial(functools.partial(Model.fit), 1)):
        assert options_of(wrapped).given() == {"retries": 2}  # type: ignore[union-attr]


def test_a_function_without_the_decorator_has_no_options() -> None:
    assert options_of(len) is None
    assert options_of(functools.partial(len)) is None


# --- precedence -------------------------------------------------------------------------


def test_what_is_given_above_counts_and_what_is_open_comes_from_below() -> None:
    upper, lower = JobOptions(timeout=1.0, name=None), JobOptions(timeout=2.0, name="low", priority=3)
    assert upper.over(lower).given() == {"timeout": 1.0, "name": None, "priority": 3}


def test_none_means_no_limit_and_overrides_a_limit_from_below() -> None:
    assert settle(JobOptions(timeout=None).over(JobOptions(timeout=5.0))).timeout is None


def test_settled_options_have_nothing_open() -> None:
    settled = settle(JobOptions())
    names = set(NAMES) - {"retries"} | {"retry"}
    assert all(getattr(settled, name) is not UNSET for name in names)
    assert settled.retry == Retry(0, backoff=0.0)
    assert settle(JobOptions(retries=Retry(4))).retry == Retry(4)


@given(st.lists(st.dictionaries(st.sampled_from(["priority", "grace", "retries"]), st.integers(0, 9)), max_size=4))
def test_the_first_layer_that_says_something_wins(layers: list[dict[str, int]]) -> None:
    merged = DEFAULTS
    for layer in reversed(layers):
        merged = make_options(layer).over(merged)  # type: ignore[arg-type]
    for name in ("priority", "grace", "retries"):
        said = [layer[name] for layer in layers if name in layer]
        assert getattr(merged, name) == (said[0] if said else getattr(DEFAULTS, name))


async def test_options_win_over_the_decorator_over_the_lane_over_the_runner() -> None:
    async def plain() -> None: ...

    @asyncjobs.job(priority=2)
    async def marked() -> None: ...

    lanes = {"loop": {"priority": 3}}
    async with Runner(options={"priority": 4, "name": "all"}, lane_options=lanes) as runner:
        assert (await runner.options(priority=1).submit(marked)).priority == 1
        assert (await runner.submit(marked)).priority == 2
        assert (await runner.submit(plain)).priority == 3
        assert (await runner.submit(len, "")).priority == 4
        assert (await runner.submit(plain)).name == "all"
        assert (await runner.options(name=None).submit(plain)).name == "plain"


async def test_the_decorator_names_the_lane_and_options_override_it() -> None:
    @asyncjobs.job(lane="thread")
    def work() -> int:
        return 1

    async with Runner(lanes={"other": ThreadLane(1)}) as runner:
        assert (await runner.submit(work)).lane == "thread"
        assert (await runner.options(lane="other").submit(work)).lane == "other"


# --- the runner's own arguments ---------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name in ("processes", "threads", "coroutines") for value in (0, -1, 1.5, "2", True)),
        *(("queue_size", value) for value in (0, -1, None, math.nan, 1.0)),
        *(("history", value) for value in (-1, None, 0.5)),
        *(("drain_timeout", value) for value in (-1, math.nan, math.inf, "1")),
        *(("watchdog", value) for value in (0, -1, math.nan, "1")),
    ],
)
def test_a_runner_names_a_wrong_argument(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"^{name}=.* is not allowed; allowed: "):
        Runner(**{name: value})  # type: ignore[arg-type]


def test_a_runner_checks_default_options_and_lane_options() -> None:
    with pytest.raises(ValueError, match="timeout=0 is not allowed"):
        Runner(options={"timeout": 0})
    with pytest.raises(ValueError, match="grace=-1 is not allowed"):
        Runner(lane_options={"thread": {"grace": -1}})
    with pytest.raises(ValueError, match="lane='gpu' is not allowed; allowed: loop, process, thread"):
        Runner(lane_options={"gpu": {}})


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"options": 3}, TypeError, "options=3 is not allowed; allowed: None, or a mapping"),
        ({"lanes": [1]}, TypeError, "lanes=[1] is not allowed; allowed: None, or a mapping"),
        ({"lane_options": [1]}, TypeError, "lane_options=[1] is not allowed; allowed: None, or a mapping"),
        ({"lane_options": {"loop": 3}}, TypeError, "lane_options={'loop': 3} is not allowed; allowed: a mapping"),
        ({"lanes": {"p": ProcessLane}}, TypeError, f"lanes={{'p': {ProcessLane!r}}} is not allowed; allowed: a lane,"),
        ({"lanes": {"p": 3}}, TypeError, "lanes={'p': 3} is not allowed; allowed: a lane,"),
        ({"lanes": {3: ThreadLane(1)}}, ValueError, "lanes={3: ...} is not allowed; allowed: a name"),
    ],
)
def test_a_runner_names_what_is_no_mapping_and_what_is_no_lane(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        Runner(**arguments)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("lane", "options", "message"),
    [
        (
            "loop",
            {"output": "capture"},
            "lane 'loop' cannot honour the options output, for it is loop. output: what jobs print ",
        ),
        (
            "thread",
            {"max_result": 3, "priority": 1},
            "lane 'thread' cannot honour the options max_result, for it is thread. ",
        ),
        ("thread", {"lane": "process"}, "lane_options={'thread': {'lane': 'process'}} is not allowed; allowed: "),
        ("process", {"lane": "process"}, "lane_options={'process': {'lane': 'process'}} is not allowed; allowed: "),
    ],
)
def test_a_runner_refuses_lane_options_that_could_never_take_effect(lane: str, options: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        Runner(lane_options={lane: options})
    assert str(caught.value).startswith(message)


def test_an_unknown_lane_is_named_with_the_lanes_there_are() -> None:
    runner = Runner(lanes={"gpu": ThreadLane(1)})
    with pytest.raises(ValueError, match="lane='cpu' is not allowed; allowed: gpu, loop, process, thread"):
        runner.options(lane="cpu")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LoopLane(0), "size=0 "),
        (lambda: LoopLane(None), "size=None "),  # type: ignore[arg-type]
        (lambda: ThreadLane(None), "size=None "),  # type: ignore[arg-type]
        (lambda: asyncjobs.ExecutorLane(ThreadPoolExecutor(), 0), "size=0 "),
        (lambda: LoopLane(1).resize(0), "size=0 "),
        (lambda: ThreadLane(1).resize(True), "size=True "),
        (lambda: asyncjobs.ExecutorLane(ThreadPoolExecutor(), 1).resize(1.5), "size=1.5 "),  # type: ignore[arg-type]
        (lambda: ProcessLane(1).resize(None), "size=None "),  # type: ignore[arg-type]
        (lambda: ThreadLane(-1), "size=-1 "),
        (lambda: ThreadLane(2, max_abandoned=-1), "max_abandoned=-1 "),
        (lambda: ProcessLane(0), "workers=0 "),
        (lambda: ProcessLane(1, recycle_after=0), "recycle_after=0 "),
        (lambda: ProcessLane(1, max_rss=1.5), "max_rss=1.5 "),  # type: ignore[arg-type]
        (lambda: ProcessLane(1, start_method="fork"), "start_method='fork' "),
        (lambda: ProcessLane(1, output="loud"), "output='loud' "),
        (lambda: ProcessLane(1, preload="numpy"), "preload='numpy' "),
        (lambda: ProcessLane(1, preload=3), "preload=3 "),  # type: ignore[arg-type]
        (lambda: ProcessLane(1, preload=[3]), "preload=[3] "),  # type: ignore[list-item]
        (lambda: ProcessLane(1, preload=["numpy", ""]), "preload=['numpy', ''] "),
        (lambda: ProcessLane(1, initargs=3), "initargs=3 "),  # type: ignore[arg-type]
        (lambda: ProcessLane(1, initargs="ab"), "initargs='ab' "),  # type: ignore[arg-type]
        (lambda: ProcessLane(1, env=[1]), "env=[1] "),  # type: ignore[arg-type]
        (lambda: ProcessLane(1, initializer=3), "initializer=3 "),  # type: ignore[arg-type]
        (lambda: asyncjobs.ExecutorLane(3), "executor=3 "),  # type: ignore[arg-type]
    ],
)
def test_a_lane_names_a_wrong_argument(make: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        make()
    assert str(caught.value).startswith(f"{message}is not allowed; allowed: ")


# --- the record -------------------------------------------------------------------------


def test_unset_is_one_thing_wherever_it_goes() -> None:
    assert pickle.loads(pickle.dumps(UNSET)) is UNSET
    assert copy.deepcopy(JobOptions()).given() == {}
    assert repr(UNSET) == "UNSET"


def test_options_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        JobOptions().timeout = 1.0  # type: ignore[misc]
