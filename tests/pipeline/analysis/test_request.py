"""Sizes, config files and options: wrong words fail before any work."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from analyzers.errors import ParameterError
from flows.cli.options import parse_size, request_of
from pipeline.analysis.request import AnalysisRequest, read_config


@pytest.mark.parametrize(
    ("text", "count"),
    [("4096", 4096), ("2GB", 2 * 10**9), ("500 MB", 5 * 10**8), ("1.5GiB", 3 * 2**29), ("1kb", 1000), ("0", 0)],
)
def test_sizes_are_decimal_unless_they_say_i(text: str, count: int) -> None:
    assert parse_size(text) == count


@pytest.mark.parametrize("text", ["", "many", "2 XB", "-1GB", "nan", "inf", "GB"])
def test_what_is_no_size_is_quoted(text: str) -> None:
    with pytest.raises(ParameterError, match="2GB"):
        parse_size(text)


def test_yaml_and_json_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("weight_spectra:\n  k: 5\n")
    (tmp_path / "a.json").write_text('{"weight_spectra": {"k": 5}}')
    assert read_config(tmp_path / "a.yaml") == read_config(tmp_path / "a.json") == {"weight_spectra": {"k": 5}}


@pytest.mark.parametrize("text", ["[1, 2]", "weight_spectra: 5", "a: [", "\x00"])
def test_a_config_of_another_form_names_the_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ParameterError, match=r"c\.yaml"):
        read_config(path)


def test_a_missing_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="No such file"):
        read_config(tmp_path / "none.yaml")


def test_options_survive_the_trip_through_a_deployment(tmp_path: Path) -> None:
    options = AnalysisRequest.of(
        runs=tmp_path, out=tmp_path / "o", base=["a*=b"], steps="last", cache_bytes=10**9, workers=2
    )
    assert AnalysisRequest(**options.model_dump(mode="json")) == options


def test_paths_mean_the_same_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    options = AnalysisRequest.of(runs=Path("runs"), out=Path("out"))
    assert options.runs == str(tmp_path / "runs")
    assert options.store_path == tmp_path / "out" / "store.zarr"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"analyzers": "weight_spectre"}, "weight_spectra"),
        ({"steps": "often"}, "--steps"),
        ({"workers": 0}, "--workers 0"),
        ({"device": "gpu"}, "--device 'gpu'.*cuda"),
        ({"settings": ["weight_spectra"]}, "ANALYZER.KEY=VALUE"),
        ({"settings": ["weight_spectre.k=1"]}, "weight_spectra"),
        ({"cache_bytes": "much"}, "not a size"),
    ],
)
def test_a_wrong_word_fails_and_shows_the_right_one(tmp_path: Path, words: dict, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        request_of({"runs": tmp_path, "out": tmp_path, "settings": None, **words})


def test_an_unknown_option_in_a_deployment_fails() -> None:
    with pytest.raises(ValidationError, match="extra"):
        AnalysisRequest(runs="r", out="o", colour="red")  # type: ignore[call-arg]  # the point of the test


def test_a_bare_name_that_is_no_folder_stays_a_name_of_the_catalog(tmp_path: Path) -> None:
    assert AnalysisRequest(runs="demo-that-is-no-folder", out="o").runs == "demo-that-is-no-folder"
    assert AnalysisRequest(runs=str(tmp_path / "none"), out="o").runs == str(tmp_path / "none")


def test_paths_lose_their_dots_but_not_the_links_that_these_lead_past(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "far" / "runs").mkdir(parents=True)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "link").symlink_to(tmp_path / "far" / "runs")
    monkeypatch.chdir(tmp_path / "here")
    options = AnalysisRequest(runs="link", out="../o", store="link/../S.zarr", metrics=("../log.csv", "seed*=./b.csv"))
    assert options.runs == str(tmp_path / "here" / "link")
    assert options.out == str(tmp_path / "o")
    assert options.store == str(tmp_path / "far" / "S.zarr")
    assert options.metrics == (str(tmp_path / "log.csv"), f"seed*={tmp_path / 'here' / 'b.csv'}")
