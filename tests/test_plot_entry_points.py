"""Sinks of other packages: an entry point, and the example that speaks Chart Studio's REST API to a server of ours."""

from __future__ import annotations

import base64
import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import Answer, Request, Server, answering

import asyncjobs as aj

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "chart_studio"
PATIENCE = 30.0


def install(folder: Path, name: str, entries: dict[str, str]) -> None:
    """A distribution with these sinks, as pip leaves it in a folder of packages."""
    about = folder / f"{name.replace('-', '_')}-0.1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
    lines = [f"{scheme} = {value}" for scheme, value in entries.items()]
    (about / "entry_points.txt").write_text("\n".join(["[asyncjobs.sinks]", *lines, ""]))


@pytest.fixture(autouse=True)
def _home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder of packages that this interpreter looks into."""
    folder = tmp_path / "packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return folder


TINY = """
class Tiny:
    def __init__(self, target):
        self.target, self.got, self.is_open = target, [], True
        sinks.append(self)
    def send(self, edition):
        self.got.append(edition)
    def close(self):
        self.is_open = False

sinks = []
nothing = len
"""


def test_a_package_brings_a_sink_by_an_entry_point(packages: Path) -> None:
    install(packages, "tiny-sinks", {"tiny": "tiny_sink:Tiny"})
    (packages / "tiny_sink.py").write_text(TINY)
    with aj.plot("tiny:somewhere", title="mine") as plot:
        plot.log(1, loss=1.0)
        assert plot.flush(PATIENCE)
        import tiny_sink  # type: ignore[import-not-found]

        (sink,) = tiny_sink.sinks
        assert (sink.target, sink.got[-1].title, list(sink.got[-1].figures)) == ("tiny:somewhere", "mine", ["mine"])
    assert not sink.is_open


def test_an_entry_point_that_makes_no_sink_is_named(packages: Path) -> None:
    install(packages, "wrong-sinks", {"wrong": "builtins:len"})
    with pytest.raises(TypeError, match=r"builtins:len, which wrong: belongs to, made 11, and no sink"):
        aj.plot("wrong:place")


def test_the_schemes_of_packages_are_among_those_that_are_known(packages: Path) -> None:
    install(packages, "tiny-sinks", {"tiny": "tiny_sink:Tiny"})
    with pytest.raises(ValueError, match=r"known are file, http, https, .*tensorboard, tiny, .*wandb, and"):
        aj.plot("nowhere:place")


# --- Chart Studio ---------------------------------------------------------------------------


class Studio:
    """A server that speaks the part of the REST API that a plot needs, and is as strict as the real one."""

    def __init__(self) -> None:
        self.grids: dict[str, dict[str, Any]] = {}
        self.plots: dict[str, dict[str, Any]] = {}
        self.trouble: list[Answer] = []

    def answer(self, request: Request) -> Answer:
        if request.headers.get("Authorization") != "Basic " + base64.b64encode(b"ann:key").decode():
            return Answer(401)
        if self.trouble:
            return self.trouble.pop()
        path, _, query = request.path.partition("?")
        _, version, kind, *fid = path.split("/")
        assert version == "v2"
        body = json.loads(request.body or b"null")
        if fid == ["lookup"]:
            return self._lookup(query.removeprefix("path="))
        status, made = getattr(self, f"_{request.method.lower()}_{kind}")(body, *fid)
        return Answer(status, {"Content-Type": "application/json"}, b"" if status == 204 else json.dumps(made).encode())

    def _lookup(self, name: str) -> Answer:
        found = [fid for fid, plot in self.plots.items() if plot["filename"] == name]
        return Answer(200, {}, json.dumps({"fid": found[0]}).encode()) if found else Answer(404)

    def _post_grids(self, body: Any) -> tuple[int, Any]:
        fid = f"ann:{len(self.grids) + len(self.plots) + 100}"
        columns = body["data"]["cols"]
        self.grids[fid] = {f"uid{column['order']}": column["data"] for column in columns.values()}
        made = [{"name": name, "uid": f"uid{column['order']}"} for name, column in columns.items()]
        return 201, {"file": {"fid": fid, "cols": made, "web_url": f"/~{fid}"}}

    def _post_plots(self, body: Any, fid: str | None = None) -> tuple[int, Any]:
        for trace in body["figure"]["data"]:
            if any(isinstance(value, list) or "bdata" in str(value) for value in trace.values()):
                return 400, {"errors": [{"message": "figures must not contain raw data"}]}
            for name in ("xsrc", "ysrc"):
                grid, _, uid = trace[name].rpartition(":")
                assert uid in self.grids[grid]
        fid = fid or f"ann:{len(self.plots) + 1}"
        self.plots[fid] = body
        return 201, {"file": {"fid": fid}}

    def _put_plots(self, body: Any, fid: str) -> tuple[int, Any]:
        return self._post_plots(body, fid)

    def _delete_grids(self, _: Any, fid: str) -> tuple[int, Any]:
        assert not any(fid + ":" in json.dumps(plot) for plot in self.plots.values()), "it is shown"
        del self.grids[fid]
        return 204, None

    def shown(self, name: str) -> list[list[float]]:
        """The heights of each trace of a plot."""
        (plot,) = [plot for plot in self.plots.values() if plot["filename"] == name]
        sources = [trace["ysrc"].rpartition(":") for trace in plot["figure"]["data"]]
        return [self.grids[grid][uid] for grid, _, uid in sources]


@pytest.fixture
def chart_studio(packages: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Studio, Server]]:
    """The example is installed, and its server runs."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    install(packages, project["name"], project["entry-points"]["asyncjobs.sinks"])
    monkeypatch.syspath_prepend(str(EXAMPLE))
    studio = Studio()
    with answering(studio.answer) as server:
        monkeypatch.setenv("PLOTLY_API_DOMAIN", server.address)
        monkeypatch.setenv("PLOTLY_USERNAME", "ann")
        monkeypatch.setenv("PLOTLY_API_KEY", "key")
        yield studio, server


def test_chart_studio_gets_a_grid_and_a_plot_that_shows_it(chart_studio: tuple[Studio, Server]) -> None:
    studio, server = chart_studio
    with aj.plot("chart-studio:loss") as plot:
        plot.log(1, train=3.0, val=4.0)
        assert plot.flush(PATIENCE)
        assert studio.shown("loss") == [[3.0], [4.0]]
        plot.log(2, train=1.0, val=2.0)
        assert plot.flush(PATIENCE)
        assert studio.shown("loss") == [[3.0, 1.0], [4.0, 2.0]]
    assert (len(studio.plots), len(studio.grids)) == (1, 1)
    assert {request.headers["Content-Type"] for request in server.requests} == {"application/json"}


def test_chart_studio_gets_drawn_figures_and_survives_trouble(chart_studio: tuple[Studio, Server]) -> None:
    studio, _ = chart_studio
    studio.trouble = [Answer(503)]
    with aj.plot("chart-studio:loss") as plot:
        plot.log(1, loss=3.0)
        plot.draw({"data": [{"x": [1, 2], "y": [5, 6]}]}, name="fit")
        assert plot.flush(PATIENCE)
        assert studio.shown("loss-fit") == [[5, 6]]
        assert plot.stats.retries == 1


def test_chart_studio_says_what_it_needs(chart_studio: tuple[Studio, Server], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PLOTLY_API_KEY")
    with pytest.raises(ValueError, match="chart-studio:loss needs PLOTLY_API_KEY in the environment"):
        aj.plot("chart-studio:loss")


STUBBORN = """
class Stubborn:
    def __init__(self, target):
        self.target = target
    def send(self, edition):
        pass
    def close(self):
        raise LookupError("stuck")
"""


def test_a_sink_that_cannot_be_closed_harms_no_other(
    packages: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    install(packages, "stubborn-sinks", {"stubborn": "stubborn_sink:Stubborn"})
    (packages / "stubborn_sink.py").write_text(STUBBORN)
    with aj.plot("stubborn:here", tmp_path / "loss.json", spool=tmp_path / "spool") as plot:
        plot.log(1, loss=1.0)
    assert plot.closed
    assert not (tmp_path / "spool").exists()
    (record,) = [record for record in caplog.records if "could not be closed" in record.message]
    assert record.message == "the sink of stubborn:here could not be closed in order"
