"""The live page in a real browser: what a person who looks at it sees, zooms into and comes back to."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from browser import browsing, needs_browser
from live import BOUND, address_in, printed_address
from programs import Program, launching

import asyncjobs as aj

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page


sync_api = pytest.importorskip("playwright.sync_api")

# Its helper processes come and go as it likes.
pytestmark = [needs_browser, pytest.mark.slow, pytest.mark.may_leak("the browser's processes")]

Capture = pytest.CaptureFixture[str]

COUNT = "document.querySelector('.drawing')?._fullData?.[0]?.y.length ?? 0"
LAST = "document.querySelector('.drawing')._fullData[0].y.at(-1)"
STATE = "document.getElementById('state').textContent"
CONDITION = """({state: state.textContent, stream: source.readyState, isHidden: document.hidden, isDrawingSoon,
    drawnAgo: performance.now() - drawnAt, plots: [...plots.values()].map(({title, n, isOver, figures}) =>
        [title, n, isOver, [...figures.values()].map(one => one.data.map(trace => trace.y?.length))])})"""
RANGE = "document.querySelector('.drawing')._fullLayout.xaxis.range"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing() as started:
        yield started


class Window:
    """A browser's window that notes what its pages ask for, and what they complain of."""

    def __init__(self, context: BrowserContext) -> None:
        self.context = context
        self.requests: list[str] = []
        self.complaints: list[str] = []
        context.set_default_timeout(BOUND * 1000)
        context.on("request", lambda request: self.requests.append(request.url))
        context.on("console", self._hear)
        context.on("weberror", lambda error: self.complaints.append(str(error.error)))

    def _hear(self, said: ConsoleMessage) -> None:
        if said.type == "error":
            self.complaints.append(said.text)

    def open(self, address: str) -> Page:
        """A new tab."""
        page = self.context.new_page()
        page.goto(address)
        return page


@pytest.fixture
def window(browser: Browser) -> Iterator[Window]:
    context = browser.new_context(viewport={"width": 1000, "height": 800})
    yield Window(context)
    context.close()


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, _no_studio: None) -> None:
    """Spools and tokens of these tests are not the user's."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def plot(capsys: Capture) -> Iterator[aj.Plot]:
    with aj.plot("live:", title="run", every=0.5) as opened:
        yield opened


@pytest.fixture
def address(plot: aj.Plot, capsys: Capture) -> str:
    return printed_address(capsys)


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    with launching(tmp_path, f"import asyncjobs as aj, os, time\nos.chdir({str(tmp_path)!r})\n") as start:
        yield start


def log(plot: aj.Plot, *steps: int) -> None:
    """Points whose height is their step, and wait until they are sent."""
    for step in range(*steps):
        plot.log(step, loss=float(step))
    assert plot.flush(BOUND)


def wait(page: Page, condition: str) -> None:
    """Until it holds; if it never does, say what the page is like instead."""
    try:
        # By the clock: a page that draws nothing new may get no frames.
        page.wait_for_function(condition, polling=50)
    except sync_api.TimeoutError as error:
        raise AssertionError(f"never: {condition}\n{page.evaluate(CONDITION)}") from error


def see(page: Page, count: int) -> None:
    """Wait until the first curve has so many points."""
    wait(page, f"({COUNT}) === {count}")


def zoom(page: Page) -> Any:
    """Drag over the middle of the plot, as a person does; the range that is seen then."""
    before = page.evaluate(RANGE)
    area = page.locator(".nsewdrag").first.bounding_box()
    assert area
    page.mouse.move(area["x"] + area["width"] * 0.3, area["y"] + area["height"] * 0.5)
    page.mouse.down()
    page.mouse.move(area["x"] + area["width"] * 0.6, area["y"] + area["height"] * 0.5, steps=5)
    page.mouse.up()
    wait(page, f"({RANGE})[0] > {before[0]} + 1")
    return page.evaluate(RANGE)


# --- points -------------------------------------------------------------------------------


def test_points_arrive_while_the_loop_is_busy_and_the_last_one_is_right(
    window: Window, tmp_path: Path, launch: Callable[..., Program]
) -> None:
    program = launch("""
        with aj.plot("live:", title="run", every=0.5) as p:
            step, end = 0, time.monotonic() + 90
            while not os.path.exists("stop") and time.monotonic() < end:
                sum(i * i for i in range(2000))  # keeps the interpreter to itself
                step += 1
                p.log(step, loss=-float(step))
        print("last", step, "steps", flush=True)
        while not os.path.exists("go"):
            time.sleep(0.05)
    """)
    page = window.open(address_in(program.read_until("/\n")))
    last = "document.querySelector('.drawing')?._fullData?.[0]?.x.at(-1) ?? 0"
    seen = 0
    for _ in range(3):
        wait(page, f"({last}) > {seen}")
        seen = page.evaluate(last)
    (tmp_path / "stop").touch()
    written = int(program.read_until("steps").rpartition("last ")[2].split()[0])
    wait(page, f"({last}) === {written}")
    assert page.evaluate(LAST) == -written
    wait(page, f"{STATE} === 'All plots have ended'")
    (tmp_path / "go").touch()
    assert program.ends() == 0
    wait(page, f"{STATE}.startsWith('The program has ended')")
    assert page.evaluate(last) == written


def test_two_tabs_and_a_reload_show_the_same(window: Window, plot: aj.Plot, address: str) -> None:
    log(plot, 10)
    one, two = window.open(address), window.open(address)
    log(plot, 10, 25)
    for page in (one, two):
        see(page, 25)
        assert page.evaluate(LAST) == 24
    one.reload()
    log(plot, 25, 30)
    for page in (one, two):
        see(page, 30)
        assert page.evaluate(LAST) == 29
    assert window.complaints == []


def test_changes_come_as_changes_and_are_drawn_as_the_whole_would_be(
    window: Window, plot: aj.Plot, address: str
) -> None:
    log(plot, 10)
    page = window.open(address)
    see(page, 10)
    kept = "document.querySelector('.drawing')"
    page.evaluate(f"{kept}.isTheSame = true")
    for count in range(11, 14):
        log(plot, count - 1, count)
        see(page, count)
    plot.write([0.0, 1.0], [2.0, 3.0], name="fit")  # other axes: the whole figure is new
    plot.flush(BOUND)
    wait(page, f"{kept}._fullData.length === 2")
    assert page.evaluate(f"{kept}.isTheSame")
    shown = "JSON.parse(JSON.stringify([...document.querySelectorAll('.drawing')].map(one => [one.data, one.layout])))"
    grown = page.evaluate(shown)
    fresh = window.open(address)
    wait(fresh, f"{kept}?._fullData?.length === 2")
    assert fresh.evaluate(shown) == grown


def test_the_page_draws_at_most_five_times_a_second(window: Window, plot: aj.Plot, address: str) -> None:
    log(plot, 10)
    page = window.open(address)
    see(page, 10)
    drawn, seconds = page.evaluate("""async () => {
        let drawn = 0;
        const began = performance.now();
        document.querySelector('.drawing').on('plotly_afterplot', () => { drawn += 1; });
        while (performance.now() < began + 2000) {
            drawAll();
            await new Promise(resolve => setTimeout(resolve, 5));
        }
        return [drawn, (performance.now() - began) / 1000];
    }""")
    assert 2 <= drawn <= seconds * 5 + 1


# --- what a person has done with it -------------------------------------------------------


def test_a_zoom_survives_new_points_and_a_lost_connection(window: Window, plot: aj.Plot, address: str) -> None:
    log(plot, 100)
    page = window.open(address)
    see(page, 100)
    zoomed = zoom(page)
    log(plot, 100, 120)
    see(page, 120)
    assert page.evaluate(RANGE) == zoomed
    page.evaluate("lose()")
    log(plot, 120, 130)
    see(page, 130)
    assert page.evaluate(RANGE) == zoomed
    wait(page, f"{STATE} === 'Live'")


def test_a_zoom_into_a_drawing_survives_the_next_drawing(window: Window, plot: aj.Plot, address: str) -> None:
    def draw(count: int) -> None:
        plot.draw(lambda: {"data": [{"type": "bar", "y": [*range(count)]}]}, name="bars")
        assert plot.flush(BOUND)

    draw(50)
    page = window.open(address)
    see(page, 50)
    zoomed = zoom(page)
    draw(60)
    see(page, 60)
    assert page.evaluate(RANGE) == zoomed


# --- the connection -----------------------------------------------------------------------


def test_the_page_says_when_the_program_is_gone_and_comes_back_with_it(
    window: Window, launch: Callable[..., Program]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    text = f"""
        p = aj.plot("live://127.0.0.1:{port}", title=TITLE)
        for step in range(COUNT):
            p.log(step, loss=float(step))
        p.flush()
        print("sent", flush=True)
        time.sleep(100)
    """
    first = launch(text.replace("TITLE", "'first'").replace("COUNT", "20"))
    page = window.open(address_in(first.read_until("sent")))
    see(page, 20)
    first.process.kill()
    first.process.wait()
    wait(page, f"{STATE}.startsWith('No connection since')")
    wait(page, f"{STATE}.includes('trying again')")
    page.evaluate("for (let n = 0; n < 5; n++) lose()")  # some 20 s later
    wait(page, f"{STATE}.includes('the program has ended')")
    assert page.evaluate(COUNT) == 20
    second = launch(text.replace("TITLE", "'second'").replace("COUNT", "30"))
    second.read_until("sent")
    page.evaluate("connect()")  # at the latest it does after 10 s
    see(page, 30)
    assert page.locator("h2 span").all_inner_texts() == ["second"]
    assert page.evaluate(STATE) == "Live"


TENFOLD = "const slow = setTimeout; setTimeout = (fn, after) => slow(fn, after === 30000 ? 3000 : after);"
"""A page that waits for the next sign of life a tenth of the time."""


def test_a_program_that_says_nothing_any_more_counts_as_gone_until_it_speaks_again(
    window: Window, launch: Callable[..., Program]
) -> None:
    program = launch("""
        p = aj.plot("live:", title="run", every=0.5)
        for step in range(1000):
            p.log(step, loss=0.0)
            time.sleep(0.1)
    """)
    window.context.add_init_script(TENFOLD)
    page = window.open(address_in(program.read_until("/\n")))
    wait(page, f"({COUNT}) > 1 && {STATE} === 'Live'")
    os.kill(program.process.pid, signal.SIGSTOP)  # its connections stay as they are
    wait(page, f"{STATE}.startsWith('No connection since')")
    os.kill(program.process.pid, signal.SIGCONT)
    wait(page, f"{STATE} === 'Live'")


def test_a_change_that_is_missing_makes_the_page_ask_anew(window: Window, plot: aj.Plot, address: str) -> None:
    log(plot, 10)
    page = window.open(address)
    see(page, 10)
    page.evaluate("plots.values().next().value.n -= 1")
    log(plot, 10, 20)
    see(page, 20)
    assert len([url for url in window.requests if url.endswith("/news")]) == 2


def test_each_page_has_one_connection_for_all_plots(window: Window, plot: aj.Plot, address: str) -> None:
    with aj.plot("live:", title="other", every=0.5) as other:
        page = window.open(address)
        log(plot, 10)
        log(other, 10)
        wait(page, "document.querySelectorAll('.main-svg').length >= 2")
        wait(page, "document.querySelectorAll('section').length === 2")
    wait(page, "document.querySelectorAll('section.over').length === 1")
    assert len([url for url in window.requests if url.endswith("/news")]) == 1


# --- nothing goes out ---------------------------------------------------------------------


def test_no_request_leaves_the_machine_and_no_button_shares(window: Window, plot: aj.Plot, address: str) -> None:
    log(plot, 10)
    plot.write([0, 1], [2, 3], name="fit")
    plot.draw(lambda: {"data": [{"type": "scattergl", "x": [1, 2], "y": [3, 4]}]}, name="webgl")
    page = window.open(address)
    wait(page, "[...document.querySelectorAll('.drawing')].filter(one => one._fullData).length === 2")
    assert window.complaints == []
    assert [url for url in window.requests if not url.startswith((address, "data:", "blob:"))] == []
    buttons = page.locator(".modebar-btn")
    titles = [buttons.nth(n).get_attribute("data-title") or "" for n in range(buttons.count())]
    assert "Reset axes" in titles
    assert [title for title in titles if "hare" in title or "loud" in title or "tudio" in title] == []


def test_the_browser_itself_refuses_what_would_leave_the_page(window: Window, plot: aj.Plot, address: str) -> None:
    page = window.open(address)
    with socket.create_server(("127.0.0.1", 0)) as other:
        elsewhere = f"http://127.0.0.1:{other.getsockname()[1]}/"
        refused = page.evaluate(
            """async address => {
                const image = new Image(), shown = new Promise(resolve => { image.onerror = () => resolve(true); });
                image.src = address;
                return [await fetch(address, {mode: "no-cors"}).then(() => false, () => true), await shown];
            }""",
            elsewhere,
        )
        assert refused == [True, True]
        other.settimeout(0)
        with pytest.raises(BlockingIOError):  # nobody has even knocked
            other.accept()


def test_titles_and_names_are_text_and_nothing_else(window: Window, capsys: Capture) -> None:
    evil = "<img src=x onerror='window.hit=1'><script>window.hit=1</script>"
    with aj.plot("live:", title=evil) as p:
        page = window.open(printed_address(capsys))
        p.log(0, **{evil: 1.0})
        p.draw({"data": [{"type": "bar", "y": [1, 2]}]}, name=evil)
        p.flush(BOUND)
        wait(page, "document.querySelectorAll('.drawing .main-svg').length > 0")
        assert page.locator("h2 span").inner_text() == evil
        assert page.locator(".legendtext").all_text_contents() == [evil]
        wait(page, "document.querySelectorAll('.drawing .main-svg').length >= 4")
        assert page.locator("figcaption:visible").all_inner_texts() == [f"{evil} (drawn)"]
        assert page.locator(".gtitle").count() == 0
        assert page.evaluate("window.hit") is None
        assert page.title() == evil


# --- looks --------------------------------------------------------------------------------


def test_the_page_follows_the_readers_colours(window: Window, plot: aj.Plot, address: str) -> None:
    log(plot, 10)
    page = window.open(address)
    see(page, 10)
    ink = "getComputedStyle(document.querySelector('.xtick text')).fill"
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(f"[{ink}, {ground}]")
    page.emulate_media(color_scheme="dark")
    wait(page, f"{ink} !== '{light[0]}'")
    dark = page.evaluate(f"[{ink}, {ground}]")
    assert [brightness(one) > 128 for one in (*light, *dark)] == [False, True, True, False]


def brightness(colour: str) -> float:
    """Of ``rgb(1, 2, 3)``."""
    return sum(map(int, colour.removeprefix("rgb(").removesuffix(")").split(","))) / 3
