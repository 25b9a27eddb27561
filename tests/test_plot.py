"""`plot` as a training loop sees it: what is handed over is shown, nothing waits, nothing raises."""

from __future__ import annotations

import asyncio
import copy
import html
import json
import math
import pickle
import re
import threading
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import plots
import pytest
from plots import figures_of, numbers, shown, traces, wait_until
from servers import STALL, serving

import asyncjobs as aj
from asyncjobs.plotting import publisher, studio
from asyncjobs.plotting.page import plotly_js
from asyncjobs.plotting.targets import for_rank


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "loss.json"


def spool_of(path: Path) -> Path:
    return path.parent / ".asyncjobs-plots"


# --- log --------------------------------------------------------------------------------


def test_what_is_logged_is_shown_when_the_block_ends(out: Path) -> None:
    with aj.plot(out) as p:
        for step in range(100):
            p.log(step, train=1.0 / (step + 1), val=2.0)
    assert shown(out)["train"] == ([float(n) for n in range(100)], [1.0 / (n + 1) for n in range(100)])
    assert shown(out)["val"][1] == [2.0] * 100
    assert (p.stats.logged, p.stats.dropped, p.stats.missing, p.closed) == (100, 0, (), True)
    assert not spool_of(out).exists(), "all has arrived, so nothing is kept"


@pytest.mark.parametrize(
    "value", [3, True, np.float32(3), np.array(3.0), np.int64(3)], ids=["int", "bool", "f4", "0-d", "i8"]
)
def test_every_kind_of_number_can_be_logged(out: Path, value: Any) -> None:
    with aj.plot(out) as p:
        p.log(np.int64(1), y=value)
    assert shown(out)["y"] == ([1.0], [float(value)])


def test_a_tensor_can_be_logged(out: Path) -> None:
    torch = pytest.importorskip("torch")
    with aj.plot(out) as p:
        loss = torch.tensor(2.5, requires_grad=True)
        p.log(0, y=loss * 2)
    assert shown(out)["y"] == ([0.0], [5.0])


def test_not_a_number_and_infinity_are_shown_as_what_they_are(out: Path) -> None:
    with aj.plot(out) as p:
        for step, value in enumerate([1.0, math.nan, math.inf]):
            p.log(step, y=value)
    assert [*map(str, shown(out)["y"][1])] == ["1.0", "nan", "inf"]


@pytest.mark.parametrize(
    ("value", "words"),
    [("0.5", "y='0.5' is text"), ([1.0, 2.0], "y=[1.0, 2.0]"), (10**400, "y=1000"), (1j, "y=1j")],
    ids=["text", "list", "huge", "complex"],
)
def test_log_never_raises_and_says_once_what_it_dropped(
    out: Path, value: Any, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    with aj.plot(out) as p:
        for step in range(10):
            p.log(step, y=value)
        p.log("one", y=1.0)  # type: ignore[arg-type]
        p.log(11, y=1.0)
    assert shown(out)["y"] == ([11.0], [1.0])
    assert p.stats.dropped == 11
    (record,) = [record for record in caplog.records if "was dropped" in record.message]
    assert words in record.message


def test_of_a_row_with_a_wrong_value_the_others_are_kept_and_none_is_no_value(
    out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with aj.plot(out) as p:
        for step in range(10):
            p.log(step, train=1.0, val=None if step % 5 else 2.0)
        assert caplog.text == ""
        p.log(10, train=3.0, val="much")  # type: ignore[arg-type]
    assert shown(out) == {"train": ([*map(float, range(11))], [1.0] * 10 + [3.0]), "val": ([0.0, 5.0], [2.0, 2.0])}
    assert p.stats.dropped == 1
    assert "log(10): a value was dropped: val='much' is text" in caplog.text


@pytest.mark.parametrize(("step", "value"), [(None, 1.0), (1, 10**400), ("two", 1.0)], ids=["None", "huge", "text"])
def test_calls_that_are_dropped_take_no_others_along(out: Path, step: Any, value: Any) -> None:
    with aj.plot(out) as p:
        for good in range(300):
            p.log(good, a=1.0 * good)
            p.log(step, a=value)
    assert shown(out)["a"] == ([*map(float, range(300))], [*map(float, range(300))])
    assert (p.stats.logged, p.stats.dropped) == (300, 300)


def test_a_row_that_a_thread_has_not_written_yet_keeps_the_end_waiting_for_a_moment(out: Path) -> None:
    with aj.plot(out) as p:
        p.log(0, a=0.0)
        assert p.flush(20)
        assert p._journal is not None
        next(p._journal.segments[("a",)].rows)  # drawn, and never written
        p.log(2, a=2.0)
    assert shown(out)["a"] == ([0.0, 2.0], [0.0, 2.0])


def test_a_copy_of_a_plot_in_its_own_process_is_the_plot(out: Path) -> None:
    with aj.plot(out) as p:
        p.log(0, a=1.0)
        config = copy.deepcopy({"plot": p})
        assert config["plot"] is p
        assert pickle.loads(pickle.dumps(p)) is p
        config["plot"].log(1, a=2.0)
    assert shown(out)["a"] == ([0.0, 1.0], [1.0, 2.0])


def test_log_after_the_end_is_dropped_with_one_warning(out: Path, caplog: pytest.LogCaptureFixture) -> None:
    with aj.plot(out) as p:
        p.log(0, y=1.0)
    for step in range(3):
        p.log(step, y=1.0)
    assert [record.levelname for record in caplog.records if "after the plot was closed" in record.message] == [
        "WARNING"
    ]


def test_each_call_after_the_end_is_counted_and_one_is_told_of(out: Path, caplog: pytest.LogCaptureFixture) -> None:
    p = aj.plot(out)
    p.log(0, y=1.0)
    p.close()
    p.write([1.0], [2.0], name="fit")
    p.draw(bars, [1.0])
    p.log(1, y=1.0)
    assert p.stats.dropped == 3
    assert (p.stats.logged, p.stats.missing) == (1, ())
    (told,) = [record.message for record in caplog.records if "after the plot was closed" in record.message]
    assert told == "write(name='fit') came after the plot was closed, and is lost"
    assert [*shown(out)] == ["y"]


def test_names_may_come_and_go(out: Path) -> None:
    with aj.plot(out) as p:
        p.log(0, a=1.0)
        p.log(1, a=2.0, b=3.0)
        p.log(2, b=4.0)
        p.log(3, step=5.0)  # also one that is called as the argument is
        p.log(4)
    assert shown(out) == {"a": ([0.0, 1.0], [1.0, 2.0]), "b": ([1.0, 2.0], [3.0, 4.0]), "step": ([3.0], [5.0])}


def test_several_threads_may_log(out: Path) -> None:
    with aj.plot(out) as p:
        threads = [
            threading.Thread(target=lambda k=k: [p.log(n, **{f"t{k}": 1.0 * n}) for n in range(2000)]) for k in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert p.stats.logged == 8000
    assert {name: ys[-1] for name, (_, ys) in shown(out).items()} == {f"t{k}": 1999.0 for k in range(4)}


def test_two_thousand_points_of_many_are_shown_among_them_the_peak_and_the_last(out: Path) -> None:
    with aj.plot(out) as p:
        for step in range(50_000):
            p.log(step, y=math.sin(step / 999))
            if step == 31_234:
                p.log(step, y=7.0)
    xs, ys = shown(out)["y"]
    assert 1000 <= len(xs) <= 2000
    assert (xs[-1], max(ys)) == (49_999.0, 7.0)


# --- write ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        list,
        tuple,
        np.array,
        lambda v: np.array(v, "f4"),
        lambda v: np.array(v, "i8"),
        lambda v: array("d", v),
        lambda v: np.repeat(np.array(v), 2)[::2],
        lambda v: np.array(v[::-1])[::-1],
        lambda v: np.array(v, "f2"),
        lambda v: np.array(v, ">f8"),
        lambda v: np.array(v, "longdouble"),
        lambda v: np.array(v, object),
        lambda v: memoryview(array("q", map(int, v))),
        lambda v: (value for value in v),
    ],
    ids=[
        "list",
        "tuple",
        "f8",
        "f4",
        "i8",
        "array",
        "strided",
        "reversed",
        "f2",
        "big-endian",
        "longdouble",
        "object",
        "memoryview",
        "generator",
    ],
)
def test_every_kind_of_column_can_be_written(out: Path, make: Callable[[list[float]], Any]) -> None:
    with aj.plot(out) as p:
        p.write(make([1.0, 2.0, 3.0]), make([4.0, 5.0, 7.0]), name="fit")
    assert shown(out) == {"fit": ([1.0, 2.0, 3.0], [4.0, 5.0, 7.0])}


def test_series_and_tensors_can_be_written(out: Path) -> None:
    pandas = pytest.importorskip("pandas")
    with aj.plot(out) as p:
        p.write(pandas.Series([1, 2]), pandas.Series([3.5, 4.5]), name="series")
    assert shown(out)["series"] == ([1.0, 2.0], [3.5, 4.5])


def test_tensors_can_be_written(out: Path) -> None:
    torch = pytest.importorskip("torch")
    with aj.plot(out) as p:
        p.write(torch.tensor([1, 2]), torch.tensor([3.5, 4.5], requires_grad=True), name="double")
        p.write(torch.tensor([1.5, 2.5], dtype=torch.bfloat16), name="brain")
    assert shown(out) == {"double": ([1.0, 2.0], [3.5, 4.5]), "brain": ([0.0, 1.0], [1.5, 2.5])}


def test_what_is_masked_is_not_shown(out: Path) -> None:
    with aj.plot(out) as p:
        p.write(np.ma.array([1.0, 999.0, 3.0], mask=[False, True, False]), name="masked")  # type: ignore[no-untyped-call]
    (_, ys) = shown(out)["masked"]
    assert (ys[0], math.isnan(ys[1]), ys[2]) == (1.0, True, 3.0)


def test_heights_alone_stand_at_0_1_2(out: Path) -> None:
    with aj.plot(out) as p:
        p.write([5.0, 6.0, 7.0])
        p.write(np.array([1.5, 2.5], "f4"), name="short")
        p.write([], name="nothing")
    assert shown(out) == {
        "data": ([0.0, 1.0, 2.0], [5.0, 6.0, 7.0]), "short": ([0.0, 1.0], [1.5, 2.5]), "nothing": ([], [])
    }  # fmt: skip


@pytest.mark.slow
def test_a_trace_that_grows_step_by_step_leaves_no_old_files(out: Path) -> None:
    xs: list[float] = []
    with aj.plot(out, every=60) as p:
        for step in range(500):
            xs.extend([float(step)] * 100)
            p.write(xs, xs, name="grows", mode=("lines", "markers")[step % 2])
            p.draw(bars, xs[-1:] * step, name="grows")
        files = [*spool_of(out).rglob("*.frame")]
        assert len(files) == 2, "one of the trace, one of the picture"
        assert sum(file.stat().st_size for file in files) < 6 * 2 * 8 * len(xs)
    assert shown(out)["grows"] == (xs, xs)


def test_a_trace_and_a_picture_of_one_name_do_not_replace_each_other(out: Path) -> None:
    with aj.plot(out) as p:
        p.write([1.0], [2.0], name="fit")
        p.draw(bars, [3.0], name="fit")
    assert shown(out) == {"fit": ([1.0], [2.0])}
    assert shown(out.with_name("loss-fit.json"))["bars"] == ([1.0, 2.0], [3.0])


def test_the_newest_trace_of_a_name_wins_and_later_changes_do_not_show(out: Path) -> None:
    x = np.arange(1000.0)
    with aj.plot(out) as p:
        for scale in range(50):
            y = x * scale
            p.write(x, y, name="fit", mode="markers")
            y += 1e6
        x += 1e6
    assert shown(out)["fit"] == ([float(n) for n in range(1000)], [49.0 * n for n in range(1000)])
    assert json.loads(out.read_text())["data"][0]["mode"] == "markers"


def test_a_trace_may_grow_and_change_its_look(out: Path) -> None:
    with aj.plot(out) as p:
        for size in (1, 10, 10_000, 0, 3):
            p.write(list(range(size)), [1.0] * size, name="fit", mode="lines" if size else "markers")
    assert shown(out)["fit"] == ([0.0, 1.0, 2.0], [1.0] * 3)


@pytest.mark.parametrize(
    ("x", "y", "error", "words"),
    [
        ([1, 2], [1, 2, 3], ValueError, "x has 2 points and y has 3"),
        ([1, "two"], [1, 2], TypeError, r"x\[1\] is str 'two', and no number"),
        ([1, 2], [1, None], TypeError, r"y\[1\] is NoneType None, and no number"),
        ("text", [1], TypeError, "x must be numbers, in a list, an array, a series or a tensor, not str 'text'"),
        ([1], b"x", TypeError, "y must be numbers, .*, not bytes"),
        (5, [1], TypeError, "x must be numbers, .*, not int 5"),
        (np.ones((2, 2)), [1], ValueError, r"x must have one dimension, not the shape \(2, 2\)"),
        (np.array(["a"]), [1], TypeError, "x must be real numbers, not <U1 as in ndarray array"),
        (np.array([1 + 1j]), [1], TypeError, "x must be real numbers, not complex128"),
        (np.array(["2026-11-22"], "M8[D]"), [1], TypeError, r"x must be real numbers, not datetime64\[D\]"),
        (None, [1], TypeError, "x must be numbers, .*, not NoneType None"),
        (None, None, TypeError, "x must be numbers, .*, not NoneType None"),
        ("abc", None, TypeError, "x must be numbers, .*, not str 'abc'"),
        (["y" * 5000], None, TypeError, r"x\[0\] is str 'y{58}…, and no number"),
        ([10**400], [1], TypeError, r"x\[0\] is int 10{58}…, and no number"),
        ([[1, 2]], [1], TypeError, r"x\[0\] is list \[1, 2\]"),
    ],
)
def test_what_cannot_be_written_is_an_error_that_names_it(
    out: Path, x: Any, y: Any, error: type[Exception], words: str
) -> None:
    with aj.plot(out) as p:
        with pytest.raises(error, match=words):
            p.write(x, y)
        with pytest.raises(ValueError, match="mode is 'dots'; it must be one of 'lines'"):
            p.write([1], [1], mode="dots")
        with pytest.raises(TypeError, match="name is 3; it must be text"):
            p.write([1], [1], name=3)  # type: ignore[arg-type]
        p.write([1], [2])
    assert shown(out) == {"data": ([1.0], [2.0])}


# --- draw -------------------------------------------------------------------------------


def bars(heights: list[float]) -> dict[str, Any]:
    return {"data": [{"type": "bar", "name": "bars", "x": [1.0, 2.0], "y": heights}], "layout": {}}


@pytest.mark.slow
@pytest.mark.parametrize("lane", ["thread", "process"])
def test_a_drawn_picture_shows_its_arguments_as_they_were(out: Path, lane: str) -> None:
    heights = [1.0, 2.0]
    with aj.plot(out) as p:
        p.draw(bars, heights, lane=lane)
        heights[0] = 99.0
        assert p.flush(60)
    assert shown(out.with_name("loss-bars.json")) == {"bars": ([1.0, 2.0], [1.0, 2.0])}


def test_a_figure_of_plotly_s_and_a_function_that_makes_one(tmp_path: Path) -> None:
    from plotly import graph_objects

    def make(n: int) -> Any:
        return graph_objects.Figure([graph_objects.Scatter(x=[0, 1], y=np.array([0.0, n]), name="made")])

    with aj.plot(tmp_path / "loss.html") as p:
        p.log(0, y=1.0)
        p.draw(make, 3)
        p.draw(make(4), name="as it is")
        assert p.flush(60)
    _, made, given = figures_of(tmp_path / "loss.html")
    assert numbers(made["data"][0]["y"]) == [0.0, 3.0]
    assert numbers(given["data"][0]["y"]) == [0.0, 4.0]


def test_the_newest_drawing_of_a_name_wins(out: Path) -> None:
    with aj.plot(out) as p:
        for height in range(200):
            p.draw(bars, [0.0, float(height)], name="bars")
        assert p.flush(60)
    assert shown(out.with_name("loss-bars.json")) == {"bars": ([1.0, 2.0], [0.0, 199.0])}


def fail() -> None:
    raise LookupError("no data yet")


def test_a_drawing_that_fails_is_told_once_and_harms_no_other(out: Path, caplog: pytest.LogCaptureFixture) -> None:
    def answer() -> int:
        return 42

    with aj.plot(out) as p:
        for _ in range(2):
            p.draw(fail)
            assert not p.flush(60)
        p.draw(answer)
        p.log(0, y=1.0)
    assert shown(out) == {"y": ([0.0], [1.0])}
    told = [record.message for record in caplog.records if record.name == "asyncjobs" and "drawing" in record.message]
    assert len(told) == 2
    assert "drawing 'fail' failed: LookupError: no data yet" in told[0]
    assert "draw wants a function that returns a plotly figure" in told[1]


@pytest.mark.slow
@pytest.mark.parametrize("lane", ["thread", "process"])
def test_a_picture_that_fails_is_no_success_and_nothing_to_keep(
    out: Path, lane: str, capsys: pytest.CaptureFixture[str]
) -> None:
    p = aj.plot(out)
    p.log(0, y=1.0)
    p.draw(fail, lane=lane)
    assert not p.flush(60)
    assert (p.stats.undrawn, p.stats.missing) == (("fail",), ())
    assert p.stats.last_error == "drawing 'fail' failed: LookupError: no data yet"
    assert not p.close(60)
    assert p.stats.undrawn == ("fail",)
    assert shown(out) == {"y": ([0.0], [1.0])}
    assert not spool_of(out).exists(), "it could not be drawn later either"
    assert capsys.readouterr().err == ""


def test_a_picture_that_fails_is_mended_by_one_that_does_not(out: Path) -> None:
    with aj.plot(out, on_error="raise") as p:
        p.draw(fail, name="bars")
        with pytest.raises(aj.PlotIncomplete, match=r"plot 'loss': drawing 'bars' failed: LookupError: no data yet$"):
            p.flush()
        p.draw(bars, [1.0, 2.0])
        assert p.flush(60)
        assert (p.stats.undrawn, p.stats.last_error) == ((), None)


def test_two_pictures_are_not_drawn_in_threads_at_once(out: Path) -> None:
    with aj.plot(out) as p:
        p.draw(plots.meet, name="one")
        p.draw(plots.meet, name="other")
    assert [*shown(out.with_name("loss-one.json")), *shown(out.with_name("loss-other.json"))] == ["alone", "alone"]


def test_a_dictionary_may_hold_arrays_and_plotly_s_own(out: Path) -> None:
    from plotly import graph_objects

    def make() -> dict[str, Any]:
        trace = graph_objects.Scatter(x=[0, 1], y=np.array([0.5, np.nan]), name="plotly's")
        return {"data": [{"name": "arrays", "x": np.arange(2), "y": np.array([1.5, np.nan])}, trace]}

    with aj.plot(out) as p:
        p.draw(make)
        assert p.flush(60)
    arrays, other = json.loads(out.with_name("loss-make.json").read_text())["data"]
    assert (arrays["x"], arrays["y"], other["name"]) == ([0, 1], [1.5, None], "plotly's")


def since(began: float) -> float:
    return time.monotonic() - began


@pytest.mark.slow
def test_what_drawing_in_threads_takes_counts_as_plotting(out: Path) -> None:
    began = time.monotonic()
    with aj.plot(out) as p:
        p.draw(plots.compute, 0.3)
        assert p.flush(60)
        assert p.stats.cpu_share * since(began) >= 0.3
        p.draw(plots.compute, 3.0, lane="process")
        assert p.flush(60)
        assert p.stats.cpu_share * since(began) < 3.0, "that was another core's"


@pytest.mark.slow
def test_what_sending_the_rest_of_another_plot_takes_counts_as_plotting(
    out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with aj.plot(NOBODY, spool=out.parent / "spool", linger=0.1) as p:
        p.draw(plots.compute, 0.3)
    began = time.monotonic()
    with aj.plot(out, spool=out.parent / "spool") as p:
        wait_until(lambda: "could not be sent" in caplog.text.partition("an earlier plot")[2], "it was tried")
        wait_until(lambda: p.stats.cpu_share * since(began) >= 0.3, "it counts")


# --- names ------------------------------------------------------------------------------


def test_a_picture_called_like_the_plot_stands_beside_its_curves(tmp_path: Path) -> None:
    with aj.plot(tmp_path / "loss.json", tmp_path / "loss.html") as p:
        p.log(0, y=1.0)
        p.draw(bars, [1.0, 2.0], name="loss")
        p.draw(bars, [3.0, 4.0], name="loss (drawn)")
    assert [*shown(tmp_path / "loss.json")] == ["y"]
    assert len([path for path in tmp_path.glob("loss-loss*.json") if [*shown(path)] == ["bars"]]) == 2
    assert [[*traces(figure)] for figure in figures_of(tmp_path / "loss.html")] == [["y"], ["bars"], ["bars"]]


def test_every_picture_has_a_file_of_its_own_whatever_it_is_called(out: Path) -> None:
    names = [
        "Größe",
        "Grüße",
        "日本",
        "中国",
        "my fit",
        "my_fit",
        "a/b",
        "a:b",
        "n" * 300,
        "n" * 301,
        "../up",
        "<lambda>",
    ]
    with aj.plot(out) as p:
        for number, name in enumerate(names):
            p.draw(bars, [float(number), 0.0], name=name)
    found = {path.name: shown(path)["bars"][1][0] for path in out.parent.glob("loss-*.json")}
    assert sorted(found.values()) == [float(n) for n in range(len(names))]
    assert {f"loss-{name}.json" for name in names[:6]} < {*found}
    assert len([name for name in found if re.fullmatch(r"loss-a_b-[0-9a-f]{8}\.json", name)]) == 2
    assert max(map(len, found)) < 80


def test_a_picture_is_never_in_the_file_of_the_curves(out: Path) -> None:
    with aj.plot(out) as p:
        p.draw(bars, [1.0, 2.0])
        assert p.flush(60)
        assert [path.name for path in out.parent.glob("*.json")] == ["loss-bars.json"]
        p.log(0, y=1.0)
        assert p.flush(60)
    assert {path.name: [*shown(path)] for path in out.parent.glob("*.json")} == {
        "loss.json": ["y"],
        "loss-bars.json": ["bars"],
    }


def test_names_stay_as_they_are_unless_plotly_would_take_them_for_html(out: Path) -> None:
    names = ["loss<0.5", "R&D", "a < b", "<b>x</b>", "&lt;"]
    with aj.plot(out) as p:
        p.log(0, **dict.fromkeys(names, 1.0))
    assert [*shown(out)] == ["loss<0.5", "R&D", "a < b", "&lt;b>x&lt;/b>", "&amp;lt;"]
    assert [*map(html.unescape, shown(out))] == names


def test_what_cannot_be_drawn_is_an_error_at_the_call(out: Path) -> None:
    with aj.plot(out) as p:
        with pytest.raises(TypeError, match=r"draw\(bars, …\) needs a copy of the function and its arguments"):
            p.draw(bars, threading.Lock())
        with pytest.raises(ValueError, match="lane is 'gpu'; it must be 'thread' or 'process'"):
            p.draw(bars, [1.0], lane="gpu")


# --- heavy figures ----------------------------------------------------------------------

POINTS = publisher.HEAVY // 8
"""Of a trace that is heavy: two columns of 8 bytes."""


def made_elsewhere() -> int:
    """Jobs that the plots' worker process has done."""
    return studio.studio().runner.stats().lanes[studio.TEXT].succeeded


@pytest.mark.slow
def test_a_heavy_figure_is_made_text_in_a_worker_process(out: Path) -> None:
    before = made_elsewhere()
    x = np.arange(POINTS, dtype=float)
    with aj.plot(out) as p:
        p.write(x[:1000], x[:1000], name="light")
        assert p.flush(60)
        assert made_elsewhere() == before
        for factor in (2.0, 3.0):
            p.write(x, factor * x, name="heavy")
            p.log(int(factor), y=factor)
            assert p.flush(60)
            found = shown(out)
            assert found["heavy"] == (x.tolist(), (factor * x).tolist())
            assert found["y"][1][-1] == factor
        assert made_elsewhere() == before + 2
        types = {trace["name"]: trace["type"] for trace in json.loads(out.read_text())["data"]}
        assert types == {"y": "scatter", "light": "scatter", "heavy": "scattergl"}, "a browser's processor draws few"


@pytest.mark.slow
def test_a_heavy_figure_is_made_here_if_no_worker_can(
    out: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(plots, "IS_WORKER", False)
    monkeypatch.setattr(publisher, "compose", plots.compose_without_memory)
    x = np.arange(POINTS, dtype=float)
    with aj.plot(out) as p:
        p.write(x, x, name="heavy")
    assert shown(out)["heavy"] == (x.tolist(), x.tolist())
    assert "made in this process: MemoryError: the worker has none left" in caplog.text


def sleep_long() -> None:
    time.sleep(60)


@pytest.mark.slow
def test_a_slow_picture_in_a_process_holds_up_no_heavy_figure(out: Path) -> None:
    x = np.arange(POINTS, dtype=float)
    with aj.plot(out, every=0.5, linger=0.1) as p:
        p.draw(sleep_long, lane="process")
        p.write(x, x, name="heavy")
        p.log(0, y=1.0)
        wait_until(lambda: p.stats.sent and set(shown(out)) == {"y", "heavy"}, "all but the picture is shown", 60)


@pytest.mark.slow
def test_flush_ends_while_another_thread_goes_on_writing_heavy_traces(out: Path) -> None:
    x, is_over = np.arange(POINTS, dtype=float), threading.Event()
    with aj.plot(out) as p:

        def go_on() -> None:
            while not is_over.wait(0.001):
                p.write(x, x, name="other")

        writer = threading.Thread(target=go_on)
        writer.start()
        try:
            p.write(x, 2 * x, name="mine")
            assert p.flush(60)
            assert shown(out)["mine"][1][-1] == 2 * x[-1]
        finally:
            is_over.set()
            writer.join()


# --- pages ------------------------------------------------------------------------------


def test_a_page_shows_logged_and_written_traces_apart(tmp_path: Path) -> None:
    page = tmp_path / "deep" / "loss.html"
    with aj.plot(page, title="a < b") as p:
        p.log(0, y=1.0)
        p.write([1.0], [2.0], name="</script><b>")
    (figure,) = figures_of(page)
    assert [trace["yaxis"] for trace in figure["data"]] == ["y", "y2"]
    text = page.read_text()
    assert "<title>a &lt; b</title>" in text
    assert text.count("</script>") == 2
    assert "showSendToCloud: false" in text
    assert len(text) < 20_000


def test_no_two_of_many_curves_look_the_same(out: Path) -> None:
    with aj.plot(out) as p:
        p.log(0, **{f"layer{n}": 1.0 for n in range(20)})
        for n in range(20):
            p.write([1.0, 2.0], [2.0, 3.0], name=f"trace{n}", mode="markers" if n % 2 else "lines")
    found = json.loads(out.read_text())["data"]
    assert len({(one["line"]["color"], one["line"]["dash"]) for one in found}) == 40
    assert len({(one["marker"]["color"], one["marker"]["symbol"]) for one in found}) == 40


def test_an_inline_page_brings_plotly_along(tmp_path: Path) -> None:
    page = tmp_path / "loss.html"
    with aj.plot(page, inline=True) as p:
        p.log(0, y=1.0)
    assert plotly_js() in page.read_text()
    assert 'src="' not in page.read_text().replace(plotly_js(), "")


def test_readers_never_see_half_a_page(out: Path) -> None:
    is_over, seen = threading.Event(), 0

    def read() -> None:
        nonlocal seen
        while not is_over.is_set():
            if out.exists():
                json.loads(out.read_text())
                seen += 1

    reader = threading.Thread(target=read)
    reader.start()
    try:
        with aj.plot(out) as p:
            for step in range(20):
                p.log(step, y=1.0)
                assert p.flush(20)
    finally:
        is_over.set()
        reader.join()
    assert seen > 0
    assert sorted(path.name for path in out.parent.iterdir()) == ["loss.json"]


# --- waiting ----------------------------------------------------------------------------


def test_flush_brings_everything_so_far(out: Path) -> None:
    with aj.plot(out, every=60) as p:
        assert p.flush(20), "nothing is to be sent"
        for step in range(3):
            p.log(step, y=float(step))
            assert p.flush(20)
            assert shown(out)["y"][1][-1] == step


async def test_aflush_and_async_with(out: Path) -> None:
    async with aj.plot(out, every=60) as p:
        p.log(0, y=1.0)
        assert await p.aflush(20)
        assert shown(out)["y"] == ([0.0], [1.0])
        p.log(1, y=2.0)
    assert shown(out)["y"][1] == [1.0, 2.0]
    assert await p.aflush()
    assert p.flush()
    await asyncio.sleep(0)


def test_points_appear_by_themselves(out: Path) -> None:
    with aj.plot(out, every=0.5) as p:
        p.log(0, y=1.0)
        wait_until(lambda: p.stats.sent, "the first edition is out")
        assert shown(out)["y"] == ([0.0], [1.0])


def test_closing_twice_and_a_plot_of_nothing_are_fine(out: Path) -> None:
    with aj.plot(out) as p:
        assert "'loss'" in repr(p)
        assert "open" in repr(p)
    assert p.close()
    assert "closed" in repr(p)
    assert not out.exists()
    assert not spool_of(out).exists()


def test_a_plot_that_is_opened_again_closes_the_one_before(out: Path) -> None:
    first = aj.plot(out)
    first.log(0, y=1.0)
    with aj.plot(out) as second:
        assert first.closed
        second.log(0, z=1.0)
    assert shown(out) == {"z": ([0.0], [1.0])}


NOBODY = "http://127.0.0.1:9/loss.html"
"""The port of the discard service, which nobody runs."""


def test_on_error_raise_tells_flush_and_close_and_nobody_else(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    p = aj.plot(out, NOBODY, on_error="raise", linger=0.5)
    for step in range(100):
        p.log(step, y=1.0)
    with pytest.raises(
        aj.PlotIncomplete, match=r"not complete at http://127\.0\.0\.1:9/loss\.html \(URLError: .*refused"
    ):
        p.flush()  # without a limit: at the first try that fails
    with pytest.raises(aj.PlotIncomplete, match="asyncjobs plot resume"):
        p.flush(0.1)
    with pytest.raises(aj.PlotIncomplete, match="not complete at http"):
        p.close()
    assert not p.close(), "it was said"
    assert shown(out)["y"][1] == [1.0] * 100
    assert "asyncjobs: plot 'loss' is not complete at http://127.0.0.1:9/loss.html" in capsys.readouterr().err


async def test_on_error_raise_in_async_code(out: Path) -> None:
    p = aj.plot(out, NOBODY, on_error="raise", linger=0.5)
    p.log(0, y=1.0)
    with pytest.raises(aj.PlotIncomplete):
        await p.aflush()
    with pytest.raises(aj.PlotIncomplete, match="not complete at http"):
        await p.__aexit__(None, None, None)


def test_on_error_raise_hides_no_other_error_and_no_success(out: Path) -> None:
    with pytest.raises(ZeroDivisionError), aj.plot(out, NOBODY, on_error="raise", linger=0.1) as p:
        p.log(0, y=1.0 / len(p.targets[2:]))
    with aj.plot(out.with_name("other.json"), on_error="raise", spool=out.parent / "other") as p:
        p.log(0, y=1.0)
        assert p.flush(20)


def test_many_sinks_that_are_stuck_hold_up_no_other(out: Path) -> None:
    with serving(*[STALL] * 40) as server:
        p = aj.plot(*(f"{server.address}/{n}.json" for n in range(40)), out, linger=0.1)
        p.log(0, y=1.0)
        wait_until(out.exists, "the file is there")
        assert not p.close()


@pytest.mark.slow
def test_the_plots_runner_says_nothing_of_itself_and_ends_soon(out: Path, caplog: pytest.LogCaptureFixture) -> None:
    ends = []
    for turn in range(3):  # a machine that is busy may take longer once
        with serving(STALL) as server:
            p = aj.plot(f"{server.address}/loss.json", linger=0.1, spool=out.parent / f"spool {turn}")
            p.log(0, y=1.0)
            wait_until(lambda: server.requests, "the sink is stuck")
            studio.studio().portal.post(time.sleep, 0.6)  # the loop answers nobody
            p.close()
            began = time.monotonic()
            plots.end_studio()
            ends.append(since(began))
    assert min(ends) < 1.5
    assert [record.message for record in caplog.records if "runner" in record.message or "loop" in record.message] == []


# --- bad input --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("targets", "options", "error", "words"),
    [
        ((), {}, ValueError, "plot.. needs a target"),
        (("loss.doc",), {}, ValueError, r"loss\.doc' must end in one of \.html, .*, not '\.doc'"),
        (
            ("gopher://x/loss.html",),
            {},
            ValueError,
            "no sink knows the scheme of 'gopher://x/loss.html'; known are .*https",
        ),
        ((3,), {}, TypeError, "a target must be text or a path, not 3"),
        (("https:///loss.html",), {}, ValueError, "names no host"),
        (("https://host/x?method=GET",), {}, ValueError, "method='GET'.*must be PUT or POST"),
        (("a.html",), {"every": 0.1}, ValueError, "every=0.1 is not allowed; allowed: 0.5 s and more"),
        (("a.html",), {"every": "1"}, ValueError, "every='1' is not allowed"),
        (("a.html",), {"max_share": 0}, ValueError, "max_share=0 is not allowed"),
        (("a.html",), {"max_points": 3}, ValueError, "max_points=3 is not allowed"),
        (("a.html",), {"linger": -1}, ValueError, "linger=-1 is not allowed"),
        (("a.html",), {"ranks": "some"}, ValueError, "ranks='some' is not allowed; allowed: 'first' and 'all'"),
        (("a.html",), {"title": 3}, TypeError, "title=3 is not allowed; allowed: text, or None"),
        (("a.html",), {"title": ["a"]}, TypeError, r"title=\['a'\] is not allowed"),
        (("a.html",), {"title": "x\ud800"}, ValueError, r"title='x\\ud800' is not allowed; allowed: text that UTF-8"),
        (("a.html",), {"spool": 3}, TypeError, "spool=3 is not allowed; allowed: the path of a folder, or None"),
        (("a.html",), {"spool": "a\0b"}, ValueError, r"spool='a\\x00b' is not allowed"),
        (("a\0b.html",), {}, ValueError, r"'a\\x00b.html' is not allowed; allowed: a path without"),
        (("loss-12:30.html",), {}, ValueError, r"no sink knows .*Or do you mean the file '\./loss-12:30\.html'"),
        (("a.html",), {"on_error": "stop"}, ValueError, "on_error='stop' is not allowed; allowed: 'warn' and 'raise'"),
    ],
)
def test_a_wrong_argument_is_an_error_that_names_it(
    targets: Any, options: Any, error: type[Exception], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=words):
        aj.plot(*targets, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_cannot_be_written_is_an_error_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        aj.plot(tmp_path / "file" / "loss.html")
    (tmp_path / "loss.html").mkdir()
    with pytest.raises(IsADirectoryError, match=r"loss\.html is a folder; name a file in it"):
        aj.plot(tmp_path / "loss.html")


# --- ranks and processes ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK"])
def test_other_ranks_do_nothing_unless_asked(out: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "3")
    with aj.plot(out) as p:
        p.log(0, y=1.0)
        p.write([1], [1])
        p.draw(bars, [1.0])
        assert p.flush(1)
    assert list(out.parent.iterdir()) == []
    with aj.plot(out, ranks="all") as p:
        p.log(0, y=1.0)
    assert [path.name for path in out.parent.iterdir()] == ["loss.rank3.json"]
    monkeypatch.setenv(name, "0")
    with aj.plot(out, ranks="all") as p:
        p.log(0, y=1.0)
    assert out.exists()


def test_a_rank_that_is_no_number_is_none(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "\u00b2")
    with aj.plot(out) as p:
        p.log(0, y=1.0)
    assert shown(out) == {"y": ([0.0], [1.0])}


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/runs/a.b/loss.html", "/runs/a.b/loss.rank3.html"),
        ("tensorboard:/runs/a.b", "tensorboard:/runs/a.b/rank3"),
        ("s3://bucket/run/loss.html", "s3://bucket/run/loss.rank3.html"),
        ("https://host/loss.html?key=1.2", "https://host/loss.rank3.html?key=1.2"),
        ("https://host/plots?method=POST", "https://host/plots?method=POST"),
        ("https://host/plots.json?method=POST", "https://host/plots.json?method=POST"),
        ("live:", "live:"),
    ],
)
def test_each_rank_has_a_place_of_its_own(target: str, expected: str) -> None:
    assert for_rank(target, 3) == expected


def log_far_away(p: aj.Plot, first: int) -> None:
    for step in range(first, first + 100):
        p.log(step, far=float(step))
    p.write([1.0, 2.0], [3.0, 4.0], name=f"from {first}")


@pytest.mark.slow
def test_a_process_job_logs_to_the_same_plot(out: Path) -> None:
    with aj.plot(out) as p, aj.SyncRunner(processes=2) as runner:
        p.log(0, here=1.0)
        jobs = [runner.options(lane="process").submit(log_far_away, p, first) for first in (0, 100, 200)]
        for job in jobs:
            job.result(60)
    found = shown(out)
    assert found["here"] == ([0.0], [1.0])
    assert sorted(found["far"][1]) == [float(n) for n in range(300)]
    assert found["from 200"] == ([1.0, 2.0], [3.0, 4.0])


def flush_far_away(p: aj.Plot) -> tuple[bool, bool, str]:
    with p:
        p.log(0, far=1.0)
        try:
            _ = p.stats
        except AttributeError as error:
            return p.flush(1), p.close(), str(error)
    return False, False, "it has what it cannot know"


@pytest.mark.slow
def test_a_process_job_may_flush_and_close_what_is_not_its_own(out: Path) -> None:
    with aj.plot(out) as p, aj.SyncRunner(processes=1) as runner:
        flushed, closed, said = runner.options(lane="process").submit(flush_far_away, p).result(60)
        assert (flushed, closed, p.closed) == (True, True, False)
        assert "and no stats: ask the process that opened it" in said
        p.log(1, far=2.0)
    assert sorted(shown(out)["far"][1]) == [1.0, 2.0]


def test_a_pen_for_a_plot_that_has_ended_writes_nowhere(out: Path) -> None:
    p = aj.plot(out)
    packed = pickle.dumps(p)
    p.close()
    pickle.loads(packed).log(0, y=1.0)
    assert not spool_of(out).exists()
