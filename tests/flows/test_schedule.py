"""Cron expressions, time zones and names; the schedule itself is tested against a server (slow)."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from analyzers.errors import ParameterError
from flows import deployment, schedule
from flows.cli.app import run
from pipeline.analysis.request import AnalysisRequest
from pipeline.analysis.resolve import check_schedule
from tests.end_to_end.archives import write_run


def test_the_next_nights_are_told_in_the_zone() -> None:
    times = schedule.upcoming(schedule.checked("0 2 * * *", "Europe/Berlin"))
    assert len(times) == 3 and all(t.hour == 2 and t.minute == 0 for t in times)
    assert {str(t.tzinfo) for t in times} == {"Europe/Berlin"}


@pytest.mark.parametrize(
    ("start", "times"),
    [  # At 02:00 on 29 March 2026 clocks in Berlin go to 03:00; at 03:00 on 25 October they go back to 02:00.
        # 02:30 does not exist in the first night; the server then fires an hour early, and that is what is announced.
        (datetime(2026, 3, 28, 12, tzinfo=UTC), ["29 01:30 +0100", "30 02:30 +0200", "31 02:30 +0200"]),
        (datetime(2026, 10, 24, 12, tzinfo=UTC), ["25 02:30 +0200", "26 02:30 +0100", "27 02:30 +0100"]),
    ],
)
def test_times_are_right_on_the_days_when_clocks_change(start: datetime, times: list[str]) -> None:
    asked = schedule.checked("30 2 * * *", "Europe/Berlin")
    assert [t.strftime("%d %H:%M %z") for t in schedule.upcoming(asked, 3, start)] == times


@pytest.mark.parametrize("cron", ["", "nightly", "0 2 * *", "0 25 * * *", "61 * * * *", "0 2 * * * *"])
def test_what_is_no_cron_expression_is_quoted_with_an_example(cron: str) -> None:
    with pytest.raises(ParameterError, match=r'"0 2 \* \* \*"'):
        schedule.checked(cron, "UTC")


def test_an_unknown_zone_is_quoted() -> None:
    with pytest.raises(ParameterError, match="'Mars/Olympus' is not known"):
        schedule.checked("0 2 * * *", "Mars/Olympus")


@pytest.mark.parametrize(("variable", "zone"), [("Europe/Berlin", "Europe/Berlin"), (":UTC", "UTC")])
def test_the_machines_zone_is_the_default(monkeypatch: pytest.MonkeyPatch, variable: str, zone: str) -> None:
    monkeypatch.setenv("TZ", variable)
    assert schedule.local_timezone() == zone


def test_one_store_has_one_deployment_whatever_the_options(tmp_path: Path) -> None:
    def name(**more: str) -> str:
        return deployment.deployment_name(AnalysisRequest(runs=str(tmp_path / "runs"), **more))

    assert name(out=str(tmp_path / "o"), steps="last") == name(out=str(tmp_path / "o"))
    assert name(out=str(tmp_path / "o")) != name(out=str(tmp_path / "p"))
    assert name(out=str(tmp_path / "o")).startswith("runs-")


@pytest.mark.parametrize(
    "folder", [b"r\xe9sum\xff", b"a b'c\"d", b"a\nb", b"$HOME `id`", b"{{ prefect.blocks.x }}", b"<&>%", b"x" * 250]
)
def test_a_deployment_has_a_name_whatever_the_folder_and_the_store_are_called(tmp_path: Path, folder: bytes) -> None:
    place = str(tmp_path / os.fsdecode(folder))
    options = AnalysisRequest(runs=place, out=place)
    name = deployment.deployment_name(options)
    described = deployment.describe(options, schedule.checked("0 2 * * *", "UTC"))
    assert described.name == name and name.isascii() and len(f"varve-{name}.serving") < 255
    assert json.loads(described.model_dump_json())["parameters"]["options"]["runs"] == options.runs
    assert deployment.deployment_name(AnalysisRequest(runs=place, out=str(tmp_path))) != name


def test_a_missing_folder_or_a_wrong_cron_fails_before_any_server(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "ensure_server", lambda tell: pytest.fail("a server was started"))
    assert run(["schedule", str(tmp_path / "none"), "--cron", "0 2 * * *"]) == 2
    assert "none" in capsys.readouterr().err
    assert run(["schedule", str(tmp_path), "--cron", "often"]) == 2
    assert "'often'" in capsys.readouterr().err
    assert run(["schedule", str(tmp_path), "--cron", "0 2 * * *", "--set", "weight_spectre.k=1"]) == 2
    assert "weight_spectra" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--out", "x" * 300, "too long"),
        ("--out", "loop/out", "symbolic link leads to itself"),
        ("--out", "file/out", "a file, or a link"),
        ("--store", "x" * 300, "too long"),
        ("--task", "missing.yaml", "missing.yaml"),
        ("--metrics", "missing.csv", "missing.csv"),
        ("--metrics", "x" * 300, "too long"),
        ("--base", "other*=b", "no run matches"),
        ("--steps", "77", "77"),
    ],
)
def test_what_would_fail_every_night_fails_before_any_server(
    option: str,
    value: str,
    told: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(schedule, "ensure_server", lambda tell: pytest.fail("a server was started"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    write_run(tmp_path / "runs", 2)
    assert run(["schedule", "runs", "--cron", "0 2 * * *", option, value]) == 2
    printed = capsys.readouterr().err
    assert told in printed and "Traceback" not in printed and len(printed) < 800, printed


def test_an_empty_folder_can_be_scheduled(tmp_path: Path) -> None:
    request = AnalysisRequest(runs=str(tmp_path / "runs"), out=str(tmp_path / "out"))
    (tmp_path / "runs").mkdir()
    assert "no readable checkpoint" in str(check_schedule(request))
