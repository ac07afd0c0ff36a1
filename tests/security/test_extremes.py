"""A few of the extreme files; `python -m tests.security.extremes` reads all of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.archive import open_archive
from pipeline.archive.jsonfile import read_json
from tests.security.extremes import FILES, judge


@pytest.mark.parametrize(
    "what",
    [
        "pickle: 2^60 leaves by a memo",
        "pickle: a list extended by itself",
        "zip: a million members",
        "safetensors: a shape of a million sides",
        "json: a million levels",
        "adapter: repeats of repeats",
    ],
)
def test_an_extreme_file_costs_no_more_than_is_stated(what: str) -> None:
    outcome, *_ = judge(FILES[what]())
    assert not outcome.startswith("WRONG"), outcome


def test_long_numbers_take_time_in_proportion_to_their_length(tmp_path: Path) -> None:
    """Sought in quadratic time, they took 26 s, in one call that no watchdog can stop."""
    path = tmp_path / "config.json"
    path.write_text('{"a": [' + ("9" * 999 + ",") * 30_000 + "0]}")
    assert len(read_json(path)["a"]) == 30_001


def test_an_index_that_names_tensors_without_end_is_one_problem(tmp_path: Path) -> None:
    named = {f"layers.{number}.w": "model-00001-of-00001.safetensors" for number in range(200_001)}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": named}))
    (problem,) = open_archive(tmp_path, "a").problems
    assert "200001 tensors" in str(problem)
