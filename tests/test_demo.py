"""The demo: its data, its plot server, both training runs, the windows, the page."""

from __future__ import annotations

import http.client
import io
import json
import math
import socket
import threading
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from browser import needs_browser, open_in_browser
from rich.console import Console

import asyncjobs
from asyncjobs.bench import density, plotserver
from asyncjobs.bench.plotserver import PlotServer, upload
from asyncjobs.cli.demo import descent, findings, gapminder, pictures, prepare, run_demo, windows
from asyncjobs.cli.demo.descent import Problem, Run
from asyncjobs.cli.demo.findings import Training
from asyncjobs.cli.demo.windows import Timing


def at_once() -> None:
    """What a plot server does before its answer, if nothing."""


@pytest.fixture(scope="module")
def problem() -> Problem:
    return descent.prepare(gapminder.read())


@pytest.fixture
def training(problem: Problem) -> Training:
    with PlotServer(at_once) as plots:
        blocking = descent.train_blocking(problem, plots, steps=40)
        background = asyncjobs.run(descent.train_in_background(problem, plots, steps=40))
        arrived = {run.name: len(plots.arrived(f"/{run.name}/")) for run in (blocking, background)}
    return Training(blocking, background, arrived)


# -- data --------------------------------------------------------------------------------------------------


def test_the_table_that_ships_with_plotly_has_142_countries_in_2007() -> None:
    countries = gapminder.read()
    assert len(countries) == 142
    norway = next(country for country in countries if country.name == "Norway")
    assert norway == ("Norway", "Europe", 49357.19017, 80.196, 4627926)


def test_a_year_that_the_table_lacks_is_an_error_that_says_which_it_has() -> None:
    with pytest.raises(ValueError, match="no year 2008; it has every fifth from 1952 to 2007"):
        gapminder.read(2008)


def test_standardised_values_have_mean_zero_and_deviation_one_and_a_way_back() -> None:
    values, mean, deviation = gapminder.standardise([1.0, 2.0, 4.0, 9.0])
    assert values.mean() == pytest.approx(0.0, abs=1e-12)
    assert values.std() == pytest.approx(1.0)
    assert list(values * deviation + mean) == pytest.approx([1.0, 2.0, 4.0, 9.0])


def test_each_doubling_of_income_counts_the_same() -> None:
    country = gapminder.Country("x", "Asia", 1000.0, 70.0, 1)
    step = gapminder.log_income(country._replace(income=2000.0)) - gapminder.log_income(country)
    assert step == pytest.approx(math.log(2))


# -- descent -----------------------------------------------------------------------------------------------


def test_gradient_descent_ends_at_the_least_squares_line(problem: Problem) -> None:
    *_, last = descent.descend(problem, steps=3000)
    slope, intercept = np.polyfit(problem.income.values, problem.life.values, 1)
    assert last.slope == pytest.approx(slope, abs=1e-9)
    assert last.intercept == pytest.approx(intercept, abs=1e-9)


def test_the_loss_falls_with_every_step(problem: Problem) -> None:
    losses = [step.loss for step in descent.descend(problem)]
    assert len(losses) == descent.STEPS
    assert all(later < earlier for earlier, later in pairwise(losses))


def test_an_uploaded_plot_is_plotlys_json_with_data_and_line(problem: Problem) -> None:
    plot = json.loads(descent.plot(problem, descent.Step(3, 0.5, 0.0, 1.0)))
    assert [trace["name"] for trace in plot["data"]] == ["countries", "step 3"]


def test_both_runs_end_with_the_same_parameters_and_every_upload_arrives(training: Training) -> None:
    assert training.same
    assert training.complete
    assert training.arrived == {"blocking": 4, "background": 4}
    assert training.blocking.steps == training.background.steps


def test_a_run_ends_when_its_last_upload_has_been_answered(training: Training) -> None:
    for run in (training.blocking, training.background):
        assert len(run.steps) == len(run.step_ends) == 40
        assert run.step_ends == sorted(run.step_ends)
        assert run.trained == run.step_ends[-1] <= run.finished
        assert run.finished >= max(end for _, end in run.uploads)
        assert all(0.0 <= start <= end for start, end in run.uploads)
        assert run.rate == pytest.approx(40 / run.trained)


def test_in_the_background_training_goes_on_while_the_server_still_answers(problem: Problem) -> None:
    # The server answers nobody until three uploads wait at once: a loop that waits for its first would fail.
    together = threading.Barrier(3)
    with PlotServer(partial(together.wait, 20)) as plots:
        run = asyncjobs.run(descent.train_in_background(problem, plots, steps=30))
    assert len(plots.arrived()) == len(run.uploads) == 3
    assert run.uploads[0][0] < run.trained


# -- the plot server ---------------------------------------------------------------------------------------


def test_the_server_keeps_what_arrived_by_path() -> None:
    with PlotServer(at_once) as plots:
        upload(plots.port, "/a/1", b"12345")
        upload(plots.port, "/b/1", b"")
    assert plots.arrived() == [("/a/1", 5), ("/b/1", 0)]
    assert plots.arrived("/b/") == [("/b/1", 0)]


def test_the_server_listens_on_this_machine_only() -> None:
    with PlotServer(at_once) as plots, socket.create_connection(("127.0.0.1", plots.port)) as connection:
        assert connection.getpeername()[0] == "127.0.0.1"


def test_an_upload_goes_past_the_proxy_that_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with PlotServer(at_once) as plots:
        sent = upload(plots.port, "/plots/1", b"x")
    assert sent.ended > sent.started


def test_an_upload_that_nobody_takes_is_an_error() -> None:
    with PlotServer(at_once) as plots:
        port = plots.port
    with pytest.raises(ConnectionRefusedError):
        upload(port, "/plots/1", b"x")


def test_the_server_refuses_what_is_no_upload() -> None:
    with PlotServer(at_once) as plots:
        connection = http.client.HTTPConnection("127.0.0.1", plots.port, timeout=10)
        connection.request("GET", "/")
        assert connection.getresponse().status == 501
        connection.close()
    assert plots.arrived() == []


def test_many_uploads_at_once_all_get_through() -> None:
    with PlotServer(at_once) as plots:
        paths = [f"/{index}" for index in range(40)]
        threads = [threading.Thread(target=upload, args=(plots.port, path, b"x")) for path in paths]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(arrival.path for arrival in plots.arrived()) == sorted(paths)


def test_outside_its_block_the_server_has_no_port() -> None:
    with pytest.raises(RuntimeError, match="only inside its with block"):
        _ = PlotServer().port


# -- windows -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("most", "counts"), [(1, [1]), (2, [2]), (3, [2, 3]), (4, [2, 3, 4]), (8, [2, 3, 4, 8]), (64, [2, 3, 4, 64])]
)
def test_two_three_four_and_the_most_workers_are_tried(most: int, counts: list[int]) -> None:
    assert windows.worker_counts(most) == counts


@pytest.mark.slow
def test_the_process_lane_gives_the_same_estimates_as_this_process() -> None:
    told: list[Timing] = []
    outcome = windows.measure(2, density.benchmark_widths(3), told.append)
    assert told == outcome.timings
    assert [timing.workers for timing in told] == [0, 2]
    assert all(timing.same and timing.seconds > 0 for timing in told)
    assert outcome.estimates.published == pytest.approx(list(density.PUBLISHED.values()), rel=1e-11)
    assert outcome.stats.lanes["process"].succeeded == 2 + 3 + 12 + 12


# -- words and pictures ------------------------------------------------------------------------------------

SLOW = Run("blocking", [descent.Step(1, 0.5, 0.0, 1.0)], [2.0], [(0.5, 2.0)], 2.0, 2.0)
FAST = Run("background", [descent.Step(1, 0.5, 0.0, 1.0)], [0.5], [(0.2, 1.0)], 0.5, 1.0)
TIMINGS = [Timing(0, 4.0, 0.0, True), Timing(1, 5.0, 0.2, True), Timing(2, 2.0, 0.3, True)]


def test_the_words_give_the_ratio_of_the_step_rates() -> None:
    text = findings.training_text(Training(SLOW, FAST, {"blocking": 1, "background": 1}))
    assert "4 times as many steps per second" in text
    assert "same slope and intercept to the last bit" in text
    assert "Every upload arrived" in text


def test_the_words_do_not_hide_a_difference_or_a_loss() -> None:
    other = FAST._replace(steps=[descent.Step(1, 0.25, 0.0, 1.0)])
    text = findings.training_text(Training(SLOW, other, {"blocking": 1, "background": 0}))
    assert "THE PARAMETERS DIFFER" in text
    assert "SOME UPLOADS ARE MISSING" in text
    wrong = [*TIMINGS, Timing(3, 1.0, 0.1, False)]
    assert "SOME ESTIMATES DIFFER" in findings.timing_text(wrong, 60, 2)
    assert findings.timing_table(wrong).rows[-1][-1] == "NO"


def test_the_words_give_the_fastest_run_and_its_speed_up() -> None:
    text = findings.timing_text(TIMINGS, 60, 1)
    assert "60 estimates" in text
    assert "1 usable core." in text
    assert "Fastest: 2 workers, 2.00 times as fast as serial" in text
    assert "No number of workers was faster" in findings.timing_text(TIMINGS[:2], 60, 1)


def test_the_table_of_times_has_a_row_per_run() -> None:
    assert [row[:3] for row in findings.timing_table(TIMINGS).rows] == [
        ("serial", "4.00 s", "1.00x"),
        ("1 worker", "5.00 s", "0.80x"),
        ("2 workers", "2.00 s", "2.00x"),
    ]


def test_the_table_of_estimates_shows_both_against_the_truth() -> None:
    table = findings.estimate_table(windows.Estimates([1.0, 1.1], [0.1445, 0.15709090909090909], [0.1445, 0.14281]))
    assert table.rows == [
        ("1.0", "0.1445", "0.144500", "-9.2%"),
        ("1.1", "0.157090909091", "0.142810", "-10.3%"),
    ]


def test_the_timelines_draw_a_tick_per_step_and_a_bar_per_upload(training: Training) -> None:
    figure = pictures.timelines(training.blocking, training.background)
    assert [len(trace.x) for trace in figure.data] == [40, 4, 40, 4]
    assert [len(trace.x) for trace in pictures.enlarged(training.background).data] == [40, 4]


def test_the_fitted_line_runs_through_the_means(problem: Problem, training: Training) -> None:
    line = pictures.fit(problem, training.background).data[-1]
    middle = math.exp(problem.income.mean)
    low, high = (math.log(x) for x in line.x)
    share = (math.log(middle) - low) / (high - low)
    assert line.y[0] + share * (line.y[1] - line.y[0]) == pytest.approx(problem.life.mean)


def test_each_bar_of_the_times_carries_its_speed_up() -> None:
    bars = pictures.window_times(TIMINGS, 2).data[0]
    assert list(bars.x) == ["serial", "1 worker", "2 workers"]
    assert list(bars.text) == ["4.00 s<br><b>1.00x</b>", "5.00 s<br><b>0.80x</b>", "2.00 s<br><b>2.00x</b>"]


# -- all of it ---------------------------------------------------------------------------------------------


def test_a_folder_that_cannot_be_made_shows_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        prepare(tmp_path / "file" / "out")


@pytest.mark.slow
@needs_browser
def test_the_demo_leaves_a_page_that_a_browser_shows_whole(tmp_path: Path) -> None:
    out = io.StringIO()
    report = prepare(tmp_path / "out")
    run_demo(report, Console(file=out, width=100), workers=2, widths=6)
    text = out.getvalue()
    assert "20 of 20" in text
    assert "same slope and intercept to the last bit" in text
    assert "Every estimate equals the serial one to the last bit" in text
    assert plotserver.ANSWER_SECONDS == 0.25
    # Six of the demo's own pictures and four of the runner's.
    assert open_in_browser(report, tmp_path) == (10, [])
