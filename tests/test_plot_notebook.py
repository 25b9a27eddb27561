"""Plots in a real Jupyter kernel: live while the cell computes, still figures when it is over, complete spools at its
end; and the script of the live view in a real browser."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from array import array
from base64 import b64decode
from collections.abc import Iterator
from datetime import timedelta
from html import unescape
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("anywidget", reason="there is no widget to test")
pytest.importorskip("ipykernel", reason="there is no kernel to test in")
pytest.importorskip("plotly", reason="there is nothing to draw with")

import nbformat
from browser import browsing, needs_browser, open_in_browser
from kernels import ROOT, Kernel, Message, new_kernel

import asyncjobs as aj
from asyncjobs.plotting import page, still
from asyncjobs.plotting.curve import FEWEST
from asyncjobs.plotting.replay import Replay
from asyncjobs.plotting.resume import resume

slow = pytest.mark.slow
pytestmark = pytest.mark.may_leak("a kernel, whose own end is looked at elsewhere, serves many tests")

SETUP = "import os, pathlib, sys\nimport asyncjobs as aj"
VIEW = "application/vnd.jupyter.widget-view+json"


@pytest.fixture(scope="module")
def shared() -> Iterator[Kernel]:
    """One kernel for all tests that leave it as they found it."""
    with new_kernel(SETUP) as kernel:
        yield kernel


@pytest.fixture
def kernel(shared: Kernel, tmp_path: Path) -> Kernel:
    """The same, with its own folder for spools, and a `stop` that does not exist yet."""
    shared.run(
        f"os.environ['XDG_STATE_HOME'] = {str(tmp_path / 'state')!r}; stop = pathlib.Path({str(tmp_path)!r}, 'stop')"
    )
    return shared


# --- what a front end sees --------------------------------------------------------------


def editions(kernel: Kernel, cell: str) -> list[Message]:
    """The messages that brought an edition to the widget of a cell."""
    messages = kernel.of(cell, "comm_msg")
    return [each for each in messages if each["content"]["data"].get("state", {}).get("edition")]


def figures_of(message: Message) -> dict[str, Any]:
    """Name and figure of each in such a message."""
    edition = json.loads(message["content"]["data"]["state"]["edition"])
    return dict(edition["figures"])


def points_of(figure: dict[str, Any], trace: int = 0) -> list[tuple[float, float]]:
    """The points of one curve."""
    columns = (figure["data"][trace][axis] for axis in "xy")
    return list(zip(*(array("d", b64decode(column["bdata"])) for column in columns), strict=True))


def last_point(kernel: Kernel, cell: str) -> tuple[float, float] | None:
    """Of the first curve, as the live view has it."""
    found = editions(kernel, cell)
    return points_of(next(iter(figures_of(found[-1]).values())))[-1] if found else None


def display_id(message: Message) -> str:
    """By which an output is replaced."""
    return str(message["content"]["transient"]["display_id"])


# --- live -------------------------------------------------------------------------------

WATCHED = """
with aj.plot(every=0.5) as p:
    for step in range(100):
        p.log(step, loss=1 / (step + 1))
    while not stop.exists():
        pass
    p.log(100, loss=-1.0)
"""


@slow
def test_points_arrive_while_the_cell_is_busy_and_the_last_one_stays(kernel: Kernel, tmp_path: Path) -> None:
    cell = kernel.begin(WATCHED)
    kernel.wait_until(lambda: last_point(kernel, cell) == (99.0, 0.01))
    assert kernel.is_busy(cell)
    (tmp_path / "stop").touch()
    kernel.end(cell)
    assert last_point(kernel, cell) == (100.0, -1.0)

    (shown,), (replaced,) = kernel.of(cell, "display_data"), kernel.of(cell, "update_display_data")
    widget = shown["content"]["data"][VIEW]["model_id"]
    assert {message["content"]["comm_id"] for message in editions(kernel, cell)} == {widget}
    assert display_id(shown) == display_id(replaced)
    assert VIEW not in replaced["content"]["data"]
    assert points_of(replaced["content"]["data"][still.PLOTLY])[-1] == (100.0, -1.0)


@slow
def test_a_loop_without_rest_sends_a_few_messages_a_second(kernel: Kernel, tmp_path: Path) -> None:
    cell = kernel.begin("""
step = 0
with aj.plot(every=0.5, max_share=1.0) as p:
    while not stop.exists():
        p.log(step, a=1.0, b=2.0)
        step += 1
""")
    kernel.wait_until(lambda: len(editions(kernel, cell)) >= 4)
    assert kernel.is_busy(cell)
    (tmp_path / "stop").touch()
    kernel.end(cell)
    # Those of the end come at once: the last edition, the still figure, and the farewells of the widget.
    times = [message["header"]["date"] for message in kernel.of(cell, "comm_msg")[:-2]]
    crowds = [sum(time <= other < time + timedelta(seconds=1) for other in times) for time in times]
    assert max(crowds) <= 5


@slow
def test_the_widget_is_small_and_gone_with_its_plot(kernel: Kernel) -> None:
    cell = kernel.run("aj.plot().close()\nimport ipywidgets.widgets.widget as widgets\nlen(widgets._instances)")
    assert sum(len(json.dumps(message["content"])) for message in kernel.of(cell, "comm_open")) < 10_000
    assert kernel.value(cell) == "0"
    assert kernel.shown(cell) == ["a plot: it waits for the first points"]


@slow
def test_the_widget_knows_where_to_get_plotly_js(kernel: Kernel) -> None:
    cell = kernel.run("aj.plot().close()")
    states = [message["content"]["data"]["state"] for message in kernel.of(cell, "comm_open")]
    source = next(state["source"] for state in states if "source" in state)
    assert (source["address"], source["integrity"]) == page.source()


@slow
def test_a_plot_in_a_file_is_shown_in_the_cell_too(kernel: Kernel, tmp_path: Path) -> None:
    path = tmp_path / "loss.html"
    cell = kernel.run(f"with aj.plot({str(path)!r}) as p: p.log(1, loss=2.0)\nprint(*p.targets)")
    assert kernel.text(cell) == f"{path} jupyter:\n"
    assert last_point(kernel, cell) == (1.0, 2.0)
    assert path.exists()


@slow
def test_what_comes_later_goes_to_the_cell_that_opened_the_plot(kernel: Kernel) -> None:
    first = kernel.run("p = aj.plot()")
    second = kernel.run("p.log(1, loss=2.0)\np.draw(dict, {'data': []}, name='drawn')\np.close()")
    assert last_point(kernel, first) == (1.0, 2.0)
    assert len(kernel.of(first, "update_display_data")) == 1
    assert kernel.shown(first)[1:] == ["drawn"]
    assert len(kernel.of(first, "comm_close")) == 2
    assert kernel.of(second, "comm_msg", "comm_close", "display_data", "update_display_data") == []


# --- a cell that runs again -------------------------------------------------------------


@slow
@pytest.mark.parametrize(("code", "cell_id"), [("q = aj.plot()  # edited", "cell-1"), ("p = aj.plot()", None)])
def test_a_cell_that_runs_again_replaces_its_plots(kernel: Kernel, code: str, cell_id: str | None) -> None:
    first = kernel.end(kernel.begin("p = aj.plot()", cell_id))
    kernel.run("old = p; old.log(1, loss=2.0)")
    kernel.end(kernel.begin(code, cell_id))
    assert kernel.value(kernel.run("old.closed, old.log(2, loss=3.0)")) == "(True, None)"
    assert [*kernel.of(first, "update_display_data")[0]["content"]["data"]] == [still.PLOTLY, "text/html", "text/plain"]
    kernel.run("[each.close() for each in (p, *([q] if 'q' in globals() else []))]")


@slow
def test_plots_of_one_cell_and_of_two_cells_stay_open_together(kernel: Kernel) -> None:
    kernel.run("p, q = aj.plot(), aj.plot()")
    kernel.run("r = aj.plot()")
    assert kernel.value(kernel.run("[each.closed for each in (p, q, r)]")) == "[False, False, False]"
    kernel.run("[each.close() for each in (p, q, r)]")


# --- without the widget -----------------------------------------------------------------


@slow
def test_without_anywidget_the_output_itself_is_replaced(tmp_path: Path) -> None:
    with new_kernel(SETUP + "\nsys.modules['anywidget'] = None") as kernel:
        kernel.run(f"stop = pathlib.Path({str(tmp_path)!r}, 'stop')\nos.environ['XDG_STATE_HOME'] = {str(tmp_path)!r}")
        cell = kernel.begin(WATCHED)
        kernel.wait_until(lambda: bool(kernel.of(cell, "update_display_data")))
        assert kernel.is_busy(cell)
        (tmp_path / "stop").touch()
        kernel.end(cell)
        (shown,), replaced = kernel.of(cell, "display_data"), kernel.of(cell, "update_display_data")
        assert {display_id(message) for message in replaced} == {display_id(shown)}
        live, last = replaced[0]["content"]["data"], replaced[-1]["content"]["data"]
        assert live["text/html"].startswith("<iframe srcdoc=")
        assert points_of(last[still.PLOTLY])[-1] == (100.0, -1.0)
        assert kernel.of(cell, "comm_open") == []


# --- the end of the kernel --------------------------------------------------------------


@pytest.fixture
def deaf() -> Iterator[str]:
    """An address that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/plot"


@slow
@pytest.mark.alone
@pytest.mark.parametrize("is_busy", [False, True])
def test_a_restart_leaves_complete_spools_and_still_figures(is_busy: bool, deaf: str, tmp_path: Path) -> None:
    with new_kernel(SETUP) as kernel:
        cell = kernel.begin(f"""
plots = [aj.plot({deaf!r} + str(n), spool={str(tmp_path / "spool")!r}, linger=60) for n in range(2)]
for step in range(5000):
    for p in plots:
        p.log(step, loss=step / 2)
print("logged", flush=True)
while {is_busy}: pass
""")
        kernel.wait_until(lambda: "logged" in kernel.text(cell))
        kernel.manager.restart_kernel()
        kernel.wait_until(lambda: len(kernel.of(cell, "update_display_data")) == 2)
        for message in kernel.of(cell, "update_display_data"):
            assert points_of(message["content"]["data"][still.PLOTLY])[-1] == (4999.0, 2499.5)
        kernel.wait_until(lambda: "".join(kernel.text(one, "stderr") for one in kernel.cells).count("plot resume") == 2)
        folders = list((tmp_path / "spool").iterdir())
        assert [_last_of(folder) for folder in folders] == [(5000, (4999.0, 2499.5))] * 2


def _last_of(folder: Path) -> tuple[int, tuple[float, float]]:
    """How many rows are in a spool, and the last point of `loss`."""
    replay = Replay(folder, 2000, is_settled=True)
    replay.refresh()
    xs, ys = replay.curves["loss"].points()
    replay.close()
    return replay.rows, (xs[-1], ys[-1])


@slow
def test_what_a_killed_kernel_showed_is_a_page_when_it_is_resumed(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    with new_kernel(SETUP) as kernel:
        cell = kernel.run(f"p = aj.plot(spool={str(spool)!r})\np.log(1, loss=2.0)\np.flush()")
        assert last_point(kernel, cell) == (1.0, 2.0)
        os.kill(kernel.pid, signal.SIGKILL)
        kernel.manager.provisioner.process.wait()
    (outcome,) = resume(spool)
    assert (outcome.title, outcome.error) == ("plot", None)
    assert [str(path) for path in spool.iterdir()] == [outcome.target]
    assert '"name":"loss"' in Path(outcome.target).read_text()


@slow
def test_a_cell_that_is_gone_is_no_reason_to_keep_what_its_file_has(tmp_path: Path) -> None:
    spool, path = tmp_path / "spool", tmp_path / "loss.json"
    with new_kernel(SETUP) as kernel:
        kernel.run(f"p = aj.plot({str(path)!r}, spool={str(spool)!r})\np.log(1, loss=2.0)\np.flush()")
        os.kill(kernel.pid, signal.SIGKILL)
        kernel.manager.provisioner.process.wait()
    path.unlink()  # it was there: a resume has nothing to do
    assert [outcome.target for outcome in resume(spool)] == [str(path)]
    assert not spool.exists()


# --- where there is no kernel -----------------------------------------------------------


@pytest.mark.parametrize(
    ("targets", "reason"),
    [
        ((), "needs a target"),
        (("jupyter:",), "needs a Jupyter kernel, and this process is none"),
        (("jupyter:loss",), "'jupyter:loss' is not allowed"),
    ],
)
def test_a_script_has_no_cell(targets: tuple[str, ...], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        aj.plot(*targets)


# --- still figures ----------------------------------------------------------------------


def _figure(curves: int, points: int) -> str:
    xs = still._encoded(array("d", range(points)))
    ys = still._encoded(array("d", [step % 7 - 3.0 for step in range(points - 2)] + [99.0, 0.5]))
    data = [{"type": "scatter", "name": str(n), "x": xs, "y": ys, "count": points} for n in range(curves)]
    return json.dumps({"data": data, "layout": {"xaxis": {"title": {"text": "step"}}}})


@pytest.mark.parametrize(("curves", "points"), [(1, 100), (1, 100_000), (20, 20_000)])
def test_a_still_figure_keeps_its_ends_and_extremes_in_bounded_size(curves: int, points: int) -> None:
    found = still.bundle("loss", _figure(curves, points), still.LARGEST)
    assert len(json.dumps(found)) < 1_000_000
    for trace in range(curves):
        kept = points_of(found[still.PLOTLY], trace)
        assert (kept[0], kept[-1]) == ((0.0, -3.0), (points - 1.0, 0.5))
        assert (points - 2.0, 99.0) in kept
        assert len(kept) == points or len(kept) > FEWEST


@pytest.mark.slow
def test_a_still_figure_of_something_else_that_is_too_large_says_so() -> None:
    heat = json.dumps({"data": [{"type": "heatmap", "z": [[1.25] * 1000] * 1000}]})
    found = still.bundle("weights", heat, still.LARGEST)
    assert found == {"text/plain": f"weights: a figure of {len(heat):,} bytes, too large for a saved notebook"}


def test_a_still_figure_is_a_page_for_front_ends_that_do_not_know_plotly() -> None:
    found = still.bundle("a <b>", _figure(1, 20), still.LARGEST)
    document = re.search(r'<iframe srcdoc="([^"]*)"', found["text/html"])
    assert document
    assert "<title>a &lt;b&gt;</title>" in unescape(document[1])
    # Nobody knows on which background it will be read.
    assert found[still.PLOTLY]["layout"]["font"]["color"] == still.INK
    assert found[still.PLOTLY]["layout"]["xaxis"]["title"] == {"text": "step"}


@slow
@needs_browser
def test_a_page_draws_a_figure_that_has_no_layout(tmp_path: Path) -> None:
    path = tmp_path / "bars.html"
    path.write_text(page.page("bars", {"bars": '{"data": [{"type": "bar", "y": [1]}]}'}, inline=True), encoding="utf-8")
    assert open_in_browser(path, tmp_path).complaints == []


# --- saved notebooks --------------------------------------------------------------------

EXECUTE = """
import sys, nbclient, nbformat
notebook = nbformat.read(sys.argv[1], as_version=4)
nbclient.NotebookClient(notebook, timeout=50).execute()
nbformat.write(notebook, sys.argv[2])
"""

LONG = """
import asyncjobs as aj

def picture():
    return {"data": [{"type": "bar", "y": [1, 2, 3]}]}

with aj.plot(title="fit", max_points=50_000, linger=30) as p:  # a busy machine draws for longer than a cell waits
    for step in range(50_000):
        p.log(step, a=step / 2, b=-1.0 * step, c=step % 10)
    p.write(range(100_000), range(100_000), name="line")
    p.draw(picture)
"""


def executed(source: Path, folder: Path) -> Any:
    """The notebook as a front end saves it after all cells have run."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "IPYTHONDIR": str(folder), "XDG_STATE_HOME": str(folder)}
    done = folder / "done.ipynb"
    subprocess.run([sys.executable, "-c", EXECUTE, source, done], env=environment, timeout=50, check=True, cwd=folder)
    assert done.stat().st_size < 1_000_000
    return nbformat.read(done, as_version=4)


@slow
def test_a_saved_notebook_holds_still_figures_below_1_mb(tmp_path: Path) -> None:
    source = tmp_path / "long.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(LONG)]), source)
    notebook = executed(source, tmp_path)
    curves, picture = notebook.cells[0].outputs
    assert len(json.dumps(notebook.metadata)) < 20_000  # the state of widgets is saved there
    figure = curves["data"][still.PLOTLY]
    assert [trace["name"] for trace in figure["data"]] == ["a", "b", "c", "line"]
    assert [points_of(figure, trace)[-1] for trace in range(4)] == [
        (49_999.0, 24_999.5), (49_999.0, -49_999.0), (49_999.0, 9.0), (99_999.0, 99_999.0)
    ]  # fmt: skip
    assert picture["data"][still.PLOTLY]["data"][0]["y"] == [1, 2, 3]
    assert VIEW not in {*curves["data"], *picture["data"]}


# --- the live view in a browser ---------------------------------------------------------

STUB = """<!DOCTYPE html><html><body style="color: %(ink)s">%(head)s<script type="module">
const code = new Blob([%(code)s], {type: "text/javascript"});
const { default: widget } = await import(URL.createObjectURL(code));
function modelOf(state) {  // as a front end's: it has a state, and tells when that changes
  const heard = new Map();
  return {
    get: key => state[key], on: (name, fn) => heard.set(name, fn), off: name => heard.delete(name),
    set: (key, value) => { state[key] = value; heard.get("change:" + key)?.(); }, heard,
  };
}
const editions = %(editions)s, source = %(source)s;
const views = [0, 1].map(() => {
  const model = modelOf({edition: "", source}), el = document.createElement("div");
  document.body.append(el);
  return {model, el, end: widget.render({model, el})};
});
async function until(isSo) {
  while (!isSo()) await new Promise(requestAnimationFrame);
}
%(story)s
window.isOver = true;
</script></body></html>"""

DRAWN = """
for (const edition of editions) {
  const count = JSON.parse(edition).figures.plot.data[0].count;
  views.forEach(view => view.model.set("edition", edition));
  await until(() => views.every(view => view.el.querySelector(".js-plotly-plot")?._fullData?.[0].x.length === count));
}
await until(() => document.querySelectorAll(".js-plotly-plot").length === 4);
const [plot, drawn] = views[0].el.querySelectorAll(".js-plotly-plot"), trace = plot._fullData[0];
console.log("FOUND " + JSON.stringify({
  plots: document.querySelectorAll(".js-plotly-plot").length, points: trace.x.length, last: trace.y.at(-1),
  ink: plot._fullLayout.font.color, bars: drawn._fullData[0].y.length, text: views[0].el.innerText.includes("waits"),
  share: document.querySelectorAll("[data-title^=Share]").length, scripts: document.scripts.length,
}));
views[0].end();
const left = [...document.querySelectorAll(".js-plotly-plot")].filter(each => each._fullData).length;
console.log("ENDED " + JSON.stringify([views[0].model.heard.size, left]));
"""

UNREACHABLE = """
const loading = [...document.scripts].filter(script => script.src);
const calls = loading.map(script => [script.src, script.integrity, script.crossOrigin]);
views.forEach(view => view.model.set("edition", editions[0]));
await until(() => views.every(view => !view.el.innerText.includes("waits")));
console.log("FOUND " + JSON.stringify({before: calls.length, text: views.map(view => view.el.innerText)}));
"""

WATCH = """<script>
const added = [];
new MutationObserver(changes => changes.forEach(change => change.addedNodes.forEach(node => {
  if (node.src) console.log("ADDED " + JSON.stringify([node.src, node.integrity, node.crossOrigin]));
}))).observe(document.head, {childList: true});
</script>"""


def _said(page_text: str, folder: Path) -> dict[str, list[Any]]:
    """What the page wrote to its console, by the first word of each line."""
    path = folder / "stub.html"
    path.write_text(page_text, encoding="utf-8")
    said: dict[str, list[Any]] = {"FOUND": [], "ENDED": [], "ADDED": []}

    def hear(message: Any) -> None:
        word, _, rest = message.text.partition(" ")
        if word in said:
            said[word].append(json.loads(rest))

    with browsing() as browser:
        tab = browser.new_page()
        tab.on("console", hear)
        tab.goto(path.as_uri())
        tab.wait_for_function("window.isOver")
    return said


def _stub(story: str, head: str = "", ink: str = "#000") -> str:
    code = (ROOT / "asyncjobs" / "plotting" / "cell.js").read_text(encoding="utf-8")
    bars = '{"data": [{"type": "bar", "y": [1, 2, 3]}]}'
    texts = [f'{{"figures": {{"plot": {_figure(1, points)}, "bars": {bars}}}}}' for points in (10, 50)]
    address, integrity = page.source() or ("", "")
    parts = {"code": code, "editions": texts, "source": {"address": address, "integrity": integrity}}
    written = {name: json.dumps(value).replace("</", "<\\/") for name, value in parts.items()}
    return STUB % {**written, "story": story, "head": head, "ink": ink}


@slow
@needs_browser
def test_the_live_view_draws_what_is_pushed_in_the_colours_around_it(tmp_path: Path) -> None:
    said = _said(_stub(DRAWN, f"<script>{page.plotly_js()}</script>", ink="rgb(221, 228, 234)"), tmp_path)
    assert said["FOUND"] == [
        {"plots": 4, "points": 50, "last": 0.5, "ink": "rgb(221, 228, 234)", "bars": 3, "text": False, "share": 0,
         "scripts": 2}
    ]  # fmt: skip
    assert said["ENDED"] == [[0, 2]]


@slow
@needs_browser
def test_the_live_views_of_a_page_ask_for_one_plotly_js_and_say_if_there_is_none(tmp_path: Path) -> None:
    said = _said(_stub(UNREACHABLE, WATCH), tmp_path)
    address, integrity = page.source() or ("", "")
    assert said["ADDED"] == [[address, integrity, "anonymous"]]
    (found,) = said["FOUND"]
    assert found["before"] == 0
    assert [text.startswith(f"asyncjobs: {address} could not be loaded") for text in found["text"]] == [True, True]


# --- the example ------------------------------------------------------------------------

EXAMPLE = ROOT / "examples" / "live_notebook.ipynb"


def test_the_example_is_valid_and_has_no_outputs() -> None:
    notebook = nbformat.read(EXAMPLE, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [(cell.outputs, cell.execution_count) for cell in code] == [([], None)] * len(code)


@slow
def test_the_example_shows_what_it_promises(tmp_path: Path) -> None:
    cells = {cell.id: cell for cell in executed(EXAMPLE, tmp_path).cells if cell.cell_type == "code"}
    curves, *others = cells["train"].outputs
    drawn = next(output for output in others if output.output_type == "display_data")
    printed = "".join(output.get("text", "") for output in others)
    figure = curves["data"][still.PLOTLY]
    assert [trace["name"] for trace in figure["data"]] == ["train", "test"]
    (first, last), count = (points_of(figure)[place] for place in (0, -1)), len(points_of(figure))
    assert (first[0], last[0], count <= 2000) == (0.0, 5_000.0, True)
    assert last[1] < first[1] < 0.7
    assert [trace["name"] for trace in drawn["data"][still.PLOTLY]["data"]] == ["class 0", "class 1", "border"]
    assert re.search(r"step 5000: [89]\d% of the test set is right", printed)
    assert cells["stats"].outputs[0]["text"] == "5,001 rows, complete: True\n"
