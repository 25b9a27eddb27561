"""What the service's commands make of words: hostile text, options, tables, exit codes. Needs no service."""

from __future__ import annotations

import io
import json
import shlex
import time

import msgspec
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from asyncjobs.cli import exits, options, plain, showing, tables
from asyncjobs.service import errors
from asyncjobs.service.ids import new_id
from asyncjobs.service.protocol import JobView, ProgressView, ScheduleView, StatsView
from asyncjobs.state import FINAL, JobState

NOW = 1_700_000_000.0


def view(**facts: object) -> JobView:
    """A job of which only `facts` are of interest."""
    plainly: dict[str, object] = {
        "id": new_id(), "seq": 1, "name": "fit", "function": "study:fit", "lane": "process", "state": "QUEUED",
        "priority": 0, "attempt": 0, "failures": 0, "crashes": 0, "submitted_at": NOW - 60,
    }  # fmt: skip
    return msgspec.convert(plainly | facts, JobView)


def drawn(what: object, width: int = 200) -> str:
    """As it would stand on a terminal without colours."""
    out = io.StringIO()
    Console(file=out, width=width, color_system=None, highlight=False).print(what)
    return out.getvalue()


# --- hostile text -----------------------------------------------------------------------

HOSTILE = {
    "clear the screen": "\x1b[2J\x1b[H",
    "set the window's title": "\x1b]0;gotcha\x07",
    "one-byte CSI": "\x9b31m",
    "go back and overwrite": "fine\rGONE",
    "backspace": "safe\b\b\b\bevil",
    "turn the reading direction": "\u202egnp.exe",
    "isolate": "\u2066x\u2069",
    "zero width": "a\u200bb\u200d\ufeff",
    "line separator": "one\u2028two",
    "null": "a\0b",
    "half of a surrogate": "\ud800",
    "tag characters": "\U000e0041",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_F100_a_terminal_obeys_nothing_in_a_line(text: str) -> None:
    shown = plain.line(text)
    assert all(character.isprintable() for character in shown)
    assert shown != text


def test_F100_what_is_written_out_can_be_read() -> None:
    assert plain.line("a\x1b[2Jb\n\u202e\U000e0041") == "a\\x1b[2Jb\\n\\u202e\\U000e0041"


@pytest.mark.parametrize("text", ["naïve café", "日本語", "Größe → ∞", "e\u0301", "😀", "━━ 35 %", "“quoted”…"])
def test_text_of_people_stays_as_it_is(text: str) -> None:
    assert plain.line(text) == plain.lines(text) == text


def test_F100_a_megabyte_becomes_a_line() -> None:
    assert plain.line("x" * 10**6, 100) == "x" * 99 + "…"


def test_a_log_keeps_its_lines_and_tabs_and_a_bare_return_begins_a_line() -> None:
    assert plain.lines("a\tb\r\nc\rd\n") == "a\tb\nc\nd\n"


def test_a_log_in_pieces_is_the_log() -> None:
    log = "é\r\nx\ry\x1b[31m €\n".encode()
    for size in range(1, len(log)):
        pieces = [log[start : start + size] for start in range(0, len(log), size)]
        assert "".join(plain.stream(pieces)) == "é\nx\ny\\x1b[31m €\n"


def test_bytes_that_are_no_text_are_written_out() -> None:
    assert "".join(plain.stream([b"a\xff\xc3"])) == "a\\xff\\xc3"


@pytest.mark.slow
@given(st.lists(st.binary(max_size=8), max_size=8))
def test_F100_nothing_of_any_bytes_moves_the_cursor(pieces: list[bytes]) -> None:
    shown = "".join(plain.stream(pieces))
    assert all(character.isprintable() or character in "\n\t" for character in shown)


@pytest.mark.parametrize("field", ["name", "function", "note", "stop", "key", "schedule", "limit", "state"])
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_F101_no_field_of_a_job_reaches_the_terminal_unescaped(field: str, text: str) -> None:
    job = view(**{"state": "STOPPING", "tags": (text,), "after": (text,), field: text})
    shown = drawn(tables.jobs_table([job], NOW, 200)) + drawn(tables.job_grid(job, NOW))
    assert all(character.isprintable() or character == "\n" for character in shown)


def test_F101_progress_schedules_and_statistics_are_escaped() -> None:
    bad = "\x1b[2J[bold]x[/bold]"
    shown = drawn(tables.job_grid(view(progress=ProgressView(1, 2, bad)), NOW))
    shown += drawn(tables.schedules_table([ScheduleView(bad, bad, bad, bad, NOW, False)], NOW))
    stats = StatsView(
        version=bad, pid=1, started_at=NOW, epoch=1, states={bad: 1}, paused=(bad,), processes=1, busy=0, db_bytes=1,
        disk_free=1, rss=1,
    )  # fmt: skip
    shown += drawn(tables.stats_grid(stats, bad, NOW))
    assert "\x1b" not in shown
    assert "[bold]" in shown  # markup of rich is text, too


def test_json_is_harmless_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    showing.show_json({"note": "\x1b[2J\u202e\x9b"})
    assert capsys.readouterr().out.isascii()


# --- tables -----------------------------------------------------------------------------


@pytest.mark.parametrize("width", [80, 109, 110, 200])
def test_a_table_of_jobs_fits_and_gives_ids_and_states_whole(width: int) -> None:
    job = view(state="TIMED_OUT", name="n" * 60, note="word " * 40, started_at=NOW - 5000, ended_at=NOW)
    lines = drawn(tables.jobs_table([job], NOW, width), width).splitlines()
    assert len(lines) == 2
    assert all(len(line) <= width for line in lines)
    assert job.id in lines[1]
    assert "TIMED_OUT" in lines[1]


def test_a_line_says_what_matters_of_a_job() -> None:
    shown = {
        "running": view(state="RUNNING", attempt=2, started_at=NOW - 75, progress=ProgressView(7, 20, "epoch 7")),
        "delayed": view(due=NOW + 3600.0),
        "after": view(after=("a", "b")),
        "failed": view(state="FAILED", note="ValueError: no", attempt=1),
        "unknown whole": view(state="RUNNING", progress=ProgressView(7, None, "")),
    }
    said = {name: tables.remark(job, NOW).plain for name, job in shown.items()}
    assert said == {
        "running": " 35% ━━━━━━━━━━━━ epoch 7  attempt 2",
        "delayed": "in 1 h 0 m",
        "after": "after 2 others",
        "failed": "ValueError: no",
        "unknown whole": "7",
    }


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.6, "1 m 0 s"), (200, "3 m 20 s"), (7500, "2 h 5 m"),
     (273_600, "3 d 4 h"), (-1, "0.0 s")],
)  # fmt: skip
def test_spans_for_people(seconds: float, text: str) -> None:
    assert tables.span(seconds) == text


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (123_456, "123 kB"), (3_100_000, "3.1 MB"),
     (4 * 10**12, "4,000 GB")],
)  # fmt: skip
def test_sizes_for_people(nbytes: int, text: str) -> None:
    assert tables.size(nbytes) == text


def test_all_states_have_a_place_in_the_tables() -> None:
    assert tuple(state.name for state in JobState) == tables.STATES
    assert {state.name for state in FINAL} == tables.FINAL


# --- options ----------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("1.5m", 90), ("2h", 7200), ("1d", 86400), (" 0.5s ", 0.5)])
def test_spans_of_time_have_units(text: str, seconds: float) -> None:
    assert options.seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "-1", "1w", "1 h", "nan", "inf", "1e3", "\u0661"])
def test_what_is_no_span_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        options.seconds(text)


@pytest.mark.parametrize(
    ("note", "shown"),
    [
        ("asyncjobs.errors.JobTimeout: job 'fit' ran longer", "JobTimeout: job 'fit' ran longer"),
        ("KeyError: 'a.b: c'", "KeyError: 'a.b: c'"),
        ("see docs.example.org for more", "see docs.example.org for more"),
    ],
)
def test_a_list_shows_the_error_and_not_its_module(note: str, shown: str) -> None:
    assert tables.remark(view(state="FAILED", note=note), NOW).plain == shown


def test_an_instant_is_local_time_unless_it_says_otherwise() -> None:
    local = time.mktime((2026, 11, 23, 2, 0, 0, 0, 0, -1))
    assert options.instant("2026-11-23T02:00") == local
    assert options.instant("2026-11-23T02:00:00+00:00") == 1_795_399_200
    with pytest.raises(typer.BadParameter):
        options.instant("tomorrow")


@pytest.mark.parametrize("text", ["hello", "NaN", "{'a': 1}", "[1,", "", "[" * 100_000])
def test_an_argument_that_is_not_json_is_refused_and_told_how(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is not JSON") as refused:
        options.json_value(text)
    word = shlex.split(refused.value.message.partition("of its own: ")[2])
    assert [json.loads(one) for one in word] == [text]  # what the shell would make of what it recommends


def test_json_arguments_keep_their_digits() -> None:
    assert options.json_value("1.0000000000000000001") == "1.0000000000000000001"
    assert options.json_pair('kind="ridge=1"') == ("kind", '"ridge=1"')


@pytest.mark.parametrize("text", ["kind", "=1", "a-b=1", "1a=1"])
def test_a_named_argument_needs_a_name(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        options.json_pair(text)


def test_limits_and_rates() -> None:
    assert options.running_limit("gpu=1") == ("gpu", 1)
    assert options.rate("api=10/1m") == ("api", 10, 60.0)
    for wrong in ("gpu", "=1", "gpu=x"):
        with pytest.raises(typer.BadParameter):
            options.running_limit(wrong)
        with pytest.raises(typer.BadParameter):
            options.rate(wrong)


# --- exit codes -------------------------------------------------------------------------


def test_every_error_of_the_service_has_an_exit_code() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.ServiceError)]
    codes = {kind.__name__: exits.code_of(kind("why")) for kind in kinds}
    assert {name for name, code in codes.items() if code == exits.BROKEN} == {"ServiceError"}
    wanted = {"NoSuchJob": 3, "ServiceNotRunning": 69, "ServiceFull": 75, "StorageFull": 75, "BadRequest": 2}
    assert codes | wanted == codes


@pytest.mark.parametrize(
    ("state", "code"), [("SUCCEEDED", 0), ("FAILED", 1), ("TIMED_OUT", 1), ("LOST", 1), ("CANCELLED", 4)]
)
def test_a_final_state_has_an_exit_code(state: str, code: int) -> None:
    assert exits.code_for(state) == code
