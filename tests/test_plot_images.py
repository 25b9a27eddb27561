"""Images by one browser that is kept: what is in them, how often they are made, what becomes of the browser."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import psutil
import pytest
from browser import needs_browser
from pauses import PauseClock
from plots import wait_until
from programs import Program, launching

import asyncjobs as aj
from asyncjobs.plotting.courier import Courier
from asyncjobs.plotting.edition import Edition
from asyncjobs.plotting.resume import resume
from asyncjobs.runner import Runner

pytest.importorskip("kaleido", reason="images need kaleido")
pytestmark = needs_browser

PATIENCE = 60.0
BLUE = (0x00, 0x72, 0xB2)
"""Of the first curve."""


@pytest.fixture(autouse=True)
def _found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BROWSER_PATH", raising=False)


def browsers(pid: int | None = None) -> list[int]:
    """The process ids of the browsers that a process has started, its own by default."""
    children = psutil.Process(pid).children()
    return [child.pid for child in children if "--remote-debugging-pipe" in child.cmdline()]


def logged(plot: aj.Plot) -> aj.Plot:
    for step in range(20):
        plot.log(step, loss=1.0 / (step + 1))
    return plot


@pytest.mark.slow
def test_images_of_all_three_kinds_show_the_curve_on_white(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="looking at a PNG needs Pillow")
    with aj.plot(*(tmp_path / f"loss.{kind}" for kind in ("png", "svg", "pdf"))) as plot:
        logged(plot)
        assert plot.flush(PATIENCE)
    with image.open(tmp_path / "loss.png") as opened:
        png = opened.convert("RGB")
    assert png.size == (2000, 1200)
    assert png.getpixel((3, 3)) == (255, 255, 255)
    assert BLUE in {colour for _, colour in png.getcolors(1 << 24)}
    svg = ElementTree.parse(tmp_path / "loss.svg").getroot()
    assert (svg.tag, svg.get("width")) == ("{http://www.w3.org/2000/svg}svg", "1000")
    assert (tmp_path / "loss.pdf").read_bytes().startswith(b"%PDF-")
    assert {path.name for path in tmp_path.iterdir()} == {"loss.png", "loss.svg", "loss.pdf"}


@pytest.mark.slow
def test_a_drawn_figure_is_an_image_of_its_own_in_the_size_that_it_names(tmp_path: Path) -> None:
    with aj.plot(tmp_path / "loss.svg") as plot:
        logged(plot).draw({"data": [{"y": [1, 3, 2]}], "layout": {"width": 321, "height": 123}}, name="my fit")
        assert plot.flush(PATIENCE)
    svg = ElementTree.parse(tmp_path / "loss-my fit.svg").getroot()
    assert (svg.get("width"), svg.get("height")) == ("321", "123")


@pytest.mark.slow
def test_plots_share_one_browser_which_lives_until_the_last_is_closed(tmp_path: Path) -> None:
    first, second = (aj.plot(tmp_path / name) for name in ("first.svg", "second.svg"))
    assert browsers() == []
    assert logged(first).flush(PATIENCE)
    one = browsers()
    assert len(one) == 1
    assert logged(second).flush(PATIENCE)
    first.close()
    second.log(21, loss=0.5)
    assert second.flush(PATIENCE)
    assert browsers() == one
    second.close()
    assert browsers() == []


@pytest.mark.slow
def test_a_browser_that_died_is_replaced(tmp_path: Path) -> None:
    with aj.plot(tmp_path / "loss.svg") as plot:
        assert logged(plot).flush(PATIENCE)
        before = (tmp_path / "loss.svg").read_bytes()
        (pid,) = browsers()
        os.killpg(pid, signal.SIGKILL)
        plot.log(21, loss=2.0)
        assert plot.flush(PATIENCE)
        assert (tmp_path / "loss.svg").read_bytes() != before
        assert browsers() != [pid]


@pytest.mark.slow
def test_a_browser_that_is_stuck_does_not_keep_a_plot_from_closing(tmp_path: Path, clock: PauseClock) -> None:
    plot = aj.plot(tmp_path / "loss.svg")
    assert logged(plot).flush(PATIENCE)
    (pid,) = browsers()
    os.killpg(pid, signal.SIGSTOP)
    plot.log(21, loss=2.0)
    began = clock()
    assert not plot.close(timeout=1.0)
    assert clock() - began < 20.0
    assert browsers() == []
    assert "RunnerClosed" not in str(plot.stats.last_error)
    assert [(outcome.title, outcome.error) for outcome in resume(tmp_path / ".asyncjobs-plots")] == [("loss", None)]
    assert browsers() == []


class Slow:
    """A sink that wants to rest for an hour, and may be held up in a send."""

    target = "slow:"
    every = 3600.0

    def __init__(self) -> None:
        self.got: list[int] = []
        self.is_in, self.may_go = threading.Event(), threading.Event()
        self.may_go.set()

    def send(self, edition: Edition) -> None:
        self.is_in.set()
        assert self.may_go.wait(PATIENCE)
        self.got.append(edition.number)

    def close(self) -> None: ...


EDITIONS = [Edition("plot", "title", number, (number,), {}) for number in range(1, 4)]


async def test_a_sink_rests_after_each_edition_unless_somebody_waits(runner: Runner) -> None:
    sink = Slow()
    courier = Courier(sink, runner, lambda _: None, lambda *_: None)
    running = asyncio.create_task(courier.run())
    courier.offer(EDITIONS[0])
    await courier.arrival(1)
    courier.offer(EDITIONS[1])
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await courier.arrival(2)
    courier.offer(EDITIONS[2])
    courier.hurry(3)
    async with asyncio.timeout(PATIENCE):
        await courier.arrival(3)
    running.cancel()
    assert sink.got == [1, 3]


async def test_a_sink_does_not_rest_when_somebody_began_to_wait_during_a_send(runner: Runner) -> None:
    sink = Slow()
    sink.may_go.clear()
    courier = Courier(sink, runner, lambda _: None, lambda *_: None)
    running = asyncio.create_task(courier.run())
    courier.offer(EDITIONS[0])
    assert await asyncio.to_thread(sink.is_in.wait, PATIENCE)
    courier.offer(EDITIONS[1])
    courier.hurry(2)
    sink.may_go.set()
    async with asyncio.timeout(PATIENCE):
        await courier.arrival(2)
    running.cancel()
    assert sink.got == [1, 2]


# --- what is missing ------------------------------------------------------------------------


def test_without_a_browser_plot_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROWSER_PATH", "/nowhere/chrome")
    with pytest.raises(FileNotFoundError, match=r"/nowhere/chrome.*kaleido_get_chrome"):
        aj.plot(tmp_path / "loss.png")
    assert list(tmp_path.iterdir()) == []


def test_without_kaleido_plot_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kaleido", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'asyncjobs-runner\[image\]'"):
        aj.plot(tmp_path / "loss.png")


# --- programs that end ----------------------------------------------------------------------

SCRIPT = """
import psutil
import asyncjobs as aj

plot = aj.plot("loss.svg", linger=30)
plot.log(0, loss=1.0)
assert plot.flush(60)
browsers = [p.pid for p in psutil.Process().children() if "--remote-debugging-pipe" in p.cmdline()]
print("workers", *browsers)
print("ready", flush=True)
plot.log(1, loss=0.5)
"""


@pytest.fixture
def launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    monkeypatch.chdir(tmp_path)
    with launching(tmp_path, SCRIPT) as start:
        yield start


@pytest.mark.slow
@pytest.mark.parametrize(("end", "code"), [("", 0), ("raise SystemExit(3)", 3), ("1 / 0", 1)])
def test_no_browser_is_left_when_the_program_ends(launch: object, tmp_path: Path, end: str, code: int) -> None:
    assert callable(launch)
    program: Program = launch(end)
    program.read_until("ready", PATIENCE)
    assert program.ends(PATIENCE) == code
    assert len(program.pids) == 1  # and it is gone, as `ends` has seen
    assert not (tmp_path / ".asyncjobs-plots").exists(), program.output


@pytest.mark.slow
def test_no_browser_is_left_when_the_program_is_killed(launch: object) -> None:
    assert callable(launch)
    program: Program = launch("import time; time.sleep(100)")
    program.read_until("ready", PATIENCE)
    program.process.kill()
    wait_until(lambda: not psutil.pid_exists(program.pids[0]), "the browser ends with the program")
