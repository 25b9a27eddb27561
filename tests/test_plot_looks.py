"""What a person sees of a saved page and of an image, on a wide screen and on a phone, in a real browser."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from browser import browsing, needs_browser

import asyncjobs as aj
from asyncjobs.plotting.page import plotly_js

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, WebError

pytest.importorskip("playwright.sync_api")

pytestmark = [needs_browser, pytest.mark.slow, pytest.mark.may_leak("the browser's processes")]

Show = Callable[[Path], None]

ROOT = Path(__file__).resolve().parents[1]
LONG = "a rather long title of a run, as people give them: resnet50 lr=3e-4 wd=0.1 batch 256"
EVIL = "<!--<script>"
NAMES = ["loss<0.5", "<b>x</b>", "&lt;", EVIL, "</script><script>window.hit=1</script>", "日本語"]
BOX = "document.querySelector(%r).getBoundingClientRect().toJSON()"
LEGEND = "[...document.querySelectorAll('.legendtext')].map(one => one.textContent)"
CAPTIONS = (
    "[...document.querySelectorAll('figcaption')].filter(one => one.checkVisibility()).map(one => one.textContent)"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing() as started:
        yield started


@pytest.fixture(scope="module")
def tab(browser: Browser) -> Page:
    """For one page after the other: in one process a browser compiles plotly.js once, if its address stays the same."""
    return browser.new_page()


@pytest.fixture(params=[1000, 390], ids=["wide", "phone"])
def page(request: pytest.FixtureRequest, tab: Page) -> Iterator[Page]:
    """Of that width; whatever it complains of fails the test."""
    complaints: list[str] = []

    def hear(error: WebError) -> None:
        complaints.append(str(error.error))

    tab.context.on("weberror", hear)
    tab.set_viewport_size({"width": request.param, "height": 700})
    yield tab
    tab.mouse.move(0, 0)
    tab.unroute_all()
    tab.context.remove_listener("weberror", hear)
    assert complaints == []


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the page lies that is shown."""
    return tmp_path_factory.mktemp("stage") / "page.html"


@pytest.fixture
def show(page: Page, stage: Path) -> Show:
    """Open a page, and wait until all is drawn."""

    def open_it(path: Path) -> None:
        shutil.copyfile(path, stage)
        page.goto(stage.as_uri())
        page.wait_for_function("document.querySelectorAll('.js-plotly-plot').length === figures.length", timeout=30_000)

    return open_it


def box(page: Page, selector: str) -> dict[str, float]:
    """Where it is, in pixels."""
    return dict(page.evaluate(BOX % selector))


def is_in_sight(page: Page, selector: str) -> bool:
    """Whether all of its text is within its box and the page."""
    found: bool = page.evaluate(
        "selector => { const one = document.querySelector(selector), box = one.getBoundingClientRect();"
        "return one.scrollWidth <= one.clientWidth && box.left >= 0 && box.right <= innerWidth; }",
        selector,
    )
    return found


def test_names_and_titles_are_text_on_a_page(page: Page, show: Show, tmp_path: Path) -> None:
    with aj.plot(tmp_path / "a.html", title=NAMES[1], inline=True) as p:
        for step in range(3):
            p.log(step, **dict.fromkeys(NAMES, float(step)))
        p.draw({"data": [{"y": [1, 2], "name": EVIL}]}, name=NAMES[4])
    show(tmp_path / "a.html")
    assert page.locator("h1").inner_text() == page.title() == NAMES[1]
    assert page.evaluate(LEGEND) == NAMES
    assert page.evaluate(CAPTIONS) == [NAMES[4]]
    assert page.evaluate("window.hit") is None


@pytest.mark.parametrize("count", [4, 30])
def test_nothing_covers_the_title_the_legend_or_the_curves(page: Page, show: Show, tmp_path: Path, count: int) -> None:
    with aj.plot(tmp_path / "a.html", title=LONG, inline=True) as p:
        for step in range(50):
            p.log(step, **{f"layer{n}.grad_norm": math.sin(step / 9 + n) for n in range(count)})
    show(tmp_path / "a.html")
    assert is_in_sight(page, "h1")
    assert page.locator(".gtitle").count() == 0
    heading, legend, curves = (box(page, one) for one in ("h1", ".legend .bg", ".nsewdrag"))
    assert heading["bottom"] <= legend["top"]
    assert legend["bottom"] <= curves["top"]
    assert legend["right"] <= page.evaluate("innerWidth")
    assert curves["height"] >= 250


def test_each_drawn_figure_says_its_name_unless_it_has_a_title(page: Page, show: Show, tmp_path: Path) -> None:
    data = [{"y": [1, 3, 2]}]
    with aj.plot(tmp_path / "a.html", title="run", inline=True) as p:
        p.log(0, y=1.0)
        p.draw({"data": data}, name="my fit")
        p.draw({"data": data, "layout": {"title": {"text": "its own"}}}, name="other")
        p.draw({"data": data}, name="run")
    show(tmp_path / "a.html")
    assert page.evaluate(CAPTIONS) == ["my fit", "run (drawn)"]
    assert page.locator(".gtitle").all_text_contents() == ["its own"]


def test_a_page_that_has_no_network_says_so(page: Page, tmp_path: Path) -> None:
    with aj.plot(tmp_path / "a.html") as p:
        p.log(0, y=1.0)
    page.goto((tmp_path / "a.html").as_uri())
    words = page.locator("#absent")
    assert words.is_visible()
    assert "comes from the network" in words.inner_text().replace("\n", " ")
    assert "inline=True" in words.inner_text()
    assert page.evaluate(CAPTIONS) == []


def test_a_page_that_is_whole_says_nothing_of_the_network(page: Page, show: Show, tmp_path: Path) -> None:
    with aj.plot(tmp_path / "a.html", inline=True) as p:
        p.log(0, y=1.0)
    show(tmp_path / "a.html")
    assert not page.locator("#absent").is_visible()


def hover(page: Page, depth: float) -> list[str]:
    """What is said of the middle of the plot, at that share of its height."""
    area = page.locator(".nsewdrag").first.bounding_box()
    assert area
    page.mouse.move(area["x"] + area["width"] / 2, area["y"] + area["height"] * depth)
    page.wait_for_selector(".hoverlayer text")
    return [text.strip() for text in page.locator(".hoverlayer text").all_text_contents() if text.strip()]


def test_a_point_is_told_in_few_digits_and_its_step_once(page: Page, show: Show, tmp_path: Path) -> None:
    with aj.plot(tmp_path / "a.html", inline=True) as p:
        for step in range(3):
            p.log(46 * 0.0123456789 * step, huge=46e6 * step, small=step / 3)
    show(tmp_path / "a.html")
    assert hover(page, 0.5) == ["0.567901", "huge : 4.6e+7", "small : 0.333333"]


def test_a_trace_alone_tells_of_both(page: Page, show: Show, tmp_path: Path) -> None:
    with aj.plot(tmp_path / "a.html", inline=True) as p:
        p.write([0.0, 1234567.0, 2469134.0], [0.0, 1 / 3, 1.0], name="fit<1")
    show(tmp_path / "a.html")
    assert sorted(hover(page, 2 / 3)) == ["0.333333 at 1,234,567", "fit<1"]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page that the example leaves."""
    pytest.importorskip("sklearn", reason="the example's digits are scikit-learn's")
    folder = tmp_path_factory.mktemp("digits")
    example = ROOT / "examples" / "gradient_descent.py"
    subprocess.run([sys.executable, example], cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
    return folder / "digits.html"


def test_the_weights_of_the_digits_are_a_square_with_grey_where_they_are_0(
    page: Page, show: Show, digits: Path
) -> None:
    # What the network would give: the browser compares it with the hash in the page.
    page.route(
        "**/plotly-*.js", lambda route: route.fulfill(body=plotly_js(), headers={"Access-Control-Allow-Origin": "*"})
    )
    show(digits)
    found: dict[str, Any] = page.evaluate("""(({_fullData: [trace], _fullLayout: {xaxis, yaxis}}) => ({
        ranges: [xaxis.range, yaxis.range], size: [xaxis._length, yaxis._length],
        middle: trace.zmin + trace.zmax, hasAxes: xaxis.visible || yaxis.visible,
    }))(document.getElementById("figure-1"))""")
    assert found["ranges"] == [[-0.5, 7.5], [-0.5, 7.5]]
    assert found["size"][0] == pytest.approx(found["size"][1], abs=1)
    assert (found["middle"], found["hasAxes"]) == (pytest.approx(0), False)


# --- images -----------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 11, 40])
def test_the_title_of_an_image_stands_above_its_legend(browser: Browser, tmp_path: Path, count: int) -> None:
    pytest.importorskip("kaleido", reason="images need kaleido")
    with aj.plot(tmp_path / "a.svg", title="<i>many</i> lines", linger=60) as p:
        for step in range(50):
            p.log(step, **{f"encoder.layer.{n}.weight.grad_norm": math.sin(step / 9 + n) for n in range(count)})
        p.write([0, 1], [1, 0], name="fit")
    page = browser.new_page(viewport={"width": 1000, "height": 700})
    page.goto((tmp_path / "a.svg").as_uri())
    title, legend = box(page, ".g-gtitle"), box(page, ".legend .bg")
    assert page.locator(".gtitle").text_content() == "<i>many</i> lines"
    assert 0 <= title["top"] < title["bottom"] <= legend["top"]
    upper, lower = box(page, ".gridlayer .x"), box(page, ".gridlayer .x2")
    assert legend["bottom"] <= upper["top"] < upper["bottom"] < lower["top"]
    assert min(upper["height"], lower["height"]) > 150
    page.close()
