"""Points in the runs of MLflow, Weights & Biases and Trackio, as their own files have them.

The trackers live in programs of their own: what they start in a process stays there until its end.
"""

from __future__ import annotations

import json
import os
import sqlite3
import struct
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from plots import wait_until
from programs import Program, launching

import asyncjobs as aj
from asyncjobs.plotting.sinks import mlflow as our_mlflow
from asyncjobs.plotting.sinks.runs import parsed, spelled
from asyncjobs.plotting.spool import home

pytestmark = pytest.mark.timeout(300)  # to import MLflow takes seconds, and one test starts several programs

PATIENCE = 100.0
COUNT = 1200
"""Rows: more than a tracker is given at a time."""
TRACKERS = ("mlflow", "trackio", "wandb")

needs_mlflow = pytest.mark.skipif(
    find_spec("mlflow") is None or find_spec("sqlalchemy") is None, reason="mlflow and sqlalchemy are not installed"
)
needs_trackio = pytest.mark.skipif(find_spec("trackio") is None, reason="trackio is not installed")
needs_wandb = pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is not installed")

Launch = Callable[[str], Program]
Points = dict[str, list[tuple[float, float]]]
"""Step and value of each point of each curve, in the order in which they came."""

PREAMBLE = "import os, time\nimport asyncjobs as aj\n"

EVERYTHING = f"""
for step in range({COUNT}):
    plot.log(step, loss=step / 4.0, rate=0.5)
    if step == 700:
        assert plot.flush(100)
plot.log(float("nan"), loss=0.0)
plot.log(7, **{{"other %": 1.0}})
plot.log({COUNT}, loss=-1.0)
assert plot.close(100)
assert not os.path.exists(os.environ["XDG_STATE_HOME"] + "/asyncjobs/plots") or not os.listdir(
    os.environ["XDG_STATE_HOME"] + "/asyncjobs/plots")
"""

KILLED = """
plot = aj.plot(TARGET, every=60)
for step in range(10):
    plot.log(step, loss=step / 4.0)
assert plot.flush(100)
for step in range(10, 20):
    plot.log(step, loss=step / 4.0)
print("ready", flush=True)
time.sleep(100)
"""


@pytest.fixture
def launch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Launch]:
    """Starts programs in a folder of their own, in which everything is kept."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///runs.db")
    monkeypatch.setenv("TRACKIO_DIR", "trackio")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for name in ("RANK", "MLFLOW_RUN_ID", "TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    with launching(tmp_path, PREAMBLE) as start:
        yield start


def end(program: Program, code: int = 0) -> str:
    """What it has printed, once it is over."""
    assert program.ends(PATIENCE) == code, program.output
    return program.output


def resume_all(**environment: str) -> tuple[int, str]:
    """Exit code and output of ``asyncjobs plot resume`` in another folder, as a person would type it."""
    package = str(Path(aj.__file__).parent.parent)
    command = [sys.executable, "-m", "asyncjobs", "plot", "resume", str(home())]
    elsewhere = Path("elsewhere").absolute()
    elsewhere.mkdir(exist_ok=True)
    done = subprocess.run(
        command,
        cwd=elsewhere,
        env={**os.environ, "PYTHONPATH": package, "COLUMNS": "500", **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


# --- MLflow ---------------------------------------------------------------------------------


def in_mlflow(database: Path) -> Points:
    """Every metric of its only run."""
    found: Points = defaultdict(list)
    with sqlite3.connect(database) as connection:
        rows = connection.execute("select key, step, value, run_uuid from metrics order by rowid").fetchall()
    connection.close()
    assert len({run for *_, run in rows}) == 1
    for key, step, value, _ in rows:
        found[key].append((step, value))
    return found


@needs_mlflow
@pytest.mark.slow
def test_mlflow_has_every_point_once(launch: Launch, tmp_path: Path) -> None:
    end(
        launch(f"""
        import mlflow
        with mlflow.start_run() as run:
            plot = aj.plot("mlflow:")
            assert repr(plot) == f"<Plot 'mlflow:{{run.info.run_id}}' to mlflow:{{run.info.run_id}}, open>", plot
            {indented(EVERYTHING, 12)}
        """)
    )
    assert in_mlflow(tmp_path / "runs.db") == {
        "loss": [(step, step / 4.0) for step in range(COUNT)] + [(COUNT, -1.0)],
        "rate": [(step, 0.5) for step in range(COUNT)],
        "other _": [(7, 1.0)],
    }


@needs_mlflow
@pytest.mark.slow
def test_a_killed_programs_rest_goes_to_its_mlflow_run_and_nothing_twice(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_LOGGING", "true")  # what it has taken by then would be lost
    monkeypatch.setenv("MLFLOW_ASYNC_LOGGING_BUFFERING_SECONDS", "30")
    program = launch(f"""
        import mlflow
        mlflow.start_run()
        TARGET = "mlflow:"
        {indented(KILLED, 8)}
    """)
    program.read_until("ready", PATIENCE)
    program.process.kill()
    program.ends(PATIENCE)
    assert in_mlflow(tmp_path / "runs.db") == {"loss": [(step, step / 4.0) for step in range(10)]}
    # The database is named by where it was then.
    assert resume_all(MLFLOW_TRACKING_URI="")[0] == 0
    assert in_mlflow(tmp_path / "runs.db") == {"loss": [(step, step / 4.0) for step in range(20)]}
    assert not any(home().glob("*"))


@needs_mlflow
@pytest.mark.slow
def test_several_plots_go_to_one_mlflow_run_that_is_named(launch: Launch, tmp_path: Path) -> None:
    end(
        launch("""
        import mlflow
        run = mlflow.MlflowClient().create_run("0").info.run_id
        with aj.plot(f"mlflow:{run}") as one, aj.plot(f"mlflow:{run}") as other:
            assert one.targets == other.targets
            for step in range(10):
                one.log(step, one=step)
                other.log(step, other=-step)
        try:
            aj.plot("mlflow:nobody")
        except ValueError as error:
            assert "'mlflow:nobody': " in str(error) and "not found" in str(error), error
        else:
            raise AssertionError("the run is not there")
        """)
    )
    assert in_mlflow(tmp_path / "runs.db") == {
        "one": [(step, step) for step in range(10)],
        "other": [(step, -step) for step in range(10)],
    }


@pytest.mark.parametrize(
    ("uri", "kept"),
    [
        ("sqlite:///runs.db", "sqlite:///HERE/runs.db"),
        ("sqlite:////data/runs.db", "sqlite:////data/runs.db"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        ("mlruns", "file://HERE/mlruns"),
        ("https://me:secret@host:5000/mlflow", "https://host:5000/mlflow"),
        ("postgresql://me:secret@host/mlflow", "postgresql://host/mlflow"),
        ("databricks://profile", "databricks://profile"),
    ],
)
def test_no_password_of_a_tracking_server_is_kept(
    uri: str, kept: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert our_mlflow._kept(uri) == kept.replace("HERE", str(tmp_path))


@pytest.mark.parametrize(
    ("name", "key"),
    [("loss", "loss"), ("train/loss", "train/loss"), ("a//../b", "a/b"), ("Größe [%]", "Größe ___"), (".", "_")],
)
def test_a_name_is_made_one_that_mlflow_takes(name: str, key: str) -> None:
    assert our_mlflow._key(name) == key


# --- Weights & Biases -----------------------------------------------------------------------


def in_wandb(folder: Path) -> Points:
    """The history of the only offline run there."""
    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    found: Points = defaultdict(list)
    numbers = []
    for data in records(file.read_bytes()):
        record = Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") != "history":
            continue
        row = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
        numbers.append(row["_step"])
        for name in row.keys() - {"_step", "_runtime", "_timestamp", "plot/step"}:
            found[name].append((row["plot/step"], row[name]))
    assert numbers == list(range(len(numbers)))
    return found


def records(data: bytes) -> Iterator[bytes]:
    """Those of a LevelDB log: blocks of 32 KiB, in them pieces with checksum, length and kind before each."""
    place, record = 7, b""
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        place += 7 + length
        if place > len(data):
            return
        record += data[place - length : place]
        if kind in (1, 4):  # whole, or the last piece
            yield record
            record = b""


@needs_wandb
@pytest.mark.slow
def test_wandb_has_every_point_once(launch: Launch, tmp_path: Path) -> None:
    end(
        launch(f"""
        import wandb
        with wandb.init(project="curves") as run:
            plot = aj.plot("wandb:")
            assert repr(plot) == f"<Plot 'wandb:curves/{{run.id}}' to wandb:curves/{{run.id}}, open>", plot
            {indented(EVERYTHING, 12)}
        """)
    )
    assert in_wandb(tmp_path) == {
        "loss": [(step, step / 4.0) for step in range(COUNT)] + [(COUNT, -1.0)],
        "rate": [(step, 0.5) for step in range(COUNT)],
        "other %": [(7, 1.0)],
    }


@needs_wandb
@pytest.mark.slow
def test_several_plots_and_the_program_itself_share_a_wandb_run(launch: Launch, tmp_path: Path) -> None:
    end(
        launch("""
        import wandb
        with wandb.init(project="curves") as run:
            with aj.plot(f"wandb:{run.id}") as one, aj.plot("wandb:") as other:
                for step in range(20):
                    one.log(step, one=step)
                    other.log(step / 2, other=-step)
                    run.log({"own": step, "plot/step": step})
        """)
    )
    assert in_wandb(tmp_path) == {
        "one": [(step, step) for step in range(20)],
        "other": [(step / 2, -step) for step in range(20)],
        "own": [(step, step) for step in range(20)],
    }


@needs_wandb
@pytest.mark.slow
def test_what_wandb_had_not_is_kept_until_a_program_goes_on_with_the_run(launch: Launch, tmp_path: Path) -> None:
    program = launch(f"""
        import wandb
        # wandb itself holds back for so many seconds what it was given, and loses it with the program.
        wandb.init(project="curves", id="seventh", settings=wandb.Settings(x_transaction_log_flush_interval=0.1))
        TARGET = "wandb:"
        {indented(KILLED, 8)}
    """)
    program.read_until("ready", PATIENCE)
    wait_until(lambda: len(in_wandb(tmp_path)["loss"]) == 10, "wandb writes its file", PATIENCE)
    program.process.kill()
    program.ends(PATIENCE)
    code, output = resume_all()
    assert code == 1
    (folder,) = tmp_path.glob("wandb/offline-run-*")
    assert "the run of wandb:curves/seventh is not active in this program" in output
    assert f"it was offline: what it has is in {folder}" in output
    assert "wandb.init(project='curves', id='seventh', resume='allow')" in output
    end(
        launch("""
        import wandb
        from asyncjobs.plotting.resume import resume
        from asyncjobs.plotting.spool import home
        with wandb.init(project="curves", id="seventh", dir="again"):
            print([outcome.error for outcome in resume(home())])
        """)
    )
    assert in_wandb(tmp_path) == {"loss": [(step, step / 4.0) for step in range(10)]}
    assert in_wandb(tmp_path / "again") == {"loss": [(step, step / 4.0) for step in range(10, 20)]}
    assert not any(home().glob("*"))


# --- Trackio --------------------------------------------------------------------------------


def in_trackio(folder: Path) -> Points:
    """Every metric of the only run in its only project."""
    (database,) = folder.glob("*.db")
    found: Points = defaultdict(list)
    with sqlite3.connect(database) as connection:
        rows = connection.execute("select run_id, step, metrics from metrics order by id").fetchall()
    connection.close()
    assert len({run for run, *_ in rows}) == 1
    for _, step, metrics in rows:
        for name, value in json.loads(metrics).items():
            found[name].append((step, value))
    return found


@needs_trackio
@pytest.mark.slow
def test_trackio_has_every_point_once(launch: Launch, tmp_path: Path) -> None:
    end(
        launch(f"""
        import trackio
        run = trackio.init("my curves", name="a/b", auto_log_cpu=False, config={{"width": 3}})
        plot = aj.plot("trackio:")
        assert plot.stats.missing == ()
        plot.log(0, time=3.0)
        {indented(EVERYTHING, 8)}
        trackio.finish()
        """)
    )
    assert in_trackio(tmp_path / "trackio") == {
        "loss": [(step, step / 4.0) for step in range(COUNT)] + [(COUNT, -1.0)],
        "rate": [(step, 0.5) for step in range(COUNT)],
        "other %": [(7, 1.0)],
        "__time": [(0, 3.0)],
    }
    (database,) = (tmp_path / "trackio").glob("*.db")
    with sqlite3.connect(database) as connection:
        ((name, config),) = connection.execute("select run_name, config from configs").fetchall()
    connection.close()
    assert name == "a/b"
    assert json.loads(config)["width"] == 3


@needs_trackio
@pytest.mark.slow
def test_a_killed_programs_rest_goes_to_its_trackio_run_and_nothing_twice(launch: Launch, tmp_path: Path) -> None:
    program = launch(f"""
        import trackio
        trackio.init("curves", auto_log_cpu=False)
        TARGET = "trackio:"
        {indented(KILLED, 8)}
    """)
    program.read_until("ready", PATIENCE)
    program.process.kill()
    program.ends(PATIENCE)
    assert in_trackio(tmp_path / "trackio") == {"loss": [(step, step / 4.0) for step in range(10)]}
    code, output = resume_all()
    assert code == 1
    assert f"is in {tmp_path}/trackio, and this program's trackio works in {tmp_path}/elsewhere/trackio" in output
    assert resume_all(TRACKIO_DIR=str(tmp_path / "trackio"))[0] == 0
    assert in_trackio(tmp_path / "trackio") == {"loss": [(step, step / 4.0) for step in range(20)]}
    assert not any(home().glob("*"))


@needs_trackio
@pytest.mark.slow
def test_trackio_takes_no_run_that_is_not_in_a_database_here(launch: Launch) -> None:
    output = end(
        launch("""
        import trackio
        trackio.init("curves", auto_log_cpu=False)
        os.environ["TRACKIO_STORAGE_MODE"] = "jsonl"
        for target in "trackio:", "trackio:curves/other":
            try:
                aj.plot(target)
            except ValueError as error:
                print(error)
        trackio.finish()
        """)
    )
    assert "'trackio:' goes to a run in a database on this machine, which " in output
    assert "'trackio:curves/other' is not allowed; allowed: 'trackio:'" in output


# --- how programs end -----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("start", "target", "found"),
    [
        pytest.param(
            "import mlflow; mlflow.start_run()", "mlflow:", lambda: in_mlflow(Path("runs.db")), marks=needs_mlflow
        ),
        pytest.param(
            "import trackio; trackio.init('c')", "trackio:", lambda: in_trackio(Path("trackio")), marks=needs_trackio
        ),
        pytest.param("import wandb; wandb.init(project='c')", "wandb:", lambda: in_wandb(Path()), marks=needs_wandb),
    ],
)
def test_a_program_that_fails_and_closes_nothing_has_sent_everything(
    start: str, target: str, found: Callable[[], Points], launch: Launch
) -> None:
    program = launch(f"""
        {start}
        plot = aj.plot("{target}", linger=60)
        for step in range(20):
            plot.log(step, loss=step / 4.0)
        raise SystemError("the training fails")
        """)
    assert "the training fails" in end(program, 1)
    assert found() == {"loss": [(step, step / 4.0) for step in range(20)]}
    assert not any(home().glob("*"))


@needs_wandb
@pytest.mark.slow
def test_a_run_that_ends_before_its_plot_leaves_the_rest_in_the_spool(launch: Launch, tmp_path: Path) -> None:
    output = end(
        launch("""
        import wandb
        run = wandb.init(project="curves")
        plot = aj.plot("wandb:", every=60)
        plot.log(0, loss=0.0)
        assert plot.flush(100)
        run.finish()
        plot.log(1, loss=1.0)
        assert not plot.close(1)
        """)
    )
    assert "is finished" in output
    assert "the rest is in" in output
    assert in_wandb(tmp_path) == {"loss": [(0, 0.0)]}
    assert len(list(home().glob("*/*.points"))) == 1


# --- all of them ----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scheme", "start"),
    [
        pytest.param("mlflow", "mlflow.start_run()", marks=needs_mlflow),
        pytest.param("trackio", "trackio.init()", marks=needs_trackio),
        pytest.param("wandb", "wandb.init()", marks=needs_wandb),
    ],
)
def test_without_an_active_run_plot_says_what_to_do(scheme: str, start: str, launch: Launch) -> None:
    output = end(
        launch(f"""
        try:
            aj.plot("loss.html", "{scheme}:")
        except ValueError as error:
            print(error)
        os.environ["RANK"] = "1"
        print(aj.plot("{scheme}:").targets)
        """)
    )
    assert f"'{scheme}:' needs a" in output
    assert f"call {start} before" in output
    assert f"('{scheme}:',)" in output  # another rank plots nothing, and has no run either


@pytest.mark.parametrize("scheme", TRACKERS)
def test_without_the_tracker_plot_says_what_to_install(
    scheme: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "path", [path for path in sys.path if "site-packages" not in path])
    for name in [name for name in sys.modules if name.partition(".")[0] == scheme]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(
        ModuleNotFoundError, match=rf"{scheme}: needs {scheme}: pip install 'asyncjobs-runner\[{scheme}"
    ):
        aj.plot(tmp_path / "loss.html", f"{scheme}:")


def test_a_run_is_spelled_in_a_target_and_read_back() -> None:
    target = spelled("trackio", "my curves", "a/b?c", folder="/tmp/a&b", run="")
    assert target.startswith("trackio:my%20curves/a%2Fb%3Fc?")
    assert parsed(target) == (["my curves", "a/b?c"], {"folder": "/tmp/a&b", "run": ""})
    assert parsed("mlflow:") == ([], {})


def indented(text: str, by: int) -> str:
    """For a block within a script that is so far to the right."""
    return text.strip().replace("\n", "\n" + " " * by)
