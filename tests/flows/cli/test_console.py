"""What a user sees."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from flows.cli.words import console


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2e9, "2.0 GB"), (5e15, "5000.0 TB")]
)
def test_sizes(count: float, text: str) -> None:
    assert console.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.44, "0.4 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (3599, "59 min 59 s"), (7500, "2 h 05 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert console.duration(seconds) == text


def test_counts_have_commas_everywhere() -> None:
    assert console.plural(1071, "unit") == "1,071 units" and console.number(999) == "999"


def test_a_path_is_shown_without_detours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert console.place("out/report.html") == "out/report.html"
    assert console.place("../o/report.html") == str(tmp_path / "o" / "report.html")
    assert console.place("../here/./out") == "out"
    assert console.place(tmp_path / "here" / "out" / "report.html") == "out/report.html"
    assert console.place(tmp_path / "hereafter") == str(tmp_path / "hereafter")


def test_a_table_aligns_numbers_right_and_words_left() -> None:
    assert console.table(("run", "n"), [("a", 5), ("bcd", 10)], right=(1,)) == "run   n\n---  --\na     5\nbcd  10"


def test_a_log_gets_plain_lines_without_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    with console.progress("ingesting", 3) as advance:
        advance(1)
        advance(3)
    said = capsys.readouterr().out
    assert said.startswith("ingesting: 3 of 3 in ") and "\x1b" not in said and "\r" not in said


def test_a_long_work_speaks_now_and_then(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "LOG_EVERY_SECONDS", 0.0)
    with console.progress("computing", 4) as advance:
        advance(2, "layer 0")
    assert "computing: 2 of 4 (50 %)" in capsys.readouterr().out


def test_nothing_to_do_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with console.progress("computing", 0) as advance:
        advance(0)
    assert capsys.readouterr().out == ""


def test_a_total_that_was_estimated_is_corrected_and_never_overtaken(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "LOG_EVERY_SECONDS", 0.0)
    with console.progress("computing", 13) as advance:
        advance(10, total=40)
        advance(50)
        advance(50, total=60)
        advance(55, total=55)
    said = capsys.readouterr().out
    assert "10 of 40" in said and "50 of 60" in said and "of 13" not in said
    assert said.splitlines()[-1].startswith("computing: 55 of 55 in")


@pytest.mark.parametrize(
    ("bounds", "text"),
    [
        ((290, 300, 310), "about 5 min"),
        ((180, 300, 480), "3 to 8 min"),
        ((20, 60, 180), "20 s to 3 min"),
        ((3000, 3700, 9000), "50 min to 2.5 h"),
        ((1, 2, 3), "about 10 s"),
    ],
)
def test_an_estimate_shows_no_more_precision_than_it_has(bounds: tuple[float, float, float], text: str) -> None:
    assert console.rough_duration(*bounds) == text


def test_a_stated_time_to_go_replaces_the_one_by_pieces(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "LOG_EVERY_SECONDS", 0.0)
    with console.progress("computing", 4) as advance:
        advance(1, "first", to_go="")
        advance(2, "angles", to_go="3 to 8 min")
    first, second, _ = capsys.readouterr().out.splitlines()
    assert first == "computing: 1 of 4 (25 %): first"
    assert second == "computing: 2 of 4 (50 %), 3 to 8 min to go: angles"


def test_no_name_of_an_archive_steers_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    for tell in (console.say, console.complain):
        tell("run a\x1b[2J\x1b]0;title\x07\r\u202e\x9b31m is\n\tthere\n")
    printed = capsys.readouterr()
    expected = "run a\\x1b[2J\\x1b]0;title\\x07\\x0d\\u202e\\x9b31m is\n\tthere\n\n"
    assert printed.out == printed.err == expected


def test_a_bar_takes_names_as_they_are() -> None:
    code = (
        "import time; from flows.cli.words import console\n"
        "with console.progress('reading', 2) as advance: advance(2, 'a[/b]@1 [red]'); time.sleep(0.3)"
    )
    ours, theirs = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=theirs, stderr=subprocess.PIPE, env={**os.environ, "COLUMNS": "120"}
    )
    os.close(theirs)
    assert done.returncode == 0, done.stderr.decode()[-500:]
    assert b"a[/b]@1 [red]" in os.read(ours, 100_000)
    os.close(ours)
