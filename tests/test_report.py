"""The pictures of a runner and the page they stand on."""

from __future__ import annotations

import html
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from browser import needs_browser, open_in_browser
from hypothesis import given
from hypothesis import strategies as st

from asyncjobs import report
from asyncjobs.page import Code, Table, escape, write_html
from asyncjobs.stats import LaneStats, Span, Stats, percentiles, total

T = 1_760_000_000.0
NOTHING = percentiles([])


def lane(name: str, kind: str = "process", **changes: object) -> LaneStats:
    values: dict[str, object] = dict.fromkeys(
        ("submitted", "succeeded", "failed", "timed_out", "cancelled", "lost", "retries", "crashes", "abandoned"), 0
    )
    values |= {"places": 2, "busy": 0, "queued": 0, "queue_size": 9, "wait": NOTHING, "run": NOTHING, "busy_share": 0.0}
    return LaneStats(lane=name, kind=kind, **(values | changes))  # type: ignore[arg-type]


def stats(*spans: Span) -> Stats:
    names = dict.fromkeys(span.lane for span in spans)
    return total([lane(name) for name in names], open_seconds=9.0, loop_lag=NOTHING, spans=spans)


def span(
    queued: float,
    started: float | None,
    ended: float,
    *,
    worker: str = "process-0",
    lane: str = "process",
    state: str = "SUCCEEDED",
    name: str = "job",
) -> Span:
    begun = None if started is None else T + started
    seconds = 0.0 if started is None else ended - started
    return Span(lane, "" if started is None else worker, name, state, T + queued, begun, T + ended, seconds, begun)


def written(figures: dict[str, Any], path: Path, **changes: str) -> str:
    """The text of the page with `figures`, written to `path`."""
    write_html(figures, path, **changes)
    return path.read_text(encoding="utf-8")


def many(count: int) -> Stats:
    states = ("SUCCEEDED", "SUCCEEDED", "SUCCEEDED", "FAILED", "TIMED_OUT", "CANCELLED", "LOST")
    return stats(
        *(
            span(
                index / 100,
                index / 100 + 0.01,
                index / 100 + 0.05,
                worker=f"process-{index % 4}",
                state=states[index % 7],
                name=f"resize[{index}]",
            )
            for index in range(count)
        )
    )


# -- figures -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_runner_that_ran_nothing_has_pictures_that_say_so() -> None:
    drawn = report.figures(stats())
    assert list(drawn) == ["Jobs per worker", "Queue depth", "Waiting and running", "Throughput"]
    for figure in drawn.values():
        assert not figure.data
        assert figure.layout.annotations[0].text == "No job has finished yet."


def test_every_picture_has_a_title_and_a_caption() -> None:
    for heading, figure in report.figures(many(20)).items():
        assert figure.layout.title.text == heading
        assert len(figure.layout.meta["caption"]) > 40


def test_the_timeline_has_one_trace_per_final_state_in_a_fixed_order() -> None:
    figure = report.timeline(many(70))
    assert [trace.name for trace in figure.data] == ["succeeded", "failed", "timed out", "cancelled", "lost"]
    assert [len(trace.x) for trace in figure.data] == [30, 10, 10, 10, 10]


def test_the_timeline_counts_seconds_from_the_first_job_queued() -> None:
    figure = report.timeline(stats(span(3.0, 3.5, 4.0), span(3.25, 4.0, 6.0)))
    assert list(figure.data[0].base) == [0.5, 1.0]
    assert list(figure.data[0].x) == [0.5, 2.0]


def test_jobs_of_one_worker_at_the_same_time_lie_side_by_side() -> None:
    figure = report.timeline(
        stats(
            span(0, 0, 2, worker="thread", lane="thread"),
            span(0, 1, 3, worker="thread", lane="thread"),
            span(0, 2, 4, worker="thread", lane="thread"),
        )
    )
    first, second, third = figure.data[0].y
    assert first == third != second
    assert list(figure.layout.yaxis.ticktext) == ["thread"]


def test_a_thousand_coroutines_at_once_share_a_band_of_eight_rows() -> None:
    figure = report.timeline(stats(*(span(0, 0, 1, worker="loop", lane="loop") for _ in range(1000))))
    assert len(set(figure.data[0].y)) == 1000
    assert max(figure.data[0].y) < 8
    assert figure.layout.height < 600


def test_workers_stand_in_the_order_of_lanes_and_numbers() -> None:
    workers = [("thread", "thread"), ("process", "process-10"), ("process", "process-2"), ("gpu", "cuda")]
    figure = report.timeline(stats(*(span(0, 0, 1, lane=lane, worker=worker) for lane, worker in workers)))
    assert list(figure.layout.yaxis.ticktext) == ["thread", "process-2", "process-10", "gpu: cuda"]


def test_a_job_that_never_started_is_drawn_from_queued_to_ended_in_a_row_of_its_own() -> None:
    figure = report.timeline(stats(span(0, 0.5, 1), span(1, None, 3, state="CANCELLED")))
    assert list(figure.layout.yaxis.ticktext) == ["process-0", "process: never started"]
    cancelled = figure.data[1]
    assert (cancelled.base[0], cancelled.x[0]) == (1.0, 2.0)


def test_of_a_job_that_was_tried_again_the_bar_is_the_last_attempt_and_the_queue_was_left_at_the_first() -> None:
    again = span(0, 1, 9)._replace(attempt_at=T + 7, seconds=2.0)
    (bar,) = report.timeline(stats(again)).data
    assert (bar.base[0], bar.x[0]) == (7.0, 2.0)
    at, _ = report.depth_steps([again])
    assert at == [T, T + 1]


def test_a_job_that_ended_between_two_attempts_stands_in_a_row_of_its_own() -> None:
    waited = span(0, 1, 9, worker="")._replace(attempt_at=None, seconds=0.0)
    figure = report.timeline(stats(waited))
    assert list(figure.layout.yaxis.ticktext) == ["process: ended between attempts"]
    assert (figure.data[0].base[0], figure.data[0].x[0]) == (0.0, 9.0)


@pytest.mark.slow
def test_the_timeline_draws_the_newest_ten_thousand_jobs() -> None:
    figure = report.timeline(many(10_100))
    assert sum(len(trace.x) for trace in figure.data) == 10_000


def test_the_names_of_jobs_and_workers_are_text_and_not_markup() -> None:
    figure = report.timeline(stats(span(0, 0, 1, name="<b>x</b>", worker="process-<i>")))
    assert figure.data[0].customdata[0][0] == "&lt;b&gt;x&lt;/b&gt;"
    assert figure.layout.yaxis.ticktext[0] == "process-&lt;i&gt;"


def test_the_queue_depth_has_a_strip_per_lane_with_finished_jobs() -> None:
    idle = total(
        [lane("thread"), lane("process")],
        open_seconds=1.0,
        loop_lag=NOTHING,
        spans=[span(0, 1, 2), span(0.5, 2, 3)],
    )
    figure = report.queue_depth(idle)
    assert [trace.name for trace in figure.data] == ["process"]
    assert list(figure.data[0].x) == [0.0, 0.5, 1.0, 2.0]
    assert list(figure.data[0].y) == [1, 2, 1, 0]


def test_the_histograms_count_every_started_job_once() -> None:
    figure = report.durations(stats(span(0, 0.1, 1), span(0, 0.1, 1), span(0, None, 5, state="CANCELLED")))
    waits, runs = figure.data
    # Each bin is two points of the step line.
    assert sum(waits.y) / 2 == sum(runs.y) / 2 == 2


def test_the_bars_of_the_throughput_add_up_to_the_number_of_jobs() -> None:
    figure = report.throughput(many(400))
    bars = figure.data[0]
    assert sum(bars.y) * bars.width == pytest.approx(400)


def test_jobs_that_all_ended_at_one_instant_can_be_drawn() -> None:
    drawn = report.figures(stats(span(0, 0, 0), span(0, 0, 0)))
    assert all(figure.data for figure in drawn.values())


def test_the_summary_has_a_row_per_lane() -> None:
    times = percentiles([0.001, 0.002, 0.003])
    one = lane("process", succeeded=1234, failed=1, wait=times, run=times, busy_share=0.5)
    table = report.summary(total([one, lane("loop")], open_seconds=1.0, loop_lag=NOTHING, spans=[]))
    assert table.rows == [
        ("process", "1,234", "1", "0", "0", "0", "2 ms", "2 ms", "50%"),
        ("loop", "0", "0", "0", "0", "0", "-", "-", "0%"),
    ]
    assert {len(row) for row in table.rows} == {len(table.head)}


# -- rules -------------------------------------------------------------------------------------------------

INTERVALS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 10)).map(lambda pair: (pair[0], sum(pair))))


@given(INTERVALS)
def test_packed_intervals_never_overlap_within_a_row(intervals: list[tuple[int, int]]) -> None:
    rows, count = report.pack(intervals)
    assert set(rows) == set(range(count))
    for row in range(count):
        mine = sorted(interval for interval, at in zip(intervals, rows, strict=True) if at == row)
        assert all(left[1] <= right[0] for left, right in pairwise(mine))


@given(INTERVALS)
def test_packing_takes_no_more_rows_than_jobs_run_at_once(intervals: list[tuple[int, int]]) -> None:
    spread = [(start, end + 1) for start, end in intervals]
    at_once = [sum(start <= moment < end for start, end in spread) for moment in range(50)]
    assert report.pack(spread)[1] == max(at_once)


@pytest.mark.slow
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9), st.booleans())))
def test_a_queue_is_never_shorter_than_empty_and_ends_empty(jobs: list[tuple[int, int, int, bool]]) -> None:
    spans = [span(at, at + wait if ran else None, at + wait + run) for at, wait, run, ran in jobs]
    at, depth = report.depth_steps(spans)
    assert at == sorted(set(at))
    assert all(length >= 0 for length in depth)
    assert not depth or depth[-1] == 0


@given(st.lists(st.floats(0, 1e6)))
def test_logarithmic_bins_hold_every_value_once(values: list[float]) -> None:
    edges, counts = report.log_bins(values)
    assert sum(counts) == len(values)
    assert len(edges) == (len(counts) + 1 if values else 0)
    if values:
        assert edges[0] <= max(min(values), 1e-6) * (1 + 1e-9)
        assert edges[-1] * (1 + 1e-9) >= max(values)


@pytest.mark.parametrize(
    ("step", "nice"), [(0.0, 0.0), (0.0011, 0.002), (0.2, 0.2), (0.3, 0.5), (7.0, 10.0), (10.0, 10.0), (11.0, 20.0)]
)
def test_a_nice_step_is_one_two_or_five_times_a_power_of_ten(step: float, nice: float) -> None:
    assert report.nice_step(step) == pytest.approx(nice)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 µs"),
        (40e-6, "40 µs"),
        (0.0009999, "1 ms"),
        (0.0025, "2.5 ms"),
        (0.1, "100 ms"),
        (1.853, "1.85 s"),
        (1234.5, "1,234 s"),
    ],
)
def test_durations_are_written_with_three_digits(seconds: float, text: str) -> None:
    assert report.seconds_text(seconds) == text


# -- the page ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_page_holds_plotly_once_and_names_nothing_to_load(tmp_path: Path) -> None:
    page = written(report.figures(many(50)), tmp_path / "new" / "page.html")
    assert len(re.findall(r"plotly\.js v\d", page)) == 1
    assert page.count("Plotly.newPlot(") >= 4
    outside = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert "http" not in outside.replace("http-equiv", "")
    assert not re.findall(r"<(?:script|img|link)[^>]*(?:src|href)=\"(?!data:)", page)


@given(st.text(alphabet="&<>\"'amplt;x"))
def test_text_is_escaped_as_the_standard_library_does(text: str) -> None:
    assert escape(text) == html.escape(text)


def test_all_text_on_the_page_is_escaped(tmp_path: Path) -> None:
    nasty = "<img src=x onerror=alert(1)>"
    parts = {nasty: [nasty, Table((nasty,), [(nasty,)]), Code(nasty)]}
    page = written(parts, tmp_path / "page.html", title=nasty, intro=nasty)
    assert "<img" not in page
    assert page.count("&lt;img") == 8


def test_a_job_named_like_a_closing_script_tag_does_not_end_the_script(tmp_path: Path) -> None:
    drawn = {"one": report.timeline(stats(span(0, 0, 1, name="</script><h1>oops")))}
    page = written(drawn, tmp_path / "page.html")
    assert "<h1>oops" not in page


def test_paragraphs_captions_and_several_parts_keep_their_order(tmp_path: Path) -> None:
    figure = report.timeline(many(3))
    content = {"Heading": ["before", figure, Table(("a", "b"), [("1", "2")]), "after"]}
    page = written(content, tmp_path / "page.html", intro="one\n\ntwo")
    wanted = [
        "<p>one</p>",
        "<p>two</p>",
        "Heading",
        "<p>before",
        "<p>Each bar",
        '<div id="figure-1"',
        "<td>2</td>",
        "<p>after",
    ]
    places = [page.index(text) for text in wanted]
    assert places == sorted(places)


def test_putting_a_figure_on_a_page_leaves_its_title_in_place(tmp_path: Path) -> None:
    figure = report.timeline(many(3))
    write_html({"one": figure}, tmp_path / "page.html")
    assert figure.layout.title.text == "Jobs per worker"


@pytest.mark.slow
def test_importing_the_pictures_loads_neither_plotly_nor_what_only_pages_need() -> None:
    program = "import sys, asyncjobs.report; sys.exit(bool({'plotly', 'html'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_without_plotly_the_error_says_what_to_install() -> None:
    program = """if True:
        import sys
        sys.modules["plotly"] = None
        from asyncjobs import report, stats
        nothing = stats.percentiles([])
        report.figures(stats.total([], open_seconds=0.0, loop_lag=nothing, spans=[]))
    """
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert 'ModuleNotFoundError: pictures need plotly: pip install "asyncjobs-runner[plot]"' in ended.stderr


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("count", [0, 10_000])
def test_a_browser_draws_every_picture_and_has_nothing_to_complain_about(tmp_path: Path, count: int) -> None:
    page = tmp_path / "page.html"
    write_html(report.figures(many(count)), page)
    assert open_in_browser(page, tmp_path) == (4, [])


@pytest.mark.slow
@needs_browser
def test_the_browser_itself_refuses_whatever_a_page_would_load(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    text = written({"one": "text"}, page)
    page.write_text(text.replace("</main>", '<img src="http://127.0.0.1:9/x.png"></main>'), encoding="utf-8")
    drawn, complaints = open_in_browser(page, tmp_path)
    assert drawn == 0
    assert "violates the following Content Security Policy" in complaints[0]
