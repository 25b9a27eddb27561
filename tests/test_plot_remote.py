"""Plots in the file systems of fsspec."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import asyncjobs as aj

fsspec = pytest.importorskip("fsspec", reason="files elsewhere need fsspec")

PATIENCE = 30.0


@pytest.fixture(autouse=True)
def _home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def test_a_page_and_the_json_of_each_figure_are_put_into_a_file_system() -> None:
    with aj.plot("memory://runs/7/loss.html", "memory://runs/7/loss.json") as plot:
        plot.log(1, loss=1.0)
        plot.draw({"data": [{"y": [1, 3, 2]}]}, name="my fit")
        assert plot.flush(PATIENCE)
        assert [name.partition("://")[2] for name in plot.targets] == ["runs/7/loss.html", "runs/7/loss.json"]
    memory = fsspec.filesystem("memory")
    assert sorted(memory.ls("/runs/7", detail=False)) == [
        "/runs/7/loss-my fit.json",
        "/runs/7/loss.html",
        "/runs/7/loss.json",
    ]
    assert memory.cat_file("/runs/7/loss-my fit.json") == b'{"data": [{"y": [1, 3, 2]}]}'
    memory.rm("/runs", recursive=True)


def test_folders_are_made_where_there_are_any(tmp_path: Path) -> None:
    with aj.plot(f"local://{tmp_path}/a/b/loss.json") as plot:
        plot.log(1, loss=1.0)
        assert plot.flush(PATIENCE)
    assert (tmp_path / "a" / "b" / "loss.json").read_text().startswith('{"data":')


def test_a_file_system_that_cannot_be_reached_is_no_error_of_the_loop(capsys: pytest.CaptureFixture[str]) -> None:
    plot = aj.plot("ftp://ann:sesame@127.0.0.1:9/loss.json")  # the port that nobody serves
    plot.log(1, loss=1.0)
    assert not plot.close(1.0)
    said = capsys.readouterr().err
    assert "not complete at ftp://127.0.0.1:9/loss.json (ConnectionRefusedError" in said
    assert "sesame" not in said


@pytest.mark.parametrize(
    ("target", "kind", "said"),
    [
        ("memory://runs/loss.txt", ValueError, r"'runs/loss.txt' must end in one of .html, .json, .png.*not '.txt'"),
        (
            "nowhere://runs/loss.html",
            ValueError,
            r"nowhere://.*http, https, .*tensorboard.*s3://.*asyncjobs-runner\[remote\]",
        ),
        ("nowhere:runs", ValueError, r"no sink knows the scheme of 'nowhere:runs'"),
    ],
)
def test_a_bad_target_is_refused_at_once(target: str, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        aj.plot(target)


def test_a_missing_package_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "smbprotocol", None)
    monkeypatch.setitem(sys.modules, "smbclient", None)
    with pytest.raises(ModuleNotFoundError, match=r"smb://host/share/loss.html: fsspec says: .*smbprotocol"):
        aj.plot("smb://ann:sesame@host/share/loss.html")
